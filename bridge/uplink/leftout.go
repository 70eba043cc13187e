package uplink

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/weir-io/weir/log"
)

// LeftOutHeader of a carried record says what was left out by rule before it and told nowhere yet: `120-218 filtered=50 thinned=49`, several separated by commas. Of the
// offsets of such a range all records were left out; the counts say how many and why. Behind weir.origin nobody but this cluster has written.
const LeftOutHeader = "weir.left-out"

// reason is why a record is left out.
type reason byte

const (
	carried  reason = iota
	filtered        // the lane's filter is false
	thinned         // a later one of its key is carried, or it is not the n-th
	averaged        // a record that stands for several has it in its figures
	noRoom          // the log had no room for it, and a later one of its key was kept
)

// leftOut is a span of offsets of which nothing was carried, and how many records of it for which reason. Offsets at which there is nothing to carry may lie in it.
type leftOut struct {
	Span
	Filtered int64 `json:"filtered,omitempty"`
	Thinned  int64 `json:"thinned,omitempty"`
	Averaged int64 `json:"averaged,omitempty"`
	Full     int64 `json:"full,omitempty"`
}

func (l *leftOut) count(why reason, n int64) {
	switch why {
	case filtered:
		l.Filtered += n
	case thinned:
		l.Thinned += n
	case averaged:
		l.Averaged += n
	case noRoom:
		l.Full += n
	}
}

// records is how many were left out.
func (l *leftOut) records() int64 { return l.Filtered + l.Thinned + l.Averaged + l.Full }

// add takes the counts of another.
func (l *leftOut) add(o *leftOut) {
	l.Filtered, l.Thinned, l.Averaged, l.Full = l.Filtered+o.Filtered, l.Thinned+o.Thinned, l.Averaged+o.Averaged, l.Full+o.Full
}

// account is what was left out of a partition and is told nowhere yet: by the next record that is carried, until then by the cursor. Its spans do not touch. It is small: what
// lies between two of them was carried out of order, in a lane with order live_first.
type account []leftOut

// maxAccount bounds its spans. It takes as many outages with nothing to carry between them; then the first two become one, over what was carried.
const maxAccount = 64

// pass says that there was nothing to carry in a span.
func (a account) pass(s Span) {
	for i := range a {
		if a[i].To == s.From {
			a[i].To = max(a[i].To, s.To)
		}
	}
}

// leave adds a record.
func (a *account) leave(at log.Offset, why reason) { a.leaveAll(Span{at, at + 1}, why) }

// leaveAll adds as many records as the span has offsets.
func (a *account) leaveAll(s Span, why reason) {
	i := 0
	for i < len(*a) && (*a)[i].To != s.From {
		i++
	}
	if i == len(*a) {
		if *a = append(*a, leftOut{Span: Span{s.From, s.From}}); i == maxAccount {
			i = a.shrink()
		}
	}
	l := &(*a)[i]
	l.To = max(l.To, s.To)
	l.count(why, int64(s.To-s.From))
	for j := range *a { // it may have met another that was told of later
		if o := &(*a)[j]; j != i && o.From == l.To {
			o.From = l.From
			o.add(l)
			*a = append((*a)[:i], (*a)[i+1:]...)
			return
		}
	}
}

// shrink makes one span of the first two, and says where the one is now that was the last.
func (a *account) shrink() int {
	last := (*a)[len(*a)-1].From
	slices.SortFunc(*a, func(x, y leftOut) int { return cmp.Compare(x.From, y.From) })
	one, two := &(*a)[0], &(*a)[1]
	two.From = one.From
	two.add(one)
	*a = slices.Delete(*a, 0, 1)
	return slices.IndexFunc(*a, func(l leftOut) bool { return l.From <= last && last <= l.To })
}

// text is the header's value; offsets are inclusive there.
func (a account) text() []byte {
	var b []byte
	for i, l := range a {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, int64(l.From), 10)
		b = strconv.AppendInt(append(b, '-'), int64(l.To-1), 10)
		for _, n := range []struct {
			why string
			of  int64
		}{{" filtered=", l.Filtered}, {" thinned=", l.Thinned}, {" averaged=", l.Averaged}, {" full=", l.Full}} {
			if n.of > 0 {
				b = strconv.AppendInt(append(b, n.why...), n.of, 10)
			}
		}
	}
	return b
}

// check refuses what a stored account cannot have.
func (a account) check() error {
	if len(a) > maxAccount {
		return fmt.Errorf("a stored cursor is none: %d spans left out", len(a))
	}
	for _, l := range a {
		if n := l.records(); l.From < 0 || l.To <= l.From || min(l.Filtered, l.Thinned, l.Averaged, l.Full) < 0 || n > int64(l.To-l.From) {
			return fmt.Errorf("a stored cursor is none: %d to %d left out, %d records", l.From, l.To, n)
		}
	}
	return nil
}
