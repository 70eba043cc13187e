package kafka

import (
	"container/heap"
	"sync"
	"time"
)

// groupTimers is when each group wants its next Tick: one heap for all, since a
// group asks seldom (heartbeats do not move it) and most never fire.
type groupTimers struct {
	mu   sync.Mutex
	heap timerHeap
}

// groupTimer is a group's place in the heap.
type groupTimer struct {
	set   time.Time // what was asked for last; guarded by the group's lock
	at    time.Time // guarded by groupTimers.mu, as is the rest
	index int       // -1: not in the heap
	e     *groupEntry
}

// set moves the group's Tick to at, zero for never, and reports whether it is
// now the first of all.
func (t *groupTimers) set(gt *groupTimer, e *groupEntry, at time.Time) (first bool) {
	if at.Equal(gt.set) {
		return false
	}
	gt.set = at
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case at.IsZero():
		if gt.index >= 0 {
			heap.Remove(&t.heap, gt.index)
		}
		return false
	case gt.index >= 0:
		gt.at = at
		heap.Fix(&t.heap, gt.index)
	default:
		gt.at, gt.e = at, e
		heap.Push(&t.heap, gt)
	}
	return gt.index == 0
}

// next is when the first group is due, but not after latest.
func (t *groupTimers) next(latest time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) > 0 && t.heap[0].at.Before(latest) {
		return t.heap[0].at
	}
	return latest
}

// due takes the first group out of the heap if its time has come. The Tick that
// follows puts it back, if it wants that.
func (t *groupTimers) due(now time.Time) *groupEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 || now.Before(t.heap[0].at) {
		return nil
	}
	return heap.Pop(&t.heap).(*groupTimer).e
}

// timerHeap is a container/heap, earliest first.
type timerHeap []*groupTimer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	gt := x.(*groupTimer)
	gt.index = len(*h)
	*h = append(*h, gt)
}

func (h *timerHeap) Pop() any {
	old := *h
	gt := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	gt.index = -1
	return gt
}

// clockSteps notices when the wall clock was set forward: for an hour after
// that, stored times are not compared with it. Either they or it are wrong, and
// the hour gives consumers the time to commit anew.
type clockSteps struct {
	wall, mono time.Time // last seen
	until      time.Time // by the monotonic clock
}

const clockStep = time.Hour

// calm takes a reading of both clocks and reports whether ages can be judged.
func (c *clockSteps) calm(wall, mono time.Time) bool {
	if !c.wall.IsZero() && wall.Sub(c.wall)-mono.Sub(c.mono) > clockStep {
		c.until = mono.Add(clockStep)
	}
	c.wall, c.mono = wall, mono
	return !mono.Before(c.until)
}
