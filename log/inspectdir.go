package log

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-io/weir/log/vfs"
)

// DirReport is what an inspection found out about a data directory.
type DirReport struct {
	Name     string   `json:"name"`
	Files    int      `json:"files"`
	Bytes    int64    `json:"bytes"`
	Batches  int64    `json:"batches"` // in segments
	Records  int64    `json:"records"`
	Damaged  []string `json:"damaged,omitempty"` // one line per fault
	Notes    []string `json:"notes,omitempty"`
	Vanished int      `json:"vanished,omitempty"` // files that a running broker removed meanwhile
}

// String is one line.
func (r *DirReport) String() string {
	s := fmt.Sprintf("%s: %d files, %d bytes, %d batches, %d records in segments", r.Name, r.Files, r.Bytes, r.Batches, r.Records)
	if r.Vanished > 0 {
		s += fmt.Sprintf(", %d removed by the broker meanwhile", r.Vanished)
	}
	switch n := len(r.Damaged); {
	case n == 1:
		return s + "; DAMAGED in 1 place"
	case n > 1:
		return s + fmt.Sprintf("; DAMAGED in %d places", n)
	}
	return s + "; every checksum is right"
}

// foundFile is one file of the walk.
type foundFile struct {
	name string
	kind string
	size int64
}

// InspectDir reads every file of the log in dir, and of a data directory that holds one: journal first, since
// it says up to where segments have been synced. What follows in a segment is not judged: recovery writes
// it again from the journal. A running broker may replace files between two reads: only damage that a
// second look finds too is reported. Callbacks are called by the first look.
func (in *Inspector) InspectDir(ctx context.Context, dir string) (*DirReport, error) {
	r, err := in.lookAt(ctx, dir)
	if err != nil || len(r.Damaged) == 0 {
		return r, err
	}
	again, err := (&Inspector{FS: in.FS, Records: in.Records}).lookAt(ctx, dir)
	if err != nil {
		return nil, err
	}
	found := len(r.Damaged)
	r.Damaged = slices.DeleteFunc(r.Damaged, func(line string) bool { return !slices.Contains(again.Damaged, line) })
	if gone := found - len(r.Damaged); gone > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d findings were not there at a second look: the broker was at work", gone))
	}
	return r, nil
}

func (in *Inspector) lookAt(ctx context.Context, dir string) (*DirReport, error) {
	files, err := in.walk(dir)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", dir, err)
	}
	if !slices.ContainsFunc(files, func(f foundFile) bool { return f.kind == kindLogMeta }) {
		return nil, fmt.Errorf("inspect %s: no log here: %s is missing", dir, formatName)
	}
	in.done, in.total = 0, 0
	for _, f := range files {
		in.total += f.size
	}
	w := &dirWalk{in: in, report: &DirReport{Name: dir}, found: map[uint32]bool{}, changes: map[uint32]*partChanges{}}
	for i, f := range files {
		if dir := filepath.Dir(f.name); ofPartition(f.kind) && (w.part == nil || w.part.dir != dir) {
			w.judgeJournal()
			w.endPart()
			w.beginPart(dir, files[i:])
		}
		if err := w.file(ctx, f); err != nil {
			return nil, fmt.Errorf("inspect %s: %w", f.name, err)
		}
	}
	w.judgeJournal()
	w.endPart()
	w.judgeMissing()
	return w.report, nil
}

