package log

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// EntryInfo is one entry of a journal file.
type EntryInfo struct {
	Position  int64  `json:"position"`
	Size      int    `json:"size"` // in the file
	Seq       uint64 `json:"seq"`
	Commit    uint64 `json:"commit"`
	CommitEnd bool   `json:"commit_end,omitempty"`
	Type      string `json:"type"`
	Partition uint32 `json:"partition"` // the journal's own number for it; 0 = none
	Epoch     Epoch  `json:"epoch"`
	Base      Offset `json:"base"`
	Count     uint32 `json:"count"`
	Detail    string `json:"detail,omitempty"`
	Fault     string `json:"fault,omitempty"` // the entry's checksum is right, but not what it holds
}

// String is one line.
func (e EntryInfo) String() string {
	s := fmt.Sprintf("%10d %8d B  seq %d  commit %d  %-10s", e.Position, e.Size, e.Seq, e.Commit, e.Type)
	if e.Partition != 0 {
		s += fmt.Sprintf("  partition #%d", e.Partition)
	}
	if e.Detail != "" {
		s += "  " + e.Detail
	}
	if e.CommitEnd {
		s += "  end of commit"
	}
	if e.Fault != "" {
		return s + "  DAMAGED: " + e.Fault
	}
	return s + "  crc ok"
}

// journalInfo is what the directory's report needs of a journal file.
type journalInfo struct {
	journalHeader
	next       uint64 // sequence after the last sound entry
	commit     uint64 // last commit seen
	whole      bool   // the last sound entry ended it
	torn       uint64 // without a sound entry at the beginning: last commit of those behind
	checkpoint *checkpoint
	changes    []journalChange
}

// allowed is the last commit that may be cut off behind the sound entries (J2).
func (info *journalInfo) allowed() uint64 {
	if info.whole {
		return info.commit + 1
	}
	return info.commit
}

// journalChange is an entry that says something of a partition besides its batches.
type journalChange struct {
	seq   uint64
	typ   entryType
	gone  bool
	pid   uint32
	epoch Epoch
	base  Offset
	id    PartitionID // PARTDEF
	topic string
}

func (in *Inspector) journal(ctx context.Context, f io.ReaderAt, r *FileReport) error {
	head := make([]byte, min(journalHeaderSize, r.Bytes))
	if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
		return err
	}
	h, err := decodeJournalHeader(head)
	switch {
	case err == nil:
	case isZero(head):
		r.note("never used")
		return nil
	default:
		if errors.Is(err, ErrNewerFormat) {
			return err
		}
		r.fault(0, "header is damaged")
		return nil
	}
	info := &journalInfo{journalHeader: h, next: h.firstSeq, whole: true}
	r.journal = info
	r.note("number %d, from entry %d", h.number, h.firstSeq)
	if r.Bytes < h.bytes {
		r.fault(r.Bytes, "the file ends here, it was made with %d bytes", h.bytes)
	}
	stop, err := in.journalEntries(ctx, f, r, info)
	if err != nil {
		return err
	}
	return in.journalTail(ctx, f, r, info, stop)
}

// journalEntries walks sound entries from the first; it returns the position after the last.
func (in *Inspector) journalEntries(ctx context.Context, f io.ReaderAt, r *FileReport, info *journalInfo) (int64, error) {
	buf := make([]byte, 0, scanChunk)
	at := int64(journalHeaderSize) // of buf[0]
	for {
		e, size, err := decodeEntry(buf)
		if err == ErrShort && size > len(buf) && at+int64(size) <= r.Bytes {
			buf = grow(buf[:0], size)
			n, err := f.ReadAt(buf[:min(int64(cap(buf)), r.Bytes-at)], at)
			if err != nil && err != io.EOF {
				return at, err
			}
			if n < size {
				return at, nil
			}
			buf = buf[:n]
			continue
		}
		if err != nil || e.salt != info.salt || e.seq != info.next {
			return at, nil
		}
		if err := in.line(in.entry(&e, at, size, r, info)); err != nil {
			return at, err
		}
		r.Entries++
		info.next, info.commit, info.whole = e.seq+1, max(info.commit, e.commit), e.flags&flagCommitEnd != 0
		at += int64(size)
		buf = buf[size:]
		if err := in.advance(ctx, int64(size)); err != nil {
			return at, err
		}
	}
}

