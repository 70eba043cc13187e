package log

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// Inspector reads files of a log directory without changing anything, verifying every checksum on the
// way. It works on the files of a running or a dead broker, takes no lock, and opens for reading only.
type Inspector struct {
	FS vfs.FS // nil = the operating system's
	// Records also reads every record of every batch, not only what the checksum covers.
	Records bool
	// Line is called for each batch, journal entry or producer found, in file order; an error ends the inspection.
	Line func(fmt.Stringer) error
	// File is called for each file when it has been read; an error ends the inspection.
	File func(*FileReport) error
	// Progress is called now and then with the bytes read so far, of how many.
	Progress func(done, total int64)

	// Bytes of the progress: read, at the end of the current file, of all files.
	done, fileEnd, total int64
}

// FileReport is what an inspection found out about one file.
type FileReport struct {
	Name    string       `json:"name"`
	Kind    string       `json:"kind"`
	Bytes   int64        `json:"bytes"`
	Entries int64        `json:"entries"`           // batches, journal entries, index entries, producers
	Records int64        `json:"records,omitempty"` // in batches
	First   *Offset      `json:"first_offset,omitempty"`
	Next    *Offset      `json:"next_offset,omitempty"`
	Faults  []FileFault  `json:"faults,omitempty"`
	Tail    *FileFault   `json:"tail,omitempty"` // bytes at the end that are no whole entry
	Notes   []string     `json:"notes,omitempty"`
	journal *journalInfo // of a journal file

	// of a segment in a directory's inspection
	settled     int64  // bytes that the last checkpoint covers
	settledNext Offset // offset after them
	lastEpoch   Epoch

	// of a segment in its partition's directory
	epochs epochList // the index; empty when nobody knows it
	behind bool      // the journal may know newer ones
	dense  bool      // no offset may be missing
}

// FileFault is one thing that is wrong, where it begins.
type FileFault struct {
	Position int64  `json:"position"`
	Text     string `json:"text"`
}

func (f FileFault) String() string { return fmt.Sprintf("at %d: %s", f.Position, f.Text) }

// Kinds of files.
const (
	kindSegment     = "segment"
	kindJournal     = "journal"
	kindOffsetIndex = "offset index"
	kindTimeIndex   = "time index"
	kindProducers   = "producer snapshot"
	kindPartition   = "partition"
	kindLogMeta     = "log format"
	kindClean       = "clean marker"
	kindSlots       = "list of journal files"
	kindOther       = "other"
)

// Damaged says whether the file is not what was written. A tail is not damage: the newest segment and the
// newest journal file of a broker that runs, or was cut off, end in one.
func (r *FileReport) Damaged() bool { return len(r.Faults) > 0 }

// String is one line.
func (r *FileReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %d bytes", r.Name, r.Kind, r.Bytes)
	unit := map[string]string{kindSegment: "batches", kindProducers: "producers"}[r.Kind]
	if unit == "" {
		unit = "entries"
	}
	if r.Entries > 0 {
		fmt.Fprintf(&b, ", %d %s", r.Entries, unit)
	}
	if r.First != nil && r.Next != nil {
		fmt.Fprintf(&b, ", offsets %d to %d", *r.First, *r.Next-1)
	}
	if r.Records > 0 {
		fmt.Fprintf(&b, ", %d records", r.Records)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, ", %s", n)
	}
	if r.Tail != nil {
		fmt.Fprintf(&b, "; tail %v", *r.Tail)
	}
	switch n := len(r.Faults); {
	case n == 1:
		fmt.Fprintf(&b, "; DAMAGED %v", r.Faults[0])
	case n > 1:
		fmt.Fprintf(&b, "; DAMAGED %v, and %d more", r.Faults[0], n-1)
	case r.Kind != kindOther:
		b.WriteString("; ok")
	}
	return b.String()
}

// maxFaults bounds what is remembered of a file that is nothing but faults.
const maxFaults = 100

func (r *FileReport) fault(position int64, format string, args ...any) {
	if len(r.Faults) < maxFaults {
		r.Faults = append(r.Faults, FileFault{position, fmt.Sprintf(format, args...)})
	}
}

func (r *FileReport) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (in *Inspector) fs() vfs.FS {
	if in.FS == nil {
		return vfs.OS{}
	}
	return in.FS
}

func (in *Inspector) line(s fmt.Stringer) error {
	if in.Line == nil {
		return nil
	}
	return in.Line(s)
}

// advance counts bytes read and says whether to stop.
func (in *Inspector) advance(ctx context.Context, bytes int64) error {
	if bytes = min(bytes, in.fileEnd-in.done); bytes > 0 {
		in.done += bytes
		if in.Progress != nil {
			in.Progress(in.done, in.total)
		}
	}
	return ctx.Err()
}

// skip counts the rest of the current file as read.
func (in *Inspector) skip(ctx context.Context) error { return in.advance(ctx, in.fileEnd-in.done) }

