package conn

import (
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Config bounds a Loop. Zero fields take the values of Defaults.
type Config struct {
	Workers         int           // goroutines that run handlers
	SlowWorkers     int           // most goroutines that run blocking work at once
	ReadBuffer      int           // bytes of each worker's read buffer
	OutputHighWater int           // unsent bytes above which a connection's input is left alone
	WriteTimeout    time.Duration // how long a peer may take nothing while output waits
	PacketTimeout   time.Duration // from the first bytes of a large packet to its last
	InputBudget     int64         // bytes of input that could not be used yet, all connections together
	AcceptRate      int           // connections accepted per second; 0: no limit
	MaxConnections  int
	RefusalSlots    int // connections beyond the maximum that are heard, to be told so
	Logger          *slog.Logger
}

// Defaults fills what is not set.
func (c Config) Defaults() Config {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.Workers, max(2, runtime.GOMAXPROCS(0)))
	set(&c.SlowWorkers, 16)
	set(&c.ReadBuffer, 64<<10)
	set(&c.OutputHighWater, 64<<10)
	set(&c.MaxConnections, 100_000)
	set(&c.RefusalSlots, 64)
	if c.InputBudget <= 0 {
		c.InputBudget = 64 << 20
	}
	if c.PacketTimeout <= 0 {
		c.PacketTimeout = 5 * time.Minute
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = 20 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Stats counts since the loop was made.
type Stats struct {
	Connections, Accepted, OverLimit, BytesIn, BytesOut, SlowClosed int64

	InputBytes  int64 // now: input that could not be used yet
	InputClosed int64 // closed with ErrInput or ErrUnfinished
	Delayed     int64 // accepted later because of AcceptRate
}

// Loop runs connections. Make one with NewLoop and stop it with Close.
type Loop struct {
	cfg   Config
	wheel wheel
	poll  poller
	wg    sync.WaitGroup
	done  chan struct{}

	queue runQueue
	slow  slowPool

	mu     sync.Mutex // guards the set of connections and closed
	conns  map[*Conn]struct{}
	closed bool
	empty  chan struct{} // closed when the set is empty after Close

	input atomic.Int64 // see input.go
	pace  struct {
		sync.Mutex
		pace
	}

	stats struct {
		open, accepted, refused, in, out, slow, input, delayed atomic.Int64
	}
}

// NewLoop starts the workers and the wheel. The poller follows with the first listener that needs it.
func NewLoop(cfg Config) *Loop {
	l := &Loop{cfg: cfg.Defaults(), done: make(chan struct{}), conns: map[*Conn]struct{}{}, empty: make(chan struct{})}
	l.queue.init()
	l.wheel.init(time.Now())
	l.slow.max = l.cfg.SlowWorkers
	l.start(func() { l.wheel.run(l.done) })
	for range l.cfg.Workers {
		l.start(l.work)
	}
	return l
}

func (l *Loop) start(f func()) {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		f()
	}()
}

// Close ends every connection with err as the reason given to its handler, and returns when all handlers
// have been told and every goroutine of the loop has ended. Listeners must be closed first.
func (l *Loop) Close(err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	if len(l.conns) == 0 {
		close(l.empty)
	}
	for c := range l.conns {
		c.Close(err)
	}
	l.mu.Unlock()
	<-l.empty
	l.slow.wait()
	close(l.done)
	l.queue.close()
	l.poll.close()
	l.wg.Wait()
}

// Stats returns the counters. Safe for concurrent use.
func (l *Loop) Stats() Stats {
	s := &l.stats
	return Stats{
		Connections: s.open.Load(), Accepted: s.accepted.Load(), OverLimit: s.refused.Load(), BytesIn: s.in.Load(), BytesOut: s.out.Load(),
		SlowClosed: s.slow.Load(), InputBytes: l.input.Load(), InputClosed: s.input.Load(), Delayed: s.delayed.Load(),
	}
}

// Go runs f, which may block, outside the workers; at most SlowWorkers run at once, the rest wait in order.
// A handler that calls it normally pauses its connection first and resumes it in f. Once Close has ended the
// connections, f is dropped.
func (l *Loop) Go(f func()) { l.slow.run(f) }

// add registers a new connection; false when the loop is closed.
func (l *Loop) add(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.conns[c] = struct{}{}
	if !c.inner {
		l.stats.open.Add(1)
	}
	return true
}

func (l *Loop) remove(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if !c.inner {
		l.stats.open.Add(-1)
	}
	if l.closed && len(l.conns) == 0 {
		close(l.empty)
	}
}

// work is one worker. Its read buffer is the only large one that input passes through.
func (l *Loop) work() {
	w := &worker{buf: make([]byte, l.cfg.ReadBuffer)}
	for {
		c := l.queue.pop()
		if c == nil {
			return
		}
		c.run(w)
	}
}

type worker struct{ buf []byte }

// runQueue holds the connections that have something to do, each at most once, linked through themselves.
type runQueue struct {
	mu         sync.Mutex
	cond       sync.Cond
	head, tail *Conn
	waiting    int
	closed     bool
}

func (q *runQueue) init() { q.cond.L = &q.mu }

func (q *runQueue) push(c *Conn) {
	q.mu.Lock()
	c.next = nil
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
	wake := q.waiting > 0
	q.mu.Unlock()
	if wake {
		q.cond.Signal()
	}
}

// pop waits for a connection; nil once the queue is closed and empty.
func (q *runQueue) pop() *Conn {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == nil {
		if q.closed {
			return nil
		}
		q.waiting++
		q.cond.Wait()
		q.waiting--
	}
	c := q.head
	if q.head = c.next; q.head == nil {
		q.tail = nil
	}
	c.next = nil
	return c
}

func (q *runQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.cond.Broadcast()
}

// slowPool runs blocking work on goroutines that exist only while there is some.
type slowPool struct {
	mu      sync.Mutex
	wg      sync.WaitGroup
	queue   []func()
	running int
	max     int
	closed  bool // nothing new is taken
}

func (p *slowPool) run(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if p.running == p.max {
		p.queue = append(p.queue, f)
		return
	}
	p.running++
	p.wg.Add(1)
	go p.loop(f)
}

func (p *slowPool) loop(f func()) {
	defer p.wg.Done()
	for {
		f()
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.running--
			p.queue = nil
			p.mu.Unlock()
			return
		}
		f, p.queue = p.queue[0], p.queue[1:]
		p.mu.Unlock()
	}
}

// wait lets what was taken finish and takes nothing more.
func (p *slowPool) wait() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wg.Wait()
}
