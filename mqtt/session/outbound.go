package session

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"sync"

	"github.com/weir-io/weir/mqtt/packet"
)

// outbound is the window of messages to the client that wait for an acknowledgement. Entry n has packet id
// n mod 65535 + 1, so that an id leads to its place without a search; entries that ended in the middle stay
// as holes until the head passes them.
type outbound struct {
	ring    *outRing // nil while there was nothing to send
	first   uint64   // oldest entry that is not a hole
	next    uint64
	live    int32
	limit   int32 // most live entries on this connection
	refused bool  // a Deliver was refused and Effects.Ready is owed

	held *heldFrames // messages that must not leave yet, nil for none
}

type outEntry struct {
	ref   Ref
	id    uint16
	qos   byte
	state outState
	extra any // the owner's
}

type outState uint8

const (
	outFree     outState = iota
	outReserved          // the packet id is being stored: PUBLISH must not leave
	outDue               // PUBLISH may leave, and has not
	outSent              // PUBLISH sent, no PUBACK or PUBREC yet
	outReceived          // PUBREC came, being stored
	outReleased          // PUBREL sent
)

// maxSpan bounds the window with its holes: how many messages may pass one that the client leaves
// unacknowledged.
const maxSpan = 4096

const packetIDs = 65535

func (o *outbound) connected(limit int) {
	o.limit, o.refused = int32(limit), false
}

func (o *outbound) room() bool {
	return o.live < o.limit && int(o.next-o.first) < max(maxSpan, int(o.limit))
}

func (o *outbound) at(n uint64) *outEntry { return o.ring.at(n) }

func (o *outbound) push(e outEntry) *outEntry {
	e.id = idOf(o.next)
	o.live++
	return o.pushRaw(e)
}

func (o *outbound) pushRaw(e outEntry) *outEntry {
	if size := o.ring.size(); int(o.next-o.first) == size {
		bigger := newRing(max(minRing, 2*size))
		for n := o.first; n < o.next; n++ {
			*bigger.at(n) = *o.at(n)
		}
		o.ring.free()
		o.ring = bigger
	}
	o.next++
	p := o.at(o.next - 1)
	*p = e
	return p
}

func idOf(n uint64) uint16 { return uint16(n%packetIDs) + 1 }

// find returns the live entry with this packet id, nil when there is none.
func (o *outbound) find(id uint16) *outEntry {
	if id == 0 || o.first == o.next {
		return nil
	}
	n := o.first + (uint64(id-1)+packetIDs-o.first%packetIDs)%packetIDs
	if n >= o.next {
		return nil
	}
	if e := o.at(n); e.state != outFree {
		return e
	}
	return nil
}

// free ends an entry and moves the head over holes.
func (o *outbound) free(e *outEntry) {
	*e = outEntry{}
	o.live--
	for o.first < o.next && o.at(o.first).state == outFree {
		o.first++
	}
	if o.first == o.next && o.ring.size() >= burstRing { // a burst is over: a thousand idle subscribers keep nothing
		o.ring.free()
		o.ring = nil
	}
}

// outRing is the window's memory, shared between sessions by way of pools: windows grow and empty all the time, and
// none of that is to leave garbage.
type outRing struct{ entries []outEntry } // length is a power of two

const (
	minRing   = 8
	burstRing = 64 // given back as soon as it is empty
)

// ringPools holds cleared rings by the power of two of their length.
var ringPools [18]sync.Pool

func newRing(n int) *outRing {
	if r, ok := ringPools[bits.Len(uint(n))-1].Get().(*outRing); ok {
		return r
	}
	return &outRing{make([]outEntry, n)}
}

func (r *outRing) size() int {
	if r == nil {
		return 0
	}
	return len(r.entries)
}

func (r *outRing) at(n uint64) *outEntry { return &r.entries[n&uint64(len(r.entries)-1)] }

func (r *outRing) free() {
	if r != nil {
		clear(r.entries)
		ringPools[bits.Len(uint(len(r.entries)))-1].Put(r)
	}
}

var errAckKind = &packet.Error{Reason: packet.ProtocolError, Detail: "acknowledgement does not fit the QoS of the message"}

// Delivery is one message for the client, encoded for its version with DUP clear and, for QoS 1 and 2, any
// packet id at IDAt. The frame is copied.
type Delivery struct {
	Frame []byte
	IDAt  int
	QoS   byte
	Ref   Ref
	Extra any // kept in the window and given back by Effects.Done
	// Store: the packet id must be durable before the message leaves. It takes its place in the window (see WindowEnd)
	// and waits for IDsStored; so does what is delivered behind it meanwhile. // M9
	Store bool
}

