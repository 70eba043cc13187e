package log

import (
	"path/filepath"
	"slices"

	"github.com/weir-io/weir/log/vfs"
)

// partChanges is what the journal says of a partition behind the last checkpoint, besides its batches: recovery will act
// on it, and a running broker has.
type partChanges struct {
	entries []journalChange
	id      PartitionID // as it was defined
	topic   string
	defined bool
	gone    bool
}

// gather takes the changes of one journal file, in the order of files.
func (w *dirWalk) gather(changes []journalChange) {
	for _, e := range changes {
		if w.last != nil && e.seq <= w.last.covered {
			continue
		}
		c := w.changes[e.pid]
		if c == nil {
			c = &partChanges{}
			w.changes[e.pid] = c
		}
		c.entries = append(c.entries, e)
		if e.typ == entryPartDef {
			c.id, c.topic, c.defined, c.gone = e.id, e.topic, true, e.gone
		}
	}
}

// partWalk is the inspection of one partition's directory.
type partWalk struct {
	w       *dirWalk
	dir     string
	bases   []Offset // of its segments
	hasMeta bool
	meta    *partMeta // nil: none that can be read
	pair    *checkpointPart
	start   Offset
	epochs  epochList
	segment *FileReport // the one before
	swapped Offset      // segments that begin below are replaced by a .swap
}

func ofPartition(kind string) bool {
	return kind == kindPartition || kind == kindSegment || kind == kindOffsetIndex || kind == kindTimeIndex || kind == kindProducers
}

// beginPart starts on a directory, whose files are the first of files.
func (w *dirWalk) beginPart(dir string, files []foundFile) {
	w.part = &partWalk{w: w, dir: dir}
	for _, f := range files {
		if filepath.Dir(f.name) != dir {
			return
		}
		_, _, swap := parseSwapName(filepath.Base(f.name))
		if base, ok := parseBase(f.name); ok && (filepath.Ext(f.name) == ".log" || swap) {
			w.part.bases = append(w.part.bases, base)
		}
		w.part.hasMeta = w.part.hasMeta || f.kind == kindPartition
	}
}

// notePartition finds out what the last checkpoint and the journal behind it say of the partition.
func (w *dirWalk) notePartition(file vfs.File, r *FileReport) {
	p := w.part
	b, err := readSmall(file, r.Bytes)
	if err == nil {
		p.meta, err = decodePartMeta(b)
	}
	if err != nil {
		return
	}
	w.found[p.meta.pid] = true
	p.start, p.epochs = p.meta.start, p.meta.epochs
	if w.last != nil {
		if at := slices.IndexFunc(w.last.parts, func(c checkpointPart) bool { return c.pid == p.meta.pid }); at >= 0 {
			pair := w.last.parts[at]
			p.pair = &pair
		}
	}
	if c := w.changes[p.meta.pid]; c != nil {
		p.apply(c.entries)
	}
}

// apply brings start and epochs up to date, and the checkpoint's view down to the lowest truncation: what is above may be
// half of what was there and half of what came after.
func (p *partWalk) apply(entries []journalChange) {
	p.epochs = slices.Clone(p.epochs)
	for _, e := range entries {
		switch e.typ {
		case entryEpoch:
			p.epochs = p.epochs.begin(e.epoch, e.base)
		case entryLogStart:
			p.start = max(p.start, e.base)
			p.epochs = p.epochs.trim(e.base)
		case entryTruncate:
			p.epochs = p.epochs.truncate(e.base)
			if p.pair != nil && e.base < p.pair.end {
				p.pair.end, p.pair.segment, p.pair.position = e.base, 0, 0
				for _, base := range p.bases {
					if base < e.base {
						p.pair.segment = max(p.pair.segment, base)
					}
				}
			}
		}
	}
}

