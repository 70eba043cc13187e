package quorum

import (
	"fmt"
	"iter"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/cluster/gossip"
)

// people reads gossip's members: "a" expects three, "a-" has failed, "a<" has left, "a2" expects two, "a*" is in a cluster, "ao" may not vote.
func people(text string) (ms []gossip.Member) {
	for _, f := range strings.Fields(text) {
		m := gossip.Member{ID: f[:1], Status: gossip.Alive, Tags: gossip.Tags{Peer: "at-" + f[:1], Expect: 3, Role: gossip.RoleNode}}
		switch f[1:] {
		case "-":
			m.Status = gossip.Failed
		case "<":
			m.Status = gossip.Left
		case "2":
			m.Tags.Expect = 2
		case "*":
			m.Tags.Cluster = "c"
		case "*<":
			m.Tags.Cluster, m.Status = "c", gossip.Left
		case "q":
			m.Tags.Quorum = true
		case "o":
			m.Tags.Role = "observer"
		}
		ms = append(ms, m)
	}
	return ms
}

func TestChoose(t *testing.T) {
	for _, c := range []struct{ name, seen, held, want, why string }{
		{"not yet", "a b", "", "", "2 of 3"},
		{"three", "c b a", "", "a b c", ""},
		{"the smallest of four", "d c b a", "", "a b c", ""},
		{"the fourth itself", "0 1 2 a", "", "", "waiting to be added"},
		{"another number", "a b c2", "", "", "2 of 3"},
		{"one is gone", "a b c-", "", "", "2 of 3"},
		{"an observer", "a b co", "", "", "2 of 3"},
		{"a cluster is there", "a b c d*", "", "", "node d is in a cluster"},
		{"a quorum is there", "a b c dq", "", "", "node d is in a cluster"},
		{"a cluster that has left", "a b c d*<", "", "a b c", ""},
		{"told, and a smaller one comes", "0 a b c", "a b c", "a b c", ""},
		{"told, and one is gone for good", "a b c- d", "a b c", "a b d", ""},
		{"told, and one is gone, and nobody instead", "a b c-", "a b c", "a b c", ""},
		{"told, and most are gone", "a b- c- d e", "a b c", "a b c", ""},
		{"told, and one was faster", "a b* c d", "a b c", "a b c", ""},
		{"told, one gone: who may have agreed stays", "0 1 a b c-", "a b c", "0 a b", ""},
	} {
		var bound [][]string
		if c.held != "" {
			bound = [][]string{strings.Fields(c.held)}
		}
		list, why := choose("a", 3, bound, people(c.seen))
		if got := strings.Join(list, " "); got != c.want || !strings.Contains(why, c.why) || (why == "") != (list != nil) {
			t.Errorf("%s: %q, %q, want %q, %q", c.name, got, why, c.want, c.why)
		}
	}
}

