package log

import (
	"fmt"
	"math"
	"sync/atomic"
)

const (
	// A partition's batches gather in memory up to this size before they are written to its segment in one
	// piece: they are durable in the journal and readable from memory, so there is no hurry.
	flushBytes = 64 * kib
	writeBytes = mib // largest single write
)

// partitionWriter is what the segment writer keeps per partition. Its applied fields are the partition's
// state after the last entry handled: what a crash-free run shows for the durable prefix (J6). They are what
// checkpoints store, while Partition's own fields are ahead by what was appended since.
type partitionWriter struct {
	queue   []*chunk // durable, not yet in a segment
	bytes   int64
	active  *segment   // nil until the first write
	dirty   []*segment // written since the last checkpoint
	dirOld  bool       // names in the directory changed since it was synced
	dirNew  bool       // the names that lead to the directory are not synced yet
	metaOld bool       // part.meta is behind epochs or start
	gone    bool       // deleted

	epochs epochList
	start  Offset
	end    Offset
	hw     Offset

	producers    *producerTable
	producersOld bool   // changed since the last snapshot
	snapshot     Offset // name of that snapshot, -1 if none
}

// segmentWriter takes commits in order and brings them into segments, through the page cache and off the
// ack path. One goroutine; it is the only one that writes segments.
type segmentWriter struct {
	l    *Log
	in   <-chan *commit
	free chan<- *commit

	ahead    atomic.Int64  // bytes of commits on their way here
	caughtUp chan struct{} // ahead has fallen

	ended   chan struct{}
	alone   bool // recovery: there is no goroutine yet
	stopped bool // by Close; guarded by Log.maintenance

	lastSeq    uint64 // last entry handled
	newSeq     uint64 // last entry that a checkpoint would add something for
	coveredSeq uint64 // last entry that a snapshot has covered
	queued     []*Partition
	unwritten  atomic.Int64
	unjudged   int64 // bytes written since the disk was looked at
	buf        []byte
	recent     recentCache
}

func (w *segmentWriter) run() {
	defer close(w.ended)
	for u := range w.in {
		if u.do != nil {
			u.do()
			continue
		}
		if err := w.handle(u); err != nil {
			w.l.fail(err)
		}
		clear(u.items)
		w.ahead.Add(-u.bytes)
		select {
		case w.caughtUp <- struct{}{}:
		default:
		}
		w.free <- u
	}
}

// awaitRoom returns when the writer is no more than MaxUnwrittenBytes behind the committer, who calls it and may go over by one commit; false after a
// failure.
func (w *segmentWriter) awaitRoom() bool {
	for w.ahead.Load() > w.l.cfg.MaxUnwrittenBytes {
		select {
		case <-w.caughtUp:
		case <-w.l.failed:
			return false
		}
	}
	return true
}

// handle applies one commit. After a failure nothing is written any more, but every waiter is answered.
func (w *segmentWriter) handle(u *commit) error {
	failed := w.l.Err()
	for i := range u.items {
		it := &u.items[i]
		if failed == nil {
			failed = w.apply(it)
		}
		if it.applied != nil {
			it.applied <- failed
		}
		if it.typ != entryCheckpoint && it.typ != entrySeal && it.typ != entryHighWatermark {
			w.newSeq = u.lastSeq
		}
	}
	w.lastSeq = u.lastSeq
	if failed == nil && w.unwritten.Load() > w.l.cfg.MaxUnwrittenBytes {
		failed = w.flushAll()
	}
	return failed
}

func (w *segmentWriter) apply(it *item) error {
	p := it.p
	if p == nil {
		return nil
	}
	pw := &p.w
	switch it.typ {
	case entryData:
		c := it.chunk
		if pw.gone {
			c.release()
			return nil
		}
		if len(pw.queue) == 0 {
			w.queued = append(w.queued, p)
		}
		pw.queue = append(pw.queue, c)
		pw.bytes += int64(len(c.batch))
		pw.end = c.next
		pw.producers.apply(c.batch, it.millis)
		pw.producersOld = pw.producersOld || c.batch.ProducerID() >= 0
		if len(pw.producers.unstable) > pw.producers.open {
			pw.producers.stable(p.HighWatermark()) // forgets those that have ended for good
		}
		w.unwritten.Add(int64(len(c.batch)))
		if pw.bytes >= flushBytes {
			return w.flush(p)
		}
	case entryEpoch:
		pw.epochs = pw.epochs.begin(it.epoch, it.base)
		pw.metaOld = true
	case entryTruncate:
		return w.truncate(p, it.base)
	case entryLogStart:
		pw.start = max(pw.start, it.base)
		pw.epochs = pw.epochs.trim(it.base)
		pw.producers.trim(it.base)
		pw.metaOld = true
	case entryHighWatermark:
		pw.hw = it.base
	case entryPartDef:
		if it.flags&flagAside != 0 {
			if err := w.flush(p); err != nil {
				return err
			}
		}
		if it.flags&flagGone != 0 {
			w.forget(p)
		}
	}
	return nil
}

