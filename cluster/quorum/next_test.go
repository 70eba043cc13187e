package quorum

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/cluster/gossip"
)

var (
	epoch     = time.Unix(1_000_000, 0)
	testRules = rules{stable: 30 * time.Second, dead: time.Hour}
)

// parse reads nodes as "id:state…", id in lower case for members without a vote, upper case for voters, in brackets for strangers to
// the configuration. States: + up for long, ' up since just now, . silent since just now, - silent for a minute, = silent for hours, < left and answers,
// x left and silent, ~ up and far behind, o may not vote, d drained, r removed, ! of another cluster. Then "@" and its address when it moved, else all is as configured.
func parse(text string) view {
	v := view{self: "a", cluster: "c", index: 7, applied: 1000}
	for _, f := range strings.Fields(text) {
		f, addr, moved := strings.Cut(f, "@")
		id, state, _ := strings.Cut(f, ":")
		n := node{id: strings.ToLower(strings.Trim(id, "()")), status: gossip.Alive, votes: true, applied: 1000, member: id[0] != '('}
		n.voter = n.member && id != strings.ToLower(id)
		n.addr = "at-" + n.id
		if n.member {
			n.at = n.addr
		}
		if moved {
			n.addr = addr
		}
		for _, s := range state {
			switch s {
			case '+':
				n.up = epoch.Add(-time.Minute)
			case '\'':
				n.up = epoch.Add(-time.Second)
			case '.':
				n.status, n.down = gossip.Failed, epoch.Add(-time.Second)
			case '-':
				n.status, n.down = gossip.Failed, epoch.Add(-time.Minute)
			case '=':
				n.status, n.down = gossip.Failed, epoch.Add(-2*time.Hour)
			case '<':
				n.status, n.up = gossip.Left, epoch.Add(-time.Minute)
			case 'x':
				n.status, n.down = gossip.Left, epoch.Add(-time.Minute)
			case '~':
				n.up, n.applied = epoch.Add(-time.Minute), 1000-maxLag-1
			case 'o':
				n.votes = false
			case 'd':
				n.draining, n.votes = true, false
			case 'r':
				n.removed = true
			case '!':
				n.stranger = true
			}
		}
		v.nodes = append(v.nodes, n)
	}
	return v
}

func (c change) String() string {
	switch {
	case c.kind == set && c.member.Voter:
		return fmt.Sprintf("vote %s %s", c.member.ID, c.member.Addr)
	case c.kind == set:
		return fmt.Sprintf("member %s %s", c.member.ID, c.member.Addr)
	case c.kind == nothing:
		return ""
	}
	return fmt.Sprintf("%s %s", c.kind, c.member.ID)
}

