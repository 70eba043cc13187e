package log

// recentCache keeps written batches in their partition's tail, for readers at the end, until newer ones
// need the memory. It owns the pipeline's hold on each.
type recentCache struct {
	queue []recentChunk
	head  int
	bytes int64
}

type recentChunk struct {
	p *Partition
	c *chunk
}

func (r *recentCache) add(p *Partition, c *chunk) {
	if r.head > 1024 && r.head > len(r.queue)/2 {
		n := copy(r.queue, r.queue[r.head:])
		clear(r.queue[n:])
		r.queue, r.head = r.queue[:n], 0
	}
	r.queue = append(r.queue, recentChunk{p, c})
	r.bytes += c.memory()
}

func (r *recentCache) evict(limit int64) {
	for r.bytes > limit && r.head < len(r.queue) {
		e := r.queue[r.head]
		r.queue[r.head] = recentChunk{}
		r.head++
		r.bytes -= e.c.memory()
		e.p.mu.Lock()
		// A truncation may have taken it out of the tail already.
		if live := e.p.tail.live(); len(live) > 0 && live[0] == e.c {
			e.p.tail.pop().release()
		}
		e.p.mu.Unlock()
		e.c.release()
	}
}
