package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// A machine is a set of states with a successor relation. A state is a flat value without pointers; what does not matter in it
// is zero, so that equal states are equal values.
type machine[S comparable] interface {
	start() S
	// next calls emit once for each step that can be taken, always in the same order.
	next(s *S, emit func(step, *S))
	// broken names the invariant that s breaks, or is empty.
	broken(s *S) string
	// same gives the value under which s is remembered: equal for states that differ only in the names of brokers.
	same(s *S) uint64
	show(s *S) string
}

// step says what happened; kind is an index into a machine's table of sentences, a, b and c fill it.
type step struct {
	kind    kind
	a, b, c uint8
}

// found is the result of a search.
type found struct {
	states int
	depth  int    // steps from the start to the farthest state
	whole  bool   // every reachable state was seen
	broken string // the invariant broken first, by breadth: the trace is a shortest one
	trace  []string
}

func (f found) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d states, depth %d, whole=%t", f.states, f.depth, f.whole)
	if f.broken != "" {
		fmt.Fprintf(&b, "\n%s, after %d steps:", f.broken, len(f.trace))
		for i, line := range f.trace {
			fmt.Fprintf(&b, "\n%3d  %s", i+1, line)
		}
	}
	return b.String()
}

// origin is how a state was first reached: the ordinal-th successor of parent. Traces are replayed from it, so that states need
// not be kept.
type origin struct {
	parent  uint32
	ordinal uint16
}

// explore searches breadth first, until an invariant breaks, every state was seen, or limit states were. Seen states are remembered by
// a 64-bit hash: two of n states fall together with a chance of n²/2⁶⁵, 10⁻⁵ at 20 million, and then the rest
// behind one of them is not searched.
func explore[S comparable](m machine[S], limit int) found {
	first := m.start()
	seen := newSeen()
	seen.add(m.same(&first))
	origins := []origin{{}}
	f := found{states: 1, whole: true}
	level, firstID := []S{first}, uint32(0)
	var upcoming []S
	for ; len(level) > 0; level, upcoming = upcoming, level[:0] {
		levelID := firstID
		firstID = uint32(len(origins))
		for i := range level {
			id, ordinal := levelID+uint32(i), uint16(0)
			m.next(&level[i], func(_ step, n *S) {
				ordinal++
				if f.broken != "" {
					return
				}
				why := m.broken(n)
				if !seen.add(m.same(n)) && why == "" {
					return
				}
				if len(origins) >= limit && why == "" {
					f.whole = false
					return
				}
				origins = append(origins, origin{id, ordinal - 1})
				upcoming = append(upcoming, *n)
				if why != "" {
					f.broken = why
					f.trace = replay(m, origins)
				}
			})
			if f.broken != "" {
				f.states = len(origins)
				f.whole = false
				return f
			}
		}
		f.states = len(origins)
		if len(upcoming) > 0 {
			f.depth++
		}
	}
	return f
}

// replay walks to the newest state and tells the way.
func replay[S comparable](m machine[S], origins []origin) []string {
	var path []uint16
	for id := uint32(len(origins) - 1); id != 0; id = origins[id].parent {
		path = append(path, origins[id].ordinal)
	}
	var lines []string
	s := m.start()
	for i := len(path) - 1; i >= 0; i-- {
		var ordinal uint16
		var taken S
		var label step
		m.next(&s, func(st step, n *S) {
			if ordinal == path[i] {
				taken, label = *n, st
			}
			ordinal++
		})
		s = taken
		lines = append(lines, fmt.Sprintf("%-44s %s", label, m.show(&s)))
	}
	return lines
}

// seen is a set of hashes with open addressing: a map costs three times the memory.
type seenSet struct {
	slots []uint64
	n     int
}

func newSeen() *seenSet { return &seenSet{slots: make([]uint64, 1<<16)} }

// add answers whether h is new.
func (s *seenSet) add(h uint64) bool {
	if h == 0 {
		h = 1
	}
	if s.n*3 > len(s.slots)*2 {
		old := s.slots
		s.slots, s.n = make([]uint64, 2*len(old)), 0
		for _, o := range old {
			if o != 0 {
				s.add(o)
			}
		}
	}
	for i := h & uint64(len(s.slots)-1); ; i = (i + 1) & uint64(len(s.slots)-1) {
		switch s.slots[i] {
		case h:
			return false
		case 0:
			s.slots[i] = h
			s.n++
			return true
		}
	}
}

var hashSeed = maphash.MakeSeed()
