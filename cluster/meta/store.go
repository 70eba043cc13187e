package meta

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
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

	mu     sync.Mutex
	failed error
	noRoom error // the last write found the disk full
}

var (
	bucketLog    = []byte("log")
	bucketStable = []byte("stable")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// openStore opens or creates dir/raft.db and checks every entry in it.
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
		s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoStatistics: true})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open metadata %s: another process uses this data directory: stop it or choose another --data", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", path, err)
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
			err = fmt.Errorf("the file is damaged (%v): restore raft/ from a backup", r)
		}
	}()
	return fn()
}

// prepare makes the buckets of a new file, and reads every entry of an old one: raft panics on one it cannot
// read later.
func (s *store) prepare() error {
	fresh := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		entries, stable := tx.Bucket(bucketLog), tx.Bucket(bucketStable)
		if entries == nil || stable == nil {
			fresh = true
			return nil
		}
		var last uint64
		return entries.ForEach(func(k, v []byte) error {
			var e raft.Log
			index := binary.BigEndian.Uint64(append(make([]byte, 8-min(8, len(k))), k...))
			if err := decodeEntry(index, v, &e); err != nil {
				return err
			}
			if len(k) != 8 || last != 0 && index != last+1 {
				return fmt.Errorf("entry %d follows entry %d: the file is damaged: restore raft/ from a backup", index, last)
			}
			last = index
			return nil
		})
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

func (s *store) update(fn func(tx *bbolt.Tx) error) error {
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

// StoreLogs implements raft.LogStore: all of them or none.
func (s *store) StoreLogs(es []*raft.Log) error {
	return s.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketLog)
		b.FillPercent = 0.95 // keys only grow
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
	return s.update(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		for k, _ := c.Seek(indexKey(first)); k != nil && binary.BigEndian.Uint64(k) <= last; k, _ = c.Seek(indexKey(first)) {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Get implements raft.StableStore.
func (s *store) Get(key []byte) (v []byte, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		v = bytes.Clone(tx.Bucket(bucketStable).Get(key))
		return nil
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
		err := s.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketStable).Put(key, value) })
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

const (
	entryForm       = 1
	entryHeaderSize = 4 + 1 + 1 + 8 + 8 + 4
)

// u32 crc | u8 form | u8 type | u64 term | i64 appended at, ns | u32 data length | data | extensions
func encodeEntry(e *raft.Log) []byte {
	b := make([]byte, 4, entryHeaderSize+len(e.Data)+len(e.Extensions))
	b = append(b, entryForm, byte(e.Type))
	b = binary.BigEndian.AppendUint64(b, e.Term)
	var at int64
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
	b = append(b, e.Data...)
	b = append(b, e.Extensions...)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

// u32 crc | u8 form | u8 type | u64 term | i64 appended at, ns | u32 data length | data | extensions
func decodeEntry(index uint64, b []byte, e *raft.Log) error {
	if len(b) < entryHeaderSize || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return fmt.Errorf("entry %d is damaged: restore raft/ from a backup", index)
	}
	if b[4] != entryForm {
		return fmt.Errorf("entry %d has form %d: %w", index, b[4], ErrFormat)
	}
	n := binary.BigEndian.Uint32(b[22:])
	rest := b[entryHeaderSize:]
	if uint64(n) > uint64(len(rest)) {
		return fmt.Errorf("entry %d is damaged: restore raft/ from a backup", index)
	}
	*e = raft.Log{Index: index, Type: raft.LogType(b[5]), Term: binary.BigEndian.Uint64(b[6:]), Data: bytes.Clone(rest[:n])}
	if at := int64(binary.BigEndian.Uint64(b[14:])); at != 0 {
		e.AppendedAt = time.Unix(0, at)
	}
	if len(rest) > int(n) {
		e.Extensions = bytes.Clone(rest[n:])
	}
	return nil
}