func TestNext(t *testing.T) {
	for _, c := range []struct{ name, nodes, want string }{
		{"alone", "A:+", ""},
		{"a new node", "A:+ (b):+", "member b at-b"},
		{"a new node that does not answer", "A:+ (b):", ""},
		{"a new node of another cluster", "A:+ (b):+!", ""},
		{"two nodes: no second voter", "A:+ b:+", ""},
		{"three nodes, both ready", "A:+ b:+ c:+", "vote b at-b"},
		{"three nodes, one new", "A:+ b:+ c:'", ""},
		{"three nodes, one behind", "A:+ b:+ c:~", ""},
		{"in passing", "A:+ B:+ c:+", "vote c at-c"},
		{"in passing, the third is late", "A:+ B:+ c:~", ""},
		{"in passing, the third is gone", "A:+ B:+ c:-", "demote b"},
		{"four nodes", "A:+ B:+ C:+ d:+", ""},
		{"five nodes", "A:+ B:+ C:+ d:+ e:+", "vote d at-d"},
		{"six nodes", "A:+ B:+ C:+ D:+ E:+ f:+", ""},
		{"observers do not count", "A:+ b:+ c:+o", ""},
		{"five voters, one dead for long", "A:+ B:+ C:+ D:+ E:=", "remove e"},
		{"then four voters", "A:+ B:+ C:+ D:+", "demote d"},
		{"five voters, one dead for a minute", "A:+ B:+ C:+ D:+ E:-", ""},
		{"three voters, one dead for long", "A:+ B:+ C:=", ""},
		{"a spare first", "A:+ B:+ C:= d:+", "vote d at-d"},
		{"then the dead one", "A:+ B:+ C:= D:+", "remove c"},
		{"two dead: no majority", "A:+ B:= C:= d:+", ""},
		{"a dead spare", "A:+ b:=", "remove b"},
		{"a voter leaves, a spare is there", "A:+ B:+ C:< d:+", "vote d at-d"},
		{"a voter leaves, no spare", "A:+ B:+ C:x", "remove c"},
		{"two voters stay: back to one", "A:+ B:+", "demote b"},
		{"a spare leaves", "A:+ b:x", "remove b"},
		{"a voter leaves while another is silent", "A:+ B:- C:x", ""},
		{"the leader leaves", "A:< B:+ C:+", "hand over a"},
		{"the only voter leaves", "A:< b:+", "vote b at-b"},
		{"and hands over", "A:< B:+", "hand over a"},
		{"the last node leaves", "A:<", ""},
		{"a voter is drained, a spare is there", "A:+ B:+ C:+d e:+", "vote e at-e"},
		{"then its vote goes", "A:+ B:+ C:+d E:+", "demote c"},
		{"the spare is not ready", "A:+ B:+ C:+d e:'", ""},
		{"a voter is drained, no spare", "A:+ B:+ C:+d", "demote c"},
		{"the drained voter is silent, the spare not ready", "A:+ B:+ C:-d e:'", "demote c"},
		{"the leader is drained", "A:+d B:+ C:+", "hand over a"},
		{"the only voter is drained", "A:+d b:+", "vote b at-b"},
		{"and hands over to it", "A:+d B:+", "hand over a"},
		{"all are drained: one goes on", "A:+d B:+d C:+d", "demote c"},
		{"two of three are drained, and one spare votes already", "A:+d B:+d C:+ D:+ e:+", "demote b"},
		{"it has no vote any more", "A:+ B:+ C:+ e:+d", ""},
		{"removed", "A:+ B:+ C:+ e:-r", "remove e"},
		{"removed with its vote", "A:+ B:+ C:-r", "remove c"},
		{"not registered yet", "A:+ B:+ C:+ e:'r", ""},
		{"removed, and no majority would stay", "A:+ B:- C:-r", ""},
		{"a new address", "A:+ B:+@new C:+", "vote b new"},
		{"a new address of a spare", "A:+ b:+@new", "member b new"},
		{"its own new address", "A:+@new", "vote a new"},
		{"two exchange addresses", "A:+ B:+@at-c C:+@at-b", "vote c c"},
		{"the address of one that is silent", "A:+ B:+@at-c C:-", "vote c c"},
		{"two claim an address", "A:+ B:+@at-c C:+", ""},
		{"a new node in place of a dead one", "A:+ B:+ C:- (d):+@at-c", "remove c"},
		{"it may come back", "A:+ B:+ C:. (d):+@at-c", ""},
		{"an even number, one of them silent", "A:+ B:- C:+ D:+", "demote b"},
		{"where no majority would stay", "A:+ B:+ C:- D:- E:+ (f):+@at-c", "remove c"},
		{"and with two of four", "A:+ B:+ C:- D:+ E:- (f):+@at-c", "remove c"},
	} {
		if got := next(epoch, parse(c.nodes), testRules).String(); got != c.want {
			t.Errorf("%s: %s: %q, want %q", c.name, c.nodes, got, c.want)
		}
	}
	v := parse("A:+ (b):+")
	v.cluster = ""
	if c := next(epoch, v, testRules); c.kind != nothing {
		t.Errorf("nobody has registered yet, and %s", c)
	}
}

// What a change makes of the configuration, as raft does.
func (v *view) make(t interface{ Fatalf(string, ...any) }, c change) {
	i := slices.IndexFunc(v.nodes, func(n node) bool { return n.id == c.member.ID })
	if i < 0 {
		t.Fatalf("%s: no such node", c)
	}
	n := &v.nodes[i]
	switch c.kind {
	case set:
		for _, o := range v.nodes {
			if o.member && o.id != n.id && o.at == c.member.Addr {
				t.Fatalf("%s: that is the address of %s", c, o.id)
			}
		}
		n.member, n.voter, n.at = true, n.voter || c.member.Voter, c.member.Addr
	case demote:
		n.voter = false
	case remove:
		n.member, n.voter = false, false
	case handOver:
		// Raft takes any of those that are up to date; the next one in turn, so that whoever stays has it in the end.
		for _, o := range slices.Concat(v.nodes[i+1:], v.nodes[:i]) {
			if o.voter && !o.up.IsZero() {
				v.self = o.id
				return
			}
		}
		t.Fatalf("nobody to hand over to")
	}
}

// A random life: nodes come, die, return, leave and move, in any order, and the leader makes one change at a time between.
func TestNextModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := epoch
		v := view{self: "a", cluster: "c", applied: 1000}
		v.nodes = []node{{id: "a", member: true, voter: true, at: "a", addr: "at-a", status: gossip.Alive, votes: true, up: now, applied: 1000}}
		for step := range rapid.IntRange(5, 60).Draw(t, "steps") {
			live(t, &v, now, step)
			now = now.Add(time.Duration(rapid.IntRange(1, 2000).Draw(t, "seconds")) * time.Second)
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				advance(t, &v, now)
			}
		}
		settle(t, &v, now)
	})
}