// walk lists the files that belong to logs below dir: formats first, then journals, then each partition's
// part.meta before its segments.
func (in *Inspector) walk(dir string) ([]foundFile, error) {
	entries, err := in.fs().ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []foundFile
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.IsDir() && strings.Contains(e.Name(), asideMark) {
			continue // what a repair has put away
		}
		if e.IsDir() {
			below, err := in.walk(name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			files = append(files, below...)
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if kind := kindOf(name); kind != kindOther {
			files = append(files, foundFile{name, kind, info.Size()})
		}
	}
	rank := map[string]int{kindLogMeta: -3, kindClean: -2, kindSlots: -2, kindJournal: -1, kindPartition: 0}
	slices.SortStableFunc(files, func(a, b foundFile) int {
		ra, rb := rank[a.kind], rank[b.kind]
		if ra < 0 || rb < 0 {
			return cmp.Compare(ra, rb)
		}
		if c := strings.Compare(filepath.Dir(a.name), filepath.Dir(b.name)); c != 0 {
			return c
		}
		return cmp.Compare(boolInt(a.kind != kindPartition), boolInt(b.kind != kindPartition))
	})
	return files, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// dirWalk puts the files' reports together.
type dirWalk struct {
	in       *Inspector
	report   *DirReport
	journals []*FileReport
	format   uint32
	logDir   string // which has log.meta
	slots    slotList
	listed   bool // slots was read
	marker   *cleanMarker
	judged   bool                    // the journal, as a whole
	last     *checkpoint             // the newest; nil: none was found
	changes  map[uint32]*partChanges // that follow it in the journal
	found    map[uint32]bool         // partition numbers that a part.meta has
	part     *partWalk               // the directory under way
}

func (w *dirWalk) file(ctx context.Context, f foundFile) error {
	w.in.fileEnd = w.in.done + f.size
	file, err := w.in.fs().Open(f.name)
	if errors.Is(err, fs.ErrNotExist) {
		w.report.Vanished++
		return w.in.skip(ctx)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return err
	}
	r := &FileReport{Name: f.name, Kind: f.kind, Bytes: size}
	if f.kind == kindSegment {
		w.part.settle(r)
	}
	if err := w.in.inspect(ctx, file, r); err != nil {
		return err
	}
	if err := w.in.skip(ctx); err != nil {
		return err
	}
	w.report.Files++
	w.report.Bytes += size
	switch f.kind {
	case kindJournal:
		w.journals = append(w.journals, r)
	case kindLogMeta, kindSlots, kindClean:
		w.noteLog(file, r)
	case kindPartition:
		w.notePartition(file, r)
	case kindSegment:
		w.report.Batches += r.Entries
		w.report.Records += r.Records
		w.part.judge(r)
	case kindOffsetIndex, kindTimeIndex:
		// An index is a hint: a bad one costs time, no data.
		for _, fault := range r.Faults {
			w.report.Notes = append(w.report.Notes, fmt.Sprintf("%s: %v; it will be rebuilt", r.Name, fault))
		}
		r.Faults = nil
	}
	for _, fault := range r.Faults {
		w.damaged("%s: %v", r.Name, fault)
	}
	if w.in.File != nil {
		return w.in.File(r)
	}
	return nil
}

func (w *dirWalk) damaged(format string, args ...any) {
	w.report.Damaged = append(w.report.Damaged, fmt.Sprintf(format, args...))
}

// noteLog remembers what the files beside the journal say of it.
func (w *dirWalk) noteLog(file vfs.File, r *FileReport) {
	if r.Kind == kindLogMeta {
		w.logDir = filepath.Dir(r.Name)
	}
	b, err := readSmall(file, r.Bytes)
	if err != nil || r.Damaged() {
		return
	}
	switch r.Kind {
	case kindLogMeta:
		w.format, _ = checkFormat(b)
	case kindSlots:
		w.slots, err = decodeSlots(b)
		w.listed = err == nil
	case kindClean:
		w.marker = decodeCleanMarker(b)
	}
}

// judgeJournal looks at the journal files together, once all are read: entries must follow each other
// without a gap from the oldest file that the last checkpoint needs, up to the clean marker, and no file may be missing.
func (w *dirWalk) judgeJournal() {
	if w.judged {
		return
	}
	w.judged = true
	var files []*FileReport
	for _, r := range w.journals {
		if r.journal != nil {
			files = append(files, r)
		}
	}
	slices.SortFunc(files, func(a, b *FileReport) int { return cmp.Compare(a.journal.number, b.journal.number) })
	for _, r := range files {
		if c := r.journal.checkpoint; c != nil {
			w.last = c
		}
	}
	if n := len(files); n > 0 && files[n-1].Tail != nil {
		w.report.Notes = append(w.report.Notes, fmt.Sprintf("%s: %v", files[n-1].Name, *files[n-1].Tail))
	}
	if w.last == nil {
		w.damaged("%s: no checkpoint can be found", filepath.Join(w.logDir, journalName))
	}
	end := w.judgeEntries(files)
	if w.marker != nil && end <= w.marker.seq {
		w.damaged("%s ends at entry %d, but the node was shut down after %d", filepath.Join(w.logDir, journalName), end-1, w.marker.seq)
	}
	w.judgeSlots(w.marker != nil && end == w.marker.seq+1)
}

// judgeEntries returns the sequence after the last entry.
func (w *dirWalk) judgeEntries(files []*FileReport) (end uint64) {
	var prev *FileReport
	for _, r := range files {
		if w.last != nil && r.journal.number < w.last.oldest {
			continue
		}
		if r.journal.recovery && r.Entries == 0 {
			continue // its header proves nothing (J7)
		}
		if prev != nil && r.journal.firstSeq != prev.journal.next {
			w.damaged("%s begins with entry %d, but %s ends before entry %d", r.Name, r.journal.firstSeq, prev.Name, prev.journal.next)
		}
		if prev == nil && w.last != nil && r.journal.number != w.last.oldest {
			w.damaged("journal file number %d, which the last checkpoint needs, is missing", w.last.oldest)
		}
		if prev != nil && r.Entries == 0 && r.journal.torn > prev.journal.allowed() {
			w.damaged("%s: its first entry %d is unreadable, but entries of the later commit %d follow", r.Name, r.journal.firstSeq, r.journal.torn)
		}
		prev, end = r, r.journal.next
		w.gather(r.journal.changes)
	}
	if w.last != nil && prev == nil {
		w.damaged("journal file number %d, which the last checkpoint needs, is missing", w.last.oldest)
	}
	return end
}

// judgeSlots misses files that the list has.
func (w *dirWalk) judgeSlots(clean bool) {
	if w.format < 2 {
		return
	}
	if !w.listed {
		w.damaged("%s cannot be read: nobody can tell whether a journal file is missing", filepath.Join(w.logDir, slotsName))
	}
	for _, slot := range w.slots {
		name := slotFile(filepath.Join(w.logDir, journalName), slot)
		switch {
		case slices.ContainsFunc(w.journals, func(r *FileReport) bool { return r.Name == name }):
		case clean:
			w.report.Notes = append(w.report.Notes, name+" is missing; it was a spare one, since the last stop was a clean one")
		default:
			w.damaged("%s is missing, and what was written last may have been there", name)
		}
	}
}
