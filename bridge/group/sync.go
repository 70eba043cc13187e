package group

import (
	"slices"
	"time"
)

// SyncRequest is a SyncGroup. The group keeps the slices.
type SyncRequest struct {
	Ticket             Ticket
	MemberID, Instance string
	Generation         int32
	ProtocolType       string // empty: not said (before v5)
	Protocol           string // empty: not said
	Assignments        map[string][]byte
	Topics             *Topics // that there are
}

// Sync asks for the member's assignment and, from the leader, brings
// everybody's. The answer comes when the assignment is stored (D11).
func (g *Group) Sync(r *SyncRequest, now time.Time) (fx Effects) {
	if g.consumers != nil && g.state != Dead {
		return g.syncConsumers(r, now)
	}
	m, f := g.checkSync(r)
	if f != OK {
		fx.refuse(r.Ticket, r.MemberID, f)
		return fx
	}
	m.owesSync = false
	if g.state == Stable {
		g.touch(m, now)
		fx.Answers = append(fx.Answers, g.assigned(m, r.Ticket))
		return fx
	}
	if m.sync != 0 {
		fx.refuse(m.sync, m.id, RebalanceInProgress)
	}
	m.sync = r.Ticket
	if m.id == g.leader && g.assigning == nil {
		s := g.Snapshot()
		size := g.bytes
		for i := range s.Members {
			s.Members[i].Assignment = r.Assignments[s.Members[i].ID]
			size += len(s.Members[i].Assignment) - len(g.order[i].assignment)
		}
		if size > g.cfg.MaxGroupBytes {
			m.sync = 0
			m.owesSync = true
			g.touch(m, now)
			fx.refuse(r.Ticket, m.id, TooLarge)
			return fx
		}
		g.assigning = s
		g.assignSeq = g.store(&fx, s)
	}
	return fx
}

func (g *Group) checkSync(r *SyncRequest) (*member, Fault) {
	if g.state == Dead {
		return nil, NotAvailable
	}
	m, f := g.find(r.MemberID, r.Instance)
	switch {
	case f != OK:
		return nil, f
	case r.Generation != g.generation:
		return nil, IllegalGeneration
	case g.state == PreparingRebalance:
		return nil, RebalanceInProgress
	case r.ProtocolType != "" && r.ProtocolType != g.protocolType, r.Protocol != "" && r.Protocol != g.protocol:
		return nil, InconsistentProtocol
	}
	return m, OK
}

func (g *Group) assigned(m *member, t Ticket) Answer {
	return Answer{
		Ticket: t, MemberID: m.id, Generation: g.generation,
		ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment,
	}
}

// store asks the shell to keep s.
func (g *Group) store(fx *Effects, s *Snapshot) uint64 {
	g.storeSeq++
	g.unstored++
	fx.Stores = append(fx.Stores, Store{Seq: g.storeSeq, Snapshot: s})
	return g.storeSeq
}

// Stored reports the outcome of the Store with that Seq. Stores may be reported
// in any order, each once.
func (g *Group) Stored(seq uint64, ok bool, now time.Time) (fx Effects) {
	g.held = slices.DeleteFunc(g.held, func(h heldAnswer) bool {
		if h.seq == seq {
			g.release(&fx, &h, ok)
		}
		return h.seq == seq
	})
	g.unstored--
	if g.consumers != nil {
		g.consumers.stored(&fx, seq, ok, now)
	}
	switch {
	case g.state == Dead:
		g.recordGone = g.recordGone || ok && seq == g.storeSeq
		g.maybeRevive()
	case g.assigning != nil && seq == g.assignSeq:
		g.assignmentStored(&fx, ok, now)
	}
	return fx
}

// release answers a static member's return.
func (g *Group) release(fx *Effects, h *heldAnswer, ok bool) {
	_, f := g.find(h.answer.MemberID, h.instance) // it may have been fenced in its turn, or have expired
	switch {
	case f != OK:
		fx.refuse(h.answer.Ticket, h.answer.MemberID, f)
	case !ok:
		fx.refuse(h.answer.Ticket, h.answer.MemberID, NotAvailable)
	default:
		fx.Answers = append(fx.Answers, h.answer)
	}
}

// assignmentStored makes the group stable. No member came or went since the
// leader's sync, since that would have ended the phase.
func (g *Group) assignmentStored(fx *Effects, ok bool, now time.Time) {
	s := g.assigning
	g.assigning = nil
	if !ok {
		for _, m := range g.order {
			g.abandon(fx, m, NotAvailable)
			g.touch(m, now)
		}
		g.prepareRebalance(fx, now)
		return
	}
	g.become(Stable, now)
	for i, m := range g.order {
		g.bytes += len(s.Members[i].Assignment) - len(m.assignment)
		m.assignment = s.Members[i].Assignment
		if m.sync != 0 {
			fx.Answers = append(fx.Answers, g.assigned(m, m.sync))
			m.sync = 0
			g.touch(m, now)
		}
	}
}

// Heartbeat starts the member's session anew.
func (g *Group) Heartbeat(memberID, instance string, generation int32, now time.Time) Fault {
	if g.state == Dead {
		return NotAvailable
	}
	m, f := g.find(memberID, instance)
	if f != OK {
		return f
	}
	if generation != g.generation {
		return IllegalGeneration
	}
	g.touch(m, now)
	if g.state == PreparingRebalance {
		return RebalanceInProgress
	}
	return OK
}

// LeaveRequest is one member of a LeaveGroup. With an instance and no member
// id, an operator removes a static member.
type LeaveRequest struct{ MemberID, Instance string }

// Leave takes members out. The faults are those of each, in order.
func (g *Group) Leave(rs []LeaveRequest, now time.Time) (faults []Fault, fx Effects) {
	faults = make([]Fault, len(rs))
	changed := false
	for i, r := range rs {
		before := len(g.members)
		faults[i] = g.leave(&fx, r)
		changed = changed || len(g.members) < before
	}
	if changed {
		g.membersChanged(&fx, now)
	}
	g.maybeCompleteJoin(&fx, now) // the join phase may have waited for an id that is given back
	return faults, fx
}

func (g *Group) leave(fx *Effects, r LeaveRequest) Fault {
	if g.state == Dead {
		return NotAvailable
	}
	if r.Instance == "" && g.isPending(r.MemberID) {
		delete(g.pending, r.MemberID)
		return OK
	}
	var m *member
	f := OK
	if r.MemberID == "" && r.Instance != "" {
		if m = g.static[r.Instance]; m == nil {
			f = UnknownMember
		}
	} else {
		m, f = g.find(r.MemberID, r.Instance)
	}
	if f == OK {
		g.remove(fx, m, UnknownMember)
	}
	return f
}