func TestDisagree(t *testing.T) {
	same, other := []string{"a", "b", "c"}, []string{"0", "a", "b"}
	for _, c := range []struct {
		name string
		b, c *Status
		seen string
		want string
	}{
		{"all say so", &Status{List: same}, &Status{List: same}, "a b c", ""},
		{"no answer", &Status{List: same}, nil, "a b c", "c does not answer"},
		{"no list yet", &Status{List: same}, &Status{}, "a b c", "c does not see the same"},
		{"another list", &Status{List: other}, &Status{List: same}, "a b c", "b does not see the same"},
		{"one has formed it", &Status{List: same, Known: true, Cluster: "c"}, &Status{List: same}, "a b* c", ""},
		{"one is in another quorum", &Status{Known: true}, &Status{List: same}, "a b c", "b is in a quorum"},
		{"one was in a cluster", &Status{Cluster: "c", List: same}, &Status{List: same}, "a b c", "b is in a quorum"},
		{"a cluster has come", &Status{List: same}, &Status{List: same}, "a b c d*", "d is in a cluster"},
		{"a cluster has come too late", &Status{List: same, Known: true}, &Status{List: same}, "a b c d*", ""},
	} {
		answers := map[string]Status{}
		for id, a := range map[string]*Status{"b": c.b, "c": c.c} {
			if a != nil {
				answers[id] = *a
			}
		}
		got := disagree("a", same, people(c.seen), answers)
		if !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// forming are nodes that try to agree, and what came of it.
type forming struct {
	ids     []string
	ks      map[string]*Keeper
	formed  map[string]int                     // nodes that formed a list
	running map[string]func() (struct{}, bool) // attempts that wait for an answer
}

const expect = 3

func newForming(ids ...string) *forming {
	f := &forming{ids, map[string]*Keeper{}, map[string]int{}, map[string]func() (struct{}, bool){}}
	for _, id := range ids {
		f.ks[id] = &Keeper{cfg: Config{ID: id, Expect: expect}}
	}
	return f
}

// attempt is one of k's; lost says which answers do not arrive, and others go on between one answer and the next.
func (f *forming) attempt(k *Keeper, seen []string, lost func() bool, others func()) {
	ms := people(strings.Join(seen, " "))
	if k.formed {
		return
	}
	list, _ := k.propose(ms)
	if list == nil {
		return
	}
	ask := func() map[string]Status {
		answers := map[string]Status{}
		for _, id := range list {
			if id == k.cfg.ID {
				continue
			}
			if others(); !lost() {
				answers[id] = f.ks[id].status(Status{Known: f.ks[id].formed})
			}
		}
		others()
		return answers
	}
	if k.agree(list, ms, ask) == "" {
		f.formed[strings.Join(list, " ")]++
	}
}

// step has a node begin an attempt, or go on with its own up to the next answer.
func (f *forming) step(t *rapid.T, id string) {
	if f.running[id] == nil {
		var seen []string
		for _, o := range f.ids {
			if o == id || rapid.IntRange(0, 3).Draw(t, "sees") > 0 {
				seen = append(seen, o)
			}
		}
		lost := func() bool { return rapid.IntRange(0, 9).Draw(t, "lost") == 0 }
		next, stop := iter.Pull(func(yield func(struct{}) bool) {
			f.attempt(f.ks[id], seen, lost, func() { yield(struct{}{}) })
		})
		t.Cleanup(stop)
		f.running[id] = next
	}
	if _, more := f.running[id](); !more {
		delete(f.running, id)
	}
}

// Whatever the nodes see, and in whatever order they ask and answer: of two lists that share a node one at most is formed by a majority. And where
// there are just as many as are expected, they form one once all see all.
func TestAgreement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newForming(strings.Split("abcde"[:5-rapid.IntRange(0, 2).Draw(t, "fewer")], "")...)
		for range rapid.IntRange(50, 400).Draw(t, "steps") {
			f.step(t, rapid.SampledFrom(f.ids).Draw(t, "who"))
		}
		for _, id := range f.ids {
			for f.running[id] != nil {
				f.step(t, id)
			}
		}
		for a, n := range f.formed {
			for b, m := range f.formed {
				if a != b && n >= majority(expect) && m >= majority(expect) && strings.ContainsAny(a, strings.ReplaceAll(b, " ", "")) {
					t.Fatalf("%d formed %s, and %d formed %s", n, a, m, b)
				}
			}
		}
		for i := 0; len(f.formed) == 0 && len(f.ids) == expect; i++ {
			f.attempt(f.ks[f.ids[i%len(f.ids)]], f.ids, func() bool { return false }, func() {})
			if i > 100 {
				t.Fatalf("nobody agrees: %s", f)
			}
		}
	})
}

// C hears that A stands by no list yet, and waits for B's answer. Meanwhile A and B agree on a list with C, which C tells both: what it has heard
// before is old then, and is no reason to form another quorum with D and E.
func TestListIsKeptThatOthersWereToldMeanwhile(t *testing.T) {
	f := newForming("a", "b", "c", "d", "e")
	all, nobody := func() bool { return false }, func() {}
	abc, cde := []string{"a", "b", "c"}, []string{"c", "d", "e"}
	f.ks["b"].propose(people("a b c"))
	asked := 0
	f.attempt(f.ks["c"], abc, all, func() {
		if asked++; asked == 2 {
			f.attempt(f.ks["a"], abc, all, nobody)
			f.attempt(f.ks["b"], abc, all, nobody)
		}
	})
	if n := f.formed["a b c"]; n != 2 {
		t.Fatalf("%d formed it: %s", n, f)
	}
	for range 3 {
		for _, id := range cde {
			f.attempt(f.ks[id], cde, all, nobody)
		}
	}
	if n := f.formed["c d e"]; n > 0 {
		t.Errorf("%d formed another: %s", n, f)
	}
}

