package access

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func rule(kind Resource, p Pattern, name, principal string, op Operation, is Permission) Rule {
	return Rule{Resource: kind, Pattern: p, Name: name, Principal: principal, Host: Wildcard, Operation: op, Permission: is}
}

func TestDecide(t *testing.T) {
	fromHost := rule(Topic, Literal, "hosts", "User:a", Read, Allow)
	fromHost.Host = "10.0.0.1"
	s := NewSet([]Rule{
		rule(Topic, Literal, "orders", "User:a", Read, Allow),
		rule(Topic, Prefixed, "plant-", "User:a", Write, Allow),
		rule(Topic, Prefixed, "plant-7", "User:a", Write, Deny),
		rule(Topic, Literal, "plant-9", "User:*", All, Deny),
		rule(Topic, Literal, "open", "User:*", Read, Allow),
		rule(Topic, Literal, "configs", "User:a", AlterConfigs, Allow),
		rule(Topic, Literal, "secret", "User:a", All, Allow),
		rule(Topic, Literal, "secret", "User:a", Describe, Deny),
		rule(Group, Literal, Wildcard, "User:a", Read, Allow),
		rule(Cluster, Literal, ClusterName, "User:b", Alter, Allow),
		fromHost,
	})
	for _, c := range []struct {
		who  string
		op   Operation
		kind Resource
		name string
		want Decision
	}{
		{"User:a", Read, Topic, "orders", Granted},
		{"User:a", Describe, Topic, "orders", Granted}, // implied
		{"User:a", Write, Topic, "orders", Refused},
		{"User:b", Read, Topic, "orders", Refused},
		{"User:a", Read, Topic, "nobody-speaks-of-it", Silent},
		{"User:a", Write, Topic, "plant-1", Granted},
		{"User:a", Write, Topic, "plant", Silent},
		{"User:a", Write, Topic, "plant-71", Denied}, // denied by the longer prefix
		{"User:a", Write, Topic, "plant-9", Denied},  // for everybody, though the prefix allows it
		{"User:z", Read, Topic, "open", Granted},
		{"User:ANONYMOUS", Read, Topic, "open", Granted},
		{"User:a", DescribeConfigs, Topic, "configs", Granted},
		{"User:a", Describe, Topic, "configs", Refused},
		{"User:a", Write, Topic, "secret", Granted},
		{"User:a", Describe, Topic, "secret", Denied},
		{"User:a", Read, Group, "any", Granted},
		{"User:b", Describe, Cluster, ClusterName, Granted},
		{"User:b", Create, Cluster, ClusterName, Refused},
		{"User:a", Read, TransactionalID, "orders", Silent}, // another kind
		{"User:a", Read, Topic, "hosts", Refused},
	} {
		if got := s.Decide(c.who, "10.0.0.2", c.op, c.kind, c.name); got != c.want {
			t.Errorf("%s, operation %d on %d %q: %d, want %d", c.who, c.op, c.kind, c.name, got, c.want)
		}
	}
	if s.Decide("User:a", "10.0.0.1", Read, Topic, "hosts") != Granted {
		t.Error("not from the host that may")
	}
	if (*Set)(nil).Decide("User:a", "h", Read, Topic, "t") != Silent {
		t.Error("no set speaks")
	}
}

