package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

// What the uplink's rules leave out, as it is told at the target: in headers behind the origin of records that have arrived, and in the cursor what no record has told yet.

const (
	leftOutHeader  = "weir.left-out" // 120-218 filtered=50 thinned=49, …
	fieldsHeader   = "weir.fields"   // ts,temp
	averagedHeader = "weir.averaged" // 12
	maxFieldLists  = 255
)

// toldSpan is a range of offsets of which all records were left out, and how many of them why.
type toldSpan struct {
	From     int64 `json:"from"`
	To       int64 `json:"to"` // exclusive
	Filtered int64 `json:"filtered"`
	Thinned  int64 `json:"thinned"`
	Averaged int64 `json:"averaged"`
	Full     int64 `json:"full"` // given up for room: they are not here, unless another replica has them
}

func (s *toldSpan) records() int64 { return s.Filtered + s.Thinned + s.Averaged + s.Full }

// parseTold reads the header.
func parseTold(text string) (all []toldSpan, err error) {
	for one := range strings.SplitSeq(text, ", ") {
		words := strings.Fields(one)
		if len(words) < 2 {
			return nil, fmt.Errorf("%q is no range with counts", one)
		}
		var s toldSpan
		first, last, _ := strings.Cut(words[0], "-")
		var errs [2]error
		s.From, errs[0] = strconv.ParseInt(first, 10, 64)
		s.To, errs[1] = strconv.ParseInt(last, 10, 64)
		s.To++
		for _, w := range words[1:] {
			why, count, _ := strings.Cut(w, "=")
			n, err := strconv.ParseInt(count, 10, 64)
			switch {
			case err != nil || n < 0:
				return nil, fmt.Errorf("%q is no count", w)
			case why == "filtered":
				s.Filtered = n
			case why == "thinned":
				s.Thinned = n
			case why == "averaged":
				s.Averaged = n
			case why == "full":
				s.Full = n
			default:
				return nil, fmt.Errorf("%q is no reason", w)
			}
		}
		if errors.Join(errs[:]...) != nil || s.check() != nil {
			return nil, fmt.Errorf("%q is no range with counts", one)
		}
		all = append(all, s)
	}
	return all, nil
}

func (s *toldSpan) check() error {
	if s.From < 0 || s.To <= s.From || s.To-s.From > int64(maxCarriedPages)*pageOffsets || min(s.Filtered, s.Thinned, s.Averaged, s.Full) < 0 || max(s.Filtered, s.Thinned, s.Averaged, s.Full) > s.To-s.From ||
		s.records() > s.To-s.From {
		return fmt.Errorf("%d to %d with %d records is no range that was left out", s.From, s.To, s.records())
	}
	return nil
}

// offsetSet is a set of offsets by pages of bits; those that hold all of their page are one.
type offsetSet map[int64]*[pageOffsets / 64]uint64

var allOffsets = func() *[pageOffsets / 64]uint64 {
	var p [pageOffsets / 64]uint64
	for i := range p {
		p[i] = ^uint64(0)
	}
	return &p
}()

// add puts a range in, and says for how many pages: a whole one costs its place only, and counts all the same.
func (s offsetSet) add(from, to int64) (pages int) {
	for n := from / pageOffsets; n <= (to-1)/pageOffsets; n++ {
		first, next := max(from, n*pageOffsets)-n*pageOffsets, min(to, (n+1)*pageOffsets)-n*pageOffsets
		p := s[n]
		if p == allOffsets {
			continue
		}
		if p == nil && next-first == pageOffsets {
			s[n] = allOffsets
			pages++
			continue
		}
		if p == nil {
			p = &[pageOffsets / 64]uint64{}
			s[n] = p
			pages++
		}
		for w := first / 64; w <= (next-1)/64; w++ {
			mask := ^uint64(0) << max(0, first-w*64)
			if end := next - w*64; end < 64 {
				mask &= 1<<end - 1
			}
			p[w] |= mask
		}
	}
	return pages
}

func (s offsetSet) has(offset int64) bool {
	p := s[offset/pageOffsets]
	i := offset % pageOffsets
	return p != nil && p[i/64]&(1<<(i%64)) != 0
}

