package mqtt

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// client is one client identifier: the shell around its session, with or without a connection. It is the
// connection's Handler, the log's Waiter, the hub's Target and the session's Effects.
//
// Lock order: connecting, attaching, saving, mu, results.mu. The hub calls Deliver, which takes mu, while it waits inside
// Attach, Detach, Forget, Cursor, ReadAt and SendRetained, so those are never called under mu. The committer
// takes results.mu only: it leaves its word there and wakes the connection.
type client struct {
	srv *Server
	id  string

	tenure tenure // owned by the registry

	connecting sync.Mutex // held through a CONNECT: one at a time per client identifier
	attaching  sync.Mutex // held through calls that put the client on the hub or take it off
	saving     sync.Mutex // held while a record is made and put
	onHub      bool       // owned by attaching
	inCrowd    bool       // waits for room in the log; owned by the crowd's mu

	parking parkState // owned by mu, as is the next
	link    linkFlags

	// A node holds this for every idle device, so that flags stand together and lists are made when needed: see
	// TestIdleClientIsSmall.
	mu          sync.Mutex
	ending      bool // the last connection is being dealt with
	durable     bool // expiry > 0: it has a record in the sessions table
	polite      bool // DISCONNECT 0x00 came: no will
	asked       bool // Append was called for the publish at hand
	atWindow    bool // a 3.1.1 client is at its receive maximum
	stopped     bool // the server drains: nothing more is read
	dirty       bool // the cursor moved since the record was saved
	stored      bool // there is a record
	stale       bool // the record is to be written again once the pass after a restart is over
	restored    bool // the session came from the table
	willChecked bool // the will was authorised before a restart, and whose it is is not known any more
	resending   bool // the window is being sent again: not on the hub yet
	resendWait  bool // until Output has been taken, or a message that was sent again is acknowledged
	local       bool // the session lives here whoever owns the client identifier: it ends with its connection
	leaving     bool // another node owns the session now: what is stored of it is not touched
	heldReason  packet.Reason
	acked       int32  // exchanges ended since the record was saved
	expiry      uint32 // seconds the session outlives its connection
	epoch       uint32 // counts connections; stale timers carry an older one

	s        *session.Session          // nil when there is no session
	c        *conn.Conn                // nil while absent
	gone     chan struct{}             // made by who waits for the last connection to be dealt with
	live     atomic.Pointer[conn.Conn] // c, for those who must not wait for mu
	out      *conn.Buffer              // s.Out's memory
	sc       *scratch                  // during Data
	identity *Identity                 // shared by all clients when there is no Authorizer
	term     uint64                    // of this node's claim to the client identifier, see deliver.Sub

	will      *packet.Will
	subs      []deliver.Sub
	closedAt  int64 // Unix ms of the last disconnect, 0 while online
	heldSince int64 // monotonic ms since when a publish is held (M8), 0 for none

	cursor                deliver.Cursor // while absent; what was saved last otherwise
	resendFrom, resendEnd uint64         // places in the window

	q2 *inboundQoS2
	o2 *outboundQoS2

	results struct {
		mu    sync.Mutex
		woken bool
		lists *resultLists // nil until the first result
	}
}

// lock takes mu and gives the session a buffer to write to.
func (cl *client) lock() {
	cl.mu.Lock()
	cl.lend()
}

// lend gives the session of a connected client a buffer to write to, under mu.
func (cl *client) lend() {
	if cl.s != nil && cl.c != nil && cl.out == nil {
		cl.out = conn.Get(512)
		cl.s.Out = cl.out.B
	}
}

// unlock gives an unused buffer back: an idle client owns none.
func (cl *client) unlock() {
	if cl.parking == calming && cl.s != nil {
		cl.becameCalm()
	}
	if cl.out != nil && (cl.s == nil || len(cl.s.Out) == 0) {
		conn.Put(cl.out)
		cl.out = nil
		if cl.s != nil {
			cl.s.Out = nil
		}
	}
	cl.mu.Unlock()
}

// Output implements conn.Handler.
func (cl *client) Output(c *conn.Conn) *conn.Buffer {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.out == nil || cl.s == nil || len(cl.s.Out) == 0 {
		return nil
	}
	b := cl.out
	b.B, cl.out, cl.s.Out = cl.s.Out, nil, nil
	cl.s.Drained()
	if cl.resendWait {
		cl.resendWait = false
		cl.srv.loop.Go(func() { cl.resend(c) })
	}
	return b
}

