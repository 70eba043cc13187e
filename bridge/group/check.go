package group

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weir-io/weir/bridge/group/assign"
)

// Check reports every rule that the group's state breaks. It is for tests.
func (g *Group) Check() error {
	var faults []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf("group %q %v: "+format, append([]any{g.id, g.state}, args...)...))
		}
	}
	if g.consumers != nil {
		faults = append(faults, g.checkConsumers())
		must(len(g.members)+len(g.pending)+len(g.order)+len(g.held) == 0, "has members of the classic protocol")
	}
	must(len(g.members) == len(g.order), "%d members by id, %d in order", len(g.members), len(g.order))
	must(len(g.members)+len(g.pending) <= g.cfg.MaxMembers, "%d members and %d ids handed out, limit %d", len(g.members), len(g.pending), g.cfg.MaxMembers)
	must(g.bytes <= g.cfg.MaxGroupBytes, "%d bytes, limit %d", g.bytes, g.cfg.MaxGroupBytes)
	switch {
	case g.state == Empty, g.state == Dead:
		must(g.Members() == 0, "has %d members", g.Members())
	case g.state == CompletingRebalance, g.state == Stable:
		must(g.Members() > 0, "has no members")
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

// checkConsumers is Check of the members of the consumer protocol. Their limits are not among the rules: what a crash
// left of a step may have one that left beside one that came.
func (g *Group) checkConsumers() error {
	cs := g.consumers
	var faults []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf("group %q %v: "+format, append([]any{g.id, g.state}, args...)...))
		}
	}
	must(len(cs.members) == len(cs.order), "%d members by id, %d in order", len(cs.members), len(cs.order))
	must(len(cs.store.out) == 0, "%d records are put into no batch", len(cs.store.out))
	must(g.state == Dead || (g.state == Stable) == (len(cs.order) > 0 && cs.settledAll()), "members settled: %v", cs.settledAll())
	text, bytes, statics, waiting := 0, 0, 0, 0
	holders := map[assign.Partition]int{}
	targets := map[assign.Partition]string{}
	for _, m := range cs.order {
		text, bytes, waiting = text+m.textSize(), bytes+m.size(), waiting+m.waiting
		if m.Instance != "" {
			statics++
			must(cs.static[m.Instance] == m, "instance %q is not %q", m.Instance, m.ID)
		}
		must(cs.members[m.ID] == m, "%q is not known by its id", m.ID)
		must(!cs.store.gone[m.ID], "%q is a member and removed", m.ID)
		must(m.epoch <= cs.epoch, "%q is in epoch %d of %d", m.ID, m.epoch, cs.epoch)
		must(len(m.assigned.And(m.revoking)) == 0, "%q has and gives up %v", m.ID, m.assigned.And(m.revoking))
		must((len(m.revoking) > 0) == !m.revokeBy.IsZero(), "%q gives up %v by %v", m.ID, m.revoking, m.revokeBy)
		must(m.waiting > 0 || g.state == Dead || !cs.wake.IsZero() && !cs.wake.After(m.deadline), "wakes at %v, session of %q ends at %v", cs.wake, m.ID, m.deadline)
		must(m.waiting > 0 || g.state == Dead || m.syncBy.IsZero() || !cs.wake.After(m.syncBy), "wakes at %v, %q is to sync by %v", cs.wake, m.ID, m.syncBy)
		for _, p := range m.assigned.Or(m.revoking) {
			holders[p]++
		}
		for _, p := range m.target {
			must(targets[p] == "" || cs.stale, "%v is to be read by %q and %q", p, targets[p], m.ID)
			targets[p] = m.ID
		}
	}
	must(maps.Equal(holders, cs.holders), "counts holders %v, has %v", cs.holders, holders)
	must(text == cs.text && bytes == cs.bytes, "counts %d and %d bytes, has %d and %d", cs.text, cs.bytes, text, bytes)
	must(statics == len(cs.static), "%d instances, %d static members", len(cs.static), statics)
	must(slices.IsSorted(cs.store.inflight), "batches %v are out of order", cs.store.inflight)
	must(len(cs.store.held) == 0 || len(cs.store.inflight) > 0, "%d answers wait for nothing", len(cs.store.held))
	return errors.Join(faults...)
}
