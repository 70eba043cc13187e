package log

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// snapshot is where the segment writer stood between two commits: what the next checkpoint is about.
type snapshot struct {
	covered uint64
	parts   []partSnapshot
}

type partSnapshot struct {
	p *Partition
	checkpointPart
	dirty     []*segment // held open until released
	syncDir   bool
	dirNew    bool
	meta      *partMeta // nil: part.meta is up to date
	producers []byte    // nil: the last snapshot still says it
	files     []vfs.File
}

// snapshot flushes everything and notes where every partition stands. It runs on the segment writer's
// goroutine. Without force, nothing new since the last checkpoint gives nil.
func (w *segmentWriter) snapshot(force bool) (*snapshot, error) {
	if w.newSeq <= w.coveredSeq && !force {
		return nil, nil
	}
	if err := w.flushAll(); err != nil {
		return nil, err
	}
	s := &snapshot{covered: w.lastSeq}
	for _, p := range w.l.known() {
		if p.w.gone {
			continue
		}
		ps, err := w.snapshotPartition(p)
		if err != nil {
			s.release(w.l.cfg.MaxOpenFiles)
			return nil, err
		}
		s.parts = append(s.parts, ps)
	}
	w.coveredSeq = w.lastSeq
	return s, nil
}

func (w *segmentWriter) snapshotPartition(p *Partition) (partSnapshot, error) {
	pw := &p.w
	pw.hw = min(Offset(p.hw.Load()), pw.end)
	ps := partSnapshot{p: p, syncDir: pw.dirOld, dirNew: pw.dirNew}
	for _, s := range pw.dirty {
		f, err := s.open()
		if err != nil {
			return ps, err
		}
		s.dirty = false
		ps.dirty, ps.files = append(ps.dirty, s), append(ps.files, f)
		if s == pw.active {
			if err := s.storeIndex(false); err != nil {
				w.l.cfg.Logger.Warn("index not stored, it will be rebuilt when needed", "err", err)
			}
		}
	}
	pw.dirty, pw.dirOld, pw.dirNew = nil, false, false
	if pw.metaOld {
		ps.meta = &partMeta{
			pid: p.pid, id: p.id, topic: p.topic, start: pw.start,
			epochs: append(epochList(nil), pw.epochs...), damaged: p.Damaged(),
		}
		pw.metaOld = false
	}
	switch {
	case pw.producers.len() == 0 && !pw.producers.transactional(): // what was aborted outlives its producers
		pw.snapshot = -1
	case pw.producersOld:
		ps.producers = pw.producers.encode(nil)
		pw.snapshot = pw.end
	}
	pw.producersOld = false
	ps.checkpointPart = checkpointPart{pid: p.pid, end: pw.end, hw: pw.hw, snapshot: pw.snapshot}
	if segs := *p.segs.Load(); len(segs) > 0 {
		last := segs[len(segs)-1]
		ps.segment, ps.position = last.base, uint32(last.size.Load())
	}
	return ps, nil
}

func (s *snapshot) release(limit int) {
	for i := range s.parts {
		for _, seg := range s.parts[i].dirty {
			seg.done(limit)
		}
		s.parts[i].dirty = nil
	}
}

// sync makes durable what the snapshot covers: segments oldest first, one at a time, then names, then
// part.meta and producer snapshots (J3, J4). Commits go on meanwhile and share the disk with it, so that it takes breath
// in between.
func (s *snapshot) sync(l *Log) error {
	fs := l.cfg.FS
	for i := range s.parts {
		ps := &s.parts[i]
		for n, f := range ps.files {
			if err := l.breathe(); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return fmt.Errorf("sync segment %s: %w", ps.dirty[n].path(), err)
			}
		}
		if ps.meta != nil {
			if err := l.breathe(); err != nil {
				return err
			}
			if err := l.withBallast(func() error { return ps.meta.write(fs, ps.p.dir) }); err != nil {
				return err
			}
		}
		if ps.producers != nil {
			if err := l.breathe(); err != nil {
				return err
			}
			name := segmentName(ps.p.dir, ps.snapshot, ".snap")
			if err := l.withBallast(func() error { return vfs.WriteFile(fs, name, ps.producers) }); err != nil {
				return fmt.Errorf("write producer snapshot %s: %w", name, err)
			}
		}
		if ps.dirNew {
			if err := syncPartitionDir(fs, ps.p.dir); err != nil {
				return err
			}
		}
		// part.meta and snapshots bring the directory with them.
		if ps.syncDir && ps.meta == nil && ps.producers == nil {
			if err := fs.SyncDir(ps.p.dir); err != nil {
				return fmt.Errorf("sync directory %s: %w", ps.p.dir, err)
			}
		}
	}
	return nil
}