// flushAll writes what every partition has queued.
func (w *segmentWriter) flushAll() error {
	for len(w.queued) > 0 {
		if err := w.flush(w.queued[len(w.queued)-1]); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the partition's queue into its segments.
func (w *segmentWriter) flush(p *Partition) error {
	q := p.w.queue
	for len(q) > 0 {
		s, err := w.segmentFor(p, q[0])
		if err != nil {
			return err
		}
		n, err := w.write(p, s, q)
		if err != nil {
			return err
		}
		for _, c := range q[:n] {
			w.unwritten.Add(-int64(len(c.batch)))
			c.written.Store(true)
			w.recent.add(p, c)
		}
		q = q[n:]
	}
	w.unqueue(p)
	w.recent.evict(w.l.cfg.RecentCacheBytes)
	return nil
}

// unqueue empties the partition's queue, whose chunks have gone elsewhere.
func (w *segmentWriter) unqueue(p *Partition) {
	clear(p.w.queue)
	p.w.queue, p.w.bytes = p.w.queue[:0], 0
	for i := len(w.queued) - 1; i >= 0; i-- {
		if w.queued[i] == p {
			last := len(w.queued) - 1
			w.queued[i], w.queued[last] = w.queued[last], nil
			w.queued = w.queued[:last]
			break
		}
	}
}

// write appends as many chunks of q as fit the segment and one write, in one write, and returns how many.
func (w *segmentWriter) write(p *Partition, s *segment, q []*chunk) (int, error) {
	cfg := p.config.Load()
	size := s.size.Load()
	buf, n := []byte(q[0].batch), 1
	if len(buf) < flushBytes { // a large one needs no company
		buf, n = w.gather(s, size, q, cfg)
	}
	f, err := s.open()
	if err != nil {
		return 0, err
	}
	defer s.done(w.l.cfg.MaxOpenFiles)
	err = w.l.withBallast(func() error {
		_, err := f.WriteAt(buf, size)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("write segment %s: %w", s.path(), err)
	}
	if !s.dirty {
		s.dirty = true
		p.w.dirty = append(p.w.dirty, s)
	}
	now, trusted := w.l.cfg.Now(), w.l.clockTrusted()
	if size == 0 {
		s.begins(now)
	}
	at := size
	for _, c := range q[:n] {
		s.addIndex(c.batch, int64(len(c.batch)), at, cfg.IndexIntervalBytes, now, trusted)
		at += int64(len(c.batch))
	}
	s.size.Store(at)
	s.handOver(f, at)
	w.l.stats.segmentBytes.Add(int64(len(buf)))
	if w.unjudged += int64(len(buf)); w.unjudged >= w.l.cfg.DiskMinFree/8 {
		w.unjudged = 0
		if _, _, err := w.l.judgeDisk(); err != nil {
			w.l.cfg.Logger.Warn("cannot tell how full the disk is", "err", err)
		}
	}
	return n, nil
}

// gather puts batches together for one write.
func (w *segmentWriter) gather(s *segment, size int64, q []*chunk, cfg *PartitionConfig) ([]byte, int) {
	buf, n := w.buf[:0], 0
	for _, c := range q {
		if n > 0 && (len(buf)+len(c.batch) > writeBytes || !fits(s, size+int64(len(buf)), c, cfg)) {
			break
		}
		buf = append(buf, c.batch...)
		n++
	}
	w.buf = buf
	return buf, n
}

// fits says whether c may follow size bytes of s.
func fits(s *segment, size int64, c *chunk, cfg *PartitionConfig) bool {
	return size == 0 || size+int64(len(c.batch)) <= cfg.SegmentBytes && c.next-s.base < math.MaxInt32
}

// segmentFor is the active segment, or a new one when it is full or old.
func (w *segmentWriter) segmentFor(p *Partition, c *chunk) (*segment, error) {
	cfg := p.config.Load()
	if s := p.w.active; s != nil {
		old := cfg.SegmentAge > 0 && s.age(w.l.cfg.Now()) >= cfg.SegmentAge
		if !old && fits(s, s.size.Load(), c, cfg) {
			return s, nil
		}
	}
	if err := w.rollTo(p, c.base); err != nil {
		return nil, err
	}
	return p.w.active, nil
}

// rollTo closes the active segment and makes an empty one that begins at base.
func (w *segmentWriter) rollTo(p *Partition, base Offset) error {
	w.roll(p)
	s, err := createSegment(w.l.cfg.FS, p.dir, base)
	if err != nil {
		return err
	}
	p.w.active, p.w.dirOld = s, true
	p.replaceSegments(func(segs []*segment) []*segment { return append(segs, s) })
	return nil
}

// roll closes the active segment; the next write makes a new one.
func (w *segmentWriter) roll(p *Partition) {
	s := p.w.active
	if s == nil {
		return
	}
	p.w.active = nil
	if err := s.storeIndex(true); err != nil {
		w.l.cfg.Logger.Warn("index not stored, it will be rebuilt when needed", "err", err)
	}
	s.rest()
}
