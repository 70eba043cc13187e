package mqtt

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/weir-io/weir/mqtt/conn"
)

// This file is how an owner hands parked connections back to the fronts that have their clients: doc.go, "Moving with open connections".

// handed is a parked connection of a front's. A nil one is none.
type handed struct {
	name    uint64
	loop    *conn.Loop    // counts unread
	flushed chan struct{} // closed once the front has, or will have, all that was written for the client
	done    chan struct{} // closed at the connection's end, behind which unread does not change

	mu        sync.Mutex
	releasing bool
	told      bool // flushed is closed
	dropped   bool // nobody comes for unread
	unread    []byte
	err       error // why the connection ended, io.EOF if the front ended it
}

// unreadMax bounds what a front has sent that its owner did not read: what waits in the front and in two sockets. An answer to another node has room for it.
const unreadMax = 256 << 10

var (
	errNotParked = errors.New("no connection of that name waits for another owner")
	errUnread    = errors.New("too much was sent to the former owner of the session")
)

func (f *handed) collects() bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.releasing
}

func (f *handed) take(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.dropped:
		return errNotParked
	case len(f.unread)+len(b) > unreadMax:
		return errUnread
	case !f.loop.Reserve(len(b)):
		return conn.ErrInput
	}
	f.unread = append(f.unread, b...)
	return nil
}

// drop gives up what was not read. Whoever takes the connection out of handing.leaves calls it.
func (f *handed) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loop.Unreserve(len(f.unread))
	f.dropped, f.unread = true, nil
}

func (f *handed) ended(err error) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	close(f.done)
}

// handing is the parked connections of fronts, by name.
type handing struct {
	mu     sync.Mutex
	parked map[uint64]*arrival
	leaves map[uint64]*handed // released, and not collected
}

func (g *handing) init() { g.parked, g.leaves = map[uint64]*arrival{}, map[uint64]*handed{} }

func (g *handing) add(a *arrival) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parked[a.h.front.name] = a
}

// claim decides who goes on with a parked connection: the front that it is released to, or whoever owns the session here. True for one of them, once.
func (g *handing) claim(a *arrival) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := a.h.front.name
	if g.parked[name] != a {
		return false
	}
	delete(g.parked, name)
	return true
}

// dropHanded ends a connection whose front has not come for it.
func (s *Server) dropHanded(a *arrival) {
	if s.handed.claim(a) {
		a.h.sendAway(a.c)
	}
}

// Release gives a parked connection back to its front, and answers with what the next owner of its session is to be told, once all that was written for the
// client is on its way. The former owner's side of Owners.Release.
func (s *Server) Release(ctx context.Context, link uint64) (state []byte, err error) {
	s.handed.mu.Lock()
	a := s.handed.parked[link]
	if a != nil {
		delete(s.handed.parked, link)
		s.handed.leaves[link] = a.h.front
	}
	s.handed.mu.Unlock()
	if a == nil {
		return nil, errNotParked
	}
	f := a.h.front
	time.AfterFunc(2*followTime, func() { s.endRelease(a) })
	f.mu.Lock()
	f.releasing = true
	f.mu.Unlock()
	a.home.cancel(a)
	a.c.Wake()
	select {
	case <-f.flushed:
		return mustCBOR(a.resume), nil
	case <-f.done:
	case <-ctx.Done():
	}
	a.c.Close(errMoved)
	s.endRelease(a)
	return nil, errNotParked
}

// endRelease forgets a connection that nobody collects any more. If its session is still here, it is lost.
func (s *Server) endRelease(a *arrival) {
	s.handed.mu.Lock()
	f := s.handed.leaves[a.h.front.name]
	delete(s.handed.leaves, a.h.front.name)
	s.handed.mu.Unlock()
	if f != nil {
		f.drop()
	}
	if s.far.join() {
		defer s.far.leave()
		s.lostParked(a)
	}
}

// letGo lets the front end the connection once it has everything.
func (h *handshake) letGo(c *conn.Conn) {
	h.mu.Lock()
	left := h.out != nil
	h.mu.Unlock()
	if left || c.Unsent() > 0 {
		c.WakeAfter(gateSoon)
		return
	}
	f := h.front
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.told {
		f.told = true
		close(f.flushed)
		c.Resume()
	}
}

// Collect answers, once the front has ended a connection that was released to it, with what was not read of it. The former owner's side of Owners.Collect.
func (s *Server) Collect(ctx context.Context, link uint64) (unread []byte, err error) {
	s.handed.mu.Lock()
	f := s.handed.leaves[link]
	delete(s.handed.leaves, link)
	s.handed.mu.Unlock()
	if f == nil {
		return nil, errNotParked
	}
	defer f.drop()
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !errors.Is(f.err, io.EOF) {
		return nil, errNotParked
	}
	return f.unread, nil
}