// leftOut is what of one partition was left out on purpose: which offsets, how many records the target was told of, and how many the source has there. It is pure.
type leftOut struct {
	told   offsetSet
	counts toldSpan // of all that was told; From and To mean nothing
	claims int64    // records that may be found there
	found  int64    // records of the source there
	means  offsetSet
	stands int64 // records that means say to stand for
	lists  []string
	pages  map[int64]*fieldPage
	used   int // pages of memory
}

// fieldPage says to which fields records of 65,536 offsets were reduced, as an index into the lists: the same for all as a rule.
type fieldPage struct {
	list  byte
	mixed []byte
}

func newLeftOut() *leftOut {
	return &leftOut{told: offsetSet{}, means: offsetSet{}, lists: []string{""}, pages: map[int64]*fieldPage{}}
}

// tell notes a span. Of what the source has deleted, below start, nothing is found there. What was told before, over another connection, is not counted again.
func (l *leftOut) tell(s toldSpan, start int64) {
	again := l.told.has(s.From) || l.told.has(s.To-1)
	if l.used += l.told.add(s.From, s.To); again {
		return
	}
	l.counts.Filtered += s.Filtered
	l.counts.Thinned += s.Thinned
	l.counts.Averaged += s.Averaged
	l.counts.Full += s.Full
	l.claims += min(s.records(), max(s.To-max(s.From, start), 0))
}

// average notes a record that stands for several; false when it is there already.
func (l *leftOut) average(first, count int64) bool {
	l.stands += count
	again := l.means.has(first)
	l.used += l.means.add(first, first+1)
	return !again
}

// reduced notes which fields a record has kept; alone says that it is the first of its page.
func (l *leftOut) reduced(offset int64, names string, alone bool) error {
	i := slices.Index(l.lists, names)
	if i < 0 {
		if i = len(l.lists); i > maxFieldLists {
			return failf("more than %d different lists of fields at the target", maxFieldLists)
		}
		l.lists = append(l.lists, names)
	}
	n := offset / pageOffsets
	p := l.pages[n]
	if p == nil {
		if i == 0 {
			return nil
		}
		p = &fieldPage{}
		if l.pages[n] = p; alone {
			p.list = byte(i)
		}
	}
	if p.mixed == nil {
		if p.list == byte(i) {
			return nil
		}
		p.mixed = slices.Repeat([]byte{p.list}, pageOffsets)
		l.used += 8 // as large as so many others
	}
	p.mixed[offset%pageOffsets] = byte(i)
	return nil
}

// fields is what reduced has noted.
func (l *leftOut) fields(offset int64) string {
	p := l.pages[offset/pageOffsets]
	switch {
	case p == nil:
		return ""
	case p.mixed != nil:
		return l.lists[p.mixed[offset%pageOffsets]]
	}
	return l.lists[p.list]
}

// unaccounted is how many records are not where the target was told that so and so many are not: in what was left out lie more of them, or means are gone.
func (l *leftOut) unaccounted() int64 {
	return max(l.found-l.claims, 0) + max(l.counts.Averaged-l.stands, 0)
}

// reduce is what a payload becomes that keeps some fields, in this program's own words: an object of them in the order in which they are named, values as they stand.
func reduce(value []byte, names string) ([]byte, error) {
	list := strings.Split(names, ",")
	var out []byte
	if trimmed := strings.TrimLeft(string(value), " \t\r\n"); strings.HasPrefix(trimmed, "{") {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(value, &object); err != nil {
			return nil, err
		}
		for _, name := range list {
			if v, ok := object[name]; ok {
				out = append(append(append(out, `,"`+name+`":`...), v...), ""...)
			}
		}
		if len(out) == 0 {
			return []byte("{}"), nil
		}
		out[0] = '{'
		return append(out, '}'), nil
	}
	var object map[string]cbor.RawMessage
	if err := cbor.Unmarshal(value, &object); err != nil {
		return nil, err
	}
	n := 0
	for _, name := range list {
		v, ok := object[name]
		if !ok {
			continue
		}
		text, err := cbor.Marshal(name)
		if err != nil {
			return nil, err
		}
		out = append(append(out, text...), v...)
		n++
	}
	if n < 24 {
		return append([]byte{0xa0 | byte(n)}, out...), nil
	}
	return append([]byte{0xb8, byte(n)}, out...), nil
}

