package uplink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weir-io/weir/log"
)

// judging is a target that answers for every record by itself. What it has not taken does not fail the commit: the others of it count.
type judging interface {
	// verdicts gives what was not taken of the last commit, once; at most one for each partition that is not for good: nothing at or behind its offset counts.
	verdicts() []verdict
}

// noticing is a target that notices by itself when it cannot be reached any more.
type noticing interface {
	ended() error
}

// verdict is what a target says of a record that it has not taken.
type verdict struct {
	place
	err     error
	forGood bool // it will never take it (U8); else its partition waits there (U7)
}

// judge deals with what of the chunk was not taken: what never will be goes to the dead-letter topic, and behind what was not taken for now nothing counts as
// carried. What the target has got of a partition behind such a place comes again later.
func (f *Forwarder) judge(ctx context.Context, c *chunk, all []verdict) {
	waits := map[*part]verdict{}
	for _, v := range all {
		if !v.forGood {
			waits[v.from] = v
		}
	}
	slices.SortFunc(all, func(a, b verdict) int { return cmp.Compare(a.offset, b.offset) })
	for _, v := range all {
		if wait, ok := waits[v.from]; !v.forGood || ok && v.offset > wait.offset {
			continue
		}
		r, err := f.find(v.from, v.offset)
		if err == nil {
			err = f.bury(ctx, r, v.err)
		}
		if err != nil { // the partition waits for that (U7)
			v.err = fmt.Errorf("%w; and it cannot be put into the dead-letter topic: %w", v.err, err)
			waits[v.from] = v
			continue
		}
		c.count--
	}
	for p, v := range waits {
		c.cut(p, v.offset)
		f.block(p, time.Now().Add(maxBackOff), fmt.Errorf("topic %s, partition %d, offset %d: %w", p.log.Topic(), p.log.Index(), v.offset, v.err))
	}
}

// cut has nothing of a partition count at and behind an offset.
func (c *chunk) cut(p *part, at log.Offset) {
	kept, lost := c.moved[p][:0], 0
	for _, s := range c.moved[p] {
		lost += int(s.To - max(s.From, min(at, s.To)))
		if s.To = min(s.To, at); s.From < s.To {
			kept = append(kept, s)
		}
	}
	c.moved[p] = kept
	if c.undo(p, at) {
		return
	}
	if lost = min(lost, c.count); lost > 0 {
		c.bytes -= c.bytes * int64(lost) / int64(c.count)
		c.count -= lost
	}
}

// find reads one record again.
func (f *Forwarder) find(p *part, at log.Offset) (*outgoing, error) {
	got, err := p.log.Read(at, 1, nil)
	if err != nil {
		return nil, err
	}
	b, err := log.NextBatch(got, 0)
	if err != nil {
		return nil, err
	}
	var records log.RecordReader
	if err := records.Reset(b); err != nil {
		return nil, err
	}
	r := outgoing{from: p}
	for {
		more, err := records.Next(&r.Record)
		switch {
		case err != nil:
			return nil, err
		case !more:
			return nil, errors.New("it is not there any more")
		case r.Offset == at:
			return r.clone(), nil
		}
	}
}
