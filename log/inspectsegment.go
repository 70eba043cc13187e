package log

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"path/filepath"
)

// BatchInfo is one batch of a segment.
type BatchInfo struct {
	Position      int64  `json:"position"`
	Size          int    `json:"size"`
	BaseOffset    Offset `json:"base_offset"`
	LastOffset    Offset `json:"last_offset"`
	Count         int    `json:"records"`
	LeaderEpoch   Epoch  `json:"leader_epoch"`
	Compression   string `json:"compression"`
	LogAppendTime bool   `json:"log_append_time,omitempty"`
	MaxTimestamp  int64  `json:"max_timestamp"`            // ms
	DeleteHorizon int64  `json:"delete_horizon,omitempty"` // ms
	Transactional bool   `json:"transactional,omitempty"`
	Control       bool   `json:"control,omitempty"`
	Thinned       bool   `json:"thinned,omitempty"` // the offsets that have no record had one, which was given up for room
	ProducerID    int64  `json:"producer_id"`       // -1 = none, and so are the next three
	ProducerEpoch int16  `json:"producer_epoch"`
	BaseSequence  int32  `json:"base_sequence"`
	LastSequence  int32  `json:"last_sequence"`
	Fault         string `json:"fault,omitempty"` // empty: checksum and, if read, records are right
}

func batchInfo(b Batch, position int64) BatchInfo {
	info := BatchInfo{
		Position: position, Size: b.Size(), BaseOffset: b.BaseOffset(), LastOffset: b.LastOffset(), Count: b.Count(),
		LeaderEpoch: b.LeaderEpoch(), Compression: b.Compression().String(), LogAppendTime: b.TimestampType() == LogAppendTime,
		MaxTimestamp: b.MaxTimestamp(), Transactional: b.IsTransactional(), Control: b.IsControl(), Thinned: b.IsThinned(),
		ProducerID: b.ProducerID(), ProducerEpoch: b.ProducerEpoch(), BaseSequence: b.BaseSequence(), LastSequence: b.LastSequence(),
	}
	if h, ok := b.DeleteHorizon(); ok {
		info.DeleteHorizon = h
	}
	return info
}

// String is one line.
func (b BatchInfo) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%10d %8d B  offsets %d to %d  %d records  epoch %d  %s  %s", b.Position, b.Size, b.BaseOffset, b.LastOffset, b.Count, b.LeaderEpoch, b.Compression, formatMillis(b.MaxTimestamp))
	if b.LogAppendTime {
		s.WriteString(" (append time)")
	}
	if b.ProducerID >= 0 {
		fmt.Fprintf(&s, "  producer %d/%d sequence %d to %d", b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.LastSequence)
	}
	if b.Transactional {
		s.WriteString("  transactional")
	}
	if b.Control {
		s.WriteString("  control")
	}
	if b.Thinned {
		s.WriteString("  thinned")
	}
	if b.DeleteHorizon > 0 {
		fmt.Fprintf(&s, "  tombstones until %s", formatMillis(b.DeleteHorizon))
	}
	if b.Fault != "" {
		fmt.Fprintf(&s, "  DAMAGED: %s", b.Fault)
	} else {
		s.WriteString("  crc ok")
	}
	return s.String()
}

// segmentWalk is one pass over a segment file.
type segmentWalk struct {
	in     *Inspector
	ctx    context.Context
	f      io.ReaderAt
	r      *FileReport
	size   int64
	scan   batchScanner
	reader RecordReader
	next   Offset // lowest offset that may come
	risen  int64  // position of the batch where the epoch rose last
	lost   bool   // what came before was no sound batch: what comes may begin later
}

func (in *Inspector) segment(ctx context.Context, f io.ReaderAt, r *FileReport) error {
	w := &segmentWalk{in: in, ctx: ctx, f: f, r: r, size: r.Bytes}
	if base, ok := parseBase(r.Name); ok {
		w.next = base
	}
	w.scan.reset(f, 0, w.size)
	for {
		b, err := w.scan.next()
		switch {
		case err == nil:
			if err := w.batch(b); err != nil {
				return err
			}
		case err == io.EOF:
			return nil
		case errors.Is(err, ErrCorrupt), errors.Is(err, ErrShort), errors.Is(err, ErrTooLarge):
			more, err := w.skip(err)
			if err != nil || !more {
				return err
			}
		default:
			return err
		}
	}
}

