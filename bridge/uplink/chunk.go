package uplink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weir-io/weir/log"
)

// chunk carries what fits into one commit; more says that something is left to carry.
func (f *Forwarder) chunk(ctx context.Context, t target) (more bool, err error) {
	parts, views, err := f.views()
	if err != nil {
		return false, err
	}
	ctx, larger, stop := f.patience.timed(ctx)
	defer stop()
	picks := order(views, f.turn)
	f.turn++
	began, limit := time.Now(), f.pace.chunk(f.budget.limits)
	if len(picks) == 0 && !f.owes() && !f.rest.due(began) {
		return false, nil
	}
	c := chunk{f: f, t: t, began: began, room: limit, left: cmp.Or(f.only, maxRecords), moved: map[*part][]Span{}, larger: larger}
	c.goOn(f.rest)
	for _, k := range picks {
		if c.full() {
			break
		}
		if f.leftOut(parts[k.index]) { // since the views were made
			continue
		}
		if err := c.read(ctx, parts[k.index], k.span); err != nil {
			return false, f.culprit(ctx, &c, err)
		}
	}
	if c.waits() {
		f.rest = &c
		return false, nil
	}
	f.rest = nil
	cursors := f.after(&c)
	if len(cursors) == 0 {
		return false, nil
	}
	if err := t.commit(ctx, cursors); err != nil {
		return false, f.culprit(ctx, &c, err)
	}
	if j, is := t.(judging); is {
		if all := j.verdicts(); len(all) > 0 {
			f.judge(ctx, &c, all)
			cursors = f.after(&c)
		}
	}
	full := c.full()
	took := time.Since(began)
	f.confirmed(&c, cursors)
	f.pace.took(took, t.trip(), c.room <= 0) // what rules have looked at says nothing about the link
	if c.large {
		f.patience.took(took)
	} else {
		f.patience.ordinary()
	}
	f.only *= 2
	if f.only > maxRecords {
		f.only = 0
	}
	f.save(false)
	if !full { // a trickle: wait for company about as long as a commit takes
		f.sleep(ctx, min(took, pacedCommit/2))
	}
	return true, nil
}

// chunk is what one commit carries.
type chunk struct {
	f       *Forwarder
	t       target
	room    int     // bytes left, as they will be on the link
	raw     int     // bytes that have taken room, as they are here
	share   float64 // of what is read that goes over the link
	left    int     // records left, 0 = no limit
	records []*outgoing
	count   int
	bytes   int64
	gaps    int64
	moved   map[*part][]Span
	record  outgoing
	began   time.Time
	rules   *ruled // of the partition that is read, nil when nothing of it is left out
	looked  int    // bytes that rules have looked at
	out     map[*part]*account
	fates   map[*part][]fate // of a target that answers for every record by itself
	sums    leftOut
	since   time.Time // nothing of what was read since then is carried
	vague   int64     // carried as they are, since a rule could not read them
	large   bool      // a record of it is a largeRecord
	larger  func()    // has it last longer
}

func (c *chunk) full() bool {
	return c.room <= 0 || c.raw >= maxChunk || c.left < 0 || c.looked >= maxLooked
}

// read carries a span of a partition as far as the chunk has room.
func (c *chunk) read(ctx context.Context, p *part, s Span) error {
	c.share = c.f.squeeze.share(p.remote)
	if p.rule != nil || len(p.left) > 0 || c.out[p] != nil {
		c.rules = c.ruled(p, s.From)
	}
	at, err := c.span(ctx, p, s)
	if err == nil && c.rules != nil {
		err = c.rules.end(ctx, at)
	}
	c.rules = nil
	return err
}

// span is read without what rules hold back; it says how far it came.
func (c *chunk) span(ctx context.Context, p *part, s Span) (at log.Offset, err error) {
	f := c.f
	for at = s.From; at < s.To && !c.full(); {
		began := time.Now()
		got, err := p.log.Read(at, min(max(c.room, minChunk), readBytes), f.buf)
		if start := p.log.LogStart(); errors.Is(err, log.ErrOutOfRange) && at < start {
			gap := Span{at, min(start, s.To)}
			f.Logger.Warn("records were deleted before the uplink had carried them", "topic", p.log.Topic(), "partition", p.log.Index(), "from", int64(gap.From), "to", int64(gap.To))
			if c.rules != nil {
				if err := c.rules.pass(ctx, gap); err != nil {
					return at, err
				}
			}
			if err := c.t.announce(ctx, p, gap); err != nil {
				return at, err
			}
			c.gaps += int64(gap.To - gap.From)
			c.move(p, gap)
			at = gap.To
			continue
		}
		if err != nil {
			f.unreadableNow(p, time.Since(began), fmt.Errorf("read %s, partition %d: %w", p.log.Topic(), p.log.Index(), err))
			return at, nil
		}
		f.buf = got
		if len(got) == 0 {
			if p.hole.seen(at, s.To, time.Now()) {
				c.move(p, p.hole.span)
				at = p.hole.span.To
			}
			return at, nil
		}
		p.hole = hole{}
		if at, err = c.batches(ctx, p, got, Span{at, s.To}); errors.Is(err, errUnreadable) {
			f.block(p, time.Now().Add(maxBackOff), err) // the others go on
			return at, nil
		} else if err != nil {
			return at, err
		}
	}
	return at, nil
}

