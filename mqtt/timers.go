package mqtt

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// What a timer is for.
type due uint8

const (
	dueWill due = iota
	dueExpiry
)

// timerDue acts on a client that is still away since the timer was set.
func (s *Server) timerDue(cl *client, epoch uint32, what due) {
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	cl.mu.Lock()
	stale := cl.epoch != epoch || cl.c != nil || cl.s == nil
	will, who := cl.will, cl.author()
	if !stale && what == dueWill {
		cl.will = nil
	}
	cl.mu.Unlock()
	switch {
	case stale:
	case what == dueExpiry:
		s.stats.sessionsExpired.Add(1)
		cl.endSession()
	case will != nil:
		s.wills.publish(who, will)
		cl.save()
	}
}

// timers is one heap for all absent sessions, on the monotonic clock.
type timers struct {
	mu   sync.Mutex
	heap timerHeap
	wake chan struct{}
}

type timer struct {
	at    time.Time
	cl    *client
	epoch uint32
	what  due
}

type timerHeap []timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = timer{}
	*h = old[:len(old)-1]
	return t
}

func (t *timers) add(d time.Duration, cl *client, epoch uint32, what due) {
	t.mu.Lock()
	heap.Push(&t.heap, timer{time.Now().Add(d), cl, epoch, what})
	first := t.heap[0].cl == cl
	t.mu.Unlock()
	if first {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// next returns a due timer, or how long until one is.
func (t *timers) next(now time.Time) (timer, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		return timer{}, time.Hour
	}
	if wait := t.heap[0].at.Sub(now); wait > 0 {
		return timer{}, wait
	}
	return heap.Pop(&t.heap).(timer), 0
}

func (t *timers) run(ctx context.Context, fire func(*client, uint32, due)) {
	sleep := time.NewTimer(time.Hour)
	defer sleep.Stop()
	for {
		d, wait := t.next(time.Now())
		if wait == 0 {
			fire(d.cl, d.epoch, d.what)
			continue
		}
		sleep.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-sleep.C:
		}
	}
}

// dirtySet collects clients whose cursor moved.
type dirtySet struct {
	mu  sync.Mutex
	set map[*client]struct{}
}

func (d *dirtySet) add(cl *client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.set == nil {
		d.set = map[*client]struct{}{}
	}
	d.set[cl] = struct{}{}
}

func (d *dirtySet) take() []*client {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]*client, 0, len(d.set))
	for cl := range d.set {
		list = append(list, cl)
	}
	clear(d.set)
	return list
}
