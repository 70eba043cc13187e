// Package vfs is the file system as the log uses it, small enough to be replaced: by a disk that
// loses power (Mem) and by one that fails on request (Fault).
//
// It never hides what a file system does not promise: a write is durable after Sync of that file, a
// created, renamed or removed name after SyncDir of its directory, and nothing else is. After a failed
// Sync nobody knows what the disk holds, although reads still show the data (architecture J7).
//
// Standard library only.
package vfs

import (
	"errors"
	"io"
	"io/fs"
	"sync/atomic"
)

// ErrLocked: another process, or another part of this one, holds the lock.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. All methods may be called concurrently. Names are as for package os; errors
// match fs.ErrNotExist, fs.ErrExist, fs.ErrPermission and syscall.ENOSPC where that is the reason.
type FS interface {
	// OpenFile opens name with flags of package os (O_RDONLY, O_RDWR, O_CREATE, O_EXCL, O_TRUNC).
	// A file made by it exists after a power cut only once SyncDir of its directory returned.
	OpenFile(name string, flag int) (File, error)
	// Open is OpenFile with O_RDONLY.
	Open(name string) (File, error)
	// Create is OpenFile with O_RDWR|O_CREATE|O_TRUNC.
	Create(name string) (File, error)
	// Remove removes a file or an empty directory. The space comes back when the last open File is closed.
	Remove(name string) error
	// RemoveAll removes name and what is below it; no error if there is nothing. Not atomic.
	RemoveAll(name string) error
	// Rename replaces newName atomically, also for whoever looks after a power cut. Durable after SyncDir.
	Rename(oldName, newName string) error
	// ReadDir lists a directory by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	// MkdirAll makes a directory and its missing parents. SyncDir of each parent makes them durable.
	MkdirAll(name string) error
	// Stat describes a file or directory.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes durable which names the directory holds.
	SyncDir(name string) error
	// Lock takes the lock file name, making it if need be, until Close or the end of the process.
	// ErrLocked if it is taken.
	Lock(name string) (io.Closer, error)
	// DiskUsage describes the disk that holds name.
	DiskUsage(name string) (Usage, error)
}

// File is an open file. ReadAt and WriteAt may be called concurrently with everything, and together
// where their ranges do not overlap.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Truncate cuts or, with zeros, extends the file to size.
	Truncate(size int64) error
	// Sync returns nil when all writes that returned before it was called are on the disk, with the
	// size they need (fdatasync). After an error it must not be tried again: the kernel may have
	// dropped the data and forgotten the error.
	Sync() error
	// Size is the current length in bytes.
	Size() (int64, error)
	// Name is the name it was opened with.
	Name() string
	Close() error
}

// StartWriteback asks for bytes from to next of f to be put on the disk soon, where the platform knows how. It neither
// waits nor makes anything durable, and what goes wrong is told by the Sync that follows: a Sync that finds most of its
// work done holds up the other files of the disk less.
func StartWriteback(f File, from, next int64) {
	if w, ok := f.(interface{ startWriteback(from, next int64) }); ok && next > from {
		w.startWriteback(from, next)
	}
}

// Reserve gives an empty f room on the disk without writing to it, where the platform and its file system know how.
// Its size is size then; what it holds reads as zeros. false: nothing was done.
func Reserve(f File, size int64) bool {
	r, ok := f.(interface{ reserve(size int64) bool })
	return ok && r.reserve(size)
}

// CountSyncs is fs with every Sync and SyncDir, whether it succeeds or not, counted in n.
func CountSyncs(fs FS, n *atomic.Int64) FS { return countedFS{fs, n} }

type countedFS struct {
	FS
	n *atomic.Int64
}

func (c countedFS) wrap(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return countedFile{f, c.n}, nil
}

func (c countedFS) OpenFile(name string, flag int) (File, error) {
	return c.wrap(c.FS.OpenFile(name, flag))
}
func (c countedFS) Open(name string) (File, error)   { return c.wrap(c.FS.Open(name)) }
func (c countedFS) Create(name string) (File, error) { return c.wrap(c.FS.Create(name)) }

func (c countedFS) SyncDir(name string) error {
	c.n.Add(1)
	return c.FS.SyncDir(name)
}

type countedFile struct {
	File
	n *atomic.Int64
}

func (f countedFile) Sync() error {
	f.n.Add(1)
	return f.File.Sync()
}

func (f countedFile) startWriteback(from, next int64) { StartWriteback(f.File, from, next) }
func (f countedFile) reserve(size int64) bool         { return Reserve(f.File, size) }

// Usage is the room of a disk in bytes.
type Usage struct {
	Total int64
	Free  int64 // what this process may still write
}

// ReadFile reads a whole file of at most maxBytes.
func ReadFile(fsys FS, name string, maxBytes int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > maxBytes {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("file is larger than it can be")}
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil // an empty file, or one cut meanwhile
	}
	return b[:n], err
}

// WriteFile replaces name with a file of the given contents, durable when it returns: whoever looks,
// also after a power cut, sees all of the old or all of the new contents. It leaves name+".tmp" behind
// if it fails.
func WriteFile(fsys FS, name string, data []byte) error {
	f, err := fsys.Create(name + ".tmp")
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(name+".tmp", name)
	}
	if err == nil {
		err = fsys.SyncDir(dirOf(name))
	}
	return err
}
