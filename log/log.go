package log

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// Log is one node's log directory: the journal that all partitions share, and their segments.
// Its methods may be called from any goroutine.
type Log struct {
	cfg   Config
	lock  io.Closer
	syncs *atomic.Int64 // of all files and directories

	j      *journal
	c      *committer
	w      *segmentWriter
	keeper *keeper

	// maintenance is held by whoever changes segments other than by appending: checkpoint, retention,
	// compaction, truncation, deletion. It is the outermost lock and the only one held over I/O.
	maintenance ioLock
	wanted      atomic.Int32 // who waits for it: a checkpoint then takes no breath
	creating    ioLock       // one Create at a time

	mu      sync.RWMutex
	byID    map[PartitionID]*Partition
	all     []*Partition // also those being created or deleted: what a checkpoint must name
	nextPID uint32
	count   atomic.Int64 // len(all)

	maxEntryBytes  int // largest batch
	openBatchBytes int // where a shared batch ends

	uncommitted atomic.Int64 // bytes appended and not yet in the journal
	ofBatches   atomic.Int64 // of these, the bytes of AppendBatch
	crowded     atomic.Bool  // an Append was refused with ErrBusy, and OnRoom is owed
	pressure    atomic.Int32 // diskOK, diskTight, diskCritical
	state       atomic.Pointer[error]
	failed      chan struct{} // closed at the first failure
	finished    chan struct{} // closed when the committer has ended
	failOnce    sync.Once
	failure     atomic.Pointer[error]
	closeOnce   sync.Once
	closeErr    error

	tight    chan struct{} // the disk got fuller: housekeeping should look
	clock    clock
	ballast  ballast
	recovery Recovery
	stats    counters

	compaction compaction
}

// Err is the failure that took the directory offline, nil while there is none (A6).
func (l *Log) Err() error {
	if e := l.failure.Load(); e != nil {
		return *e
	}
	return nil
}

// offline is why nothing may be written any more: a failure, or Close.
func (l *Log) offline() error {
	if e := l.state.Load(); e != nil {
		return *e
	}
	return nil
}

// fail takes the directory offline for good. Nothing is written to it any more, in particular no sync is
// tried again: the kernel may have dropped what it could not write (A6).
func (l *Log) fail(cause error) {
	l.failOnce.Do(func() {
		err := fmt.Errorf("%w: %w", ErrFailed, cause)
		l.failure.Store(&err)
		l.state.Store(&err)
		close(l.failed)
		l.cfg.Logger.Error("log directory goes offline", "dir", l.cfg.Dir, "err", cause)
		if l.cfg.OnFail != nil {
			l.cfg.OnFail(err)
		}
	})
}

// await returns the answer to a submitted entry.
func (l *Log) await(done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-l.failed:
		return l.Err()
	case <-l.finished:
		select {
		case err := <-done:
			return err
		default:
			return ErrClosed
		}
	}
}

// admit says whether the node takes appends at all. What the node keeps for itself (sessions, offsets) is small and
// is let through while a flood of records or batches is held off.
func (l *Log) admit(p *Partition, batch bool) error {
	if e := l.state.Load(); e != nil {
		return *e
	}
	if level := l.pressure.Load(); level != diskOK && !p.mayFill(level) {
		return ErrDiskFull
	}
	if !l.full(p, batch) {
		return nil
	}
	if !batch {
		l.crowded.Store(true)
		if !l.full(p, batch) { // the committer may not have seen that it is to tell
			return nil
		}
	}
	l.stats.busy.Add(1)
	return ErrBusy
}

func (l *Log) full(p *Partition, batch bool) bool {
	switch {
	case p.config.Load().Internal:
		return l.uncommitted.Load() > 2*l.cfg.MaxUncommittedBytes
	case batch:
		return l.ofBatches.Load() > l.cfg.MaxUncommittedBytes
	default:
		return l.uncommitted.Load()-l.ofBatches.Load() > l.cfg.MaxUncommittedRecordBytes
	}
}

