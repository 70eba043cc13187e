// Command nats is a NATS server with JetStream on disk and its MQTT listener: a peer for `make bench-peers`.
// With --sync-always it syncs each message as our contract does; without, it syncs every two minutes (its default).
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:1885", "MQTT over TCP")
	data := flag.String("data", "", "directory of the JetStream store")
	always := flag.Bool("sync-always", false, "sync every message before it is acknowledged")
	flag.Parse()
	host, portText, err := net.SplitHostPort(*listen)
	if err != nil {
		fail(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		fail(err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "bench", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: *data, SyncAlways: *always,
		// 'a/#' takes two subscriptions, and all of a session together may have 65,535 unacked messages.
		MQTT: server.MQTTOpts{Host: host, Port: port, MaxAckPending: 30_000},
	})
	if err != nil {
		fail(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		fail(fmt.Errorf("not ready within 10 s"))
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	s.Shutdown()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "nats:", err)
	os.Exit(1)
}
