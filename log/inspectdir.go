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
	w := &dirWalk{in: in, report: &DirReport{Name: dir}, covered: map[string]checkpointPart{}}
	for _, f := range files {
		if f.kind != kindLogMeta && f.kind != kindClean && f.kind != kindJournal && !w.judged {
			w.judgeJournal()
		}
		if err := w.file(ctx, f); err != nil {
			return nil, fmt.Errorf("inspect %s: %w", f.name, err)
		}
	}
	if !w.judged {
		w.judgeJournal()
	}
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
	rank := map[string]int{kindLogMeta: -3, kindClean: -2, kindJournal: -1, kindPartition: 0}
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
	judged   bool                      // the journal, as a whole
	last     *checkpoint               // the newest
	covered  map[string]checkpointPart // by partition directory
	known    bool                      // a checkpoint was found
	segment  *FileReport               // the one before, in the same directory
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
		w.settle(r)
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
	case kindPartition:
		w.notePartition(file, r)
	case kindSegment:
		w.report.Batches += r.Entries
		w.report.Records += r.Records
		w.judgeSegment(r)
	case kindOffsetIndex, kindTimeIndex:
		// An index is a hint: a bad one costs time, no data.
		for _, fault := range r.Faults {
			w.report.Notes = append(w.report.Notes, fmt.Sprintf("%s: %v; it will be rebuilt", r.Name, fault))
		}
		r.Faults = nil
	}
	for _, fault := range r.Faults {
		w.report.Damaged = append(w.report.Damaged, fmt.Sprintf("%s: %v", r.Name, fault))
	}
	if w.in.File != nil {
		return w.in.File(r)
	}
	return nil
}

// judgeJournal looks at the journal files together, once all are read: entries must follow each other
// without a gap from the oldest file that the last checkpoint needs.
func (w *dirWalk) judgeJournal() {
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
			w.last, w.known = c, true
		}
	}
	var prev *FileReport
	if n := len(files); n > 0 && files[n-1].Tail != nil {
		w.report.Notes = append(w.report.Notes, fmt.Sprintf("%s: %v", files[n-1].Name, *files[n-1].Tail))
	}
	for _, r := range files {
		if w.known && r.journal.number < w.last.oldest {
			continue
		}
		unused := r.journal.recovery && r.Entries == 0
		if prev != nil && r.journal.firstSeq != prev.journal.next && !unused {
			w.report.Damaged = append(w.report.Damaged, fmt.Sprintf("%s begins with entry %d, but %s ends before entry %d", r.Name, r.journal.firstSeq, prev.Name, prev.journal.next))
		}
		prev = r
	}
	if w.known && prev == nil {
		w.report.Damaged = append(w.report.Damaged, fmt.Sprintf("journal file number %d, which the last checkpoint needs, is missing", w.last.oldest))
	}
}

// notePartition remembers how far the last checkpoint covers the partition in this directory.
func (w *dirWalk) notePartition(file vfs.File, r *FileReport) {
	w.segment = nil
	b, err := readSmall(file, r.Bytes)
	if err != nil {
		return
	}
	m, err := decodePartMeta(b)
	if err != nil || w.last == nil {
		return
	}
	for _, part := range w.last.parts {
		if part.pid == m.pid {
			w.covered[filepath.Dir(r.Name)] = part
		}
	}
}

// settle says how much of a segment the last checkpoint covers: those bytes must be sound.
func (w *dirWalk) settle(r *FileReport) {
	base, _ := parseBase(r.Name)
	r.settledNext = base
	part, known := w.covered[filepath.Dir(r.Name)]
	switch {
	case !known || base > part.segment || filepath.Ext(r.Name) != ".log":
	case base == part.segment:
		r.settled = int64(part.position)
	default:
		r.settled = r.Bytes
	}
}

// judgeSegment takes faults and tails for what they are: what no checkpoint covers is written again by
// recovery, and a rewrite that was not finished is removed by it or replaces segments that are still there.
func (w *dirWalk) judgeSegment(r *FileReport) {
	dir := filepath.Dir(r.Name)
	if filepath.Ext(r.Name) == ".log" {
		w.judgeNeighbours(r, dir)
		w.segment = r
	}
	if t := r.Tail; t != nil && t.Position < r.settled {
		r.fault(t.Position, "%s", t.Text)
		r.Tail = nil
	}
	kept := r.Faults[:0]
	for _, f := range r.Faults {
		if f.Position < r.settled {
			kept = append(kept, f)
		} else if r.Tail == nil {
			tail := f
			r.Tail = &tail
		}
	}
	r.Faults = kept
	base, _ := parseBase(r.Name)
	part, known := w.covered[dir]
	switch {
	case !known || base != part.segment || len(kept) > 0 || filepath.Ext(r.Name) != ".log":
	case r.Bytes < r.settled:
		r.fault(r.Bytes, "the last checkpoint covers %d bytes", r.settled)
	case r.settled > 0 && r.settledNext != part.end:
		// The checksum does not cover a batch's offset: the end is compared with the checkpoint's.
		r.fault(0, "ends at offset %d, the last checkpoint at %d", r.settledNext, part.end)
	}
}

// judgeNeighbours: the segment before must end where this one begins, since compaction leaves the last batch of
// each, if only its header.
func (w *dirWalk) judgeNeighbours(r *FileReport, dir string) {
	base, _ := parseBase(r.Name)
	prev := w.segment
	if prev == nil || filepath.Dir(prev.Name) != dir || len(prev.Faults) > 0 || prev.settled < prev.Bytes {
		return
	}
	if prev.settledNext != base {
		w.report.Damaged = append(w.report.Damaged, fmt.Sprintf("%s: ends at offset %d, but the next segment begins at %d", prev.Name, prev.settledNext, base))
	}
}
