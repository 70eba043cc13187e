package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sort"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// Indexes are hints (J3): never synced, checked against the segment whenever they are used, rebuilt when
// missing, short or wrong.

const (
	offsetIndexEntry = 8
	timeIndexEntry   = 12
	// The last entry of a closed segment's .tix is a trailer: wall time of the last append, and whether the
	// clock was trusted then. Without it retention by age takes the segment for fresh.
	tixTrusted   = math.MaxUint32
	tixUntrusted = math.MaxUint32 - 1
)

type offsetEntry struct{ relative, position uint32 }

// timeEntry: no record up to the batch at relative is later than timestamp.
type timeEntry struct {
	timestamp int64
	relative  uint32
}

// segmentIndex is the in-memory index of an active segment. For a closed one only the facts below the
// entries are kept and the entries are read from the files. Guarded by segment.mu.
type segmentIndex struct {
	loaded  bool // entries are in memory
	offsets []offsetEntry
	times   []timeEntry
	since   int64 // log bytes since the last entry
	// entries already in the files
	storedOffsets, storedTimes int

	factsKnown   bool // the facts below were read or computed
	factsTried   bool // reading them was tried
	maxTimestamp int64
	lastAppend   time.Time
	trusted      bool
}

// addIndex notes the batch of size bytes at position, of which b may be the header only. Only the segment
// writer calls it. A time entry always stands beside an offset entry, so that both can be cut together.
func (s *segment) addIndex(b Batch, size, position int64, interval int, now time.Time, trusted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &s.index
	if t := b.MaxTimestamp(); !x.factsKnown || t > x.maxTimestamp {
		x.maxTimestamp = t
	}
	x.factsKnown = true
	x.lastAppend, x.trusted = now, trusted
	if len(x.offsets) == 0 || x.since >= int64(interval) {
		relative := uint32(b.BaseOffset() - s.base)
		x.offsets = append(x.offsets, offsetEntry{relative, uint32(position)})
		if n := len(x.times); n == 0 || x.maxTimestamp > x.times[n-1].timestamp {
			x.times = append(x.times, timeEntry{x.maxTimestamp, relative})
		}
		x.since = 0
	}
	x.since += size
}

// cutIndex forgets entries at or past position, which becomes the size.
func (s *segment) cutIndex(position int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &s.index
	n := sort.Search(len(x.offsets), func(i int) bool { return int64(x.offsets[i].position) >= position })
	x.offsets = x.offsets[:n]
	x.storedOffsets = min(x.storedOffsets, n)
	x.since = math.MaxInt32 / 2 // the next batch gets an entry
	// Times cannot be cut to a position exactly: keep those of batches that surely stay.
	var limit uint32
	if n > 0 {
		limit = x.offsets[n-1].relative
	}
	m := sort.Search(len(x.times), func(i int) bool { return x.times[i].relative > limit })
	x.times = x.times[:m]
	x.storedTimes = min(x.storedTimes, m)
	// maxTimestamp may now be too high, which only makes a search by time look here in vain.
}

// floor finds the last known position at or before offset.
func (s *segment) floor(target Offset) (offsetEntry, error) {
	relative := uint32(max(0, min(target-s.base, math.MaxUint32)))
	s.mu.Lock()
	if s.index.loaded {
		defer s.mu.Unlock()
		o := s.index.offsets
		i := sort.Search(len(o), func(i int) bool { return o[i].relative > relative }) - 1
		if i < 0 {
			return offsetEntry{}, nil
		}
		return o[i], nil
	}
	s.mu.Unlock()
	f, err := s.fs.OpenFile(segmentName(s.dir, s.base, ".idx"), os.O_RDONLY)
	if err != nil {
		return offsetEntry{}, err
	}
	defer f.Close()
	n, err := entriesIn(f, offsetIndexEntry)
	if err != nil {
		return offsetEntry{}, err
	}
	var fault error
	i := sort.Search(n, func(i int) bool {
		e, err := readOffsetEntry(f, i)
		fault = errors.Join(fault, err)
		return e.relative > relative
	}) - 1
	if fault != nil || i < 0 {
		return offsetEntry{}, fault
	}
	return readOffsetEntry(f, i)
}

func entriesIn(f vfs.File, entry int64) (int, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	if size == 0 || size%entry != 0 {
		return 0, fmt.Errorf("index of %d bytes: %w", size, ErrCorrupt)
	}
	return int(size / entry), nil
}

func readOffsetEntry(f io.ReaderAt, i int) (offsetEntry, error) {
	var b [offsetIndexEntry]byte
	if _, err := f.ReadAt(b[:], int64(i)*offsetIndexEntry); err != nil {
		return offsetEntry{}, err
	}
	return offsetEntry{binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])}, nil
}

