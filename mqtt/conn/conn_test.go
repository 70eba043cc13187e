package conn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each line with itself, until one pauses the connection. A line is what a packet is to MQTT: it may arrive
// in pieces.
type echo struct {
	t      testing.TB
	onWake func(c *Conn) error
	onData func(c *Conn, line []byte) error
	flood  int // bytes to answer a line with, instead

	busy   atomic.Int32
	mu     sync.Mutex
	out    *Buffer
	wakes  int
	closed chan error
}

func newEcho(t testing.TB) *echo { return &echo{t: t, closed: make(chan error, 2)} }

// enter fails the test when handler calls overlap.
func (e *echo) enter() func() {
	if e.busy.Add(1) != 1 {
		e.t.Error("handler calls overlap")
	}
	return func() { e.busy.Add(-1) }
}

func (e *echo) Data(c *Conn, b []byte) (used int, err error) {
	defer e.enter()()
	for {
		i := bytes.IndexByte(b[used:], '\n')
		if i < 0 {
			return used, nil
		}
		line := b[used : used+i+1]
		used += i + 1
		if e.onData != nil {
			if err := e.onData(c, line); err != nil {
				return used, err
			}
		}
		e.mu.Lock()
		if e.out == nil {
			e.out = Get(64)
		}
		if e.flood > 0 {
			e.out.B = append(e.out.B, make([]byte, e.flood)...)
		} else {
			e.out.B = append(e.out.B, line...)
		}
		e.mu.Unlock()
		if c.paused {
			return used, nil
		}
	}
}

func (e *echo) Wake(c *Conn) error {
	defer e.enter()()
	e.mu.Lock()
	e.wakes++
	e.mu.Unlock()
	if e.onWake != nil {
		return e.onWake(c)
	}
	return nil
}

func (e *echo) Output(*Conn) *Buffer {
	defer e.enter()()
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.out
	e.out = nil
	return b
}

func (e *echo) Closing(*Conn, error) { defer e.enter()() }

func (e *echo) Closed(_ *Conn, err error) {
	defer e.enter()()
	e.closed <- err
}

// serve runs a loop with a plain listener whose connections get handlers from make.
func serve(t testing.TB, cfg Config, accept Accept) (*Loop, string) {
	t.Helper()
	l := NewLoop(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Serve(ln, Transport{}, accept) }()
	t.Cleanup(func() {
		ln.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		l.Close(ErrStopped)
	})
	return l, ln.Addr().String()
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// exchange writes b in pieces and wants it back whole.
func exchange(t testing.TB, c net.Conn, b []byte, piece int) {
	t.Helper()
	go func() {
		for rest := b; len(rest) > 0; {
			n := min(piece, len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
	}()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		t.Fatal("what came back differs")
	}
}

func lines(n, size int) []byte {
	var b []byte
	for i := range n {
		line := bytes.Repeat([]byte{'a' + byte(i%26)}, size)
		b = append(append(b, line...), '\n')
	}
	return b
}

// Packets of any size in pieces of any size come through whole, over a descriptor and over a stream alike.
func TestBytesComeThrough(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) net.Conn{
		"descriptor": func(t *testing.T) net.Conn {
			_, addr := serve(t, Config{}, func(*Conn, bool) Handler { return newEcho(t) })
			return dial(t, addr)
		},
		"stream": func(t *testing.T) net.Conn {
			l := NewLoop(Config{})
			here, there := net.Pipe()
			l.Attach(there, func(*Conn, bool) Handler { return newEcho(t) })
			t.Cleanup(func() { here.Close(); l.Close(ErrStopped) })
			return here
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			for _, x := range []struct{ n, size, piece int }{
				{1, 0, 1}, {100, 3, 1}, {1000, 250, 64 << 10}, {3, 70_000, 1000}, {2, 700_000, 100_000}, {50, 2000, 3333},
			} {
				exchange(t, c, lines(x.n, x.size), x.piece)
			}
		})
	}
}

// Memory for a packet that is not whole is given back when it is.
func TestIdleConnectionOwnsNoBuffer(t *testing.T) {
	h := newEcho(t)
	made := make(chan *Conn, 1)
	asked := make(chan [2]bool, 1)
	h.onWake = func(c *Conn) error {
		asked <- [2]bool{c.carry != nil, c.out != nil}
		return nil
	}
	_, addr := serve(t, Config{}, func(c *Conn, _ bool) Handler { made <- c; return h })
	c := dial(t, addr)
	conn := <-made
	<-asked // the wake of a new connection
	exchange(t, c, lines(10, 20_000), 777)
	conn.Wake()
	if got := <-asked; got != [2]bool{} {
		t.Errorf("carry, out kept: %v", got)
	}
}

