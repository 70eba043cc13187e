package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log/vfs"
)

// Sim is one run.
type Sim struct {
	draws *draws
	plan  plan
	began time.Time
	trace *trace
	check *checker
	upper Upper // nil: none

	refills bool // Script.Refills

	mu     sync.Mutex // never held over a wait
	nodes  []*node
	quorum *quorum
	net    *network
	harsh  bool // answers and messages get lost
	over   bool // no process starts any more

	healed    time.Duration // when the trouble ended
	processes sync.WaitGroup
}

// Report is how a run went.
type Report struct {
	Seed      uint64
	Violation string // "" if every promise was kept
	Trace     string
	Hash      uint64 // of the trace
	Events    int
	Acked     int
	Took      time.Duration // of simulated time
	Plan      string
	Counts    map[string]int
}

// Run runs one seed. It must be called inside a bubble of testing/synctest, and returns when nothing of it runs any more.
func Run(seed uint64) *Report {
	d := newDraws(seed)
	return run(d, newPlan(d.of("plan")), func(s *Sim) { s.trouble(s.plan.length) })
}

// run runs a plan, with its trouble.
func run(d *draws, p plan, trouble func(*Sim)) *Report { return newSim(d, p).report(trouble) }

func newSim(d *draws, p plan) *Sim {
	s := &Sim{draws: d, plan: p, began: time.Now()}
	s.trace = &trace{began: s.began}
	s.check = newChecker(s)
	s.quorum, s.net = newQuorum(s), &network{s: s, cut: map[[2]int]bool{}}
	for i := range s.plan.nodes {
		s.nodes = append(s.nodes, &node{s: s, i: i + 1, mem: vfs.NewMem()})
	}
	return s
}

func (s *Sim) report(trouble func(*Sim)) *Report {
	s.run(trouble)
	return &Report{
		Seed: s.draws.seed, Violation: s.check.fault(), Trace: s.trace.String(), Hash: s.trace.hash, Events: s.trace.n, Acked: s.check.total(),
		Took: time.Since(s.began), Plan: fmt.Sprintf("%+v", s.plan), Counts: s.check.counts,
	}
}

func (s *Sim) now() time.Duration { return time.Since(s.began) }

func (s *Sim) run(trouble func(*Sim)) {
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	others.Go(func() { s.quorum.run(ctx) })
	for _, n := range s.nodes {
		n.start()
	}
	work := newWork(s)
	others.Go(func() { s.check.watch(ctx) })
	if s.await(30*time.Second, s.formed) {
		work.begin()
		trouble(s)
		s.heal()
		work.end()
		s.check.last()
	} else {
		s.check.violated("a cluster forms", "within 30 s")
	}
	cancel()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	r := s.draws.of("end")
	for _, n := range s.nodes {
		n.die(false, r)
	}
	work.abandon()
	others.Wait()
	s.processes.Wait()
	time.Sleep(time.Minute) // messages arrive where nobody is, and time limits pass
}

// await says whether something comes to pass in time.
func (s *Sim) await(within time.Duration, what func() bool) bool {
	for end := s.now() + within; s.now() < end && s.check.fault() == ""; {
		if what() {
			return true
		}
		time.Sleep(11 * time.Millisecond)
	}
	return false
}

func (s *Sim) formed() bool {
	for _, n := range s.nodes {
		if _, b := n.broker(); b == nil {
			return false
		}
	}
	return true
}

// heal ends all trouble, and brings everybody back.
func (s *Sim) heal() {
	s.trace.add("all trouble ends")
	s.healed = s.now()
	s.mu.Lock()
	s.harsh, s.net.harsh = false, 0
	clear(s.net.cut)
	clear(s.quorum.tardy)
	for _, n := range s.nodes {
		if n.run != nil {
			n.run.disk.slow.Store(0)
			n.run.disk.fail.Store(0)
			n.run.disk.lie.Store(false)
		}
	}
	s.mu.Unlock()
}

// revive starts what is down or has failed.
func (s *Sim) revive() {
	for _, n := range s.nodes {
		if p, b := n.broker(); b != nil && b.Err() != nil {
			n.die(true, s.draws.of("revive"))
		} else if p == nil {
			n.start()
		} else if b == nil && s.now() > s.healed+20*time.Second && n.stranger() {
			n.putBack()
		}
	}
}

// nodeOf finds a node by the identity of its broker.
func (s *Sim) nodeOf(id meta.UUID) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.uuid == id {
			return n
		}
	}
	return nil
}

// both says whether messages go both ways. s.mu is held.
func (s *Sim) both(a, b int) bool {
	return a == b || !s.net.cut[[2]int{a, b}] && !s.net.cut[[2]int{b, a}]
}

// timings are short, so that much happens in a run.
func timings(grace time.Duration) control.Timing {
	t := control.FastTiming
	t.Grace = grace
	return t
}
