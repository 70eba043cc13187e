package log

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// Recovery says what Open found.
type Recovery struct {
	Clean         bool          // the last stop was a clean one, nothing was replayed
	TailUncertain bool          // the journal does not end with a seal: what was under way at the cut is unknown (E6)
	Torn          bool          // a commit was cut off; nothing in it had been acknowledged
	Entries       int64         // journal entries replayed
	Bytes         int64         // bytes of batches written to segments again
	Damaged       []PartitionID // partitions that are read-only now, see Partition.Damaged (E7)
	Missing       []uint32      // journal numbers of partitions whose directory is gone
	Took          time.Duration
}

// recovered is what recovery gathers about one journal partition number.
type recovered struct {
	p       *Partition
	pair    *checkpointPart // from the checkpoint
	defined bool            // by a PARTDEF after it
	id      PartitionID     // from that
	topic   string
	gone    bool   // deleted by one
	cut     Offset // least TRUNCATE after the checkpoint
	voided  bool   // DATA is void until the TRUNCATE to cut
	start   Offset // greatest LOGSTART after the checkpoint
	missing bool   // reported
}

// recover brings the directory to the state of the durable prefix of the journal, following the numbered
// steps in doc.go. It runs before any goroutine does.
func (l *Log) recover(fresh bool) error {
	l.w.alone = true
	defer func() { l.w.alone = false }()
	marker, err := readCleanMarker(l.cfg.FS, l.cfg.Dir)
	if err != nil {
		return err
	}
	// 1. Verify the journal before anything is changed.
	sc := &journalScan{j: l.j}
	if err := sc.openFiles(); err != nil {
		return err
	}
	cp, err := sc.findCheckpoint()
	if err != nil {
		return err
	}
	if cp == nil {
		if !fresh {
			return fmt.Errorf("the journal is missing or has lost its checkpoint: restore it from a backup of this directory: %w", ErrCorrupt)
		}
		cp = &checkpoint{nextPID: 1, oldest: 1}
	}
	if len(sc.files) > 0 || cp.covered > 0 {
		if err := sc.from(cp.oldest); err != nil {
			return err
		}
	}
	byPID := map[uint32]*recovered{}
	for i := range cp.parts {
		byPID[cp.parts[i].pid] = &recovered{pair: &cp.parts[i], cut: cp.parts[i].end}
	}
	l.nextPID = cp.nextPID
	err = sc.replay(func(e *entry) error {
		l.nextPID = max(l.nextPID, e.pid+1)
		if e.seq <= cp.covered {
			return nil
		}
		return gather(byPID, e)
	})
	if err != nil {
		return err
	}
	if sc.next <= cp.covered {
		return fmt.Errorf("journal ends at entry %d, a checkpoint covers %d: %w", sc.next-1, cp.covered, ErrCorrupt)
	}
	if marker != nil && sc.next <= marker.seq {
		return fmt.Errorf("journal ends at entry %d, but the node was shut down after %d: %w", sc.next-1, marker.seq, ErrCorrupt)
	}
	l.recovery.Clean = marker != nil && sc.next == marker.seq+1
	l.recovery.Torn = sc.torn || !sc.whole
	l.recovery.TailUncertain = !l.recovery.Clean && !sc.sealed && sc.next > 1 || l.recovery.Torn

	// 2. Find the partitions, finish deletions, cut segments to what the journal will write again (J5).
	if err := l.makeDefined(byPID); err != nil {
		return err
	}
	if err := l.loadPartitions(byPID); err != nil {
		return err
	}
	// 3. Write replayed entries into segments again, in order (J7).
	if err := l.reapply(sc, cp.covered, byPID); err != nil {
		return err
	}
	// 4. Checkpoint in a fresh journal file, synced; only then do partitions have a durable end.
	if err := removeCleanMarker(l.cfg.FS, l.cfg.Dir); err != nil {
		return err
	}
	if err := l.freshJournal(sc); err != nil {
		return err
	}
	if fresh {
		if err := writeFormat(l.cfg.FS, l.cfg.Dir); err != nil {
			return err
		}
	}
	for _, p := range l.known() {
		p.finishRecovery()
		if p.Damaged() != "" {
			l.recovery.Damaged = append(l.recovery.Damaged, p.id)
		}
	}
	return nil
}

