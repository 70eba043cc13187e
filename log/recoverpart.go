package log

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/weir-io/weir/log/vfs"
)

// Recovery of one partition: from its directory and what the checkpoint says of it to the state in which the journal is applied.

func (l *Log) loadPartition(dir string, byPID map[uint32]*recovered) error {
	fsys := l.cfg.FS
	meta, err := readPartMeta(fsys, dir)
	if isNotExist(err) {
		return l.dropHalfMade(dir)
	}
	if err != nil {
		return err
	}
	r := byPID[meta.pid]
	if r == nil {
		r = &recovered{}
		byPID[meta.pid] = r
	}
	if r.gone {
		return l.dropPartitionDir(dir, r.aside)
	}
	if r.p != nil || l.byID[meta.id] != nil {
		return fmt.Errorf("%s holds partition %s, which %s holds too: is one a copy? %w", dir, meta.id, l.byID[meta.id].dir, ErrCorrupt)
	}
	l.nextPID = max(l.nextPID, meta.pid+1)
	p := l.newPartition(meta.id, meta.topic, meta.pid, dir)
	p.w.start, p.w.epochs, p.w.snapshot = max(meta.start, r.start), meta.epochs, -1
	if meta.damaged != "" {
		p.damage("%s", meta.damaged)
	}
	r.p = p
	l.byID[p.id] = p
	l.all = append(l.all, p)
	l.count.Store(int64(len(l.all)))
	if err := p.openSegments(r); err != nil {
		return fmt.Errorf("partition %s of %s: %w", p.id, p.topic, err)
	}
	return nil
}

// dropHalfMade removes a directory that a crash left before its part.meta was in place. One with segments is
// not that.
func (l *Log) dropHalfMade(dir string) error {
	entries, err := l.cfg.FS.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".log" {
			return fmt.Errorf("%s has segments but no part.meta: restore it from a backup or move the directory away: %w", dir, ErrCorrupt)
		}
	}
	return l.removePartitionDir(dir)
}

// damage makes the partition read-only with a reason (E7). What can be read stays readable.
func (p *Partition) damage(format string, args ...any) {
	if p.Damaged() != "" {
		return
	}
	why := fmt.Sprintf(format, args...)
	p.damaged.Store(&why)
	p.refuse = fmt.Errorf("partition %s of %s is damaged: %s: %w", p.id, p.topic, why, ErrReadOnly)
	p.w.metaOld = true
	p.l.cfg.Logger.Error("partition is damaged and read-only", "topic", p.topic, "partition", p.id.Index, "reason", why)
}

// openSegments lists the partition's segments and cuts them to min(checkpoint, every later TRUNCATE): what
// follows is written again from the journal (J5, J7). Only names and sizes of closed segments are looked at.
func (p *Partition) openSegments(r *recovered) error {
	segs, err := p.listSegments()
	if err != nil {
		return err
	}
	if r.pair == nil {
		if !r.defined && len(segs) > 0 {
			p.damage("it has segments but no checkpoint knows it")
			p.segs.Store(&segs)
			return nil
		}
		r.pair = &checkpointPart{snapshot: -1}
		r.cut = 0
	}
	pair, end := *r.pair, r.pair.end
	if p.w.start >= min(r.cut, end) {
		// All that the checkpoint covers lies below the log start; what is kept is in the journal (J4). Of the segments that retention has removed an older
		// one may be back without the one in which the checkpoint ends: the disk keeps no order among them.
		for _, s := range segs {
			if err := s.unlink(); err != nil {
				return err
			}
		}
		p.w.dirOld = p.w.dirOld || len(segs) > 0
		segs, pair.segment, pair.position = nil, 0, 0
	}
	if r.cut < end {
		r.voided = true
		if err := p.cutPair(&pair, segs, r.cut); err != nil {
			return err
		}
	}
	p.w.end, p.w.hw = pair.end, pair.hw
	// Segments begun after the checkpoint.
	keep := len(segs)
	for keep > 0 && (segs[keep-1].base > pair.segment || pair.position == 0 && segs[keep-1].base >= pair.segment) {
		keep--
		if err := segs[keep].unlink(); err != nil {
			return err
		}
		p.w.dirOld = true
	}
	segs = segs[:keep]
	p.segs.Store(&segs)
	if pair.position > 0 {
		if err := p.openActive(segs, &pair); err != nil {
			return err
		}
	}
	if err := p.loadProducers(r.pair.snapshot, end, pair.end); err != nil {
		return err
	}
	if len(segs) > 0 && segs[0].base > p.w.start && p.w.start < pair.end {
		p.damage("its first segment begins at %d, the log at %d", segs[0].base, p.w.start)
	}
	for i := 0; i+1 < len(segs); i++ {
		if segs[i].size.Load() == 0 {
			p.damage("segment %s is empty", segs[i].path())
		}
	}
	return nil
}

// cutPair lowers a checkpoint's view of the partition to a later truncation. What the segments hold past the
// cut may be half of what was there and half of what came after.
func (p *Partition) cutPair(pair *checkpointPart, segs []*segment, cut Offset) error {
	pair.end, pair.hw = cut, min(pair.hw, cut)
	n := len(segs)
	for n > 0 && segs[n-1].base >= cut {
		n--
	}
	pair.segment, pair.position = 0, 0
	if n == 0 {
		return nil
	}
	s := segs[n-1]
	f, err := s.open()
	if err != nil {
		return err
	}
	defer s.done(p.l.cfg.MaxOpenFiles)
	pair.segment = s.base
	h := newHeaderScanner(f, 0, s.size.Load())
	defer h.free()
	for due := s.base; ; due = h.header.NextOffset() {
		err := h.next()
		if err == nil && h.header.BaseOffset() >= cut {
			pair.position = uint32(h.start)
			return nil
		}
		if err == nil {
			if e, _ := p.w.epochs.at(h.header.BaseOffset()); h.header.BaseOffset() < due || strays(h.header, e) {
				err = fmt.Errorf("batch at %d has offset %d and epoch %d: %w", h.start, h.header.BaseOffset(), h.header.LeaderEpoch(), ErrCorrupt)
			}
		}
		if err != nil {
			p.damage("segment %s does not reach offset %d: %v", s.path(), cut, err)
			return nil
		}
		if h.header.NextOffset() >= cut {
			pair.position = uint32(h.end)
			return nil
		}
	}
}

