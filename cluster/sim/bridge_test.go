package sim

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// parted cuts the line between two nodes, or mends it.
func (s *Sim) parted(a, b *node, cut bool) {
	s.trace.add("n%d and n%d: cut off from each other: %v", a.i, b.i, cut)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.net.cut[[2]int{a.i, b.i}], s.net.cut[[2]int{b.i, a.i}] = cut, cut
}

// appendAt appends a record at a node to a partition, and says whether it was committed within so long.
func (s *Sim) appendAt(n *node, id log.PartitionID, client, number int, within time.Duration) error {
	p, b := n.broker()
	ctx, cancel := context.WithTimeout(p.ctx, within)
	defer cancel()
	w, err := b.Writer(ctx, id)
	if err != nil {
		return err
	}
	value := fmt.Sprintf("f%d-%d", client, number)
	a := &answered{sent{w: &work{s: s}, p: p, id: id, client: client, n: number, value: value, done: make(chan struct{}, 1)}, make(chan error, 1)}
	if err := w.Append(&log.Record{Timestamp: 1, Value: []byte(value)}, a, 0); err != nil {
		return err
	}
	select {
	case err := <-a.err:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answered is a record whose outcome somebody waits for.
type answered struct {
	sent
	err chan error
}

// Committed implements cluster.Waiter.
func (a *answered) Committed(seq uint64, n int, err error) {
	a.sent.Committed(seq, n, err)
	a.err <- err
}

// M10, P1, M3: two nodes that meet only at a third append to what the other leads, each record once and in order, while the line is down and when it is there
// again; and one asks the other how far a partition is committed.
func TestTwoNodesMeetAtAThird(t *testing.T) {
	defer steady()()
	for seed := uint64(1); seed <= 5; seed++ {
		var r *Report
		synctest.Test(t, func(*testing.T) {
			p := plan{nodes: 3, partitions: 3, replicas: 3, minInsync: 2, producers: 4, harsh: 0}
			p.timing, p.checkpoint, p.pause, p.length = timings(time.Minute), 3*time.Second, 20*time.Millisecond, time.Minute
			r = run(newDraws(seed), p, func(s *Sim) { meetAtThird(t, s) })
		})
		if r.Violation != "" {
			t.Errorf("seed %d: %s\n%s", seed, r.Violation, r.Trace)
		}
		if t.Failed() {
			return
		}
	}
}

func meetAtThird(t *testing.T, s *Sim) {
	one, bridge, other := s.nodes[0], s.nodes[1], s.nodes[2]
	member := bridge.now().part()
	s.mu.Lock()
	s.quorum.elect(member, 0) // who leads the quorum hears both, so that neither is fenced
	s.mu.Unlock()
	led := func(n *node) (log.PartitionID, *meta.Partition) {
		im := s.image()
		topic := im.Topic("a")
		for i := range topic.Partitions {
			if s.nodeFor(im, topic.Partitions[i].Leader) == n {
				return log.PartitionID{Topic: topic.ID, Index: int32(i)}, &topic.Partitions[i]
			}
		}
		return log.PartitionID{}, nil
	}
	leads := func(n *node) bool { _, p := led(n); return p != nil }
	if !s.await(time.Minute, func() bool { return leads(one) && leads(other) }) {
		t.Error("not every node has come to lead a partition")
		return
	}
	s.more(20)
	s.parted(one, other, true)
	for _, n := range []*node{one, other} {
		if !s.await(time.Minute, func() bool { _, p := led(n); return p != nil && len(p.ISR) == 2 }) {
			t.Errorf("n%d leads nothing with two in sync", n.i)
			return
		}
	}
	add := func(from, to *node, client, number int) {
		id, _ := led(to)
		began := s.now()
		if err := s.appendAt(from, id, client, number, 20*time.Second); err != nil {
			t.Errorf("n%d to n%d after %v: %v", from.i, to.i, s.now()-began, err)
		} else if took := s.now() - began; took > 10*time.Second {
			t.Errorf("n%d to n%d: committed after %v", from.i, to.i, took)
		}
	}
	for i := range 10 {
		add(one, other, 50, i)
		add(other, one, 51, i)
	}
	id, _ := led(other)
	if p, b := one.broker(); b != nil {
		ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
		defer cancel()
		if end, err := b.Ends(ctx, id); err != nil || end < 10 {
			t.Errorf("the other says that its partition ends at %d, %v", end, err)
		}
	}
	s.parted(one, other, false)
	for i := 10; i < 20; i++ {
		add(one, other, 50, i)
		add(other, one, 51, i)
	}
}