// A peer that does not read is closed, and costs nobody else anything. M7
func TestSlowPeer(t *testing.T) {
	slow, quick := newEcho(t), newEcho(t)
	slow.flood = 1 << 20
	var n atomic.Int32
	l, addr := serve(t, Config{WriteTimeout: 300 * time.Millisecond, Workers: 2}, func(*Conn, bool) Handler {
		if n.Add(1) == 1 {
			return slow
		}
		return quick
	})
	dead := dial(t, addr)
	dead.(*net.TCPConn).SetReadBuffer(4096)
	// Enough to fill the kernel's buffers; what is behind it stays unread at the server.
	dead.Write(bytes.Repeat([]byte("x\n"), 8))
	exchange(t, dial(t, addr), lines(5000, 100), 10_000)
	if err := <-slow.closed; err != ErrSlow {
		t.Errorf("closed with %v", err)
	}
	if s := l.Stats(); s.SlowClosed != 1 {
		t.Errorf("%+v", s)
	}
}

// While output waits, input does too: a peer cannot make the server hoard answers. M7
func TestReadingStopsWhileOutputWaits(t *testing.T) {
	h := newEcho(t)
	h.flood = 200 << 10
	var seen atomic.Int64
	h.onData = func(*Conn, []byte) error { seen.Add(1); return nil }
	_, addr := serve(t, Config{ReadBuffer: 64}, func(*Conn, bool) Handler { return h })
	c := dial(t, addr)
	const n = 400 // more than any kernel's buffers
	go c.Write(bytes.Repeat([]byte("0123456789abcde\n"), n))
	waitFor(t, func() bool { return seen.Load() > 0 })
	last := int64(-1)
	for now := seen.Load(); now != last; now = seen.Load() { // until it stands still
		last = now
		time.Sleep(100 * time.Millisecond)
	}
	if last == n {
		t.Fatalf("all %d packets were read though nothing was taken", n)
	}
	if _, err := io.ReadFull(c, make([]byte, n*h.flood)); err != nil { // and it goes on where it stopped
		t.Fatal(err)
	}
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain")
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	h := newEcho(t)
	resume := make(chan *Conn, 1)
	first := true
	h.onData = func(c *Conn, _ []byte) error {
		if first {
			first = false
			c.Pause()
			resume <- c
		}
		return nil
	}
	var seen atomic.Int64
	inner := h.onData
	h.onData = func(c *Conn, b []byte) error { seen.Add(1); return inner(c, b) }
	_, addr := serve(t, Config{ReadBuffer: 16}, func(*Conn, bool) Handler { return h })
	c := dial(t, addr)
	if _, err := c.Write(lines(20, 14)); err != nil {
		t.Fatal(err)
	}
	paused := <-resume
	if n := seen.Load(); n > 2 {
		t.Errorf("%d packets after the pause", n)
	}
	paused.Resume()
	waitFor(t, func() bool { return seen.Load() == 20 })
}

// Bytes and the end of them may come with one edge: reading the bytes must not forget the end.
func TestEndBehindBytes(t *testing.T) {
	for range 200 {
		h := newEcho(t)
		l := NewLoop(Config{})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("x\n")) // both before the connection is accepted
		c.(*net.TCPConn).CloseWrite()
		done := make(chan error, 1)
		go func() { done <- l.Serve(ln, Transport{}, func(*Conn, bool) Handler { return h }) }()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if got, err := io.ReadAll(c); string(got) != "x\n" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		c.Close()
		ln.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		l.Close(ErrStopped)
	}
}

// The reason for an end reaches the peer although it has sent what nobody reads any more.
func TestLastWordArrives(t *testing.T) {
	h := newEcho(t)
	h.onData = func(c *Conn, line []byte) error {
		h.mu.Lock()
		h.out = Get(64)
		h.out.B = append(h.out.B, "goodbye"...)
		h.mu.Unlock()
		return errors.New("enough")
	}
	_, addr := serve(t, Config{ReadBuffer: 64}, func(*Conn, bool) Handler { return h })
	c := dial(t, addr)
	c.Write(bytes.Repeat([]byte("x\n"), 20_000))
	got, err := io.ReadAll(c)
	if string(got) != "goodbye" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestMaxConnections(t *testing.T) {
	var full atomic.Int32
	l, addr := serve(t, Config{MaxConnections: 2, RefusalSlots: 1}, func(_ *Conn, f bool) Handler {
		if f {
			full.Add(1)
		}
		return newEcho(t)
	})
	var conns []net.Conn
	for range 3 {
		c := dial(t, addr)
		exchange(t, c, []byte("x\n"), 2) // the third is heard, so that it can be told
		conns = append(conns, c)
	}
	c := dial(t, addr)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a fourth connection lives: %d, %v", n, err)
	}
	if s := l.Stats(); full.Load() != 1 || s.OverLimit != 2 || s.Connections != 3 || s.Accepted != 4 {
		t.Errorf("%d heard, %+v", full.Load(), s)
	}
	conns[0].Close()
	waitFor(t, func() bool { return l.Stats().Connections == 2 })
}

