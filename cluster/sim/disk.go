package sim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// errOff: the process that asks is dead. What it does from now on reaches nobody.
var errOff = errors.New("the power is off")

// disk is what one process sees of its node's disk: a vfs.Mem whose syncs take time, fail, or lie.
type disk struct {
	vfs.FS // the Mem
	p      *process
	off    atomic.Bool
	slow   atomic.Int64 // ns that a sync takes at most, 0: as usual
	fail   atomic.Int32 // of the next syncs, so many fail
	lie    atomic.Bool  // syncs return, and nothing is on the disk

	mu    sync.Mutex
	locks []io.Closer
}

func (d *disk) dead() error {
	if d.off.Load() {
		return errOff
	}
	return nil
}

// cut makes the process's disk unreachable for it.
func (d *disk) cut() {
	d.off.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.locks {
		_ = l.Close()
	}
}

// settle is the time that a sync takes.
func (d *disk) settle(name string) error {
	if err := d.dead(); err != nil {
		return err
	}
	r := d.p.s.draws.of(fmt.Sprintf("disk %s %s", d.p, name))
	took := between(r, 50*time.Microsecond, 4*time.Millisecond)
	if slow := d.slow.Load(); slow > 0 {
		took = between(r, time.Millisecond, time.Duration(slow))
	}
	time.Sleep(took)
	if err := d.dead(); err != nil {
		return err
	}
	if d.fail.Load() > 0 && d.fail.Add(-1) >= 0 {
		d.p.hurt.Store(true)
		d.p.s.trace.add("%s: the sync of %s fails", d.p, name)
		return syscall.EIO
	}
	return nil
}

func (d *disk) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{f, d}, nil
}

// OpenFile implements vfs.FS.
func (d *disk) OpenFile(name string, flag int) (vfs.File, error) {
	if err := d.dead(); err != nil {
		return nil, err
	}
	return d.file(d.FS.OpenFile(name, flag))
}

// Open implements vfs.FS.
func (d *disk) Open(name string) (vfs.File, error) {
	if err := d.dead(); err != nil {
		return nil, err
	}
	return d.file(d.FS.Open(name))
}

// Create implements vfs.FS.
func (d *disk) Create(name string) (vfs.File, error) {
	if err := d.dead(); err != nil {
		return nil, err
	}
	return d.file(d.FS.Create(name))
}

// Remove implements vfs.FS.
func (d *disk) Remove(name string) error {
	return d.change(func() error { return d.FS.Remove(name) })
}

// RemoveAll implements vfs.FS.
func (d *disk) RemoveAll(name string) error {
	return d.change(func() error { return d.FS.RemoveAll(name) })
}

// Rename implements vfs.FS.
func (d *disk) Rename(from, to string) error {
	return d.change(func() error { return d.FS.Rename(from, to) })
}

// MkdirAll implements vfs.FS.
func (d *disk) MkdirAll(name string) error {
	return d.change(func() error { return d.FS.MkdirAll(name) })
}

func (d *disk) change(do func() error) error {
	if err := d.dead(); err != nil {
		return err
	}
	return do()
}

// ReadDir implements vfs.FS.
func (d *disk) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := d.dead(); err != nil {
		return nil, err
	}
	return d.FS.ReadDir(name)
}

// SyncDir implements vfs.FS.
func (d *disk) SyncDir(name string) error {
	if err := d.settle(name); err != nil {
		return err
	}
	if d.lie.Load() {
		return nil
	}
	return d.FS.SyncDir(name)
}

// Lock implements vfs.FS.
func (d *disk) Lock(name string) (io.Closer, error) {
	if err := d.dead(); err != nil {
		return nil, err
	}
	l, err := d.FS.Lock(name)
	if err != nil {
		return nil, err
	}
	l = &once{Closer: l}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.locks = append(d.locks, l)
	return l, nil
}

// once is a lock that a dead process lets go of once.
type once struct {
	io.Closer
	done atomic.Bool
}

func (o *once) Close() error {
	if o.done.Swap(true) {
		return nil
	}
	return o.Closer.Close()
}

type file struct {
	vfs.File
	d *disk
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.d.dead(); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// WriteAt implements vfs.File.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.d.dead(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

// Truncate implements vfs.File.
func (f *file) Truncate(size int64) error {
	if err := f.d.dead(); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Sync implements vfs.File.
func (f *file) Sync() error {
	err := f.d.settle(f.Name())
	if errors.Is(err, syscall.EIO) {
		f.File.(interface{ LoseUnsynced() }).LoseUnsynced() // readable until the power is cut (J7)
	}
	if err != nil {
		return err
	}
	if f.d.lie.Load() {
		return nil
	}
	return f.File.Sync()
}
