package uplink

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/weir-io/weir/log"
)

// ruled is how a partition is read whose lane has a rule, or of which something left out is told nowhere yet: within one commit, from one offset on without a break.
type ruled struct {
	c       *chunk
	p       *part
	rule    *rule    // nil: only to tell
	out     *account // nil where the target has no place for it
	at      log.Offset
	begin   log.Offset
	counted bool // tally is in use
	stretch *stretch
	to      outgoing
}

// fate is what became of a record, to be taken back where it does not count after all.
type fate struct {
	at    log.Offset
	why   reason
	bytes int
	vague bool
	count int64 // of those that are left out
}

// maxLooked bounds what rules look at for one commit: what they leave out takes no room in it.
const maxLooked = 16 << 20

// restFor is how long a commit may wait that only says what was left out: on a thin line it costs more than what it is about.
const restFor = 5 * time.Second

// waits says whether the chunk can wait for another to be committed with.
func (c *chunk) waits() bool {
	if c.count > 0 || c.gaps > 0 || c.full() || c.sums == (leftOut{}) || c.f.owes() {
		return false
	}
	if c.since.IsZero() {
		c.since = c.began
	}
	return !c.due(c.began)
}

// due says that it has waited for long enough.
func (c *chunk) due(now time.Time) bool { return c != nil && now.Sub(c.since) >= restFor }

// goOn takes what an earlier chunk has left out.
func (c *chunk) goOn(rest *chunk) {
	if rest != nil {
		c.moved, c.out, c.fates, c.sums, c.vague, c.since = rest.moved, rest.out, rest.fates, rest.sums, rest.vague, rest.since
	}
}

// ruled begins to read.
func (c *chunk) ruled(p *part, from log.Offset) *ruled {
	u := &ruled{c: c, p: p, rule: p.rule, at: from, begin: from}
	if !c.f.Config.isMQTT() {
		if c.out == nil {
			c.out = map[*part]*account{}
		}
		if u.out = c.out[p]; u.out == nil {
			own := slices.Clone(p.left)
			u.out = &own
			c.out[p] = u.out
		}
	}
	if u.rule != nil && u.rule.thin != nil && u.rule.thin.interval() > 0 && c.f.only == 0 { // else each is sent by itself: one of them is refused
		u.stretch = &stretch{thin: u.rule.thin}
	}
	return u
}

// untold is what the cursor has to tell once the chunk is confirmed. // U10
func (c *chunk) untold(p *part) account {
	left := slices.Clone(p.left)
	if own := c.out[p]; own != nil {
		left = slices.Clone(*own)
	}
	for _, dead := range p.dead { // nothing was carried there either
		left.pass(dead)
	}
	return left
}

// judge decides about the next record: it is sent, left out, or held until the stretch ends.
func (u *ruled) judge(ctx context.Context, r *outgoing) error {
	size := r.size()
	if u.c.looked += size + perRecord; u.stretch != nil && u.stretch.full() {
		u.c.looked = maxLooked // this one is the last
	}
	r.vague = false
	if u.rule == nil {
		u.c.reserve(size)
		return u.carry(ctx, r)
	}
	if u.rule.filter != nil {
		keep, err := u.rule.filter.keeps(u.p.log.Topic(), &r.Record)
		if r.vague = err != nil; !keep {
			u.skip(Span{r.Offset, r.Offset + 1}, filtered)
			return nil
		}
	}
	if thin := u.rule.thin; thin.old(&r.Record, u.c.began) {
		if thin.Every > 0 && !u.counts(r) {
			u.leave(Span{r.Offset, r.Offset + 1}, thinned)
			return nil
		}
		if u.stretch != nil && thin.together(&r.Record) {
			more, err := u.stretch.join(r)
			u.c.take(more)
			if err == nil {
				return nil
			}
			r.vague = true
		}
	}
	u.c.reserve(size)
	if u.holds() {
		u.stretch.hold(r)
		return nil
	}
	return u.carry(ctx, r)
}

// holds says whether something before must be sent first.
func (u *ruled) holds() bool { return u.stretch != nil && len(u.stretch.entries) > 0 }

