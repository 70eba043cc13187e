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
	pool    *chunkPool
}

// chunkPool keeps released chunks with their buffers. Not a sync.Pool: under load every partition needs a
// chunk with each commit, and a garbage collection must not make all of them grow anew.
type chunkPool struct {
	mu    sync.Mutex
	free  []*chunk
	bytes int64
}

// chunkPoolBytes is more than one flush of everything unwritten lets go at once.
const chunkPoolBytes = 16 * mib

// trim gives the memory back, when the load that needed it has ended.
func (cp *chunkPool) trim() {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.free, cp.bytes = nil, 0
}

// Two pools, so that a chunk does not hold both kinds of buffer.
var builtChunks, copiedChunks chunkPool

func (cp *chunkPool) get() *chunk {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	n := len(cp.free) - 1
	if n < 0 {
		return &chunk{pool: cp}
	}
	c := cp.free[n]
	cp.free[n] = nil
	cp.free = cp.free[:n]
	cp.bytes -= c.memory()
	return c
}

func (cp *chunkPool) put(c *chunk) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	if m := c.memory(); cp.bytes+m <= chunkPoolBytes {
		cp.bytes += m
		cp.free = append(cp.free, c)
	}
}

// newBuiltChunk expects a batch of about size bytes.
func newBuiltChunk(size int) *chunk {
	c := builtChunks.get()
	c.builder.Grow(size)
	c.builder.Reset()
	c.refs.Store(1)
	return c
}

func newCopiedChunk(b Batch) *chunk {
	c := copiedChunks.get()
	c.copied = append(c.copied[:0], b...)
	c.batch = Batch(c.copied)
	c.refs.Store(1)
	return c
}

func (c *chunk) hold() { c.refs.Add(1) }

func (c *chunk) release() {
	switch n := c.refs.Add(-1); {
	case n == 0:
		c.counted = 0
		c.pool.put(c)
	case n < 0:
		panic("BUG: chunk released twice")
	}
}

// memory is what the chunk costs; it does not change between seal and reuse.
func (c *chunk) memory() int64 { return int64(cap(c.builder.buf)+cap(c.copied)) + 256 }

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