// checkpoint brings segments and metadata up to date on disk and lets go of the journal files that are no
// longer needed. maintenance is held.
func (l *Log) checkpoint() error {
	return l.checkpointNow(false, func(it item) error {
		done := make(chan error, 1)
		it.durable = done
		l.c.submit(it)
		return l.await(done)
	})
}

// checkpointNow does it with commit as the way to a durable journal entry.
func (l *Log) checkpointNow(force bool, commit func(item) error) error {
	var snap *snapshot
	err := l.onWriter(func() (err error) {
		snap, err = l.w.snapshot(force)
		return err
	})
	if err == nil && snap != nil {
		err = l.writeCheckpoint(snap, commit)
	}
	if errors.Is(err, ErrClosed) {
		return err // the committer ended meanwhile: Close writes the last checkpoint itself
	}
	if err != nil {
		l.fail(err) // keeps the first one
		return l.Err()
	}
	return nil
}

func (l *Log) writeCheckpoint(snap *snapshot, commit func(item) error) error {
	defer snap.release(l.cfg.MaxOpenFiles)
	began := time.Now()
	if err := snap.sync(l); err != nil {
		return err
	}
	cp := checkpoint{covered: snap.covered, oldest: l.j.oldestFor(snap.covered)}
	l.mu.RLock()
	cp.nextPID = l.nextPID
	l.mu.RUnlock()
	for i := range snap.parts {
		cp.parts = append(cp.parts, snap.parts[i].checkpointPart)
	}
	if err := commit(item{typ: entryCheckpoint, payload: cp.encode(nil)}); err != nil {
		return err
	}
	l.j.release(cp.oldest)
	l.stats.checkpoints.Add(1)
	l.stats.checkpointNanos.Store(int64(time.Since(began)))
	for i := range snap.parts {
		if ps := &snap.parts[i]; ps.producers != nil {
			l.removeSnapshots(ps.p, ps.snapshot)
		}
	}
	return nil
}

// removeSnapshots removes producer snapshots other than keep; leftovers do no harm.
func (l *Log) removeSnapshots(p *Partition, keep Offset) {
	entries, err := l.cfg.FS.ReadDir(p.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".snap" && e.Name() != filepath.Base(segmentName(p.dir, keep, ".snap")) {
			_ = l.cfg.FS.Remove(filepath.Join(p.dir, e.Name()))
		}
	}
}

// onWriter runs f on the segment writer's goroutine, between two commits; its error takes the log offline.
// maintenance is held.
func (l *Log) onWriter(f func() error) error {
	if l.w.alone {
		return f()
	}
	done := make(chan error, 1)
	u := &commit{do: func() {
		err := l.Err()
		if err == nil {
			if err = f(); err != nil {
				l.fail(err) // here, before the next commit is handled as if nothing had happened
			}
		}
		done <- err
	}}
	if l.w.stopped {
		return ErrClosed
	}
	l.c.out <- u
	return <-done
}

// keeper looks after the journal beside the committer: it keeps a spare file ready, and checkpoints when
// half of the journal is in use or some time has passed.
type keeper struct {
	l        *Log
	wake     chan struct{}
	urgent   chan struct{}
	demanded atomic.Bool // the committer waits for a file
	quit     chan struct{}
	ended    chan struct{}
	once     sync.Once
}