// taken counts bytes that a commit has made durable, and tells who was refused that there is room.
func (l *Log) taken(all, ofBatches int64) {
	if ofBatches != 0 {
		l.ofBatches.Add(-ofBatches)
	}
	left := l.uncommitted.Add(-all) - l.ofBatches.Load()
	if l.crowded.Load() && left <= l.cfg.MaxUncommittedRecordBytes/2 {
		l.crowded.Store(false)
		if l.cfg.OnRoom != nil {
			l.cfg.OnRoom()
		}
	}
}

// added counts appended bytes and ends the committer's linger when they are worth a commit.
func (l *Log) added(n int64) {
	now := l.uncommitted.Add(n)
	if enough := int64(l.cfg.CommitEnough); now >= enough && now-n < enough {
		select {
		case l.c.enough <- struct{}{}:
		default:
		}
	}
}

func (l *Log) markDirty(p *Partition) { l.c.markDirty(p) }

// seconds is the wall clock in seconds.
func (l *Log) seconds() int64 { return l.cfg.Now().Unix() }

// checkpointReserve is the journal space kept back for the next checkpoint, with room for partitions that
// are made meanwhile.
func (l *Log) checkpointReserve() int64 {
	return int64(entrySize(checkpointHeadSize + (int(l.count.Load())+16)*checkpointPartSize))
}

// Partition returns a partition, nil if there is none.
func (l *Log) Partition(id PartitionID) *Partition {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.byID[id]
}

// Partitions returns all partitions, ordered by topic name, topic and index.
func (l *Log) Partitions() []*Partition {
	l.mu.RLock()
	out := make([]*Partition, 0, len(l.byID))
	for _, p := range l.byID {
		out = append(out, p)
	}
	l.mu.RUnlock()
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i], out[j]
		if a.topic != b.topic {
			return a.topic < b.topic
		}
		if a.id.Topic != b.id.Topic {
			return string(a.id.Topic[:]) < string(b.id.Topic[:])
		}
		return a.id.Index < b.id.Index
	})
	return out
}

// known is every partition that a checkpoint must name.
func (l *Log) known() []*Partition {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return append([]*Partition(nil), l.all...)
}

func (l *Log) newPartition(id PartitionID, topic string, pid uint32, dir string) *Partition {
	p := &Partition{l: l, id: id, topic: topic, pid: pid, dir: dir}
	p.begun.Store(-1)
	p.config.Store(new(PartitionConfig{}.withDefaults()))
	p.segs.Store(new([]*segment))
	p.producers = newProducerTable(0)
	p.w.producers = newProducerTable(0)
	return p
}

// Create makes an empty partition; it is durable when this returns. ErrExists if there is one already.
func (l *Log) Create(id PartitionID, topic string, pc PartitionConfig) (*Partition, error) {
	if err := checkTopicName(topic); err != nil {
		return nil, err
	}
	if err := l.offline(); err != nil {
		return nil, err
	}
	l.creating.Lock()
	defer l.creating.Unlock()
	if l.Partition(id) != nil {
		return nil, fmt.Errorf("create partition %s of %s: %w", id, topic, ErrExists)
	}
	if l.checkpointReserve() > int64(l.maxEntryBytes) {
		return nil, fmt.Errorf("create partition %s of %s: %d partitions are all that journal files of %d bytes can carry: %w",
			id, topic, l.count.Load(), l.cfg.JournalFileBytes, ErrTooLarge)
	}
	dir := partitionDir(l.cfg.Dir, id, topic)
	l.mu.Lock()
	p := l.newPartition(id, topic, l.nextPID, dir)
	l.nextPID++
	l.mu.Unlock()
	p.SetConfig(pc)
	if err := l.cfg.FS.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("create partition %s of %s: %w", id, topic, err)
	}
	// The journal's definition makes the partition durable, with one sync instead of one for each file and
	// directory; the next checkpoint writes part.meta. A checkpoint that covers the definition must name
	// the partition, so it is known before it is defined.
	p.w.metaOld, p.w.dirNew = true, true
	l.mu.Lock()
	l.all = append(l.all, p)
	l.count.Store(int64(len(l.all)))
	l.mu.Unlock()
	done := make(chan error, 1)
	err := p.submit(item{p: p, typ: entryPartDef, payload: encodePartDef(nil, id, topic), durable: done})
	if err == nil {
		err = l.await(done)
	}
	if err != nil {
		return nil, fmt.Errorf("create partition %s of %s: %w", id, topic, err)
	}
	l.mu.Lock()
	l.byID[id] = p
	l.mu.Unlock()
	return p, nil
}

