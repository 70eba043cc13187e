package firmwaresim

import (
	"encoding/json"
	"fmt"
	"sort"
)

// Ranges is a set of sequence numbers kept as sorted, disjoint, non-touching half-open intervals, so that millions of
// numbers with few holes take a few bytes. The zero value is empty. Its JSON form is [[first,next],…].
type Ranges struct{ r []Range }

// Range is the half-open interval [First, Next).
type Range struct{ First, Next int64 }

// Add puts v into the set and reports whether it was new. Appending in order is O(1), anything else O(log n) to find
// and O(n) to insert, where n counts intervals.
func (s *Ranges) Add(v int64) bool { return s.AddRange(v, v+1) == 1 }

// AddRange puts [first, next) into the set and returns how many of its numbers were new.
func (s *Ranges) AddRange(first, next int64) int64 {
	if first >= next {
		return 0
	}
	if n := len(s.r); n > 0 && s.r[n-1].Next == first { // in order
		s.r[n-1].Next = next
		return next - first
	}
	// lo..hi are the intervals that touch or overlap the new one.
	lo := sort.Search(len(s.r), func(i int) bool { return s.r[i].Next >= first })
	hi := lo
	added := next - first
	merged := Range{first, next}
	for hi < len(s.r) && s.r[hi].First <= next {
		in := s.r[hi]
		if a, b := max(in.First, first), min(in.Next, next); b > a {
			added -= b - a
		}
		merged.First, merged.Next = min(merged.First, in.First), max(merged.Next, in.Next)
		hi++
	}
	if hi == lo {
		s.r = append(s.r, Range{})
		copy(s.r[lo+1:], s.r[lo:])
		s.r[lo] = merged
		return added
	}
	s.r[lo] = merged
	s.r = append(s.r[:lo+1], s.r[hi:]...)
	return added
}

// Contains reports whether v is in the set.
func (s *Ranges) Contains(v int64) bool {
	i := sort.Search(len(s.r), func(i int) bool { return s.r[i].Next > v })
	return i < len(s.r) && s.r[i].First <= v
}

// Len is the number of numbers in the set.
func (s *Ranges) Len() int64 {
	var n int64
	for _, r := range s.r {
		n += r.Next - r.First
	}
	return n
}

// Intervals is the number of intervals: what the set costs in memory.
func (s *Ranges) Intervals() int { return len(s.r) }

// Bounds returns the smallest number in the set and one past the greatest; both are 0 for an empty set.
func (s *Ranges) Bounds() (first, next int64) {
	if len(s.r) == 0 {
		return 0, 0
	}
	return s.r[0].First, s.r[len(s.r)-1].Next
}

// Gaps returns what is missing between first and the greatest number in the set.
func (s *Ranges) Gaps(first int64) []Range {
	var gaps []Range
	for _, r := range s.r {
		if r.Next <= first {
			continue
		}
		if r.First > first {
			gaps = append(gaps, Range{first, r.First})
		}
		first = r.Next
	}
	return gaps
}

// Minus returns the intervals of s that are not in t.
func (s *Ranges) Minus(t *Ranges) []Range {
	var out []Range
	j := 0
	for _, r := range s.r {
		for j < len(t.r) && t.r[j].Next <= r.First {
			j++
		}
		for k := j; r.First < r.Next; k++ {
			if k == len(t.r) || t.r[k].First >= r.Next {
				out = append(out, r)
				break
			}
			if t.r[k].First > r.First {
				out = append(out, Range{r.First, t.r[k].First})
			}
			r.First = max(r.First, t.r[k].Next)
		}
	}
	return out
}

// String names the interval's numbers inclusively, as people read them: "7" or "7-9".
func (r Range) String() string {
	if r.Next == r.First+1 {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Next-1)
}

// MarshalJSON writes [first,next].
func (r Range) MarshalJSON() ([]byte, error) { return json.Marshal([2]int64{r.First, r.Next}) }

// UnmarshalJSON reads [first,next].
func (r *Range) UnmarshalJSON(b []byte) error {
	var a [2]int64
	if err := json.Unmarshal(b, &a); err != nil {
		return err
	}
	if a[0] >= a[1] {
		return fmt.Errorf("sequence range [%d,%d] is empty", a[0], a[1])
	}
	r.First, r.Next = a[0], a[1]
	return nil
}

// MarshalJSON writes [[first,next],…].
func (s Ranges) MarshalJSON() ([]byte, error) {
	if s.r == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(s.r)
}

// UnmarshalJSON reads what MarshalJSON wrote, in any order.
func (s *Ranges) UnmarshalJSON(b []byte) error {
	var in []Range
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	s.r = nil
	for _, r := range in {
		s.AddRange(r.First, r.Next)
	}
	return nil
}
