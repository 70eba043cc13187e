package log

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sort"
	"sync"
	"syscall"
)

// Read appends to buf[:0] whole batches that begin below limit, the first of which holds from (or, in a
// compacted log, the first offset after it), and returns them: at most maxBytes, but at least one batch.
// At limit, and where the committer has not taken the batch yet, it returns nothing. The bytes are the
// caller's. Batches from segments are checked against their CRC (A8, D7).
//
// Errors: ErrOutOfRange below LogStart or above LogEnd, ErrCorrupt, ErrClosed.
func (p *Partition) Read(from, limit Offset, maxBytes int, buf []byte) ([]byte, error) {
	return p.read(from, limit, maxBytes, false, buf)
}

// ReadWithin is Read for who has no use for a first batch larger than maxBytes, and gets nothing then. Such a batch is not read, and no room is made for it.
func (p *Partition) ReadWithin(from, limit Offset, maxBytes int, buf []byte) ([]byte, error) {
	return p.read(from, limit, maxBytes, true, buf)
}

func (p *Partition) read(from, limit Offset, maxBytes int, within bool, buf []byte) ([]byte, error) {
	buf = buf[:0]
	for look := 0; ; look++ {
		if start, end := p.LogStart(), p.LogEnd(); from < start || from > end {
			return buf, fmt.Errorf("offset %d of %s, log has %d to %d: %w", from, p.id, start, end, ErrOutOfRange)
		}
		if from >= limit {
			return buf, nil
		}
		out, found, err := p.readTail(from, limit, maxBytes, within, buf)
		if found || err != nil {
			return out, err
		}
		out, err = p.readSegments(from, limit, maxBytes, within, buf)
		if err == errNoRoom {
			return buf, nil
		}
		if err == errSegmentGone {
			if p.l.ended.Load() {
				return buf, p.l.offline()
			}
			continue // retention or compaction took it away: look again
		}
		if errors.Is(err, ErrCorrupt) && look == 0 {
			p.hints.forget()
			continue // a truncation may just have put another batch there
		}
		if errors.Is(err, ErrCorrupt) {
			p.l.stats.corruptReads.Add(1)
		}
		if err != nil || len(out) > 0 && (Batch(out).BaseOffset() <= from || p.sparse()) {
			return out, err
		}
		// Nothing holds from. That is well where compaction removed it; elsewhere it is a hole (E7), unless
		// the log start has just passed it or the batch has just moved.
		switch next, ok := p.tailStart(); {
		case !p.sparse() && look > 0 && from >= p.LogStart() && from < p.LogEnd():
			return buf[:0], p.readHole(from)
		case !p.sparse():
		case !ok || next <= from:
			return out, nil
		default:
			from = next
		}
	}
}

// sparse: offsets may be missing, because the partition is or was compacted. The file that says how far is made
// before the first swap, and its name is durable with it.
func (p *Partition) sparse() bool {
	if p.config.Load().Compact {
		return true
	}
	_, err := p.l.cfg.FS.Stat(filepath.Join(p.dir, cleanedName))
	return err == nil
}

func (p *Partition) readHole(from Offset) error {
	p.l.stats.corruptReads.Add(1)
	return fmt.Errorf("offset %d of partition %s of %s is in no segment: one is missing: %w", from, p.id, p.topic, ErrCorrupt)
}

// tailStart is the first offset that memory holds.
func (p *Partition) tailStart() (Offset, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if live := p.tail.live(); len(live) > 0 {
		return live[0].base, true
	}
	if p.open != nil {
		return p.openBase, true
	}
	return 0, false
}

