package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory that knows what a real one would still have after a power cut: see
// CrashClone. Names are slash-separated; "." and "/" are the same, existing root.
type Mem struct {
	mu       sync.RWMutex
	root     *memNode
	capacity int64 // bytes; 0 = no limit
	used     int64
	locks    map[string]bool
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{root: newMemDir(), locks: map[string]bool{}}
}

// SetCapacity limits the bytes that files may take, in whole pages; beyond, writes give ENOSPC. 0 = no limit.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	m.capacity = bytes
	m.mu.Unlock()
}

// memNode is a directory or a file. Guarded by Mem.mu.
type memNode struct {
	dir     map[string]*memNode // nil for a file
	pending []memDirOp          // changes of dir since SyncDir, in order
	durable map[string]*memNode // dir as of the last SyncDir
	data    memData
	links   int
}

// memDirOp sets name to node; nil removes it. A rename is one op with both names.
type memDirOp struct {
	name, gone string
	node       *memNode
}

func (op memDirOp) apply(dir map[string]*memNode) {
	if op.gone != "" {
		delete(dir, op.gone)
	}
	if op.node == nil {
		delete(dir, op.name)
	} else if op.name != "" {
		dir[op.name] = op.node
	}
}

func newMemDir() *memNode {
	return &memNode{dir: map[string]*memNode{}, durable: map[string]*memNode{}}
}

func (n *memNode) change(op memDirOp) {
	op.apply(n.dir)
	n.pending = append(n.pending, op)
}

func memClean(name string) string { return path.Clean("/" + name) }

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

func (m *Mem) find(name string) (*memNode, error) {
	n := m.root
	for part, rest := "", memClean(name)[1:]; rest != ""; {
		part, rest, _ = strings.Cut(rest, "/")
		if n.dir == nil {
			return nil, syscall.ENOTDIR
		}
		if n = n.dir[part]; n == nil {
			return nil, fs.ErrNotExist
		}
	}
	return n, nil
}

// parent returns the directory of name and the last part of it.
func (m *Mem) parent(name string) (*memNode, string, error) {
	dir, base := path.Split(memClean(name))
	if base == "" {
		return nil, "", fs.ErrInvalid
	}
	n, err := m.find(dir)
	if err != nil {
		return nil, "", err
	}
	if n.dir == nil {
		return nil, "", syscall.ENOTDIR
	}
	return n, base, nil
}

func (m *Mem) OpenFile(name string, flag int) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	n := dir.dir[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, pathError("open", name, fs.ErrNotExist)
	case n == nil:
		n = &memNode{links: 1}
		dir.change(memDirOp{name: base, node: n})
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, pathError("open", name, fs.ErrExist)
	case n.dir != nil:
		return nil, pathError("open", name, syscall.EISDIR)
	case flag&os.O_TRUNC != 0:
		m.used += n.data.truncate(0)
	}
	return &memFile{fs: m, node: n, name: name, writable: flag&(os.O_RDWR|os.O_WRONLY) != 0}, nil
}

func (m *Mem) Open(name string) (File, error) { return m.OpenFile(name, os.O_RDONLY) }

func (m *Mem) Create(name string) (File, error) {
	return m.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return pathError("remove", name, err)
	}
	n := dir.dir[base]
	if n == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	if len(n.dir) > 0 {
		return pathError("remove", name, syscall.ENOTEMPTY)
	}
	m.unlink(dir, base, n)
	return nil
}

func (m *Mem) unlink(dir *memNode, base string, n *memNode) {
	dir.change(memDirOp{name: base})
	n.links--
	m.used -= n.data.bytes()
}

func (m *Mem) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return pathError("removeall", name, err)
	}
	if n := dir.dir[base]; n != nil {
		m.unlinkTree(dir, base, n)
	}
	return nil
}

func (m *Mem) unlinkTree(dir *memNode, base string, n *memNode) {
	for _, name := range sortedNames(n.dir) {
		m.unlinkTree(n, name, n.dir[name])
	}
	m.unlink(dir, base, n)
}

func (m *Mem) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, oldBase, err := m.parent(oldName)
	if err != nil {
		return pathError("rename", oldName, err)
	}
	to, newBase, err := m.parent(newName)
	if err != nil {
		return pathError("rename", newName, err)
	}
	n := from.dir[oldBase]
	if n == nil {
		return pathError("rename", oldName, fs.ErrNotExist)
	}
	if old := to.dir[newBase]; old == n {
		return nil
	} else if old != nil {
		if (old.dir != nil) != (n.dir != nil) || len(old.dir) > 0 {
			return pathError("rename", newName, fs.ErrExist)
		}
		old.links--
		m.used -= old.data.bytes()
	}
	if from == to {
		from.change(memDirOp{gone: oldBase, name: newBase, node: n})
		return nil
	}
	to.change(memDirOp{name: newBase, node: n})
	from.change(memDirOp{name: oldBase})
	return nil
}

func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.find(name)
	if err == nil && n.dir == nil {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	var entries []fs.DirEntry
	for _, base := range sortedNames(n.dir) {
		entries = append(entries, fs.FileInfoToDirEntry(n.dir[base].info(base)))
	}
	return entries, nil
}

func sortedNames(dir map[string]*memNode) []string {
	names := make([]string, 0, len(dir))
	for name := range dir {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (m *Mem) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mkdirAll(memClean(name))
}

func (m *Mem) mkdirAll(name string) error {
	n, err := m.find(name)
	if err == nil && n.dir == nil {
		err = syscall.ENOTDIR
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := m.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	dir, base, err := m.parent(name)
	if err != nil {
		return pathError("mkdir", name, err)
	}
	n = newMemDir()
	n.links = 1
	dir.change(memDirOp{name: base, node: n})
	return nil
}

func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.find(name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return n.info(path.Base(memClean(name))), nil
}

func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err == nil && n.dir == nil {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return pathError("syncdir", name, err)
	}
	for _, op := range n.pending {
		op.apply(n.durable)
	}
	n.pending = nil
	return nil
}

func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name = memClean(name)
	if m.locks[name] {
		return nil, pathError("lock", name, ErrLocked)
	}
	m.locks[name] = true
	return &memLock{File: f, fs: m, name: name}, nil
}

func (m *Mem) DiskUsage(string) (Usage, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	total := m.capacity
	if total == 0 {
		total = 1 << 40
	}
	return Usage{Total: total, Free: max(0, total-m.used)}, nil
}

type memLock struct {
	File
	fs   *Mem
	name string
}

func (l *memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.locks, l.name)
	return nil
}
