package group

import (
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// BeatRequest is a ConsumerGroupHeartbeat: it joins, leaves, or says that its
// member lives and what has changed. The group keeps the strings and slices.
type BeatRequest struct {
	Ticket   Ticket
	MemberID string
	Epoch    int32  // that the client has come to; 0 joins, −1 leaves, −2 leaves a static member's place for later
	Instance string // empty: a dynamic member, or not said

	Pace           Pace
	ClientID, Host string
	Rack           string        // empty: not said, as in all that follow
	Rebalance      time.Duration // negative: not said
	Topics         []string      // nil: not said
	Pattern        *string       // empty: none
	Assignor       string
	Owned          assign.Set // what the client has, if SaysOwned
	SaysOwned      bool

	MayGrow bool // false: all groups together take too much memory for a new member or a longer subscription
}

// Epochs that leave.
const (
	leaves    int32 = -1
	stepsAway       = away
)

// full reports whether a client says all of itself, as it does where it does
// not know whether its last request was heard.
func (r *BeatRequest) full() bool {
	return r.Epoch == 0 || r.Rebalance >= 0 && (r.Topics != nil || r.Pattern != nil) && r.SaysOwned
}

// Beat takes a heartbeat of the consumer protocol. topics are those that there
// are now. The answer comes once what it tells is stored (D11). The first one makes an
// empty group one of the consumer protocol.
func (g *Group) Beat(r *BeatRequest, topics *Topics, now time.Time) (fx Effects) {
	f := OK
	switch {
	case g.state == Dead:
		f = NotAvailable
	case g.consumers != nil && g.consumers.store.stuck(now):
		f = NotAvailable
		if m := g.consumers.members[r.MemberID]; m != nil {
			g.consumers.touch(m, now)
		}
	case r.Epoch > 0 && g.consumers == nil, r.Epoch < 0 && g.consumers == nil:
		f = UnknownMember
	case r.Epoch < 0:
		f = g.beatLeave(&fx, r, now)
	default:
		f = g.beat(&fx, r, topics, now)
	}
	if f != OK {
		fx.refuse(r.Ticket, r.MemberID, f)
	}
	g.consumersMoved(now)
	return fx
}

func (g *Group) beat(fx *Effects, r *BeatRequest, topics *Topics, now time.Time) Fault {
	m, f := g.beats(r, topics)
	if f != OK {
		return f
	}
	next, f := g.checkConsumer(m, r)
	if f != OK {
		return f
	}
	if g.consumers == nil {
		g.toConsumers(fx, topics, now)
		if m, f = g.beats(r, topics); f != OK { // its name or id may be one of theirs
			g.flush(fx)
			return f
		}
	}
	cs := g.consumers
	cs.pace = r.Pace.or(cs.cfg)
	var had assign.Set
	var was Record
	changed := m == nil || !m.readsSame(next)
	if m != nil && m.ID == r.MemberID {
		was, had = m.current(), m.assigned
		if !m.same(next) {
			cs.set(m, next)
			cs.store.put(m.memberRecord())
		}
	} else {
		m = cs.enter(m, next)
	}
	if r.Epoch == 0 {
		m.epoch = 0
		cs.hold(m, nil, nil) // its client has nothing
		m.revokeBy = time.Time{}
	}
	if r.SaysOwned {
		cs.saysOwned(m, r.Owned)
	}
	m.seen = r.Epoch // stored with the next change: it tells what the client may still come with then
	cs.retarget(topics, changed)
	cs.reconcile(m, false, now)
	cs.touch(m, now)
	if is := m.current(); was.Member == "" || !is.same(&was) {
		cs.store.put(is)
	}
	g.flush(fx)
	a := Answer{Ticket: r.Ticket, MemberID: m.ID, Generation: m.epoch, Interval: cs.interval(m)}
	if r.full() || r.Epoch != m.epoch || !m.assigned.Equal(had) {
		a.Assigns, a.Assigned = true, m.assigned
	}
	cs.answer(fx, m, a)
	return OK
}

// enter adds a member, in the place of the static one that it follows, if any.
func (cs *consumers) enter(place *consumer, c *Consumer) *consumer {
	var target assign.Set
	if place != nil {
		target = place.target
		stale := cs.stale
		cs.remove(place)
		cs.stale = stale // nothing is left without a reader
	}
	m := cs.add(c)
	m.target = target
	cs.count(m)
	cs.store.put(m.memberRecord())
	if target != nil {
		cs.store.put(m.targetRecord())
	}
	return m
}

// saysOwned notes what m's client has. More than m holds is not worth the memory.
func (cs *consumers) saysOwned(m *consumer, owned assign.Set) {
	m.owned, m.saidOwned = owned.And(m.assigned.Or(m.revoking)), true
	cs.count(m)
}

// interval is when m is to beat again: soon where others are about to give up
// what it is to have.
func (cs *consumers) interval(m *consumer) time.Duration {
	if len(m.revoking) == 0 && len(m.assigned) < len(m.target) {
		return max(cs.pace.Heartbeat/6, time.Millisecond)
	}
	return cs.pace.Heartbeat
}

// beats is the member that a heartbeat speaks for, if it may. For a join it is
// nil, or the static member whose place is taken.
func (g *Group) beats(r *BeatRequest, topics *Topics) (*consumer, Fault) {
	cs := g.consumers
	if cs == nil {
		return nil, g.mayConvert(topics)
	}
	m := cs.members[r.MemberID]
	if r.Instance != "" {
		switch place := cs.static[r.Instance]; {
		case place == nil && r.Epoch != 0:
			return nil, UnknownMember
		case place == nil || place.ID == r.MemberID:
		case r.Epoch != 0:
			return nil, FencedInstance
		case place.epoch != away && place.Classic == nil || m != nil:
			return nil, UnreleasedInstance
		default:
			return place, OK
		}
	}
	switch {
	case r.Epoch == 0:
		return m, OK
	case m == nil || m.Classic != nil:
		return nil, UnknownMember
	case r.Epoch == m.epoch:
		return m, OK
	case r.Epoch == m.seen && r.SaysOwned && r.Owned.Within(m.assigned.Or(m.revoking)):
		return m, OK // the answer was lost
	}
	return nil, FencedEpoch
}

// checkConsumer is what m, or a new member, would say of itself after r, if
// the group can take it.
func (g *Group) checkConsumer(m *consumer, r *BeatRequest) (*Consumer, Fault) {
	base := Consumer{}
	if m != nil {
		base = *m.Consumer
	}
	next := base.with(r)
	next.Rebalance = g.cfg.rebalance(next.Rebalance)
	if r.Assignor != "" && !assign.Known(r.Assignor) {
		return nil, UnsupportedAssignor
	}
	switch f := g.room(m, next); {
	case f != OK:
		return nil, f
	case !r.MayGrow && (m == nil || next.textSize() > m.textSize()):
		return nil, TooLarge
	}
	if r.Pattern != nil && *r.Pattern != "" && *r.Pattern != base.Pattern {
		if _, ok := compilePattern(*r.Pattern); !ok {
			return nil, InvalidPattern
		}
	}
	return next, OK
}

// beatLeave takes a member out, or lets a static one step away.
func (g *Group) beatLeave(fx *Effects, r *BeatRequest, now time.Time) Fault {
	cs := g.consumers
	m := cs.members[r.MemberID]
	if r.Instance != "" {
		switch place := cs.static[r.Instance]; {
		case place == nil:
			return UnknownMember
		case place != m:
			return FencedInstance
		}
	}
	if m == nil {
		return UnknownMember
	}
	a := Answer{Ticket: r.Ticket, MemberID: m.ID, Generation: r.Epoch}
	if r.Epoch == stepsAway && m.Instance != "" {
		m.epoch, m.seen = away, away
		m.revokeBy = time.Time{}
		cs.hold(m, m.assigned, nil)
		cs.touch(m, now)
		cs.store.put(m.current())
	} else {
		cs.remove(m)
		m = nil
	}
	g.flush(fx)
	cs.answer(fx, m, a)
	return OK
}

// LeaveConsumers is Leave in a group OfConsumers: an operator takes members out, by instance or by member id.
// The answer to t comes once that is stored.
func (g *Group) LeaveConsumers(t Ticket, rs []LeaveRequest, now time.Time) (faults []Fault, fx Effects) {
	faults = make([]Fault, len(rs))
	cs := g.consumers
	for i, r := range rs {
		m := cs.members[r.MemberID]
		if r.Instance != "" {
			place := cs.static[r.Instance]
			if place != nil && r.MemberID != "" && place != m {
				faults[i] = FencedInstance
				continue
			}
			m = place
		}
		switch {
		case g.state == Dead:
			faults[i] = NotAvailable
		case m == nil:
			faults[i] = UnknownMember
		default:
			cs.remove(m)
		}
	}
	if cs.store.stuck(now) {
		cs.store.out = nil // everything will be put
	} else {
		g.flush(&fx)
	}
	cs.answer(&fx, nil, Answer{Ticket: t})
	g.consumersMoved(now)
	return faults, fx
}
