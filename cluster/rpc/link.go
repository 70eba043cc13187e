package rpc

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrUnreachable: the peer could not be asked, or its answer was lost. Whether it did what it was asked is not known.
var ErrUnreachable = errors.New("node cannot be reached")

// link writes frames to one connection, from any goroutine, in the order of send.
type link struct {
	c       net.Conn
	timeout time.Duration
	stats   *Stats
	heard   atomic.Int64 // when bytes came last, or were due for the first time since: nanoseconds since began
	began   time.Time

	out  chan frame
	dead chan struct{} // closed by fail
	idle chan struct{} // closed when nothing is written any more
	once sync.Once
	err  error // why, set before dead is closed
}

// outQueue is how many frames wait for the socket before their senders do.
const outQueue = 64

func newLink(c net.Conn, cfg Config, stats *Stats) *link {
	return &link{c: c, timeout: cfg.WriteTimeout, stats: stats, began: time.Now(), out: make(chan frame, outQueue), dead: make(chan struct{}), idle: make(chan struct{})}
}

// fail ends the connection; the first reason stays.
func (l *link) fail(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.dead)
		l.c.Close()
	})
}

// send queues f; its parts must not change until sent, which the caller learns from the answer or from dead.
func (l *link) send(f frame, done <-chan struct{}) error {
	select {
	case l.out <- f:
		return nil
	case <-l.dead:
		return l.err
	case <-done:
		return errGaveUp
	}
}

var errGaveUp = errors.New("gave up before it was sent")

// write is the connection's writer. It ends when the link is dead.
func (l *link) write() {
	defer close(l.idle)
	scratch := make([]byte, 0, 512)
	for {
		select {
		case f := <-l.out:
			_ = l.c.SetWriteDeadline(time.Now().Add(l.timeout))
			n, err := f.write(l.c, scratch)
			l.stats.Sent.Add(n)
			f.release()
			if err != nil {
				l.fail(fmt.Errorf("%w: write: %w", ErrUnreachable, err))
				return
			}
		case <-l.dead:
			return
		}
	}
}

// hear notes that something came, or that nothing was due until now.
func (l *link) hear() { l.heard.Store(int64(time.Since(l.began))) }

// silent is for how long nothing has come that was due.
func (l *link) silent() time.Duration { return time.Since(l.began) - time.Duration(l.heard.Load()) }

// listening is the link's connection as it is read.
type listening struct{ *link }

func (l listening) Read(b []byte) (int, error) {
	n, err := l.c.Read(b)
	if n > 0 {
		l.hear()
	}
	return n, err
}

const readBuffer = 16 << 10

// read calls fn with each frame until the connection ends; fn owns the frame.
func (l *link) read(fn func(frame) error) {
	r := bufio.NewReaderSize(listening{l}, readBuffer)
	for {
		f, err := readFrame(r)
		if err == nil {
			l.stats.Received.Add(int64(headerBytes + len(f.control) + len(f.raw)))
			err = fn(f)
		}
		if err != nil {
			l.fail(fmt.Errorf("%w: read: %w", ErrUnreachable, err))
			return
		}
	}
}
