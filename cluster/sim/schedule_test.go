package sim

import (
	"context"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
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

// behind cuts one of two replicas off until the other commits alone. third has none.
func (s *Sim) behind() (leader, other, third *node) {
	s.more(20)
	p := s.only()
	leader, other = s.at(p.Leader), s.at(p.Replicas[(slices.Index(p.Replicas, p.Leader)+1)%2])
	s.isolate(other, true)
	s.until("one in sync", func(p meta.Partition) bool { return len(p.ISR) == 1 })
	s.more(20)
	return leader, other, s.nodes[5-leader.i-other.i]
}

// replica says where a node's replica of the partition ends, and what it knows to be committed; nothing while it has none open.
func (n *node) replica() (end, hw log.Offset) {
	_, b := n.broker()
	if b == nil {
		return 0, 0
	}
	for _, p := range b.Partitions() {
		if p.ID().Topic == n.s.image().Topic("a").ID {
			return p.LogEnd(), p.HighWatermark()
		}
	}
	return 0, 0
}

// soon waits for what may be over at once, for some seconds at most.
func (s *Sim) soon(is func() bool) {
	for until := s.now() + 3*time.Second; s.now() < until && !is(); {
		time.Sleep(100 * time.Microsecond)
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
	// A leader has asked for a follower to be taken in, and does not hear that it was. What the follower does not get any more must wait: it is in sync, and may lead.
	{"H3", plan{nodes: 3, partitions: 1, replicas: 2, minInsync: 1, producers: 2}, func(s *Sim) {
		r := s.draws.of("schedule")
		leader, other, third := s.behind()
		both := func(cut bool) {
			s.net.cut[[2]int{leader.i, other.i}], s.net.cut[[2]int{other.i, leader.i}] = cut, cut
		}
		s.isolate(other, false)
		s.mu.Lock()
		both(true)
		s.quorum.elect(third.run.member, r.Uint64()) // who leads the quorum hears of everything at once
		s.mu.Unlock()
		if _, b := leader.broker(); !s.await(time.Minute, func() bool { return !b.Image().BrokerByUUID(other.uuid).Fenced }) {
			s.check.violated("a schedule goes on", "the leader does not hear that the other is back")
		}
		s.mu.Lock()
		s.quorum.tardy[leader.i] = s.now() + time.Minute
		both(false)
		s.mu.Unlock()
		s.until("two in sync", func(p meta.Partition) bool { return len(p.ISR) == 2 })
		s.isolate(other, true)
		time.Sleep(time.Second)
		leader.cutPower(1, r)
		s.isolate(other, false)
		s.until("the other leads", func(p meta.Partition) bool { return s.at(p.Leader) == other })
		s.mu.Lock()
		clear(s.quorum.tardy)
		s.mu.Unlock()
		leader.start()
		s.more(20)
	}},
	// A follower that is heard and hears nothing has not got what was committed without it: it must not be in sync when the leader dies.
	{"I4", plan{nodes: 3, partitions: 1, replicas: 2, minInsync: 1, producers: 2}, func(s *Sim) {
		r := s.draws.of("schedule")
		leader, other, third := s.behind()
		s.isolate(other, false)
		s.mu.Lock()
		s.net.cut[[2]int{leader.i, other.i}] = true
		s.quorum.elect(third.run.member, r.Uint64()) // whom both reach
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		leader.cutPower(1, r)
		s.mu.Lock()
		s.net.cut[[2]int{leader.i, other.i}] = false
		s.mu.Unlock()
		time.Sleep(5 * time.Second)
		leader.start()
		s.more(20)
	}},
	// A replica is taken from a node that hears of it late, and given back: what the node asks for the log that it will drop must not make it a member.
	{"I8", plan{nodes: 3, partitions: 1, replicas: 3, minInsync: 1, producers: 2}, func(s *Sim) {
		s.more(20)
		p := s.only()
		leader, id := s.at(p.Leader), p.Replicas[(slices.Index(p.Replicas, p.Leader)+1)%3]
		n := s.at(id)
		move := func(to ...int32) {
			t := s.image().Topic("a")
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if _, b := leader.broker(); b != nil {
				_, err := b.Propose(ctx, &meta.Reassign{ID: t.ID, Expect: t.Version, Moves: []meta.Move{{Replicas: to}}})
				s.trace.add("move to %v: %v", to, err)
			}
		}
		s.mu.Lock()
		s.quorum.elect(leader.run.member, 1)
		s.quorum.tardy[n.i] = s.now() + time.Minute
		s.mu.Unlock()
		move(slices.DeleteFunc(slices.Clone(p.Replicas), func(r int32) bool { return r == id })...)
		s.until("one less", func(p meta.Partition) bool { return len(p.Replicas) == 2 })
		move(id)
		time.Sleep(5 * time.Second)
		s.mu.Lock()
		clear(s.quorum.tardy)
		s.mu.Unlock()
		s.until("it leads alone", func(p meta.Partition) bool { return p.Leader == id && len(p.Replicas) == 1 })
		s.more(20)
	}},
	// A follower has records that are committed and has not heard that they are. Its leader dies, and the next soon after: by then the follower must have them still.
	{"T1", plan{nodes: 3, partitions: 1, replicas: 3, minInsync: 2, producers: 3}, func(s *Sim) {
		r := s.draws.of("schedule")
		for range 5 {
			s.until("three in sync", func(p meta.Partition) bool { return len(p.ISR) == 3 && p.Leader != meta.NoLeader })
			s.more(20)
			p := s.only()
			if s.check.fault() != "" {
				return
			}
			leader := s.at(p.Leader)
			var rest []*node
			for _, id := range p.Replicas { // in the order in which they are elected
				if n := s.at(id); n != leader {
					rest = append(rest, n)
				}
			}
			next, last := rest[0], rest[1]
			s.soon(func() bool { end, hw := last.replica(); return hw < end })
			s.mu.Lock()
			s.net.cut[[2]int{leader.i, last.i}] = true // it is heard, and hears no answer
			s.mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			had, _ := last.replica()
			leader.cutPower(1, r)
			s.mu.Lock()
			s.net.cut[[2]int{leader.i, last.i}] = false
			s.mu.Unlock()
			s.soon(func() bool { end, _ := last.replica(); return end < had }) // that must not be
			if s.only().Leader == p.Leader {
				s.until("another leads", func(now meta.Partition) bool { return now.Leader != meta.NoLeader && now.Leader != p.Leader })
			}
			leader.start()
			next.cutPower(1, r)
			s.until("the last leads", func(p meta.Partition) bool { return s.at(p.Leader) == last })
			next.start()
		}
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
