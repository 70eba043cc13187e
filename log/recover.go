package log

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// Recovery says what Open found.
type Recovery struct {
	Clean         bool          // the last stop was a clean one, nothing was replayed
	TailUncertain bool          // the journal does not end with a seal: what was under way at the cut is unknown (E6)
	Torn          bool          // a commit was cut off; nothing in it had been acknowledged
	Tail          *DroppedTail  // what was dropped of it, nil if nothing was
	Entries       int64         // journal entries replayed
	Bytes         int64         // bytes of batches written to segments again
	Damaged       []PartitionID // partitions that are read-only now, see Partition.Damaged (E7)
	Missing       []uint32      // journal numbers of partitions whose directory is gone
	Took          time.Duration
}

// DroppedTail is what could not be read of the journal's last commit. It was never acknowledged, since the sync that
// would have allowed that did not return; if the disk lied about that or earlier syncs, nobody can tell.
type DroppedTail struct {
	File     string
	Position int64
	Bytes    int64  // up to the end of the last entry that can be told
	Entries  int    // begun there, whole or not
	Commit   uint64 // their number
}

// recovered is what recovery gathers about one journal partition number.
type recovered struct {
	p       *Partition
	pair    *checkpointPart // from the checkpoint
	defined bool            // by a PARTDEF after it
	id      PartitionID     // from that
	topic   string
	gone    bool   // deleted by one
	aside   bool   // or put aside
	cut     Offset // least TRUNCATE after the checkpoint
	voided  bool   // DATA is void until the TRUNCATE to cut
	start   Offset // greatest LOGSTART after the checkpoint
	missing bool   // reported
}

// recover brings the directory to the state of the durable prefix of the journal, following the numbered
// steps in doc.go. It runs before any goroutine does.
func (l *Log) recover(ctx context.Context, format uint32) error {
	l.w.alone = true
	defer func() { l.w.alone = false }()
	marker, err := readCleanMarker(l.cfg.FS, l.cfg.Dir)
	if err != nil {
		return err
	}
	listed, err := readSlots(l.cfg.FS, l.cfg.Dir, format)
	if err != nil {
		return err
	}
	// 1. Verify the journal before anything is changed.
	sc := &journalScan{ctx: ctx, j: l.j}
	if err := sc.openFiles(); err != nil {
		return err
	}
	cp, err := sc.findCheckpoint()
	if err != nil {
		return err
	}
	if cp == nil {
		if format > 0 {
			return fmt.Errorf("%s: the journal is missing or has lost its checkpoint: %w", l.j.dir, ErrCorrupt)
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
	l.j.listed = listed
	gone := l.j.gone(listed)
	if err := checkGone(gone, l.recovery.Clean); err != nil {
		return err
	}
	if len(gone) > 0 {
		l.cfg.Logger.Warn("spare journal files are missing; nothing was in them", "files", gone)
	}
	l.recovery.Torn = sc.torn || !sc.whole
	l.recovery.TailUncertain = !l.recovery.Clean && !sc.sealed && sc.next > 1 || l.recovery.Torn
	if l.recovery.Tail = sc.tail; sc.tail != nil {
		l.cfg.Logger.Warn("the journal ends in a commit that was cut off: what it lacks was dropped. Nothing in it had been "+
			"acknowledged, unless the disk reported earlier syncs that it had not done (tail-uncertain)", "file", sc.tail.File,
			"position", sc.tail.Position, "bytes", sc.tail.Bytes, "entries", sc.tail.Entries, "commit", sc.tail.Commit)
	} else if l.recovery.TailUncertain {
		l.cfg.Logger.Info("the last stop was not a clean one; the journal has no torn end, and all of it is kept")
	}

	// 2. Find the partitions, finish deletions, cut segments to what the journal will write again (J5).
	if err := l.makeDefined(byPID); err != nil {
		return err
	}
	if err := l.loadPartitions(ctx, byPID); err != nil {
		return err
	}
	// 3. Write replayed entries into segments again, in order (J7).
	if err := l.reapply(sc, cp.covered, byPID); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// 4. Checkpoint in a fresh journal file, synced; only then do partitions have a durable end.
	if err := removeCleanMarker(l.cfg.FS, l.cfg.Dir); err != nil {
		return err
	}
	if err := l.freshJournal(sc); err != nil {
		return err
	}
	if format < formatVersion {
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
		r.defined, r.gone, r.aside = true, e.flags&flagGone != 0, e.flags&flagAside != 0
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
			return fmt.Errorf("definition of partition %s: %w", r.id, asCorrupt(err))
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
func (l *Log) loadPartitions(ctx context.Context, byPID map[uint32]*recovered) error {
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
			if !d.IsDir() || isAside(d.Name()) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := l.loadPartition(filepath.Join(root, t.Name(), d.Name()), byPID); err != nil {
				return err
			}
		}
	}
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
		it.millis = l.cfg.Now().UnixMilli() // never its records' stamps: see rebuildProducers
		l.recovery.Bytes += int64(len(e.payload))
		// part.meta may be newer than the checkpoint: where the log start has passed a truncation since, the epoch that was cut there and went on begins at
		// the log start by now, and applying the truncation again has just dropped it (A3).
		if b := it.chunk.batch; b.LeaderEpoch() > p.w.epochs.last() {
			p.w.epochs, p.w.metaOld = p.w.epochs.begin(b.LeaderEpoch(), b.BaseOffset()), true
		}
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
	if !l.recovery.Clean {
		// The checkpoint that says which files are free may be readable, and not on the disk (J7): until this one's is, none is used again.
		for _, s := range j.slots {
			s.live = true
		}
	}
	free := false
	for _, s := range j.slots {
		free = free || !s.live && s.size >= journalHeaderSize+l.checkpointReserve()
	}
	if !free {
		s, err := j.create(max(min(bootJournalBytes, j.bytes), journalHeaderSize+2*l.checkpointReserve()), nil)
		if err != nil {
			l.dropBallast()
			if s, err = j.create(min(bootJournalBytes, j.bytes), nil); err != nil {
				return err
			}
		}
		j.addFree(s)
	}
	// A process that died may have left files whose names never reached the disk (J7).
	if err := l.cfg.FS.SyncDir(j.dir); err != nil {
		return err
	}
	if err := j.list(nil); err != nil {
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
	p.begun.Store(int32(p.epochs.last()))
	p.producers = cloneProducers(pw.producers)
	p.unsettled.Store(p.producers.unsettled())
}
