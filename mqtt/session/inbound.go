package session

import "github.com/weir-io/weir/mqtt/packet"

// qos2Bit marks the numbers of QoS 2 exchanges among the seq values of Effects.Append, whose other half are
// slot numbers of QoS 1 publishes plus one (0 stands for QoS 0).
const qos2Bit = 1 << 63

// IsQoS2 tells whether a seq given to Effects.Append names a QoS 2 exchange.
func IsQoS2(seq uint64) bool { return seq&qos2Bit != 0 }

// inbound2 is the inbound QoS 2 side, made when the client first uses it. A nil one is empty.
type inbound2 struct {
	slots     slots
	exchanges map[uint16]*exchange // by packet id
	next      uint64               // number of the next exchange
}

// qos2 returns the QoS 2 side, made if need be.
func (s *Session) qos2() *inbound2 {
	if s.in2 == nil {
		s.in2 = &inbound2{exchanges: map[uint16]*exchange{}, next: uint64(s.generation&0x7fffff) << 24}
	}
	return s.in2
}

func (q *inbound2) find(id uint16) *exchange {
	if q == nil {
		return nil
	}
	return q.exchanges[id]
}

// add makes an exchange for a packet id, not entered yet.
func (q *inbound2) add(id uint16) *exchange {
	q.next++
	return &exchange{seq: qos2Bit | q.next<<16 | uint64(id), slot: noSlot}
}

func (q *inbound2) open() int {
	if q == nil {
		return 0
	}
	return len(q.exchanges)
}

// reconnect drops the slots, which belong to the connection; the exchanges stay.
func (q *inbound2) reconnect() {
	if q == nil {
		return
	}
	q.slots.reset()
	for _, e := range q.exchanges {
		e.slot = noSlot
	}
}

func (q *inbound2) waiting() bool { return q != nil && q.slots.first < q.slots.next }

// exchange is one inbound QoS 2 delivery from PUBLISH to PUBCOMP.
type exchange struct {
	seq      uint64
	slot     uint64 // where its PUBREC waits; noSlot after a reconnect
	state    exchangeState
	released bool // PUBREL came, its durable removal is under way
}

type exchangeState uint8

const (
	exchangePending exchangeState = iota // Effects.Append has it
	exchangeUnknown                      // whether the record exists is not known: a repeat finds out
	exchangeStored                       // committed
)

var (
	errReceiveMax = &packet.Error{Reason: packet.ReceiveMaximumExceeded, Detail: "more unacknowledged publishes than the receive maximum"}
	errAliasRange = &packet.Error{Reason: packet.TopicAliasInvalid, Detail: "topic alias is above the topic alias maximum"}
	errAliasUnset = &packet.Error{Reason: packet.ProtocolError, Detail: "topic alias was not set on this connection"}
	errNotStored  = &packet.Error{Reason: packet.ServerUnavailable, Detail: "a publish could not be made durable"}
)

// refusedV311 ends the connection of a 3.1.1 client whose publish is refused: that version has no negative
// acknowledgement, and what is not stored gets no other (M8). // MQTT3 [MQTT-3.3.5-2]
func refusedV311(r packet.Reason) error {
	return &packet.Error{Reason: r, Detail: "publish refused, and MQTT 3.1.1 has no negative acknowledgement"}
}

// Publish takes a PUBLISH from the client. taken is false when it must be offered again later: the log holds
// it up (M8), or a 3.1.1 client is at the receive maximum, which that version cannot be told (M1).
func (s *Session) Publish(p *packet.Publish, now int64) (taken bool, err error) {
	if p.QoS > 0 {
		if fresh := p.QoS == 1 || s.in2.find(p.ID) == nil; fresh && s.inflightIn() >= int(s.limits.ReceiveMaximum) {
			if s.version == packet.V5 {
				return false, errReceiveMax // MQTT5 [MQTT-3.3.4-7] [MQTT-3.3.4-9]
			}
			return false, nil
		}
	}
	// Before anything looks at the topic: authorisation and routing must see the name, not the alias.
	if err := s.resolveAlias(p); err != nil {
		return false, err
	}
	switch p.QoS {
	case 0:
		v := s.fx.Append(0, p)
		return !v.Held, nil // MQTT5 §4.3.1: a refused QoS 0 message is dropped
	case 1:
		return s.publish1(p, now)
	default:
		return s.publish2(p, now)
	}
}

// inflightIn is the client's use of our receive maximum, derived from what is open.
func (s *Session) inflightIn() int { return s.in1.unacked() + s.in2.open() }

func (s *Session) resolveAlias(p *packet.Publish) error {
	a := int(p.TopicAlias)
	if a == 0 {
		return nil
	}
	if a > int(s.limits.AliasMaximum) {
		return errAliasRange // MQTT5 [MQTT-3.3.2-9]
	}
	if s.aliases == nil {
		s.aliases = new(aliases)
	}
	names := s.aliases.in
	if len(p.Topic) > 0 {
		for len(names) < a {
			names = append(names, nil)
		}
		names[a-1] = append(names[a-1][:0], p.Topic...)
		s.aliases.in = names
		return nil
	}
	if a > len(names) || names[a-1] == nil {
		return errAliasUnset // MQTT5 [MQTT-3.3.2-12]: an alias counts within its connection only
	}
	p.Topic = names[a-1]
	return nil
}

func (s *Session) publish1(p *packet.Publish, now int64) (bool, error) {
	n := s.in1.next
	v := s.fx.Append(n+1, p)
	if v.Held {
		return false, nil
	}
	s.in1.push(p.ID, now)
	if v.Reason >= packet.UnspecifiedError {
		if s.version != packet.V5 {
			return true, refusedV311(v.Reason)
		}
		s.in1.complete(n, 1, v.Reason)
		s.emit1(now)
	}
	return true, nil
}

