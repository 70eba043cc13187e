package cluster

import (
	"errors"
	"testing"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// R2: who asks the leader is not answered by one whose lease has lapsed: another may lead, and have answered for what is not here.
func TestReadsAtTheLeaderNeedItsLease(t *testing.T) {
	g := openGroup(t, 1)
	b := g.brokers[0]
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	appendAll(t, p, "x")
	if got, err := b.ReadLeader(p.id, 0, 1000, nil); err != nil || len(got) == 0 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	b.stopLog() // no renewals any more
	g.await("the end of the lease", func() bool { return !b.HoldsLease() })
	if _, err := b.ReadLeader(p.id, 0, 1000, nil); !errors.Is(err, ErrNotLeader) {
		t.Errorf("read here: %v", err)
	}
	if _, err := b.answerRead(&readCall{toWire(p.id), 0, 1000}); !errors.Is(err, ErrNotLeader) {
		t.Errorf("read from elsewhere: %v", err)
	}
}

// A1: nor is it answered for what only its own disk has: a leader that is cut off would take records that are dropped later, as long as it is.
func TestOwnDiskAnswersWithTheLease(t *testing.T) {
	g := openGroup(t, 1)
	b := g.brokers[0]
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	b.stopLog()
	g.await("the end of the lease", func() bool { return !b.HoldsLease() })
	answers := make(chan error, 2)
	p.Produce(oneBatch(-1, -1, "x"), 1, func(_ log.Offset, _ int64, err error) { answers <- err })
	g.await("the commit", func() bool { return p.HighWatermark() == 1 })
	b.proposals() // as attend does
	for range 2 { // the completer has looked twice
		looked := make(chan struct{})
		b.completer.call(func() { close(looked) })
		<-looked
	}
	if len(answers) > 0 {
		t.Fatalf("answered without a lease: %v", <-answers)
	}
	b.duties.mu.Lock()
	now := b.mono()
	b.duties.lease.Sent(now)
	b.duties.lease.Answered(now, 0)
	b.duties.mu.Unlock()
	b.proposals()
	if err := <-answers; err != nil {
		t.Error(err)
	}
}

// R3: nor is it told that there is nothing, while the leader does not know yet what those before it answered for.
func TestReadsAtTheLeaderAreOfASettledTerm(t *testing.T) {
	b, p := onePartition(t, nil)
	appendAll(t, p, "x")
	p.mu.Lock()
	p.hw.Store(0)
	p.leader = replica.Lead(replica.Term{Self: b.id, Epoch: int32(p.epoch), Start: 1, State: replica.State{ISR: []int32{b.id}}}, 0)
	p.mu.Unlock()
	if _, err := b.ReadLeader(p.id, 0, 1000, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("read in a term that is not settled: %v", err)
	}
	p.done.add(p)
	if err := (&Table{b, p.topic, p.id.Topic, 1}).Settle(within(t), 0, p.LeaderEpoch()); err != nil {
		t.Fatal(err)
	}
	if got, err := b.ReadLeader(p.id, 0, 1000, nil); err != nil || len(got) == 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
