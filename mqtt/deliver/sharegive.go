package deliver

import (
	"errors"
	"slices"

	"github.com/weir-io/weir/log"
)

// This file is how messages get to the members of a group that this node leads.

// Deliver gives the message to the next member that has room. It is the target of the group's session.
func (g *Group) Deliver(m *Message, _ byte, _ bool, _ []uint32) bool {
	m.Group = g
	defer func() { m.Group = nil }()
	d := delivery{m.ID, m.Offset}
	g.mu.Lock()
	members, first := g.members, g.turn
	_, held := g.held[d]
	_, out := g.out[d]
	wait := len(g.missing) > 0 && m.QoS == 2
	g.mu.Unlock()
	if held || out {
		return true
	}
	if wait { // one of those that are missing may have it
		return false
	}
	for i := range members {
		at := (first + i) % len(members)
		mem := members[at]
		t := mem.s.online()
		if t == nil {
			continue
		}
		qos := min(mem.qos, m.QoS)
		if qos > 0 && !g.begin(d, mem, qos) { // before the target can ack it
			continue
		}
		if t.Deliver(m, qos, mem.rap && m.Retain, mem.ids) {
			g.mu.Lock()
			g.turn = at + 1
			g.mu.Unlock()
			return true
		}
		if qos > 0 {
			g.mu.Lock()
			delete(g.out, d)
			g.mu.Unlock()
		}
	}
	return false
}

// begin notes that a member has a message. False: it must not have one of QoS 2 yet, since a next leader would not know to
// ask it.
func (g *Group) begin(d delivery, mem *member, qos byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if qos == 2 && g.h.clustered() && !g.listed[mem.s.id] {
		return false
	}
	g.out[d] = outstanding{mem.s, mem.number, qos}
	return true
}

// Name is the shared subscription as subscribed.
func (g *Group) Name() string { return g.name }

// Ack says that a member is done with a message: acked, refused by a negative ack or given up, or stored with the member's
// own session. It never blocks and may be called under any lock.
func (g *Group) Ack(clientID string, id log.PartitionID, offset log.Offset) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := delivery{id, offset}
	o, ok := g.out[d]
	if !ok || o.s.id != clientID {
		return
	}
	delete(g.out, d)
	if !g.h.clustered() {
		return
	}
	if o.qos == 2 {
		g.holdLocked(d, clientID)
	}
	if !g.led {
		g.h.cfg.Away.Done(g.name, o.number, id, offset)
	}
}

// Reclaim offers a QoS 1 message back that clientID has not acked when its connection ended. True: it
// goes to another member that is online now, and clientID must not be sent it again. False: it stays
// with clientID until it comes back or is forgotten. May be called under any lock.
func (g *Group) Reclaim(clientID string, id log.PartitionID, offset log.Offset) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := delivery{id, offset}
	o, ok := g.out[d]
	if !ok || o.s.id != clientID || o.qos != 1 {
		return false
	}
	if !g.led {
		if g.others {
			delete(g.out, d)
			g.h.cfg.Away.Back(g.name, o.number, id, offset, false)
		}
		return g.others
	}
	if !slices.ContainsFunc(g.members, func(m *member) bool { return m.s.id != clientID && m.s.online() != nil }) {
		return false
	}
	delete(g.out, d)
	g.giveBackLocked(d)
	return true
}

// giveBackLocked queues messages for another member. g.mu must be held.
func (g *Group) giveBackLocked(back ...delivery) {
	if len(back) == 0 || !g.led {
		return
	}
	g.redo = append(g.redo, back...)
	s := g.session()
	s.waiting.Store(true)
	g.h.schedule(s)
}

// redispatch gives queued messages to members; false when none has room.
func (w *worker) redispatch(g *Group) bool {
	s := g.session()
	for {
		g.mu.Lock()
		if len(g.redo) == 0 {
			s.waiting.Store(false)
			g.mu.Unlock()
			return true
		}
		d := g.redo[0]
		g.mu.Unlock()
		if s.full.Load() || s.online() == nil {
			return false
		}
		if !w.redispatchOne(g, s, d) {
			return false
		}
		g.mu.Lock()
		g.redo = g.redo[1:]
		g.mu.Unlock()
	}
}

// redispatchOne gives one message; one that retention took meanwhile is passed over. false: no member has room, or it cannot be read yet.
func (w *worker) redispatchOne(g *Group, s *session, d delivery) bool {
	p := g.h.partition(d.id)
	if p == nil {
		return true
	}
	chunk, err := p.log.Read(d.offset, 1, w.buf)
	if err != nil || len(chunk) == 0 {
		err = missing(p.log, d.offset, err)
		if errors.Is(err, ErrNotYet) {
			g.h.readError(p, d.offset, err)
			g.h.retryLater(s)
			return false
		}
		g.h.lost(s, p, d.offset, d.offset+1)
		return true
	}
	w.keep(chunk)
	w.scan.reset(chunk, d.offset)
	var r rawRecord
	if ok, err := w.scan.scan(&r); err != nil || !ok || r.offset != d.offset {
		return true
	}
	topic := w.topicOf(&r, p.topic)
	if w.cache.lookup(topic).find(s) == nil || !w.msg.load(&r, p.id, topic, w.now) || w.msg.expired() {
		return true
	}
	seq := s.readySeq.Load()
	if !g.Deliver(&w.msg, 0, false, nil) {
		w.refused(s, seq)
		return false
	}
	g.h.counters.redispatched.Add(1)
	return true
}
