package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/weir-io/weir/mqtt/conn"
)

// link passes bytes between a client's connection and one to the owner of its session. It understands none of them: the
// owner keeps the session, its limits and its keep alive. What one side sends and the other does not take is linkBuffer in
// memory, then the sender is not read any more.
type link struct {
	home *home  // of the session
	node int32  // the owner, 0 if the link ends with it; does not change, nor does the next
	name uint64 // of the link, to the owner

	mu     sync.Mutex
	a      *arrival // until the owner has taken it
	c      [2]*conn.Conn
	flow   [2]flow // to each end
	stage  linkStage
	resume *originResume // of what goes on at the next owner
	unread []byte        // in front of what the client sends to him; counted as input
}

// The ends of a link.
const (
	clientSide = iota
	ownerSide
)

// flow is what is on its way to one end.
type flow struct {
	buf   *conn.Buffer
	held  bool // the other end is not read until buf has been taken
	ended bool // the other end is gone: nothing follows buf
	shut  bool // this end is gone
}

const linkBuffer = 64 << 10

// dialTime bounds how long one attempt to reach an owner takes.
const dialTime = 2 * time.Second

var (
	errNotTaken   = errors.New("the node does not own the session")
	errOtherEnd   = errors.New("the other end of the connection is gone")
	errClientGone = errors.New("the client has gone")
)

// passOn offers an arrival to the owner of its session. An error means that it could not be asked; what comes of it
// otherwise, the link finds out.
func (s *Server) passOn(ctx context.Context, a *arrival) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	nc, node, err := s.cfg.Owners.Dial(ctx, a.home.index)
	if err != nil {
		return err
	}
	l := &link{home: a.home, node: node, name: a.name, a: a}
	hello, ok := a.h.ask(a, l)
	if !ok {
		nc.Close()
		return nil
	}
	deadline, _ := ctx.Deadline()
	nc.SetWriteDeadline(deadline) //nolint:errcheck // the write says so
	if _, err := nc.Write(hello); err != nil {
		nc.Close()
		return err
	}
	nc.SetWriteDeadline(time.Time{}) //nolint:errcheck // as above
	return s.loop.Join(nc, func(c *conn.Conn) conn.Handler {
		c.SetDeadline(max(time.Until(a.until), time.Millisecond))
		l.mu.Lock()
		defer l.mu.Unlock()
		l.c[clientSide], l.c[ownerSide] = a.c, c
		return (*ownerEnd)(l)
	})
}

// abandon ends an attempt whose client has gone.
func (l *link) abandon() {
	l.mu.Lock()
	c := l.c[ownerSide]
	l.mu.Unlock()
	if c != nil {
		c.Close(errClientGone)
	}
}

// pour takes what came from one end, as far as there is room, and has the other one send it.
func (l *link) pour(from int, b []byte) (used int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to := 1 - from
	f := &l.flow[to]
	if f.shut || len(b) == 0 {
		return len(b)
	}
	if from == clientSide && l.stage != linkStays {
		l.c[from].Pause() // it is for the next owner
		return 0
	}
	if f.buf == nil {
		f.buf = conn.Get(min(len(b), linkBuffer))
	}
	used = min(len(b), max(0, linkBuffer-len(f.buf.B))) // what is there first may be more
	f.buf.B = append(f.buf.B, b[:used]...)
	if used < len(b) {
		f.held = true
		l.c[from].Pause()
	}
	l.c[to].Wake()
	return used
}

// first is for the client before anything from the owner.
func (l *link) first(b *conn.Buffer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flow[clientSide].buf = b
}

// drain hands what waits for an end to its connection, and closes that behind the last of it.
func (l *link) drain(to int) *conn.Buffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &l.flow[to]
	b := f.buf
	f.buf = nil
	if f.held {
		f.held = false
		l.c[1-to].Resume()
	}
	switch {
	case b != nil:
	case f.ended:
		l.c[to].Close(errOtherEnd)
	case to == ownerSide && l.stage == linkEnds:
		l.stage = linkEnded
		l.c[to].EndOutput()
	}
	return b
}

// shut notes that an end is gone.
func (l *link) shut(end int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := &l.flow[end]; f.buf != nil {
		conn.Put(f.buf)
		f.buf = nil
	}
	if f := &l.flow[end]; f.held {
		f.held = false
		l.c[1-end].Resume()
	}
	if end == clientSide {
		l.home.srv.loop.Unreserve(len(l.unread))
		l.unread = nil
	}
	l.flow[end].shut, l.flow[1-end].ended = true, true
	l.c[1-end].Wake()
}

// clientEnd is the client's connection's Handler once the owner has taken it.
type clientEnd link

// Data implements conn.Handler.
func (e *clientEnd) Data(_ *conn.Conn, b []byte) (int, error) {
	return (*link)(e).pour(clientSide, b), nil
}

// Wake implements conn.Handler.
func (e *clientEnd) Wake(c *conn.Conn) error {
	(*link)(e).moveOn(c)
	return nil
}

// Output implements conn.Handler.
func (e *clientEnd) Output(*conn.Conn) *conn.Buffer { return (*link)(e).drain(clientSide) }

// Closing implements conn.Handler: where the stream of packets stands is not known, so nothing can be said.
func (e *clientEnd) Closing(*conn.Conn, error) {}

// Closed implements conn.Handler.
func (e *clientEnd) Closed(_ *conn.Conn, err error) {
	s := e.home.srv
	s.stats.passed.Add(-1)
	e.home.removeLink((*link)(e))
	if err != io.EOF && !errors.Is(err, errOtherEnd) {
		s.cfg.Logger.Debug("connection of a client closed that was passed on", "why", err)
	}
	(*link)(e).shut(clientSide)
}

// ownerEnd is the Handler of the connection to the owner.
type ownerEnd link

// Data implements conn.Handler.
func (e *ownerEnd) Data(c *conn.Conn, b []byte) (int, error) {
	l := (*link)(e)
	if a := l.asking(); a != nil {
		if b[0] != taken {
			return 1, errNotTaken
		}
		c.SetDeadline(0)
		l.mu.Lock()
		l.a = nil
		l.mu.Unlock()
		l.home.addLink(l) // before somebody can close it
		if !a.h.handOver(a, l) {
			l.home.removeLink(l)
			return 1, errClientGone
		}
		return 1 + l.pour(ownerSide, b[1:]), nil
	}
	return l.pour(ownerSide, b), nil
}

func (l *link) asking() *arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.a
}

// Wake implements conn.Handler.
func (e *ownerEnd) Wake(*conn.Conn) error { return nil }

// Output implements conn.Handler.
func (e *ownerEnd) Output(*conn.Conn) *conn.Buffer { return (*link)(e).drain(ownerSide) }

// Closing implements conn.Handler.
func (e *ownerEnd) Closing(*conn.Conn, error) {}

// Closed implements conn.Handler. One that had not taken the client yet is asked again, or whoever owns the session by
// then.
func (e *ownerEnd) Closed(_ *conn.Conn, err error) {
	l := (*link)(e)
	if a := l.asking(); a != nil {
		if a.resume != nil && !errors.Is(err, errNotTaken) { // it may be of a build that knows no such thing
			a.h.sendAway(a.c)
			return
		}
		l.home.again(a, fmt.Errorf("owner ended the connection: %w", err))
		return
	}
	if !l.collect() {
		l.shut(ownerSide)
	}
}
