package mqtt

import (
	"container/list"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/packet"
)

// arrival is a CONNECT on its way to where its session lives.
type arrival struct {
	c     *conn.Conn
	h     *handshake
	req   *packet.Connect
	home  *home
	until time.Time // then it is refused

	assigned string    // the client identifier that the server gave, or ""
	identity *Identity // once the client is authenticated, which it is where its session lives

	resume *originResume // no CONNECT: a connection that another owner of the session has served

	hello []byte        // what an owner elsewhere is told: origin and CONNECT, or what was not read of what goes on; owned by h.mu
	name  uint64        // of the connection to the owner, see origin.Link
	link  *link         // while it is asked; owned by h.mu
	at    *list.Element // in the gate; owned by the home's mu
}

// local says that the session ends with its connection, and so lives where that is.
func (a *arrival) local() bool { return !outlives(a.req) }

// outlives tells whether a CONNECT may find a session or leave one behind: then the session lives at its owner.
func outlives(req *packet.Connect) bool { return !req.CleanStart || req.SessionExpiry > 0 }

// wait notes that a CONNECT is on its way to its session; false when the peer has gone.
func (h *handshake) wait(a *arrival) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	if h.waiting == nil && a.resume != nil {
		h.srv.stats.moving.Add(1)
	}
	h.waiting, a.link = a, nil
	return true
}

// ask notes that the owner of the session is asked over l, and returns what to tell it; false when the peer has gone.
func (h *handshake) ask(a *arrival, l *link) (hello []byte, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.link = l
	return a.hello, !h.closed
}

// handOver gives the connection to the link; false when the peer has gone.
func (h *handshake) handOver(a *arrival, l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.doneLocked()
	h.dropUnreadLocked()
	h.link = l
	if h.out != nil { // what the former owner has written comes first
		l.first(h.out)
		h.out = nil
	}
	h.srv.stats.passed.Add(1)
	h.srv.stats.passedAll.Add(1)
	a.c.Wake()
	return true
}

// doneLocked lets go of a CONNECT that somebody has taken.
func (h *handshake) doneLocked() {
	if a := h.waiting; a != nil {
		if a.resume != nil {
			h.srv.stats.moving.Add(-1)
		}
		h.srv.loop.Unreserve(len(a.hello))
		h.waiting, a.hello = nil, nil
	}
}

// route sends a CONNECT where its session lives. raw is a view of the packet. The connection is paused.
func (s *Server) route(c *conn.Conn, h *handshake, req *packet.Connect, raw []byte) error {
	a := &arrival{c: c, h: h, req: req}
	if !s.name(a) {
		h.reject(req.Version, packet.ClientIdentifierNotValid) // MQTT3 [MQTT-3.1.3-8]
		s.stats.denied.Add(1)
		return errNoID
	}
	if s.cfg.Owners == nil {
		s.loop.Go(func() { s.connect(a) })
		return nil
	}
	c.SetDeadline(2 * s.cfg.ConnectTimeout) // to be told so once it has waited long enough
	a.until = time.Now().Add(s.cfg.ConnectTimeout)
	here := a.home.mine()
	if h.inner {
		if !here || a.local() {
			h.answer(notTaken)
			return errNotTaken
		}
		h.answer(taken)
	} else if !a.local() {
		o := originOf(c, h.listener)
		a.name = rand.Uint64() | 1
		o.Link = a.name
		a.hello = append(o.append(nil), raw...)
		if !s.loop.Reserve(len(a.hello)) {
			a.hello = nil
			h.reject(req.Version, packet.ServerBusy)
			s.stats.denied.Add(1)
			return conn.ErrInput
		}
	}
	if !h.wait(a) {
		return nil
	}
	if here || a.local() {
		s.loop.Go(func() { s.connect(a) })
	} else {
		a.home.arrive(a)
	}
	return nil
}

var errNoID = errors.New("a session that stays needs a client identifier")

// name gives a client an identifier that has none, and finds where its session lives; false when it needs one of its own.
func (s *Server) name(a *arrival) bool {
	req := a.req
	if req.ClientID == "" {
		if req.Version == packet.V311 && !req.CleanStart {
			return false
		}
		a.assigned = s.assignID(!a.local()) // MQTT5 [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
		req.ClientID = a.assigned
	}
	a.home = s.homeOf(req.ClientID)
	return true
}
