package quorum

import (
	"fmt"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
)

// view is what the leader of the quorum knows when it decides.
type view struct {
	self    string
	cluster string // Name; "" before the first registration
	index   uint64 // of the configuration
	applied uint64 // by the leader
	nodes   []node // by id
}

// node is a member, or somebody that gossip knows.
type node struct {
	id            string
	member, voter bool
	at            string        // the member's address in the configuration
	addr          string        // where it is, by gossip; "" when not known
	status        gossip.Status // "" when gossip does not know it
	votes         bool          // it may
	stranger      bool          // its answer says that it is in another cluster
	draining      bool          // an operator takes it out; it has no vote then
	removed       bool          // an operator has taken it out
	up, down      time.Time     // since when it answers and is alive, or neither; one of them is zero, or both
	applied       uint64
}

type kind uint8

const (
	nothing kind = iota
	set          // add, promote, readdress
	demote
	remove
	handOver
)

// change is one step, decided on the configuration of view.index.
type change struct {
	kind   kind
	member meta.Member
	why    string
}

// rules are the times that decisions depend on.
type rules struct {
	stable time.Duration // up for so long before it gets a vote
	dead   time.Duration // silent for so long before it loses its place
}

// maxLag is how many entries a node may be behind when it gets a vote.
const maxLag = 250

// next is what has to be done first; nothing when all is as it should be, or when no majority is there to commit it.
func next(now time.Time, v view, r rules) change {
	p := plan{v, now, r}
	if v.cluster == "" || count(p.voters(), p.answers) < majority(len(p.voters())) {
		return change{}
	}
	for _, step := range []func() change{p.readdress, p.leave, p.retire, p.bury, p.add, p.pass, p.shrink, p.grow} {
		if c := step(); c.kind != nothing {
			return c
		}
	}
	return change{}
}

// plan is a decision being made.
type plan struct {
	view
	now   time.Time
	rules rules
}

func count(ns []node, is func(node) bool) (n int) {
	for _, o := range ns {
		if is(o) {
			n++
		}
	}
	return n
}

func (p plan) filter(is func(node) bool) (ns []node) {
	for _, o := range p.nodes {
		if is(o) {
			ns = append(ns, o)
		}
	}
	return ns
}

func (p plan) voters() []node { return p.filter(func(n node) bool { return n.voter }) }

// answers: its vote counts now.
func (p plan) answers(n node) bool { return n.id == p.self || !n.up.IsZero() }

// here: its address is what gossip says now.
func (p plan) here(n node) bool { return n.status == gossip.Alive || p.answers(n) }

// stays: its vote will count.
func (p plan) stays(n node) bool { return p.answers(n) && n.status != gossip.Left }

func (p plan) silent(n node, d time.Duration) bool {
	return n.id != p.self && !n.down.IsZero() && p.now.Sub(n.down) >= d
}

func (p plan) ready(n node) bool {
	return n.member && !n.voter && n.votes && n.status == gossip.Alive && !n.up.IsZero() &&
		p.now.Sub(n.up) >= p.rules.stable && n.applied+maxLag >= p.applied
}

// spare is a node that can have a vote now.
func (p plan) spare() (node, bool) {
	ready := p.filter(p.ready)
	if len(ready) == 0 {
		return node{}, false
	}
	return ready[0], true
}

// target is how many should vote.
func (p plan) target() int {
	return votersOf(count(p.nodes, func(n node) bool { return n.member && n.votes && n.status != gossip.Left }))
}

// without says whether the quorum does well without the vote of n. Those that leave count: they go on until they are removed.
func (p plan) without(n node) bool {
	rest := p.filter(func(o node) bool { return o.voter && o.id != n.id })
	return len(rest) > 0 && count(rest, p.answers) >= majority(len(rest))
}

// promote gives a vote to a node that is ready, hence up: with a majority of the others up there is one afterwards too.
func (p plan) promote(n node, why string) change {
	return change{set, meta.Member{ID: n.id, Addr: n.at, Voter: true}, why}
}

// holder is the member that has addr in the configuration.
func (p plan) holder(addr string) (node, bool) {
	i := slices.IndexFunc(p.nodes, func(n node) bool { return n.member && n.at == addr })
	if i < 0 {
		return node{}, false
	}
	return p.nodes[i], true
}

// readdress follows members to new addresses (C4).
func (p plan) readdress() change {
	moved := p.filter(func(n node) bool { return n.member && p.here(n) && n.addr != "" && n.addr != n.at })
	for _, n := range moved {
		if _, taken := p.holder(n.addr); !taken {
			return change{set, meta.Member{ID: n.id, Addr: n.addr, Voter: n.voter}, "it has another address"}
		}
	}
	for _, n := range moved { // a circle, or the address of somebody that is silent
		if o, _ := p.holder(n.addr); !p.here(o) || o.addr != o.at {
			return p.park(o, n)
		}
	}
	return change{} // two that live claim one address
}

// park takes the address of a member from it, and nothing else.
func (p plan) park(o, for_ node) change {
	return change{set, meta.Member{ID: o.id, Addr: o.id, Voter: o.voter}, fmt.Sprintf("its address is now that of %s", for_.id)}
}

