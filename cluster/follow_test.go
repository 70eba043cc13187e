package cluster

import (
	"errors"
	"testing"
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
