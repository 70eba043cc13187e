package mqtt

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/session"
)

// This file is the QoS 1 side of what a session's record says of messages that are on their way to the client, and what
// makes the window again after a restart. // M9

// windowRows is the unacknowledged QoS 1 messages from one partition in the order of first sending: for each the packet
// id and the offset, as differences from those of the one before.
type windowRows struct {
	_     struct{} `cbor:",toarray"`
	Topic []byte
	Index int32
	Rows  []int64
}

// maxWindowRows bounds what a record tells of the window, which may be written every second. What is beyond it comes
// again under new ids.
const maxWindowRows = 1024

// recordWindow notes the QoS 1 messages of the window in the session's record, so that its cursor need not go back to
// them. What the record cannot hold stays in front of the cursor. Under mu.
func (cl *client) recordWindow(r *sessionRecord) {
	type last struct {
		at         int
		id, offset int64
	}
	parts := map[log.PartitionID]*last{}
	n := 0
	for u := range cl.s.Unacked(0) {
		switch {
		case u.Ref.Offset < 0, shareOf(u.Extra) != "":
			continue // a retained message is owed by its subscription; a shared one is the group's to give again
		case u.QoS == 2 && cl.durable && !u.Unstored:
			continue // it is sent again from its own record
		case u.QoS == 2 || n == maxWindowRows:
			r.Cursor.Lower(partitionOf(u.Ref), log.Offset(u.Ref.Offset))
			continue
		}
		n++
		id := partitionOf(u.Ref)
		p := parts[id]
		if p == nil {
			p = &last{at: len(r.Window)}
			parts[id] = p
			r.Window = append(r.Window, windowRows{Topic: id.Topic[:], Index: id.Index})
		}
		w := &r.Window[p.at]
		w.Rows = append(w.Rows, int64(u.ID)-p.id, u.Ref.Offset-p.offset)
		p.id, p.offset = int64(u.ID), u.Ref.Offset
	}
}

// restoreWindow takes up what recordWindow noted. What lies beyond the cursor is not to be given as new.
func (cl *client) restoreWindow(rows []windowRows) error {
	for _, w := range rows {
		if len(w.Topic) != len(log.TopicID{}) || len(w.Rows)%2 != 0 {
			return fmt.Errorf("window of a topic id of %d bytes with %d numbers", len(w.Topic), len(w.Rows))
		}
		o := cl.outbound()
		ref := session.Ref{Topic: [16]byte(w.Topic), Index: w.Index}
		next, named := cl.cursor.Next(partitionOf(ref))
		id := int64(0)
		for i := 0; i < len(w.Rows); i += 2 {
			id += w.Rows[i]
			ref.Offset += w.Rows[i+1]
			if id < 1 || id > 65535 || ref.Offset < 0 {
				return fmt.Errorf("window has packet id %d with offset %d", id, ref.Offset)
			}
			if !named || log.Offset(ref.Offset) >= next {
				o.before[given{ref: ref}] = struct{}{}
			}
			o.restored = append(o.restored, session.Exchange{ID: uint16(id), QoS: 1, Ref: ref})
		}
	}
	return nil
}

// restoredAll makes the window of the session once all its records were read. A QoS 2 exchange is certain and the
// QoS 1 messages are those of up to a second before the crash: where an id has meanwhile gone to an exchange, the older
// message is given anew.
func (cl *client) restoredAll() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.s == nil {
		return
	}
	next := uint16(1 + rand.N(65535))
	if cl.o2 == nil {
		cl.s.Restore(nil, next)
		return
	}
	window := cl.o2.restored
	cl.o2.restored = nil
	taken := map[uint16]bool{}
	for i := range window {
		if window[i].QoS == 2 {
			taken[window[i].ID] = true
		}
	}
	cl.s.Restore(slices.DeleteFunc(window, func(x session.Exchange) bool {
		if x.QoS == 2 || !taken[x.ID] {
			return false
		}
		delete(cl.o2.before, given{ref: x.Ref})
		cl.cursor.Lower(partitionOf(x.Ref), log.Offset(x.Ref.Offset))
		return true
	}), next)
}

// owing lists the subscriptions with retained messages of QoS 1 that the client has not acknowledged or was not sent
// yet; under mu.
func (cl *client) owing() (filters map[string]bool) {
	add := func(filter string) {
		if filters == nil {
			filters = map[string]bool{}
		}
		filters[filter] = true
	}
	for _, filter := range cl.srv.hub.Owes(cl.id) { // before the window, into which they pass
		add(filter)
	}
	for u := range cl.s.Unacked(0) {
		if x, ok := u.Extra.(*outExtra); ok && u.QoS == 1 && x.filter != "" {
			add(x.filter)
		}
	}
	return filters
}

// setOwed notes that retained messages of these subscriptions are to be queued in the hub, which knows nothing of them
// yet, or that they are.
func (cl *client) setOwed(accepted []granted, owed bool) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	subs := slices.Clone(cl.subs) // a record being made may be looking at the old list
	for i := range subs {
		if slices.ContainsFunc(accepted, func(g granted) bool { return g.retained != nil && g.sub.Filter == subs[i].Filter }) {
			subs[i].Owed = owed && subs[i].QoS > 0
		}
	}
	cl.subs = subs
}