// ErrExists: there is a partition of that id already.
var ErrExists = errors.New("partition exists")

// Delete removes a partition and its files. Its other methods answer ErrClosed from then on. It is durable
// when this returns: a crash before finishes the removal at the next start or leaves the partition whole.
func (l *Log) Delete(id PartitionID) error { return l.drop(id, 0) }

// drop removes a partition; with flagAside its files are put aside.
func (l *Log) drop(id PartitionID, flags uint8) error {
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	p := l.Partition(id)
	if p == nil {
		return nil
	}
	if err := l.offline(); err != nil {
		return err
	}
	applied := make(chan error, 1)
	p.mu.Lock()
	p.sealLocked()
	p.refuse = ErrClosed
	p.pending = append(p.pending, item{p: p, typ: entryPartDef, flags: flagGone | flags, payload: encodePartDef(nil, id, p.topic), applied: applied})
	p.markDirtyLocked()
	p.mu.Unlock()
	l.mu.Lock()
	delete(l.byID, id)
	l.mu.Unlock()
	if err := l.awaitHolding(applied); err != nil {
		return fmt.Errorf("delete partition %s of %s: %w", id, p.topic, err)
	}
	p.replaceSegments(func([]*segment) []*segment { return nil })
	if err := l.dropPartitionDir(p.dir, flags&flagAside != 0); err != nil {
		return fmt.Errorf("delete partition %s of %s: %w", id, p.topic, err)
	}
	l.mu.Lock()
	for i := range l.all {
		if l.all[i] == p {
			l.all = append(l.all[:i:i], l.all[i+1:]...)
			break
		}
	}
	l.count.Store(int64(len(l.all)))
	l.mu.Unlock()
	return nil
}

// replaceSegments publishes a new list of segments; old lists stay as they were for readers that hold them.
// What leaves the list is closed by its last user.
func (p *Partition) replaceSegments(change func([]*segment) []*segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.segs.Load()
	list := change(append(make([]*segment, 0, len(old)+1), old...))
	p.segs.Store(&list)
	for _, s := range old {
		if !containsSegment(list, s) {
			s.retire()
		}
	}
}

func containsSegment(list []*segment, s *segment) bool {
	i := sort.Search(len(list), func(i int) bool { return list[i].base >= s.base })
	return i < len(list) && list[i] == s
}

// Close stops appends, commits and flushes what was appended, writes a checkpoint and the clean marker (E8),
// and unlocks the directory. After a failure it only lets go of the files. Later calls return the same.
func (l *Log) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

// awaitCommitter returns when everything is committed. The last commits may wait for a journal file, which the
// keeper no longer makes.
func (l *Log) awaitCommitter() {
	var again <-chan time.Time
	for {
		select {
		case <-l.finished:
			return
		case <-l.keeper.urgent:
		case <-again:
		}
		err := l.j.prepare(nil)
		l.lockMaintenance()
		err = errors.Join(err, l.checkpoint())
		l.maintenance.Unlock()
		if err != nil && !errors.Is(err, ErrClosed) {
			l.cfg.Logger.Warn("no journal file for the last commits", "err", err)
		}
		again = time.After(time.Second)
	}
}

func (l *Log) close() error {
	closed := error(ErrClosed)
	l.state.CompareAndSwap(nil, &closed)
	l.keeper.stop()
	l.c.finish()
	l.awaitCommitter()
	// The committer has ended: this goroutine may write the journal now.
	err := l.Err()
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	if err == nil {
		err = l.checkpointNow(true, l.c.commitAlone)
	}
	l.w.stopped = true
	close(l.c.out)
	<-l.w.ended
	if err == nil {
		l.clock.store(true)
		err = writeCleanMarker(l.cfg.FS, l.cfg.Dir, cleanMarker{seq: l.c.seq - 1, commit: l.c.number - 1})
	}
	for _, p := range l.known() {
		for _, s := range *p.segs.Load() {
			s.retire()
		}
	}
	return errors.Join(err, l.j.close(), l.lock.Close())
}

