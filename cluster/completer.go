package cluster

import "sync"

// completer tells waiters and watchers, on a goroutine of its own: the committer goes on to the next sync meanwhile, nobody is
// called back inside an append, and each waiter hears of its records in order.
type completer struct {
	wake chan struct{} // holds a token while there is something to do

	mu    sync.Mutex
	dirty []*Partition // each at most once, see Partition.queued
	calls []func()
	ended bool
}

func newCompleter() *completer { return &completer{wake: make(chan struct{}, 1)} }

// add has p looked at. It never blocks; it is called from the log's committer.
func (c *completer) add(p *Partition) {
	if !p.queued.CompareAndSwap(false, true) {
		return
	}
	c.mu.Lock()
	c.dirty = append(c.dirty, p)
	c.mu.Unlock()
	c.signal()
}

// call runs fn on the completer, or on a goroutine of its own once that has ended.
func (c *completer) call(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		go fn()
		return
	}
	c.calls = append(c.calls, fn)
	c.signal()
}

func (c *completer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run works until stop is closed and nothing is left.
func (c *completer) run(stop <-chan struct{}) {
	var dirty []*Partition
	var told audience
	for {
		last := false
		select {
		case <-c.wake:
		case <-stop:
			last = true
		}
		for {
			c.mu.Lock()
			dirty, c.dirty = c.dirty, dirty[:0]
			calls := c.calls
			c.calls = nil
			c.ended = last && len(dirty) == 0 && len(calls) == 0
			c.mu.Unlock()
			if len(dirty) == 0 && len(calls) == 0 {
				break
			}
			for i, p := range dirty {
				p.queued.Store(false) // before looking: a commit after the look queues p again
				p.complete(&told)
				dirty[i] = nil
			}
			for _, fn := range calls {
				fn()
			}
		}
		if last {
			return
		}
	}
}
