package log

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// Compaction keeps, of all records with the same key, the newest. As in Kafka: offsets of surviving records
// never change, batches keep their offset range and producer fields, a tombstone (null value) survives
// until DeleteRetention after the pass that first left it alone with its key (KIP-534), and a record
// without key does not survive. Records of aborted transactions count as never written; a marker goes like a
// tombstone, once no record of its transaction is left.
//
// This file decides and rewrites; swap.go puts the result in place. Who calls passes only closed segments
// that a synced checkpoint covers, below the high watermark (K1), from the first of the partition on.

// compactPolicy is the policy of one partition.
type compactPolicy struct {
	minLag          time.Duration // leave segments alone that were appended to less long ago
	maxLag          time.Duration // a pass is due for what was appended longer ago, however little it is; <= 0: never for that
	rollAge         time.Duration // at which segments are closed
	deleteRetention time.Duration // of tombstones
	minRatio        float64       // share of bytes not yet compacted that makes a pass worth its writes
	segmentBytes    int64         // neighbours are merged up to it
}

// compactPlan says what a pass has to look at.
type compactPlan struct {
	segments []segmentFacts // to be rewritten, or found to need no change
	dirty    Offset         // first offset that no pass has seen
	end      Offset         // first offset out of reach
	records  int64          // bound on the keys from dirty to end
}

// plan decides whether a pass is due. cleaned is what the last one returned (0 = none), limit the first offset
// that may not be touched. Without a trusted clock only a lag of 0 is certain to have passed.
func (p compactPolicy) plan(closed []segmentFacts, cleaned, limit Offset, now time.Time, clockTrusted bool) (compactPlan, bool) {
	var clean, dirty int64
	n, overdue := 0, false
	for ; n < len(closed); n++ {
		s := &closed[n]
		if s.next > limit || p.tooFresh(s, now, clockTrusted) {
			break
		}
		if s.next <= cleaned {
			clean += s.size
		} else {
			overdue = overdue || dirty == 0 && p.overdue(closed[:n+1], now, clockTrusted)
			dirty += s.size
		}
	}
	if dirty == 0 || !overdue && float64(dirty) < p.minRatio*float64(clean+dirty) {
		return compactPlan{}, false
	}
	plan := compactPlan{segments: closed[:n:n], end: closed[n-1].next}
	plan.dirty = max(cleaned, closed[0].base)
	plan.records = int64(plan.end - plan.dirty)
	return plan, true
}

func (p compactPolicy) tooFresh(s *segmentFacts, now time.Time, clockTrusted bool) bool {
	if p.minLag <= 0 {
		return false
	}
	return !clockTrusted || !s.trusted || s.lastAppend.IsZero() || now.Sub(s.lastAppend) < p.minLag
}

// overdue says whether the first record of the last segment may have been appended longer ago than maxLag. That was not before the last append to the segment before
// it; where there is none, it was before its own last append by no more than the age at which segments are closed.
func (p compactPolicy) overdue(closed []segmentFacts, now time.Time, clockTrusted bool) bool {
	s, since := closed[len(closed)-1], p.rollAge
	if len(closed) > 1 {
		s, since = closed[len(closed)-2], 0
	}
	return p.maxLag > 0 && clockTrusted && s.trusted && !s.lastAppend.IsZero() && now.Sub(s.lastAppend)+max(since, 0) >= p.maxLag
}

// groups puts neighbours together whose bytes fit one segment and whose offsets fit its index.
func (p compactPolicy) groups(segs []segmentFacts) [][]segmentFacts {
	var groups [][]segmentFacts
	for i := 0; i < len(segs); {
		size, n := segs[i].size, i+1
		for n < len(segs) && size+segs[n].size <= p.segmentBytes && segs[n].next-segs[i].base <= math.MaxInt32 {
			size += segs[n].size
			n++
		}
		groups = append(groups, segs[i:n:n])
		i = n
	}
	return groups
}