// readTail reads from memory; found is false when from is below what memory holds.
func (p *Partition) readTail(from, limit Offset, maxBytes int, within bool, buf []byte) (_ []byte, found bool, err error) {
	var held [64]*chunk
	n := 0
	p.mu.Lock()
	if p.refuse != nil && !errors.Is(p.refuse, ErrReadOnly) {
		p.mu.Unlock()
		return buf, true, p.refuse
	}
	live := p.tail.live()
	if len(live) == 0 || from < live[0].base {
		// Nothing sealed at or below from in memory; at the end there is nothing sealed at all.
		atEnd := p.open != nil && from >= p.openBase || from >= Offset(p.end.Load())
		p.mu.Unlock()
		return buf, atEnd, nil
	}
	i := sort.Search(len(live), func(i int) bool { return live[i].next > from })
	for bytes := 0; i < len(live) && n < len(held) && live[i].base < limit; i++ {
		bytes += len(live[i].batch)
		if (n > 0 || within) && bytes > maxBytes {
			break
		}
		live[i].hold()
		held[n] = live[i]
		n++
	}
	p.mu.Unlock()
	for _, c := range held[:n] {
		buf = append(buf, c.batch...)
		c.release()
	}
	return buf, true, nil
}

// readSegments reads from files.
func (p *Partition) readSegments(from, limit Offset, maxBytes int, within bool, buf []byte) ([]byte, error) {
	segs := *p.segs.Load()
	i := max(0, sort.Search(len(segs), func(i int) bool { return segs[i].base > from })-1)
	for ; i < len(segs) && segs[i].base < limit; i++ {
		out, err := p.readSegment(segs[i], from, limit, maxBytes, within, buf)
		if err != nil || len(out) > 0 {
			return out, err
		}
	}
	return buf, nil
}

func (p *Partition) readSegment(s *segment, from, limit Offset, maxBytes int, within bool, buf []byte) ([]byte, error) {
	f, err := s.open()
	if err != nil {
		return buf, lostOnDisk(err)
	}
	defer s.done(p.l.cfg.MaxOpenFiles)
	size := s.size.Load()
	due := from
	position, ok := p.hints.find(s, from)
	if !ok {
		position, due, err = s.locate(f, from, p.config.Load().IndexIntervalBytes)
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, readError(s, from, err)
		}
	}
	want := max(maxBytes, BatchHeaderSize)
	for {
		n := int(min(int64(want), size-position))
		if n < BatchHeaderSize {
			return buf, nil
		}
		buf = grow(buf[:0], n)[:n]
		if within && maxBytes < usualMaxBatch { // look first: much might be read for nothing
			if _, err := f.ReadAt(buf[:BatchHeaderSize], position); err != nil {
				return buf[:0], readError(s, from, err)
			}
			if batchOverhead+int64(Batch(buf).i32(atLength)) > int64(maxBytes) {
				return buf[:0], errNoRoom
			}
		}
		if _, err := f.ReadAt(buf, position); err != nil {
			return buf[:0], readError(s, from, err)
		}
		q := sequence{p: p, due: due}
		end, next, err := q.wholeBatches(buf, limit)
		if q.gap && !q.confirmed(f, s, position+int64(q.seen), size) {
			if q.sure > 0 {
				return buf[:q.sure], nil
			}
			end, err = 0, fmt.Errorf("offset %d is past what follows: %w", q.due-1, ErrCorrupt)
		}
		if end > 0 {
			if position+int64(end) < size {
				p.hints.put(s, next, position+int64(end))
			}
			return buf[:end], nil
		}
		if err == errBeyond {
			return buf[:0], nil
		}
		if first := int64(Batch(buf).i32(atLength)) + batchOverhead; err == ErrShort && first > int64(n) && position+first <= size {
			if within {
				return buf[:0], errNoRoom
			}
			want = int(first)
			continue
		}
		return buf[:0], readError(s, from, fmt.Errorf("batch at %d: %w", position, asCorrupt(err)))
	}
}

func readError(s *segment, from Offset, err error) error {
	return fmt.Errorf("read offset %d from segment %s: %w", from, s.path(), lostOnDisk(err))
}

// lostOnDisk makes damage (E7) of an error that says that the disk has not what it had: a cell that cannot be read, a check of the file system's own
// that fails, a file that is cut off or gone. Others pass by themselves, as being out of descriptors does.
func lostOnDisk(err error) error {
	for _, lost := range []error{syscall.EIO, syscall.EBADMSG, io.EOF, io.ErrUnexpectedEOF, fs.ErrNotExist} {
		if errors.Is(err, lost) {
			return asCorrupt(err)
		}
	}
	return err
}