func (w *segmentWalk) batch(b Batch) error {
	info := batchInfo(b, w.scan.position)
	err := b.CheckCRC()
	if err == nil {
		w.unbelieve(b)
	}
	switch {
	case err != nil:
	case b.LastOffset() < b.BaseOffset():
		err = fmt.Errorf("last offset delta %d: %w", b.i32(atLastDelta), ErrCorrupt)
	case b.BaseOffset() < w.next:
		err = fmt.Errorf("offset %d where at least %d is due: %w", b.BaseOffset(), w.next, ErrCorrupt)
	case w.r.dense && b.BaseOffset() > w.next && !w.lost:
		err = fmt.Errorf("offset %d where %d is due: %w", b.BaseOffset(), w.next, ErrCorrupt)
	case w.strays(b):
		e, _ := w.r.epochs.at(b.BaseOffset())
		err = fmt.Errorf("leader epoch %d, and offset %d is of epoch %d: %w", b.LeaderEpoch(), b.BaseOffset(), e, ErrCorrupt)
	case b.LeaderEpoch() < w.r.lastEpoch:
		err = fmt.Errorf("leader epoch %d after %d: %w", b.LeaderEpoch(), w.r.lastEpoch, ErrCorrupt)
	case w.in.Records:
		err = w.records(b)
	}
	if w.lost = err != nil; w.lost {
		info.Fault = err.Error()
		w.r.fault(info.Position, "%v", err)
	} else {
		if w.r.First == nil {
			first := b.BaseOffset()
			w.r.First = &first
		}
		next := b.NextOffset()
		if b.LeaderEpoch() > w.r.lastEpoch {
			w.r.lastEpoch, w.risen = b.LeaderEpoch(), info.Position
		}
		w.r.Next, w.next = &next, next
		if info.Position+int64(info.Size) <= w.r.settled {
			w.r.settledNext = next
		}
	}
	w.r.Entries++
	w.r.Records += int64(max(0, b.Count()))
	if err := w.in.line(info); err != nil {
		return err
	}
	return w.in.advance(w.ctx, int64(len(b)))
}

// unbelieve: epochs never fall. Where the index has the lower one, the batch at which they rose was wrong, which an index
// that is behind did not show.
func (w *segmentWalk) unbelieve(b Batch) {
	e, _ := w.r.epochs.at(b.BaseOffset())
	if e >= 0 && b.LeaderEpoch() == e && e < w.r.lastEpoch {
		w.r.fault(w.risen, "leader epoch %d before epoch %d, which the index has at offset %d", w.r.lastEpoch, e, b.BaseOffset())
		w.r.lastEpoch = e
	}
}

// strays holds the batch's epoch against the index. One that may be behind only shows that an epoch is too low: what it
// has not heard of is newer than all that it has.
func (w *segmentWalk) strays(b Batch) bool {
	e, _ := w.r.epochs.at(b.BaseOffset())
	return strays(b, e) && !(w.r.behind && b.LeaderEpoch() > e)
}

// records reads all records: their number, their offsets within the batch and in order.
func (w *segmentWalk) records(b Batch) error {
	if err := w.reader.Reset(b); err != nil {
		return err
	}
	w.reader.skipHeaders = true
	low := b.BaseOffset()
	var rec Record
	for {
		ok, err := w.reader.Next(&rec)
		if err != nil || !ok {
			return err
		}
		if rec.Offset < low || rec.Offset > b.LastOffset() {
			return fmt.Errorf("record at offset %d in a batch from %d to %d: %w", rec.Offset, low, b.LastOffset(), ErrCorrupt)
		}
		low = rec.Offset + 1
	}
}

// skip is called where no batch begins. If a sound one follows somewhere, what lies between is
// damage and the walk goes on there; if none does, it is the file's tail.
func (w *segmentWalk) skip(cause error) (more bool, err error) {
	at := w.scan.pos
	found, err := w.findBatch(at + 1)
	if err != nil {
		return false, err
	}
	if at == 0 && found == w.size {
		magic, err := w.newer()
		if err != nil {
			return false, err
		}
		if magic > 0 {
			return false, fmt.Errorf("batches of format %d, this weir knows %d: %w", magic, batchMagic, ErrNewerFormat)
		}
	}
	if err := w.in.advance(w.ctx, found-at); err != nil {
		return false, err
	}
	if found == w.size {
		w.r.Tail = &FileFault{at, fmt.Sprintf("%d bytes are no whole batch (%v)", w.size-at, cause)}
		return false, nil
	}
	w.r.fault(at, "%d bytes are no batch (%v)", found-at, cause)
	w.lost = true
	w.scan.reset(w.f, found, w.size)
	return true, nil
}