// compactor is one pass over one partition. It needs the memory of its map, of one batch and of that batch's records.
type compactor struct {
	compactPolicy
	open         func(segmentFacts) (f io.ReaderAt, done func(), err error)
	remembers    func(Batch) bool // the producer state holds this batch: its header must stay
	aborted      func(Batch) bool // it belongs to an aborted transaction: its records count as never written
	live         map[int64]bool   // producers of whom transactional records are kept since their last marker
	follows      func(due Offset, b Batch) error
	pace         func(bytes int) error
	now          time.Time
	clockTrusted bool

	thin    *thinning // the pass is for room, and by other rules
	keys    *offsetMap
	end     Offset // keys covers offsets below
	scanner batchScanner
	rewrite batchRewriter
	stats   compactStats
}

// compactStats is what a pass did.
type compactStats struct {
	recordsRead, recordsKept int64
	bytesRead, bytesWritten  int64
	nullKeys                 int64 // records dropped because they have no key
}

// readKeys fills the map from the plan's dirty offsets, as far as maxBytes of memory reach, and
// returns the offset up to which the pass can compact.
func (c *compactor) readKeys(plan compactPlan, maxBytes int64) (Offset, error) {
	c.keys = newOffsetMap(plan.records, maxBytes)
	c.end = plan.dirty
	for _, s := range plan.segments {
		if s.next <= plan.dirty {
			continue
		}
		full, err := c.readSegmentKeys(s, plan.dirty)
		if err != nil {
			return 0, fmt.Errorf("compact segment %d: %w", s.base, err)
		}
		if full {
			return c.end, nil
		}
		c.end = s.next
	}
	return c.end, nil
}

func (c *compactor) readSegmentKeys(s segmentFacts, from Offset) (full bool, err error) {
	err = c.eachBatch(s, func(b Batch) error {
		if b.LastOffset() < from || b.IsControl() || c.aborted(b) {
			return nil
		}
		r := &c.rewrite.reader
		if err := r.Reset(b); err != nil {
			return err
		}
		r.skipHeaders = true
		var rec Record
		for {
			ok, err := r.Next(&rec)
			if err != nil || !ok {
				return err
			}
			if rec.Key == nil || rec.Offset < from {
				continue
			}
			if !c.keys.put(rec.Key, rec.Offset) {
				c.end = rec.Offset
				full = true
				return errStop
			}
		}
	})
	if err == errStop {
		err = nil
	}
	return full, err
}

// errStop ends a walk early; it never leaves this package.
var errStop = errors.New("stop")

// eachBatch calls fn for every batch of a segment, its CRC and place checked (A8): a rewrite must not put a good
// checksum on bad bytes, nor a wrong offset drop a newer record.
func (c *compactor) eachBatch(s segmentFacts, fn func(Batch) error) error {
	f, done, err := c.open(s)
	if err != nil {
		return err
	}
	defer done()
	c.scanner.reset(f, 0, s.size)
	for due := s.base; ; {
		b, err := c.scanner.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err = b.CheckCRC(); err == nil {
			err = c.follows(due, b)
		}
		if err != nil {
			return fmt.Errorf("at %d: %w", c.scanner.position, err)
		}
		due = b.NextOffset()
		if c.pace != nil {
			if err := c.pace(len(b)); err != nil {
				return err
			}
		}
		if err := fn(b); err != nil {
			return err
		}
	}
}

// keep says whether a record survives; horizon is its batch's (0 = none yet).
func (c *compactor) keep(rec *Record, horizon int64) bool {
	if rec.Offset >= c.end {
		return true
	}
	if rec.Key == nil {
		c.stats.nullKeys++
		return false
	}
	if newest, ok := c.keys.get(rec.Key); ok && rec.Offset < newest {
		return false
	}
	// A tombstone past its horizon has nothing left to delete: the pass that set the horizon dropped all before it.
	return rec.Value != nil || horizon == 0 || !c.clockTrusted || c.now.UnixMilli() < horizon
}