func (s *Session) publish2(p *packet.Publish, now int64) (bool, error) {
	q := s.qos2()
	e := q.find(p.ID)
	if e != nil && e.state != exchangeUnknown { // a repeat: never a second record // MQTT5 [MQTT-4.3.3-10] M4
		if e.slot == noSlot {
			e.slot = q.slots.push(p.ID, now)
			if e.state == exchangeStored {
				s.finish2(e, packet.Success, now)
			}
		} else if e.state == exchangeStored {
			s.Out = packet.AppendAck(s.Out, packet.PUBREC, p.ID, packet.Success, s.version)
		}
		return true, nil
	}
	if e == nil {
		e = q.add(p.ID)
	}
	v := s.fx.Append(e.seq, p)
	if v.Held {
		return false, nil
	}
	if v.Reason >= packet.UnspecifiedError {
		delete(q.exchanges, p.ID) // MQTT5 [MQTT-4.3.3-8]: a refusal ends the exchange
		if s.version != packet.V5 {
			return true, refusedV311(v.Reason)
		}
		q.slots.complete(q.slots.push(p.ID, now), 1, v.Reason)
		s.emit2(now)
		return true, nil
	}
	e.state = exchangePending
	e.slot = q.slots.push(p.ID, now)
	q.exchanges[p.ID] = e
	return true, nil
}

// Committed says that the count QoS 1 publishes whose seq values start at first are durable, or that they are
// not and never will be by themselves: then the connection ends without an ack, and the client sends them
// again (M8).
func (s *Session) Committed(first uint64, count int, ok bool, now int64) error {
	n := first - 1
	if !ok {
		if n+uint64(count) > s.in1.first && n < s.in1.next {
			return errNotStored
		}
		return nil // of an earlier connection
	}
	s.in1.complete(n, count, packet.Success)
	s.emit1(now)
	return nil
}

// Stored says how the QoS 2 exchange seq went: r is Success once its record is durable, a refusal, or, when that
// cannot be had or known for now, ServerUnavailable or QuotaExceeded, which end the connection (M8).
func (s *Session) Stored(seq uint64, r packet.Reason, now int64) error {
	id := uint16(seq)
	e := s.in2.find(id)
	if e == nil || e.seq != seq {
		return nil
	}
	if r == packet.ServerUnavailable || r == packet.QuotaExceeded {
		e.state = exchangeUnknown
		if e.slot == noSlot {
			return nil
		}
		return &packet.Error{Reason: r, Detail: errNotStored.Detail}
	}
	e.state = exchangeStored
	if r >= packet.UnspecifiedError {
		delete(s.in2.exchanges, id)
		if s.version != packet.V5 {
			return refusedV311(r)
		}
	}
	s.finish2(e, r, now)
	return nil
}

func (s *Session) finish2(e *exchange, r packet.Reason, now int64) {
	if e.slot != noSlot {
		s.in2.slots.complete(e.slot, 1, r)
		s.emit2(now)
	}
}

func (s *Session) emit1(now int64) {
	s.Out = s.in1.emit(s.Out, packet.PUBACK, s.version, now, s.limits.Overtake)
}

func (s *Session) emit2(now int64) {
	s.Out = s.in2.slots.emit(s.Out, packet.PUBREC, s.version, now, s.limits.Overtake)
}

// Tick lets acks overtake a stalled head; the owner calls it about once a second while Waiting. Its error ends the connection: a publish has waited for its
// commit for longer than patience milliseconds, and the client may find somebody else who can make it durable (M8).
func (s *Session) Tick(now, patience int64) error {
	if !s.online {
		return nil
	}
	s.emit1(now)
	overdue := s.in1.waited(now) > patience
	if s.in2 != nil {
		s.emit2(now)
		overdue = overdue || s.in2.slots.waited(now) > patience
	}
	if overdue {
		return errNotStored
	}
	return nil
}

// Waiting tells whether publishes wait for their commit.
func (s *Session) Waiting() bool { return s.in1.first < s.in1.next || s.in2.waiting() }

// Restored registers a QoS 2 exchange that was open when the node last ran. stored tells whether its record
// is known to be durable; otherwise a repeat of the PUBLISH finds out. It returns the exchange's seq.
func (s *Session) Restored(id uint16, stored bool) (seq uint64) {
	q := s.qos2()
	e := q.add(id)
	if e.state = exchangeUnknown; stored {
		e.state = exchangeStored
	}
	q.exchanges[id] = e
	return e.seq
}

// pubrel ends an inbound QoS 2 exchange: PUBCOMP follows once its durable removal is done. // MQTT5 [MQTT-4.3.3-11]
// A PUBREL for a restored exchange proves that the client has our PUBREC, hence that the record was durable.
func (s *Session) pubrel(id uint16) {
	e := s.in2.find(id)
	if e == nil || e.state == exchangePending {
		r := packet.PacketIdentifierNotFound
		if s.version != packet.V5 {
			r = packet.Success
		}
		s.Out = packet.AppendAck(s.Out, packet.PUBCOMP, id, r, s.version)
		return
	}
	if !e.released {
		e.released = true
		s.fx.Release(id, e.seq)
	}
}

// Released says that the exchange is durably forgotten (ok), and sends PUBCOMP. // M4
func (s *Session) Released(seq uint64, ok bool) error {
	id := uint16(seq)
	e := s.in2.find(id)
	if e == nil || e.seq != seq {
		return nil
	}
	if !ok {
		e.released = false
		return errNotStored
	}
	delete(s.in2.exchanges, id)
	if s.online {
		s.Out = packet.AppendAck(s.Out, packet.PUBCOMP, id, packet.Success, s.version)
	}
	return nil
}
