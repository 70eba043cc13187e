package log

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

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
