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

// demoCmd shows the main job on one machine: a real node or a cluster of them, a small fleet that publishes over real MQTT
// with QoS 1, and a consumer group that reads the log over the Kafka protocol and prints live figures for each device.
type demoCmd struct {
	Nodes        int           `default:"1" help:"Nodes, 1 to 5 (default ${default}); from 2 on each is a process of its own, and together they are a cluster."`
	Devices      int           `default:"12" help:"Simulated devices, of four kinds in turn."`
	Every        time.Duration `default:"500ms" help:"Time between a device's readings."`
	Duration     time.Duration `help:"Stop after this long (default: at Ctrl-C)."`
	Data         string        `type:"path" placeholder:"DIR" help:"Keep the node's data here (default: a temporary directory, removed at the end)."`
	RestartAfter time.Duration `default:"15s" help:"With --nodes: start a node that is gone again after this long (default ${default}); 0 leaves it gone."`
}

// Help says what a cluster's demo is for.
func (demoCmd) Help() string {
	return `With --nodes N (2 to 5) the demo runs N processes of "weir serve" on loopback, profile "fast", and shows each with its pid, the partitions it leads, ` +
		`its replicas in sync and who is the controller. Kill one with "kill -9 PID": the board says that it is gone, others lead what it led within ` +
		`about 3 seconds, its devices come back at other nodes, and after --restart-after it is started again and catches up. ` +
		`Three nodes or more survive the death of any one; two only that of the one that is not the controller.` + "\n\n" +
		`At the end the figures say how many records were acknowledged and consumed, and how many of the acknowledged are missing; exit 1 if any is. ` +
		`Each node takes about 140 MB of disk; its log is nodeN.log beside its data, to be read with --data DIR.`
}

const demoGroup = "demo"

// Run starts the node, then the consumer group, then the fleet, and stops them in reverse.
func (d *demoCmd) Run(g *Globals) error {
	if d.Nodes < 1 || d.Nodes > demoMaxNodes || d.RestartAfter < 0 {
		return usagef("--nodes: want 1 to %d; --restart-after: want 0 or more", demoMaxNodes)
	}
	if d.Devices < 1 || d.Devices > 10_000 || d.Every < time.Millisecond {
		return usagef("--devices: want 1 to 10000; --every: want at least 1ms")
	}
	ctx, cancel := context.WithCancel(g.Ctx)
	defer cancel()
	if d.Duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, d.Duration)
		defer cancel()
	}
	if d.Nodes > 1 {
		return d.runCluster(ctx, g)
	}
	cfg := Defaults()
	cfg.MQTT.Listen, cfg.MQTT.WS = freeListen(cfg.MQTT.Listen), freeListen(cfg.MQTT.WS)
	cfg.Kafka.Listen, cfg.HTTP.Listen = freeListen(cfg.Kafka.Listen), freeListen(cfg.HTTP.Listen)
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", "" // nobody joins a demo
	dir, remove, err := d.dataDir()
	if err != nil {
		return err
	}
	defer remove()
	cfg.Node.Data = dir
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

// dataDir is --data, or a temporary directory that remove removes.
func (d *demoCmd) dataDir() (dir string, remove func(), err error) {
	if d.Data != "" {
		return d.Data, func() {}, nil
	}
	if dir, err = os.MkdirTemp("", "weir-demo-"); err != nil {
		return "", nil, fail("make a data directory", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// newDemoClient is the consumer group.
func newDemoClient(seeds []string, more ...kgo.Opt) (*kgo.Client, error) {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seeds...), kgo.ConsumerGroup(demoGroup), kgo.ConsumeTopics(defaultTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500 * time.Millisecond)}, more...)...)
	if err != nil {
		return nil, fail("start the consumer group", err)
	}
	return client, nil
}

// newFleets prepares the devices, of all profiles in turn.
func (d *demoCmd) newFleets(cfg firmwaresim.Config) (fleets []*firmwaresim.Fleet, err error) {
	profiles := firmwaresim.ProfileNames()
	for i, profile := range profiles {
		cfg.Devices, cfg.Profile, cfg.Seed, cfg.Every = (d.Devices+len(profiles)-1-i)/len(profiles), profile, 1, d.Every
		if cfg.Devices == 0 {
			continue
		}
		fleet, err := firmwaresim.New(cfg)
		if err != nil {
			return nil, fail("start the fleet", err)
		}
		fleets = append(fleets, fleet)
	}
	return fleets, nil
}

func fleetStats(fleets []*firmwaresim.Fleet) (sent, acked int64) {
	for _, f := range fleets {
		s := f.Stats()
		sent, acked = sent+s.Sent, acked+s.Acked
	}
	return sent, acked
}

// show runs the fleet and the group until ctx ends.
func (d *demoCmd) show(ctx context.Context, g *Globals, n *node) error {
	mqttAddr, kafkaAddr := n.addrOf("mqtt"), n.addrOf("kafka")
	client, err := newDemoClient([]string{kafkaAddr})
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()

	fleets, err := d.newFleets(firmwaresim.Config{Broker: "mqtt://" + mqttAddr, Drain: 2 * time.Second})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	for _, fleet := range fleets {
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
			sent, acked := fleetStats(fleets)
			var b strings.Builder
			if live {
				b.WriteString("\033[H\033[2J")
			}
			fmt.Fprintf(&b, "%d devices publish over MQTT at %s (QoS 1): %d sent, %d acknowledged, each synced to disk first.\n", d.Devices, mqttAddr, sent, acked)
			fmt.Fprintf(&b, "Consumer group %q reads them over the Kafka protocol at %s:\n\n", demoGroup, kafkaAddr)
			columns, _ := screenSize(g.Out)
			board.write(&b, now, columns, 0)
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