// Data implements conn.Handler: it takes every whole packet of b that can be taken now.
func (cl *client) Data(c *conn.Conn, b []byte) (used int, err error) {
	sc := cl.srv.scratch()
	cl.lock()
	defer func() {
		cl.sc = nil
		cl.unlock()
		sc.release()
	}()
	cl.sc, sc.client = sc, cl
	if cl.c != c || cl.s == nil {
		return len(b), io.EOF
	}
	for used < len(b) && !cl.stopped {
		f, err := packet.Split(b[used:], cl.srv.cfg.MaxPacket)
		if err == packet.ErrShort {
			break
		}
		if err != nil {
			return used, cl.fail(err)
		}
		publish := f.Type() == packet.PUBLISH
		if (publish || cl.link&muted != 0) && cl.mutes(c, 0) {
			break
		}
		step, err := cl.packet(c, f, sc)
		if err != nil {
			return used, cl.fail(err)
		}
		if step == stepHold {
			c.Pause()
			break
		}
		used += f.Size
		if step == stepPause {
			c.Pause()
			break
		}
		if publish && cl.mutes(c, f.Size) {
			break
		}
	}
	if cl.stopped {
		c.Pause()
	}
	if cl.s.Waiting() {
		c.WakeAfter(overtake)
	}
	return used, nil
}

// step says how reading goes on after a packet.
type step uint8

const (
	stepNext  step = iota
	stepPause      // the packet is taken; its handler resumes the connection
	stepHold       // the packet is not taken: offer it again
)

var (
	errSecondConnect = &packet.Error{Reason: packet.ProtocolError, Detail: "a second CONNECT"}
	errServerPacket  = &packet.Error{Reason: packet.ProtocolError, Detail: "a packet that only a server sends"}
	errAuthPacket    = &packet.Error{Reason: packet.ProtocolError, Detail: "AUTH without an authentication method in CONNECT"}
	errExpiryRaised  = &packet.Error{Reason: packet.ProtocolError, Detail: "DISCONNECT gives a session expiry to a session that had none"}
)

func (cl *client) packet(c *conn.Conn, f packet.Frame, sc *scratch) (step, error) {
	v := cl.s.Version()
	if cl.holdsBack(f.Type()) {
		return stepHold, nil
	}
	switch t := f.Type(); t {
	case packet.PUBLISH:
		if err := sc.pub.Decode(f, v); err != nil {
			return stepNext, err
		}
		return cl.publish(c, sc)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		a, err := packet.DecodeAck(f, v)
		if err != nil {
			return stepNext, err
		}
		return stepNext, cl.s.Ack(a)
	case packet.PINGREQ:
		if err := packet.DecodePing(f); err != nil {
			return stepNext, err
		}
		cl.s.Ping()
		return stepNext, nil
	case packet.SUBSCRIBE:
		sub, err := packet.DecodeSubscribe(f, v)
		if err != nil {
			return stepNext, err
		}
		cl.link |= subscribing
		cl.srv.loop.Go(func() { cl.subscribe(c, sub) })
		return stepPause, nil
	case packet.UNSUBSCRIBE:
		unsub, err := packet.DecodeUnsubscribe(f, v)
		if err != nil {
			return stepNext, err
		}
		cl.link |= subscribing
		cl.srv.loop.Go(func() { cl.unsubscribe(c, unsub) })
		return stepPause, nil
	case packet.DISCONNECT:
		d, err := packet.DecodeDisconnect(f, v)
		if err != nil {
			return stepNext, err
		}
		return stepNext, cl.disconnect(d)
	case packet.CONNECT:
		return stepNext, errSecondConnect // MQTT5 [MQTT-3.1.0-2]
	case packet.AUTH:
		return stepNext, errAuthPacket // MQTT5 [MQTT-4.12.0-6]: we offer no method
	default:
		return stepNext, errServerPacket
	}
}

// publish hands one PUBLISH to the session. A publish that cannot be taken stays unread: the connection
// pauses, the client's window fills, and the same bytes are offered again (M8).
func (cl *client) publish(c *conn.Conn, sc *scratch) (step, error) {
	cl.asked, cl.atWindow = false, false
	taken, err := cl.s.Publish(&sc.pub, sc.now)
	if err != nil || taken {
		cl.heldSince = 0
		return stepNext, err
	}
	if !cl.asked {
		cl.atWindow = true // the client's window is full: commits make room
		return stepHold, nil
	}
	if cl.heldSince == 0 {
		cl.heldSince = sc.now
		cl.srv.stats.held.Add(1)
	} else if sc.now-cl.heldSince > cl.srv.cfg.AckTimeout.Milliseconds() {
		cl.srv.stats.heldClosed.Add(1)
		return stepNext, &packet.Error{Reason: cl.heldReason, Detail: "a publish could not be made durable in time"}
	}
	c.WakeAfter(cl.srv.cfg.holdRetry)
	return stepHold, nil
}

// Append implements session.Effects.
func (cl *client) Append(seq uint64, p *packet.Publish) session.Verdict {
	cl.asked = true
	if session.IsQoS2(seq) {
		return cl.appendQoS2(seq, p)
	}
	at, v := cl.srv.prepare(cl.sc, cl.identity, cl.id, p, nil, false)
	if v == (session.Verdict{}) {
		var w Waiter
		var b *both
		if seq != 0 {
			w = cl
		}
		if p.Retain && !at.dead {
			b = newBoth(discardOr(w), seq)
			w = b
		}
		round := cl.srv.crowd.round.Load()
		if err := at.part.Append(&cl.sc.rec, w, seq); err != nil {
			v = cl.srv.appendVerdict(at.topic, err)
			cl.awaitRoom(err, round)
		} else {
			cl.srv.stats.published.Add(1)
			if b != nil {
				cl.srv.retain(cl.sc, cl.id, p, at.expiry, b.done)
			}
		}
	}
	cl.note(v)
	return v
}

