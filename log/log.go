package log

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"
	"time"
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
	overQuota   atomic.Bool  // for what Config.Hold holds
	dead        deadLetters
	state       atomic.Pointer[error]
	failed      chan struct{} // closed at the first failure
	finished    chan struct{} // closed when the committer has ended
	failOnce    sync.Once
	failure     atomic.Pointer[error]
	closeOnce   sync.Once
	closeErr    error
	ended       atomic.Bool // Close has closed the segments, which are still listed

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
	level := l.pressure.Load()
	if l.overQuota.Load() {
		level = max(level, diskTight)
	}
	if level != diskOK && !p.mayFill(level) {
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
		err := l.j.prepare(nil, false)
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
	l.ended.Store(true)
	for _, p := range l.known() {
		for _, s := range *p.segs.Load() {
			s.retire()
		}
	}
	return errors.Join(err, l.j.close(), l.lock.Close())
}

// Recovery reports what Open found and did.
func (l *Log) Recovery() Recovery { return l.recovery }
