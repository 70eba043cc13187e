package mqtt

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// encoder is the memory one delivery is encoded in.
type encoder struct {
	pub packet.Publish
	buf []byte
	d   session.Delivery
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

func (e *encoder) release() {
	clear(e.pub.User)
	e.pub, e.d = packet.Publish{User: e.pub.User[:0]}, session.Delivery{}
	if cap(e.buf) > 64<<10 {
		e.buf = nil
	}
	encoders.Put(e)
}

// Deliver implements deliver.Target. It encodes once per fan-out where it can, copies into the session's
// output and wakes the connection, which sends what has gathered in one call.
func (cl *client) Deliver(m *deliver.Message, qos byte, retain bool, subIDs []uint32) bool {
	e := encoders.Get().(*encoder)
	defer e.release()
	cl.lock()
	defer cl.unlock()
	if cl.c == nil || cl.s == nil || cl.parking != notParking {
		return false
	}
	if qos > 0 && cl.o2.had(m) { // it went to the client before a restart
		return true
	}
	if left, expires := m.ExpiresIn(); expires && left == 0 {
		cl.srv.stats.expired.Add(1)
		cl.passOver(m, qos)
		return true // MQTT5 [MQTT-3.3.2-5]
	}
	d := e.delivery(m, cl.s.Version(), qos, retain, subIDs)
	if qos > 0 {
		d.Extra = e.extra(m, d, cl.s.Version(), subIDs)
	}
	d.Store = qos == 2 && cl.durable
	cl.reserve(len(d.Frame) + packet.AliasOverhead)
	switch end := cl.s.WindowEnd(); {
	case !cl.s.Deliver(d):
		return false
	case cl.s.WindowEnd() == end: // larger than the client takes
		cl.passOver(m, qos)
	case d.Store:
		cl.storeIDs()
	}
	cl.srv.stats.delivered.Add(1)
	if qos > 0 {
		cl.moved()
	}
	cl.c.Wake()
	return true
}

// passOver says that a message which counts as delivered has no place in the window, so that no ack will come for it.
func (cl *client) passOver(m *deliver.Message, qos byte) {
	if qos > 0 && m.Group != nil {
		m.Group.Ack(cl.id, m.ID, m.Offset)
	}
}

// reserve makes room in the output from the pool, in big steps: deliveries come in floods, and a slice that
// grows by itself is garbage each time; under mu.
func (cl *client) reserve(n int) {
	have := len(cl.s.Out)
	if cap(cl.s.Out)-have >= n || have > cl.srv.cfg.OutputBuffer {
		return
	}
	bigger := conn.Get(max(have+n, 4*cap(cl.s.Out)))
	bigger.B = append(bigger.B, cl.s.Out...)
	cl.out.B = cl.s.Out
	conn.Put(cl.out)
	cl.out, cl.s.Out = bigger, bigger.B
}

// extra returns what a window entry must keep besides the record's place, nil for nearly all.
func (e *encoder) extra(m *deliver.Message, d *session.Delivery, version byte, subIDs []uint32) any {
	switch {
	case m.Group != nil:
		return &outExtra{group: m.Group, share: m.Group.Name()}
	case m.Offset < 0:
		x := &outExtra{version: version, filter: m.Filter}
		if version != packet.V5 || len(subIDs) == 0 {
			x.frame = bytes.Clone(d.Frame)
			return x
		}
		x.ids, e.pub.SubscriptionIDs = slices.Clone(subIDs), nil
		x.frame = packet.AppendPublish(nil, &e.pub, version)
		return x
	}
	return nil
}

// delivery encodes m for a receiver.
func (e *encoder) delivery(m *deliver.Message, version, qos byte, retain bool, subIDs []uint32) *session.Delivery {
	if version != packet.V5 {
		subIDs = nil
	}
	buf := &e.buf
	if len(subIDs) == 0 {
		buf = m.Shared(slotOf(version, qos, retain))
	}
	if len(subIDs) > 0 || len(*buf) == 0 {
		e.fill(m, qos, retain, subIDs)
		e.pub.Expiry, e.pub.HasExpiry = m.ExpiresIn() // MQTT5 [MQTT-3.3.2-6]
		*buf = packet.AppendPublish((*buf)[:0], &e.pub, version)
	}
	e.d = session.Delivery{Frame: *buf, IDAt: packetIDAt(*buf, len(m.Topic)), QoS: qos, Ref: refOf(m.ID, m.Offset)}
	return &e.d
}

// slotOf numbers the encodings that receivers of one message can share.
func slotOf(version, qos byte, retain bool) int {
	slot := int(qos) << 1
	if version == packet.V5 {
		slot |= 8
	}
	if retain {
		slot |= 1
	}
	return slot
}

func (e *encoder) fill(m *deliver.Message, qos byte, retain bool, subIDs []uint32) {
	e.pub = packet.Publish{
		Topic: m.Topic, Payload: m.Payload, QoS: qos, Retain: retain,
		ContentType: m.ContentType, ResponseTopic: m.ResponseTopic, Correlation: m.Correlation,
		SubscriptionIDs: subIDs, User: e.pub.User[:0],
	}
	if m.PayloadFormat {
		e.pub.PayloadFormat = 1
	}
	if qos > 0 {
		e.pub.ID = 1 // the session puts the real one in its place
	}
	for i := range m.UserProps {
		h := &m.UserProps[i]
		e.pub.User = append(e.pub.User, packet.UserProperty{Name: h.Key, Value: h.Value})
	}
}

// packetIDAt finds the packet identifier of an encoded PUBLISH.
func packetIDAt(frame []byte, topic int) int {
	i := 1
	for frame[i]&0x80 != 0 {
		i++
	}
	return i + 1 + 2 + topic
}

// resend goes on sending the unacknowledged window after a reconnect, in order and with DUP, as far as the
// output has room; the rest follows when that has been taken. Then the client joins the hub, so that new
// messages come behind old ones. // MQTT5 [MQTT-4.4.0-1] [MQTT-4.6.0-1]
func (cl *client) resend(c *conn.Conn) { cl.resendAfter(c, 0) }

// resendAfter is resend after so many tries of a message that cannot be read yet.
func (cl *client) resendAfter(c *conn.Conn, tries int) {
	e := encoders.Get().(*encoder)
	defer e.release()
	for {
		batch, ok := cl.resendBatch(c)
		if !ok {
			return
		}
		if len(batch) == 0 {
			break
		}
		for _, u := range batch {
			if err := cl.resendOne(c, e, u); err != nil {
				cl.resendLater(c, u, tries+1, err)
				return
			}
			tries = 0
		}
	}
	cl.attach(c, false)
	c.Wake()
}

// resendBatch takes the next entries of the window; false when the output is full or c is not the connection
// any more.
func (cl *client) resendBatch(c *conn.Conn) (batch []session.Unacked, ok bool) {
	cl.lock()
	defer cl.unlock()
	if cl.c != c || cl.s == nil {
		return nil, false
	}
	if len(cl.s.Out) > cl.srv.cfg.OutputBuffer/2 {
		cl.resendWait = true
		c.Wake()
		return nil, false
	}
	room := cl.s.ResendRoom(cl.resendFrom)
	for u := range cl.s.Unacked(cl.resendFrom) {
		if u.N >= cl.resendEnd || len(batch) == 16 {
			break
		}
		if len(batch) == room {
			if len(batch) == 0 { // Done goes on
				cl.resendWait = true
				c.Wake()
				return nil, false
			}
			break
		}
		if u.Unstored { // the connection it was meant for ended too early
			if len(batch) == 0 {
				cl.outbound().resume = c
				cl.storeIDs()
				return nil, false
			}
			break
		}
		batch = append(batch, u)
		cl.resendFrom = u.N + 1
	}
	if len(batch) == 0 {
		cl.resending = false
	}
	return batch, true
}

const (
	resendPause = 50 * time.Millisecond
	// resendPatience is how long the others wait for a message that cannot be read: as long as a change of leaders may take.
	resendPatience = 30 * time.Second
)

// resendLater tries again from u on. In the end the others go on without it; it stays in the window, for the next connection.
func (cl *client) resendLater(c *conn.Conn, u session.Unacked, tries int, why error) {
	cl.lock()
	defer cl.unlock()
	if cl.c != c || cl.s == nil {
		return
	}
	if cl.resendFrom = u.N; tries > int(resendPatience/resendPause) {
		cl.srv.cfg.Logger.Warn("a message cannot be sent again now, and waits for the client's next connection", "client", cl.id, "partition", partitionOf(u.Ref),
			"offset", u.Ref.Offset, "error", why)
		cl.resendFrom, tries = u.N+1, 0
	}
	time.AfterFunc(resendPause, func() { cl.srv.loop.Go(func() { cl.resendAfter(c, tries) }) })
}

// resendOne reads the record of a window entry again. Without mu: the hub may be waiting for it elsewhere. deliver.ErrNotYet: it is to be tried again.
func (cl *client) resendOne(c *conn.Conn, e *encoder, u session.Unacked) error {
	x, _ := u.Extra.(*outExtra)
	switch {
	case u.Released:
		cl.withSession(c, func() { cl.s.Resend(u, nil) })
		return nil
	case x != nil && x.frame != nil:
		cl.withSession(c, func() {
			if d, err := x.delivery(cl.s.Version()); err != nil {
				cl.s.Abandon(u.ID) // it was decoded once, or encoded here
			} else {
				cl.s.Resend(u, d)
			}
		})
		return nil
	}
	sent := false
	err := cl.srv.hub.ReadAt(partitionOf(u.Ref), log.Offset(u.Ref.Offset), func(m *deliver.Message) {
		cl.withSession(c, func() {
			retain, ids := cl.optionsOf(m, x != nil && x.share != "")
			cl.s.Resend(u, e.delivery(m, cl.s.Version(), u.QoS, retain, ids)) // expired or not // MQTT5 [MQTT-4.3.3-7] [MQTT-4.4.0-1]
			sent = true
		})
	})
	if errors.Is(err, deliver.ErrNotYet) {
		return err
	}
	if !sent { // retention has passed it
		cl.srv.stats.lost.Add(1)
		cl.srv.cfg.Logger.Debug("message cannot be sent again", "client", cl.id, "partition", partitionOf(u.Ref),
			"offset", u.Ref.Offset, "err", err)
		cl.withSession(c, func() { cl.s.Abandon(u.ID) })
	}
	return nil
}

// optionsOf says what the client's subscriptions add to a message that is sent again: the window keeps no more of
// it than its place. Under mu. // MQTT5 [MQTT-3.3.1-13] [MQTT-3.3.4-3]
func (cl *client) optionsOf(m *deliver.Message, shared bool) (retain bool, ids []uint32) {
	for i := range cl.subs {
		sub := &cl.subs[i]
		group, filter, ok := packet.ParseFilter(sub.Filter)
		if !ok || (group != "") != shared || sub.NoLocal && string(m.Publisher) == cl.id {
			continue
		}
		if m.Topic[0] == '$' && (filter[0] == '+' || filter[0] == '#') || !matchTopic(filter, string(m.Topic)) {
			continue
		}
		retain = retain || sub.RetainAsPublished && m.Retain
		if sub.ID != 0 {
			ids = append(ids, sub.ID)
		}
	}
	return retain, ids
}

// withSession runs f under mu while c is the client's connection.
func (cl *client) withSession(c *conn.Conn, f func()) {
	cl.lock()
	defer cl.unlock()
	if cl.c == c && cl.s != nil {
		f()
	}
}
