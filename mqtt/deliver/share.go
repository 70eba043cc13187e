package deliver

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log"
)

// Group is a shared subscription, "$share/GROUP/FILTER" (MQTT 5.0 §4.8.2): a session of its own whose
// target picks a member for each message, in turns. Its place is behind every message that a member
// has not acked, so that after a crash they are given again.
//
// In a cluster one node leads it (Away.PartitionOf). There its members are the sessions of that node and the guests, which
// live on others; on any other node it is the sessions there, which are given what the leader has chosen for them (afar.go).
type Group struct {
	h    *Hub
	name string // as subscribed

	op    sync.Mutex // joins, leaves and changes of the leader; before all but h.starting
	dead  bool       // the last member left
	entry *subscription
	saved []byte // record in the table

	sess atomic.Pointer[session] // another one for each time that this node leads the group

	mu      sync.Mutex // nothing of the hub is locked under it
	led     bool       // by this node; changed with op held too
	members []*member  // replaced, never changed
	turn    int
	out     map[delivery]outstanding
	redo    []delivery          // given back, for another member
	held    map[delivery]string // by whose session: QoS 2 messages that are nobody else's, see HoldShared
	stored  Cursor              // committed; zero: none
	others  bool                // led elsewhere: more than one member is connected

	// Of a cluster only. listed are the members of QoS 2 that the committed record names, missing those that it named when
	// this node began to lead the group and that have not said yet what they hold.
	listed  map[string]bool
	missing map[string]time.Time // until when they are waited for
	failed  bool                 // the record is to be put though it may be the same
	began   Cursor               // where, if nothing was stored of it
	young   time.Time            // until when members of the former leader may be unknown to this one
}

// member is replaced when its session subscribes again, under the same number.
type member struct {
	s      *session
	number uint64 // differs between all memberships of this node's sessions; of a guest, its node's
	qos    byte
	rap    bool
	ids    []uint32
	term   uint64    // Sub.Term
	begin  Cursor    // where a group begins that it is the first member of
	lost   time.Time // since when its node, or its session's owner, is not there; zero: it is
	guest  *guest
}

// delivery names a message.
type delivery struct {
	id     log.PartitionID
	offset log.Offset
}

type outstanding struct {
	s      *session
	number uint64
	qos    byte
}

func (h *Hub) clustered() bool { return h.cfg.Away != nil }

func (g *Group) session() *session { return g.sess.Load() }

// joinGroup makes s a member, of a new group if need be, which begins at the cursor stored for it,
// else at the member's, else at the end of the log.
func (h *Hub) joinGroup(s *session, name, filter string, sub *Sub, cur Cursor) (existed bool) {
	m := &member{s: s, number: h.numbers.Add(1), term: sub.Term, qos: sub.QoS, rap: sub.RetainAsPublished, begin: cur}
	if sub.ID != 0 {
		m.ids = []uint32{sub.ID}
	}
	if m.begin.IsZero() && h.clustered() {
		if m.begin = sub.Since; m.begin.IsZero() {
			m.begin = h.Ends()
		}
	}
	g := h.lockGroup(name, cur)
	defer g.op.Unlock()
	return g.joinLocked(m, filter, nil)
}

