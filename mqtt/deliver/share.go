package deliver

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/weir-io/weir/log"
)

// GroupKeyPrefix begins the keys of group cursors in the sessions table. No client id can begin so:
// MQTT strings hold no NUL.
const GroupKeyPrefix = "\x00share/"

// Group is a shared subscription, "$share/GROUP/FILTER" (MQTT 5.0 §4.8.2): a session of its own whose
// target picks a member for each message, in turns. Its place is behind every message that a member
// has not acked, so that after a crash they are given again.
type Group struct {
	h    *Hub
	name string // as subscribed
	s    *session

	op    sync.Mutex // joins and leaves; before all but h.starting
	dead  bool       // the last member left
	entry *subscription
	saved []byte // cursor in the table

	mu      sync.Mutex // leaf: nothing is locked under it
	members []*member  // replaced, never changed
	turn    int
	out     map[delivery]outstanding
	redo    []delivery            // given back, for another member
	held    map[delivery]struct{} // what the group has given out before a restart, see HoldShared
	stored  Cursor                // committed; zero: none
}

type member struct {
	s   *session
	qos byte
	rap bool
	ids []uint32
}

// delivery names a message.
type delivery struct {
	id     log.PartitionID
	offset log.Offset
}

type outstanding struct {
	s   *session
	qos byte
}

// joinGroup makes s a member, of a new group if need be, which begins at the cursor stored for it,
// else at the member's, else at the end of the log.
func (h *Hub) joinGroup(s *session, name, filter string, sub *Sub, cur Cursor) (existed bool) {
	g := h.lockGroup(name, cur)
	defer g.op.Unlock()
	m := &member{s: s, qos: sub.QoS, rap: sub.RetainAsPublished}
	if sub.ID != 0 {
		m.ids = []uint32{sub.ID}
	}
	g.mu.Lock()
	members := slices.Clone(g.members)
	if i := slices.IndexFunc(members, func(o *member) bool { return o.s == s }); i >= 0 {
		members[i], existed = m, true
	} else {
		members = append(members, m)
	}
	g.members = members
	g.mu.Unlock()
	g.publish(filter)
	if !existed {
		s.mu.Lock()
		s.groups = append(slices.Clone(s.groups), g)
		s.mu.Unlock()
		s.grouped.Store(true)
	}
	if s.online() != nil {
		g.cameLocked()
	}
	return existed
}

// lockGroup finds or makes a group and returns it with op held.
func (h *Hub) lockGroup(name string, cur Cursor) *Group {
	for {
		h.mu.Lock()
		g := h.groups[name]
		if g == nil {
			g = &Group{h: h, name: name, out: map[delivery]outstanding{}}
			g.s = h.newSessionLocked(name)
			g.s.group = g
			g.s.durable.Store(true)
			if stored, ok := h.stored[name]; ok {
				delete(h.stored, name)
				cur = stored
				g.saved, _ = stored.MarshalCBOR() // so that it is deleted with the group
				g.stored = stored.Clone()
			}
			g.held = h.held[name]
			delete(h.held, name)
			if g.s.restored = !h.running && !cur.IsZero(); g.s.restored {
				g.s.start = cur.Clone()
			}
			g.s.startAt = cur
			h.groups[name] = g
			h.shares.Store(name, g)
		} else if g.s.restored && !h.running && g.saved == nil {
			// Nobody knows how far the group had come: the first of its members counts.
			for _, pl := range cur.at {
				g.s.start.lowerKnown(delivery{pl.id, pl.next})
			}
		}
		h.mu.Unlock()
		g.op.Lock()
		if !g.dead {
			return g
		}
		g.op.Unlock()
	}
}

// publish puts the group into the index with the highest QoS of its members. op must be held.
func (g *Group) publish(filter string) {
	qos := byte(0)
	for _, m := range g.members {
		qos = max(qos, m.qos)
	}
	if g.entry != nil && g.entry.qos == qos {
		return
	}
	entry, old := &subscription{s: g.s, filter: filter, qos: qos, rap: true}, g.entry
	g.entry = entry
	if old != nil {
		entry.since.Store(old.since.Load())
		g.h.index.put(entry, old)
		return
	}
	g.h.listen(g.s)
	g.h.guard(entry, g.s.startAt, Cursor{})
	g.h.index.put(entry, nil)
	if !g.s.restored && !g.s.startAt.IsZero() {
		g.h.scanFrom(g.s, g.s.startAt)
	}
	g.s.startAt = Cursor{}
}

// memberCame connects the group when its first member connects.
func (g *Group) memberCame() {
	g.op.Lock()
	defer g.op.Unlock()
	g.cameLocked()
}

func (g *Group) cameLocked() {
	switch {
	case g.dead:
	case g.s.online() == nil:
		g.h.present(g.s, g)
	default:
		g.s.room() // the others may be full
	}
}

