package conn

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// Peers that send the beginning of a large packet and stay share one budget: who is beyond it is closed, everybody else
// is served, and all memory comes back. M7
func TestHalfPacketsAreBounded(t *testing.T) {
	const budget = 512 << 10
	handlers := make(chan *echo, 64)
	l, addr := serve(t, Config{InputBudget: budget}, func(*Conn, bool) Handler {
		h := newEcho(t)
		handlers <- h
		return h
	})
	served := dial(t, addr)
	exchange(t, served, lines(1, 100), 1000)
	<-handlers
	var peers []net.Conn
	var closed int
	for range 30 {
		c := dial(t, addr)
		peers = append(peers, c)
		h := <-handlers
		wrote, in := make(chan struct{}), l.stats.in.Load()
		go func() {
			defer close(wrote)
			c.Write(bytes.Repeat([]byte("x"), 100<<10)) //nolint:errcheck // the peer may be closed meanwhile
		}()
		waitFor(t, func() bool {
			select {
			case err := <-h.closed:
				if err != ErrInput {
					t.Errorf("closed with %v", err)
				}
				closed++
				return true
			default:
				return l.stats.in.Load()-in >= 100<<10
			}
		})
		if n := l.Stats().InputBytes; n > budget {
			t.Errorf("%d bytes are kept, the budget is %d", n, budget)
		}
		exchange(t, served, lines(3, 2000), 500)
		<-wrote
	}
	if n := l.Stats().InputClosed; closed == 0 || n != int64(closed) {
		t.Errorf("%d closed, %d counted", closed, n)
	}
	for _, c := range peers {
		c.Close()
	}
	waitFor(t, func() bool { return l.Stats().InputBytes == 0 })
	exchange(t, served, lines(2, 100_000), 50_000) // what is unfinished may take twice its size
	waitFor(t, func() bool { return l.Stats().InputBytes == 0 })
}

// A pause is ours, not the peer's: what it leaves in memory is kept beyond the budget too, and comes out whole.
func TestPausedInputIsKept(t *testing.T) {
	const budget = 16 << 10
	paused := make(chan *Conn, 16)
	l, addr := serve(t, Config{InputBudget: budget}, func(*Conn, bool) Handler {
		h := newEcho(t)
		pauses := 2 // once behind a first line, so that the next read finds all that has come meanwhile
		h.onData = func(c *Conn, _ []byte) error {
			if pauses > 0 {
				pauses--
				c.Pause()
				paused <- c
			}
			return nil
		}
		return h
	})
	type peer struct {
		net.Conn
		want []byte
	}
	var peers []peer
	var held []*Conn
	send := func(want []byte) {
		c := dial(t, addr)
		exchange(t, c, []byte("hello\n"), 10)
		here := <-paused
		before := l.Stats().InputBytes
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		here.Resume()
		held = append(held, <-paused)
		peers = append(peers, peer{c, want})
		waitFor(t, func() bool { return l.Stats().InputBytes > before })
	}
	send(lines(3, 1000))
	if n := l.Stats().InputBytes; n > budget/2 {
		t.Fatalf("%d bytes are kept, which is so many that the next read is a small one", n)
	}
	send(lines(15, 1000)) // is read at once, since half the budget is free
	if n := l.Stats().InputBytes; n <= budget {
		t.Fatalf("%d bytes are kept: within the budget, which proves nothing", n)
	}
	for range 8 { // and whoever comes now finds it used up
		send(lines(60, 1000))
	}
	for _, c := range held {
		c.Resume()
	}
	for _, c := range peers {
		got := make([]byte, len(c.want))
		if n, err := io.ReadFull(c, got); err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if !bytes.Equal(got, c.want) {
			t.Error("what came back differs")
		}
	}
	if n := l.Stats().InputClosed; n != 0 {
		t.Errorf("%d closed", n)
	}
}

// A large packet that never ends costs its sender the connection, however it trickles; one that ends does not.
func TestUnfinishedPacketIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = time.Minute
		l := NewLoop(Config{PacketTimeout: limit})
		h := newEcho(t)
		here, there := net.Pipe()
		l.Attach(there, func(*Conn, bool) Handler { return h })
		large := bytes.Repeat([]byte("x"), 2*smallInput)
		go func() { // what comes back is of no interest
			var sink [4096]byte
			for {
				if _, err := here.Read(sink[:]); err != nil {
					return
				}
			}
		}()
		for range 3 { // each within the time, together beyond it
			here.Write(large)
			time.Sleep(limit / 2)
			here.Write([]byte("\n"))
			time.Sleep(time.Second)
		}
		here.Write(large)
		start := time.Now()
		stop := make(chan struct{})
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
		err := <-h.closed
		if d := time.Since(start); err != ErrUnfinished || d < limit || d > limit+2*wheelTick {
			t.Errorf("closed with %v after %v", err, d)
		}
		if s := l.Stats(); s.InputClosed != 1 {
			t.Errorf("%+v", s)
		}
		close(stop)
		here.Close()
		l.Close(ErrStopped)
		if n := l.Stats().InputBytes; n != 0 {
			t.Errorf("%d bytes of input count as kept in the end", n)
		}
	})
}

// Connections come as fast as they are allowed to after a first handful, none is refused for it.
func TestAcceptRate(t *testing.T) {
	var p pace
	now := time.Unix(1000, 0)
	atOnce := 0
	for range 1000 {
		wait := p.delay(now, 100)
		if wait == 0 {
			atOnce++
		}
		now = now.Add(wait)
	}
	if d := now.Sub(time.Unix(1000, 0)); atOnce != 25 || d < 9700*time.Millisecond || d > 9800*time.Millisecond {
		t.Errorf("1,000 connections at 100 per second took %v, %d of them at once", d, atOnce)
	}
	l, addr := serve(t, Config{AcceptRate: 200}, func(*Conn, bool) Handler { return newEcho(t) })
	for range 60 {
		exchange(t, dial(t, addr), []byte("hello\n"), 10)
	}
	if s := l.Stats(); s.Accepted != 60 || s.Delayed == 0 {
		t.Errorf("%+v", s)
	}
}