// locate returns the position of the first batch whose last offset is not below target, and the lowest offset at which
// that may begin; io.EOF when the segment has none. interval is for a rebuild.
func (s *segment) locate(f vfs.File, target Offset, interval int) (int64, Offset, error) {
	size := s.size.Load()
	at, err := s.floor(target)
	if err == nil && int64(at.position) < size {
		base := s.base + Offset(at.relative)
		pos, due, err := seek(f, int64(at.position), size, base, base, target)
		if err == nil || err == io.EOF {
			return pos, due, err
		}
	}
	// The hint was wrong or missing: begin at the start, which is always right, and mend the index.
	if err := s.rebuildIndex(f, size, interval); err != nil {
		return 0, 0, err
	}
	return seek(f, 0, size, -1, s.base, target)
}

// seek walks batches from pos; the first must begin at base, unless base is -1, and none below due, the end of the one
// before. It returns the position of the one it looks for and where that is due.
func seek(f io.ReaderAt, pos, size int64, base, due, target Offset) (int64, Offset, error) {
	h := newHeaderScanner(f, pos, size)
	defer h.free()
	for {
		if err := h.next(); err != nil {
			return 0, 0, err
		}
		first := h.header.BaseOffset()
		if base >= 0 && h.start == pos && first != base {
			return 0, 0, fmt.Errorf("index points at offset %d for %d: %w", first, base, ErrCorrupt)
		}
		if first < due {
			return 0, 0, fmt.Errorf("batch at %d begins at offset %d after %d: %w", h.start, first, due, ErrCorrupt)
		}
		if h.header.LastOffset() >= target {
			return h.start, due, nil
		}
		due = h.header.NextOffset()
	}
}

// rebuildIndex makes both indexes anew from the first size bytes of the segment. For a closed segment it
// writes the files; failing to is not an error, since the next look-up would only be slow again.
func (s *segment) rebuildIndex(f vfs.File, size int64, interval int) error {
	x, _, err := scanIndex(f, s.base, 0, size, interval, segmentIndex{}, nil)
	if err != nil && err != io.EOF {
		return fmt.Errorf("segment %s: %w", s.path(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x.lastAppend, x.trusted = s.index.lastAppend, s.index.trusted
	if s.index.loaded {
		return nil // entries in memory were never read from a file; the writer goes on adding to them
	}
	_ = s.writeIndex(x.pending(true))
	x.offsets, x.times = nil, nil
	s.index = x
	return nil
}

// scanIndex extends x over the batches from pos to size; end is the offset after the last. Their epochs are held against
// epochs, unless that is nil.
func scanIndex(f io.ReaderAt, base Offset, pos, size int64, interval int, x segmentIndex, epochs epochList) (_ segmentIndex, end Offset, err error) {
	t := &segment{base: base, index: x}
	end = base
	h := newHeaderScanner(f, pos, size)
	defer h.free()
	for {
		if err := h.next(); err != nil {
			return t.index, end, err
		}
		if h.header.BaseOffset() < end {
			return t.index, end, fmt.Errorf("batch at %d begins at offset %d after %d: %w", h.start, h.header.BaseOffset(), end, ErrCorrupt)
		}
		if e, _ := epochs.at(h.header.BaseOffset()); strays(h.header, e) {
			return t.index, end, fmt.Errorf("batch at %d is of epoch %d, and its offset of epoch %d: %w", h.start, h.header.LeaderEpoch(), e, ErrCorrupt)
		}
		end = h.header.NextOffset()
		t.addIndex(h.header, h.end-h.start, h.start, interval, x.lastAppend, x.trusted)
	}
}

// latest is the greatest timestamp in the segment, from the end of its .tix; the greatest possible when
// that is not known, so that a search looks inside.
func (s *segment) latest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loadFactsLocked()
	if !s.index.factsKnown {
		return math.MaxInt64
	}
	return s.index.maxTimestamp
}

// appended is when the last batch was written here, and whether the clock could be trusted then; ok is
// false when nobody knows.
func (s *segment) appended() (at time.Time, trusted, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loadFactsLocked()
	return s.index.lastAppend, s.index.trusted, !s.index.lastAppend.IsZero()
}

// floorTime is an offset below which no record of the segment is as late as ts.
func (s *segment) floorTime(ts int64) (Offset, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	times := s.index.times
	if !s.index.loaded {
		f, err := s.fs.OpenFile(segmentName(s.dir, s.base, ".tix"), os.O_RDONLY)
		if err != nil {
			return 0, false
		}
		defer f.Close()
		times = readTimes(f, tixUntrusted-1)
	}
	i := sort.Search(len(times), func(i int) bool { return times[i].timestamp >= ts }) - 1
	if i < 0 {
		return 0, false
	}
	return s.base + Offset(times[i].relative), true
}
