package vfs

import (
	"io/fs"
	"sync"
	"syscall"
)

// descriptorCall is a call that needs the descriptor itself. They are kept for reuse, with run bound once: commits sync
// all the time and must not allocate.
type descriptorCall struct {
	run     func(fd uintptr)
	kind    int
	from, n int64
	err     error
}

const (
	callSync = iota
	callWriteback
	callReserve
)

var descriptorCalls = sync.Pool{New: func() any {
	c := new(descriptorCall)
	c.run = c.call
	return c
}}

func (c *descriptorCall) call(fd uintptr) {
	switch c.kind {
	case callSync:
		for {
			if c.err = syscall.Fdatasync(int(fd)); c.err != syscall.EINTR {
				return
			}
		}
	case callWriteback:
		syncFileRange(fd, c.from, c.n, syncFileRangeWrite)
	case callReserve:
		c.err = syscall.Fallocate(int(fd), 0, c.from, c.n)
	}
}

// withDescriptor makes a call while the file cannot be closed.
func (f *osFile) withDescriptor(kind int, from, n int64) error {
	c := descriptorCalls.Get().(*descriptorCall)
	c.kind, c.from, c.n, c.err = kind, from, n, nil
	err := f.conn.Control(c.run)
	if err != nil {
		err = fs.ErrClosed // the only reason that Control has not to call
	} else {
		err = c.err
	}
	descriptorCalls.Put(c)
	return err
}

// Sync is fdatasync: unlike fsync it skips the file times, which saves a metadata write per commit.
func (f *osFile) Sync() error {
	if err := f.withDescriptor(callSync, 0, 0); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

const syncFileRangeWrite = 2 // SYNC_FILE_RANGE_WRITE: begin, do not wait

func (f *osFile) startWriteback(from, next int64) {
	_ = f.withDescriptor(callWriteback, from, next-from) // a hint: the next Sync tells what went wrong
}

func (f *osFile) reserve(size int64) bool { return f.withDescriptor(callReserve, 0, size) == nil }
