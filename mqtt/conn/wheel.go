package conn

import (
	"sync"
	"time"
)

const (
	wheelTick  = 250 * time.Millisecond
	wheelSlots = 512 // 128 s; what lies further is looked at again when it comes round
)

// wheel holds the next deadline of every connection that has one. It does not know what a deadline is for:
// it sets the timer bit, and the connection looks for itself and arms again. That makes arming lazy: activity
// moves no entry, and a keepalive costs one look per period.
type wheel struct {
	mu    sync.Mutex
	slots [wheelSlots]*Conn
	now   int64 // ticks done
	start time.Time
}

func (w *wheel) init(now time.Time) { w.start = now }

// elapsed is the monotonic time since the wheel was made.
func (w *wheel) elapsed() time.Duration { return time.Since(w.start) }

func (w *wheel) run(done <-chan struct{}) {
	t := time.NewTicker(wheelTick)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			w.advance(w.elapsed())
		}
	}
}

// advance fires every slot up to now; after a stall it fires the missed ones too, each once.
func (w *wheel) advance(now time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	target := int64(now / wheelTick)
	if target-w.now > wheelSlots {
		w.now = target - wheelSlots
	}
	for w.now < target {
		w.now++
		slot := &w.slots[w.now%wheelSlots]
		for c := *slot; c != nil; {
			next := c.wheelNext
			c.wheelNext, c.wheelPrev, c.wheelAt = nil, nil, 0
			c.set(bitTimer)
			c = next
		}
		*slot = nil
	}
}

// arm makes sure that c is looked at by at; an earlier look that is already arranged stands.
func (w *wheel) arm(c *Conn, at time.Duration) {
	tick := int64((at + wheelTick - 1) / wheelTick)
	w.mu.Lock()
	defer w.mu.Unlock()
	tick = min(max(tick, w.now+1), w.now+wheelSlots-1)
	if c.wheelAt != 0 {
		if c.wheelAt <= tick {
			return
		}
		w.unlinkLocked(c)
	}
	slot := &w.slots[tick%wheelSlots]
	c.wheelAt, c.wheelNext = tick, *slot
	if *slot != nil {
		(*slot).wheelPrev = c
	}
	*slot = c
}

func (w *wheel) disarm(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.wheelAt != 0 {
		w.unlinkLocked(c)
	}
}

func (w *wheel) unlinkLocked(c *Conn) {
	if c.wheelPrev != nil {
		c.wheelPrev.wheelNext = c.wheelNext
	} else {
		w.slots[c.wheelAt%wheelSlots] = c.wheelNext
	}
	if c.wheelNext != nil {
		c.wheelNext.wheelPrev = c.wheelPrev
	}
	c.wheelNext, c.wheelPrev, c.wheelAt = nil, nil, 0
}