// newer returns the format of the first batch if it looks like a later one; 0 if it is a damaged one of
// ours, whose checksum is still right.
func (w *segmentWalk) newer() (int8, error) {
	var h [BatchHeaderSize]byte
	if n, err := w.f.ReadAt(h[:], 0); n < len(h) {
		if err == io.EOF {
			err = nil
		}
		return 0, err
	}
	magic := int8(h[atMagic])
	size := int64(int32(binary.BigEndian.Uint32(h[atLength:]))) + batchOverhead
	if magic <= batchMagic || magic >= 16 || size < BatchHeaderSize || size > min(w.size, maxScannedBatch) {
		return 0, nil
	}
	whole := make([]byte, size)
	if _, err := w.f.ReadAt(whole, 0); err != nil && err != io.EOF {
		return 0, err
	}
	if Batch(whole).CheckCRC() == nil {
		return 0, nil
	}
	return magic, nil
}

// findBatch returns the position of the first batch at or after from whose checksum is right, or the size.
func (w *segmentWalk) findBatch(from int64) (int64, error) {
	buf := make([]byte, scanChunk)
	var whole []byte
	for at := from; at+BatchHeaderSize <= w.size; {
		n, err := w.f.ReadAt(buf[:min(int64(len(buf)), w.size-at)], at)
		if n < BatchHeaderSize {
			if err == io.EOF {
				return w.size, nil
			}
			return 0, err
		}
		for i := 0; i+BatchHeaderSize <= n; i++ {
			if buf[i+atMagic] != batchMagic {
				continue
			}
			size := int64(binary.BigEndian.Uint32(buf[i+atLength:])) + batchOverhead
			start := at + int64(i)
			if size < BatchHeaderSize || size > maxScannedBatch || start+size > w.size || buf[i] != 0 && buf[i] != 0xff {
				continue
			}
			if int64(cap(whole)) < size {
				whole = make([]byte, size)
			}
			if _, err := w.f.ReadAt(whole[:size], start); err != nil && err != io.EOF {
				return 0, err
			}
			if Batch(whole[:size]).CheckCRC() == nil {
				return start, nil
			}
		}
		at += int64(n - BatchHeaderSize + 1)
		if err := w.ctx.Err(); err != nil {
			return 0, err
		}
	}
	return w.size, nil
}

// parseBase returns the first offset that a segment's or index' name states.
func parseBase(name string) (Offset, bool) {
	name = filepath.Base(name)
	if len(name) < 20 {
		return 0, false
	}
	o, err := strconv.ParseUint(name[:20], 10, 63)
	return Offset(o), err == nil
}

func (in *Inspector) offsetIndex(b []byte, r *FileReport) error {
	r.Entries = int64(len(b) / offsetIndexEntry)
	var last offsetEntry
	for i := 0; i+offsetIndexEntry <= len(b); i += offsetIndexEntry {
		e := offsetEntry{binary.LittleEndian.Uint32(b[i:]), binary.LittleEndian.Uint32(b[i+4:])}
		if i > 0 && (e.relative <= last.relative || e.position <= last.position) {
			r.fault(int64(i), "entry %d (offset +%d at %d) does not follow the one before", i/offsetIndexEntry, e.relative, e.position)
			return nil
		}
		last = e
	}
	indexTail(b, offsetIndexEntry, r)
	return nil
}

func (in *Inspector) timeIndex(b []byte, r *FileReport) error {
	r.Entries = int64(len(b) / timeIndexEntry)
	var last timeEntry
	for i := 0; i+timeIndexEntry <= len(b); i += timeIndexEntry {
		e := timeEntry{int64(binary.LittleEndian.Uint64(b[i:])), binary.LittleEndian.Uint32(b[i+8:])}
		if e.relative >= tixUntrusted {
			// The trailer of a closed segment: when it was last appended to.
			clock := "trusted"
			if e.relative == tixUntrusted {
				clock = "not trusted"
			}
			r.note("last append %s by a clock %s", formatMillis(e.timestamp), clock)
			r.Entries--
			continue
		}
		if i > 0 && (e.relative < last.relative || e.timestamp < last.timestamp) {
			r.fault(int64(i), "entry %d (%s at offset +%d) does not follow the one before", i/timeIndexEntry, formatMillis(e.timestamp), e.relative)
			return nil
		}
		last = e
	}
	indexTail(b, timeIndexEntry, r)
	return nil
}

func indexTail(b []byte, entry int, r *FileReport) {
	if cut := len(b) % entry; cut > 0 {
		r.Tail = &FileFault{int64(len(b) - cut), fmt.Sprintf("%d bytes of an entry of %d", cut, entry)}
	}
}
