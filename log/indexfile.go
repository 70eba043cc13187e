package log

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// storeIndex brings the files up to date; closing adds the trailer and drops the entries from memory. Only
// the segment writer calls it; the lock is not held while it writes.
func (s *segment) storeIndex(closing bool) error {
	s.mu.Lock()
	if !s.index.loaded {
		s.mu.Unlock()
		return nil
	}
	out := s.index.pending(closing)
	s.mu.Unlock()
	err := s.writeIndex(out)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.index.storedOffsets, s.index.storedTimes = len(s.index.offsets), len(s.index.times)
	}
	if closing {
		s.index.loaded, s.index.offsets, s.index.times = false, nil, nil
	}
	return err
}

// indexBytes are entries on their way to the files.
type indexBytes struct {
	offsetsAt, timesAt int64
	offsets, times     []byte
}

// pending encodes the entries that are not in the files yet.
func (x *segmentIndex) pending(closing bool) (out indexBytes) {
	le := binary.LittleEndian
	out.offsetsAt, out.timesAt = int64(x.storedOffsets)*offsetIndexEntry, int64(x.storedTimes)*timeIndexEntry
	out.offsets = make([]byte, 0, (len(x.offsets)-x.storedOffsets)*offsetIndexEntry)
	out.times = make([]byte, 0, (len(x.times)-x.storedTimes+2)*timeIndexEntry)
	for _, e := range x.offsets[x.storedOffsets:] {
		out.offsets = le.AppendUint32(le.AppendUint32(out.offsets, e.relative), e.position)
	}
	put := func(timestamp int64, relative uint32) {
		out.times = le.AppendUint32(le.AppendUint64(out.times, uint64(timestamp)), relative)
	}
	for _, e := range x.times[x.storedTimes:] {
		put(e.timestamp, e.relative)
	}
	if closing {
		// The greatest timestamp of all, then the trailer.
		if n := len(x.times); n > 0 && x.maxTimestamp > x.times[n-1].timestamp {
			put(x.maxTimestamp, x.times[n-1].relative)
		}
		if x.trusted {
			put(x.lastAppend.UnixMilli(), tixTrusted)
		} else if !x.lastAppend.IsZero() {
			put(x.lastAppend.UnixMilli(), tixUntrusted)
		}
	}
	return out
}

func (s *segment) writeIndex(out indexBytes) error {
	if err := s.storeTail(".idx", out.offsetsAt, out.offsets); err != nil {
		return err
	}
	return s.storeTail(".tix", out.timesAt, out.times)
}

// storeTail makes an index file end with buf at position at.
func (s *segment) storeTail(ext string, at int64, buf []byte) error {
	name := segmentName(s.dir, s.base, ext)
	f, err := s.fs.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return fmt.Errorf("store index %s: %w", name, err)
	}
	defer f.Close()
	if err = f.Truncate(at); err == nil && len(buf) > 0 {
		_, err = f.WriteAt(buf, at)
	}
	if err != nil {
		return fmt.Errorf("store index %s: %w", name, err)
	}
	return nil
}

// loadIndex takes into memory what the files know of the first size bytes and scans the rest: what an
// active segment needs at start. end is the offset after its last batch. Batches that are scanned are held against epochs.
func (s *segment) loadIndex(f vfs.File, size int64, interval int, epochs epochList) (end Offset, err error) {
	var x segmentIndex
	pos := int64(0)
	if idx, err := s.fs.OpenFile(segmentName(s.dir, s.base, ".idx"), os.O_RDONLY); err == nil {
		x.offsets = readOffsets(idx, size)
		_ = idx.Close()
	}
	if n := len(x.offsets); n > 0 {
		// The last entry is checked against the segment, and its batch scanned again.
		last := x.offsets[n-1]
		base := s.base + Offset(last.relative)
		if _, _, err := seek(f, int64(last.position), size, base, base, base); err == nil {
			pos = int64(last.position)
		} else {
			x.offsets = nil
		}
	}
	if len(x.offsets) > 0 {
		if tix, err := s.fs.OpenFile(segmentName(s.dir, s.base, ".tix"), os.O_RDONLY); err == nil {
			x.times = readTimes(tix, x.offsets[len(x.offsets)-1].relative)
			_ = tix.Close()
		}
	}
	if len(x.times) == 0 {
		x.offsets, pos = nil, 0
	} else {
		x.maxTimestamp = x.times[len(x.times)-1].timestamp
		x.factsKnown = true
	}
	x, end, err = scanIndex(f, s.base, pos, size, interval, x, epochs)
	if err != nil && err != io.EOF {
		return 0, fmt.Errorf("segment %s: %w", s.path(), err)
	}
	x.loaded = true
	// What the files hold beyond the checked entries is not trusted: they are written again from here.
	x.storedOffsets, x.storedTimes = 0, 0
	s.mu.Lock()
	s.index = x
	s.mu.Unlock()
	return end, nil
}

// readOffsets returns the longest sensible beginning of an .idx file.
func readOffsets(f vfs.File, size int64) []offsetEntry {
	b := readAll(f, (size/64+1)*offsetIndexEntry)
	var out []offsetEntry
	for ; len(b) >= offsetIndexEntry; b = b[offsetIndexEntry:] {
		e := offsetEntry{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
		if n := len(out); int64(e.position) >= size || n == 0 && e.position != 0 ||
			n > 0 && (e.position <= out[n-1].position || e.relative <= out[n-1].relative) {
			break
		}
		out = append(out, e)
	}
	return out
}

// readTimes returns the longest sensible beginning of a .tix file, up to a relative offset.
func readTimes(f vfs.File, upTo uint32) []timeEntry {
	size, err := f.Size()
	if err != nil {
		return nil
	}
	b := readAll(f, size)
	var out []timeEntry
	for ; len(b) >= timeIndexEntry; b = b[timeIndexEntry:] {
		e := timeEntry{int64(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint32(b[8:])}
		if n := len(out); e.relative > upTo || n > 0 && (e.timestamp < out[n-1].timestamp || e.relative < out[n-1].relative) {
			break
		}
		out = append(out, e)
	}
	return out
}

// readAll reads at most limit bytes; nil when that fails.
func readAll(f vfs.File, limit int64) []byte {
	size, err := f.Size()
	if err != nil {
		return nil
	}
	b := make([]byte, min(size, limit))
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil
	}
	return b
}

// loadFactsLocked reads the end of a closed segment's .tix, once.
func (s *segment) loadFactsLocked() {
	x := &s.index
	if x.loaded || x.factsKnown || x.factsTried {
		return
	}
	x.factsTried = true
	f, err := s.fs.OpenFile(segmentName(s.dir, s.base, ".tix"), os.O_RDONLY)
	if err != nil {
		return
	}
	defer f.Close()
	n, err := entriesIn(f, timeIndexEntry)
	if err != nil {
		return
	}
	from := max(0, n-2)
	b := make([]byte, (n-from)*timeIndexEntry)
	if _, err := f.ReadAt(b, int64(from)*timeIndexEntry); err != nil && err != io.EOF {
		return
	}
	for ; len(b) > 0; b = b[timeIndexEntry:] {
		t, r := int64(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint32(b[8:])
		if r >= tixUntrusted {
			x.lastAppend, x.trusted = time.UnixMilli(t), r == tixTrusted
			x.factsKnown = len(b) == timeIndexEntry
		} else {
			x.maxTimestamp = t
		}
	}
}