// Open is OpenContext for who does not give up.
func Open(cfg Config) (*Log, error) { return OpenContext(context.Background(), cfg) }

// OpenContext recovers the log in cfg.Dir, which it makes when missing, and returns it ready for appends. See
// Recovery for what it found. When ctx ends it gives up soon, which is as good as a crash (J5). Errors: that of ctx,
// vfs.ErrLocked, ErrNewerFormat, and ErrCorrupt when the journal is damaged otherwise than by a torn tail: then
// nothing was changed.
func OpenContext(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	syncs := new(atomic.Int64)
	cfg.FS = vfs.CountSyncs(cfg.FS, syncs)
	began := time.Now()
	lock, format, err := lockDir(cfg.FS, cfg.Dir)
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	l := &Log{
		cfg: cfg, lock: lock, syncs: syncs, j: newJournal(&cfg), byID: map[PartitionID]*Partition{}, nextPID: 1,
		failed: make(chan struct{}), finished: make(chan struct{}), tight: make(chan struct{}, 1), maintenance: newIOLock(), creating: newIOLock(),
	}
	// A commit is up to CommitMaxBytes and the entry that went over it, and must fit a journal file beside
	// the checkpoint's reserve.
	l.maxEntryBytes = cfg.MaxBatchBytes()
	l.cfg.CommitMaxBytes = min(cfg.CommitMaxBytes, l.maxEntryBytes)
	l.openBatchBytes = min(openBatchBytes, l.maxEntryBytes)
	free := make(chan *commit, commitsAhead)
	l.c = &committer{
		l: l, j: l.j, wake: make(chan struct{}, 1), enough: make(chan struct{}, 1),
		out: make(chan *commit, cap(free)+2), free: free, seq: 1, number: 1,
	}
	l.w = &segmentWriter{l: l, in: l.c.out, free: free, caughtUp: make(chan struct{}, 1), ended: make(chan struct{})}
	for range cap(free) {
		free <- new(commit)
	}
	l.keeper = newKeeper(l)
	l.clock.open(l)
	l.ballast.name = filepath.Join(cfg.Dir, "ballast")
	if err := l.recover(ctx, format); err != nil {
		for _, p := range l.known() {
			for _, s := range *p.segs.Load() {
				s.retire()
			}
		}
		return nil, errors.Join(openError(cfg.Dir, err), l.j.close(), lock.Close())
	}
	l.recovery.Took = time.Since(began)
	if _, _, err := l.judgeDisk(); err != nil {
		l.cfg.Logger.Warn("cannot tell how full the disk is", "err", err)
	}
	go l.w.run()
	go l.c.run()
	go l.keeper.run()
	l.keeper.poke()
	return l, nil
}

// openError names the directory and, where an operator can do something, the way out.
func openError(dir string, err error) error {
	switch {
	case errors.Is(err, ErrNewerFormat):
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("open log %s: %w: another node uses this directory: stop that process, or choose another directory with --data", dir, err)
	case errors.Is(err, ErrCorrupt):
		return fmt.Errorf("open log %s: %w: the node does not start, so that nothing is lost in silence: see `weir inspect data %s`, "+
			"then restore a backup of the directory, or let `weir repair %s` say what would be lost without one", dir, err, dir, dir)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("open log %s: %w: the node must be able to write its directory: mount it writable and give it to the node's user, or choose another with --data", dir, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("open log %s: %w: make room on that disk, for instance by removing %s, then start again; nothing acknowledged is lost", dir, err, filepath.Join(dir, "ballast"))
	}
	return fmt.Errorf("open log %s: %w", dir, err)
}

// Recovery reports what Open found and did.
func (l *Log) Recovery() Recovery { return l.recovery }
