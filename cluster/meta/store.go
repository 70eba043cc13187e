package meta

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// store is raft's log and its stable values in one bbolt file (D3). Each write is synced when it returns.
//
// A write that failed is never tried again and fails the store for good (A6): the kernel may have dropped
// the dirty pages, and a later success would hide that. Only a full disk passes: bbolt then has not touched the
// page that would make the write count.
type store struct {
	db     *bbolt.DB
	onFail func(error)

	// released is closed when the node shuts down; see Set.
	released chan struct{}

	writing atomic.Int64 // time since started at which the write under way began, 0 if there is none

	mu     sync.Mutex
	failed error
	noRoom error // the last write found the disk full
}

var (
	bucketLog    = []byte("log")
	bucketStable = []byte("stable")
)

// openStore opens or creates dir/raft.db, once every page, entry and value of it has been checked.
// The file is locked until close; a second process gets an error within a second.
func openStore(dir string, onFail func(error)) (*store, error) {
	path := filepath.Join(dir, "raft.db")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	s := &store{onFail: onFail, released: make(chan struct{})}
	err := guard(func() (err error) {
		// The free list is synced although that costs a page per write: without it bbolt walks all pages at open, and
		// panics on a goroutine of its own, where nobody can catch it, when it finds one damaged.
		s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{OpenFile: openChecked, FreelistType: bbolt.FreelistMapType, NoStatistics: true})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", path, inUse(err))
	}
	if err := guard(s.prepare); err != nil {
		_ = guard(s.db.Close)
		return nil, fmt.Errorf("open metadata %s: %w", path, err)
	}
	return s, nil
}

// guard turns a panic or a memory fault into an error. bbolt maps its file and trusts each page; a flipped
// bit or a cut file otherwise ends the process with a stack trace.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = damagef("%v", r)
		}
	}()
	return fn()
}

// inUse says what a lock that was not had means.
func inUse(err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return errors.New("another process uses this data directory: stop it or choose another --data")
	}
	return err
}

// openChecked opens the file and, before bbolt maps it, locks and reads it. A lock belongs to the open file, so that
// bbolt's own finds it taken by itself.
func openChecked(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := openLocked(path, flag, mode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		err = checkFile(f, info.Size())
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func openLocked(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockTimeout); ; time.Sleep(lockTimeout / 20) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			_ = f.Close()
			return nil, bolterrors.ErrTimeout
		}
	}
}

const lockTimeout = time.Second

// checkFile reads all that raft would: it panics on an entry that it cannot read later, and takes a vote that is missing for one
// that was never given.
func checkFile(r io.ReaderAt, size int64) error {
	b, err := openBolt(r, size)
	if err != nil {
		return err
	}
	return readContents(b, func(*raft.Log, int) error { return nil }, func(_, _ []byte) {})
}

// readContents verifies everything, and gives each entry with its stored size to entry and each stable value to stable.
func readContents(b *boltFile, entry func(e *raft.Log, size int) error, stable func(key, value []byte)) error {
	var last uint64
	var buckets []string
	err := b.walk(func(bucket, key, value []byte) error {
		switch {
		case key == nil:
			buckets = append(buckets, string(bucket))
			return nil
		case bytes.Equal(bucket, bucketStable):
			v, err := decodeStable(key, value)
			if err == nil {
				stable(key, v)
			}
			return err
		}
		index, err := indexOf(key)
		if err != nil {
			return err
		}
		if last != 0 && index != last+1 {
			return damagef("entry %d follows entry %d", index, last)
		}
		last = index
		var e raft.Log
		if err := decodeEntry(index, value, &e); err != nil {
			return err
		}
		return entry(&e, len(value))
	})
	if err == nil && len(buckets) > 0 && !slices.Equal(buckets, []string{string(bucketLog), string(bucketStable)}) {
		err = damagef("it holds the buckets %q", buckets) // both are made at once, and no others
	}
	return err
}

// prepare makes the buckets of a new file.
func (s *store) prepare() error {
	fresh := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		fresh = tx.Bucket(bucketLog) == nil
		return nil
	})
	if err != nil || !fresh {
		return err
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketLog)
		if err == nil {
			_, err = tx.CreateBucketIfNotExists(bucketStable)
		}
		return err
	})
	if err != nil {
		return err
	}
	// Neither bbolt nor raft makes the names durable that they create. Without them a power cut leaves logs without metadata.
	dir := filepath.Dir(s.db.Path())
	if err := os.MkdirAll(filepath.Join(dir, "snapshots"), 0o755); err != nil {
		return err
	}
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// close unlocks the file. Nothing may use the store afterwards.
func (s *store) close() error { return guard(s.db.Close) }

// release lets go of who is held in Set; the node calls it once raft was told to stop.
func (s *store) release() { close(s.released) }

// started is where times are counted from: the wall clock may step.
var started = time.Now()

// writeAge is how long the write under way has taken, 0 if there is none.
func (s *store) writeAge() time.Duration {
	if began := s.writing.Load(); began != 0 {
		return time.Since(started) - time.Duration(began)
	}
	return 0
}