// gather notes what must be known of an entry before any is applied.
func gather(byPID map[uint32]*recovered, e *entry) error {
	r := byPID[e.pid]
	if r == nil {
		r = &recovered{}
		byPID[e.pid] = r
	}
	switch e.typ {
	case entryPartDef:
		var err error
		r.defined, r.gone = true, e.flags&flagGone != 0
		if r.id, r.topic, err = decodePartDef(e.payload); err != nil {
			return fmt.Errorf("journal entry %d: %w", e.seq, err)
		}
	case entryTruncate:
		r.cut = min(r.cut, e.base)
	case entryLogStart:
		r.start = max(r.start, e.base)
	case entryData:
		b, err := NextBatch(e.payload, len(e.payload))
		if err != nil || len(b) != len(e.payload) || b.BaseOffset() != e.base {
			return fmt.Errorf("journal entry %d holds no batch at offset %d: %w", e.seq, e.base, ErrCorrupt)
		}
	case entryEpoch, entryCheckpoint, entryHighWatermark, entrySeal, entryPad:
	default:
		return fmt.Errorf("journal entry %d has %s: %w", e.seq, e.typ, ErrNewerFormat)
	}
	return nil
}

// makeDefined makes the directory and part.meta of partitions that the journal defines after the checkpoint:
// Create leaves both to the next checkpoint, so after a power cut either may be missing or torn.
func (l *Log) makeDefined(byPID map[uint32]*recovered) error {
	for pid, r := range byPID {
		if !r.defined || r.gone {
			continue
		}
		if err := checkTopicName(r.topic); err != nil {
			return fmt.Errorf("definition of partition %s: %w: %w", r.id, err, ErrCorrupt)
		}
		dir := partitionDir(l.cfg.Dir, r.id, r.topic)
		if err := l.cfg.FS.MkdirAll(dir); err != nil {
			return err
		}
		_, err := readPartMeta(l.cfg.FS, dir)
		switch {
		case err == nil:
			err = l.cfg.FS.SyncDir(dir) // that it can be seen does not mean that it is on the disk (J7)
		case isNotExist(err) || errors.Is(err, ErrCorrupt):
			err = (&partMeta{pid: pid, id: r.id, topic: r.topic}).write(l.cfg.FS, dir)
		}
		if err != nil {
			return err
		}
		if err := syncPartitionDir(l.cfg.FS, dir); err != nil {
			return err
		}
	}
	return nil
}

// loadPartitions opens every partition directory.
func (l *Log) loadPartitions(byPID map[uint32]*recovered) error {
	root := filepath.Join(l.cfg.Dir, topicsName)
	topics, err := l.cfg.FS.ReadDir(root)
	if err != nil {
		return err
	}
	for _, t := range topics {
		if !t.IsDir() {
			continue
		}
		parts, err := l.cfg.FS.ReadDir(filepath.Join(root, t.Name()))
		if err != nil {
			return err
		}
		for _, d := range parts {
			if !d.IsDir() {
				continue
			}
			if err := l.loadPartition(filepath.Join(root, t.Name(), d.Name()), byPID); err != nil {
				return err
			}
		}
	}
	return nil
}

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
		return l.removePartitionDir(dir)
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
	for {
		if err := h.next(); err != nil {
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
	end, err := s.loadIndex(f, position, p.config.Load().IndexIntervalBytes)
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
		p.w.active, p.w.created = s, p.l.cfg.Now()
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
				return nil
			}
		}
	}
	p.l.cfg.Logger.Warn("producer snapshot cannot be used, reading the segments instead", "file", name, "err", err)
	p.w.producersOld = true
	return p.rebuildProducers(p.w.producers, end)
}

// rebuildProducers makes t anew from the segments' batch headers below end. The stamps of producers are the
// batches' own, for want of better.
func (p *Partition) rebuildProducers(t *producerTable, end Offset) error {
	*t = *newProducerTable(t.max)
	for _, s := range *p.segs.Load() {
		f, err := s.open()
		if err != nil {
			return err
		}
		h := newHeaderScanner(f, 0, s.size.Load())
		for err = h.next(); err == nil && h.header.BaseOffset() < end; err = h.next() {
			t.apply(h.header, h.header.MaxTimestamp())
		}
		h.free()
		s.done(p.l.cfg.MaxOpenFiles)
		if err != nil && err != io.EOF {
			return fmt.Errorf("rebuild producer state from %s: %w", s.path(), err)
		}
	}
	t.next = end
	return nil
}