// joinLocked adds a member; op must be held.
func (g *Group) joinLocked(m *member, filter string, open map[delivery]byte) (existed bool) {
	s := m.s
	g.mu.Lock()
	members := slices.Clone(g.members)
	if i := slices.IndexFunc(members, func(o *member) bool { return o.s == s }); i >= 0 {
		m.number = members[i].number
		members[i], existed = m, true
	} else {
		members = append(members, m)
	}
	if g.h.clustered() && slices.ContainsFunc(members, func(o *member) bool { return o.s.id == s.id && o.term > m.term }) {
		g.mu.Unlock()
		return false // it has gone from its node, which has not said so yet
	}
	if g.members = members; g.h.clustered() {
		g.arrivedLocked(m, open)
	}
	led := g.led
	if !led && !existed {
		for d, o := range g.out { // it was a member before
			if o.s == s {
				g.out[d] = outstanding{s, m.number, o.qos}
			}
		}
	}
	g.mu.Unlock()
	if !existed {
		s.mu.Lock()
		s.groups = append(slices.Clone(s.groups), g)
		s.mu.Unlock()
		s.grouped.Store(true)
	}
	if !led {
		g.h.away.Store(m.number, seat{g, s})
		g.h.cfg.Away.Member(g.name, m.number)
		return existed
	}
	g.publish(filter)
	if g.h.clustered() {
		if m.guest == nil {
			g.h.away.Store(m.number, seat{g, s})
		}
		g.makeKnown(m)
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
			g.led = h.leadsLocked(name)
			g.held = h.held[name]
			delete(h.held, name)
			g.beginLocked(cur)
			h.groups[name] = g
			h.shares.Store(name, g)
		} else if s := g.session(); s.restored && !h.running && g.saved == nil {
			// Nobody knows how far the group had come: the first of its members counts.
			for _, pl := range cur.at {
				s.start.lowerKnown(delivery{pl.id, pl.next})
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

// beginLocked gives the group a session that begins at the cursor stored for it, else at cur. h.mu must be held.
func (g *Group) beginLocked(cur Cursor) {
	h := g.h
	s := h.newSessionLocked(g.name)
	s.group = g
	s.durable.Store(true)
	if stored, ok := h.stored[g.name]; ok && g.led {
		delete(h.stored, g.name)
		cur = stored.Cursor
		g.saved = stored.encode() // so that it is deleted with the group
		g.stored, g.failed = cur.Clone(), stored.old
		g.await(stored.Members)
	} else if g.led && h.clustered() {
		cur = g.beginAnewLocked(cur)
	}
	if s.restored = g.led && !h.running && !cur.IsZero(); s.restored {
		s.start = cur.Clone()
	}
	s.startAt = cur
	g.sess.Store(s)
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
	s := g.session()
	entry, old := &subscription{s: s, filter: filter, qos: qos, rap: true}, g.entry
	g.entry = entry
	if old != nil {
		entry.since.Store(old.since.Load())
		g.h.index.put(entry, old)
		return
	}
	g.h.listen(s)
	g.h.guard(entry, s.startAt, Cursor{})
	g.h.index.put(entry, nil)
	if !s.restored && !s.startAt.IsZero() {
		g.h.scanFrom(s, s.startAt)
	}
	s.startAt = Cursor{}
}

// memberCame connects the group when its first member connects.
func (g *Group) memberCame(s *session) {
	g.op.Lock()
	defer g.op.Unlock()
	if g.tellLocked(s) {
		return
	}
	g.cameLocked()
}

// cameLocked is memberCame of a group that this node leads.
func (g *Group) cameLocked() {
	if g.dead {
		return
	}
	if s := g.session(); s.online() == nil {
		g.h.present(s, g)
	} else {
		s.room() // the others may be full
	}
	g.tellOthers()
}

// memberLeft disconnects the group with its last member. In any case no message is on its way through
// the group's own catch-up to a target that was taken away before the call.
func (g *Group) memberLeft(s *session) {
	g.op.Lock()
	defer g.op.Unlock()
	if g.tellLocked(s) {
		return
	}
	g.leftLocked()
}

func (g *Group) leftLocked() {
	g.tellOthers()
	for _, m := range g.members {
		if m.s.online() != nil {
			g.session().awaitCatchUp()
			return
		}
	}
	if g.session().online() != nil {
		g.h.absent(g.session())
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
	g.remove(s, Unsubscribes)
	return true
}

// leaveAllGroups ends the memberships of a session that ended, or that another node has now. Its QoS 1 messages go to other
// members, its QoS 2 messages may not [MQTT-4.8.2-5].
func (h *Hub) leaveAllGroups(s *session, how Leaving) {
	s.mu.Lock()
	groups := s.groups
	s.groups = nil
	s.mu.Unlock()
	for _, g := range groups {
		g.mu.Lock()
		g.takeBackLocked(s, how)
		g.mu.Unlock()
		g.remove(s, how)
	}
}

// Leaving says why a membership ends, and what becomes of what the member has not acked.
type Leaving byte

const (
	Unsubscribes Leaving = iota // it keeps it
	Ends                        // its session ends
	Moves                       // its session is on another node from now on, or its node is lost: QoS 2 stays with the session
)

// takeBackLocked takes messages away from a session that has gone. g.mu must be held.
func (g *Group) takeBackLocked(s *session, how Leaving) {
	var back []delivery
	for d, o := range g.out {
		switch {
		case o.s != s:
		case o.qos == 1:
			delete(g.out, d)
			back = append(back, d)
		case how == Ends || !g.led:
			delete(g.out, d)
		}
	}
	slices.SortFunc(back, compareDeliveries)
	g.giveBackLocked(back...)
}

// compareDeliveries sorts by offset within a partition.
func compareDeliveries(a, b delivery) int {
	if c := comparePlaces(place{id: a.id}, b.id); c != 0 {
		return c
	}
	return cmp.Compare(a.offset, b.offset)
}

// remove ends a membership, and the group with the last one.
func (g *Group) remove(s *session, how Leaving) {
	g.op.Lock()
	defer g.op.Unlock()
	g.removeLocked(s, how)
}

func (g *Group) removeLocked(s *session, how Leaving) {
	if g.dead {
		return
	}
	g.mu.Lock()
	i := slices.IndexFunc(g.members, func(m *member) bool { return m.s == s })
	if i < 0 {
		g.mu.Unlock()
		return
	}
	m := g.members[i]
	switch {
	case how == Moves && g.led: // it is waited for, and the group does not end without it
		lost := *m
		lost.lost = g.h.cfg.Now()
		g.members = slices.Clone(g.members)
		g.members[i] = &lost
	default:
		g.members = slices.Delete(slices.Clone(g.members), i, i+1)
	}
	left, led := len(g.members), g.led
	g.mu.Unlock()
	if m.guest == nil && g.h.clustered() {
		g.h.away.Delete(m.number)
	}
	if !led {
		g.h.cfg.Away.Gone(g.name, s.id, m.number, how)
		if left == 0 {
			g.end()
		}
		return
	}
	if left > 0 {
		g.publish(g.entry.filter)
		g.leftLocked()
		if g.session().online() != nil {
			g.h.schedule(g.session())
		}
		return
	}
	g.remember()
	g.end()
	g.stop()
	if g.h.cfg.Groups != nil && g.saved != nil {
		g.h.cfg.Groups.Put([]byte(GroupKeyPrefix+g.name), nil, func(error) {})
	}
}

// end makes the hub forget the group, but where another node leads it not what sessions hold: one of them may be about to
// come. op must be held.
func (g *Group) end() {
	g.dead = true
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	delete(g.h.groups, g.name)
	g.h.shares.Delete(g.name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.led && len(g.held) > 0 {
		g.h.held[g.name] = g.held
	}
}

// stop ends the reading for the group; op must be held.
func (g *Group) stop() {
	g.h.absent(g.session())
	g.h.index.remove(g.entry)
	g.h.unlisten(g.session())
	g.entry = nil
}
