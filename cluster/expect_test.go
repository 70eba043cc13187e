package cluster

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// hears is a log that says when a line has come.
type hears struct {
	slog.Handler
	line string
	came func()
}

func (h hears) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.line {
		h.came()
	}
	return nil
}

func (h hears) Enabled(context.Context, slog.Level) bool { return true }

// C7: a topic that is made while the cluster is being formed waits until all brokers have registered that form it, and then has its replicas at once; for one
// that does not come it does not wait for long.
func TestTopicsWaitForTheBrokersThatFormTheCluster(t *testing.T) {
	waits := make(chan struct{})
	cfg := testConfig(t.TempDir())
	cfg.AdvertiseHost = "127.0.0.1"
	cfg.Peer = &PeerConfig{Listen: freePort(t), Gossip: freePort(t), Expect: 1, Timing: unhurried()}
	cfg.Logger = slog.New(hears{slog.DiscardHandler, "topics wait until all brokers have registered that form the cluster", sync.OnceFunc(func() { close(waits) })})
	b := openBroker(t, cfg)
	b.port.cfg.Expect = 3
	b.registeredAt = time.Now().Add(time.Hour) // the wait has no end of its own
	type made struct {
		topic *meta.Topic
		err   error
	}
	done := make(chan made, 1)
	go func() {
		topic, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 2}, false)
		done <- made{topic, err}
	}()
	select {
	case <-waits:
	case got := <-done:
		t.Fatalf("it does not wait: %+v, %v", got.topic, got.err)
	}
	if one, err := b.CreateTopic(within(t), TopicSpec{Name: "one", Partitions: 1, Replicas: 1}, false); err != nil || len(one.Partitions[0].Replicas) != 1 {
		t.Errorf("a topic that says how many replicas it has waits too: %v", err)
	}
	for id := byte(2); id <= 3; id++ {
		select {
		case got := <-done:
			t.Fatalf("before all have registered: %+v, %v", got.topic, got.err)
		default:
		}
		uuid := meta.UUID{id}
		if _, err := b.raft.Load().Propose(within(t), &meta.RegisterBroker{ClusterID: b.ClusterID(), UUID: uuid, Nonce: uuid, Host: "h", Peer: "h:1"}); err != nil {
			t.Fatal(err)
		}
	}
	got := <-done
	if got.err != nil || len(got.topic.Partitions[0].Replicas) != 3 || len(got.topic.Partitions[1].Replicas) != 3 || got.topic.MinInsync != 2 {
		t.Errorf("%+v, %v", got.topic, got.err)
	}
	if _, err := b.CreateTopic(within(t), TopicSpec{Name: "a"}, false); err == nil {
		t.Error("a topic that is there is made again")
	}

	b.port.cfg.Expect = 5
	b.registeredAt = time.Now().Add(-expectFor)
	if topic, err := b.CreateTopic(within(t), TopicSpec{Name: "b", Partitions: 1}, false); err != nil || len(topic.Partitions[0].Replicas) != 3 {
		t.Errorf("with two that do not come: %+v, %v", topic, err)
	}
	b.registeredAt = time.Now().Add(time.Hour)
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	if _, err := b.CreateTopic(ctx, TopicSpec{Name: "c", Partitions: 1}, false); err == nil {
		t.Error("a topic is made for who does not wait for it")
	}
}
