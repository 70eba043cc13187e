package group

import "time"

// JoinRequest is a JoinGroup. The group keeps the strings and slices.
type JoinRequest struct {
	Ticket   Ticket
	MemberID string // empty: a new member
	Instance string // empty: a dynamic member

	NewMemberID    string // the id to give, unused by anybody so far
	NeedsKnownID   bool   // the client can be told its id first (v4, KIP-394)
	CanSkip        bool   // the client knows SkipAssignment (v9, KIP-814)
	ClientID, Host string

	Session, Rebalance time.Duration
	ProtocolType       string
	Protocols          []Protocol // most liked first
	Topics             *Topics    // that there are
}

// Join lets a member in, or back in. The answer comes with this step's effects
// or, when the join phase ends, with a later one's.
func (g *Group) Join(r *JoinRequest, now time.Time) (fx Effects) {
	r.Rebalance = g.cfg.rebalance(r.Rebalance)
	f := OK
	if g.consumers != nil && g.state != Dead {
		if g.Members() > 0 {
			if f = g.joinConsumers(&fx, r, now); f != OK {
				fx.refuse(r.Ticket, r.MemberID, f)
			}
			g.consumersMoved(now)
			return fx
		}
		f = g.toClassic(&fx)
	}
	if f == OK {
		f = g.checkJoin(r)
	}
	switch {
	case f != OK:
		fx.refuse(r.Ticket, r.MemberID, f)
	case r.MemberID == "" && r.Instance != "" && g.static[r.Instance] != nil:
		g.replace(&fx, g.static[r.Instance], r, now)
	case r.MemberID == "" && r.Instance == "" && r.NeedsKnownID:
		until := now.Add(r.Session)
		g.pending[r.NewMemberID] = until
		g.arm(until)
		fx.refuse(r.Ticket, r.NewMemberID, MemberIDRequired)
	case r.MemberID == "":
		g.enter(&fx, r.NewMemberID, r, now)
	case g.isPending(r.MemberID):
		g.enter(&fx, r.MemberID, r, now)
	default:
		g.rejoin(&fx, g.members[r.MemberID], r, now)
	}
	return fx
}

func (g *Group) isPending(id string) bool {
	_, ok := g.pending[id]
	return ok
}

// checkJoin refuses what cannot join in any state.
func (g *Group) checkJoin(r *JoinRequest) Fault {
	switch {
	case g.state == Dead:
		return NotAvailable
	case r.Session < g.cfg.MinSessionTimeout || r.Session > g.cfg.MaxSessionTimeout:
		return InvalidSessionTimeout
	case r.ProtocolType == "" || len(r.Protocols) == 0 || len(r.Protocols) > g.cfg.MaxProtocols:
		return InconsistentProtocol
	}
	var self *member // whom this request speaks for
	if r.MemberID != "" && !(r.Instance == "" && g.isPending(r.MemberID)) {
		m, f := g.find(r.MemberID, r.Instance)
		if f != OK {
			return f
		}
		self = m
	} else if r.Instance != "" {
		self = g.static[r.Instance]
	}
	if !g.agrees(r, self) {
		return InconsistentProtocol
	}
	size := g.bytes + len(r.ClientID) + len(r.Host) + protocolBytes(r.Protocols)
	if self != nil {
		size -= len(self.clientID) + len(self.clientHost) + protocolBytes(self.protocols)
		if r.MemberID == "" {
			size += len(r.NewMemberID) - len(self.id)
		}
	} else {
		size += len(r.NewMemberID) + len(r.MemberID) + len(r.Instance)
		if !g.isPending(r.MemberID) && len(g.members)+len(g.pending) >= g.cfg.MaxMembers {
			return TooManyMembers
		}
	}
	if size > g.cfg.MaxGroupBytes {
		return TooLarge
	}
	return OK
}

// agrees reports whether the group could still choose a protocol if r's sender
// (self, if it is a member) spoke what r says.
func (g *Group) agrees(r *JoinRequest, self *member) bool {
	if len(g.members) == 0 || len(g.members) == 1 && self != nil {
		return true
	}
	if r.ProtocolType != g.protocolType {
		return false
	}
	for i := range r.Protocols {
		all := true
		for _, m := range g.order {
			if m != self && !m.speaks(r.Protocols[i].Name) {
				all = false
				break
			}
		}
		if all {
			return true
		}
	}
	return false
}