// reapply writes replayed entries into segments, as the segment writer does in normal life.
func (l *Log) reapply(sc *journalScan, covered uint64, byPID map[uint32]*recovered) error {
	var seq uint64
	err := sc.replay(func(e *entry) error {
		seq = e.seq
		if e.seq <= covered || e.pid == 0 {
			return nil
		}
		l.recovery.Entries++
		r := byPID[e.pid]
		if r.gone {
			return nil
		}
		if r.p == nil {
			if !r.missing {
				r.missing = true
				l.recovery.Missing = append(l.recovery.Missing, e.pid)
				l.cfg.Logger.Error("the journal has entries for a partition whose directory is gone", "number", e.pid)
			}
			return nil
		}
		if r.voided {
			switch {
			case e.typ == entryTruncate && e.base == r.cut:
				r.voided = false
			case e.typ == entryData:
				return nil
			}
		}
		return l.reapplyEntry(r.p, e)
	})
	if err != nil {
		return err
	}
	for pid, r := range byPID {
		if r.p == nil && !r.gone && !r.missing && r.pair != nil {
			l.recovery.Missing = append(l.recovery.Missing, pid)
			l.cfg.Logger.Error("a partition's directory is gone", "number", pid)
		}
	}
	slices.Sort(l.recovery.Missing)
	l.w.lastSeq, l.w.newSeq = seq, seq
	return l.w.flushAll()
}

func (l *Log) reapplyEntry(p *Partition, e *entry) error {
	it := item{p: p, typ: e.typ, flags: e.flags, epoch: e.epoch, base: e.base}
	if e.typ == entryData {
		if e.base < p.w.end {
			p.damage("the journal repeats offset %d, the log ends at %d", e.base, p.w.end)
			return nil
		}
		if e.base > p.w.end {
			// Keep what is there, in a segment of its own, so that the gap shows and nothing is lost.
			p.damage("offsets %d to %d are missing", p.w.end, e.base-1)
			if err := l.w.flush(p); err != nil {
				return err
			}
			l.w.roll(p)
		}
		it.chunk = newCopiedChunk(Batch(e.payload))
		it.chunk.base, it.chunk.next = it.chunk.batch.BaseOffset(), it.chunk.batch.NextOffset()
		it.chunk.written.Store(false)
		it.millis = it.chunk.batch.MaxTimestamp()
		l.recovery.Bytes += int64(len(e.payload))
	}
	if err := l.w.apply(&it); err != nil {
		return err
	}
	if l.w.unwritten.Load() > l.cfg.MaxUnwrittenBytes {
		return l.w.flushAll()
	}
	return nil
}

// freshJournal begins a journal file of its own for the checkpoint, so that a second crash finds the old
// files as they were until the checkpoint is durable (J7).
func (l *Log) freshJournal(sc *journalScan) error {
	j := l.j
	for _, s := range sc.files {
		s.live = true
		j.number = max(j.number, s.number)
	}
	for _, s := range j.slots {
		j.number = max(j.number, s.number)
	}
	free := false
	for _, s := range j.slots {
		free = free || !s.live && s.size >= journalHeaderSize+l.checkpointReserve()
	}
	if !free {
		s, err := j.create(max(min(bootJournalBytes, j.bytes), journalHeaderSize+2*l.checkpointReserve()))
		if err != nil {
			l.dropBallast()
			if s, err = j.create(min(bootJournalBytes, j.bytes)); err != nil {
				return err
			}
		}
		j.addFree(s)
	}
	// A process that died may have left files whose names never reached the disk (J7).
	if err := l.cfg.FS.SyncDir(j.dir); err != nil {
		return err
	}
	l.c.seq = sc.next
	// One number is skipped: leftovers of a torn commit can then not be taken for the next one.
	l.c.number = sc.lastCommit + 2
	if err := j.begin(l.c.seq, true); err != nil {
		return err
	}
	if err := l.checkpointNow(true, l.c.commitAlone); err != nil {
		return err
	}
	j.release(j.number)
	return nil
}

// finishRecovery makes the recovered state the one that appends go on from.
func (p *Partition) finishRecovery() {
	pw := &p.w
	if pw.hw > pw.end {
		p.damage("it was committed up to %d and ends at %d", pw.hw, pw.end)
	}
	p.start.Store(int64(pw.start))
	p.end.Store(int64(pw.end))
	p.durable.Store(int64(pw.end))
	p.hw.Store(int64(min(pw.hw, pw.end)))
	p.epochs = slices.Clone(pw.epochs)
	p.producers = cloneProducers(pw.producers)
}
