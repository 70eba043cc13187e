package mqtt

import (
	"context"
	"sync"
	"time"
)

// crew is the goroutines that wait for other nodes or load sessions, so that those that serve clients never do. Who starts
// them bounds their number.
type crew struct {
	ctx  context.Context // ends with the server
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func (c *crew) init() { c.ctx, c.stop = context.WithCancel(context.Background()) }

// join counts the calling goroutine in until leave; false once the crew is closed.
func (c *crew) join() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	return true
}

func (c *crew) leave() { c.wg.Done() }

// start runs f in a goroutine of its own; false once the crew is closed.
func (c *crew) start(f func()) bool {
	if !c.join() {
		return false
	}
	go func() {
		defer c.leave()
		f()
	}()
	return true
}

// sleep is false when the crew is closed meanwhile.
func (c *crew) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// close ends what waits and returns when everybody has left.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.wg.Wait()
}