// Every handler hears of its end once, with the reason, before Close returns.
func TestLoopClose(t *testing.T) {
	l := NewLoop(Config{})
	var handlers []*echo
	for range 50 {
		h := newEcho(t)
		handlers = append(handlers, h)
		_, there := net.Pipe()
		l.Attach(there, func(*Conn, bool) Handler { return h })
	}
	l.Close(ErrStopped)
	for _, h := range handlers {
		if err := <-h.closed; err != ErrStopped {
			t.Errorf("closed with %v", err)
		}
		if len(h.closed) != 0 {
			t.Error("closed twice")
		}
	}
	_, there := net.Pipe()
	l.Attach(there, func(*Conn, bool) Handler { return newEcho(t) })
	if _, err := there.Read(make([]byte, 1)); err == nil {
		t.Error("a connection was taken after Close")
	}
}

// Wakes from everywhere while bytes go through: handler calls never overlap (enter looks), none is lost.
func TestWakesDoNotOverlap(t *testing.T) {
	h := newEcho(t)
	made := make(chan *Conn, 1)
	_, addr := serve(t, Config{Workers: 4}, func(c *Conn, _ bool) Handler { made <- c; return h })
	c := dial(t, addr)
	conn := <-made
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				conn.Wake()
			}
		})
	}
	exchange(t, c, lines(2000, 50), 100)
	wg.Wait()
	h.mu.Lock()
	before := h.wakes
	h.mu.Unlock()
	conn.Wake()
	waitFor(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.wakes > before })
}

func TestDeadlines(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(c *Conn)
		talk  bool // the peer sends a byte each second
		want  error
		after time.Duration
	}{
		{"deadline", func(c *Conn) { c.SetDeadline(10 * time.Second) }, true, ErrDeadline, 10 * time.Second},
		{"idle", func(c *Conn) { c.SetIdle(90 * time.Second) }, false, ErrIdle, 90 * time.Second},
		{"far idle", func(c *Conn) { c.SetIdle(20 * time.Hour) }, false, ErrIdle, 20 * time.Hour}, // beyond the wheel's round
		{"busy", func(c *Conn) { c.SetIdle(3 * time.Second); c.SetDeadline(30 * time.Second) }, true, ErrDeadline, 30 * time.Second},
		{"lifted", func(c *Conn) { c.SetDeadline(time.Second); c.SetDeadline(0); c.SetIdle(5 * time.Second) }, false, ErrIdle, 5 * time.Second},
		{"paused peers are not idle", func(c *Conn) { c.SetIdle(time.Second); c.Pause(); c.SetDeadline(9 * time.Second) }, false, ErrDeadline, 9 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := NewLoop(Config{})
				h := newEcho(t)
				here, there := net.Pipe()
				start := time.Now()
				l.Attach(there, func(conn *Conn, _ bool) Handler { c.setup(conn); return h })
				stop := make(chan struct{})
				if c.talk {
					go func() {
						for {
							select {
							case <-stop:
								return
							case <-time.After(time.Second):
								here.Write([]byte("x"))
							}
						}
					}()
				}
				err := <-h.closed
				if d := time.Since(start); err != c.want || d < c.after || d > c.after+2*wheelTick {
					t.Errorf("closed with %v after %v, want %v after %v", err, d, c.want, c.after)
				}
				close(stop)
				here.Close()
				l.Close(ErrStopped)
			})
		})
	}
}

func TestWakeAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLoop(Config{})
		h := newEcho(t)
		var at []time.Duration
		start := time.Now()
		h.onWake = func(c *Conn) error {
			at = append(at, time.Since(start).Round(wheelTick))
			switch len(at) {
			case 1: // the wake of a new connection
				c.WakeAfter(5 * time.Second)
				c.WakeAfter(time.Second) // the sooner one stands
				c.WakeAfter(3 * time.Second)
			case 2:
				c.WakeAfter(time.Second)
			case 3:
				return io.EOF
			}
			return nil
		}
		_, there := net.Pipe()
		l.Attach(there, func(*Conn, bool) Handler { return h })
		<-h.closed
		if got := fmt.Sprint(at); got != "[0s 1s 2s]" {
			t.Errorf("woken at %s", got)
		}
		l.Close(ErrStopped)
	})
}

func TestBufferClasses(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 513, 4096, 100_000, 1 << 18, 1<<18 + 1, 1 << 20} {
		b := Get(n)
		if cap(b.B) < n || len(b.B) != 0 {
			t.Errorf("Get(%d): len %d, cap %d", n, len(b.B), cap(b.B))
		}
		b.B = append(b.B, make([]byte, n+1)...) // grown: filed by what it is now
		Put(b)
	}
	for range 100 {
		if b := Get(5000); cap(b.B) < 5000 || len(b.B) != 0 {
			t.Fatalf("len %d, cap %d", len(b.B), cap(b.B))
		}
	}
}

func TestGoIsBounded(t *testing.T) {
	l := NewLoop(Config{SlowWorkers: 3})
	var now, most, ran atomic.Int32
	for range 50 {
		l.Go(func() {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Millisecond)
			now.Add(-1)
			ran.Add(1)
		})
	}
	l.Close(ErrStopped) // waits for all of them
	if ran.Load() != 50 || most.Load() > 3 {
		t.Errorf("%d ran, %d at once", ran.Load(), most.Load())
	}
}
