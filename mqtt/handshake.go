package mqtt

import (
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
	srv  *Server
	full bool // beyond MaxConnections: say so and close

	mu     sync.Mutex // between the worker and the goroutine that connects
	cl     *client    // set when CONNECT was accepted
	idle   time.Duration
	refuse error // set when it was refused
	closed bool
	out    *conn.Buffer
}

func (s *Server) accept(c *conn.Conn, full bool) conn.Handler {
	c.SetDeadline(s.cfg.ConnectTimeout)
	return &handshake{srv: s, full: full}
}

var (
	errNotConnect = errors.New("the first packet is not CONNECT")
	errFull       = errors.New("the server is at its maximum of connections")
)

// Data implements conn.Handler.
func (h *handshake) Data(c *conn.Conn, b []byte) (int, error) {
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
	c.Pause()
	h.srv.loop.Go(func() { h.srv.connect(c, h, req) })
	return f.Size, nil
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
	h.out = conn.Get(64)
	h.out.B = packet.AppendConnack(h.out.B, &packet.Connack{Reason: r}, version)
}

// Wake implements conn.Handler: once the verdict is there, the connection gets its client or its end.
func (h *handshake) Wake(c *conn.Conn) error {
	h.mu.Lock()
	cl, refuse := h.cl, h.refuse
	h.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	if cl == nil {
		return nil
	}
	c.SetDeadline(0)
	c.SetIdle(h.idle)
	c.SetHandler(cl)
	c.Resume()
	return cl.Wake(c)
}

// Output implements conn.Handler.
func (h *handshake) Output(c *conn.Conn) *conn.Buffer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cl != nil {
		return h.cl.Output(c)
	}
	b := h.out
	h.out = nil
	return b
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
	cl := h.cl
	if h.out != nil {
		conn.Put(h.out)
		h.out = nil
	}
	h.mu.Unlock()
	if cl != nil {
		cl.Closed(c, err)
		return
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

// settle gives the connection to cl; false when the peer has gone meanwhile.
func (h *handshake) settle(cl *client, idle time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.cl, h.idle = cl, idle
	return true
}

// connect decides about a CONNECT. It may block: authentication, a takeover, messages to send again.
func (s *Server) connect(c *conn.Conn, h *handshake, req *packet.Connect) {
	assigned := ""
	if req.ClientID == "" {
		if req.Version == packet.V311 && !req.CleanStart {
			h.deny(c, req.Version, packet.ClientIdentifierNotValid) // MQTT3 [MQTT-3.1.3-8]
			return
		}
		assigned = assignID() // MQTT5 [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
		req.ClientID = assigned
	}
	if req.AuthMethod != "" {
		h.deny(c, req.Version, packet.BadAuthenticationMethod) // MQTT5 [MQTT-4.12.0-1]
		return
	}
	identity, r := s.authenticate(c, req)
	if r == packet.Success && req.Will != nil && !s.allowPublish(identity, []byte(req.Will.Topic)) {
		r = packet.NotAuthorized // a will is a publish like any other, and the client can still react now
	}
	if r != packet.Success {
		h.deny(c, req.Version, r)
		return
	}
	cl := s.registry.acquire(s, req.ClientID)
	defer s.registry.release(cl)
	cl.connecting.Lock()
	defer cl.connecting.Unlock()
	if s.sessionsFull(cl, req) {
		s.stats.sessionsRefused.Add(1)
		h.deny(c, req.Version, packet.QuotaExceeded)
		return
	}
	cl.takeOver()
	cl.begin(c, h, req, identity, assigned)
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

func (s *Server) authenticate(c *conn.Conn, req *packet.Connect) (*Identity, packet.Reason) {
	if s.cfg.Auth == nil {
		return &nobody, packet.Success
	}
	id, err := s.cfg.Auth.Authenticate(ClientInfo{
		ClientID: req.ClientID, UserName: req.UserName, HasPassword: req.HasPassword, Password: req.Password,
		RemoteAddr: c.RemoteAddr(), TLS: c.TLS(),
	})
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

func assignID() string {
	var b [12]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return "weir-" + hex.EncodeToString(b[:])
}

var errTakenOver = errors.New("another connection took the session over")

// takeOver ends the connection that the client identifier has, and returns when it has been dealt with.
// MQTT5 [MQTT-3.1.4-3]
func (cl *client) takeOver() {
	cl.lock()
	c := cl.c
	if c != nil {
		cl.srv.stats.takeovers.Add(1)
		if cl.s != nil {
			cl.s.Fail(packet.SessionTakenOver)
		}
	}
	var gone chan struct{}
	if c != nil || cl.ending {
		gone = make(chan struct{})
		cl.gone = gone
	}
	cl.unlock()
	if c != nil {
		c.Close(errTakenOver)
	}
	if gone != nil {
		<-gone
	}
}

// begin starts the connection's session: a new one, or the one that waited.
func (cl *client) begin(c *conn.Conn, h *handshake, req *packet.Connect, identity *Identity, assigned string) {
	s := cl.srv
	if req.CleanStart {
		cl.endSession() // MQTT5 [MQTT-3.1.2-4]
	}
	cl.lock()
	cl.epoch++
	present := cl.s != nil // MQTT5 [MQTT-3.1.2-5] [MQTT-3.1.2-6]
	if !present {
		cl.newSession()
	}
	cl.c = c
	cl.live.Store(c)
	cl.identity, cl.closedAt, cl.polite, cl.stopped = identity, 0, false, s.stopping.Load()
	cl.heldSince, cl.atWindow = 0, false
	cl.will, cl.willChecked, cl.restored = req.Will, false, false
	cl.unlock()

	cl.lock() // again, now that the connection gives the session a buffer
	grant := cl.s.Connected(req, present, assigned)
	wasDurable := cl.durable
	cl.expiry = grant.Expiry
	cl.setDurable(grant.Expiry > 0)
	durable := cl.durable
	cl.resending, cl.resendWait = true, false
	cl.resendFrom, cl.resendEnd = 0, cl.s.WindowEnd()
	cl.unlock()

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