// memberLeft disconnects the group with its last member. In any case no message is on its way through
// the group's own catch-up to a target that was taken away before the call.
func (g *Group) memberLeft() {
	g.op.Lock()
	defer g.op.Unlock()
	for _, m := range g.members {
		if m.s.online() != nil {
			g.s.awaitCatchUp()
			return
		}
	}
	if g.s.online() != nil {
		g.h.absent(g.s)
	}
}

// leaveGroup takes s out of a group; what it has not acked stays with it.
func (h *Hub) leaveGroup(s *session, name string) bool {
	s.mu.Lock()
	i := slices.IndexFunc(s.groups, func(g *Group) bool { return g.name == name })
	if i < 0 {
		s.mu.Unlock()
		return false
	}
	g := s.groups[i]
	s.groups = slices.Delete(slices.Clone(s.groups), i, i+1)
	s.mu.Unlock()
	g.remove(s)
	return true
}

// leaveAllGroups ends the memberships of a session that ended. Its QoS 1 messages go to other members,
// its QoS 2 messages may not [MQTT-4.8.2-5].
func (h *Hub) leaveAllGroups(s *session) {
	s.mu.Lock()
	groups := s.groups
	s.groups = nil
	s.mu.Unlock()
	for _, g := range groups {
		g.mu.Lock()
		var back []delivery
		for d, o := range g.out {
			if o.s == s {
				delete(g.out, d)
				if o.qos == 1 {
					back = append(back, d)
				}
			}
		}
		slices.SortFunc(back, compareDeliveries)
		g.giveBackLocked(back...)
		g.mu.Unlock()
		g.remove(s)
	}
}

// compareDeliveries sorts by offset within a partition.
func compareDeliveries(a, b delivery) int {
	if c := comparePlaces(place{id: a.id}, b.id); c != 0 {
		return c
	}
	return cmp.Compare(a.offset, b.offset)
}

// remove ends a membership, and the group with the last one.
func (g *Group) remove(s *session) {
	g.op.Lock()
	defer g.op.Unlock()
	g.mu.Lock()
	g.members = slices.DeleteFunc(slices.Clone(g.members), func(m *member) bool { return m.s == s })
	left := len(g.members)
	g.mu.Unlock()
	h := g.h
	if left > 0 {
		g.publish(g.entry.filter)
		for _, m := range g.members {
			if m.s.online() != nil {
				h.schedule(g.s)
				return
			}
		}
		h.absent(g.s)
		return
	}
	g.dead = true
	h.mu.Lock()
	delete(h.groups, g.name)
	h.shares.Delete(g.name)
	h.mu.Unlock()
	h.absent(g.s)
	h.index.remove(g.entry)
	h.unlisten(g.s)
	if h.cfg.Groups != nil && g.saved != nil {
		h.cfg.Groups.Put([]byte(GroupKeyPrefix+g.name), nil, func(error) {})
	}
}

