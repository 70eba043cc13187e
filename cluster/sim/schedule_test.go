package sim

import (
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// schedule is a row of events that an invariant exists for, and that chance brings about too rarely.
type schedule struct {
	invariant string
	plan      plan
	trouble   func(*Sim)
}

// only is the partition that a schedule is about.
func (s *Sim) only() meta.Partition { return s.image().Topic("a").Partitions[0] }

// at is the node of a broker.
func (s *Sim) at(id int32) *node { return s.nodeFor(s.image(), id) }

// isolate cuts a node off from all others, or mends that.
func (s *Sim) isolate(n *node, cut bool) {
	s.trace.add("n%d: cut off: %v", n.i, cut)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.nodes {
		s.net.cut[[2]int{n.i, o.i}], s.net.cut[[2]int{o.i, n.i}] = cut, cut
	}
}

// more waits until so many more records are acked.
func (s *Sim) more(n int) {
	had := s.check.total()
	if !s.await(time.Minute, func() bool { return s.check.total() >= had+n }) {
		s.check.violated("a schedule goes on", "%d records were not acked", n)
	}
}

// until waits for the metadata to be so.
func (s *Sim) until(what string, is func(meta.Partition) bool) {
	if !s.await(time.Minute, func() bool { return is(s.only()) }) {
		s.check.violated("a schedule goes on", "not within a minute: %s: %+v", what, s.only())
	}
}

var schedules = []schedule{
	// A disk has forgotten what it had told to be synced, and its node is the first to come back after the site has lost its power: it must not lead,
	// though it is in sync and nobody else is there to be asked.
	{"E6", plan{nodes: 3, partitions: 1, replicas: 3, minInsync: 2, liar: 1, producers: 2}, func(s *Sim) {
		r := s.draws.of("schedule")
		liar, second, third := s.nodes[0], s.nodes[1], s.nodes[2]
		s.more(20)
		s.mu.Lock()
		liar.lied = true
		s.mu.Unlock()
		liar.now().disk.lie.Store(true)
		s.isolate(third, true)
		s.until("two in sync", func(p meta.Partition) bool { return len(p.ISR) == 2 })
		s.more(40)
		for _, n := range s.nodes {
			n.cutPower(0, r)
		}
		s.isolate(third, false)
		liar.start()
		third.start()
		time.Sleep(5 * time.Second)
		second.start()
		s.until("a leader", func(p meta.Partition) bool { return p.Leader != meta.NoLeader })
	}},
	// Whoever left the in-sync set holds everything until somebody may commit without it: then it must be forgotten at once, or it leads without that.
	{"I7", plan{nodes: 3, partitions: 1, replicas: 2, minInsync: 2, producers: 2}, func(s *Sim) {
		r := s.draws.of("schedule")
		s.more(20)
		p := s.only()
		leader, other := s.at(p.Leader), s.at(p.Replicas[(slices.Index(p.Replicas, p.Leader)+1)%2])
		s.isolate(other, true)
		s.until("one in sync, one eligible", func(p meta.Partition) bool { return len(p.ISR) == 1 && len(p.ELR) == 1 })
		s.administer(alterMin, leader, r) // to 1, or to 2 once more
		for s.image().Topic("a").MinInsync != 1 && s.check.fault() == "" {
			s.administer(alterMin, leader, r)
		}
		s.more(40)
		leader.cutPower(1, r)
		s.isolate(other, false)
		time.Sleep(5 * time.Second)
		leader.start()
		s.until("a leader", func(p meta.Partition) bool { return p.Leader != meta.NoLeader })
	}},
}

// The schedules that invariants exist for run to a good end. TestBrokenInvariantsAreFound shows that without the invariant they do not.
func TestSchedules(t *testing.T) {
	defer steady()()
	for _, sc := range schedules {
		t.Run(sc.invariant, func(t *testing.T) {
			sc.plan.timing, sc.plan.checkpoint, sc.plan.pause, sc.plan.length = timings(time.Minute), 3*time.Second, 20*time.Millisecond, time.Minute
			var r *Report
			synctest.Test(t, func(*testing.T) { r = run(newDraws(1), sc.plan, sc.trouble) })
			if r.Violation != "" {
				t.Errorf("schedule %s: %s\n%s", sc.invariant, r.Violation, r.Trace)
			}
			if os.Getenv("WEIR_SIM_TRACE") != "" {
				t.Log("\n" + r.Trace)
			}
			if r.Acked < 60 {
				t.Errorf("%d records were acked", r.Acked)
			}
		})
	}
}
