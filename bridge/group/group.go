package group

import (
	"fmt"
	"slices"
	"time"
)

// State is where a group stands; the package comment says what each means.
type State uint8

const (
	Empty State = iota
	PreparingRebalance
	CompletingRebalance
	Stable
	Dead
	Reconciling // of the consumer protocol: not every member has come to its target
)

// String is the state's name in Kafka's DescribeGroups.
func (s State) String() string {
	switch s {
	case Empty:
		return "Empty"
	case PreparingRebalance:
		return "PreparingRebalance"
	case CompletingRebalance:
		return "CompletingRebalance"
	case Stable:
		return "Stable"
	case Dead:
		return "Dead"
	case Reconciling:
		return "Reconciling"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Group is one consumer group. It is not safe for concurrent use.
type Group struct {
	cfg *Config
	id  string

	state        State
	since        time.Time // of the last change of state
	generation   int32
	protocolType string // "consumer" for consumers; empty if nobody ever joined
	protocol     string // chosen in the last join phase
	leader       string

	members map[string]*member
	order   []*member          // as they joined, so that two runs do the same
	static  map[string]*member // by instance id
	pending map[string]time.Time
	waiting int // members whose join waits

	joinUntil time.Time     // PreparingRebalance: end of the join phase
	initial   bool          // this join phase gathers members, and nothing ends it early
	stretch   time.Duration // by how much the initial delay may still grow
	grew      bool          // somebody joined since the initial delay was last set
	syncUntil time.Time     // who still owes a SyncGroup then is dropped

	storeSeq   uint64    // of the last Store asked for
	assigning  *Snapshot // the leader's assignment, being stored as assignSeq
	assignSeq  uint64
	held       []heldAnswer
	unstored   int  // stores not answered yet
	recordGone bool // Dead, and the removal of the group's record is stored

	consumers *consumers // nil: the group is of the classic protocol

	slots    map[TopicPartition]*slot
	writeSeq uint64
	inflight int // offset writes not answered yet

	bytes     int // sizes of all members
	slotBytes int // of all slots

	wake time.Time // see Next
}

// heldAnswer is to a static member that came back, and waits for the store of
// its new id.
type heldAnswer struct {
	seq      uint64
	instance string
	answer   Answer
}

// New returns an empty group. cfg is used as it is and may be shared; see
// Config.Defaults.
func New(id string, cfg *Config, now time.Time) *Group {
	return &Group{
		cfg: cfg, id: id, since: now,
		members: map[string]*member{}, static: map[string]*member{},
		pending: map[string]time.Time{}, slots: map[TopicPartition]*slot{},
	}
}

func (g *Group) ID() string   { return g.id }
func (g *Group) State() State { return g.state }

// Generation is the last one, or the epoch of a group of the consumer protocol.
func (g *Group) Generation() int32 {
	if g.consumers != nil {
		return g.consumers.epoch
	}
	return g.generation
}

// Members is how many there are, of whatever protocol.
func (g *Group) Members() int {
	if g.consumers != nil {
		return len(g.consumers.members)
	}
	return len(g.members)
}

// OfConsumers reports whether the group is of the consumer protocol.
func (g *Group) OfConsumers() bool { return g.consumers != nil }

func (g *Group) ProtocolType() string { return g.protocolType }

// What a member and an id handed out take besides the client's bytes, about.
const (
	MemberBytes  = 400
	pendingBytes = 200
)

// Bytes is about how much memory the members, the ids handed out and the offsets take.
func (g *Group) Bytes() int {
	if g.consumers != nil {
		return g.consumers.bytes + g.slotBytes
	}
	return g.bytes + g.slotBytes + len(g.members)*MemberBytes + len(g.pending)*pendingBytes
}

// Next is when Tick has to be called, at the latest; zero is never. It may be
// too early (heartbeats do not move it), never too late.
func (g *Group) Next() time.Time {
	if g.consumers != nil {
		return g.consumers.wake
	}
	return g.wake
}

func (g *Group) arm(t time.Time) {
	if g.wake.IsZero() || t.Before(g.wake) {
		g.wake = t
	}
}

// touch starts m's session anew. A first join that waits keeps its deadline.
func (g *Group) touch(m *member, now time.Time) {
	if m.join != 0 && m.fresh {
		return
	}
	m.deadline = now.Add(m.session)
	g.arm(m.deadline)
}

func (g *Group) become(s State, now time.Time) {
	g.state = s
	g.since = now
}

// Tick does what is due at now: members whose session ended are dropped, join
// and sync phases end, ids that were handed out and not used are forgotten.
func (g *Group) Tick(now time.Time) (fx Effects) {
	if g.consumers != nil {
		g.tickConsumers(&fx, now)
		return fx
	}
	if g.wake.IsZero() || now.Before(g.wake) {
		return fx
	}
	for id, until := range g.pending {
		if !now.Before(until) {
			delete(g.pending, id)
		}
	}
	g.drop(&fx, now, func(m *member) bool { return m.watched() && !now.Before(m.deadline) })
	if g.syncing() && !now.Before(g.syncUntil) {
		g.drop(&fx, now, func(m *member) bool { return m.owesSync })
	}
	if g.state == PreparingRebalance && !now.Before(g.joinUntil) {
		g.joinPhaseOver(&fx, now)
	}
	g.maybeCompleteJoin(&fx, now)
	g.wake = time.Time{}
	g.rearm()
	return fx
}

// syncing reports whether syncUntil counts.
func (g *Group) syncing() bool {
	return (g.state == CompletingRebalance || g.state == Stable) &&
		slices.ContainsFunc(g.order, func(m *member) bool { return m.owesSync })
}

// rearm sets wake to the earliest deadline there is.
func (g *Group) rearm() {
	for _, until := range g.pending {
		g.arm(until)
	}
	for _, m := range g.order {
		if m.watched() {
			g.arm(m.deadline)
		}
	}
	if g.state == PreparingRebalance {
		g.arm(g.joinUntil)
	}
	if g.syncing() {
		g.arm(g.syncUntil)
	}
}

// drop removes the members that gone names and rebalances once if there were any.
func (g *Group) drop(fx *Effects, now time.Time, gone func(*member) bool) {
	dropped := false
	for _, m := range slices.Clone(g.order) {
		if gone(m) {
			g.remove(fx, m, UnknownMember)
			dropped = true
		}
	}
	if dropped {
		g.membersChanged(fx, now)
	}
}

func (g *Group) add(m *member) {
	g.members[m.id] = m
	if m.instance != "" {
		g.static[m.instance] = m
	}
	g.order = append(g.order, m)
	g.bytes += m.size()
	if g.leader == "" {
		g.leader = m.id
	}
}

// remove takes m out of the group and answers its waiting requests with f. The
// caller sees to the rebalance.
func (g *Group) remove(fx *Effects, m *member, f Fault) {
	g.abandon(fx, m, f)
	delete(g.members, m.id)
	if m.instance != "" {
		delete(g.static, m.instance)
	}
	g.order = slices.DeleteFunc(g.order, func(o *member) bool { return o == m })
	g.bytes -= m.size()
	if g.leader == m.id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0].id
		}
	}
}

// abandon answers m's waiting requests with f: its client has asked anew, is
// fenced, or is gone.
func (g *Group) abandon(fx *Effects, m *member, f Fault) {
	if m.join != 0 {
		fx.refuse(m.join, m.id, f)
		m.join = 0
		g.waiting--
	}
	if m.sync != 0 {
		fx.refuse(m.sync, m.id, f)
		m.sync = 0
	}
}

// await lets m's join wait. From here on m cannot heartbeat, so only a first
// join has a deadline of its own.
func (g *Group) await(m *member, t Ticket, now time.Time) {
	m.join = t
	g.waiting++
	if m.fresh {
		m.deadline = now.Add(g.cfg.NewMemberTimeout)
		g.arm(m.deadline)
	}
}