// asCorrupt makes err one that wraps ErrCorrupt, without saying so twice.
func asCorrupt(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrCorrupt)
}

var (
	errBeyond = errors.New("the first batch begins at or past the limit")
	errNoRoom = errors.New("the first batch is larger than the reader wants")
)

// usualMaxBatch: few batches are larger, so that it is not worth looking whether one is.
const usualMaxBatch = mib

// batchStart is the base of the batch that holds o; o itself when none does.
func (p *Partition) batchStart(o Offset) (Offset, error) {
	p.mu.Lock()
	live := p.tail.live()
	if len(live) > 0 && o >= live[0].base {
		defer p.mu.Unlock()
		i := sort.Search(len(live), func(i int) bool { return live[i].next > o })
		if i < len(live) {
			return live[i].base, nil
		}
		return o, nil
	}
	p.mu.Unlock()
	b, err := p.readSegments(o, o+1, BatchHeaderSize, false, nil)
	if errors.Is(err, ErrCorrupt) {
		p.l.stats.corruptReads.Add(1)
	}
	if err != nil || len(b) == 0 {
		return o, err
	}
	return min(o, Batch(b).BaseOffset()), nil
}

// OffsetForTime finds the first record below limit whose timestamp is at least ts, and its timestamp;
// (-1, -1) if there is none.
func (p *Partition) OffsetForTime(ts int64, limit Offset) (Offset, int64, error) {
	buf := make([]byte, 0, 64*kib)
	from := p.LogStart()
	// Segments whose records are all earlier are skipped without reading them.
	segs := *p.segs.Load()
	for i, s := range segs {
		last := i == len(segs)-1
		if !last && s.latest() >= ts || last && s.base < limit {
			if o, ok := s.floorTime(ts); ok {
				from = max(from, o)
			}
			break
		}
		if !last {
			from = max(from, segs[i+1].base)
		}
	}
	var records RecordReader
	for from < limit {
		b, err := p.Read(from, limit, 64*kib, buf)
		if errors.Is(err, ErrOutOfRange) && from < p.LogStart() {
			from = p.LogStart()
			continue
		}
		if err != nil {
			return -1, -1, err
		}
		if len(b) == 0 {
			break
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, maxJournalFileBytes)
			if err != nil {
				return -1, -1, err
			}
			b, from = b[len(batch):], batch.NextOffset()
			if batch.MaxTimestamp() < ts {
				continue
			}
			o, t, err := firstAtOrAfter(&records, batch, ts, limit, p.LogStart())
			if err != nil || o >= 0 {
				return o, t, err
			}
		}
	}
	return -1, -1, nil
}

func firstAtOrAfter(rr *RecordReader, b Batch, ts int64, limit, start Offset) (Offset, int64, error) {
	if err := rr.Reset(b); err != nil {
		return -1, -1, err
	}
	var r Record
	for {
		ok, err := rr.Next(&r)
		if err != nil || !ok {
			return -1, -1, err
		}
		if r.Timestamp >= ts && r.Offset < limit && r.Offset >= start {
			return r.Offset, r.Timestamp, nil
		}
	}
}

// seekHints remembers where recent reads of segments ended, so that a reader that goes on needs no index.
type seekHints struct {
	mu   sync.Mutex
	next int
	ring [8]struct {
		s        *segment
		offset   Offset
		position int64
	}
}

func (h *seekHints) find(s *segment, from Offset) (int64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.ring {
		if e := &h.ring[i]; e.s == s && e.offset == from {
			return e.position, true
		}
	}
	return 0, false
}

func (h *seekHints) put(s *segment, offset Offset, position int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := &h.ring[h.next]
	e.s, e.offset, e.position = s, offset, position
	h.next = (h.next + 1) % len(h.ring)
}

// forget is called when positions may have changed.
func (h *seekHints) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.ring[:])
}
