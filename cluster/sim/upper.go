package sim

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Upper is a room above the brokers that takes part in a run, with its clients: the Kafka room, whose tests run its transaction coordinators here.
// This package does not know it. All methods are called inside the bubble.
type Upper interface {
	// Serve serves on a broker until ctx ends, in each process.
	Serve(ctx context.Context, h Host, b *cluster.Broker)
	// Work does what clients do until sending ends, and returns soon after all ends.
	Work(s *Sim, sending, all context.Context)
	// Unsettled says what has to come to rest yet, once all trouble is over; "" for nothing.
	Unsettled(s *Sim) string
	// Last tests what clients were told against what is there.
	Last(s *Sim)
}

// Compacted is a compacted topic that a run has with an Upper, for its clients alone: records have keys without "=".
const Compacted = "compacted"

// RunUpper is Run with a room above, and troubles that leave every promise in force.
func RunUpper(seed uint64, u Upper) *Report {
	d := newDraws(seed)
	s := newSim(d, upperPlan(d.of("plan")))
	s.upper = u
	return s.report(func(s *Sim) { s.trouble(s.plan.length) })
}

func upperPlan(r *rand.Rand) plan {
	p := plan{
		nodes: []int{3, 3, 3, 3, 2, 1}[r.IntN(6)], partitions: 1 + r.IntN(2), length: time.Duration(6+r.IntN(12)) * time.Second,
		pace: time.Duration(200+r.IntN(1500)) * time.Millisecond, checkpoint: []time.Duration{500 * time.Millisecond, 3 * time.Second, time.Minute}[r.IntN(3)],
		timing: timings(time.Minute), minInsync: 1 + r.IntN(2), producers: 1, pause: time.Duration(30+r.IntN(100)) * time.Millisecond,
	}
	p.replicas, p.minInsync = p.nodes, min(p.minInsync, p.nodes)
	if chance(r, 2) {
		p.harsh = 20 + r.IntN(200)
	}
	all := []kind{powerCut, powerCut, siteCut, kill, stop, partition, partition, oneWay, slowDisk, badSync, moveQuorum, tardyMetadata, clockJump, bounce, trim, reassign}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	p.kinds = all[:2+r.IntN(4)]
	return p
}

// Host is the process that a room runs in.
type Host struct{ p *process }

// String names it.
func (h Host) String() string { return h.p.String() }

// Alive says whether what the process says still reaches anybody.
func (h Host) Alive() bool { return h.p.alive() }

// Done is closed when the process is dead.
func (h Host) Done() <-chan struct{} { return h.p.ctx.Done() }

// Logger brings what the room logs into the trace.
func (h Host) Logger() *slog.Logger { return slog.New(voice{h.p, slog.LevelInfo}) }

// Draw is the next generator of a key's row of random numbers.
func (s *Sim) Draw(key string) *rand.Rand { return s.draws.of(key) }

// Trace adds a line.
func (s *Sim) Trace(format string, args ...any) { s.trace.add(format, args...) }

// Violated notes that a promise was broken.
func (s *Sim) Violated(promise, format string, args ...any) {
	s.check.violated(promise, format, args...)
}

// Count notes that something has been met.
func (s *Sim) Count(what string) { s.check.count(what) }

// Now is the time since the run began.
func (s *Sim) Now() time.Duration { return s.now() }

// Any is a process whose broker is open; false: the node that was drawn has none.
func (s *Sim) Any(r *rand.Rand) (Host, *cluster.Broker, bool) {
	p, b := s.any(r).broker()
	return Host{p}, b, b != nil
}

// Host is that of a broker, by some metadata.
func (s *Sim) Host(im *meta.Image, id int32) (Host, bool) {
	n := s.nodeFor(im, id)
	if n == nil {
		return Host{}, false
	}
	p, b := n.broker()
	return Host{p}, b != nil
}

// Image is the newest metadata.
func (s *Sim) Image() *meta.Image { return s.image() }

// Harsh says whether messages get lost, late or doubled: one in so many, 0 for none.
func (s *Sim) Harsh() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.net.harsh
}

// Seen is what somebody has called committed of a partition, in the end.
type Seen struct {
	Visible map[string]log.Offset // values that a reader of committed records sees; of keyed ones "key=value"
	Hidden  map[string]bool       // values that it does not
	Tainted bool                  // nothing is promised

	h *history
}

// Between is how many records a reader of committed ones sees from one offset up to another.
func (v *Seen) Between(from, to log.Offset) (n int) {
	for _, r := range v.h.all {
		if r.offset >= from && r.offset < to && v.h.visible[r.offset] {
			n++
		}
	}
	return n
}

// Seen of a partition.
func (s *Sim) Seen(id log.PartitionID) *Seen {
	s.check.mu.Lock()
	defer s.check.mu.Unlock()
	b := s.check.book(id)
	v := &Seen{Visible: map[string]log.Offset{}, Hidden: map[string]bool{}, Tainted: b.tainted, h: b.history()}
	for _, r := range v.h.all {
		switch {
		case r.marks():
		case v.h.visible[r.offset]:
			v.Visible[r.value] = r.offset
		default:
			v.Hidden[r.value] = true
		}
	}
	return v
}