// InspectFile reads one file: a segment (.log, .clean, .swap), a journal file (.wal), an index (.idx, .tix), a
// producer snapshot (.snap) or part.meta. What is wrong inside the file is in the report; the error is of the file
// system, of ctx, of a callback, or ErrNewerFormat.
func (in *Inspector) InspectFile(ctx context.Context, name string) (*FileReport, error) {
	f, err := in.fs().Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	in.done, in.fileEnd, in.total = 0, size, size
	r := &FileReport{Name: name, Kind: kindOf(name), Bytes: size}
	if r.Kind == kindSegment {
		in.lookBeside(r)
	}
	if r.Kind == kindOther {
		return nil, fmt.Errorf("inspect %s: neither a segment, a journal file, an index, a producer snapshot nor part.meta", name)
	}
	if err := errors.Join(in.inspect(ctx, f, r), in.skip(ctx)); err != nil {
		return nil, fmt.Errorf("inspect %s: %w", name, err)
	}
	return r, nil
}

func kindOf(name string) string {
	switch base := filepath.Base(name); filepath.Ext(base) {
	case ".log", cleanExt, swapExt:
		return kindSegment
	case ".wal":
		return kindJournal
	case ".idx":
		return kindOffsetIndex
	case ".tix":
		return kindTimeIndex
	case ".snap":
		return kindProducers
	default:
		switch base {
		case "part.meta":
			return kindPartition
		case formatName:
			return kindLogMeta
		case cleanName:
			return kindClean
		case slotsName:
			return kindSlots
		}
	}
	return kindOther
}

// lookBeside takes the epoch index from the part.meta beside a segment, as far as the last checkpoint brought it.
func (in *Inspector) lookBeside(r *FileReport) {
	dir := filepath.Dir(r.Name)
	if m, err := readPartMeta(in.fs(), dir); err == nil {
		r.epochs, r.behind, r.dense = m.epochs, true, in.dense(r.Name)
	}
}

// dense says whether a segment must have every offset: one that compaction has not rewritten.
func (in *Inspector) dense(name string) bool {
	_, err := in.fs().Stat(filepath.Join(filepath.Dir(name), cleanedName))
	return errors.Is(err, fs.ErrNotExist) && filepath.Ext(name) == ".log"
}

// inspect fills the report. Faults of the contents go into it; the rest is an error.
func (in *Inspector) inspect(ctx context.Context, f vfs.File, r *FileReport) error {
	switch r.Kind {
	case kindSegment:
		return in.segment(ctx, f, r)
	case kindJournal:
		return in.journal(ctx, f, r)
	}
	b, err := readSmall(f, r.Bytes)
	if err != nil {
		return err
	}
	switch r.Kind {
	case kindOffsetIndex:
		err = in.offsetIndex(b, r)
	case kindTimeIndex:
		err = in.timeIndex(b, r)
	case kindProducers:
		err = in.producers(b, r)
	case kindPartition:
		err = in.partition(b, r)
	case kindLogMeta:
		_, err = checkFormat(b)
	case kindSlots:
		var l slotList
		l, err = decodeSlots(b)
		r.Entries = int64(len(l))
	case kindClean:
		if decodeCleanMarker(b) == nil {
			err = ErrCorrupt
		}
	}
	if err != nil && errors.Is(err, ErrCorrupt) {
		r.fault(0, "%v", err)
		err = nil
	}
	return err
}

// maxSmall bounds the files that are read at once: an index of the largest segment takes 4 MiB, and part.meta
// and snapshots are bounded by their writers.
const maxSmall = 64 << 20

func readSmall(f io.ReaderAt, size int64) ([]byte, error) {
	if size > maxSmall {
		return nil, fmt.Errorf("%d bytes is larger than any such file: %w", size, ErrCorrupt)
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}

func (in *Inspector) producers(b []byte, r *FileReport) error {
	t, err := decodeProducers(b, int(^uint(0)>>1))
	if err != nil {
		return err
	}
	r.Entries = int64(t.len())
	next := t.next
	r.note("covers offsets below %d", next)
	if t.transactional() {
		r.note("%d open and %d aborted transactions, last marker at offset %d", t.open, len(t.aborted), t.lastMarker)
	}
	for p := t.oldest; p != nil; p = p.newer {
		info := ProducerInfo{ID: p.id, Epoch: p.epoch, Touched: p.touched, Batches: int(p.n), LastSequence: -1, LastOffset: -1, Transaction: p.transaction}
		if p.n > 0 {
			last := &p.batches[p.n-1]
			info.LastSequence, info.LastOffset = last.lastSequence(), last.last()
		}
		if err := in.line(info); err != nil {
			return err
		}
	}
	return nil
}

// ProducerInfo is one producer of a snapshot.
type ProducerInfo struct {
	ID           int64  `json:"producer_id"`
	Epoch        int16  `json:"producer_epoch"`
	Batches      int    `json:"batches"` // remembered, at most 5
	LastSequence int32  `json:"last_sequence"`
	LastOffset   Offset `json:"last_offset"`
	Touched      int64  `json:"touched"`          // ms
	Transaction  Offset `json:"open_transaction"` // where it begins, -1 if none is
}

func (p ProducerInfo) String() string {
	s := fmt.Sprintf("producer %d epoch %d: %d batches, last sequence %d at offset %d, at %s",
		p.ID, p.Epoch, p.Batches, p.LastSequence, p.LastOffset, formatMillis(p.Touched))
	if p.Transaction >= 0 {
		s += fmt.Sprintf(", transaction open from offset %d", p.Transaction)
	}
	return s
}

// formatMillis writes a timestamp as UTC with milliseconds; -1 is none.
func formatMillis(ms int64) string {
	if ms < 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}
