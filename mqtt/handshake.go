package mqtt

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/packet"
)

// handshake is the handler of a connection until its CONNECT is accepted. It reads one packet of at most
// 64 KiB, within ConnectTimeout, and lets the rest wait while the client is authenticated elsewhere.
type handshake struct {
	srv      *Server
	passed   *origin // where the client really is, if another node passes it on; set with inner
	full     bool    // beyond MaxConnections: say so and close
	inner    bool    // another node opened the connection
	answered bool    // and has been told whether the client is taken
	parked   bool    // the client has had a session with an owner, and waits for the next
	front    *handed // of a parked one whose client another node has
	listener byte    // kind of listener it came through

	mu      sync.Mutex // between the worker and the goroutine that connects
	waiting *arrival   // the CONNECT, until somebody has taken it
	cl      *client    // set when CONNECT was accepted
	link    *link      // set when the session's owner has taken it
	idle    time.Duration
	refuse  error // set when it was refused
	closed  bool
	out     *conn.Buffer
	unread  []byte // in front of what the connection has: of a parked one; counted as input
}

// linkName is what the front that has the client's socket calls its connection here; 0 where it has no name, or the socket is here.
func (h *handshake) linkName() uint64 {
	if h.passed == nil {
		return 0
	}
	return h.passed.Link
}

// flags is what a client's connection that came this way is.
func (h *handshake) flags() (f linkFlags) {
	if h.inner {
		f |= fromFront
	}
	return f
}

// acceptOn makes the handlers of connections that come through one listener.
func (s *Server) acceptOn(l Listener) conn.Accept {
	var kind byte
	if l.TLS != nil {
		kind |= overTLS
	}
	if l.WebSocket {
		kind |= overWebSocket
	}
	return func(c *conn.Conn, full bool) conn.Handler {
		c.SetDeadline(s.cfg.ConnectTimeout)
		return &handshake{srv: s, full: full, listener: kind}
	}
}

var (
	errNotConnect = errors.New("the first packet is not CONNECT")
	errFull       = errors.New("the server is at its maximum of connections")
)

// Data implements conn.Handler.
func (h *handshake) Data(c *conn.Conn, b []byte) (int, error) {
	switch {
	case h.front.collects():
		return len(b), h.front.take(b)
	case h.parked:
		c.Pause()
		return 0, nil
	}
	if h.inner && h.passed == nil {
		o, size, err := readOrigin(b)
		if err != nil || size == 0 {
			return 0, err
		}
		h.passed = o
		if o.Shares != nil {
			return size, h.hostShares(c, o.Shares)
		}
		if o.Resume != nil {
			return size, h.resumed(c, o.Resume)
		}
		used, err := h.connectPacket(c, b[size:])
		return size + used, err
	}
	return h.connectPacket(c, b)
}

func (h *handshake) connectPacket(c *conn.Conn, b []byte) (int, error) {
	f, err := packet.Split(b, min(preAuthPacket, h.srv.cfg.MaxPacket))
	if err == packet.ErrShort {
		return 0, nil
	}
	if err == nil && f.Type() != packet.CONNECT {
		err = errNotConnect // MQTT5 [MQTT-3.1.0-1]
	}
	if err != nil {
		return 0, err
	}
	req, err := packet.DecodeConnect(f)
	if err != nil {
		h.answerBad(f, err)
		return f.Size, err
	}
	if h.full {
		h.reject(req.Version, packet.ServerBusy)
		return f.Size, errFull
	}
	if h.srv.away.Load() && !h.inner { // one that is passed on goes back to its front, which waits for the next owner
		return f.Size, errMoved
	}
	c.Pause()
	return f.Size, h.srv.route(c, h, req, b[:f.Size])
}

// answerBad says what is wrong where the client may understand it. // MQTT5 [MQTT-3.1.4-1] [MQTT-3.1.4-2]
func (h *handshake) answerBad(f packet.Frame, err error) {
	var pe *packet.Error
	if !errors.As(err, &pe) {
		return
	}
	if err == packet.ErrVersion {
		h.reject(packet.V311, pe.Reason) // MQTT3 [MQTT-3.1.2-2]: return code 1
		return
	}
	if len(f.Body) > 6 && f.Body[6] == packet.V5 {
		h.reject(packet.V5, pe.Reason)
	}
}

func (h *handshake) reject(version byte, r packet.Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answerLocked(taken)
	h.out.B = packet.AppendConnack(h.out.B, &packet.Connack{Reason: r}, version)
}

// answerLocked tells the front that passed the client on whether it is taken, and gives the output a buffer.
func (h *handshake) answerLocked(verdict byte) {
	if h.out == nil {
		h.out = conn.Get(64)
	}
	if h.inner && !h.answered {
		h.answered = true
		h.out.B = append(h.out.B, verdict)
	}
}

func (h *handshake) answer(verdict byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answerLocked(verdict)
}

