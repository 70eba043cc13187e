package log

import (
	"sync"
	"sync/atomic"
)

// chunk is one batch in memory. It is shared, read-only once sealed, by the partition's tail (readers), by
// the commit that carries it and by the segment writer; the last to let go recycles its buffer.
type chunk struct {
	refs    atomic.Int32
	builder BatchBuilder // records of many Append calls
	copied  []byte       // or the copy of one AppendBatch
	batch   Batch        // view of either; set when sealed
	base    Offset
	next    Offset
	counted int64       // bytes counted in Log.uncommitted
	written atomic.Bool // stands in a segment
	pool    *sync.Pool
}

// Two pools, so that a chunk does not hold both kinds of buffer.
var (
	builtChunks  = sync.Pool{New: func() any { return new(chunk) }}
	copiedChunks = sync.Pool{New: func() any { return new(chunk) }}
)

func newBuiltChunk() *chunk {
	c := builtChunks.Get().(*chunk)
	c.pool = &builtChunks
	c.builder.Reset()
	c.refs.Store(1)
	return c
}

func newCopiedChunk(b Batch) *chunk {
	c := copiedChunks.Get().(*chunk)
	c.pool = &copiedChunks
	c.copied = append(c.copied[:0], b...)
	c.batch = Batch(c.copied)
	c.refs.Store(1)
	return c
}

func (c *chunk) hold() { c.refs.Add(1) }

func (c *chunk) release() {
	switch n := c.refs.Add(-1); {
	case n == 0:
		c.batch, c.counted = nil, 0
		c.pool.Put(c)
	case n < 0:
		panic("BUG: chunk released twice")
	}
}

// memory is what the chunk costs.
func (c *chunk) memory() int64 { return int64(cap(c.batch)) + 256 }

// chunkQueue holds chunks in offset order.
type chunkQueue struct {
	items []*chunk
	head  int
}

func (q *chunkQueue) push(c *chunk) {
	if q.head > 32 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, c)
}

func (q *chunkQueue) live() []*chunk { return q.items[q.head:] }

func (q *chunkQueue) pop() *chunk {
	c := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return c
}

// cut removes and returns the chunks that hold o or later offsets.
func (q *chunkQueue) cut(o Offset) []*chunk {
	live := q.live()
	n := len(live)
	for n > 0 && live[n-1].next > o {
		n--
	}
	gone := append([]*chunk(nil), live[n:]...)
	clear(live[n:])
	q.items = q.items[:q.head+n]
	return gone
}
