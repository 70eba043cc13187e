package deliver

import (
	"slices"
	"time"
)

// This file is how a leader learns what members have that it did not give them itself, or that it had lost.

// await has the group wait for members that may have messages of QoS 2, until they say which. g.mu need not be held: nobody
// knows the group, or it is held.
func (g *Group) await(members []storedMember) {
	g.missing, g.listed = map[string]time.Time{}, map[string]bool{}
	if !g.h.clustered() {
		return
	}
	now := g.h.cfg.Now()
	g.young = now.Add(missingTime)
	for _, m := range members {
		g.listed[m.ID] = true
		g.missing[m.ID] = now.Add(lostTime)
		if m.Stays {
			g.missing[m.ID] = now.Add(missingTime)
		}
	}
}

// foundLocked notes that a member needs to be waited for no longer. g.mu must be held.
func (g *Group) foundLocked(clientID string) {
	if _, ok := g.missing[clientID]; ok {
		if delete(g.missing, clientID); len(g.missing) == 0 {
			g.session().room()
		}
	}
}

// arrivedLocked takes up what a member has said that it holds, and what was known of it on its former node: of QoS 2 what it
// does not hold has never begun. open is what it has and has not acknowledged, for a new membership only. g.mu must be held.
func (g *Group) arrivedLocked(m *member, open map[delivery]byte) {
	if !g.led {
		return
	}
	g.foundLocked(m.s.id)
	g.reachBackLocked(m.begin)
	var back []delivery
	for d, o := range g.out {
		if o.s == m.s || o.s.id != m.s.id {
			continue
		}
		delete(g.out, d)
		_, has := g.held[d]
		if _, is := open[d]; !has && !is {
			back = append(back, d)
		}
	}
	for d, qos := range open {
		next, ok := g.stored.Next(d.id)
		if _, out := g.out[d]; !out && !(ok && d.offset < next) {
			g.out[d] = outstanding{m.s, m.number, qos}
		}
	}
	if other := func(o *member) bool { return o.s != m.s && o.s.id == m.s.id }; slices.ContainsFunc(g.members, other) {
		g.members = slices.DeleteFunc(slices.Clone(g.members), other)
	}
	slices.SortFunc(back, compareDeliveries)
	g.giveBackLocked(back...)
}

// endedGroup is a group whose last member has left, as far as its new leader knew: others, which it has not heard of yet, may
// go on with it.
type endedGroup struct {
	groupRecord
	ends  Cursor // of the log
	until time.Time
}

// remember keeps what a group was that ends, for a while; op must be held.
func (g *Group) remember() {
	if !g.h.clustered() || g.h.cfg.Now().After(g.young) {
		return
	}
	e := endedGroup{groupRecord: groupRecord{Cursor: g.cursor()}, ends: g.h.Ends(), until: g.h.cfg.Now().Add(missingTime)}
	g.mu.Lock()
	e.Members = g.toKnowLocked()
	g.mu.Unlock()
	g.h.mu.Lock()
	defer g.h.mu.Unlock()
	g.h.ended[g.name] = e
}

// beginAnewLocked says where a group begins of which nothing is stored: where its first member does, unless that has been a
// member of it before it ended. h.mu must be held.
func (g *Group) beginAnewLocked(cur Cursor) Cursor {
	e, ok := g.h.ended[g.name]
	delete(g.h.ended, g.name)
	if ok && cur.Beyond(e.ends).IsZero() {
		g.await(e.Members)
		return e.Cursor
	}
	g.began = cur.Clone()
	return cur
}

// maxReachBack bounds how many records a group takes up that were there before its beginning.
const maxReachBack = 256 << 10

// reachBackLocked has a group that began with another member take up what was committed since this one's beginning: who
// subscribed first need not be who is heard of first. g.mu must be held.
func (g *Group) reachBackLocked(begin Cursor) {
	var back []delivery
	for i := range g.began.at {
		pl := &g.began.at[i]
		from, _ := begin.Next(pl.id)
		for o := max(from, pl.next-maxReachBack); o < pl.next; o++ {
			back = append(back, delivery{pl.id, o})
		}
		pl.next = min(pl.next, from)
	}
	g.giveBackLocked(back...)
}

// makeKnown sees to it that the committed record names a member before it gets QoS 2; op must be held.
func (g *Group) makeKnown(m *member) {
	g.mu.Lock()
	known := g.stored.at != nil && (m.qos < 2 || g.listed[m.s.id])
	g.mu.Unlock()
	if !known {
		g.flushLocked()
	}
}

// giveUpOn ends the memberships of those whose session has ended with their node, and waits no longer for those that have
// not come; op must be held.
func (g *Group) giveUpOn(now time.Time) {
	g.mu.Lock()
	if !g.led {
		g.mu.Unlock()
		return
	}
	for id, until := range g.missing {
		if now.After(until) {
			g.foundLocked(id)
			g.h.cfg.Logger.Warn("shared subscription goes on without a member: what that has begun of QoS 2 may come twice", "group", g.name, "client", id)
		}
	}
	var gone []*session
	for _, m := range g.members {
		if !m.lost.IsZero() && now.Sub(m.lost) > lostTime && !m.s.durable.Load() {
			g.takeBackLocked(m.s, Ends)
			gone = append(gone, m.s)
		}
	}
	g.mu.Unlock()
	for _, s := range gone {
		g.removeLocked(s, Ends)
	}
}
