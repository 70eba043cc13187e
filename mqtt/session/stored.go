package session

import (
	"cmp"
	"slices"
	"sync"
)

// This file is what the outbound window does so that a packet id outlives a crash of the server: messages wait for
// their id to be stored, and a window is made again from what was stored. // M9

// heldFrames is messages that wait: those whose packet id is being stored, and whatever came behind them, so that
// messages leave in the order of delivery (M3). They count as output that waits for the client.
type heldFrames struct {
	buf  []byte // the frames, one behind the other
	list []heldFrame
}

type heldFrame struct {
	size, idAt int32
	id         uint16 // 0 for QoS 0
}

var heldPool = sync.Pool{New: func() any { return new(heldFrames) }}

// maxPooledHeld is the largest buffer that is kept for others.
const maxPooledHeld = 64 << 10

func (o *outbound) dropHeld() {
	h := o.held
	if h == nil {
		return
	}
	o.held = nil
	if cap(h.buf) <= maxPooledHeld {
		h.buf, h.list = h.buf[:0], h.list[:0]
		heldPool.Put(h)
	}
}

func (e *outEntry) unsent() bool { return e.state == outReserved || e.state == outDue }

func (s *Session) hold(d *Delivery) {
	if s.out.held == nil {
		s.out.held = heldPool.Get().(*heldFrames)
	}
	h := s.out.held
	id := uint16(0)
	if d.QoS > 0 {
		state := outDue
		if d.Store {
			state = outReserved
		}
		id = s.out.push(outEntry{ref: d.Ref, qos: d.QoS, state: state, extra: d.Extra}).id
	}
	h.buf = append(h.buf, d.Frame...)
	h.list = append(h.list, heldFrame{int32(len(d.Frame)), int32(d.IDAt), id})
}

// Held is the size of the messages that wait for IDsStored.
func (s *Session) Held() int {
	if s.out.held == nil {
		return 0
	}
	return len(s.out.held.buf)
}

// IDsStored says that the packet ids of all window entries before the place end are durable (ok), and sends their
// messages, with those that wait only behind them. Entries from an earlier connection become ready to be sent by
// Resend. If the ids could not be stored, nothing leaves and the connection must end. // M9
func (s *Session) IDsStored(end uint64, ok bool) error {
	if !ok {
		return errNotStored
	}
	o := &s.out
	for n := o.first; n < min(end, o.next); n++ {
		if e := o.at(n); e.state == outReserved {
			e.state = outDue
		}
	}
	h := o.held
	if h == nil {
		return nil
	}
	used, done := 0, 0
	for _, f := range h.list {
		if f.id != 0 {
			e := o.find(f.id)
			if e != nil && e.state == outReserved {
				break
			}
			if e != nil && e.state == outDue {
				e.state = outSent
				s.emit(h.buf[used:used+int(f.size)], int(f.idAt), f.id)
			}
		} else {
			s.emit(h.buf[used:used+int(f.size)], int(f.idAt), 0)
		}
		used += int(f.size)
		done++
	}
	if done == len(h.list) {
		o.dropHeld()
		return nil
	}
	h.buf = h.buf[:copy(h.buf, h.buf[used:])]
	h.list = h.list[:copy(h.list, h.list[done:])]
	return nil
}

// Exchange is an entry of the outbound window as it is stored.
type Exchange struct {
	ID       uint16
	QoS      byte
	Released bool // with QoS 2: only PUBREL is owed
	Ref      Ref
	Extra    any
}

// Restore makes the window of a session that has sent nothing yet out of stored exchanges, in any order. They take the
// places that their ids had, so that they are sent again in the order of first sending and new ids come behind them. Of two
// with one id the first stands. Without any, the first new id is next, 1 to 65535: it should be another each time. A client
// that keeps two copies of a message which was sent again, as mosquitto's does up to 2.0, takes the next message with that
// id for the old one, and loses the new.
func (s *Session) Restore(list []Exchange, next uint16) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Exchange) int { return cmp.Compare(a.ID, b.ID) })
	list = slices.CompactFunc(list, func(a, b Exchange) bool { return a.ID == b.ID })
	if len(list) > 0 && list[0].ID == 0 { // no packet id
		list = list[1:]
	}
	if len(list) == 0 {
		s.out.first = uint64(next - 1)
		s.out.next = s.out.first
		return
	}
	// The ids may have passed 65535: the oldest is the one behind the widest gap, since a window spans less than half of
	// them. Were it not so, nothing but the order would suffer.
	oldest, widest := 0, -1
	for i := range list {
		before := int(list[(i+len(list)-1)%len(list)].ID)
		if gap := (int(list[i].ID) - before + packetIDs) % packetIDs; gap > widest && len(list) > 1 {
			oldest, widest = i, gap
		}
	}
	o := &s.out
	o.first = uint64(list[oldest].ID - 1)
	o.next = o.first
	for i := range list {
		x := &list[(oldest+i)%len(list)]
		for idOf(o.next) != x.ID {
			o.pushRaw(outEntry{})
		}
		state := outSent
		if x.Released {
			state = outReleased
		}
		o.push(outEntry{ref: x.Ref, qos: x.QoS, state: state, extra: x.Extra})
	}
}