// readBytes is how much is read at once: a batch that is larger comes whole.
const readBytes = 256 << 10

// hole is a place where nothing is read though there are offsets. What stood there may be compacted away; it may also be that who is read from changes just
// then and does not know yet how far it is committed. Only the former stays.
type hole struct {
	span        Span
	since, last time.Time // first and last look
}

const (
	holeStays = 10 * time.Second
	holeLooks = 3 * time.Second // at most, from one look to the next: a partition without a failure is looked at every second
)

// seen notes a look, and says whether it has been one for long enough to be passed over.
func (h *hole) seen(from, to log.Offset, now time.Time) bool {
	if h.span.From != from || h.span.To > to || now.Sub(h.last) > holeLooks {
		h.span, h.since = Span{from, to}, now
	}
	h.last = now
	return now.Sub(h.since) >= holeStays
}

// errUnreadable marks what the log cannot give, of one partition.
var errUnreadable = errors.New("it is left out")

func unreadable(p *part, at log.Offset, err error) error {
	return fmt.Errorf("read %s, partition %d, offset %d: %w: %w", p.log.Topic(), p.log.Index(), at, err, errUnreadable)
}

// batches carries what was read, and says how far.
func (c *chunk) batches(ctx context.Context, p *part, got []byte, s Span) (log.Offset, error) {
	at := s.From
	for len(got) > 0 && at < s.To && !c.full() {
		b, err := log.NextBatch(got, 0)
		if err == nil && !b.IsControl() {
			err = b.CheckCRC() // A8
		}
		if err != nil {
			return at, unreadable(p, at, err)
		}
		got = got[b.Size():]
		next := min(b.NextOffset(), s.To)
		if !b.IsControl() {
			if b.IsThinned() && c.rules == nil { // from here on there is something to tell
				c.rules = c.ruled(p, at)
			}
			if next, err = c.batch(ctx, p, b, Span{at, next}); err != nil {
				return at, err
			}
		}
		c.move(p, Span{at, next})
		at = next
	}
	return at, nil
}

// batch adds the records of a batch that lie in the span.
func (c *chunk) batch(ctx context.Context, p *part, b log.Batch, s Span) (log.Offset, error) {
	f := c.f
	if err := f.records.Reset(b); err != nil {
		return s.From, unreadable(p, s.From, err)
	}
	if c.rules != nil { // what is decided of a batch's records is not taken back: all must be there
		if err := readable(&f.records); err != nil {
			return s.From, unreadable(p, s.From, err)
		}
		if err := f.records.Reset(b); err != nil {
			return s.From, unreadable(p, s.From, err)
		}
	}
	r := &c.record
	r.from = p
	due := max(s.From, b.BaseOffset()) // in a batch that was thinned: what it lacks before the next record was given up // U10
	for {
		more, err := f.records.Next(&r.Record)
		if err != nil {
			return s.From, unreadable(p, s.From, err)
		}
		if b.IsThinned() {
			to := s.To
			if more {
				to = min(to, r.Offset)
			}
			c.rules.lacks(Span{due, to})
			due = max(due, to+1)
		}
		switch {
		case !more || r.Offset >= s.To:
			return s.To, nil
		case r.Offset < s.From:
			continue
		case c.full():
			return r.Offset, nil
		case p.cameDown(&r.Record):
			continue
		}
		if c.rules != nil {
			err = c.rules.judge(ctx, r)
		} else {
			size := r.size()
			c.reserve(size)
			err = c.send(ctx, r, r, size)
		}
		if err != nil {
			return s.From, err
		}
	}
}