// fail writes DISCONNECT with err's reason and returns err for the connection to close with.
func (cl *client) fail(err error) error {
	reason := packet.UnspecifiedError
	var pe *packet.Error
	switch {
	case errors.As(err, &pe):
		reason = pe.Reason
	case errors.Is(err, io.EOF):
		return err
	}
	if cl.s != nil && !cl.polite {
		cl.s.Fail(reason)
	}
	return err
}

// Closing implements conn.Handler: the reasons that come from the connection itself are put into words here.
func (cl *client) Closing(c *conn.Conn, err error) {
	reason := packet.Success
	switch err {
	case conn.ErrIdle:
		reason = packet.KeepAliveTimeout // MQTT5 [MQTT-3.1.2-22] §4.13.1
	case conn.ErrInput, conn.ErrUnfinished:
		reason = packet.QuotaExceeded
	case conn.ErrStopped:
		reason = packet.ServerShuttingDown
	default:
		return
	}
	cl.withSession(c, func() { cl.s.Fail(reason) })
}

// errGoodbye ends a connection whose client sent DISCONNECT.
var errGoodbye = errors.New("client disconnected")

func (cl *client) disconnect(d *packet.Disconnect) error {
	if d.HasExpiry {
		if cl.expiry == 0 && d.SessionExpiry != 0 {
			return errExpiryRaised // MQTT5 [MQTT-3.14.2-2]
		}
		cl.expiry = min(d.SessionExpiry, cl.srv.limits.ExpiryMax)
	}
	if d.Reason != packet.DisconnectWithWill {
		cl.will = nil // MQTT5 [MQTT-3.14.4-3]
	}
	cl.polite = true
	return errGoodbye
}

// Release, Received and Done implement session.Effects; see qos2.go and outbound.go.

// Done implements session.Effects.
func (cl *client) Done(id uint16, qos byte, ref session.Ref, extra any) {
	if x, ok := extra.(*outExtra); ok && x.group != nil {
		x.group.Ack(cl.id, partitionOf(ref), log.Offset(ref.Offset))
	}
	if qos == 2 && cl.o2 != nil {
		cl.o2.done(cl, id, given{ref, shareOf(extra)})
	}
	cl.moved()
	if cl.resendWait && cl.c != nil { // for room in the window
		c := cl.c
		cl.resendWait = false
		cl.srv.loop.Go(func() { cl.resend(c) })
	}
	if cl.acked++; cl.durable && cl.acked == cursorEvery {
		cl.srv.loop.Go(cl.saveCursor)
	}
}

// moved notes that the stored cursor is behind; under mu.
func (cl *client) moved() {
	if cl.durable && !cl.dirty {
		cl.dirty = true
		cl.srv.cursors.add(cl)
	}
}

// cursorEvery is how many ended exchanges force the cursor to be saved before its second is over (M9).
const cursorEvery = 1000

// Ready implements session.Effects. The hub allows this call under mu.
func (cl *client) Ready() { cl.srv.hub.Ready(cl.id) }

// outExtra goes with a window entry that is more than a reference to a record.
type outExtra struct {
	group *deliver.Group // shared subscription
	share string         // its name, also when a restart has taken group away

	// Of a retained message, which has no record to read again:
	frame   []byte
	version byte     // of frame
	ids     []uint32 // subscription identifiers, which frame does not have
	filter  string   // subscription that it was sent for
	put     bool     // it is being stored, with QoS 2
	kept    bool     // it is stored
}

// shareOf is the shared subscription that a window entry came through, "" for none.
func shareOf(extra any) string {
	if x, ok := extra.(*outExtra); ok {
		return x.share
	}
	return ""
}

func refOf(id log.PartitionID, o log.Offset) session.Ref {
	return session.Ref{Topic: id.Topic, Index: id.Index, Offset: int64(o)}
}

func partitionOf(r session.Ref) log.PartitionID {
	return log.PartitionID{Topic: r.Topic, Index: r.Index}
}

// wakeClient lets a client handle its results: on its connection's turn, or aside when it has none.
func (s *Server) wakeClient(cl *client) {
	// The connection is read without mu, which the committer must not wait for. A connection that ends
	// meanwhile handles the results in Closed.
	if c := cl.live.Load(); c != nil {
		c.Wake()
		return
	}
	if !s.stopping.Load() {
		s.loop.Go(cl.handleAbsent)
	}
}

// handleAbsent handles results while there is no connection.
func (cl *client) handleAbsent() {
	cl.lock()
	defer cl.unlock()
	cl.handleResults() //nolint:errcheck // there is no connection to close
}

// stopReading leaves the client's further packets unread.
func (cl *client) stopReading() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.stopped = true
}

// waiting tells whether publishes of the client wait for their commit.
func (cl *client) waiting() bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.c != nil && cl.s != nil && cl.s.Waiting() && cl.heldSince == 0
}
