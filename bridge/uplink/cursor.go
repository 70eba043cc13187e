package uplink

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/weir-io/weir/log"
)

// Span is a half-open range of offsets.
type Span struct {
	From log.Offset `json:"from"`
	To   log.Offset `json:"to"`
}

// Cursor is what of a partition the target has confirmed: everything below Next, and the spans Ahead of it, which rise and do not touch. The zero value has
// confirmed nothing.
type Cursor struct {
	Next  log.Offset `json:"next"`
	Ahead []Span     `json:"ahead,omitempty"`
}

// maxAhead bounds the spans of a cursor: each needs an outage while a backlog is carried.
const maxAhead = 64

// Confirm adds a span. It never takes anything back.
func (c *Cursor) Confirm(s Span) {
	if s.To <= max(s.From, c.Next) {
		return
	}
	i, _ := slices.BinarySearchFunc(c.Ahead, s.From, func(a Span, from log.Offset) int { return int(min(1, max(-1, a.To-from))) })
	j := i
	for ; j < len(c.Ahead) && c.Ahead[j].From <= s.To; j++ {
		s.From, s.To = min(s.From, c.Ahead[j].From), max(s.To, c.Ahead[j].To)
	}
	c.Ahead = slices.Replace(c.Ahead, i, j, s)
	if c.Ahead[0].From <= c.Next {
		c.Next = c.Ahead[0].To
		c.Ahead = slices.Delete(c.Ahead, 0, 1)
	}
	if len(c.Ahead) == 0 {
		c.Ahead = nil
	}
}

// Merge confirms what o has confirmed.
func (c *Cursor) Merge(o Cursor) {
	c.Confirm(Span{0, o.Next})
	for _, s := range o.Ahead {
		c.Confirm(s)
	}
}

// Covers says whether c has confirmed all that o has.
func (c Cursor) Covers(o Cursor) bool {
	if o.Next > c.Next {
		return false
	}
	return !slices.ContainsFunc(o.Ahead, func(s Span) bool {
		return s.To > c.Next && !slices.ContainsFunc(c.Ahead, func(a Span) bool { return a.From <= max(s.From, c.Next) && s.To <= a.To })
	})
}

// Missing is the first range at or past from that is not confirmed, up to end; empty when there is none.
func (c Cursor) Missing(from, end log.Offset) Span {
	from = max(from, c.Next)
	for _, s := range c.Ahead {
		if from < s.From {
			return Span{from, min(s.From, end)}
		}
		from = max(from, s.To)
	}
	return Span{from, max(from, end)}
}

// Lag is how many offsets below end are not confirmed.
func (c Cursor) Lag(end log.Offset) int64 {
	lag := end - c.Next
	for _, s := range c.Ahead {
		lag -= min(s.To, end) - min(s.From, end)
	}
	return int64(max(lag, 0))
}

// clone is a copy that shares nothing.
func (c Cursor) clone() Cursor { return Cursor{c.Next, slices.Clone(c.Ahead)} }

// progress is a cursor as it is stored, here and at the target. Fields are only ever added.
type progress struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Cursor
	At   int64   `json:"at,omitempty"`   // milliseconds since 1970 at which the target had confirmed it
	Left account `json:"left,omitempty"` // what was left out by rule, and no carried record has told yet
}

// encode is for the Store and the target.
func (p progress) encode() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic("BUG: a cursor cannot be written: " + err.Error())
	}
	return b
}

// parseProgress reads what encode wrote, and refuses what it cannot have.
func parseProgress(b []byte) (p progress, err error) {
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("a stored cursor is not JSON: %w", err)
	}
	last := p.Next
	for i, s := range p.Ahead {
		if s.From < last || s.From >= s.To || i > 0 && s.From == last || p.Next < 0 {
			return p, fmt.Errorf("a stored cursor is none: span %d to %d after offset %d", s.From, s.To, last)
		}
		last = s.To
	}
	if p.Next < 0 || len(p.Ahead) > maxAhead {
		return p, fmt.Errorf("a stored cursor is none: offset %d and %d spans", p.Next, len(p.Ahead))
	}
	return p, p.Left.check()
}
