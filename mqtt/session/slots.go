package session

import "github.com/weir-io/weir/mqtt/packet"

// slots is the reorder buffer of M2: one slot per inbound publish that waits for its commit, in publish
// order. Slots are numbered without gaps for the life of the session, so that a commit result can name a run
// of them, and a result for a slot of an earlier connection falls outside the live range.
type slots struct {
	ring  []slot // length is a power of two, or nil
	first uint64 // number of the oldest live slot
	next  uint64 // number of the next slot
	sent  int32  // live slots whose ack has overtaken the head
}

type slot struct {
	since  uint32 // low bits of the millisecond clock
	id     uint16
	reason packet.Reason
	state  uint8
}

const (
	slotWaiting uint8 = iota
	slotDone          // commit known, ack not sent
	slotSent          // ack sent ahead of older ones
)

const noSlot = ^uint64(0)

// push opens a slot and returns its number.
func (s *slots) push(id uint16, now int64) uint64 {
	if live := int(s.next - s.first); live == len(s.ring) {
		s.grow()
	}
	n := s.next
	s.next++
	s.ring[n&uint64(len(s.ring)-1)] = slot{since: uint32(now), id: id}
	return n
}

func (s *slots) grow() {
	bigger := make([]slot, max(8, 2*len(s.ring)))
	for n := s.first; n < s.next; n++ {
		bigger[n&uint64(len(bigger)-1)] = s.ring[n&uint64(len(s.ring)-1)]
	}
	s.ring = bigger
}

func (s *slots) at(n uint64) *slot { return &s.ring[n&uint64(len(s.ring)-1)] }

// complete records the outcome of count slots from first on; slots that are not live are ignored.
func (s *slots) complete(first uint64, count int, r packet.Reason) {
	end := min(first+uint64(count), s.next)
	for n := max(first, s.first); n < end; n++ {
		if e := s.at(n); e.state == slotWaiting {
			e.state, e.reason = slotDone, r
		}
	}
}

// emit appends the acks that may leave: all done ones from the head on and, once the head has waited for
// longer than overtake milliseconds, the done ones behind it too. // M2
func (s *slots) emit(dst []byte, t packet.Type, version byte, now, overtake int64) []byte {
	for s.first < s.next {
		e := s.at(s.first)
		if e.state == slotWaiting {
			break
		}
		if e.state == slotDone {
			dst = packet.AppendAck(dst, t, e.id, e.reason, version)
		} else {
			s.sent--
		}
		s.first++
	}
	if s.first == s.next || int64(uint32(now)-s.at(s.first).since) < overtake {
		return dst
	}
	for n := s.first; n < s.next; n++ {
		if e := s.at(n); e.state == slotDone {
			dst = packet.AppendAck(dst, t, e.id, e.reason, version)
			e.state = slotSent
			s.sent++
		}
	}
	return dst
}

// waited is how many milliseconds the oldest has waited, 0 if there is none.
func (s *slots) waited(now int64) int64 {
	if s.first == s.next {
		return 0
	}
	return int64(uint32(now) - s.at(s.first).since)
}

// unacked counts the publishes whose ack has not left.
func (s *slots) unacked() int { return int(s.next-s.first) - int(s.sent) }

// reset forgets the live slots; their numbers are never used again.
func (s *slots) reset() {
	s.first, s.sent, s.ring = s.next, 0, nil
}
