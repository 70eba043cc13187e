package group

import (
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// Members that speak the classic protocol in a group of the consumer protocol:
// those that were there when the first one of the new kind came, and those that
// come while it is there. So a group is moved from one protocol to the other,
// and back, by restarting its members one after the other. Once none of the new kind is left, it is of the classic
// protocol again.
//
// To such a member the group looks like one of the classic protocol whose leader is
// somebody else. Its generation is the epoch that it has come to. A join waits for nobody:
// it says what the member has, and is answered with the epoch that it can come to now; the sync
// that follows gets what it is told to have. Whenever there is more to do for it (the epoch is
// raised, partitions are to be given up or have become free) its heartbeat is told that a rebalance is in
// progress, and it joins again.

// ClassicSide is what is kept of a member that speaks the classic protocol.
type ClassicSide struct {
	Session   time.Duration
	Protocols []Protocol
}

func (s *ClassicSide) same(t *ClassicSide) bool {
	return s == t || s != nil && t != nil && s.Session == t.Session && sameProtocols(s.Protocols, t.Protocols)
}

// session is how long the member may be silent.
func (m *consumer) session(p Pace) time.Duration {
	if m.Classic != nil {
		return m.Classic.Session
	}
	return p.Session
}

// mayConvert reports whether a group of the classic protocol can become one of
// the consumer protocol now: its members must be consumers, and their assignor one that the broker can replace.
func (g *Group) mayConvert(topics *Topics) Fault {
	for _, m := range g.order {
		_, _, reads := readSubscription(m.anyMetadata(g.protocol), topics)
		if _, ok := readAssignment(m.assignment, topics); !ok || !reads || g.protocolType != "consumer" {
			return NotFound
		}
	}
	return OK
}

// anyMetadata is the subscription of a member: all its protocols have the same topics.
func (m *member) anyMetadata(protocol string) []byte {
	if b := m.metadata(protocol); b != nil {
		return b
	}
	return m.protocols[0].Metadata
}

// toConsumers makes a group that mayConvert one of the consumer protocol. Its
// epochs go on from its generations, so that none comes back. Its members have what their leader
// gave them; those that wait for a rebalance join again.
//
// What there is of the classic protocol goes out of the table last: while it is there, nobody was told of
// anything else.
func (g *Group) toConsumers(fx *Effects, topics *Topics, now time.Time) {
	cs := newConsumers(g.cfg)
	cs.epoch = g.generation
	cs.store.formerly = g.storeSeq > 0
	cs.store.behind = cs.store.formerly
	for _, h := range g.held {
		fx.refuse(h.answer.Ticket, h.answer.MemberID, RebalanceInProgress)
	}
	for _, m := range g.order {
		g.abandon(fx, m, RebalanceInProgress)
		reads, _, _ := readSubscription(m.anyMetadata(g.protocol), topics)
		slices.Sort(reads)
		c := cs.add(&Consumer{
			ID: m.id, Instance: m.instance, ClientID: m.clientID, Host: m.clientHost, Rebalance: m.rebalance, Topics: slices.Compact(reads),
			Classic: &ClassicSide{Session: m.session, Protocols: m.protocols},
		})
		c.epoch, c.seen = g.generation, g.generation
		c.target, _ = readAssignment(m.assignment, topics)
		cs.hold(c, c.target, nil)
		cs.touch(c, now)
	}
	*g = Group{
		cfg: g.cfg, id: g.id, state: g.state, since: g.since, generation: g.generation, protocolType: "consumer",
		members: map[string]*member{}, static: map[string]*member{}, pending: map[string]time.Time{},
		consumers: cs, storeSeq: g.storeSeq, unstored: g.unstored,
		slots: g.slots, writeSeq: g.writeSeq, inflight: g.inflight, slotBytes: g.slotBytes,
	}
}

// toClassic makes a group of the consumer protocol one of the classic protocol,
// which goes on from its epochs. That takes that it has no members, and that the table knows of
// that: what is removed with members could not be told from what is left of a removal.
func (g *Group) toClassic(fx *Effects) Fault {
	cs := g.consumers
	if len(cs.store.inflight) > 0 || cs.store.behind {
		return NotAvailable
	}
	cs.none()
	g.flush(fx)
	g.generation = cs.epoch
	g.consumers = nil
	return OK
}

// goBack makes a group of the consumer protocol that is left with members of the classic protocol a group of that, if nothing is
// under way and they can be one. They keep what they have until their own assignor has assigned anew. It is put into
// the table as such first, see toConsumers.
func (g *Group) goBack(fx *Effects, topics *Topics, now time.Time) bool {
	cs := g.consumers
	if g.state != Stable || len(cs.store.inflight) > 0 || cs.store.behind {
		return false
	}
	members, bytes := make([]*member, len(cs.order)), 0
	for i, c := range cs.order {
		if c.Classic == nil {
			return false
		}
		members[i] = &member{
			id: c.ID, instance: c.Instance, clientID: c.ClientID, clientHost: c.Host, session: c.Classic.Session, rebalance: c.Rebalance,
			protocols: c.Classic.Protocols, assignment: writeAssignment(c.Classic.Protocols[0].Metadata, c.assigned, topics),
		}
		bytes += members[i].size()
	}
	if bytes > g.cfg.MaxGroupBytes || !slices.ContainsFunc(members[0].protocols, func(p Protocol) bool { return allSpeak(members, p.Name) }) {
		return false
	}
	g.generation = cs.epoch
	for _, m := range members {
		g.add(m)
		g.touch(m, now)
	}
	g.protocol = g.choose()
	g.store(fx, g.Snapshot())
	cs.none()
	g.flush(fx)
	g.consumers = nil
	g.prepareRebalance(fx, now)
	return true
}

// joinConsumers is Join in a group of the consumer protocol that has members.
func (g *Group) joinConsumers(fx *Effects, r *JoinRequest, now time.Time) Fault {
	cs := g.consumers
	m, f := cs.joins(r)
	if f != OK {
		return f
	}
	if cs.store.stuck(now) {
		return NotAvailable
	}
	next, owned, f := g.checkClassic(m, r)
	switch {
	case f != OK:
		return f
	case r.MemberID == "" && r.Instance == "" && r.NeedsKnownID:
		fx.refuse(r.Ticket, r.NewMemberID, MemberIDRequired)
		return OK
	}
	changed := m == nil || !m.readsSame(next)
	var was Record
	if m != nil && m.ID == next.ID {
		if was = m.current(); !m.same(next) {
			cs.set(m, next)
			cs.store.put(m.memberRecord())
		}
	} else {
		m = cs.enter(m, next)
	}
	cs.saysOwned(m, owned)
	cs.retarget(r.Topics, changed)
	cs.reconcile(m, true, now)
	m.seen = m.epoch
	m.syncBy = now.Add(m.Rebalance)
	cs.arm(m.syncBy)
	cs.touch(m, now)
	if is := m.current(); was.Member == "" || !is.same(&was) {
		cs.store.put(is)
	}
	g.flush(fx)
	cs.answer(fx, m, Answer{
		Ticket: r.Ticket, MemberID: m.ID, Generation: m.epoch, ProtocolType: "consumer", Protocol: m.Classic.Protocols[0].Name,
	})
	return OK
}

// joins is the member that a join speaks for, or whose place it takes; nil is a new one: a member id that
// nobody has may have been handed out, which is not kept.
func (cs *consumers) joins(r *JoinRequest) (*consumer, Fault) {
	if r.Instance == "" {
		m := cs.members[r.MemberID]
		if m != nil && m.Classic == nil {
			return nil, UnknownMember
		}
		return m, OK
	}
	switch place := cs.static[r.Instance]; {
	case r.MemberID == "":
		return place, OK
	case place == nil:
		return nil, UnknownMember
	case place.ID != r.MemberID || place.Classic == nil:
		return nil, FencedInstance
	default:
		return place, OK
	}
}

// checkClassic is what m, or a new member, would say of itself after r and has, if the group can take it.
func (g *Group) checkClassic(m *consumer, r *JoinRequest) (next *Consumer, owned assign.Set, f Fault) {
	switch {
	case r.Session < g.cfg.MinSessionTimeout || r.Session > g.cfg.MaxSessionTimeout:
		return nil, nil, InvalidSessionTimeout
	case r.ProtocolType != "consumer" || len(r.Protocols) == 0 || len(r.Protocols) > g.cfg.MaxProtocols:
		return nil, nil, InconsistentProtocol
	}
	reads, owned, ok := readSubscription(r.Protocols[0].Metadata, r.Topics)
	switch {
	case !ok:
		return nil, nil, InconsistentProtocol
	case m == nil && len(owned) > 0:
		return nil, nil, UnknownMember // it was dropped, and others have its partitions by now
	}
	slices.Sort(reads)
	next = &Consumer{
		ID: r.MemberID, Instance: r.Instance, ClientID: r.ClientID, Host: r.Host, Rebalance: r.Rebalance, Topics: slices.Compact(reads),
		Classic: &ClassicSide{Session: r.Session, Protocols: r.Protocols},
	}
	if next.ID == "" {
		next.ID = r.NewMemberID
	}
	return next, owned, g.room(m, next)
}

// room reports whether the group can take what m, or a new member, would say of itself.
func (g *Group) room(m *consumer, next *Consumer) Fault {
	text, members := 0, 0
	if g.consumers != nil {
		text, members = g.consumers.text, len(g.consumers.members)
	} else {
		text, members = g.bytes, len(g.members)
	}
	if m != nil {
		text -= m.textSize()
		members--
	}
	switch {
	case members >= g.cfg.MaxMembers:
		return TooManyMembers
	case text+next.textSize() > g.cfg.MaxGroupBytes:
		return TooLarge
	}
	return OK
}

// classicMember is the member that a request of the classic protocol speaks for.
func (cs *consumers) classicMember(id, instance string, generation int32) (*consumer, Fault) {
	m := cs.members[id]
	if instance != "" {
		place := cs.static[instance]
		if place != nil && place != m {
			return nil, FencedInstance
		}
		m = place
	}
	switch {
	case m == nil || m.Classic == nil:
		return nil, UnknownMember
	case m.epoch != generation:
		return nil, IllegalGeneration
	}
	return m, OK
}

// mustJoin reports whether a member of the classic protocol has to join again, by when it
// has to have done so, or is dropped.
func (cs *consumers) mustJoin(m *consumer, now time.Time) bool {
	more := slices.ContainsFunc(m.target, func(p assign.Partition) bool { return !m.assigned.Has(p) && cs.isFree(p, m) })
	if m.epoch == cs.epoch && len(m.revoking) == 0 && !more {
		return false
	}
	if m.syncBy.IsZero() {
		m.syncBy = now.Add(m.Rebalance)
		cs.arm(m.syncBy)
	}
	return true
}

// syncConsumers is Sync in a group of the consumer protocol.
func (g *Group) syncConsumers(r *SyncRequest, now time.Time) (fx Effects) {
	cs := g.consumers
	m, f := cs.classicMember(r.MemberID, r.Instance, r.Generation)
	switch {
	case f != OK:
	case r.ProtocolType != "" && r.ProtocolType != "consumer", r.Protocol != "" && r.Protocol != m.Classic.Protocols[0].Name:
		f = InconsistentProtocol
	case m.epoch < cs.epoch && len(m.revoking) == 0:
		f = RebalanceInProgress
	}
	if f != OK {
		fx.refuse(r.Ticket, r.MemberID, f)
		return fx
	}
	m.syncBy = time.Time{}
	cs.touch(m, now)
	cs.answer(&fx, m, Answer{
		Ticket: r.Ticket, MemberID: m.ID, Generation: m.epoch, ProtocolType: "consumer", Protocol: m.Classic.Protocols[0].Name,
		Assignment: writeAssignment(m.Classic.Protocols[0].Metadata, m.assigned, r.Topics),
	})
	return fx
}

// HeartbeatConsumers is Heartbeat in a group OfConsumers. The answer to t comes when what it tells is stored.
func (g *Group) HeartbeatConsumers(t Ticket, memberID, instance string, generation int32, topics *Topics, now time.Time) (fx Effects) {
	cs := g.consumers
	m, f := cs.classicMember(memberID, instance, generation)
	if g.state == Dead {
		f = NotAvailable
	}
	if f != OK {
		fx.refuse(t, memberID, f)
		return fx
	}
	cs.touch(m, now)
	if cs.store.stuck(now) {
		fx.refuse(t, memberID, NotAvailable)
		return fx
	}
	if g.goBack(&fx, topics, now) {
		fx.refuse(t, memberID, RebalanceInProgress)
		return fx
	}
	cs.retarget(topics, false)
	g.flush(&fx)
	a := Answer{Ticket: t, MemberID: m.ID, Generation: m.epoch}
	if cs.mustJoin(m, now) {
		a.Fault = RebalanceInProgress
	}
	cs.answer(&fx, m, a)
	g.consumersMoved(now)
	return fx
}