func newKeeper(l *Log) *keeper {
	return &keeper{l: l, wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
}

func (k *keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// demand asks for a checkpoint now: of the keeper, or of whoever holds maintenance and waits for a commit.
func (k *keeper) demand() {
	k.demanded.Store(true)
	select {
	case k.urgent <- struct{}{}:
	default:
	}
	k.poke()
}

// awaitHolding is await for who holds maintenance: the commit that it waits for may itself wait for a
// checkpoint, which then nobody else can make.
func (l *Log) awaitHolding(done <-chan error) error {
	for {
		select {
		case err := <-done:
			return err
		case <-l.keeper.urgent:
			if err := l.checkpoint(); err != nil {
				return err
			}
		case <-l.failed:
			return l.Err()
		case <-l.finished:
			return l.await(done)
		}
	}
}

// hurried: the committer waits, or soon would, somebody waits for maintenance, or the log is being closed.
func (k *keeper) hurried() bool {
	select {
	case <-k.quit:
		return true
	default:
	}
	live, total := k.l.j.usage()
	return k.l.c.starved.Load() || k.l.wanted.Load() > 0 || live >= total/4*3
}

func (k *keeper) stop() {
	k.once.Do(func() { close(k.quit) })
	<-k.ended
}

// idleBytes: with less than that in the journal since the last checkpoint, the next one can wait.
const idleBytes = 64 * kib

func (k *keeper) run() {
	defer close(k.ended)
	l := k.l
	tick := time.NewTimer(l.cfg.CheckpointEvery)
	defer tick.Stop()
	last, lastBytes, ticked := time.Now(), int64(0), int64(0)
	for {
		select {
		case <-k.quit:
			return
		case <-l.failed:
			return
		case <-k.wake:
		case <-tick.C:
			tick.Reset(l.cfg.CheckpointEvery)
			if bytes := l.stats.commitBytes.Load(); bytes == ticked {
				builtChunks.trim()
				copiedChunks.trim()
			} else {
				ticked = bytes
			}
		}
		if l.Err() != nil {
			return // also when both were to be heard: nothing is written any more (A6)
		}
		if err := l.j.prepare(l.breatheDeep, l.pressure.Load() == diskOK); err != nil {
			l.cfg.Logger.Warn("no spare journal file", "err", err)
			tick.Reset(min(time.Second, l.cfg.CheckpointEvery)) // commits may be waiting for it
		}
		live, total := l.j.usage()
		bytes := l.stats.commitBytes.Load()
		every := l.cfg.CheckpointEvery
		if bytes-lastBytes < idleBytes {
			every = l.cfg.CheckpointIdleEvery
		}
		due := k.demanded.Swap(false) || live > total/2 || time.Since(last) >= every
		l.maintenance.Lock()
		if due {
			if err := l.checkpoint(); err == nil {
				last, lastBytes = time.Now(), bytes
			}
		}
		l.dropBelowStart()
		l.maintenance.Unlock()
	}
}

// dropBelowStart removes segments that lie wholly below their partition's log start, which is in the
// journal (J4). maintenance is held.
func (l *Log) dropBelowStart() {
	for _, p := range l.known() {
		segs := *p.segs.Load()
		start := p.LogStart()
		n := 0
		for n+1 < len(segs) && segs[n+1].base <= start {
			n++
		}
		if n == 0 {
			continue
		}
		if err := l.removeSegments(p, segs[:n]); err != nil {
			l.fail(err)
			return
		}
	}
}

// removeSegments takes closed segments out of the partition and unlinks them. maintenance is held.
func (l *Log) removeSegments(p *Partition, gone []*segment) error {
	p.replaceSegments(func(segs []*segment) []*segment {
		keep := segs[:0]
		for _, s := range segs {
			if !containsSegment(gone, s) {
				keep = append(keep, s)
			}
		}
		return keep
	})
	err := l.onWriter(func() error {
		for _, s := range gone {
			p.w.dirty = without(p.w.dirty, s)
		}
		p.w.dirOld = true
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range gone {
		if err := s.unlink(); err != nil {
			return err
		}
		l.stats.segmentsRemoved.Add(1)
	}
	return nil
}
