package deliver

import (
	"sync"
	"sync/atomic"
)

// task is a unit of work: bring a partition forward, or let a session catch up. run is called by one
// worker at a time.
type task interface {
	scheduling() *sched
	run(w *worker) (again bool)
}

// queue is the workers' run queue. A task stands in it at most once: scheduling one that waits is
// free, and one that runs is noted to run again. Pushing never blocks, so commit wake-ups may.
type queue struct {
	mu     sync.Mutex
	wake   sync.Cond
	tasks  []task // ring
	head   int
	n      int
	closed bool
}

func newQueue() *queue {
	q := &queue{tasks: make([]task, 64)}
	q.wake.L = &q.mu
	return q
}

func (q *queue) push(t task) {
	q.mu.Lock()
	if q.n == len(q.tasks) {
		grown := make([]task, 2*q.n)
		n := copy(grown, q.tasks[q.head:])
		copy(grown[n:], q.tasks[:q.head])
		q.tasks, q.head = grown, 0
	}
	q.tasks[(q.head+q.n)%len(q.tasks)] = t
	q.n++
	q.mu.Unlock()
	q.wake.Signal()
}

// pop waits for a task; false when the queue is closed.
func (q *queue) pop() (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 && !q.closed {
		q.wake.Wait()
	}
	if q.closed {
		return nil, false
	}
	t := q.tasks[q.head]
	q.tasks[q.head] = nil
	q.head = (q.head + 1) % len(q.tasks)
	q.n--
	return t, true
}

func (q *queue) open() {
	q.mu.Lock()
	q.closed = false
	q.mu.Unlock()
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake.Broadcast()
}

// sched is a task's scheduling state.
type sched struct{ state atomic.Int32 }

func (s *sched) scheduling() *sched { return s }

const (
	schedIdle int32 = iota
	schedQueued
	schedRunning
	schedAgain // running, and to run once more
)

// schedule makes a task run soon. What was true before the call is seen by that run.
func (h *Hub) schedule(t task) {
	s := t.scheduling()
	for {
		switch s.state.Load() {
		case schedQueued, schedAgain:
			return
		case schedIdle:
			if s.state.CompareAndSwap(schedIdle, schedQueued) {
				h.queue.push(t)
				return
			}
		case schedRunning:
			if s.state.CompareAndSwap(schedRunning, schedAgain) {
				return
			}
		}
	}
}

// runTask runs a task that was popped; it goes to the back of the queue when there is more to do.
func (w *worker) runTask(t task) {
	s := t.scheduling()
	s.state.Store(schedRunning)
	if again := t.run(w); !again && s.state.CompareAndSwap(schedRunning, schedIdle) {
		return
	}
	s.state.Store(schedQueued)
	w.h.queue.push(t)
}
