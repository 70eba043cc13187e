package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/log"
)

// group is a cluster of brokers in one process, over loopback.
type group struct {
	t       *testing.T
	cfgs    []Config
	brokers []*Broker
}

func loudly() *slog.Logger {
	if os.Getenv("WEIR_LOUD") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// openGroup starts n brokers that form one cluster.
func openGroup(t *testing.T, n int) *group {
	t.Helper()
	return openGroupIn(t, n, control.FastTiming)
}

// unhurried is for clusters in which nobody dies: on a machine that has no time for a broker for a second or two, it keeps what it leads.
func unhurried() control.Timing {
	t := control.FastTiming
	t.Renew, t.Stop, t.Fence, t.LagTime = 2*time.Second, 20*time.Second, 25*time.Second, 30*time.Second
	return t
}

func openGroupIn(t *testing.T, n int, timing control.Timing) *group {
	t.Helper()
	g := &group{t: t, cfgs: make([]Config, n), brokers: make([]*Broker, n)}
	first := freePort(t)
	for i := range n {
		cfg := testConfig(t.TempDir())
		cfg.NodeID, cfg.AdvertiseHost = fmt.Sprintf("node%d", i+1), "127.0.0.1"
		cfg.Logger = loudly().With("node", i+1)
		cfg.Peer = &PeerConfig{Listen: freePort(t), Gossip: freePort(t), Expect: n, Timing: timing, Pace: 2 * time.Second}
		if i == 0 {
			cfg.Peer.Gossip = first
		} else {
			cfg.Peer.Join = []string{first}
		}
		if n == 1 {
			cfg.Peer.Expect = 1
		}
		g.cfgs[i] = cfg
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { g.start(i) })
	}
	wg.Wait()
	t.Cleanup(g.close)
	if t.Failed() {
		t.FailNow()
	}
	for _, b := range g.brokers {
		g.await("every broker known to every other", func() bool { return len(b.node.Image().Brokers()) == n })
	}
	return g
}

func (g *group) start(i int) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	b, err := Open(ctx, g.cfgs[i])
	if err != nil {
		g.t.Errorf("broker %d: %v", i, err)
		return
	}
	g.brokers[i] = b
}

func (g *group) close() {
	var wg sync.WaitGroup
	for _, b := range g.brokers {
		if b != nil {
			wg.Go(func() { _ = b.Close(context.Background()) })
		}
	}
	wg.Wait()
}

// leaderOf finds the broker that leads a partition, once somebody does.
func (g *group) leaderOf(topic string, index int32) (*Broker, *Partition) {
	g.t.Helper()
	for ctx := within(g.t); ; {
		for _, b := range g.brokers {
			if b == nil {
				continue
			}
			if p, err := b.Partition(topic, index); err == nil && p.Leads() {
				return b, p
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			g.t.Fatalf("nobody leads %s/%d", topic, index)
		}
	}
}

func (g *group) await(what string, is func() bool) {
	g.t.Helper()
	for ctx := within(g.t); !is(); {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			g.t.Fatalf("not in time: %s", what)
		}
	}
}

// Three brokers form a cluster, each holds what was acknowledged, and any of them takes appends.
func TestThreeBrokers(t *testing.T) {
	g := openGroupIn(t, 3, unhurried())
	topic, err := g.brokers[1].CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 3}, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range topic.Partitions {
		if got := topic.Partitions[i].Replicas; len(got) != 3 {
			t.Errorf("partition %d has replicas %v", i, got)
		}
	}
	const each = 200
	for i := range topic.Partitions {
		id := log.PartitionID{Topic: topic.ID, Index: int32(i)}
		for _, b := range g.brokers {
			g.await("topic everywhere", func() bool { return b.Image().TopicByID(topic.ID) != nil })
			w, err := b.Writer(within(t), id)
			if err != nil {
				t.Fatal(err)
			}
			a := newAcks()
			for seq := range uint64(each) {
				if err := w.Append(&log.Record{Timestamp: 1, Value: fmt.Appendf(nil, "%d/%d", b.NodeID(), seq)}, a, seq); err != nil {
					t.Fatal(err)
				}
			}
			a.await(t, each)
			for _, err := range a.errs {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, b := range g.brokers {
			r, err := b.Replica(id)
			if err != nil {
				t.Fatal(err)
			}
			p := r.(*Partition)
			g.await("high watermark everywhere", func() bool { return p.HighWatermark() == 3*each })
			if got := readAll(t, p); len(got) != 3*each {
				t.Errorf("broker %d has %d records of partition %d", b.NodeID(), len(got), i)
			}
		}
	}
}

// portsGiven are those of freePort: whom one was given may not have bound it yet.
var portsGiven sync.Map

// freePort finds a port that is free for TCP and UDP. Ports below the ephemeral range: what others dial from must not take it before it is bound.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		if _, taken := portsGiven.LoadOrStore(addr, true); taken {
			continue
		}
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		return addr
	}
	t.Fatal("no free port")
	return ""
}