// Wake implements conn.Handler: once the verdict is there, the connection gets its client or its end.
func (h *handshake) Wake(c *conn.Conn) error {
	if h.front.collects() {
		h.letGo(c)
		return nil
	}
	h.mu.Lock()
	cl, refuse, l, unread, left := h.cl, h.refuse, h.link, h.unread, h.out != nil
	h.mu.Unlock()
	switch {
	case refuse != nil:
		return refuse
	case l != nil:
		c.SetDeadline(0)
		c.SetHandler((*clientEnd)(l))
		c.Resume()
		return nil
	case cl == nil:
		return nil
	}
	c.SetDeadline(0)
	if left {
		return nil // what the former owner has written comes first: Output wakes the connection behind it
	}
	c.Unread(unread)
	h.dropUnread()
	c.SetIdle(h.idle)
	c.SetHandler(cl)
	c.Resume()
	return cl.Wake(c)
}

func (h *handshake) dropUnread() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropUnreadLocked()
}

func (h *handshake) dropUnreadLocked() {
	h.srv.loop.Unreserve(len(h.unread))
	h.unread = nil
}

// Output implements conn.Handler.
func (h *handshake) Output(c *conn.Conn) *conn.Buffer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.out; b != nil {
		h.out = nil
		if h.cl != nil {
			c.Wake()
		}
		return b
	}
	if h.cl != nil {
		return h.cl.Output(c)
	}
	return nil
}

// Closing implements conn.Handler.
func (h *handshake) Closing(c *conn.Conn, err error) {
	h.mu.Lock()
	cl := h.cl
	h.mu.Unlock()
	if cl != nil {
		cl.Closing(c, err)
	}
}

// Closed implements conn.Handler.
func (h *handshake) Closed(c *conn.Conn, err error) {
	h.mu.Lock()
	h.closed = true
	h.front.ended(err)
	cl, l, a := h.cl, h.link, h.waiting
	var asked *link
	if a != nil {
		asked = a.link
	}
	h.doneLocked()
	h.dropUnreadLocked()
	if h.out != nil {
		conn.Put(h.out)
		h.out = nil
	}
	h.mu.Unlock()
	switch {
	case cl != nil:
		cl.Closed(c, err)
		return
	case l != nil:
		(*clientEnd)(l).Closed(c, err)
		return
	case a != nil:
		a.home.cancel(a)
		if h.front != nil {
			h.srv.handed.claim(a)
		}
		if a.resume != nil && !h.front.collects() {
			h.srv.loop.Go(func() { h.srv.lostParked(a) })
		}
	}
	if asked != nil {
		asked.abandon()
	}
	if err != io.EOF {
		h.srv.stats.handshakeErrors.Add(1)
		h.srv.cfg.Logger.Debug("connection ended before it was accepted", "err", err)
	}
}

// deny ends the handshake with a refusal. // MQTT5 [MQTT-3.2.2-6]: session present is 0; [MQTT-3.2.2-7]: then close
func (h *handshake) deny(c *conn.Conn, version byte, r packet.Reason) {
	h.srv.stats.denied.Add(1)
	h.reject(version, r)
	h.mu.Lock()
	h.refuse = &packet.Error{Reason: r, Detail: "connection refused"}
	h.mu.Unlock()
	c.Wake()
}

// sendAway ends the connection without CONNACK, so that the client tries again: a CONNACK that refuses ends many clients for good.
func (h *handshake) sendAway(c *conn.Conn) {
	h.mu.Lock()
	h.refuse = errMoved
	h.mu.Unlock()
	c.Wake()
}

// settle gives the connection to cl; false when the peer has gone meanwhile.
func (h *handshake) settle(cl *client, idle time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.doneLocked()
	h.cl, h.idle = cl, idle
	return true
}

// connect decides about a CONNECT. It may block: authentication, a takeover, messages to send again.
func (s *Server) connect(a *arrival) {
	c, h, req := a.c, a.h, a.req
	if req.AuthMethod != "" {
		h.deny(c, req.Version, packet.BadAuthenticationMethod) // MQTT5 [MQTT-4.12.0-1]
		return
	}
	identity, r := s.authenticate(c, h, req)
	if r != packet.Success {
		s.stats.unauthenticated.Add(1)
	} else if req.Will != nil && !s.allowPublish(identity, []byte(req.Will.Topic)) {
		s.stats.unauthorized.Add(1)
		r = packet.NotAuthorized // a will is a publish like any other, and the client can still react now
	}
	if r != packet.Success {
		h.deny(c, req.Version, r)
		return
	}
	a.identity = identity
	switch {
	case s.cfg.Owners == nil:
		s.connectHere(context.Background(), a) //nolint:errcheck // nobody is asked
	case a.assigned != "" && a.local():
		s.connectAway(context.Background(), a) //nolint:errcheck // likewise
	default:
		a.home.arrive(a)
	}
}

func (s *Server) refuseFull(a *arrival) {
	s.stats.sessionsRefused.Add(1)
	a.h.deny(a.c, a.req.Version, packet.QuotaExceeded)
}

