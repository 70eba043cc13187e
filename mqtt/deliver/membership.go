package deliver

import (
	"slices"

	"github.com/weir-io/weir/log"
)

// This file is members of shared subscriptions that another node leads: what the leader has to know of them, and what it gives
// them.

// Membership is a member as its group's leader has to know it.
type Membership struct {
	Number        uint64
	Group, Client string
	Term          uint64 // Sub.Term
	QoS           byte
	Online, Stays bool   // Stays: the session outlives its connection
	Begin         Cursor // of the group, if nothing is stored of it
	// What the session has, as far as the group's stored cursor has not passed it: of QoS 2 for good, and what is open by QoS.
	Held, Open1, Open2 []Held
}

// Held is offsets in one partition.
type Held struct {
	ID      log.PartitionID
	Offsets []log.Offset
}

// held makes a list of deliveries in any order, which it sorts.
func held(list []delivery) (out []Held) {
	slices.SortFunc(list, compareDeliveries)
	for _, d := range list {
		if n := len(out); n == 0 || out[n-1].ID != d.id {
			out = append(out, Held{ID: d.id})
		}
		last := &out[len(out)-1]
		last.Offsets = append(last.Offsets, d.offset)
	}
	return out
}

// deliveries walks what lists of held messages name.
func deliveries(list []Held, fn func(delivery)) {
	for _, h := range list {
		for _, o := range h.Offsets {
			fn(delivery{h.ID, o})
		}
	}
}

// AwayMembers lists the memberships of this node's sessions in groups of a partition that another node leads.
func (h *Hub) AwayMembers(partition int) (numbers []uint64) {
	h.away.Range(func(k, v any) bool {
		g := v.(seat).g
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.led && h.cfg.Away.PartitionOf(g.name) == partition {
			numbers = append(numbers, k.(uint64))
		}
		return true
	})
	return numbers
}

// Membership passes a membership as it is now to tell, if it is one in a group that another node leads. tell takes what
// Away's methods take: none of them is under way for the group.
func (h *Hub) Membership(number uint64, tell func(*Membership)) {
	v, ok := h.away.Load(number)
	if !ok {
		return
	}
	g, s := v.(seat).g, v.(seat).s
	h.mu.Lock()
	stray, known := h.stored[g.name] // of a build that stored it with the members
	h.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.members, func(m *member) bool { return m.s == s })
	if i < 0 || g.led {
		return
	}
	m := g.members[i]
	ms := Membership{
		Number: number, Group: g.name, Client: s.id, Term: m.term, QoS: m.qos, Online: s.online() != nil, Stays: s.durable.Load(), Begin: m.begin,
	}
	if known {
		ms.Begin = stray.Cursor
	}
	var has, open1, open2 []delivery
	for d, id := range g.held {
		if id == s.id {
			has = append(has, d)
		}
	}
	for d, o := range g.out {
		switch {
		case o.s != s:
		case o.qos == 2:
			open2 = append(open2, d)
		default:
			open1 = append(open1, d)
		}
	}
	ms.Held, ms.Open1, ms.Open2 = held(has), held(open1), held(open2)
	tell(&ms)
}

// Given says what became of a message that the leader of a group gave to a member here.
type Given byte

const (
	Taken   Given = iota
	Refused       // no room, or not connected: it is for another member
	Had           // its session has had it
)

// Give passes such a message on. Every QoS 1 or 2 message that it takes is answered by Away.Done or Away.Back, or goes with
// its session.
func (h *Hub) Give(number uint64, qos byte, m *Message) Given {
	v, ok := h.away.Load(number)
	if !ok {
		return Refused
	}
	g, s := v.(seat).g, v.(seat).s
	d := delivery{m.ID, m.Offset}
	g.mu.Lock()
	i := slices.IndexFunc(g.members, func(o *member) bool { return o.s == s })
	_, had := g.held[d]
	has := g.out[d].s == s // another session here that has it open is on another node by now: the leader knows
	t := s.online()
	switch {
	case i < 0 || g.led || t == nil:
		g.mu.Unlock()
		return Refused
	case had:
		g.mu.Unlock()
		return Had
	case has:
		g.mu.Unlock()
		return Taken
	}
	mem := g.members[i]
	if qos > 0 {
		g.out[d] = outstanding{s, number, qos}
	}
	g.mu.Unlock()
	m.Group = g
	defer func() { m.Group = nil }()
	seq := s.readySeq.Load()
	if m.expired() {
		h.counters.expired.Add(1)
	} else if t.Deliver(m, qos, mem.rap && m.Retain, mem.ids) {
		h.counters.delivered.Add(1)
		return Taken
	} else if h.counters.refused.Add(1); qos > 0 {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.out, d)
		g.h.cfg.Away.Back(g.name, number, d.id, d.offset, true)
		if s.refused.Store(true); s.readySeq.Load() != seq && s.refused.Swap(false) { // Ready overtook the answer
			g.h.cfg.Away.Room(g.name, number)
		}
		return Taken
	} else {
		h.counters.dropped.Add(1)
		return Taken
	}
	if qos > 0 {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.out, d)
	}
	return Had
}

// ToldOthers notes whether members elsewhere could take what one here has not acknowledged.
func (h *Hub) ToldOthers(group string, others bool) {
	if v, ok := h.shares.Load(group); ok {
		g := v.(*Group)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.others = others && !g.led
	}
}

// ToldPassed notes the stored cursor of a group that another node leads.
func (h *Hub) ToldPassed(group string, cur Cursor) {
	if v, ok := h.shares.Load(group); ok {
		g := v.(*Group)
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.led {
			g.storedLocked(cur)
		}
	}
}
