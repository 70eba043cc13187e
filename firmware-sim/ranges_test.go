package firmwaresim

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

// TestRangesAgainstModel compares every operation with a plain map of numbers.
func TestRangesAgainstModel(t *testing.T) {
	const top = 40
	rapid.Check(t, func(t *rapid.T) {
		build := func(name string) (*Ranges, map[int64]bool) {
			s, model := &Ranges{}, map[int64]bool{}
			for range rapid.IntRange(0, 30).Draw(t, name+" ops") {
				first := rapid.Int64Range(0, top).Draw(t, "first")
				next := first + rapid.Int64Range(0, 6).Draw(t, "n")
				var fresh int64
				for v := first; v < next; v++ {
					if !model[v] {
						fresh++
					}
					model[v] = true
				}
				if got := s.AddRange(first, next); got != fresh {
					t.Fatalf("AddRange(%d, %d) = %d, want %d", first, next, got, fresh)
				}
			}
			return s, model
		}
		s, model := build("s")
		o, other := build("o")

		if int(s.Len()) != len(model) {
			t.Fatalf("Len = %d, want %d", s.Len(), len(model))
		}
		for i, r := range s.r {
			if r.First >= r.Next || i > 0 && r.First <= s.r[i-1].Next {
				t.Fatalf("intervals are not sorted and apart: %v", s.r)
			}
		}
		_, next := s.Bounds()
		gaps, minus := members(s.Gaps(0)), members(s.Minus(o))
		for v := int64(0); v < top+10; v++ {
			if s.Contains(v) != model[v] {
				t.Fatalf("Contains(%d) = %v", v, !model[v])
			}
			if want := v < next && !model[v]; gaps[v] != want {
				t.Fatalf("gap at %d = %v, want %v", v, gaps[v], want)
			}
			if want := model[v] && !other[v]; minus[v] != want {
				t.Fatalf("Minus has %d = %v, want %v", v, minus[v], want)
			}
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Ranges
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if len(back.Minus(s)) != 0 || len(s.Minus(&back)) != 0 {
			t.Fatalf("%s came back as %v", b, back)
		}
	})
}

func members(rs []Range) map[int64]bool {
	m := map[int64]bool{}
	for _, r := range rs {
		for v := r.First; v < r.Next; v++ {
			m[v] = true
		}
	}
	return m
}

func TestRangesInOrderCostOneInterval(t *testing.T) {
	var s Ranges
	for v := int64(0); v < 100_000; v++ {
		s.Add(v)
	}
	if s.Intervals() != 1 {
		t.Errorf("%d intervals", s.Intervals())
	}
	if err := json.Unmarshal([]byte(`[[5,5]]`), &s); err == nil {
		t.Error("an empty interval was accepted")
	}
}
