package log

import (
	"context"
	"errors"
	"maps"
	"math"
	"time"
)

// Thinning gives up records inside of closed segments where else whole segments would go for want of room: those that are outdated by a later one of their group, as a
// Thinner has it. It is compaction by another rule (K3): offsets stay, markers stay, a rewritten segment is put in place by the steps in swap.go. What is different is
// that no offset goes missing. A batch that loses records is marked (AttrThinned); of batches that lose all of them one header stays, that covers their offsets. So whoever
// reads over them can tell what was given up, to the record, from what was lost, was aborted, or is a marker. The mark stands in the rewritten segment itself, so no crash
// comes between the two.

// Thinner says what of a partition may be given up. An uplink makes it of the rule that it thins old records by.
type Thinner interface {
	// Group appends to buf the name of the group that r belongs to: r may be given up where a later record of it stays. When ok is false r stays.
	Group(buf []byte, r *Record, now time.Time) (name []byte, ok bool)
}

// thinRetryAfter is how long a segment that was thinned is left alone. What was too young then is old enough later.
const thinRetryAfter = 10 * time.Minute

// thinRound is how long one round of housekeeping thins at most: it has more to do.
const thinRound = 30 * time.Second

// keepQuota frees need bytes: of what reclaim chooses it deletes what nobody holds, or nobody has a Thinner for. The rest it thins, oldest first, and chooses anew. Only when
// nothing of a partition can be thinned any more, or the round has taken its time, its oldest segments go as others do.
func (l *Log) keepQuota(ctx context.Context, parts []*Partition, need int64) (freed int64, err error) {
	began, rules := l.cfg.Now(), make([][]Thinner, len(parts))
	for i, p := range parts {
		if l.cfg.Thin != nil && l.pressure.Load() == diskOK && !p.offer().keep { // a rewrite needs room first
			rules[i] = l.cfg.Thin(p.id)
		}
	}
	for freed < need {
		if l.cfg.Now().Sub(began) > thinRound { // what is still missing goes whole
			clear(rules)
		}
		offers := make([]reclaimable, len(parts))
		for i, p := range parts {
			if offers[i] = p.offer(); len(rules[i]) > 0 {
				p.offerThinning(&offers[i], began)
			}
		}
		goes, deleted := reclaim(offers, need-freed)
		which, s := toThin(offers, goes)
		if which < 0 {
			return freed + deleted, l.deleteChosen(parts, offers, goes, need-freed)
		}
		p := parts[which]
		if p.thinned == nil {
			p.thinned = map[Offset]time.Time{}
		}
		p.thinned[s.base] = l.cfg.Now()
		n, err := l.thin(ctx, p, s, rules[which])
		switch {
		case ctx.Err() != nil || l.offline() != nil:
			return freed, l.offline()
		case errors.Is(err, errSegmentGone) || err != nil && l.Partition(p.id) != p: // a truncation or a deletion was faster
		case err != nil:
			l.stats.thinFailures.Add(1)
			l.cfg.Logger.Error("a segment is not thinned", "topic", p.topic, "partition", p.id.Index, "segment", int64(s.base), "err", err)
		}
		freed += n
	}
	return freed, nil
}

// offerThinning leaves in the offer what was carried, and behind it what can be thinned, as long as there is such.
func (p *Partition) offerThinning(o *reclaimable, now time.Time) {
	from, limit := p.held(false), p.stableLimit()
	maps.DeleteFunc(p.thinned, func(base Offset, _ time.Time) bool { return base < p.LogStart() })
	carried, n := 0, 0
	candidates := make([]segmentFacts, 0, len(o.closed))
	for i := range o.closed {
		s := &o.closed[i]
		at, seen := p.thinned[s.base]
		if seen = seen && now.Sub(at) < thinRetryAfter; !seen {
			delete(p.thinned, s.base)
		}
		switch {
		case s.next <= from || s.next <= p.LogStart():
			carried++
		case !seen && s.next <= min(limit, o.limit):
			candidates = append(candidates, *s)
			n++
		}
	}
	if n > 0 {
		o.closed, o.thin = append(o.closed[:carried:carried], candidates...), n
	}
}