func (u *ruled) counts(r *outgoing) bool {
	if !u.counted {
		u.counted = true
		u.p.tally.from(u.begin)
	}
	return u.p.tally.carries(r.Key, u.rule.thin.Every)
}

// skip has records left out, behind those that are held.
func (u *ruled) skip(all Span, why reason) {
	if u.holds() {
		u.stretch.skip(all, why)
	} else {
		u.leave(all, why)
	}
}

// lacks notes what the log has given up for room. It costs a look as a record does, or a commit would have no end.
func (u *ruled) lacks(all Span) {
	if all.From < all.To {
		u.c.looked += perRecord
		u.skip(all, noRoom)
	}
}

// leave has records left out.
func (u *ruled) leave(all Span, why reason) {
	n := int64(all.To - all.From)
	if u.out != nil {
		u.out.pass(Span{u.at, all.From})
		u.out.leaveAll(all, why)
	}
	u.became(fate{at: all.From, why: why, count: n})
	u.at = all.To
	u.c.sums.count(why, n)
}

// carry sends a record as the rule wants it, with what there is to tell. // U10
func (u *ruled) carry(ctx context.Context, r *outgoing) error {
	u.to, u.to.own = *r, u.to.own[:0]
	to := &u.to
	if u.rule != nil && len(u.rule.fields) > 0 {
		reduced, err := r.Value, error(nil)
		if r.count == 0 {
			reduced, err = u.rule.project(r.Value)
		}
		if err == nil {
			to.Value = reduced
			to.own = append(to.own, log.Header{Key: []byte(FieldsHeader), Value: u.rule.names})
		} else {
			to.vague = true
		}
	}
	if to.vague {
		u.c.vague++
	}
	if r.count > 0 {
		to.own = append(to.own, log.Header{Key: []byte(AveragedHeader), Value: strconv.AppendInt(nil, r.count, 10)})
	}
	if u.out != nil && len(*u.out) > 0 {
		to.own = append(to.own, log.Header{Key: []byte(LeftOutHeader), Value: u.out.text()})
		*u.out = nil
	}
	u.at = r.Offset + 1
	size := to.size()
	u.became(fate{at: r.Offset, why: carried, bytes: size, vague: to.vague})
	return u.c.send(ctx, r, to, size)
}

func (u *ruled) became(x fate) {
	if u.out != nil {
		return
	}
	if u.c.fates == nil {
		u.c.fates = map[*part][]fate{}
	}
	u.c.fates[u.p] = append(u.c.fates[u.p], x)
}

// undo takes back what became of records at and behind an offset; false where nobody has noted it.
func (c *chunk) undo(p *part, at log.Offset) bool {
	for _, x := range c.fates[p] {
		switch {
		case x.at < at:
			continue
		case x.why == carried:
			c.count, c.bytes = c.count-1, c.bytes-int64(x.bytes)
		default:
			c.sums.count(x.why, -x.count)
		}
		if x.vague {
			c.vague--
		}
	}
	return c.fates[p] != nil
}

// end has everything sent that is held: the partition was read up to at.
func (u *ruled) end(ctx context.Context, at log.Offset) error {
	if u.holds() {
		if err := u.stretch.end(u.rule.fields, u.leave, func(r *outgoing) error { return u.carry(ctx, r) }); err != nil {
			return err
		}
	}
	if u.out != nil {
		u.out.pass(Span{u.at, at})
	}
	if u.counted || u.p.tally.next == u.begin {
		u.p.tally.next = at
	}
	return nil
}

// pass ends what was read up to a gap and goes on behind it: what was lost is not left out.
func (u *ruled) pass(ctx context.Context, gap Span) error {
	err := u.end(ctx, gap.From)
	u.at, u.begin, u.counted = gap.To, gap.To, false
	return err
}

// readable reads a batch to its end.
func readable(all *log.RecordReader) error {
	var r log.Record
	for {
		if more, err := all.Next(&r); err != nil || !more {
			return err
		}
	}
}
