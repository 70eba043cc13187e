package group

import (
	"errors"
	"fmt"
)

// Check reports every rule that the group's state breaks. It is for tests.
func (g *Group) Check() error {
	var faults []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf("group %q %v: "+format, append([]any{g.id, g.state}, args...)...))
		}
	}
	must(len(g.members) == len(g.order), "%d members by id, %d in order", len(g.members), len(g.order))
	must(len(g.members)+len(g.pending) <= g.cfg.MaxMembers, "%d members and %d ids handed out, limit %d", len(g.members), len(g.pending), g.cfg.MaxMembers)
	must(g.bytes <= g.cfg.MaxGroupBytes, "%d bytes, limit %d", g.bytes, g.cfg.MaxGroupBytes)
	switch g.state {
	case Empty, Dead:
		must(len(g.members) == 0, "has %d members", len(g.members))
	case CompletingRebalance, Stable:
		must(len(g.members) > 0, "has no members")
		must(g.allSpeak(g.protocol), "not all members speak %q", g.protocol)
	}
	must(len(g.members) == 0 || g.members[g.leader] != nil, "leader %q is no member", g.leader)
	must(g.assigning == nil || g.state == CompletingRebalance, "an assignment is being stored")
	bytes, waiting, statics := 0, 0, 0
	for _, m := range g.order {
		bytes += m.size()
		if m.join != 0 {
			waiting++
			must(g.state == PreparingRebalance, "join of %q waits", m.id)
		}
		if m.instance != "" {
			statics++
			must(g.static[m.instance] == m, "instance %q is not %q", m.instance, m.id)
		}
		must(g.members[m.id] == m, "%q is not known by its id", m.id)
		must(!g.isPending(m.id), "%q is a member and not yet one", m.id)
		must(m.sync == 0 || g.state == CompletingRebalance, "sync of %q waits", m.id)
		must(!m.owesSync || g.state == CompletingRebalance || g.state == Stable, "%q owes a sync", m.id)
		must(!m.owesSync || m.sync == 0, "%q owes a sync that waits", m.id)
		must(!m.watched() || !g.wake.IsZero() && !g.wake.After(m.deadline), "wakes at %v, session of %q ends at %v", g.wake, m.id, m.deadline)
	}
	must(bytes == g.bytes, "counts %d bytes, has %d", g.bytes, bytes)
	must(waiting == g.waiting, "counts %d joins, has %d", g.waiting, waiting)
	must(statics == len(g.static), "%d instances, %d static members", len(g.static), statics)
	must(g.state != PreparingRebalance || !g.wake.IsZero() && !g.wake.After(g.joinUntil), "wakes at %v, join phase ends at %v", g.wake, g.joinUntil)
	must(!g.syncing() || !g.wake.IsZero() && !g.wake.After(g.syncUntil), "wakes at %v, syncs are due at %v", g.wake, g.syncUntil)
	writes, slotBytes := 0, 0
	for at, s := range g.slots {
		writes += s.writes
		slotBytes += s.size(at)
		must(s.present || s.writes > 0, "offset of %v is nothing", at)
		must(s.applied <= s.newest, "offset of %v is newer than asked for", at)
	}
	must(slotBytes == g.slotBytes, "counts %d bytes of offsets, has %d", g.slotBytes, slotBytes)
	must(g.unstored >= 0, "%d stores unanswered", g.unstored)
	must(writes == g.inflight, "counts %d writes, has %d", g.inflight, writes)
	return errors.Join(faults...)
}