// entry describes a sound entry and checks what it carries.
func (in *Inspector) entry(e *entry, at int64, size int, r *FileReport, info *journalInfo) EntryInfo {
	out := EntryInfo{
		Position: at, Size: size, Seq: e.seq, Commit: e.commit, CommitEnd: e.flags&flagCommitEnd != 0, Type: e.typ.String(),
		Partition: e.pid, Epoch: e.epoch, Base: e.base, Count: e.count,
	}
	var err error
	change := journalChange{seq: e.seq, typ: e.typ, gone: e.flags&flagGone != 0, pid: e.pid, epoch: e.epoch, base: e.base}
	switch e.typ {
	case entryData:
		var b Batch
		if b, err = NextBatch(e.payload, 0); err == nil {
			if err = b.CheckCRC(); err == nil && len(b) != len(e.payload) {
				err = fmt.Errorf("%d bytes follow the batch: %w", len(e.payload)-len(b), ErrCorrupt)
			}
			r.Records += int64(max(0, b.Count()))
			out.Detail = fmt.Sprintf("offsets %d to %d  %d records  epoch %d  %s", b.BaseOffset(), b.LastOffset(), b.Count(), b.LeaderEpoch(), b.Compression())
		}
	case entryEpoch:
		out.Detail = fmt.Sprintf("epoch %d from offset %d", e.epoch, e.base)
	case entryTruncate, entryLogStart, entryHighWatermark:
		out.Detail = fmt.Sprintf("offset %d", e.base)
	case entryCheckpoint:
		var c *checkpoint
		if c, err = decodeCheckpoint(e.payload); err == nil {
			info.checkpoint = c
			out.Detail = fmt.Sprintf("covers entries up to %d  %d partitions  needs files from number %d", c.covered, len(c.parts), c.oldest)
		}
	case entryPartDef:
		var id PartitionID
		var topic string
		if id, topic, err = decodePartDef(e.payload); err == nil {
			out.Detail = fmt.Sprintf("%s-%d (%s)", topic, id.Index, id.Topic)
			if change.gone {
				out.Detail += " deleted"
			}
			change.id, change.topic = id, topic
		}
	case entrySeal:
		out.Detail = fmt.Sprintf("after commit %d", e.base)
	}
	switch e.typ {
	case entryEpoch, entryTruncate, entryLogStart, entryPartDef:
		if err == nil {
			info.changes = append(info.changes, change)
		}
	}
	if err != nil {
		out.Fault = err.Error()
		r.fault(at, "entry %d: %v", e.seq, err)
	}
	return out
}

// journalTail judges what follows the last sound entry by J2: it is a torn tail, or left over from an earlier use
// of the file, unless a sound entry of this use and of a later commit is among it.
func (in *Inspector) journalTail(ctx context.Context, f io.ReaderAt, r *FileReport, info *journalInfo, stop int64) error {
	le := binary.LittleEndian
	buf := make([]byte, scanChunk)
	begun, end := 0, stop
	for at := stop; at+entryHeaderSize <= r.Bytes; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), r.Bytes-at)], at)
		if n < entryHeaderSize {
			if err == io.EOF {
				err = nil
			}
			return err
		}
		for i := 0; i+entryHeaderSize <= n; i += 8 {
			if le.Uint64(buf[i+16:]) != info.salt || le.Uint64(buf[i+8:]) < info.next {
				continue
			}
			if !mayBeEntry(buf[i:], r.Bytes-at-int64(i)) {
				continue
			}
			e, ok, err := entryAt(f, at+int64(i), r.Bytes, buf[i:n])
			if err != nil {
				return err
			}
			if ok && r.Entries == 0 {
				info.torn = max(info.torn, e.commit) // the file before says what may follow it
			} else if ok && e.commit > info.commit+1 {
				r.fault(stop, "entry %d is unreadable, but entry %d of the later commit %d follows at %d", info.next, e.seq, e.commit, at+int64(i))
				return nil
			}
			begun++
			end = max(end, at+int64(i)+int64(entrySize(int(le.Uint32(buf[i+4:])))))
		}
		step := int64(n-entryHeaderSize)&^7 + 8
		if err := in.advance(ctx, step); err != nil {
			return err
		}
		at += step
	}
	if begun > 0 {
		commit := max(info.torn, info.allowed())
		r.Tail = &FileFault{stop, fmt.Sprintf("commit %d was cut off: a start drops %d entries in %d bytes, which nobody was told of unless the disk lied about a sync", commit, begun, end-stop)}
	}
	return nil
}

// entryAt decodes the entry at a position, of which head is what was read already.
func entryAt(f io.ReaderAt, at, size int64, head []byte) (e entry, ok bool, err error) {
	e, need, err := decodeEntry(head)
	if err == ErrShort && at+int64(need) <= size {
		whole := make([]byte, need)
		if n, rerr := f.ReadAt(whole, at); n < need {
			if rerr == io.EOF {
				rerr = nil
			}
			return e, false, rerr
		}
		e, _, err = decodeEntry(whole)
	}
	return e, err == nil, nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// partition reads part.meta.
func (in *Inspector) partition(b []byte, r *FileReport) error {
	m, err := decodePartMeta(b)
	if err != nil {
		return err
	}
	r.note("%s-%d (%s), journal number %d, log start %d, epoch %d", m.topic, m.id.Index, m.id.Topic, m.pid, m.start, m.epochs.last())
	if m.damaged != "" {
		r.fault(0, "the broker found it damaged: %s", m.damaged)
	}
	return nil
}
