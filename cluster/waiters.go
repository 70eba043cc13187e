package cluster

import (
	"sync"

	"github.com/weir-io/weir/log"
)

// Waiter is told when records are committed, or that they will not be. It must be comparable; use a pointer.
type Waiter interface {
	// Committed: the n records appended with the numbers first, first+1, … are committed, or, with an error, it is not known
	// whether they ever will be. It runs on the broker's completer goroutine, never inside Append, for all partitions one
	// after the other: it must not block. Each number is told once.
	Committed(first uint64, n int, err error)
}

// waiting are records of one waiter at consecutive offsets under consecutive numbers.
type waiting struct {
	first log.Offset
	n     int
	seq   uint64 // number of the record at first
	w     Waiter
}

func (e *waiting) next() log.Offset { return e.first + log.Offset(e.n) }

// ring holds who waits for a partition, in the order of offsets. A client that pipelines its publishes takes one entry,
// not one per record. Once grown it allocates nothing.
type ring struct {
	buf  []waiting // length is a power of two
	head int
	n    int
}

const minRing = 16

func (r *ring) at(i int) *waiting { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

// push adds records at the end of the log.
func (r *ring) push(e waiting) {
	if r.n > 0 {
		if last := r.at(r.n - 1); last.w == e.w && last.seq+uint64(last.n) == e.seq && last.next() == e.first {
			last.n += e.n
			return
		}
	}
	r.insert(r.n, e)
}

// place adds a batch that is not at the end of the log: one that a producer sent again (P1). No entry overlaps it in part,
// since entries of several records hold one batch, or records without a batch between them.
func (r *ring) place(e waiting) {
	i := r.n
	for i > 0 && r.at(i-1).next() > e.next() {
		i--
	}
	r.insert(i, e)
}

func (r *ring) insert(i int, e waiting) {
	if r.n == len(r.buf) {
		grown := make([]waiting, max(minRing, 2*len(r.buf)))
		for j := range r.n {
			grown[j] = *r.at(j)
		}
		r.buf, r.head = grown, 0
	}
	r.n++
	for j := r.n - 1; j > i; j-- {
		*r.at(j) = *r.at(j - 1)
	}
	*r.at(i) = e
}

// take moves to out what lies below next. An entry that lies below in part is split.
func (r *ring) take(next log.Offset, out []waiting) []waiting {
	for r.n > 0 {
		e := r.at(0)
		if e.first >= next {
			break
		}
		if over := int(e.next() - next); over > 0 {
			part := *e
			part.n -= over
			e.first, e.n, e.seq = next, over, e.seq+uint64(part.n)
			return append(out, part)
		}
		out = append(out, *e)
		*e = waiting{} // lets go of the waiter
		r.head = (r.head + 1) & (len(r.buf) - 1)
		r.n--
	}
	return out
}

// takeAll moves everything to out.
func (r *ring) takeAll(out []waiting) []waiting {
	for i := range r.n {
		out = append(out, *r.at(i))
	}
	*r = ring{}
	return out
}

// produced waits for one batch of a Kafka producer.
type produced struct {
	first log.Offset
	left  int
	at    int64
	done  func(first log.Offset, appendTime int64, err error)
}

var producedPool = sync.Pool{New: func() any { return new(produced) }}

func newProduced(first log.Offset, n int, at int64, done func(log.Offset, int64, error)) *produced {
	p := producedPool.Get().(*produced)
	*p = produced{first: first, left: n, at: at, done: done}
	return p
}

// Committed implements Waiter. The batch is answered when its last record is committed.
func (p *produced) Committed(_ uint64, n int, err error) {
	if p.left -= n; p.left > 0 {
		return
	}
	e := *p
	// All of its records have been told of, so that no ring holds it any more.
	*p = produced{}
	producedPool.Put(p)
	e.done(e.first, e.at, err)
}
