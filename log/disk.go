package log

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/weir-io/weir/log/vfs"
)

// How much room the disk has. Tight: topics that do not drop their oldest data, and are not internal, get
// ErrDiskFull. Critical: everybody does; what is left is for checkpoints.
const (
	diskOK int32 = iota
	diskTight
	diskCritical
)

const dropOldest = "drop-oldest"

// mayFill says whether the partition takes appends at a level of pressure. An uplink that cannot pass a record goes on when that is a dead letter, and then lets go of what
// it holds: were dead letters refused because of what it holds, both would wait for ever.
func (p *Partition) mayFill(level int32) bool {
	cfg := p.config.Load()
	return level < diskCritical && (cfg.Internal || cfg.DiskFull == dropOldest && !cfg.Compact || cfg.DeadLetters && !p.l.dead.full.Load())
}

// deadLettersUnderPressure is how many bytes topics of dead letters grow by while others are refused: two segments, since only whole ones are let go. Devices whose payloads
// are refused write there too, and are not to fill what a quota leaves to others.
const deadLettersUnderPressure = 128 * mib

// deadLetters is how much of them there was when the node began to refuse appends, of housekeeping's goroutine but for full.
type deadLetters struct {
	pressed bool
	began   int64
	full    atomic.Bool
}

// judge looks how much they have grown.
func (d *deadLetters) judge(parts []*Partition, pressed bool) {
	var total int64
	for _, p := range parts {
		if p.Config().DeadLetters {
			total += p.Size()
		}
	}
	if !d.pressed || !pressed {
		d.pressed, d.began = pressed, total
	}
	d.began = min(d.began, total) // some went
	d.full.Store(pressed && total-d.began > deadLettersUnderPressure)
}

// ballast is a file that is given up when the disk is full, so that what was accepted can be finished.
type ballast struct {
	mu   sync.Mutex
	name string
	have bool
}

// dropBallast unlinks the ballast; false if there was none.
func (l *Log) dropBallast() bool {
	b := &l.ballast
	b.mu.Lock()
	defer b.mu.Unlock()
	b.have = false
	if err := l.cfg.FS.Remove(b.name); err != nil {
		return false
	}
	l.cfg.Logger.Warn("disk is full, ballast given up", "file", b.name, "bytes", l.cfg.BallastBytes)
	return true
}

// withBallast does write, and once more without the ballast if there was no room. write makes a file anew or
// fails before it changes anything, so trying again is safe; a failed sync is not tried again (A6).
func (l *Log) withBallast(write func() error) error {
	err := write()
	if errors.Is(err, syscall.ENOSPC) && l.dropBallast() {
		err = write()
	}
	return err
}

// makeBallast makes it (again) when there is room for it and as much again above the watermark.
func (l *Log) makeBallast(u vfs.Usage) {
	b := &l.ballast
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have || l.cfg.BallastBytes < 0 || l.level(vfs.Usage{Total: u.Total, Free: u.Free - 2*l.cfg.BallastBytes}) != diskOK {
		return
	}
	if info, err := l.cfg.FS.Stat(b.name); err == nil && info.Size() == l.cfg.BallastBytes {
		b.have = true
		return
	}
	f, err := l.cfg.FS.Create(b.name)
	if err == nil {
		// Room is all it is for: where it can be had without writing, flash is spared.
		if vfs.Reserve(f, l.cfg.BallastBytes) {
			err = f.Sync()
		} else {
			err = fillZero(f, 0, l.cfg.BallastBytes, l.breatheDeep)
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		l.cfg.Logger.Warn("no ballast", "file", b.name, "err", err)
		_ = l.cfg.FS.Remove(b.name)
		return
	}
	b.have = true
}

// level judges the disk.
func (l *Log) level(u vfs.Usage) int32 {
	used := 1.0
	if u.Total > 0 {
		used = 1 - float64(u.Free)/float64(u.Total)
	}
	switch {
	case u.Free < l.cfg.DiskMinFree*3/4:
		return diskCritical
	case u.Free < l.cfg.DiskMinFree || used >= l.cfg.DiskFull:
		return diskTight
	}
	return diskOK
}

// judgeDisk looks at the disk and sets the pressure that appends feel. Housekeeping does so with every tick,
// the segment writer whenever it has written a part of what DiskMinFree leaves: what was accepted by then,
// MaxUncommittedBytes and MaxUnwrittenBytes at most, must still fit.
func (l *Log) judgeDisk() (vfs.Usage, int32, error) {
	u, err := l.cfg.FS.DiskUsage(l.cfg.Dir)
	if err != nil {
		return u, diskOK, err
	}
	l.stats.diskFree.Store(u.Free)
	l.stats.diskTotal.Store(u.Total)
	level := l.level(u)
	if was := l.pressure.Swap(level); was != level {
		l.cfg.Logger.Warn("disk pressure changed", "free", u.Free, "total", u.Total, "appends", [...]string{"accepted", "refused", "refused"}[level])
		if level > was {
			select {
			case l.tight <- struct{}{}:
			default:
			}
		}
	}
	return u, level, nil
}

// checkDisk judges the disk, looks after the ballast, and returns the bytes that retention should free.
func (l *Log) checkDisk() int64 {
	u, level, err := l.judgeDisk()
	if err != nil {
		l.cfg.Logger.Warn("cannot tell how full the disk is", "err", err)
		return 0
	}
	if level == diskOK {
		if used := 1 - float64(u.Free)/float64(max(u.Total, 1)); used >= l.cfg.DiskWarn && !l.stats.diskWarned.Swap(true) {
			l.cfg.Logger.Warn("disk is filling up", "used", used, "free", u.Free)
		} else if used < l.cfg.DiskWarn {
			l.stats.diskWarned.Store(false)
		}
		l.makeBallast(u)
		return 0
	}
	if level == diskCritical {
		l.dropBallast()
	}
	keep := max(l.cfg.DiskMinFree, int64((1-l.cfg.DiskFull)*float64(u.Total)))
	return keep - u.Free + keep/8
}