// find is the member that a request speaks for, if it may (KIP-345).
func (g *Group) find(memberID, instance string) (*member, Fault) {
	if instance != "" {
		m := g.static[instance]
		if m == nil {
			return nil, UnknownMember
		}
		if m.id != memberID {
			return nil, FencedInstance
		}
		return m, OK
	}
	if m := g.members[memberID]; m != nil {
		return m, OK
	}
	return nil, UnknownMember
}

// enter adds a member that was not there before.
func (g *Group) enter(fx *Effects, id string, r *JoinRequest, now time.Time) {
	delete(g.pending, id)
	m := &member{id: id, instance: r.Instance, fresh: true}
	m.take(r)
	g.protocolType = r.ProtocolType
	g.add(m)
	g.await(m, r.Ticket, now)
	g.grew = true
	if g.state == PreparingRebalance {
		g.maybeCompleteJoin(fx, now)
	} else {
		g.prepareRebalance(fx, now)
	}
}

// take sets what a join says of its member; the caller keeps g.bytes right.
func (m *member) take(r *JoinRequest) {
	m.clientID, m.clientHost = r.ClientID, r.Host
	m.session, m.rebalance = r.Session, r.Rebalance
	m.protocols = r.Protocols
}

func (g *Group) update(m *member, r *JoinRequest) {
	g.bytes -= m.size()
	m.take(r)
	g.bytes += m.size()
	g.protocolType = r.ProtocolType
}

// rejoin is a join of a known member. In a generation that is under way only
// the leader, or a member that changed its mind, causes a new rebalance; for
// all others the answer was lost and is given again.
func (g *Group) rejoin(fx *Effects, m *member, r *JoinRequest, now time.Time) {
	g.abandon(fx, m, RebalanceInProgress)
	same := sameProtocols(m.protocols, r.Protocols)
	if same && (g.state == CompletingRebalance || g.state == Stable && m.id != g.leader) {
		g.update(m, r)
		m.owesSync = true
		g.touch(m, now)
		if g.state == Stable {
			g.syncUntil = now.Add(g.rebalanceTimeout())
		}
		g.arm(g.syncUntil)
		fx.Answers = append(fx.Answers, g.joined(m, r.Ticket))
		return
	}
	g.update(m, r)
	g.joinAgain(fx, m, r.Ticket, now)
}

// joinAgain makes m wait for the end of a join phase, which it begins if none
// is under way.
func (g *Group) joinAgain(fx *Effects, m *member, t Ticket, now time.Time) {
	g.await(m, t, now)
	if g.state == PreparingRebalance {
		g.maybeCompleteJoin(fx, now)
	} else {
		g.prepareRebalance(fx, now)
	}
}

// replace lets a static member come back with a new id, and fences the old one.
func (g *Group) replace(fx *Effects, m *member, r *JoinRequest, now time.Time) {
	g.abandon(fx, m, FencedInstance)
	oldID, oldMeta := m.id, m.metadata(g.protocol)
	delete(g.members, oldID)
	g.bytes -= m.size()
	m.id = r.NewMemberID
	m.take(r)
	g.bytes += m.size()
	g.members[m.id] = m
	wasLeader := g.leader == oldID
	if wasLeader {
		g.leader = m.id
	}
	m.owesSync = false
	g.protocolType = r.ProtocolType
	if g.state != Stable || g.choose() != g.protocol || !sameTopics(oldMeta, m.metadata(g.protocol)) {
		g.joinAgain(fx, m, r.Ticket, now)
		return
	}
	g.touch(m, now)
	a := g.joined(m, r.Ticket)
	if wasLeader {
		if r.CanSkip {
			a.SkipAssignment = true
		} else {
			// A leader would assign, and nobody would hear of it: this client
			// is told that the leader is someone else.
			a.Leader, a.Members = oldID, nil
		}
	}
	seq := g.store(fx, g.Snapshot())
	g.held = append(g.held, heldAnswer{seq, m.instance, a})
}
