package cluster

import (
	"errors"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// A6: only a restart helps a broker that has failed. A change of the metadata that comes while it stops does not have it lead again, also where its log is well.
func TestFailedBrokerLeadsNoMore(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	appendAll(t, p, "before")
	b.fail(errors.New("write metadata: input/output error"))
	idle := make(chan struct{})
	b.completer.call(func() { close(idle) })
	<-idle
	im, err := b.node.Propose(within(t), &meta.AlterConfigs{ID: p.id.Topic, Expect: b.Image().Topic("a").Version, Set: map[string]string{retentionMS: "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	inForce(t, b, im.(*meta.Topic).Version)
	err = p.Append(&log.Record{Timestamp: 1, Value: []byte("after")}, nil, 0)
	if err == nil || p.Leads() {
		t.Fatalf("leads %t, an append is answered %v", p.Leads(), err)
	}
	if !errors.Is(err, ErrFailed) || !Transient(err) {
		t.Errorf("%v: want ErrFailed, which another broker does not have", err)
	}
	if _, err := b.CreateTopic(within(t), TopicSpec{Name: "b"}, false); err != nil && !errors.Is(err, ErrFailed) {
		t.Errorf("create a topic: %v", err)
	}
}

// A7, C4: the metadata knows another process under this broker's identity, a copy of its directory say, before this one is told so. The leader epochs in
// it are that one's.
func TestReplacedProcessLeadsNoMore(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir()))
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	appendAll(t, p, "before")
	was := p.LeaderEpoch()
	reg, err := b.node.Propose(within(t), &meta.RegisterBroker{
		ClusterID: b.clusterID, UUID: b.ident.UUID, Nonce: meta.UUID{1}, Held: b.ident.Nonces, Host: "copy", KafkaPort: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	inForce(t, b, reg.(meta.Registration).Version)
	if mp := b.Image().Topic("a").Partitions[0]; mp.Leader != b.id || mp.LeaderEpoch <= was {
		t.Fatalf("the copy leads in epoch %d as broker %d", mp.LeaderEpoch, mp.Leader)
	}
	if err := p.Append(&log.Record{Timestamp: 1, Value: []byte("after")}, nil, 0); !errors.Is(err, ErrNotLeader) {
		t.Errorf("in the epoch of another process an append is answered %v", err)
	}
	if _, err := b.Partition("a", 0); err == nil && p.Leads() {
		t.Error("it leads")
	}
}

// inForce returns when the broker has the metadata of a version in force; unlike awaitTable it goes on when the broker has failed.
func inForce(t *testing.T, b *Broker, version uint64) {
	t.Helper()
	for ctx := within(t); ; {
		b.changes.Lock()
		changed := b.applied
		b.changes.Unlock()
		if b.Image().Version >= version {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("version %d is in force, want %d", b.Image().Version, version)
		}
	}
}
