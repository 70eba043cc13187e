package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

// demoCmd shows the main job on one machine: a real node, a small fleet that publishes over real MQTT with QoS 1, and a
// consumer group that reads the log over the Kafka protocol and prints live figures for each device.
type demoCmd struct {
	Devices  int           `default:"12" help:"Simulated devices, of four kinds in turn."`
	Every    time.Duration `default:"500ms" help:"Time between a device's readings."`
	Duration time.Duration `help:"Stop after this long (default: at Ctrl-C)."`
	Data     string        `type:"path" placeholder:"DIR" help:"Keep the node's data here (default: a temporary directory, removed at the end)."`
}

const demoGroup = "demo"

// Run starts the node, then the consumer group, then the fleet, and stops them in reverse.
func (d *demoCmd) Run(g *Globals) error {
	if d.Devices < 1 || d.Devices > 10_000 || d.Every < time.Millisecond {
		return usagef("--devices: want 1 to 10000; --every: want at least 1ms")
	}
	ctx, cancel := context.WithCancel(g.Ctx)
	defer cancel()
	if d.Duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, d.Duration)
		defer cancel()
	}
	cfg := Defaults()
	cfg.MQTT.Listen, cfg.MQTT.WS = freeListen(cfg.MQTT.Listen), freeListen(cfg.MQTT.WS)
	cfg.Kafka.Listen, cfg.HTTP.Listen = freeListen(cfg.Kafka.Listen), freeListen(cfg.HTTP.Listen)
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", "" // nobody joins a demo
	cfg.Node.Data = d.Data
	if d.Data == "" {
		dir, err := os.MkdirTemp("", "weir-demo-")
		if err != nil {
			return fail("make a data directory", err)
		}
		defer os.RemoveAll(dir)
		cfg.Node.Data = dir
	}
	n, err := openNode(ctx, cfg, slog.New(slog.NewTextHandler(g.Err, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return fail("start the node", err)
	}
	nodeCtx, stopNode := context.WithCancel(context.WithoutCancel(ctx))
	nodeEnded := make(chan error, 1)
	go func() { nodeEnded <- n.run(nodeCtx) }()
	err = d.show(ctx, g, n)
	stopNode()
	return errors.Join(err, <-nodeEnded)
}

// show runs the fleet and the group until ctx ends.
func (d *demoCmd) show(ctx context.Context, g *Globals, n *node) error {
	mqttAddr, kafkaAddr := n.addrOf("mqtt"), n.addrOf("kafka")
	client, err := kgo.NewClient(kgo.SeedBrokers(kafkaAddr), kgo.ConsumerGroup(demoGroup), kgo.ConsumeTopics(defaultTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return fail("start the consumer group", err)
	}
	defer client.CloseAllowingRebalance()

	var fleets []*firmwaresim.Fleet
	var running sync.WaitGroup
	defer running.Wait()
	profiles := firmwaresim.ProfileNames()
	for i, profile := range profiles {
		devices := (d.Devices + len(profiles) - 1 - i) / len(profiles)
		if devices == 0 {
			continue
		}
		fleet, err := firmwaresim.New(firmwaresim.Config{
			Broker: "mqtt://" + mqttAddr, Devices: devices, Profile: profile, Seed: 1, Every: d.Every, Drain: 2 * time.Second,
		})
		if err != nil {
			return fail("start the fleet", err)
		}
		fleets = append(fleets, fleet)
		running.Go(func() { fleet.Run(ctx) })
	}

	board := &demoBoard{devices: map[string]*demoDevice{}}
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx)
			now := time.Now()
			fetches.EachRecord(func(r *kgo.Record) { board.add(now, r.Key, r.Value) })
		}
	}()
	defer func() { <-reader }()

	live, every := isTerminal(g.Out), 5*time.Second
	if live {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			var sent, acked int64
			for _, f := range fleets {
				s := f.Stats()
				sent, acked = sent+s.Sent, acked+s.Acked
			}
			var b strings.Builder
			if live {
				b.WriteString("\033[H\033[2J")
			}
			fmt.Fprintf(&b, "%d devices publish over MQTT at %s (QoS 1): %d sent, %d acknowledged, each synced to disk first.\n", d.Devices, mqttAddr, sent, acked)
			fmt.Fprintf(&b, "Consumer group %q reads them over the Kafka protocol at %s:\n\n", demoGroup, kafkaAddr)
			board.write(&b, now, screenWidth(g.Out))
			_, httpPort, _ := net.SplitHostPort(n.http.addr().String())
			_, mqttPort, _ := net.SplitHostPort(mqttAddr)
			fmt.Fprintf(&b, "\nLook for yourself, in another terminal:\n"+
				"  kcat -b %s -C -t %s -o -5 -f '%%k  %%s\\n'\n  mosquitto_sub -p %s -t 'devices/#' -v\n  http://127.0.0.1:%s/\nCtrl-C ends it.\n", kafkaAddr, defaultTopic, mqttPort, httpPort)
			if _, err := g.Out.Write([]byte(b.String())); err != nil {
				return err
			}
		}
	}
}

// freeListen keeps the usual address when it is free, else lets the system pick a port: a demo must not fail because a
// node runs already.
func freeListen(addr string) string {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return "127.0.0.1:0"
	}
	if err == nil {
		_ = l.Close()
	}
	return addr
}