// openActive checks the segment that the checkpoint ends in, cuts it there and makes it the active one.
func (p *Partition) openActive(segs []*segment, pair *checkpointPart) error {
	position := int64(pair.position)
	if len(segs) == 0 || segs[len(segs)-1].base != pair.segment {
		p.damage("segment %020d, in which the last checkpoint ends, is missing", int64(pair.segment))
		return nil
	}
	s := segs[len(segs)-1]
	if size := s.size.Load(); size < position {
		p.damage("segment %s has %d bytes, the last checkpoint covers %d", s.path(), size, position)
		return nil
	}
	if s.size.Load() > position {
		f, err := s.open()
		if err != nil {
			return err
		}
		s.size.Store(position)
		err = f.Truncate(position)
		s.done(p.l.cfg.MaxOpenFiles)
		if err != nil {
			return fmt.Errorf("cut segment %s to %d: %w", s.path(), position, err)
		}
		s.dirty = true
		p.w.dirty = append(p.w.dirty, s)
	}
	f, err := s.open()
	if err != nil {
		return err
	}
	defer s.done(p.l.cfg.MaxOpenFiles)
	end, err := s.loadIndex(f, position, p.config.Load().IndexIntervalBytes, p.w.epochs)
	switch {
	case errors.Is(err, ErrCorrupt):
		p.damage("%v", err)
	case err != nil:
		return err
	case end != pair.end:
		p.damage("segment %s ends at offset %d, the last checkpoint at %d", s.path(), end, pair.end)
	default:
		s.mu.Lock()
		s.active = true
		openSegments.Add(-1)
		s.mu.Unlock()
		p.w.active = s
		s.begins(p.l.cfg.Now())
	}
	return nil
}

// listSegments returns the directory's segments by base, and removes what crashes leave behind.
func (p *Partition) listSegments() ([]*segment, error) {
	fsys := p.l.cfg.FS
	if _, err := recoverSwaps(fsys, p.dir); err != nil {
		return nil, err
	}
	entries, err := fsys.ReadDir(p.dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, e := range entries {
		name := e.Name()
		ext := filepath.Ext(name)
		if ext == ".tmp" || ext == ".clean" {
			if err := removeIfThere(fsys, filepath.Join(p.dir, name)); err != nil {
				return nil, err
			}
			continue
		}
		base, err := strconv.ParseInt(strings.TrimSuffix(name, ext), 10, 64)
		if ext != ".log" || err != nil || base < 0 {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		s := &segment{fs: fsys, dir: p.dir, base: Offset(base)}
		s.size.Store(info.Size())
		segs = append(segs, s)
	}
	sort.Slice(segs, func(i, j int) bool { return segs[i].base < segs[j].base })
	return segs, nil
}

// loadProducers restores the producer state at end, which is the checkpoint or a later cut; without a usable snapshot it is rebuilt
// from the segments (J6).
func (p *Partition) loadProducers(snapshot, checkpointed, end Offset) error {
	p.w.snapshot = snapshot
	if snapshot < 0 {
		p.w.producers.next = end
		return nil
	}
	name := segmentName(p.dir, snapshot, ".snap")
	b, err := vfs.ReadFile(p.l.cfg.FS, name, maxPartMeta)
	if err == nil {
		var t *producerTable
		if t, err = decodeProducers(b, 0); err == nil && t.next == snapshot {
			// Between this snapshot and the checkpoint no producer has appended, or there would be a newer one.
			t.next = checkpointed
			p.w.producers = t
			if t.truncateTo(end) {
				t.trim(p.w.start) // which makes no newer one
				return nil
			}
		}
	}
	p.l.cfg.Logger.Warn("producer snapshot cannot be used, reading the segments instead", "file", name, "err", err)
	p.w.producersOld = true
	return p.rebuildProducers(p.w.producers, end)
}

// rebuildProducers makes t anew from the segments' batch headers below end. Its producers count as heard now: stamps of records are their clients', who
// may have no clock, or send what is old; a producer that is forgotten for them would have its next repeat stored twice.
func (p *Partition) rebuildProducers(t *producerTable, end Offset) error {
	now := p.l.cfg.Now().UnixMilli()
	*t = *newProducerTable(t.max)
	for _, s := range *p.segs.Load() {
		f, err := s.open()
		if err != nil {
			return err
		}
		h := newHeaderScanner(f, 0, s.size.Load())
		for err = h.next(); err == nil && h.header.BaseOffset() < end; err = h.next() {
			b := h.header
			if b.IsControl() { // a marker is in its record
				if b, err = h.whole(); err != nil {
					break
				}
			}
			t.apply(b, now)
		}
		h.free()
		s.done(p.l.cfg.MaxOpenFiles)
		if err != nil && err != io.EOF {
			return fmt.Errorf("rebuild producer state from %s: %w", s.path(), err)
		}
	}
	t.trim(p.w.start) // segments begin below it: what was trimmed before is not open again
	t.next = end
	return nil
}