// toThin is the oldest segment that was chosen and is to be thinned; -1: there is none.
func toThin(offers []reclaimable, goes []int) (which int, s segmentFacts) {
	which = -1
	for i := range offers {
		o := &offers[i]
		if first := len(o.closed) - o.thin; o.thin > 0 && first < goes[i] && (which < 0 || olderThan(&o.closed[first], &s)) {
			which, s = i, o.closed[first]
		}
	}
	return which, s
}

// thin rewrites one closed segment, and says how many bytes that has freed.
func (l *Log) thin(ctx context.Context, p *Partition, s segmentFacts, rules []Thinner) (freed int64, err error) {
	segs, _ := p.closedSegments()
	at := indexOfBase(segs, s.base)
	if at < 0 {
		return 0, errSegmentGone
	}
	if !p.rewriting.TryLock() {
		return 0, nil // the topic was compacted until now
	}
	defer p.rewriting.Unlock()
	if err := l.checkpointPast(); err != nil { // K1
		return 0, err
	}
	c := l.compactorOf(ctx, p, segs)
	c.thin = &thinning{rules: rules}
	c.rewrite.mark = AttrThinned
	before := segs[at].size.Load()
	if err := c.readGroups(s); err != nil {
		return 0, err
	}
	if err := l.compactGroup(p, c, []segmentFacts{s}, segs[at:at+1]); err != nil {
		return 0, err
	}
	given := c.stats.recordsRead - c.stats.recordsKept
	if now, facts := p.closedSegments(); given > 0 {
		if i := indexOfBase(now, s.base); i >= 0 {
			freed = before - facts[i].size
		}
		l.stats.thinnedRecords.Add(given)
		l.stats.thinnedBytes.Add(freed)
		l.cfg.Logger.Warn("a segment was thinned for room", "topic", p.topic, "partition", p.id.Index, "from", int64(s.base), "to", int64(s.next), "records", given, "of", c.stats.recordsRead, "bytes", freed)
	}
	return freed, nil
}

// readGroups notes the last record of each group of a segment, as far as memory reaches.
func (c *compactor) readGroups(s segmentFacts) error {
	c.keys = newOffsetMap(int64(s.next-s.base)*int64(len(c.thin.rules)), compactMapBytes)
	c.end = s.next
	err := c.eachBatch(s, func(b Batch) error {
		if !c.thin.thins(c, b) {
			return nil
		}
		r := &c.rewrite.reader
		if err := r.Reset(b); err != nil {
			return err
		}
		var rec Record
		for {
			if ok, err := r.Next(&rec); err != nil || !ok {
				return err
			}
			for i := range c.thin.rules {
				if name, ok := c.thin.group(i, &rec, c.now); ok && !c.keys.put(name, rec.Offset) {
					c.end = rec.Offset
					return errStop
				}
			}
		}
	})
	if err == errStop {
		err = nil
	}
	return err
}

// thinning is the rule of a pass, and the headers that are to be one.
type thinning struct {
	rules   []Thinner
	name    []byte
	pending []byte // one header for batches of which nothing is left
	out     []byte
}

// group is the record's group for one of the rules; those of two do not mix.
func (t *thinning) group(rule int, r *Record, now time.Time) ([]byte, bool) {
	name, ok := t.rules[rule].Group(append(t.name[:0], byte(rule)), r, now)
	t.name = name
	return name, ok
}

// thins says whether records of the batch may go: not markers, nor what readers of committed records do not get, and nothing of a batch that lacks records for another reason,
// or nobody could tell how many were given up.
func (t *thinning) thins(c *compactor, b Batch) bool {
	return !b.IsControl() && b.Count() > 0 && (b.IsThinned() || b.Count() == int(b.LastOffset()-b.BaseOffset())+1) && !c.aborted(b)
}

// keep says whether a record survives: one that any rule wants.
func (t *thinning) keep(c *compactor, r *Record) bool {
	if r.Offset >= c.end {
		return true
	}
	for i := range t.rules {
		name, ok := t.group(i, r, c.now)
		if !ok {
			return true
		}
		if last, there := c.keys.get(name); !there || last <= r.Offset {
			return true
		}
	}
	return false
}