func (s *store) update(fn func(tx *bbolt.Tx) error) error {
	if s.writing.CompareAndSwap(0, int64(time.Since(started))) { // else one that began before has not ended
		defer s.writing.Store(0)
	}
	s.mu.Lock()
	err := s.failed
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err = guard(func() error { return s.db.Update(fn) }); err != nil {
		err = fmt.Errorf("write metadata: %w", err)
	}
	s.mu.Lock()
	s.noRoom = nil
	if full(err) {
		s.noRoom = err
	}
	s.mu.Unlock()
	if err == nil || full(err) {
		return err
	}
	s.mu.Lock()
	first := s.failed == nil
	if first {
		s.failed = err
	}
	s.mu.Unlock()
	if first {
		s.onFail(err)
	}
	return err
}

// trouble is why writes do not succeed at present, nil when they do.
func (s *store) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cmp.Or(s.failed, s.noRoom)
}

func (s *store) view(fn func(tx *bbolt.Tx) error) error {
	err := guard(func() error { return s.db.View(fn) })
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		err = fmt.Errorf("read metadata: %w", err)
	}
	return err
}

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

func indexOf(key []byte) (uint64, error) {
	if len(key) != 8 {
		return 0, damagef("an entry has the key %x", key)
	}
	return binary.BigEndian.Uint64(key), nil
}

// FirstIndex implements raft.LogStore.
func (s *store) FirstIndex() (uint64, error) {
	return s.edge(func(c *bbolt.Cursor) []byte { k, _ := c.First(); return k })
}

// LastIndex implements raft.LogStore.
func (s *store) LastIndex() (uint64, error) {
	return s.edge(func(c *bbolt.Cursor) []byte { k, _ := c.Last(); return k })
}

func (s *store) edge(pick func(*bbolt.Cursor) []byte) (i uint64, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		if k := pick(tx.Bucket(bucketLog).Cursor()); k != nil {
			i = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return i, err
}

// GetLog implements raft.LogStore.
func (s *store) GetLog(index uint64, e *raft.Log) error {
	return s.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketLog).Get(indexKey(index))
		if v == nil {
			return raft.ErrLogNotFound
		}
		return decodeEntry(index, v, e)
	})
}

// StoreLog implements raft.LogStore.
func (s *store) StoreLog(e *raft.Log) error { return s.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore: all of them or none. Entries that do not follow the last one follow a snapshot, which holds all
// before it; those go in the same transaction, since a gap in the log is damage.
func (s *store) StoreLogs(es []*raft.Log) error {
	return s.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketLog)
		b.FillPercent = 0.95 // keys only grow
		if last, _ := b.Cursor().Last(); last != nil && len(es) > 0 && es[0].Index > binary.BigEndian.Uint64(last)+1 {
			if err := deleteRange(b, 0, binary.BigEndian.Uint64(last)); err != nil {
				return err
			}
		}
		for _, e := range es {
			if err := b.Put(indexKey(e.Index), encodeEntry(e)); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange implements raft.LogStore: [first, last], both included.
func (s *store) DeleteRange(first, last uint64) error {
	return s.update(func(tx *bbolt.Tx) error { return deleteRange(tx.Bucket(bucketLog), first, last) })
}

func deleteRange(b *bbolt.Bucket, first, last uint64) error {
	c := b.Cursor()
	for k, _ := c.Seek(indexKey(first)); k != nil && binary.BigEndian.Uint64(k) <= last; k, _ = c.Seek(indexKey(first)) {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// Get implements raft.StableStore.
func (s *store) Get(key []byte) (v []byte, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		stored := tx.Bucket(bucketStable).Get(key)
		if stored == nil {
			return nil
		}
		v, err = decodeStable(key, stored)
		v = bytes.Clone(v)
		return err
	})
	return v, err
}

// Set implements raft.StableStore. A value that stands there already is not written again: raft sets
// the term at each start, and on flash each write that says nothing new is wear.
func (s *store) Set(key, value []byte) error {
	if old, err := s.Get(key); err == nil && old != nil && bytes.Equal(old, value) {
		return nil
	}
	// Raft panics when it cannot store a term or a vote, and must not go on as if it had: after a restart it could vote
	// again in that term. So it is held here: until there is room, or, after a failure, until release says
	// that raft no longer talks to anybody.
	for {
		err := s.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketStable).Put(key, encodeStable(key, value)) })
		if err == nil {
			return nil
		}
		var retry <-chan time.Time
		if full(err) {
			retry = time.After(diskFullRetry)
		}
		select {
		case <-retry:
		case <-s.released:
			return nil
		}
	}
}

const diskFullRetry = 200 * time.Millisecond

func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// GetUint64 implements raft.StableStore.
func (s *store) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("read metadata: %s has %d bytes, want 8", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// SetUint64 implements raft.StableStore.
func (s *store) SetUint64(key []byte, v uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, v))
}