// ours takes from a record of the target what the uplink has put behind the last origin; the record keeps what was before.
func ours(r *kgo.Record) []kgo.RecordHeader {
	for i, h := range slices.Backward(r.Headers) {
		if h.Key == originHeader {
			own := r.Headers[i+1:]
			r.Headers = r.Headers[:i+1]
			return own
		}
	}
	return nil
}

// tellRules notes what the uplink says with a record that has arrived; it says whether the record stands for several, and is none of the source's.
func (v *verification) tellRules(topic string, r *kgo.Record, own []kgo.RecordHeader) (stands bool, err error) {
	at, offset, single := v.originOf(r)
	first, last := offset, offset
	if !single {
		if at, first, last, stands = v.spanOf(r); !stands {
			return false, nil
		}
	}
	c := v.parts[at]
	if at.topic != topic || c == nil {
		return false, nil
	}
	count, list := int64(0), ""
	for _, h := range own {
		switch h.Key {
		case leftOutHeader:
			spans, err := parseTold(string(h.Value))
			if err != nil {
				return false, fmt.Errorf("partition %d, offset %d: the header %s: %w", r.Partition, r.Offset, h.Key, err)
			}
			for _, s := range spans {
				if err := v.tell(c, s, v.starts[at]); err != nil {
					return false, err
				}
			}
		case fieldsHeader:
			list = string(h.Value)
		case averagedHeader:
			count, _ = strconv.ParseInt(string(h.Value), 10, 64)
		}
	}
	before := c.rules.used
	if stands {
		if count < 2 || count > last-first+1 {
			return false, fmt.Errorf("partition %d, offset %d: the header %s does not fit %d to %d", r.Partition, r.Offset, averagedHeader, first, last)
		}
		if !c.rules.average(first, count) {
			c.duplicates.add(first)
		}
	} else if err := c.rules.reduced(offset, list, c.pages[offset/pageOffsets] == nil); err != nil {
		return false, err
	}
	v.pages += c.rules.used - before
	return stands, v.tooMany()
}

// spanOf reads the origin of a record that stands for several.
func (v *verification) spanOf(r *kgo.Record) (at origin, first, last int64, ok bool) {
	if len(r.Headers) == 0 {
		return at, 0, 0, false
	}
	f := strings.Split(string(r.Headers[len(r.Headers)-1].Value), "/")
	if len(f) != 4 || f[0] != v.plan.Cluster {
		return at, 0, 0, false
	}
	p, err := strconv.ParseInt(f[2], 10, 32)
	a, b, _ := strings.Cut(f[3], "-")
	first, errFirst := strconv.ParseInt(a, 10, 64)
	last, errLast := strconv.ParseInt(b, 10, 64)
	return origin{f[1], int32(p)}, first, last, errors.Join(err, errFirst, errLast) == nil && first >= 0 && last > first
}

// tellCursors notes what the cursors say to be left out, the target's and those that are stored here, once the records have told: what one of them has told since stands in an
// older cursor too.
func (v *verification) tellCursors(topic string) error {
	for _, cursors := range []map[origin]confirmedOffsets{v.cursors, v.noted} {
		for at, c := range cursors {
			p := v.parts[at]
			if p == nil || at.topic != topic {
				continue
			}
			for _, s := range c.Left {
				if s.check() != nil || p.rules.told.has(s.From) {
					continue
				}
				if err := v.tell(p, s, v.starts[at]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tell notes a span that was left out.
func (v *verification) tell(c *carried, s toldSpan, start int64) error {
	before := c.rules.used
	c.rules.tell(s, start)
	v.pages += c.rules.used - before
	return v.tooMany()
}

// asCarried is a record of the source as the uplink had to carry it.
func (v *verification) asCarried(at origin, r *kgo.Record) *kgo.Record {
	names := v.parts[at].rules.fields(r.Offset)
	if names == "" {
		return r
	}
	value, err := reduce(r.Value, names)
	if err != nil {
		return r // it cannot have been: the two will differ
	}
	to := *r
	to.Value = value
	return &to
}

// unaccounted is for exactly_once only: else what was sent twice may be told twice.
func (v *verification) unaccounted(c *carried) int64 {
	if v.plan.Guarantee != exactlyOnce {
		return 0
	}
	return c.rules.unaccounted()
}

// leftOutColumn gives a row of a table without that column where no lane leaves anything out.
func leftOutColumn[T any](rules bool, column int, row ...T) []T {
	if rules {
		return row
	}
	return slices.Delete(row, column, column+1)
}