// batch returns what is left of one, behind the header of those before it that have nothing left; nothing while that header may yet cover more.
func (t *thinning) batch(c *compactor, b Batch, last bool) (Batch, error) {
	survivor, gone, err := t.survivor(c, b)
	switch {
	case err != nil:
		return nil, err
	case !gone && len(t.pending) == 0:
		return survivor, nil
	case gone && t.covers(survivor):
		survivor = nil
	case gone && !last:
		out := t.take(nil)
		t.pending = append(t.pending, survivor...)
		return out, nil
	}
	if gone && !last {
		return nil, nil
	}
	return t.take(survivor), nil
}

// take returns the header that was pending, and what comes behind it.
func (t *thinning) take(behind Batch) Batch {
	t.out = append(append(t.out[:0], t.pending...), behind...)
	t.pending = t.pending[:0]
	return t.out
}

// covers has the header that is pending cover those offsets too; false when they are not for one header.
func (t *thinning) covers(next Batch) bool {
	if len(t.pending) == 0 {
		return false
	}
	b := Batch(t.pending)
	if b.LeaderEpoch() != next.LeaderEpoch() || b.NextOffset() != next.BaseOffset() || next.LastOffset()-b.BaseOffset() >= math.MaxInt32 {
		return false
	}
	t.pending = thinnedBatch(b.BaseOffset(), next.NextOffset(), b.LeaderEpoch(), max(b.MaxTimestamp(), next.MaxTimestamp()))
	return true
}

// thinnedBatch is the header of one that has nothing left, and no producer.
func thinnedBatch(base, next Offset, epoch Epoch, maxTimestamp int64) Batch {
	h := batchHeader{
		base: base, epoch: epoch, attributes: AttrThinned, lastDelta: int32(next - base - 1), baseTimestamp: -1, maxTimestamp: maxTimestamp,
		producerID: -1, producerEpoch: -1, baseSequence: -1,
	}
	return h.seal(make([]byte, BatchHeaderSize), nil, CompressionNone)
}

// ThinnedFrom has the header that batches of which nothing is left have become begin at o, if it is the first of those in b and o lies inside: the log of a replica that was away
// meanwhile ends between two of them.
func ThinnedFrom(b []byte, o Offset) {
	h, err := NextBatch(b, 0)
	if err == nil && h.IsThinned() && h.Count() == 0 && h.ProducerID() < 0 && h.BaseOffset() < o && o <= h.LastOffset() {
		copy(h, thinnedBatch(o, h.NextOffset(), h.LeaderEpoch(), h.MaxTimestamp()))
	}
}

// survivor is what is left of a batch; gone says that it is a header only, and nothing but its offsets counts.
func (t *thinning) survivor(c *compactor, b Batch) (left Batch, gone bool, err error) {
	if !t.thins(c, b) {
		c.stats.recordsRead += int64(b.Count())
		c.stats.recordsKept += int64(b.Count())
		return b, len(t.pending) > 0 && b.IsThinned() && b.Count() == 0 && b.ProducerID() < 0, nil
	}
	w := &c.rewrite
	if err := w.reader.Reset(b); err != nil {
		return nil, false, err
	}
	w.kept = w.kept[:0]
	kept := 0
	var rec Record
	for {
		ok, err := w.reader.Next(&rec)
		if err != nil {
			return nil, false, err
		}
		if !ok {
			break
		}
		keep := t.keep(c, &rec)
		if w.kept = append(w.kept, keep); keep {
			kept++
		}
	}
	c.stats.recordsRead += int64(b.Count())
	c.stats.recordsKept += int64(kept)
	switch {
	case kept == b.Count():
		return b, false, nil
	case kept > 0:
		left, err = w.some(b, kept, 0, false)
		if err == nil && left.Size() >= b.Size() { // whoever packed it did so better: nothing is given up for no room
			c.stats.recordsKept += int64(b.Count() - kept)
			return b, false, nil
		}
		return left, false, err
	case c.remembers(b):
		return w.empty(b), false, nil
	}
	return thinnedBatch(b.BaseOffset(), b.NextOffset(), b.LeaderEpoch(), b.MaxTimestamp()), true, nil
}