// DecideAny grants what Decide would for some name.
func TestDecideAny(t *testing.T) {
	for name, c := range map[string]struct {
		rules []Rule
		want  Decision
	}{
		"none":                         {nil, Silent},
		"one topic":                    {[]Rule{rule(Topic, Literal, "t", "User:a", Write, Allow)}, Granted},
		"somebody else's topic":        {[]Rule{rule(Topic, Literal, "t", "User:b", Write, Allow)}, Silent},
		"all denied":                   {[]Rule{rule(Topic, Literal, "t", "User:a", Write, Allow), rule(Topic, Literal, "*", "User:*", Write, Deny)}, Denied},
		"the one topic is denied":      {[]Rule{rule(Topic, Literal, "t", "User:a", Write, Allow), rule(Topic, Literal, "t", "User:a", Write, Deny)}, Silent},
		"denied by a shorter prefix":   {[]Rule{rule(Topic, Prefixed, "t-1", "User:a", Write, Allow), rule(Topic, Prefixed, "t-", "User:a", Write, Deny)}, Silent},
		"a prefix beside a denied one": {[]Rule{rule(Topic, Prefixed, "t-1", "User:a", Write, Allow), rule(Topic, Prefixed, "t-2", "User:a", Write, Deny)}, Granted},
		"allowed everywhere to others": {[]Rule{rule(Topic, Literal, "*", "User:b", Write, Allow)}, Refused},
	} {
		if got := NewSet(c.rules).DecideAny("User:a", "h", Write, Topic); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// DecideAll is the worst of all names.
func TestDecideAll(t *testing.T) {
	for name, c := range map[string]struct {
		rules []Rule
		want  Decision
	}{
		"none":                   {nil, Silent},
		"one denied":             {[]Rule{rule(Topic, Literal, "*", "User:a", Read, Allow), rule(Topic, Literal, "t", "User:*", Read, Deny)}, Denied},
		"one prefix denied":      {[]Rule{rule(Topic, Literal, "*", "User:a", Read, Allow), rule(Topic, Prefixed, "t", "User:a", Read, Deny)}, Denied},
		"denied to another":      {[]Rule{rule(Topic, Literal, "*", "User:a", Read, Allow), rule(Topic, Literal, "t", "User:b", Read, Deny)}, Granted},
		"one is another's":       {[]Rule{rule(Topic, Literal, "t", "User:b", Read, Allow)}, Refused},
		"one is another's, too":  {[]Rule{rule(Topic, Literal, "*", "User:a", Read, Allow), rule(Topic, Literal, "t", "User:b", Read, Allow)}, Granted},
		"only one is allowed":    {[]Rule{rule(Topic, Literal, "t", "User:a", Read, Allow)}, Silent},
		"another kind of things": {[]Rule{rule(Group, Literal, "t", "User:*", Read, Deny)}, Silent},
	} {
		if got := NewSet(c.rules).DecideAll("User:a", "h", Read, Topic); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// S1, against a model that looks at every rule.
func TestDecideAgainstAModel(t *testing.T) {
	names := []string{"*", "a", "ab", "abc", "b", "abcd"}
	pick := func(from []string) string { return from[rand.IntN(len(from))] }
	for range 2000 {
		var rules []Rule
		for range rand.IntN(8) {
			r := rule(Topic, Pattern(3+rand.IntN(2)), pick(names), pick([]string{"User:a", "User:b", "User:*"}), Operation(2+rand.IntN(10)), Permission(2+rand.IntN(2)))
			r.Host = pick([]string{"*", "h1", "h2"})
			rules = append(rules, r)
		}
		who, host, op, name := pick([]string{"User:a", "User:b"}), pick([]string{"h1", "h2"}), Operation(3+rand.IntN(9)), pick(names[1:])
		want := Silent
		denies := false
		for _, r := range rules {
			about := r.Pattern == Literal && (r.Name == name || r.Name == "*") || r.Pattern == Prefixed && strings.HasPrefix(name, r.Name)
			if !about {
				continue
			}
			want = max(want, Refused)
			if r.Principal != who && r.Principal != Everyone || r.Host != "*" && r.Host != host {
				continue
			}
			if r.Permission == Deny && (r.Operation == op || r.Operation == All) {
				denies = true
			}
			e := entry{op: r.Operation}
			if r.Permission == Allow && e.allows(op) {
				want = Granted
			}
		}
		if denies {
			want = Denied
		}
		if got := NewSet(rules).Decide(who, host, op, Topic, name); got != want {
			t.Fatalf("%s from %s, operation %d on %q: %d, want %d; rules %v", who, host, op, name, got, want, rules)
		}
	}
}

func TestFilter(t *testing.T) {
	rules := []Rule{
		rule(Topic, Literal, "abc", "User:a", Read, Allow),
		rule(Topic, Prefixed, "ab", "User:a", Read, Allow),
		rule(Topic, Literal, "*", "User:b", Read, Deny),
		rule(Group, Literal, "abc", "User:a", Read, Allow),
	}
	all := Filter{Resource: AnyResource, Pattern: AnyPattern, Operation: AnyOperation, Permission: AnyPermission}
	with := func(change func(*Filter)) Filter { f := all; change(&f); return f }
	for name, c := range map[string]struct {
		f    Filter
		want string
	}{
		"all":             {all, "[0 1 2 3]"},
		"topics":          {with(func(f *Filter) { f.Resource = Topic }), "[0 1 2]"},
		"name, any":       {with(func(f *Filter) { f.Name = new("abc") }), "[0 3]"},
		"name, match":     {with(func(f *Filter) { f.Name, f.Pattern = new("abc"), MatchPattern }), "[0 1 2 3]"},
		"name, literal":   {with(func(f *Filter) { f.Name, f.Pattern = new("ab"), Literal }), "[]"},
		"name, prefixed":  {with(func(f *Filter) { f.Name, f.Pattern = new("ab"), Prefixed }), "[1]"},
		"wildcard, match": {with(func(f *Filter) { f.Name, f.Pattern = new("*"), MatchPattern }), "[2]"},
		"principal":       {with(func(f *Filter) { f.Principal = new("User:b") }), "[2]"},
		"denials":         {with(func(f *Filter) { f.Permission = Deny }), "[2]"},
		"host":            {with(func(f *Filter) { f.Host = new("10.0.0.1") }), "[]"},
	} {
		got := []int{}
		for i := range rules {
			if c.f.Chooses(&rules[i]) {
				got = append(got, i)
			}
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
	if err := new(Filter).Validate(); !errors.Is(err, ErrInvalid) {
		t.Errorf("a filter of nothing: %v", err)
	}
}

func TestRulesThatAreNone(t *testing.T) {
	good := rule(Topic, Literal, "t", "User:a", Read, Allow)
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Rule){
		"resource":        func(r *Rule) { r.Resource = 6 },
		"any resource":    func(r *Rule) { r.Resource = AnyResource },
		"pattern":         func(r *Rule) { r.Pattern = MatchPattern },
		"operation":       func(r *Rule) { r.Operation = AnyOperation },
		"later operation": func(r *Rule) { r.Operation = 13 },
		"permission":      func(r *Rule) { r.Permission = AnyPermission },
		"no name":         func(r *Rule) { r.Name = "" },
		"long name":       func(r *Rule) { r.Name = strings.Repeat("x", MaxName+1) },
		"no text":         func(r *Rule) { r.Name = "\xff" },
		"cluster":         func(r *Rule) { r.Resource = Cluster },
		"group principal": func(r *Rule) { r.Principal = "Group:a" },
		"no user":         func(r *Rule) { r.Principal = "User:" },
		"no host":         func(r *Rule) { r.Host = "" },
		"long host":       func(r *Rule) { r.Host = strings.Repeat("x", MaxHost+1) },
	} {
		r := good
		change(&r)
		if err := r.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyRules() *Set {
	var rules []Rule
	for i := range MaxRules - 2 {
		rules = append(rules, rule(Topic, Literal, fmt.Sprintf("topic-%d", i%500), fmt.Sprintf("User:u%d", i), Read, Allow))
	}
	rules = append(rules, rule(Topic, Prefixed, "topic-", "User:a", Write, Allow), rule(Topic, Literal, "*", "User:*", Delete, Deny))
	return NewSet(rules)
}

// S3.
func TestDecideAllocatesNothing(t *testing.T) {
	s := manyRules()
	if n := testing.AllocsPerRun(100, func() {
		if s.Decide("User:a", "10.0.0.1", Write, Topic, "topic-17") != Granted {
			t.Error("not granted")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	s := manyRules()
	b.ReportAllocs()
	for b.Loop() {
		s.Decide("User:a", "10.0.0.1", Write, Topic, "topic-17")
	}
}