// output is where a group's batches go.
type output interface {
	io.WriterAt
	Sync() error
}

// syncBytes: a rewrite is synced every so many bytes, not all at its end, or commits of the journal would
// wait behind the burst on a slow card.
const syncBytes = 1 << 20

// writeGroup writes what survives of the group to out, created when it is first needed, syncs it and returns its
// size. changed is false, and nothing created, when a lone segment survives whole.
func (c *compactor) writeGroup(group []segmentFacts, create func() (output, error)) (size int64, changed bool, err error) {
	w := groupWriter{c: c, create: create, last: group[len(group)-1].next - 1}
	if len(group) > 1 {
		if err := w.begin(); err != nil {
			return 0, false, err
		}
	}
	for _, s := range group {
		w.source = s
		if err := c.eachBatch(s, w.add); err != nil {
			return 0, false, fmt.Errorf("compact segment %d: %w", s.base, err)
		}
	}
	if w.out == nil {
		return group[0].size, false, nil
	}
	if err := errors.Join(w.flush(), w.out.Sync()); err != nil {
		return 0, false, err
	}
	return w.size, true, nil
}

// groupWriter collects the batches that survive. As long as a lone segment loses nothing it only counts.
type groupWriter struct {
	c      *compactor
	create func() (output, error)
	source segmentFacts
	last   Offset // of the group
	out    output
	size   int64 // bytes that belong to the output so far
	synced int64
	buf    []byte
}

func (w *groupWriter) add(b Batch) error {
	w.c.stats.bytesRead += int64(len(b))
	if b.LastOffset() > w.last {
		return fmt.Errorf("batch ends at offset %d, its segment at %d: %w", b.LastOffset(), w.last, ErrCorrupt)
	}
	rewrite := w.c.rewrite.batch
	if w.c.thin != nil {
		rewrite = w.c.thin.batch
	}
	survivor, err := rewrite(w.c, b, b.LastOffset() == w.last)
	if err != nil {
		return err
	}
	if w.out == nil {
		if len(survivor) == len(b) && &survivor[0] == &b[0] {
			w.size += int64(len(b))
			return nil
		}
		if err := w.beginWithPrefix(); err != nil {
			return err
		}
	}
	return w.write(survivor)
}

func (w *groupWriter) begin() error {
	out, err := w.create()
	w.out, w.size = out, 0
	return err
}

// beginWithPrefix copies what was only counted so far.
func (w *groupWriter) beginWithPrefix() error {
	prefix := w.size
	if err := w.begin(); err != nil {
		return err
	}
	f, done, err := w.c.open(w.source)
	if err != nil {
		return err
	}
	defer done()
	chunk := make([]byte, min(scanChunk, prefix))
	for at := int64(0); at < prefix; {
		part := chunk[:min(int64(len(chunk)), prefix-at)]
		if _, err := f.ReadAt(part, at); err != nil {
			return fmt.Errorf("at %d: %w", at, err)
		}
		if err := w.write(part); err != nil {
			return err
		}
		at += int64(len(part))
	}
	return nil
}

func (w *groupWriter) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if w.size+int64(len(b)) > math.MaxInt32 {
		return fmt.Errorf("rewritten segment grew over %d bytes: %w", math.MaxInt32, ErrTooLarge)
	}
	w.buf = append(w.buf, b...)
	w.size += int64(len(b))
	w.c.stats.bytesWritten += int64(len(b))
	if len(w.buf) >= scanChunk {
		return w.flush()
	}
	return nil
}

func (w *groupWriter) flush() error {
	_, err := w.out.WriteAt(w.buf, w.size-int64(len(w.buf)))
	w.buf = w.buf[:0]
	if err == nil && w.size-w.synced >= syncBytes {
		w.synced = w.size
		err = w.out.Sync()
	}
	return err
}