// settle says how much of a segment must be sound: what the last checkpoint covers. The epoch index and the file that
// compaction leaves say what its batches must be like.
func (p *partWalk) settle(r *FileReport) {
	base, _ := parseBase(r.Name)
	r.settledNext = base
	ext := filepath.Ext(r.Name)
	switch {
	case p.pair == nil || base > p.pair.segment || ext == cleanExt:
	case base == p.pair.segment:
		r.settled = int64(p.pair.position)
	default:
		r.settled = r.Bytes
	}
	if ext != cleanExt {
		r.epochs = p.epochs
	}
	r.dense = p.w.in.dense(r.Name)
}

// judge takes faults and tails for what they are: what no checkpoint covers is written again by
// recovery, and a rewrite that was not finished is removed by it.
func (p *partWalk) judge(r *FileReport) {
	base, _ := parseBase(r.Name)
	_, next, swap := parseSwapName(filepath.Base(r.Name))
	ext := filepath.Ext(r.Name)
	switch {
	case swap:
		p.judgeNeighbours(r, base)
		p.segment, p.swapped = r, next
	case ext == ".log" && base >= p.swapped:
		p.judgeNeighbours(r, base)
		p.segment = r
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
	switch {
	case p.pair == nil || base != p.pair.segment || len(kept) > 0 || ext != ".log":
	case r.Bytes < r.settled:
		r.fault(r.Bytes, "the last checkpoint covers %d bytes", r.settled)
	case r.settled > 0 && r.settledNext != p.pair.end:
		// The checksum does not cover a batch's offset: the end is compared with the checkpoint's.
		r.fault(0, "ends at offset %d, the last checkpoint at %d", r.settledNext, p.pair.end)
	}
}

// judgeNeighbours: the segment before must end where this one begins, since compaction leaves the last batch of
// each, if only its header. One that was begun after the checkpoint may be there while the end of the one before is not.
func (p *partWalk) judgeNeighbours(r *FileReport, base Offset) {
	prev := p.segment
	if prev == nil || p.pair == nil || base > p.pair.segment || len(prev.Faults) > 0 || prev.settled < prev.Bytes {
		return
	}
	if prev.settledNext != base {
		p.w.damaged("%s: ends at offset %d, but the next segment begins at %d", prev.Name, prev.settledNext, base)
	}
}

// endPart misses the files that a directory should have.
func (w *dirWalk) endPart() {
	p := w.part
	if p == nil {
		return
	}
	w.part = nil
	switch {
	case !p.hasMeta && len(p.bases) > 0 && !p.definedLater():
		w.damaged("%s has segments but no part.meta", p.dir)
	case p.meta == nil || w.last == nil:
	case p.pair == nil:
		if c := w.changes[p.meta.pid]; len(p.bases) > 0 && (c == nil || !c.defined) {
			w.damaged("%s has segments but no checkpoint knows it", p.dir)
		}
	case p.start >= p.pair.end: // retention may have taken all that the checkpoint knew
	case p.pair.position > 0 && !slices.Contains(p.bases, p.pair.segment):
		w.damaged("%s, in which the last checkpoint ends with %d bytes, is missing", segmentName(p.dir, p.pair.segment, ".log"), p.pair.position)
	case len(p.bases) > 0 && slices.Min(p.bases) > p.start:
		w.damaged("%s: its first segment begins at %d, the log at %d", p.dir, slices.Min(p.bases), p.start)
	}
}

// definedLater: the next checkpoint, or recovery, makes part.meta.
func (p *partWalk) definedLater() bool {
	root := filepath.Dir(filepath.Dir(filepath.Dir(p.dir)))
	for _, c := range p.w.changes {
		if c.defined && !c.gone && partitionDir(root, c.id, c.topic) == p.dir {
			return true
		}
	}
	return false
}

// judgeMissing misses the partitions that the last checkpoint names.
func (w *dirWalk) judgeMissing() {
	if w.last == nil {
		return
	}
	for _, part := range w.last.parts {
		if c := w.changes[part.pid]; !w.found[part.pid] && (c == nil || !c.gone) {
			w.damaged("partition number %d, which the last checkpoint names with offsets up to %d, has no directory with a part.meta", part.pid, part.end)
		}
	}
}
