package mqtt

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
)

// inBubble runs f with a server whose time is the bubble's: it stands still while anybody has work and jumps when
// all wait, so that an hour of silence costs nothing and a deadline is met to the millisecond. Connections are
// pipes, which the server serves as it does TLS and WebSocket.
func inBubble(t *testing.T, tweak func(*Config), f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := startAt(t, newPipeListener(), newFakeLog(t, 2), newFakeTable(), newFakeTable(), tweak)
		f(t, r)
		r.stop()
	})
}

// pipeListener accepts the far ends of pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
