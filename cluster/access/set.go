package access

import "slices"

// Decision is what the rules say of one wish.
type Decision int8

const (
	Denied  Decision = iota - 1 // by a rule, which no other overrules
	Silent                      // no rule is about the resource
	Refused                     // those that there are allow other things, or others
	Granted
)

// Set answers for rules. It does not change once it is made (S3); nil is a set without rules.
type Set struct {
	rules []Rule
	kinds [TransactionalID + 1]kindRules
}

// kindRules are the rules about one kind of resource.
type kindRules struct {
	literal map[string]byPrincipal
	prefix  map[string]byPrincipal
	lengths []int // of the prefixes, each once
}

type byPrincipal map[string][]entry

type entry struct {
	host string
	op   Operation
	deny bool
}

// NewSet indexes rules, which are kept.
func NewSet(rules []Rule) *Set {
	s := &Set{rules: rules}
	for i := range rules {
		r := &rules[i]
		k := &s.kinds[r.Resource]
		names := &k.literal
		if r.Pattern == Prefixed {
			names = &k.prefix
			if !slices.Contains(k.lengths, len(r.Name)) {
				k.lengths = append(k.lengths, len(r.Name))
			}
		}
		if *names == nil {
			*names = map[string]byPrincipal{}
		}
		if (*names)[r.Name] == nil {
			(*names)[r.Name] = byPrincipal{}
		}
		by := (*names)[r.Name]
		by[r.Principal] = append(by[r.Principal], entry{r.Host, r.Operation, r.Permission == Deny})
	}
	return s
}

// Rules are those of the set, in its order. Do not write to them.
func (s *Set) Rules() []Rule {
	if s == nil {
		return nil
	}
	return s.rules
}

// Decide says whether principal may do op to the named resource from host (S1). It does not allocate.
func (s *Set) Decide(principal, host string, op Operation, kind Resource, name string) Decision {
	if s == nil || len(s.rules) == 0 {
		return Silent
	}
	k := &s.kinds[kind]
	d := Silent
	if d = d.with(k.literal[name], principal, host, op); d == Denied {
		return Denied
	}
	if name != Wildcard {
		if d = d.with(k.literal[Wildcard], principal, host, op); d == Denied {
			return Denied
		}
	}
	for _, n := range k.lengths {
		if n > len(name) {
			continue
		}
		if d = d.with(k.prefix[name[:n]], principal, host, op); d == Denied {
			return Denied
		}
	}
	return d
}

// with is d with the rules of one name in view.
func (d Decision) with(by byPrincipal, principal, host string, op Operation) Decision {
	if by == nil {
		return d
	}
	d = max(d, Refused)
	for _, p := range [2]string{principal, Everyone} {
		for i := range by[p] {
			e := &by[p][i]
			switch {
			case e.host != Wildcard && e.host != host:
			case e.deny && (e.op == op || e.op == All):
				return Denied
			case !e.deny && e.allows(op):
				d = Granted
			}
		}
	}
	return d
}

func (e *entry) allows(op Operation) bool {
	if e.op == op || e.op == All {
		return true
	}
	switch op {
	case Describe:
		return e.op == Read || e.op == Write || e.op == Delete || e.op == Alter
	case DescribeConfigs:
		return e.op == AlterConfigs
	}
	return false
}

// DecideAny says whether principal may do op to some resource of the kind: what one needs who has not named one yet.
func (s *Set) DecideAny(principal, host string, op Operation, kind Resource) Decision {
	if s == nil {
		return Silent
	}
	k := &s.kinds[kind]
	if Silent.with(k.literal[Wildcard], principal, host, op) == Denied {
		return Denied
	}
	for _, names := range []map[string]byPrincipal{k.literal, k.prefix} {
		for name := range names {
			if Silent.with(names[name], principal, host, op) == Granted && s.Decide(principal, host, op, kind, name) == Granted {
				return Granted
			}
		}
	}
	if s.Decide(principal, host, op, kind, Wildcard) == Silent {
		return Silent
	}
	return Refused
}

// DecideAll says whether principal may do op to all resources of the kind: the worst that Decide says of any name, where what no rule is about is Silent.
func (s *Set) DecideAll(principal, host string, op Operation, kind Resource) Decision {
	if s == nil {
		return Silent
	}
	k, worst := &s.kinds[kind], s.Decide(principal, host, op, kind, Wildcard)
	for _, names := range []map[string]byPrincipal{k.literal, k.prefix} {
		for name := range names {
			switch d := s.Decide(principal, host, op, kind, name); {
			case d == Denied:
				return Denied
			case d == Refused:
				worst = Refused
			}
		}
	}
	return worst
}
