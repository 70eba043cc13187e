package log

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// repairPart is one partition: what is there, and what it will be.
type repairPart struct {
	id      PartitionID
	topic   string
	dir     string
	meta    *partMeta // as it is written; nil: it stays
	pair    checkpointPart
	sparse  bool
	segs    []*repairSegment
	epochs  epochList // seen in batches
	idle    bool      // no producer wrote to it
	next    Offset    // while planning: the offset after the last piece
	changed bool
	lost    []Loss
	written Epoch // while writing: of the last piece
}

// plan decides about every partition.
func (r *repairer) plan() error {
	byID := map[PartitionID]*repairPart{}
	used := map[uint32]bool{}
	var unnamed []*repairPart
	err := r.eachPartitionDir(func(dir string) error {
		p, err := r.findPart(dir)
		if err != nil || p == nil {
			return err
		}
		if byID[p.id] != nil {
			return fmt.Errorf("%s and %s hold the same partition: move the copy away", byID[p.id].dir, dir)
		}
		byID[p.id] = p
		r.parts = append(r.parts, p)
		if p.pair.pid == 0 {
			unnamed = append(unnamed, p)
		} else {
			used[p.pair.pid] = true
		}
		for _, s := range p.segs {
			r.total += s.size
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Definitions give numbers to directories whose part.meta is lost, and directories to partitions that have none.
	for pid, d := range r.j.defs {
		id, topic, _ := decodePartDef(d.payload)
		if used[pid] || d.flags&flagGone != 0 {
			continue
		}
		used[pid] = true
		if p := byID[id]; p != nil {
			p.pair.pid, p.topic, p.meta.topic = pid, topic, topic
			continue
		}
		p := &repairPart{id: id, topic: topic, dir: partitionDir(r.Dir, id, topic), pair: checkpointPart{pid: pid}, idle: true}
		p.meta = &partMeta{id: id, topic: topic}
		if pair := r.j.pairs[pid]; pair != nil && pair.end > 0 {
			r.report.Fixes = append(r.report.Fixes, p.dir+" is missing; it is made again, with the records that the journal has")
		}
		byID[id] = p
		r.parts = append(r.parts, p)
	}
	for _, p := range r.parts {
		if err := r.scanPart(p); err != nil {
			return err
		}
	}
	for _, p := range unnamed {
		if p.pair.pid == 0 {
			r.matchNumber(p, used)
		}
	}
	// What a partition that is gone had at most: the most that one of unknown name had.
	unknown := Offset(-1)
	for pid, pair := range r.j.pairs {
		if !used[pid] {
			unknown = max(unknown, pair.end, pair.hw, r.j.dataEnd(pid))
		}
	}
	for _, x := range r.Expected {
		if p := byID[x.ID]; p != nil {
			continue
		}
		p := &repairPart{id: x.ID, topic: x.Topic, dir: partitionDir(r.Dir, x.ID, x.Topic), idle: true}
		first := roundUp(unknown + 1)
		if unknown < 0 {
			first = 1 << 40 // no log that ever was has got there
		}
		p.meta = &partMeta{id: x.ID, topic: x.Topic, start: first}
		p.next, p.changed = first, true
		p.lose(0, first, 0, false, "the directory is missing")
		byID[x.ID] = p
		r.parts = append(r.parts, p)
	}
	slices.SortFunc(r.parts, func(a, b *repairPart) int {
		return cmp.Or(strings.Compare(a.topic, b.topic), cmp.Compare(a.id.Index, b.id.Index))
	})
	for _, p := range r.parts {
		if p.pair.pid == 0 {
			p.pair.pid = r.j.nextPID
			r.j.nextPID++
		}
		r.planPart(p)
		r.report.Losses = append(r.report.Losses, p.lost...)
	}
	return nil
}

// findPart reads what a directory says that it is; nil when it is one that Create had not finished.
func (r *repairer) findPart(dir string) (*repairPart, error) {
	p := &repairPart{dir: dir, idle: true}
	if err := r.listSegments(p); err != nil {
		return nil, err
	}
	m, err := readPartMeta(r.FS, dir)
	switch {
	case err == nil:
		p.id, p.topic, p.pair.pid = m.id, m.topic, m.pid
		if m.damaged != "" {
			r.report.Fixes = append(r.report.Fixes, fmt.Sprintf("%s-%d takes records again; it was found damaged: %s", m.topic, m.id.Index, m.damaged))
			m.damaged = ""
			p.changed = true
		}
		p.meta = m
	case len(p.segs) == 0 && isNotExist(err):
		return nil, nil // if it was a partition, the metadata expects it
	case len(p.segs) == 0 && errors.Is(err, ErrCorrupt):
		// The same, but no node starts with such a file, whoever expects the partition.
		r.report.Fixes = append(r.report.Fixes, fmt.Sprintf("%s: moved aside, the partition has no segments (%v)", filepath.Join(dir, "part.meta"), err))
		r.badMetas = append(r.badMetas, filepath.Join(dir, "part.meta"))
		return nil, nil
	case isNotExist(err) || errors.Is(err, ErrCorrupt):
		name := filepath.Base(filepath.Dir(dir))
		at := len(name) - 22
		index, aerr := strconv.ParseInt(filepath.Base(dir), 10, 32)
		if at < 2 || name[at-1] != '-' || aerr != nil || index < 0 {
			return nil, fmt.Errorf("%s: no partition's directory has such a name: move it away", dir)
		}
		topic, ierr := ParseTopicID(name[at:])
		if ierr != nil {
			return nil, fmt.Errorf("%s: no partition's directory has such a name: move it away", dir)
		}
		p.id, p.topic = PartitionID{topic, int32(index)}, name[:at-1]
		for _, x := range r.Expected {
			if x.ID.Topic == topic {
				p.topic = x.Topic
			}
		}
		p.meta = &partMeta{id: p.id, topic: p.topic, start: -1}
		r.report.Fixes = append(r.report.Fixes, fmt.Sprintf("%s: made again from the directory's name and its segments (%v)", filepath.Join(dir, "part.meta"), err))
		p.changed = true
	default:
		return nil, err
	}
	return p, nil
}

// matchNumber finds the journal's number for a directory whose part.meta is lost: the one whose checkpoint fits it,
// if that is no other's.
func (r *repairer) matchNumber(p *repairPart, used map[uint32]bool) {
	fits := uint32(0)
	for pid, pair := range r.j.pairs {
		if used[pid] || len(p.segs) == 0 || pair.position == 0 {
			continue
		}
		last := p.segs[len(p.segs)-1]
		if last.base != pair.segment || last.size < int64(pair.position) || pair.end != p.endAt(last, int64(pair.position)) {
			continue
		}
		if fits != 0 {
			return
		}
		fits = pid
	}
	if fits != 0 {
		p.pair.pid = fits
		used[fits] = true
	}
}

// endAt is the offset after the batches of s that end at or before pos, if that is where a run ends; -1 else.
func (p *repairPart) endAt(s *repairSegment, pos int64) Offset {
	for _, x := range s.pieces {
		if x.pos+x.size == pos {
			return x.next
		}
	}
	return -1
}

func (p *repairPart) lose(first, next Offset, bytes int64, certain bool, reason string) {
	p.lost = append(p.lost, Loss{Topic: p.topic, Partition: p.id.Index, ID: p.id, First: first, Next: next, Bytes: bytes, Certain: certain, Reason: reason})
}

// roundUp is the next round offset above o: easy to tell from a neighbour's that was not moved.
func roundUp(o Offset) Offset { return (o/1_000_000 + 1) * 1_000_000 }

func (j *repairJournal) dataEnd(pid uint32) Offset {
	if d := j.data[pid]; len(d) > 0 {
		return d[len(d)-1].next
	}
	return 0
}

// planPart lays the pieces of the partition in a row without gaps.
func (r *repairer) planPart(p *repairPart) {
	j, pid := &r.j, p.pair.pid
	pair := j.pairs[pid]
	covered := pair
	if covered == nil {
		covered = &checkpointPart{}
	}
	m := p.meta
	m.pid, m.start = pid, max(m.start, j.starts[pid])
	data := j.data[pid]
	if m.start < 0 { // part.meta was lost
		m.start = 0
		if len(p.segs) > 0 {
			m.start = p.segs[0].base
		}
	}
	if len(p.segs) == 0 && len(data) > 0 && data[0].base > m.start && covered.end > m.start {
		p.lose(m.start, data[0].base, 0, true, "the segments are missing")
		m.start = data[0].base
	}
	for _, e := range p.epochs {
		if e.epoch > m.epochs.last() {
			m.epochs = m.epochs.begin(e.epoch, e.start)
		}
	}
	for _, e := range j.epochs[pid] {
		if e.epoch > m.epochs.last() {
			m.epochs = m.epochs.begin(e.epoch, e.start)
		}
	}
	if p.changed && p.next > 0 { // made empty
		p.finish(r)
		return
	}
	p.next = m.start
	if len(p.segs) > 0 && p.segs[0].base < p.next {
		p.next = p.segs[0].base
	}
	if len(p.segs) == 0 || p.segs[0].base > p.next {
		if len(p.segs) > 0 || len(data) > 0 || covered.end > p.next {
			p.segs = slices.Insert(p.segs, 0, &repairSegment{base: p.next, write: true})
		}
	}
	for i, s := range p.segs {
		found, lost := s.pieces, len(p.lost)
		s.pieces = nil
		at, sum := int64(0), int64(0)
		for _, x := range found {
			if x.base > p.next && !(p.sparse && x.pos == at) {
				p.fill(s, data, x.base, x.pos-at, reasonIn(s, at, x.pos))
			}
			s.pieces = append(s.pieces, x)
			p.next, at, sum = x.next, x.pos+x.size, sum+x.size
		}
		bad := len(found) != len(s.pieces) || sum != at
		for i := 1; i < len(found); i++ {
			bad = bad || !p.inRow(found[i-1], found[i])
		}
		if i+1 < len(p.segs) {
			if p.next < p.segs[i+1].base {
				p.fill(s, data, p.segs[i+1].base, s.size-at, reasonIn(s, at, s.size))
			}
			bad = bad || len(found) != len(s.pieces) || at != s.size
			s.write = s.write || bad
		} else {
			bad = bad || s.base == covered.segment && at < int64(covered.position)
			p.planEnd(s, data, covered, at, r)
			s.write = s.write || bad || len(found) != len(s.pieces) || at != s.size || pair == nil
		}
		// What no checkpoint covers may be readable and not be on the disk (J7).
		s.write = s.write || pair != nil && (s.base > covered.segment || s.base == covered.segment && s.size > int64(covered.position))
		if (bad || s.file == "" && covered.end > s.base) && len(p.lost) == lost {
			r.report.Fixes = append(r.report.Fixes, fmt.Sprintf("%s is missing or damaged; nothing of it is lost, the journal has the records", segmentName(p.dir, s.base, ".log")))
		}
	}
	if len(p.segs) == 0 {
		s := &repairSegment{base: p.next}
		p.planEnd(s, data, covered, 0, r)
		if len(s.pieces) > 0 {
			s.write = true
			p.segs = append(p.segs, s)
		}
	}
	p.finish(r)
}

func reasonIn(s *repairSegment, from, to int64) string {
	if s.file == "" {
		return "the segments are missing"
	}
	if from >= to {
		return fmt.Sprintf("%s is followed by a gap", s.file)
	}
	return fmt.Sprintf("%s is damaged at %d to %d", s.file, from, to-1)
}

// fill covers [p.next, to) from the journal as far as that goes, and with nothing where it does not.
func (p *repairPart) fill(s *repairSegment, data []journalData, to Offset, bytes int64, reason string) {
	for _, d := range data {
		if d.base < p.next || d.next > to {
			continue
		}
		p.blank(s, d.base, bytes, reason)
		s.pieces = append(s.pieces, repairPiece{base: d.base, next: d.next, file: d.file, pos: d.pos, size: d.size, epoch: d.epoch})
		p.next = d.next
	}
	p.blank(s, to, bytes, reason)
}

// blank notes that [p.next, to) is lost.
func (p *repairPart) blank(s *repairSegment, to Offset, bytes int64, reason string) {
	if to <= p.next {
		return
	}
	p.lose(p.next, to, bytes, true, reason)
	s.pieces = append(s.pieces, repairPiece{base: p.next, next: to})
	p.next = to
}

// planEnd is what follows the last sound batch in the segments: what the journal has, what it shows to be missing, and
// the offsets that nobody can answer for.
func (p *repairPart) planEnd(s *repairSegment, data []journalData, covered *checkpointPart, at int64, r *repairer) {
	j, pid := &r.j, p.pair.pid
	bytes := max(0, int64(covered.position)-at)
	if s.base != covered.segment {
		bytes = 0
	}
	if p.next < covered.end {
		p.fill(s, data, covered.end, bytes, reasonIn(s, at, max(s.size, at+bytes)))
	}
	answered := false
	for _, d := range data {
		if d.base >= p.next {
			p.blank(s, d.base, j.holeBytes, "the journal is damaged: "+r.report.Journal)
			s.pieces = append(s.pieces, repairPiece{base: d.base, next: d.next, file: d.file, pos: d.pos, size: d.size, epoch: d.epoch})
			p.next = d.next
		}
		answered = answered || d.seq >= j.afterHole
	}
	p.blank(s, max(covered.hw, j.marks[pid]), j.holeBytes, "it was committed up to there")
	if j.holed && !answered {
		end := roundUp(p.next + 16*Offset(j.holeBytes))
		p.lose(p.next, end, j.holeBytes, false, "the journal is damaged: "+r.report.Journal)
		s.pieces = append(s.pieces, repairPiece{base: p.next, next: end})
		p.next = end
	}
}

// finish notes what the checkpoint will say; position is known once the segments are written.
func (p *repairPart) finish(r *repairer) {
	pid := p.pair.pid
	snapshot := Offset(-1)
	if old := r.j.pairs[pid]; old != nil && old.end == p.next && len(p.lost) == 0 {
		snapshot = old.snapshot
	} else if !p.idle || len(r.j.data[pid]) > 0 || old != nil && old.snapshot >= 0 {
		snapshot = p.next // which is made from the segments, if no file of that name is there
	}
	p.pair = checkpointPart{pid: pid, end: p.next, hw: p.next, snapshot: snapshot}
}
