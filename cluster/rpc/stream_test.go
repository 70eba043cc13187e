package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// far is a node that sends back what streams bring it.
func far(t *testing.T) (addr string, end func()) {
	t.Helper()
	cfg := Config{Self: self(9, "c")}
	l, err := Listen("127.0.0.1:0", cfg, &Stats{}, func(context.Context, net.Conn, Peer) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	streams := l.Streams()
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	running.Go(func() {
		for {
			c, err := streams.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				stop := context.AfterFunc(ctx, func() { c.Close() })
				defer stop()
				_, _ = io.Copy(c, c)
			})
		}
	})
	end = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(end)
	return l.Addr().String(), end
}

// C4: a stream to a node that is not reached goes through one that does, in both directions, until one end is gone; no further than that, and no more of them
// than are allowed.
func TestStreamThroughAThird(t *testing.T) {
	to, end := far(t)
	meant := UUID{15: 9}
	s := serve(t, Config{Self: self(1, "c"), MaxConnections: 3, Onward: func(ctx context.Context, id UUID) (net.Conn, error) {
		if id != meant {
			return nil, errors.New("not known")
		}
		return DialStream(ctx, to, Config{Self: self(1, "c")}, id, nil)
	}})
	dial := func(onward UUID) (net.Conn, error) {
		return DialStream(within(t), s.addr, Config{Self: self(2, "c")}, s.uuid, &onward)
	}
	var open []net.Conn
	for range 5 {
		c, err := dial(meant)
		if err != nil {
			break // the node between has enough to do
		}
		open = append(open, c)
		if _, err := c.Write([]byte("there and back")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 14)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "there and back" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if len(open) != 3 || s.stats.Refused[RefusedBusy].Load() == 0 {
		t.Errorf("%d streams at once, %d refused", len(open), s.stats.Refused[RefusedBusy].Load())
	}
	// Streams that are passed on leave room for calls.
	var got echo
	if _, err := client(t, s, Config{Self: self(3, "c")}).Call(within(t), methodEcho, echo{"x"}, nil, &got); err != nil {
		t.Error(err)
	}
	if err := open[0].(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(open[0]); err != nil || len(rest) > 0 {
		t.Errorf("the end comes back as %q, %v", rest, err)
	}
	if _, err := dial(UUID{15: 8}); err == nil {
		t.Error("a stream to a node that is not reached from there")
	}
	end()
	_ = open[1].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := open[1].Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the far end is gone: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
}

// Onward to nobody is a greeting that means nothing, and a node that does not know the field says nothing: the dialer's patience ends.
func TestStreamThroughANodeThatPassesNoneOn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var old sync.WaitGroup
	defer old.Wait()
	old.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, _, err := greetListener(c, self(1, "c")(), nil); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, c) // waits for what a stream begins with
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := DialStream(ctx, ln.Addr().String(), Config{Self: self(2, "c")}, UUID{15: 1}, &UUID{15: 9}); err == nil {
		c.Close()
		t.Error("it was passed on")
	}
}