// A says the same both times that C asks, and has been free of it in between: who heard that may have left the list.
func TestListThatWasGivenUpBetweenTheQuestions(t *testing.T) {
	f := newForming("a", "b", "c", "d", "e")
	all, nobody := func() bool { return false }, func() {}
	abc := []string{"a", "b", "c"}
	f.ks["a"].propose(people("a b c"))
	asked := 0
	f.attempt(f.ks["c"], abc, all, func() {
		if asked++; asked == 2 { // a has answered, b is next
			f.attempt(f.ks["a"], abc, all, nobody) // b stands by nothing yet
			f.ks["b"].propose(people("a b c"))
		}
	})
	if n := f.formed["a b c"]; n > 0 {
		t.Errorf("%d formed it: %s", n, f)
	}
	for range 2 {
		for _, id := range abc {
			f.attempt(f.ks[id], abc, all, nobody)
		}
	}
	if n := f.formed["a b c"]; n != 3 {
		t.Errorf("%d formed it in the end: %s", n, f)
	}
}

// agreed is where A and B have formed a list with C, which has told both and goes on looking.
func agreed(t *testing.T) *forming {
	t.Helper()
	f := newForming("a", "b", "c", "d", "e")
	for _, id := range []string{"a", "b", "c"} {
		f.ks[id].propose(people("a b c"))
	}
	f.try("a", "a b c")
	f.try("b", "a b c")
	if n := f.formed["a b c"]; n != 2 {
		t.Fatalf("%d formed it: %s", n, f)
	}
	return f
}

// try is an attempt of a node that sees some and hears all.
func (f *forming) try(id, seen string) {
	f.attempt(f.ks[id], strings.Fields(seen), func() bool { return false }, func() {})
}

// wantNoOther wants that C does not form another list with D and E.
func (f *forming) wantNoOther(t *testing.T) {
	t.Helper()
	for range 3 {
		for _, id := range []string{"c", "d", "e"} {
			f.try(id, "c d e")
		}
	}
	if n := f.formed["c d e"]; n > 0 {
		t.Errorf("%d formed another: %s", n, f)
	}
}

// Who does not answer has not said that it is not bound.
func TestSilenceFreesNobody(t *testing.T) {
	f := agreed(t)
	f.attempt(f.ks["c"], []string{"a", "b", "c"}, func() bool { return true }, func() {})
	f.wantNoOther(t)
}

// A list that was told later, and comes to nothing, does not replace one before it.
func TestEarlierListsCountOn(t *testing.T) {
	f := agreed(t)
	f.ks["c"].propose(people("b c d"))
	f.try("d", "b c d") // tells D
	if n := len(f.ks["c"].bound); n != 2 {
		t.Fatalf("bound to %d lists: %s", n, f)
	}
	f.wantNoOther(t)
}

func (f *forming) String() string {
	var b strings.Builder
	for _, id := range f.ids {
		k := f.ks[id]
		fmt.Fprintf(&b, "\n%s: %v bound %v", id, k.list, k.bound)
	}
	return b.String()
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Expect: -1}, "want 0 to"},
		{Config{Expect: maxMembers + 1}, "want 0 to"},
		{Config{Expect: 1, Join: true}, "leave one of them out"},
		{Config{Expect: 3, Join: true}, ""},
		{Config{Join: true}, ""},
		{Config{Expect: 1}, ""},
	} {
		if _, err := New(c.cfg); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("expect %d, join %t: %v", c.cfg.Expect, c.cfg.Join, err)
		}
	}
	if got := Name("", 2) + "," + Name("id", 0) + "," + Name("id", 2); got != ",id,id/2" {
		t.Errorf("names %q", got)
	}
}
