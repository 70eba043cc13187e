package deliver

import (
	"maps"
	"slices"

	"github.com/weir-io/weir/log"
)

// This file is shared subscriptions in a cluster: which node leads one, and the members on the other nodes.

// Away is where the leaders of shared subscriptions are, when the hub is not alone. What it hears of members is about those
// of this node in groups that another node leads. Its methods never block and may be called under any lock of the hub; it may
// call the hub's AwayMembers, Membership and Give only when none of them is under way.
type Away interface {
	// PartitionOf is the partition of the sessions table that a group belongs to: its leader leads the group.
	PartitionOf(group string) int
	// Member: a membership has begun or changed. Membership says what it is like.
	Member(group string, number uint64)
	// Gone: it has ended.
	Gone(group, clientID string, number uint64, how Leaving)
	// Done: a message needs no other member any more.
	Done(group string, number uint64, id log.PartitionID, offset log.Offset)
	// Back: a message is for another member; with full, because this one has no room until Room.
	Back(group string, number uint64, id log.PartitionID, offset log.Offset, full bool)
	Room(group string, number uint64)
}

// seat is what a membership number stands for.
type seat struct {
	g *Group
	s *session
}

// leadsLocked says whether this node leads the group. h.mu must be held.
func (h *Hub) leadsLocked(name string) bool {
	return !h.clustered() || h.leads[h.cfg.Away.PartitionOf(name)]
}

// leads says whether this node leads the group.
func (g *Group) leads() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.led
}

// LeadGroups has this node lead the groups of a partition from now on, whose records StoredGroup has been given.
func (h *Hub) LeadGroups(partition int) {
	h.starting.RLock()
	defer h.starting.RUnlock()
	for _, g := range h.turnOver(partition, true) {
		g.op.Lock()
		g.lead()
		g.op.Unlock()
	}
}

// FollowGroups ends that: another node leads them. Nothing is put behind it.
func (h *Hub) FollowGroups(partition int) {
	for _, g := range h.turnOver(partition, false) {
		g.op.Lock()
		g.follow()
		g.op.Unlock()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.stored, func(name string, _ groupRecord) bool { return h.cfg.Away.PartitionOf(name) == partition })
	maps.DeleteFunc(h.ended, func(name string, _ endedGroup) bool { return h.cfg.Away.PartitionOf(name) == partition })
}

// turnOver notes who leads the groups of a partition and lists them.
func (h *Hub) turnOver(partition int, leads bool) (list []*Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leads[partition] = leads
	for name, g := range h.groups {
		if h.cfg.Away.PartitionOf(name) == partition {
			list = append(list, g)
		}
	}
	return list
}

// lead makes this node the group's leader, which begins where the record says, or where its first member does; op must be
// held.
func (g *Group) lead() {
	if g.dead || g.led {
		return
	}
	var cur Cursor
	for _, m := range g.members {
		if cur.IsZero() {
			cur = m.begin.Clone()
		}
		for _, pl := range m.begin.at {
			cur.lowerKnown(delivery{pl.id, pl.next})
		}
	}
	_, filter, _ := ParseFilter(g.name)
	g.h.mu.Lock()
	g.mu.Lock()
	g.led, g.others, g.saved, g.redo = true, false, nil, nil
	g.beginLocked(cur)
	for _, m := range g.members {
		g.arrivedLocked(m, nil)
	}
	g.mu.Unlock()
	g.h.mu.Unlock()
	g.publish(filter)
	for _, m := range g.members {
		if m.s.online() != nil {
			g.cameLocked()
			break
		}
	}
	g.flushLocked()
}

// follow leaves the group to another leader, to whom the members here, and only they, are told; op must be held.
func (g *Group) follow() {
	if g.dead || !g.led {
		return
	}
	g.flushLocked() // if this node may still put
	g.stop()
	g.mu.Lock()
	g.led, g.others, g.redo, g.listed, g.missing, g.turn = false, false, nil, nil, nil, 0
	g.members = slices.DeleteFunc(slices.Clone(g.members), func(m *member) bool { return m.guest != nil || !m.lost.IsZero() })
	members := g.members
	maps.DeleteFunc(g.out, func(_ delivery, o outstanding) bool {
		return !slices.ContainsFunc(members, func(m *member) bool { return m.s == o.s })
	})
	g.mu.Unlock()
	if len(members) == 0 {
		g.end()
		return
	}
	for _, m := range members {
		g.h.cfg.Away.Member(g.name, m.number)
	}
}

// tellLocked tells the leader of the group, if that is elsewhere, that a member has come or gone; op must be held.
func (g *Group) tellLocked(s *session) bool {
	if g.led {
		return false
	}
	for _, m := range g.members {
		if m.s == s && !g.dead {
			g.h.cfg.Away.Member(g.name, m.number)
		}
	}
	return true
}

// room says that a member which refused has room again.
func (g *Group) room(s *session, refused bool) {
	if g.h.clustered() {
		g.mu.Lock()
		led, members := g.led, g.members
		g.mu.Unlock()
		if !led {
			for _, m := range members {
				if m.s == s && refused {
					g.h.cfg.Away.Room(g.name, m.number)
				}
			}
			return
		}
	}
	g.session().room()
}
