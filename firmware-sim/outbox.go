package firmwaresim

import "slices"

// entry is one reading in the outbox: enough to build its payload again.
type entry struct {
	seq, ts int64
	id      uint16 // packet id while in flight
	sent    bool   // left the device before, perhaps on an earlier connection
	done    bool   // acked or refused, waits for its elders to go
}

// outbox is the device's flash: readings in order of their numbers, from the oldest unacked one on. The first inflight
// of them were sent in the present MQTT session. The owner locks it.
type outbox struct {
	entries  []entry // live ones from head on
	head     int
	inflight int
	max      int
}

func (o *outbox) len() int { return len(o.entries) - o.head }

// put appends a reading; false if the outbox is full.
func (o *outbox) put(seq, ts int64) bool {
	if o.len() >= o.max {
		return false
	}
	o.entries = append(o.entries, entry{seq: seq, ts: ts})
	return true
}

// next is the oldest reading not in flight, or nil.
func (o *outbox) next() *entry {
	if o.inflight == o.len() {
		return nil
	}
	return &o.entries[o.head+o.inflight]
}

// launched marks what next returned as in flight under a packet id, and returns whether it had been sent before.
func (o *outbox) launched(id uint16) (again bool) {
	e := o.next()
	again = e.sent
	e.id, e.sent = id, true
	o.inflight++
	return again
}

// flying returns the entries in flight, settled ones included.
func (o *outbox) flying() []entry { return o.entries[o.head : o.head+o.inflight] }

// settle ends the reading in flight under id and returns it; false for an unknown id.
func (o *outbox) settle(id uint16) (entry, bool) {
	fly := o.flying()
	i := slices.IndexFunc(fly, func(e entry) bool { return e.id == id && !e.done })
	if i < 0 {
		return entry{}, false
	}
	fly[i].done = true
	settled := fly[i]
	for o.inflight > 0 && o.entries[o.head].done {
		o.head++
		o.inflight--
	}
	if o.head > len(o.entries)/2 { // move down seldom enough that each entry is copied once on average
		o.entries = o.entries[:copy(o.entries, o.entries[o.head:])]
		o.head = 0
	}
	return settled, true
}

// forget is what a lost MQTT session does: nothing is in flight any more, unsettled readings are to be sent anew.
func (o *outbox) forget() {
	o.entries = slices.DeleteFunc(o.entries[o.head:], func(e entry) bool { return e.done })
	o.head, o.inflight = 0, 0
}