// Deliver sends a message. false: there is no room, and Effects.Ready will say when there is. A message
// larger than the client takes is treated as delivered. // MQTT5 [MQTT-3.1.2-24] [MQTT-3.1.2-25]
func (s *Session) Deliver(d *Delivery) bool {
	if !s.online {
		return false
	}
	if s.clientMaxPacket > 0 && len(d.Frame) > int(s.clientMaxPacket) {
		return true
	}
	if len(s.Out)+s.Held() > s.limits.OutputMax || d.QoS > 0 && !s.out.room() { // MQTT5 [MQTT-3.3.4-9] [MQTT-4.9.0-2]
		s.out.refused = true
		return false
	}
	if d.Store || s.out.held != nil {
		s.hold(d)
		return true
	}
	id := uint16(0)
	if d.QoS > 0 {
		id = s.out.push(outEntry{ref: d.Ref, qos: d.QoS, state: outSent, extra: d.Extra}).id
	}
	s.emit(d.Frame, d.IDAt, id)
	return true
}

// emit writes a message that is sent for the first time; id 0 for QoS 0.
func (s *Session) emit(frame []byte, idAt int, id uint16) {
	idAt, aliased := len(s.Out)+idAt, false
	if s.clientAliases > 0 {
		if alias, bare := s.aliasFor(frame); alias > 0 {
			s.Out, idAt = packet.AppendAliased(s.Out, frame, alias, bare)
			aliased = true
		}
	}
	if !aliased {
		s.Out = append(s.Out, frame...)
	}
	if id != 0 {
		binary.BigEndian.PutUint16(s.Out[idAt:], id) // MQTT5 [MQTT-2.2.1-4]
	}
}

// Drained tells the session that its owner took Out; a refused Deliver may find room now.
func (s *Session) Drained() { s.offerRoom() }

// offerRoom pays the owed Ready. It waits for a quarter of the window, so that a busy client is not woken
// for each message.
func (s *Session) offerRoom() {
	if !s.out.refused || len(s.Out)+s.Held() > s.limits.OutputMax/2 {
		return
	}
	if free := s.out.limit - s.out.live; free == 0 || free < s.out.limit/4 && s.out.live > 0 {
		return
	}
	s.out.refused = false
	s.fx.Ready()
}

// Ack takes a PUBACK, PUBREC, PUBREL or PUBCOMP from the client.
func (s *Session) Ack(a packet.Ack) error {
	switch a.Type {
	case packet.PUBREL:
		s.pubrel(a.ID)
		return nil
	case packet.PUBACK:
		return s.puback(a)
	case packet.PUBREC:
		return s.pubrec(a)
	default:
		return s.pubcomp(a)
	}
}

func (s *Session) puback(a packet.Ack) error {
	e := s.out.find(a.ID)
	if e == nil || e.unsent() {
		return nil // MQTT has no answer to a PUBACK
	}
	if e.qos != 1 {
		return errAckKind // MQTT5 [MQTT-4.3.2-2]
	}
	s.end(e) // a refusal ends the exchange as well
	return nil
}

func (s *Session) pubrec(a packet.Ack) error {
	e := s.out.find(a.ID)
	switch {
	case e == nil || e.unsent():
		if s.version != packet.V5 {
			s.Out = packet.AppendAck(s.Out, packet.PUBREL, a.ID, packet.Success, s.version)
		} else if a.Reason < packet.UnspecifiedError {
			s.Out = packet.AppendAck(s.Out, packet.PUBREL, a.ID, packet.PacketIdentifierNotFound, s.version)
		}
	case e.qos != 2:
		return errAckKind
	case a.Reason >= packet.UnspecifiedError:
		s.end(e) // MQTT5 [MQTT-4.3.3-3]
	case e.state == outSent:
		e.state = outReceived
		s.fx.Received(a.ID, e.ref)
	case e.state == outReleased:
		s.Out = packet.AppendAck(s.Out, packet.PUBREL, a.ID, packet.Success, s.version)
	}
	return nil
}

