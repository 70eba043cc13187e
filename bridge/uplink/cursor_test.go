package uplink

import (
	"math/rand/v2"
	"testing"

	"github.com/weir-io/weir/log"
)

// A cursor agrees with a set of offsets, whatever is confirmed in whatever order.
func TestCursorIsASetOfOffsets(t *testing.T) {
	const offsets = 64
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var c, other Cursor
		var set, otherSet [offsets]bool
		for range 1 + rng.IntN(20) {
			s := Span{From: log.Offset(rng.IntN(offsets))}
			s.To = s.From + log.Offset(rng.IntN(offsets-int(s.From)+1))
			to, in := &c, &set
			if rng.IntN(3) == 0 {
				to, in = &other, &otherSet
			}
			to.Confirm(s)
			for o := s.From; o < s.To; o++ {
				in[o] = true
			}
		}
		check := func(c Cursor, set [offsets]bool) {
			t.Helper()
			held := func(o log.Offset) bool { m := c.Missing(o, o+1); return m.From >= m.To || m.From > o }
			lag := int64(0)
			for o := range log.Offset(offsets) {
				if held(o) != set[o] {
					t.Fatalf("seed %d: offset %d is %v in %+v", seed, o, held(o), c)
				}
				if !set[o] {
					lag++
				}
			}
			if c.Lag(offsets) != lag {
				t.Fatalf("seed %d: lag %d of %+v, want %d", seed, c.Lag(offsets), c, lag)
			}
			if p, err := parseProgress(progress{Cursor: c}.encode()); err != nil || !p.Covers(c) || !c.Covers(p.Cursor) {
				t.Fatalf("seed %d: stored and read %+v as %+v: %v", seed, c, p, err)
			}
		}
		check(c, set)
		check(other, otherSet)
		covers := true
		for o := range set {
			covers = covers && (set[o] || !otherSet[o])
		}
		if c.Covers(other) != covers {
			t.Fatalf("seed %d: %+v covers %+v: %v, want %v", seed, c, other, !covers, covers)
		}
		c.Merge(other)
		for o := range set {
			set[o] = set[o] || otherSet[o]
		}
		check(c, set)
	}
}

// Whatever stands in a store or at a target is refused or is a cursor.
func FuzzParseProgress(f *testing.F) {
	f.Add([]byte(`{"topic":"t","partition":1,"next":5,"ahead":[{"from":7,"to":9}],"at":1}`))
	f.Add([]byte(`{"next":-1}`))
	f.Add([]byte(`{"next":5,"ahead":[{"from":5,"to":9}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseProgress(b)
		if err != nil {
			return
		}
		last := p.Next
		for i, s := range p.Ahead {
			if s.From < last || i > 0 && s.From == last || s.From >= s.To {
				t.Fatalf("%s was read as %+v", b, p)
			}
			last = s.To
		}
	})
}