// live has something happen to some node. The majority stays: without it nothing can be changed at all.
func live(t *rapid.T, v *view, now time.Time, step int) {
	i := rapid.IntRange(0, min(len(v.nodes), 8)).Draw(t, "who")
	if i == len(v.nodes) {
		v.nodes = append(v.nodes, node{id: fmt.Sprintf("n%02d", step), addr: fmt.Sprintf("at-n%02d", step), status: gossip.Alive,
			votes: rapid.IntRange(0, 9).Draw(t, "role") > 0, up: now, applied: 1000})
		return
	}
	n := &v.nodes[i]
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0: // dies
		if n.id == v.self || n.status == gossip.Left || v.critical(n) {
			return
		}
		n.status, n.up, n.down = gossip.Failed, time.Time{}, now
	case 1: // comes back
		if n.status == gossip.Failed {
			n.status, n.up, n.down = gossip.Alive, now, time.Time{}
			if slices.ContainsFunc(v.nodes, func(o node) bool { return o.id != n.id && !o.up.IsZero() && o.addr == n.addr }) {
				n.addr = fmt.Sprintf("back-%s-%d", n.id, step)
			}
		}
	case 2:
		if n.status == gossip.Alive && !v.lastOne(n) {
			n.status = gossip.Left
		}
	case 3:
		whose := rapid.SampledFrom(v.nodes).Draw(t, "whose")
		if whose.status == gossip.Left && !whose.up.IsZero() {
			return
		}
		n.addr = "at-" + whose.id
		for j := range v.nodes { // who had it has moved on or is silent
			if o := &v.nodes[j]; o.id != n.id && o.addr == n.addr && !o.up.IsZero() {
				o.addr = fmt.Sprintf("moved-%s-%d", o.id, step)
			}
		}
	case 4:
		n.applied = rapid.SampledFrom([]uint64{1000, 100}).Draw(t, "applied")
	case 5:
		if n.votes && !v.lastOne(n) {
			n.draining, n.votes = true, false
		}
	}
}

// critical: without it the voters could not commit.
func (v *view) critical(n *node) bool {
	p := plan{view: *v}
	return n.voter && count(p.voters(), p.answers)-1 < majority(len(p.voters()))
}

// lastOne: nobody would be left.
func (v *view) lastOne(n *node) bool {
	return count(v.nodes, func(o node) bool { return o.id != n.id && o.votes && o.status == gossip.Alive }) == 0
}

// advance makes one change and checks what it does.
func advance(t *rapid.T, v *view, now time.Time) change {
	c := next(now, *v, testRules)
	if c.kind == nothing {
		return c
	}
	old := plan{view: *v, now: now, rules: testRules}
	before := old.voters()
	was := slices.Clone(v.nodes)
	v.make(t, c)
	p := plan{view: *v, now: now, rules: testRules}
	after := p.voters()
	at := func() string { return fmt.Sprintf("%s (%s)\n%+v\nbecomes\n%+v", c, c.why, was, v.nodes) }
	if count(before, old.answers) < majority(len(before)) {
		t.Fatalf("nobody can commit %s", at())
	}
	if c.kind == handOver {
		return c
	}
	if len(after) == 0 || count(after, p.answers) < majority(len(after)) {
		t.Fatalf("the majority is lost: %s", at())
	}
	if d := len(after) - len(before); d < -1 || d > 1 {
		t.Fatalf("more than one vote: %s", at())
	}
	if len(after) > 6 {
		t.Fatalf("too many voters: %s", at())
	}
	if c.kind == remove {
		for _, n := range was {
			if n.id == c.member.ID && n.status == gossip.Alive {
				t.Fatalf("a living member is removed: %s", at())
			}
		}
	}
	return c
}

// settle lets time pass without events: it ends, at the table.
func settle(t *rapid.T, v *view, now time.Time) {
	for i := range v.nodes {
		if n := &v.nodes[i]; n.status == gossip.Left && n.id != v.self {
			n.up, n.down = time.Time{}, now // it has gone by now
		}
		v.nodes[i].applied = 1000
	}
	if p := (plan{view: *v}); count(p.voters(), p.answers) < majority(len(p.voters())) {
		return // several left at once, and a majority with them
	}
	for i := 0; ; i++ {
		now = now.Add(2 * time.Hour)
		c := advance(t, v, now)
		if c.kind == nothing {
			break
		}
		if i > 200 {
			t.Fatalf("it does not end: %s\n%+v", c, v.nodes)
		}
	}
	p := plan{view: *v, now: now, rules: testRules}
	voters := p.voters()
	alive := count(p.nodes, func(n node) bool { return n.member && n.votes && n.status == gossip.Alive })
	if want := votersOf(alive); alive > 0 && count(voters, p.stays) < want {
		t.Fatalf("%d of %d voters, want %d\n%+v", count(voters, p.stays), len(voters), want, v.nodes)
	}
	if len(voters) > p.target() || len(voters)%2 == 0 {
		t.Fatalf("%d voters, want %d\n%+v", len(voters), p.target(), v.nodes)
	}
	for _, n := range v.nodes {
		switch {
		case n.status == gossip.Alive && (!n.member || n.at != n.addr):
			t.Fatalf("%s is left out\n%+v", n.id, v.nodes)
		case n.status == gossip.Left && n.member && n.id != v.self:
			t.Fatalf("%s has left and is a member\n%+v", n.id, v.nodes)
		case n.draining && n.voter && alive > 0:
			t.Fatalf("%s is drained and votes\n%+v", n.id, v.nodes)
		}
	}
}
