package quorum

import (
	"fmt"
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
		{"the smallest of four", "a b c d", "", "a b c", ""},
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
	ids    []string
	ks     map[string]*Keeper
	formed map[string]int // nodes that formed a list
}

// attempt is one of k's, as form makes it; lost says which answers do not arrive.
func (f *forming) attempt(k *Keeper, seen []string, lost func() bool) {
	ms := people(strings.Join(seen, " "))
	if k.formed {
		return
	}
	list, _ := k.propose(ms)
	if list == nil {
		return
	}
	for range 2 {
		answers := map[string]Status{}
		for _, id := range list {
			if o := f.ks[id]; id != k.cfg.ID && !lost() {
				answers[id] = o.status(Status{Known: o.formed})
			}
		}
		if disagree(k.cfg.ID, list, nil, answers) != "" {
			k.reconsider(ms, answers)
			return
		}
	}
	if k.settle(list) {
		f.formed[strings.Join(list, " ")]++
	}
}

// Whatever the nodes see, and in whatever order they ask and answer: of two lists that share a node one at most is formed by a majority. And where
// there are just as many as are expected, they form one once all see all.
func TestAgreement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const expect = 3
		f := &forming{strings.Split("abcde"[:5-rapid.IntRange(0, 2).Draw(t, "fewer")], ""), map[string]*Keeper{}, map[string]int{}}
		for _, id := range f.ids {
			f.ks[id] = &Keeper{cfg: Config{ID: id, Expect: expect}}
		}
		for range rapid.IntRange(50, 200).Draw(t, "steps") {
			k := f.ks[rapid.SampledFrom(f.ids).Draw(t, "who")]
			var seen []string
			for _, id := range f.ids {
				if id == k.cfg.ID || rapid.Bool().Draw(t, "sees") {
					seen = append(seen, id)
				}
			}
			f.attempt(k, seen, func() bool { return rapid.IntRange(0, 9).Draw(t, "lost") == 0 })
		}
		for a, n := range f.formed {
			for b, m := range f.formed {
				if a != b && n >= majority(expect) && m >= majority(expect) && strings.ContainsAny(a, strings.ReplaceAll(b, " ", "")) {
					t.Fatalf("%d formed %s, and %d formed %s", n, a, m, b)
				}
			}
		}
		for i := 0; len(f.formed) == 0 && len(f.ids) == expect; i++ {
			f.attempt(f.ks[f.ids[i%len(f.ids)]], f.ids, func() bool { return false })
			if i > 100 {
				t.Fatalf("nobody agrees: %s", f)
			}
		}
	})
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