// ReceivedStored says that the PUBREC of id is durable (ok), and sends PUBREL. // M9
func (s *Session) ReceivedStored(id uint16, ok bool) error {
	e := s.out.find(id)
	if e == nil || e.state != outReceived {
		return nil
	}
	if !ok {
		e.state = outSent
		return errNotStored
	}
	e.state = outReleased
	if s.online {
		s.Out = packet.AppendAck(s.Out, packet.PUBREL, id, packet.Success, s.version) // MQTT5 [MQTT-4.3.3-4]
	}
	return nil
}

func (s *Session) pubcomp(a packet.Ack) error {
	if e := s.out.find(a.ID); e != nil {
		if e.qos != 2 || e.state <= outSent {
			return errAckKind
		}
		s.end(e)
	}
	return nil
}

func (s *Session) end(e *outEntry) {
	id, qos, ref, extra := e.id, e.qos, e.ref, e.extra
	s.out.free(e)
	s.fx.Done(id, qos, ref, extra)
	s.offerRoom()
}

// Unacked is one entry of the outbound window.
type Unacked struct {
	N        uint64 // place in the window
	ID       uint16
	QoS      byte
	Released bool // PUBREC came: PUBREL is what is owed
	Unstored bool // the packet id is not durable yet: PUBLISH must not leave
	Ref      Ref
	Extra    any
}

// Unacked walks the window from place from on, in the order of first sending. // MQTT5 [MQTT-4.6.0-1] [MQTT-4.6.0-5]
// The window must not change meanwhile except through Drop of the entry at hand.
func (s *Session) Unacked(from uint64) iter.Seq[Unacked] {
	return func(yield func(Unacked) bool) {
		o := &s.out
		for n := max(from, o.first); n < o.next; n = max(n+1, o.first) { // Drop may end the window
			e := o.at(n)
			if e.state == outFree {
				continue
			}
			if !yield(Unacked{n, e.id, e.qos, e.state > outSent, e.state == outReserved, e.ref, e.extra}) {
				return
			}
		}
	}
}

// ResendRoom is how many of the entries from place from on may be sent again now: all, unless the client takes fewer at
// once than the window holds; then those before from must end first. // MQTT5 [MQTT-3.3.4-9]
func (s *Session) ResendRoom(from uint64) int {
	if s.out.live <= s.out.limit {
		return packetIDs
	}
	sent := 0
	for u := range s.Unacked(0) {
		if u.N >= from {
			break
		}
		sent++
	}
	return max(int(s.out.limit)-sent, 0)
}

// WindowEnd is the place behind the last window entry.
func (s *Session) WindowEnd() uint64 { return s.out.next }

// Resend sends the message of a window entry once more, with DUP, its old packet id and its full topic, or its
// PUBREL when d is nil; without DUP where it never left. // MQTT5 [MQTT-3.3.1-1] [MQTT-4.4.0-1]
func (s *Session) Resend(u Unacked, d *Delivery) {
	e := s.out.find(u.ID)
	switch {
	case !s.online || e == nil:
	case e.state == outReleased:
		s.Out = packet.AppendAck(s.Out, packet.PUBREL, u.ID, packet.Success, s.version)
	case (e.state == outSent || e.state == outDue) && d != nil:
		if s.clientMaxPacket > 0 && len(d.Frame) > int(s.clientMaxPacket) {
			s.end(e)
			return
		}
		at := len(s.Out)
		s.Out = append(s.Out, d.Frame...)
		if e.state == outSent {
			s.Out[at] |= 8
		}
		e.state = outSent
		binary.BigEndian.PutUint16(s.Out[at+d.IDAt:], u.ID)
	}
}

// Drop removes a window entry whose message is gone or goes to someone else. Effects.Done is not called.
func (s *Session) Drop(id uint16) {
	if e := s.out.find(id); e != nil {
		s.out.free(e)
	}
}

// Abandon ends what can be ended of a window entry whose message cannot be sent again. Effects.Done is not called for
// QoS 1. With QoS 2 the client may hold the packet id, and would take another message with it for a repeat of this one:
// PUBREL frees it there, whether the message came or not. // M9
func (s *Session) Abandon(id uint16) {
	e := s.out.find(id)
	switch {
	case e == nil || !s.online:
	case e.qos != 2:
		s.out.free(e)
	case e.state == outSent || e.state == outDue:
		e.state = outReleased
		s.Out = packet.AppendAck(s.Out, packet.PUBREL, id, packet.Success, s.version)
	}
}

// Live is the number of messages that wait for the client's acknowledgement.
func (s *Session) Live() int { return int(s.out.live) }
