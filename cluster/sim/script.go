package sim

import (
	"context"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// Script is a row of events that a room above wants, where chance brings them about too rarely.
type Script struct {
	Nodes, Replicas, MinInsync int  // topics have one partition
	Refills                    bool // a replica may find that it has to be filled again
	Events                     func(*Sim)
}

// RunScript is RunUpper with a script in place of the troubles that a seed draws.
func RunScript(u Upper, sc Script) *Report {
	s := newSim(newDraws(1), plan{
		nodes: sc.Nodes, partitions: 1, replicas: sc.Replicas, minInsync: sc.MinInsync, length: time.Minute, checkpoint: 3 * time.Second,
		timing: timings(time.Minute), pause: 20 * time.Millisecond,
	})
	s.upper, s.refills = u, sc.Refills
	return s.report(sc.Events)
}

// Until waits for something that a script needs; false: it does not come to pass, which is a violation.
func (s *Sim) Until(what string, is func() bool) bool {
	ok := s.await(2*time.Minute, is)
	if !ok {
		s.check.violated("a schedule goes on", "not within two minutes: %s", what)
	}
	return ok
}

// isolate cuts a node off from all others, or mends that.
func (s *Sim) isolate(n *node, cut bool) {
	s.trace.add("n%d: cut off: %v", n.i, cut)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.nodes {
		s.net.cut[[2]int{n.i, o.i}], s.net.cut[[2]int{o.i, n.i}] = cut, cut
	}
}

// Isolate is isolate of a broker's node.
func (s *Sim) Isolate(broker int32, cut bool) {
	if n := s.nodeFor(s.image(), broker); n != nil {
		s.isolate(n, cut)
	}
}

// Move has a topic's first partition be at some brokers alone, the first of which leads.
func (s *Sim) Move(topic string, to ...int32) bool {
	p := func() *meta.Partition { return &s.image().Topic(topic).Partitions[0] }
	move := func() {
		t := s.image().Topic(topic)
		if n := s.nodeFor(s.image(), p().Leader); n != nil {
			if _, b := n.broker(); b != nil {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				_, err := b.Propose(ctx, &meta.Reassign{ID: t.ID, Expect: t.Version, Moves: []meta.Move{{Replicas: to}}})
				s.trace.add("move of %s to %v: %v", topic, to, err)
			}
		}
	}
	return s.Until("a partition moves", func() bool {
		switch at := p(); {
		case at.Leader == to[0] && len(at.Replicas) == len(to) && len(at.ISR) == len(to) && len(at.Adding)+len(at.Removing) == 0:
			return true
		case len(at.Adding)+len(at.Removing) == 0:
			move()
		}
		return false
	})
}

// Echo are messages that come once more.
type Echo struct {
	s        *Sim
	from, to int
	kept     []func() // guarded by s.mu
}

// Echo keeps a copy of each message from one broker's node to another's until End.
func (s *Sim) Echo(from, to int32) *Echo {
	im := s.image()
	e := &Echo{s: s, from: s.nodeFor(im, from).i, to: s.nodeFor(im, to).i}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.net.echo = e
	return e
}

// End keeps no more.
func (e *Echo) End() {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.s.net.echo = nil
}

// Come has the copies arrive, and returns when they have been answered to nobody.
func (e *Echo) Come() {
	e.s.mu.Lock()
	kept := e.kept
	e.kept = nil
	e.s.mu.Unlock()
	e.s.trace.add("network: %d messages from n%d to n%d come once more", len(kept), e.from, e.to)
	var coming sync.WaitGroup
	for _, deliver := range kept {
		coming.Go(deliver)
	}
	coming.Wait()
}
