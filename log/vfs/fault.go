package vfs

import (
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// Op is a kind of file operation; kinds may be combined with |.
type Op uint16

const (
	OpOpen   Op = 1 << iota // OpenFile of an existing file, ReadDir, Stat
	OpCreate                // OpenFile with O_CREATE, Create, MkdirAll, Lock
	OpRead
	OpWrite
	OpTruncate
	OpSync
	OpSyncDir
	OpRename
	OpRemove

	// OpChange is every kind that changes the disk or makes a change durable.
	OpChange = OpCreate | OpWrite | OpTruncate | OpSync | OpSyncDir | OpRename | OpRemove
	OpAll    = OpOpen | OpRead | OpChange
)

// Rule says which operations to disturb, and how.
type Rule struct {
	Ops   Op     // kinds; 0 = OpAll
	Match string // path.Match pattern for the last part of the name; "" = every name
	After int    // let so many matching operations pass first
	Times int    // then disturb so many; 0 = all of them

	Err     error // fail with it; nil = only delay
	Partial int   // a failing write first writes so many of its bytes
	// Delay passes before the operation, PerMiB besides for each MiB written: a slow disk.
	Delay  time.Duration
	PerMiB time.Duration
	// Hook is called, without a lock held, before the operation; it may block it.
	Hook func(op Op, name string)
}

// Fault is an FS that fails or delays operations of the one below as its rules say. A failing Sync
// tells a Mem below that the data is lost.
type Fault struct {
	below FS
	mu    sync.Mutex
	rules []*Injection
	ops   int // changes seen
}

// Injection is a rule at work.
type Injection struct {
	Rule
	fault *Fault
	seen  int // guarded by fault.mu, like hits
	hits  int
}

// NewFault returns a Fault without rules.
func NewFault(below FS) *Fault { return &Fault{below: below} }

// Inject adds a rule. Of several that match one operation, all delay it and the first with an error fails it.
func (f *Fault) Inject(r Rule) *Injection {
	if r.Ops == 0 {
		r.Ops = OpAll
	}
	in := &Injection{Rule: r, fault: f}
	f.mu.Lock()
	f.rules = append(f.rules, in)
	f.mu.Unlock()
	return in
}

// Clear removes all rules.
func (f *Fault) Clear() {
	f.mu.Lock()
	f.rules = nil
	f.mu.Unlock()
}

// Changes is the number of operations of OpChange so far, for tests that fail each in turn.
func (f *Fault) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Hits is how many operations the rule has disturbed.
func (in *Injection) Hits() int {
	in.fault.mu.Lock()
	defer in.fault.mu.Unlock()
	return in.hits
}

// Stop ends the rule.
func (in *Injection) Stop() {
	in.fault.mu.Lock()
	in.Times, in.hits = 1, max(in.hits, 1)
	in.seen = in.After + in.Times
	in.fault.mu.Unlock()
}

// take counts the operation and says whether the rule applies to it. Called with fault.mu held.
func (in *Injection) take(op Op, name string) bool {
	if in.Ops&op == 0 {
		return false
	}
	if in.Match != "" {
		if ok, err := path.Match(in.Match, filepath.Base(name)); err != nil || !ok {
			return false
		}
	}
	in.seen++
	if in.seen <= in.After || in.Times > 0 && in.seen > in.After+in.Times {
		return false
	}
	in.hits++
	return true
}

// before runs the rules for an operation; partial is how many bytes a failing write still writes.
func (f *Fault) before(op Op, name string, bytes int) (partial int, err error) {
	var delay time.Duration
	var hooks []func(Op, string)
	f.mu.Lock()
	if op&OpChange != 0 {
		f.ops++
	}
	for _, in := range f.rules {
		if !in.take(op, name) {
			continue
		}
		delay += in.Delay + in.PerMiB*time.Duration(bytes)>>20
		if in.Hook != nil {
			hooks = append(hooks, in.Hook)
		}
		if in.Err != nil && err == nil {
			partial, err = in.Partial, pathError("fault", name, in.Err)
		}
	}
	f.mu.Unlock()
	for _, hook := range hooks {
		hook(op, name)
	}
	if delay > 0 {
		time.Sleep(delay)
	}
	return partial, err
}

func (f *Fault) OpenFile(name string, flag int) (File, error) {
	op := OpOpen
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		op = OpCreate
	}
	if _, err := f.before(op, name, 0); err != nil {
		return nil, err
	}
	file, err := f.below.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fault: f}, nil
}

func (f *Fault) Open(name string) (File, error) { return f.OpenFile(name, os.O_RDONLY) }

func (f *Fault) Create(name string) (File, error) {
	return f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (f *Fault) Remove(name string) error {
	if _, err := f.before(OpRemove, name, 0); err != nil {
		return err
	}
	return f.below.Remove(name)
}

func (f *Fault) RemoveAll(name string) error {
	if _, err := f.before(OpRemove, name, 0); err != nil {
		return err
	}
	return f.below.RemoveAll(name)
}

// Rename matches rules by the new name.
func (f *Fault) Rename(oldName, newName string) error {
	if _, err := f.before(OpRename, newName, 0); err != nil {
		return err
	}
	return f.below.Rename(oldName, newName)
}

func (f *Fault) ReadDir(name string) ([]fs.DirEntry, error) {
	if _, err := f.before(OpOpen, name, 0); err != nil {
		return nil, err
	}
	return f.below.ReadDir(name)
}

func (f *Fault) MkdirAll(name string) error {
	if _, err := f.before(OpCreate, name, 0); err != nil {
		return err
	}
	return f.below.MkdirAll(name)
}

func (f *Fault) Stat(name string) (fs.FileInfo, error) {
	if _, err := f.before(OpOpen, name, 0); err != nil {
		return nil, err
	}
	return f.below.Stat(name)
}

func (f *Fault) SyncDir(name string) error {
	if _, err := f.before(OpSyncDir, name, 0); err != nil {
		return err
	}
	return f.below.SyncDir(name)
}

func (f *Fault) Lock(name string) (io.Closer, error) {
	if _, err := f.before(OpCreate, name, 0); err != nil {
		return nil, err
	}
	return f.below.Lock(name)
}

func (f *Fault) DiskUsage(name string) (Usage, error) { return f.below.DiskUsage(name) }

type faultFile struct {
	File
	fault *Fault
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if _, err := f.fault.before(OpRead, f.Name(), 0); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	partial, err := f.fault.before(OpWrite, f.Name(), len(p))
	if err == nil {
		return f.File.WriteAt(p, off)
	}
	n, werr := f.File.WriteAt(p[:min(partial, len(p))], off)
	if werr != nil {
		err = werr
	}
	return n, err
}

func (f *faultFile) Truncate(size int64) error {
	if _, err := f.fault.before(OpTruncate, f.Name(), 0); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Sync() error {
	if _, err := f.fault.before(OpSync, f.Name(), 0); err != nil {
		if m, ok := f.File.(interface{ LoseUnsynced() }); ok {
			m.LoseUnsynced()
		}
		return err
	}
	return f.File.Sync()
}