// sessionsFull tells whether req asks for a durable session that the node has no room for. One that exists stays, with
// its client identifier; whoever asks for none is let in.
func (s *Server) sessionsFull(cl *client, req *packet.Connect) bool {
	wants := req.SessionExpiry > 0
	if req.Version != packet.V5 {
		wants = !req.CleanStart
	}
	if !wants || s.stats.durable.Load() < int64(s.cfg.MaxSessions) {
		return false
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return !cl.durable
}

// nobody is everybody's identity while there is no Authorizer.
var nobody Identity

func (s *Server) authenticate(c *conn.Conn, h *handshake, req *packet.Connect) (*Identity, packet.Reason) {
	if s.cfg.Auth == nil {
		return &nobody, packet.Success
	}
	info := ClientInfo{ClientID: req.ClientID, UserName: req.UserName, HasPassword: req.HasPassword, Password: req.Password}
	if h.passed != nil {
		info.RemoteAddr, info.TLS = h.passed.Addr, h.passed.tlsState()
	} else {
		info.RemoteAddr, info.TLS = c.RemoteAddr(), c.TLS()
	}
	id, err := s.cfg.Auth.Authenticate(info)
	switch {
	case err == nil:
		return &id, packet.Success
	case errors.Is(err, ErrNotAuthorized):
		return nil, packet.NotAuthorized
	case errors.Is(err, ErrClientID):
		return nil, packet.ClientIdentifierNotValid // MQTT5 [MQTT-3.1.3-8]; MQTT3 [MQTT-3.1.3-9]
	default:
		return nil, packet.BadUserNameOrPassword
	}
}

// assignID draws a client identifier: for a session that stays one that this node owns, if it can.
func (s *Server) assignID(stays bool) (id string) {
	for range assignTries {
		var b [12]byte
		rand.Read(b[:]) //nolint:errcheck // never fails
		id = "weir-" + hex.EncodeToString(b[:])
		if !stays || s.homeOf(id).owned() {
			break
		}
	}
	return id
}

// assignTries finds one partition among some hundreds.
const assignTries = 1000

var errTakenOver = errors.New("another connection took the session over")

// takeOver ends the connection that the client identifier has, and returns when it has been dealt with.
// MQTT5 [MQTT-3.1.4-3]
func (cl *client) takeOver() {
	cl.lock()
	c := cl.c
	if c != nil && !cl.leaving {
		cl.srv.stats.takeovers.Add(1)
		if cl.s != nil {
			cl.s.Fail(packet.SessionTakenOver)
		}
	}
	cl.await(c, errTakenOver)
}

// await closes the connection c, if any, and returns when the last one has been dealt with. It releases mu.
func (cl *client) await(c *conn.Conn, why error) {
	if cl.gone == nil && (c != nil || cl.ending) {
		cl.gone = make(chan struct{})
	}
	gone := cl.gone
	cl.unlock()
	if c != nil {
		c.Close(why)
	}
	if gone != nil {
		<-gone
	}
}

// begin starts the connection's session: a new one, or the one that waited.
func (cl *client) begin(a *arrival) {
	s, c, h, req := cl.srv, a.c, a.h, a.req
	if req.CleanStart {
		cl.endSession() // MQTT5 [MQTT-3.1.2-4]
	}
	cl.lock()
	cl.epoch++
	a.home.handovers.setMark(cl.id, 0)
	a.home.handovers.setLink(cl, h.linkName())
	present := cl.s != nil // MQTT5 [MQTT-3.1.2-5] [MQTT-3.1.2-6]
	if !present {
		cl.newSession()
	}
	cl.c = c
	cl.live.Store(c)
	if a.identity != &nobody {
		a.identity.ClientID = cl.id // the same text, and not the whole CONNECT with it
	}
	cl.identity, cl.closedAt, cl.polite, cl.stopped = a.identity, 0, false, s.stopping.Load()
	cl.local = a.local()
	cl.heldSince, cl.atWindow, cl.link, cl.parking = 0, false, h.flags(), notParking
	cl.will, cl.willChecked, cl.restored = req.Will, false, false
	cl.lend()
	// Under the same mu: what was committed for the last connection must not be acknowledged before CONNACK. MQTT5 [MQTT-3.2.0-1]
	grant := cl.s.Connected(req, present, a.assigned)
	wasDurable := cl.durable
	cl.expiry = grant.Expiry
	cl.setDurable(grant.Expiry > 0)
	durable := cl.durable
	cl.resending, cl.resendWait = true, false
	cl.resendFrom, cl.resendEnd = 0, cl.s.WindowEnd()
	cl.unlock()
	if present {
		cl.dropForbidden()
	}

	idle := time.Duration(grant.KeepAlive) * time.Second * 3 / 2 // MQTT5 [MQTT-3.1.2-22]
	if !h.settle(cl, idle) {
		cl.Closed(c, io.EOF)
		return
	}
	s.stats.connected.Add(1)
	if durable {
		if present {
			cl.readCursor() // it may have moved on while the client was away
		}
		cl.saveThen(s.absent.connecting())
	} else if wasDurable {
		cl.erase()
	}
	cl.resend(c)
	c.Wake()
}
