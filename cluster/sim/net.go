package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

// network carries messages between processes: late, twice, or not at all. A link is cut in each direction by itself.
type network struct {
	s     *Sim
	cut   map[[2]int]bool // from, to; guarded by s.mu
	harsh int             // one in so many messages is lost, late or doubled; 0: none
	echo  *Echo           // nil: no messages are kept; guarded by s.mu
}

// up says whether messages go from one node to another.
func (w *network) up(from, to int) bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return from == to || !w.cut[[2]int{from, to}]
}

// linked says whether they go both ways.
func (w *network) linked(a, b int) bool { return w.up(a, b) && w.up(b, a) }

func unreachable(why string) error { return fmt.Errorf("%w: %s", rpc.ErrUnreachable, why) }

// carry is cluster.Seams.Carry of a process.
func (w *network) carry(ctx context.Context, from *process, to meta.UUID, m cluster.Message) (cluster.Message, error) {
	target := w.s.nodeOf(to)
	if target == nil {
		return cluster.Message{}, unreachable("nobody knows this node")
	}
	r := w.s.draws.of(fmt.Sprintf("net %s>%d %d %d", from, target.i, m.Method, gist(m.Control)))
	there, back := w.delay(r.IntN(1<<20)), w.delay(r.IntN(1<<20))
	lost, lostAnswer, twice := false, false, false
	w.s.mu.Lock()
	harsh := w.harsh
	if e := w.echo; e != nil && e.from == from.n.i && e.to == target.i {
		e.kept = append(e.kept, func() { w.deliver(from, target, m, 0, 0, true, nil) })
	}
	w.s.mu.Unlock()
	if harsh > 0 {
		switch r.IntN(5 * harsh) {
		case 0:
			lost = true
		case 1:
			lostAnswer = true
		case 2:
			twice = true
		case 3: // so late that the caller has given up, or is dead
			there += between(r, 100*time.Millisecond, 12*time.Second)
		case 4:
			back += between(r, 100*time.Millisecond, 3*time.Second)
		}
	}
	again := there + between(r, 0, 2*time.Second)
	answered := make(chan outcome, 1)
	if !lost && w.up(from.n.i, target.i) {
		go w.deliver(from, target, m, there, back, lostAnswer, answered)
		if twice {
			w.s.trace.add("%s: message %d to n%d will come twice", from, m.Method, target.i)
			go w.deliver(from, target, m, again, back, true, answered)
		}
	}
	select {
	case o := <-answered:
		return o.m, o.err
	case <-ctx.Done():
		return cluster.Message{}, unreachable("no answer in time")
	case <-from.ctx.Done():
		return cluster.Message{}, unreachable("this process is dead")
	}
}

// gist tells apart what is sent at one instant, whatever the order in which a message lists what it is about: that of Go's maps is another each time.
func gist(b []byte) (sum int) {
	for _, c := range b {
		sum += (int(c) + 7) * (int(c) + 7) * (int(c) + 3)
	}
	return sum
}

// delay is that of a message on a good day: mostly a millisecond, sometimes many.
func (w *network) delay(n int) time.Duration {
	d := 100*time.Microsecond + time.Duration(n)*time.Nanosecond
	if n%16 == 0 {
		d *= 20
	}
	return d
}

type outcome struct {
	m   cluster.Message
	err error
}

func (w *network) deliver(from *process, target *node, m cluster.Message, there, back time.Duration, silent bool, answered chan outcome) {
	time.Sleep(there)
	p := target.now()
	if p == nil || p.serving() == nil {
		time.Sleep(back)
		if !silent && w.up(target.i, from.n.i) {
			answered <- outcome{err: unreachable("connection refused")}
		}
		return
	}
	got, err := p.serving()(p.ctx, m)
	if p.ctx.Err() != nil {
		err = unreachable("connection lost")
	}
	time.Sleep(back)
	if !silent && w.up(target.i, from.n.i) {
		answered <- outcome{got, err}
	}
}