// send hands a record to the target; of is the one that it is made of, size what it counts for.
func (c *chunk) send(ctx context.Context, of, r *outgoing, size int) error {
	if c.f.only > 0 { // before it is sent: a target may refuse it meanwhile
		c.records = append(c.records, of.clone())
	}
	if size >= largeRecord {
		c.large = true
		c.larger()
	}
	if err := c.t.add(ctx, r); err != nil {
		return err
	}
	c.count++
	c.bytes += int64(size)
	return nil
}

// take has so many bytes take room, or gives it back.
func (c *chunk) take(bytes int) {
	c.room -= int(float64(bytes) * c.share)
	c.raw += bytes
}

// reserve takes a record's room.
func (c *chunk) reserve(size int) {
	c.take(size + perRecord)
	if c.left > 0 {
		if c.left--; c.left == 0 {
			c.left = -1
		}
	}
}

const (
	perRecord = 64 // bytes that a record costs on its way beside its own
	// maxRecords bounds what they cost here until they are confirmed, which is some 400 bytes each.
	maxRecords = 8192
)

func (c *chunk) move(p *part, s Span) {
	if s.From < s.To {
		c.moved[p] = append(c.moved[p], s)
	}
}

// culprit deals with what a commit failed for, as far as it is one record or one topic: the rest goes on after it (U7, U8).
func (f *Forwarder) culprit(ctx context.Context, c *chunk, err error) error {
	var refused *refusedError
	var topic *topicError
	switch {
	case errors.Is(err, errLate) && c.large:
		err = fmt.Errorf("%w: %d bytes were not there within %s, with a record that is large for this link; it gets longer, up to what the target allows (transaction.max.timeout.ms)", err, c.bytes, f.patience.chunk(true))
		f.patience.late()
	case errors.As(err, &topic):
		f.mu.Lock()
		for _, p := range f.parts {
			if p.remote == topic.topic {
				p.until, p.why = time.Now().Add(maxBackOff), err
			}
		}
		f.mu.Unlock()
	case errors.As(err, &refused) && f.only == 1 && len(c.records) == 1:
		if derr := f.bury(ctx, c.records[0], refused.err); derr != nil {
			f.only = 0
			f.block(c.records[0].from, time.Now().Add(maxBackOff), fmt.Errorf("%w; and it cannot be put into the dead-letter topic: %w", err, derr))
			return derr
		}
	case errors.As(err, &refused):
		f.only = max(c.count/2, 1) // until it is alone
	}
	return err
}

// bury puts a record into the dead-letter topic.
func (f *Forwarder) bury(ctx context.Context, r *outgoing, why error) error {
	p := r.from
	rec := r.Record
	rec.Headers = append(rec.Headers, log.Header{Key: []byte(OriginHeader), Value: r.origin(nil)},
		log.Header{Key: []byte("weir.uplink"), Value: []byte(f.Config.Name)}, log.Header{Key: []byte("weir.error"), Value: []byte(why.Error())})
	to := strings.TrimSuffix(p.log.Topic(), dlqSuffix) + dlqSuffix
	if err := f.DeadLetter(ctx, to, &rec); err != nil {
		return err
	}
	f.Logger.Warn("the target will never take a record: it is in the dead-letter topic", "topic", p.log.Topic(), "partition", p.log.Index(), "offset", int64(r.Offset), "dead-letter topic", to, "error", why)
	f.mu.Lock()
	defer f.mu.Unlock()
	p.dead = append(p.dead, Span{r.Offset, r.Offset + 1})
	f.state.deadLetters++
	return nil
}

// after gives the cursors as they are once the chunk is confirmed, and what was buried with them.
func (f *Forwarder) after(c *chunk) map[log.PartitionID]progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	cursors := map[log.PartitionID]progress{}
	for id, p := range f.parts {
		if len(c.moved[p]) == 0 && !p.owes() {
			continue
		}
		cursors[id] = progress{Topic: p.log.Topic(), Partition: id.Index, Cursor: p.with(c.moved[p], p.dead), At: time.Now().UnixMilli(), Left: c.untold(p)}
	}
	return cursors
}

// confirmed notes what the target has (U2).
func (f *Forwarder) confirmed(c *chunk, cursors map[log.PartitionID]progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, now := range cursors {
		if p := f.parts[id]; p != nil {
			p.cursor, p.left, p.dead, p.tell, p.fresh, p.saved = now.Cursor, now.Left, nil, false, false, false
		}
	}
	f.state.records += int64(c.count)
	f.state.bytes += c.bytes
	f.state.gaps += c.gaps
	f.state.left.add(&c.sums)
	f.state.unjudged += c.vague
	f.state.commits++
	f.state.confirmedAt = time.Now()
}
