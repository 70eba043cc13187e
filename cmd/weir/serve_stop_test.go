//go:build unix

package main

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// countReads counts what is read of files whose path holds part, and calls then with the number before each.
func countReads(disk vfs.FS, part string, then func(n int64)) (*vfs.Fault, *atomic.Int64) {
	n := new(atomic.Int64)
	fault := vfs.NewFault(disk)
	fault.Inject(vfs.Rule{Ops: vfs.OpRead, Hook: func(_ vfs.Op, name string) {
		if !strings.Contains(name, part) {
			return
		}
		if at := n.Add(1); then != nil {
			then(at)
		}
	}})
	return fault, n
}

// serveUntil is `weir serve` that gets SIGTERM at a read of a file whose path holds part. It returns how many such reads
// there were in all, and what was printed.
func serveUntil(t *testing.T, cfg Config, disk vfs.FS, part string, stopAt int64) (reads int64, out string) {
	t.Helper()
	ctx, restore := signal.NotifyContext(t.Context(), syscall.SIGTERM) // as main does
	defer restore()
	fault, seen := countReads(disk, part, func(n int64) {
		if n != stopAt {
			return
		}
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-ctx.Done() // the read goes on once the signal has arrived
	})
	none := ""
	cmd := &serveCmd{Data: &cfg.Node.Data, MQTT: &cfg.MQTT.Listen, MQTTWS: &none, Kafka: &cfg.Kafka.Listen, HTTP: &none, Gossip: &none, Raft: &none, disk: fault}
	var stdout bytes.Buffer
	err := cmd.Run(&Globals{Ctx: ctx, Out: &stdout, Err: &stdout})
	if code := exitCode(err); code != exitDone {
		t.Errorf("stopped at read %d: exit code %d: %v", stopAt, code, err)
	}
	return seen.Load(), stdout.String()
}

// SIGTERM while a node reads its journal ends `weir serve` with exit code 0, without the rest being read first and without a
// ready line; the start after it finds everything that was acknowledged. // J5
func TestStopDuringRecovery(t *testing.T) {
	cfg := Defaults()
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", ""
	cfg.Node.Data = t.TempDir()
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "", "127.0.0.1:0", ""
	cfg.Log.JournalFile = 8 << 20 // holds all there is: no checkpoint shortens the recovery
	mem := diskWith(t, cfg.Node.Data)
	n, stop := startNodeOn(t, cfg, mem)
	l := &ackLedger{acked: map[string]bool{}, enough: make(chan struct{}, 1)}
	const count = 2000
	if err := l.publish(n.addrOf("mqtt"), "dev", 1, false, count, 1000); err != nil {
		t.Fatal(err)
	}
	killed := mem.CrashClone(1, nil)
	stop()

	raft := filepath.Join(cfg.Node.Data, "raft") // bbolt's file lies on the real disk
	saved := t.TempDir()
	if err := os.CopyFS(saved, os.DirFS(raft)); err != nil {
		t.Fatal(err)
	}
	// How much a start reads that is not stopped: of a copy, since it leaves little to recover.
	disk, all := countReads(killed.CrashClone(1, nil), ".wal", nil)
	_, stop = startNodeOn(t, cfg, disk)
	total := all.Load()
	stop()
	if err := errors.Join(os.RemoveAll(raft), os.CopyFS(raft, os.DirFS(saved))); err != nil {
		t.Fatal(err)
	}

	for _, at := range []int64{1, total / 4, total / 2, total * 3 / 4} {
		reads, out := serveUntil(t, cfg, killed, ".wal", at)
		if reads < at || reads > at+total/5 { // the headers of the journal files, or the piece in hand
			t.Errorf("stopped at read %d of %d: %d in all", at, total, reads)
		}
		if out != "" {
			t.Errorf("stopped at read %d of %d: %s", at, total, out)
		}
	}
	n, stop = startNodeOn(t, cfg, killed)
	defer stop()
	stored, err := readWithKafka(t, n.addrOf("kafka"), defaultTopic)
	if err != nil {
		t.Fatal(err)
	}
	for payload := range l.acked {
		if stored[payload] != 1 {
			t.Errorf("%.10s was acknowledged and is in the log %d times", payload, stored[payload])
		}
	}
	if len(l.acked) != count {
		t.Errorf("%d of %d messages were acknowledged", len(l.acked), count)
	}
}

// SIGTERM while a node loads what MQTT keeps in tables ends it likewise, without the rest being loaded first.
func TestStopWhileTablesAreLoaded(t *testing.T) {
	cfg := Defaults()
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", ""
	cfg.Node.Data = t.TempDir()
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "", "127.0.0.1:0", ""
	mem := diskWith(t, cfg.Node.Data)
	n, stop := startNodeOn(t, cfg, mem)
	l := &ackLedger{acked: map[string]bool{}, enough: make(chan struct{}, 1)}
	// Less than a segment, so that there is nothing to compact, which reads as well.
	if err := l.publish(n.addrOf("mqtt"), "dev", 1, true, 1800, 2000); err != nil {
		t.Fatal(err)
	}
	stop()
	const table = "__mqtt_retained"
	disk, all := countReads(mem, table, nil)
	_, stop = startNodeOn(t, cfg, disk)
	total := all.Load()
	stop()
	if total < 16 {
		t.Fatalf("the table is loaded in %d reads", total)
	}
	for _, at := range []int64{1, total / 4, total / 2, total * 3 / 4} {
		if reads, out := serveUntil(t, cfg, mem, table, at); reads > at+2 || out != "" {
			t.Errorf("stopped at read %d of %d: %d in all; %s", at, total, reads, out)
		}
	}
	if reads, out := serveUntil(t, cfg, mem, "__mqtt_sessions", 1); reads > 3 || out != "" {
		t.Errorf("stopped at the first read of the sessions: %d in all; %s", reads, out)
	}
	_, stop = startNodeOn(t, cfg, mem)
	stop()
}

// A centre may have no devices of its own, as a gateway may have no Kafka clients.
func TestNodeWithOneKindOfListener(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"kafka": func(c *Config) { c.MQTT.Listen, c.MQTT.WS, c.HTTP.Listen = "", "", "" },
		"mqtt":  func(c *Config) { c.Kafka.Listen, c.MQTT.WS, c.HTTP.Listen = "", "", "" },
	} {
		n := testNodeWith(t, change)
		if all := n.addrs(); len(all) != 1 || all[0].name != name {
			t.Errorf("%s: listens at %v", name, all)
		}
	}
}
