package assign

import (
	"bytes"
	"cmp"
	"slices"
)

// TopicID is the id of a topic's incarnation.
type TopicID [16]byte

// Partition is one partition of a topic.
type Partition struct {
	Topic TopicID
	Index int32
}

// Compare orders by topic id, then number.
func (p Partition) Compare(q Partition) int {
	if c := bytes.Compare(p.Topic[:], q.Topic[:]); c != 0 {
		return c
	}
	return cmp.Compare(p.Index, q.Index)
}

// Set is partitions in order, each once. It is not changed once it is made, so
// that it can be shared.
type Set []Partition

// NewSet makes a set of partitions in any order, which it takes over.
func NewSet(ps []Partition) Set {
	slices.SortFunc(ps, Partition.Compare)
	return slices.Compact(ps)
}

// Has reports whether p is in the set.
func (s Set) Has(p Partition) bool {
	_, found := slices.BinarySearchFunc(s, p, Partition.Compare)
	return found
}

// Equal reports whether both hold the same.
func (s Set) Equal(t Set) bool { return slices.Equal(s, t) }

// Within reports whether all of s is in t.
func (s Set) Within(t Set) bool { return len(s.Minus(t)) == 0 }

// And is what is in both.
func (s Set) And(t Set) Set { return s.pick(t, true) }

// Minus is what is in s and not in t.
func (s Set) Minus(t Set) Set { return s.pick(t, false) }

// pick is what of s is in t, or is not. It returns s itself where that is all of it.
func (s Set) pick(t Set, in bool) Set {
	var out Set
	i := 0
	for n, p := range s {
		for i < len(t) && t[i].Compare(p) < 0 {
			i++
		}
		switch found := i < len(t) && t[i] == p; {
		case found != in && out == nil:
			out = slices.Clone(s[:n:n])
			if out == nil {
				out = Set{}
			}
		case found == in && out != nil:
			out = append(out, p)
		}
	}
	if out == nil {
		return s
	}
	return out
}

// Or is what is in either.
func (s Set) Or(t Set) Set {
	if len(t) == 0 {
		return s
	}
	return NewSet(append(slices.Clone(s), t...))
}

// ByTopic calls fn for each topic with its numbers, in order.
func (s Set) ByTopic(fn func(topic TopicID, indexes []int32)) {
	for len(s) > 0 {
		topic, n := s[0].Topic, 0
		for n < len(s) && s[n].Topic == topic {
			n++
		}
		indexes := make([]int32, n)
		for i := range indexes {
			indexes[i] = s[i].Index
		}
		fn(topic, indexes)
		s = s[n:]
	}
}
