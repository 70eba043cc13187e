package kafka

import (
	"context"
	"sync"
)

// quota bounds the bytes of frames in memory, over all connections. A frame takes its
// share piece by piece as its bytes arrive, so that a peer which only announces a size
// holds nothing.
//
// Pieces could lock each other out for ever (every frame half read, nothing left), so one
// frame at a time may go over the limit: the bound is the limit plus one frame, and
// somebody always makes progress.
type quota struct {
	mu       sync.Mutex
	limit    int64
	used     int64
	overdraw *charge         // the one frame that may exceed the limit
	waiting  []chan struct{} // woken in order when room appears
}

// charge is what one frame holds. It is used by one goroutine at a time.
type charge struct {
	q    *quota
	held int64
}

func newQuota(limit int64) *quota { return &quota{limit: limit} }

// take adds n bytes to the charge, waiting for room until ctx ends.
func (c *charge) take(ctx context.Context, n int64) error {
	q := c.q
	for {
		q.mu.Lock()
		if q.used+n > q.limit && q.overdraw == nil {
			q.overdraw = c
		}
		if q.used+n <= q.limit || q.overdraw == c {
			q.used += n
			c.held += n
			q.mu.Unlock()
			return nil
		}
		room := make(chan struct{})
		q.waiting = append(q.waiting, room)
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			q.forget(room)
			return ctx.Err()
		}
	}
}

// tryTake adds n bytes while at least half of the quota stays free, else does nothing.
func (c *charge) tryTake(n int64) bool {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used+n > q.limit/2 {
		return false
	}
	q.used += n
	c.held += n
	return true
}

// release gives all that the charge holds back. It may be called more than once.
func (c *charge) release() {
	q := c.q
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used -= c.held
	c.held = 0
	if q.overdraw == c {
		q.overdraw = nil
	}
	// All of them: each knows how much it needs, and looks again.
	for _, w := range q.waiting {
		close(w)
	}
	q.waiting = q.waiting[:0]
}

func (q *quota) forget(room chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, w := range q.waiting {
		if w == room {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return
		}
	}
}

func (q *quota) inUse() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used
}