// Deliver gives the message to the next member that has room. It is the target of the group's session.
func (g *Group) Deliver(m *Message, _ byte, _ bool, _ []uint32) bool {
	m.Group = g
	defer func() { m.Group = nil }()
	d := delivery{m.ID, m.Offset}
	g.mu.Lock()
	members, first := g.members, g.turn
	_, held := g.held[d]
	g.mu.Unlock()
	if held {
		return true
	}
	for i := range members {
		at := (first + i) % len(members)
		mem := members[at]
		t := mem.s.online()
		if t == nil {
			continue
		}
		qos := min(mem.qos, m.QoS)
		if qos > 0 {
			g.mu.Lock()
			g.out[d] = outstanding{mem.s, qos} // before the target can ack it
			g.mu.Unlock()
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

// Name is the shared subscription as subscribed.
func (g *Group) Name() string { return g.name }

// HoldShared says that a stored session has a QoS 2 message of a shared subscription, whose exchange with its client has
// begun or has even ended: the group, whose cursor may be behind it, gives it to nobody [MQTT-4.8.2-4]. It is called
// before the sessions are attached.
func (h *Hub) HoldShared(name string, id log.PartitionID, offset log.Offset) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[name] == nil {
		h.held[name] = map[delivery]struct{}{}
	}
	h.held[name][delivery{id, offset}] = struct{}{}
}

// SharedPassed says whether the stored cursor of a shared subscription has passed a message, so that no restart gives it
// out again. It never blocks and may be called under any lock.
func (h *Hub) SharedPassed(name string, id log.PartitionID, offset log.Offset) bool {
	v, ok := h.shares.Load(name)
	if !ok {
		return true // it has ended, and its cursor with it
	}
	g := v.(*Group)
	g.mu.Lock()
	defer g.mu.Unlock()
	next, ok := g.stored.Next(id)
	return ok && next > offset
}

// Ack says that a member is done with a message: acked, refused by a negative ack or given up, or stored with the member's
// own session. It never blocks and may be called under any lock.
func (g *Group) Ack(clientID string, id log.PartitionID, offset log.Offset) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := delivery{id, offset}
	if o, ok := g.out[d]; ok && o.s.id == clientID {
		delete(g.out, d)
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
	if !slices.ContainsFunc(g.members, func(m *member) bool { return m.s.id != clientID && m.s.online() != nil }) {
		return false
	}
	delete(g.out, d)
	g.giveBackLocked(d)
	return true
}

// giveBackLocked queues messages for another member. g.mu must be held.
func (g *Group) giveBackLocked(back ...delivery) {
	if len(back) == 0 {
		return
	}
	g.redo = append(g.redo, back...)
	g.s.waiting.Store(true)
	g.h.schedule(g.s)
}

// redispatch gives queued messages to members; false when none has room.
func (w *worker) redispatch(g *Group) bool {
	for {
		g.mu.Lock()
		if len(g.redo) == 0 {
			g.s.waiting.Store(false)
			g.mu.Unlock()
			return true
		}
		d := g.redo[0]
		g.mu.Unlock()
		if g.s.full.Load() || g.s.online() == nil {
			return false
		}
		if !w.redispatchOne(g, d) {
			return false
		}
		g.mu.Lock()
		g.redo = g.redo[:copy(g.redo, g.redo[1:])]
		g.mu.Unlock()
	}
}

// redispatchOne gives one message; one that retention took meanwhile is passed over.
func (w *worker) redispatchOne(g *Group, d delivery) bool {
	p := g.h.partition(d.id)
	if p == nil {
		return true
	}
	chunk, err := p.log.Read(d.offset, 1, w.buf)
	if err != nil {
		g.h.lost(g.s, p, d.offset, d.offset+1)
		return true
	}
	w.keep(chunk)
	w.scan.reset(chunk, d.offset)
	var r rawRecord
	if ok, err := w.scan.scan(&r); err != nil || !ok || r.offset != d.offset {
		return true
	}
	if !w.msg.load(&r, p.id, w.topicOf(&r, p.topic), w.now) || w.msg.expired() {
		return true
	}
	seq := g.s.readySeq.Load()
	if !g.Deliver(&w.msg, 0, false, nil) {
		w.refused(g.s, seq)
		return false
	}
	g.h.counters.redispatched.Add(1)
	return true
}

// cursor is the group's place, behind everything unacked.
func (g *Group) cursor() Cursor {
	g.s.catchUp.Lock()
	cur := g.h.placeOf(g.s)
	g.s.catchUp.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	for d := range g.out {
		cur.lowerKnown(d)
	}
	for _, d := range g.redo {
		cur.lowerKnown(d)
	}
	return cur
}

// lowerKnown is Lower for partitions that still exist.
func (c *Cursor) lowerKnown(d delivery) {
	if next, ok := c.Next(d.id); ok && d.offset < next {
		c.Set(d.id, d.offset)
	}
}

// loadGroups reads the cursors of the last run. One whose members never come back costs a small entry.
func (h *Hub) loadGroups() error {
	h.stored = map[string]Cursor{}
	if h.cfg.Groups == nil {
		return nil
	}
	return h.cfg.Groups.Load(func(key, value []byte) error {
		h.StoredGroup(string(key), value)
		return nil
	})
}

// StoredGroup takes up a record of the table of groups: the cursor of one whose members are not back yet, nil to forget
// it. Of several the farthest counts in each partition: somebody has acked what lies before it. Keys that are not a group's
// are passed over.
func (h *Hub) StoredGroup(key string, value []byte) {
	name, ok := strings.CutPrefix(key, GroupKeyPrefix)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if value == nil {
		delete(h.stored, name)
	}
	if value == nil || h.groups[name] != nil {
		return
	}
	var cur Cursor
	if err := cur.UnmarshalCBOR(value); err != nil {
		h.cfg.Logger.Warn("stored cursor of a shared subscription left out", "group", name, "err", err)
		return
	}
	cur.Raise(h.stored[name])
	h.stored[name] = cur
}

// flushGroups writes the cursors that changed (M9).
func (h *Hub) flushGroups() {
	if h.cfg.Groups == nil {
		return
	}
	h.mu.Lock()
	groups := make([]*Group, 0, len(h.groups))
	for _, g := range h.groups {
		groups = append(groups, g)
	}
	h.mu.Unlock()
	for _, g := range groups {
		g.flush()
	}
}

func (g *Group) flush() {
	g.op.Lock()
	defer g.op.Unlock()
	if g.dead || g.entry == nil {
		return
	}
	cur := g.cursor()
	value, err := cur.MarshalCBOR()
	if err != nil || bytes.Equal(value, g.saved) {
		return
	}
	g.saved = value
	g.h.cfg.Groups.Put([]byte(GroupKeyPrefix+g.name), value, func(err error) {
		if err != nil {
			g.h.cfg.Logger.Warn("cursor of a shared subscription not stored", "group", g.name, "err", err)
			return
		}
		g.passed(cur)
	})
}

// passed notes a cursor that is committed.
func (g *Group) passed(cur Cursor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stored = cur
	maps.DeleteFunc(g.held, func(d delivery, _ struct{}) bool {
		next, ok := cur.Next(d.id)
		return ok && next > d.offset
	})
}
