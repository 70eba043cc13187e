package mqtt

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// This file is how open connections come to the next owner of their session: doc.go, "Moving with open connections".

// Adopter is an Authorizer that can take over whom another node has authenticated. Without it connections do not move with their sessions.
type Adopter interface {
	// Adopt gives the identity what it may do here. Its errors are those of Authenticate.
	Adopt(id Identity) (Identity, error)
}

// originResume is what the former owner says of a connection that goes on. Numbers of fields are never reused.
type originResume struct {
	Client     string    `cbor:"1,keyasint"`
	Mark       uint64    `cbor:"2,keyasint"` // of the session's record, which nobody has come for since
	IdleMS     int64     `cbor:"3,keyasint,omitempty"`
	Name       string    `cbor:"4,keyasint,omitempty"`
	Principal  string    `cbor:"5,keyasint,omitempty"`
	Host       string    `cbor:"6,keyasint,omitempty"`
	Version    byte      `cbor:"7,keyasint"`
	MaxPacket  uint32    `cbor:"8,keyasint,omitempty"`
	Receive    uint16    `cbor:"9,keyasint"`
	AliasesOut uint16    `cbor:"10,keyasint,omitempty"`
	Aliases    [][]byte  `cbor:"11,keyasint,omitempty"`
	Granted    [3]uint32 `cbor:"12,keyasint"` // as session.Granted
}

// resumption is what the next owner is told of the client's connection; under mu.
func (cl *client) resumption(idle time.Duration) *originResume {
	c := cl.s.Carry()
	g := c.Granted
	r := &originResume{
		Client: cl.id, Mark: cl.srv.homeOf(cl.id).handovers.markOf(cl.id), IdleMS: idle.Milliseconds(), Version: c.Version, MaxPacket: c.MaxPacket,
		Receive: c.ReceiveMaximum, AliasesOut: c.AliasMaximum, Aliases: c.Aliases, Granted: [3]uint32{g.MaxPacket, uint32(g.ReceiveMaximum), uint32(g.AliasMaximum)},
	}
	if id := cl.identity; id != nil {
		r.Name, r.Principal, r.Host = id.Name, id.Principal, id.Host
	}
	return r
}

func (r *originResume) carried() session.Carried {
	return session.Carried{
		Version: r.Version, MaxPacket: r.MaxPacket, ReceiveMaximum: r.Receive, AliasMaximum: r.AliasesOut, Aliases: r.Aliases,
		Granted: session.Granted{MaxPacket: r.Granted[0], ReceiveMaximum: uint16(r.Granted[1]), AliasMaximum: uint16(r.Granted[2])},
	}
}

// connect is a CONNECT that would lead to the same session.
func (r *originResume) connect() *packet.Connect {
	return &packet.Connect{Version: r.Version, ClientID: r.Client}
}

var errResume = errors.New("what another node says of a connection that goes on makes no sense")

// resumed takes a connection that has begun on another node.
func (h *handshake) resumed(c *conn.Conn, r *originResume) error {
	if r.Client == "" || strings.ContainsRune(r.Client, 0) || r.Mark == 0 || r.IdleMS < 0 {
		return fmt.Errorf("%w: client %.50q", errResume, r.Client)
	}
	s := h.srv
	a := &arrival{c: c, h: h, req: r.connect(), home: s.homeOf(r.Client), until: time.Now().Add(s.cfg.ConnectTimeout), resume: r}
	a.identity = &Identity{ClientID: r.Client, Name: r.Name, Principal: r.Principal, Host: r.Host}
	c.SetDeadline(2 * s.cfg.ConnectTimeout)
	c.Pause()
	if !a.home.mine() {
		h.answer(notTaken)
		return errNotTaken
	}
	h.answer(taken)
	if h.wait(a) {
		s.loop.Go(func() { a.home.arrive(a) })
	}
	return nil
}

// reattach gives a connection that has waited the session that it belongs to, if nobody has come for that meanwhile. It is at the end of the road: where it
// cannot, the client connects again.
func (s *Server) reattach(a *arrival) {
	if a.h.front != nil && !s.handed.claim(a) {
		return // its front has come for it
	}
	cl := s.registry.acquire(s, a.req.ClientID)
	defer s.registry.release(cl)
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	if !cl.goOn(a) {
		a.h.sendAway(a.c)
	}
}

// goOn is begin for a connection that has begun elsewhere. connecting is held.
func (cl *client) goOn(a *arrival) bool {
	s, c := cl.srv, a.c
	id, err := s.adopt(a.identity)
	if err != nil {
		s.cfg.Logger.Debug("a client that came with its session is not known here", "client", cl.id, "err", err)
		return false
	}
	cl.lock()
	marks := &a.home.handovers
	if cl.s == nil || cl.c != nil || cl.local || cl.leaving || !cl.durable || marks.markOf(cl.id) != a.resume.Mark || !cl.s.Resumed(a.resume.carried()) {
		cl.unlock()
		return false
	}
	marks.setMark(cl.id, 0)
	marks.setLink(cl, a.h.linkName())
	cl.epoch++
	cl.c = c
	cl.live.Store(c)
	if cl.identity = id; id != &nobody {
		id.ClientID = cl.id
	}
	cl.closedAt, cl.polite, cl.stopped, cl.local = 0, false, s.stopping.Load(), false
	cl.heldSince, cl.atWindow, cl.link, cl.parking = 0, false, a.h.flags(), notParking
	cl.willChecked, cl.restored = false, false
	cl.resending, cl.resendWait = false, false
	cl.lend()
	cl.unlock()
	cl.dropForbidden()
	if !a.h.settle(cl, time.Duration(a.resume.IdleMS)*time.Millisecond) {
		cl.Closed(c, io.EOF)
		return true
	}
	s.stats.resumed.Add(1)
	cl.readCursor() // it may have moved on while the connection waited
	cl.saveThen(s.absent.connecting())
	cl.attach(c, false)
	c.Wake()
	return true
}

// adopt gives a client that another node has authenticated what it may do here.
func (s *Server) adopt(id *Identity) (*Identity, error) {
	if s.cfg.Auth == nil {
		return &nobody, nil
	}
	adopter, ok := s.cfg.Auth.(Adopter)
	if !ok {
		return nil, ErrNotAuthorized
	}
	got, err := adopter.Adopt(*id)
	return &got, err
}
