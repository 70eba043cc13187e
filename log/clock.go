package log

import (
	"encoding/binary"
	"hash/crc32"
	"path/filepath"
	"sync"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// clock judges the wall clock. Boards without a battery start in 1970 or where they stopped; deleting by
// age with such a clock would delete fresh data or keep it for ever. Timers never use it.
type clock struct {
	l       *Log
	storing ioLock // one store at a time

	mu sync.Mutex // a leaf, and not held over I/O: who writes segments asks as well
	// seen is the latest wall time this directory has known, from clock.state and since.
	seen   time.Time
	stored time.Time // what clock.state says
	// A forward step of more than an hour, also from one run to the next, suspends deletion by age for an hour: it is as
	// likely a clock that was wrong before as one that is wrong now.
	lastWall, lastMono time.Time
	suspendedUntil     time.Time // monotonic
	known              bool      // the last judgement
}

const (
	clockName       = "clock.state"
	clockStoreEvery = 15 * time.Minute
	clockStep       = time.Hour
)

var (
	clockMagic = [8]byte{'w', 'e', 'i', 'r', 'C', 'L', 'K', 0}
	// clockFloor is before this format was made: an earlier wall clock is certainly wrong.
	clockFloor = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
)

// open restores the last stored wall time: a coarse lower bound.
func (c *clock) open(l *Log) {
	c.l, c.storing = l, newIOLock()
	now := time.Now()
	b, err := vfs.ReadFile(l.cfg.FS, filepath.Join(l.cfg.Dir, clockName), 4*kib)
	if err == nil && len(b) == 20 && [8]byte(b[:8]) == clockMagic && crc32.Checksum(b[:16], castagnoli) == binary.LittleEndian.Uint32(b[16:]) {
		c.seen = time.UnixMilli(int64(binary.LittleEndian.Uint64(b[8:])))
		c.stored = c.seen
		c.lastWall, c.lastMono = c.seen, now // a node that was off for more than an hour may have come back with a wrong clock
	}
	c.judge(now)
}

// judge looks at the clock; mono is a reading of the monotonic clock.
func (c *clock) judge(mono time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.l.cfg.Now()
	if c.l.cfg.ClockTrusted != nil {
		c.known = c.l.cfg.ClockTrusted()
	} else {
		c.known = wall.After(clockFloor) && !wall.Before(c.seen.Add(-clockStep))
	}
	if !c.lastWall.IsZero() && wall.Round(0).Sub(c.lastWall) > mono.Sub(c.lastMono)+clockStep {
		c.suspendedUntil = mono.Add(clockStep)
	}
	c.lastWall, c.lastMono = wall.Round(0), mono
	if c.known && wall.After(c.seen) {
		c.seen = wall
	}
}

// trusted says whether stamps taken now can be believed.
func (c *clock) trusted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known
}

// deleteByAge says whether ages may be judged now.
func (c *clock) deleteByAge(mono time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known && !mono.Before(c.suspendedUntil)
}

// store writes clock.state, at most every 15 minutes unless now. It is a hint: not synced on its own, and
// failing to write it is no failure of the log.
func (c *clock) store(now bool) {
	c.storing.Lock()
	defer c.storing.Unlock()
	c.mu.Lock()
	seen, stored := c.seen, c.stored
	c.mu.Unlock()
	if seen.IsZero() || !now && seen.Sub(stored) < clockStoreEvery {
		return
	}
	le := binary.LittleEndian
	b := le.AppendUint64(append([]byte(nil), clockMagic[:]...), uint64(seen.UnixMilli()))
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if err := vfs.WriteFile(c.l.cfg.FS, filepath.Join(c.l.cfg.Dir, clockName), b); err != nil {
		c.l.cfg.Logger.Warn("clock state not stored", "err", err)
		return
	}
	c.mu.Lock()
	c.stored = seen
	c.mu.Unlock()
}

func (l *Log) clockTrusted() bool { return l.clock.trusted() }

// ClockTrusted says whether anything may be deleted for its age now: the wall clock can be believed, and has not made a
// large step within the last hour.
func (l *Log) ClockTrusted() bool {
	now := time.Now()
	l.clock.judge(now)
	return l.clock.deleteByAge(now)
}
