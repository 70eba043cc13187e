package rpc

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A connection on which nothing comes that is due is made anew, and one that brings other answers is kept.
func TestSilentConnectionIsMadeAnew(t *testing.T) {
	s := serve(t, Config{Self: self(1, "c")})
	cfg := Config{Self: self(2, "c"), Silent: 300 * time.Millisecond}
	c := client(t, s, cfg)
	conn := func() *clientConn {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.conn
	}
	echoes := func() {
		t.Helper()
		if _, err := c.Call(within(t), methodEcho, echo{"x"}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(limit time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if _, err := c.Call(ctx, methodWait, echo{}, nil, nil); !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
	}
	echoes()
	first := conn()
	first.heard.Store(-int64(time.Hour)) // idle for long: nothing was due
	wait(time.Millisecond)
	select {
	case <-first.dead:
		t.Fatal("an idle connection was given up")
	default:
	}
	stop, talking := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(talking)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := c.Call(t.Context(), methodEcho, echo{"x"}, nil, nil); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	wait(3 * cfg.Silent)
	close(stop)
	<-talking
	if conn() != first {
		t.Fatal("a connection was given up that brings answers")
	}
	wait(2 * cfg.Silent)
	select {
	case <-first.dead:
	case <-within(t).Done():
		t.Fatal("a connection is kept on which nothing comes")
	}
	echoes()
	if conn() == first {
		t.Error("it is not made anew")
	}
}