// leave lets go of those who said that they leave.
func (p plan) leave() change {
	for _, n := range p.filter(func(n node) bool { return n.member && n.status == gossip.Left }) {
		c := p.replace(n)
		switch {
		case n.id == p.self && n.voter && count(p.voters(), func(o node) bool { return o.id != p.self && p.stays(o) }) > 0:
			return change{kind: handOver, member: meta.Member{ID: n.id}, why: "it leaves"}
		case c.kind != nothing:
			return c
		case n.id != p.self && (!n.voter || p.without(n)):
			return change{kind: remove, member: meta.Member{ID: n.id}, why: "it has left"}
		}
	}
	return change{}
}

// replace has a spare vote before n, which leaves, loses its vote.
func (p plan) replace(n node) change {
	spare, found := p.spare()
	stay := count(p.voters(), func(o node) bool { return o.votes && o.status != gossip.Left })
	if !found || !n.voter || stay >= p.target() || len(p.voters()) > p.target() {
		return change{}
	}
	return p.promote(spare, n.id+" leaves")
}

// retire takes the votes of those who are drained, once a spare that may have it has one, and the places of those who were removed.
func (p plan) retire() change {
	for _, n := range p.filter(func(n node) bool { return n.member && n.removed && p.silent(n, p.rules.stable) }) {
		switch c := p.replace(n); {
		case c.kind != nothing:
			return c
		case !n.voter || p.without(n):
			return change{kind: remove, member: meta.Member{ID: n.id}, why: "it was removed"}
		}
	}
	for _, n := range p.filter(func(n node) bool { return n.voter && n.draining }) {
		others := count(p.voters(), func(o node) bool { return o.id != n.id && o.votes && p.stays(o) })
		switch c := p.replace(n); {
		case c.kind != nothing:
			return c
		case others == 0 || p.waits(n):
		case n.id == p.self:
			return change{kind: handOver, member: meta.Member{ID: n.id}, why: "it is drained"}
		case p.without(n):
			return change{demote, meta.Member{ID: n.id}, "it is drained"}
		}
	}
	return change{}
}

// waits says whether somebody will be ready for the vote of n, which goes on.
func (p plan) waits(n node) bool {
	stay := count(p.voters(), func(o node) bool { return o.votes && o.status != gossip.Left })
	return stay < p.target() && p.answers(n) && count(p.nodes, func(o node) bool { return o.member && !o.voter && o.votes && o.status == gossip.Alive }) > 0
}

// bury removes those who have been silent for long, or has a spare vote first where that would leave too few. A majority goes on, as next has seen:
// who is silent is none of it.
func (p plan) bury() change {
	for _, n := range p.filter(func(n node) bool { return n.member && p.silent(n, p.rules.dead) }) {
		why := fmt.Sprintf("silent for %s", p.rules.dead)
		if !n.voter || count(p.voters(), p.stays) >= 3 {
			return change{kind: remove, member: meta.Member{ID: n.id}, why: why}
		}
		if spare, found := p.spare(); found {
			return p.promote(spare, fmt.Sprintf("in place of %s, %s", n.id, why))
		}
	}
	return change{}
}

// add takes in who is new, without a vote.
func (p plan) add() change {
	if count(p.nodes, func(n node) bool { return n.member }) >= maxMembers {
		return change{}
	}
	for _, n := range p.nodes {
		if n.member || n.status != gossip.Alive || n.addr == "" || n.up.IsZero() || n.stranger {
			continue
		}
		o, taken := p.holder(n.addr)
		switch {
		case !taken:
			return change{set, meta.Member{ID: n.id, Addr: n.addr}, "it is new"}
		case p.here(o) || !p.silent(o, p.rules.stable): // it moves on, or comes back, or there is a mistake
		case !o.voter || p.without(o):
			return change{kind: remove, member: meta.Member{ID: o.id}, why: fmt.Sprintf("%s has come in its place", n.id)}
		default:
			return p.park(o, n)
		}
	}
	return change{}
}

// pass goes on from an even number of voters, or back where nobody is in sight any more.
func (p plan) pass() change {
	voters := p.voters()
	if len(voters)%2 == 1 || len(voters) > p.target() {
		return change{}
	}
	if spare, found := p.spare(); found {
		return p.promote(spare, "for an odd number of voters")
	}
	if count(p.nodes, func(n node) bool { return n.member && !n.voter && n.votes && n.status == gossip.Alive }) > 0 {
		return change{}
	}
	return p.fewer("for an odd number of voters")
}

// shrink takes votes from those who are too many.
func (p plan) shrink() change {
	if len(p.voters()) <= p.target() {
		return change{}
	}
	return p.fewer("there are fewer nodes")
}

// fewer takes one vote: rather of one that is silent, so that the majority which next has seen stays one, then of one that is to have none. Another's
// would be given back to it, or to a spare, in place of that one.
func (p plan) fewer(why string) change {
	spared := func(n node) int {
		switch {
		case !p.answers(n):
			return 0
		case !n.votes || n.status == gossip.Left:
			return 1
		}
		return 2
	}
	var last *node
	for _, n := range p.voters() {
		if n.id != p.self && (last == nil || spared(n) <= spared(*last)) {
			last = &n
		}
	}
	if last == nil {
		return change{}
	}
	return change{demote, meta.Member{ID: last.id}, why}
}

// grow begins to give votes, when there are two to have them.
func (p plan) grow() change {
	if len(p.voters()) >= p.target() || count(p.nodes, p.ready) < 2 {
		return change{}
	}
	spare, _ := p.spare()
	return p.promote(spare, "there are more nodes")
}
