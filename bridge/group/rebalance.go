package group

import (
	"math"
	"slices"
	"time"
)

// membersChanged starts a rebalance, or ends one that waited only for members
// that are gone.
func (g *Group) membersChanged(fx *Effects, now time.Time) {
	switch g.state {
	case Stable, CompletingRebalance:
		g.prepareRebalance(fx, now)
	case PreparingRebalance:
		g.maybeCompleteJoin(fx, now)
	}
}

// rebalanceTimeout is the longest that any member asks for.
func (g *Group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.order {
		d = max(d, m.rebalance)
	}
	return d
}

// prepareRebalance asks all members to join again. It is called in every state
// but PreparingRebalance and Dead.
func (g *Group) prepareRebalance(fx *Effects, now time.Time) {
	for _, m := range g.order {
		m.owesSync = false
		if m.sync != 0 {
			fx.refuse(m.sync, m.id, RebalanceInProgress)
			m.sync = 0
			g.touch(m, now)
		}
	}
	g.assigning = nil
	timeout := g.rebalanceTimeout()
	g.initial = g.state == Empty && g.cfg.InitialRebalanceDelay > 0
	if g.initial {
		delay := min(g.cfg.InitialRebalanceDelay, timeout)
		g.stretch = timeout - delay
		g.grew = false
		timeout = delay
	}
	g.joinUntil = now.Add(timeout)
	g.become(PreparingRebalance, now)
	g.arm(g.joinUntil)
	g.maybeCompleteJoin(fx, now)
}

// maybeCompleteJoin ends the join phase as soon as nobody is missing.
func (g *Group) maybeCompleteJoin(fx *Effects, now time.Time) {
	if g.state != PreparingRebalance {
		return
	}
	if len(g.members) == 0 || !g.initial && g.waiting == len(g.members) && len(g.pending) == 0 {
		g.completeJoin(fx, now)
	}
}

// joinPhaseOver acts on joinUntil: a delay that gathers first members is
// stretched as long as they keep coming.
func (g *Group) joinPhaseOver(fx *Effects, now time.Time) {
	if g.initial && g.grew && g.stretch > 0 {
		delay := min(g.cfg.InitialRebalanceDelay, g.stretch)
		g.stretch -= delay
		g.grew = false
		g.joinUntil = now.Add(delay)
		g.arm(g.joinUntil)
		return
	}
	g.completeJoin(fx, now)
}

// completeJoin drops who did not come, chooses leader and protocol and tells
// the new generation to those who wait.
func (g *Group) completeJoin(fx *Effects, now time.Time) {
	g.initial = false
	for _, m := range slices.Clone(g.order) {
		if m.join == 0 && m.instance == "" {
			g.remove(fx, m, UnknownMember)
		}
	}
	if len(g.members) > 0 && g.waiting == 0 { // static members that are all away: until their sessions end
		g.joinUntil = now.Add(g.rebalanceTimeout())
		g.arm(g.joinUntil)
		return
	}
	if len(g.members) == 0 && g.generation == 0 && g.storeSeq == 0 { // all gave up before anything was said
		g.become(Empty, now)
		return
	}
	if g.generation == math.MaxInt32 {
		g.generation = 0
	}
	g.generation++
	if len(g.members) == 0 {
		g.protocol = ""
		g.become(Empty, now)
		g.store(fx, g.Snapshot())
		return
	}
	g.electLeader()
	g.protocol = g.choose()
	g.become(CompletingRebalance, now)
	g.syncUntil = now.Add(g.rebalanceTimeout())
	g.arm(g.syncUntil)
	for _, m := range g.order {
		if m.join == 0 {
			continue
		}
		fx.Answers = append(fx.Answers, g.joined(m, m.join))
		m.join = 0
		g.waiting--
		m.fresh = false
		m.owesSync = true
		g.touch(m, now)
	}
}

// electLeader keeps the leader if it is here, else takes the eldest member
// that is.
func (g *Group) electLeader() {
	if m := g.members[g.leader]; m != nil && m.join != 0 {
		return
	}
	for _, m := range g.order {
		if m.join != 0 {
			g.leader = m.id
			return
		}
	}
}

// choose takes, of the protocols that all members speak, the one that most of
// them like best; of equally liked ones the leader's choice.
func (g *Group) choose() string {
	votes := map[string]int{}
	for _, m := range g.order {
		for i := range m.protocols {
			if g.allSpeak(m.protocols[i].Name) {
				votes[m.protocols[i].Name]++
				break
			}
		}
	}
	best := ""
	for _, p := range g.members[g.leader].protocols {
		if votes[p.Name] > votes[best] {
			best = p.Name
		}
	}
	return best
}

func (g *Group) allSpeak(protocol string) bool { return allSpeak(g.order, protocol) }

func allSpeak(members []*member, protocol string) bool {
	return !slices.ContainsFunc(members, func(m *member) bool { return !m.speaks(protocol) })
}

// joined is the answer to a join of m in the current generation.
func (g *Group) joined(m *member, t Ticket) Answer {
	a := Answer{
		Ticket: t, MemberID: m.id, Generation: g.generation,
		ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader,
	}
	if m.id == g.leader {
		a.Members = g.memberInfos()
	}
	return a
}

func (g *Group) memberInfos() []MemberInfo {
	infos := make([]MemberInfo, len(g.order))
	for i, m := range g.order {
		infos[i] = MemberInfo{ID: m.id, Instance: m.instance, Metadata: m.metadata(g.protocol)}
	}
	return infos
}
