package meta

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// ReadImage reads the metadata in dir (raft.db and snapshots/) without a node and without changing it: the newest
// snapshot, and every entry after it. On a group of several members the last entries may not have been agreed upon.
func ReadImage(dir string) (im *Image, err error) {
	path := filepath.Join(dir, "raft.db")
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	f := &fsm{onApply: func(*Image) {}, onFail: func(error) {}}
	f.image.Store(NewImage())
	last, err := readSnapshot(dir, f)
	if err != nil {
		return nil, fmt.Errorf("read metadata %s: %w", dir, err)
	}
	err = guard(func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
		if err != nil {
			return err
		}
		err = db.View(func(tx *bbolt.Tx) error { return readEntries(tx, last, f) })
		return errors.Join(err, db.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("read metadata %s: %w", path, err)
	}
	return f.image.Load(), nil
}

func readSnapshot(dir string, f *fsm) (last uint64, err error) {
	if _, err := os.Stat(filepath.Join(dir, "snapshots")); err != nil {
		return 0, nil // there was none yet
	}
	snaps, err := raft.NewFileSnapshotStore(dir, retainedSnapshots, io.Discard)
	if err != nil {
		return 0, err
	}
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return 0, err
	}
	m, r, err := snaps.Open(list[0].ID)
	if err != nil {
		return 0, err
	}
	return m.Index, f.Restore(r)
}

func readEntries(tx *bbolt.Tx, after uint64, f *fsm) error {
	b := tx.Bucket(bucketLog)
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, v := c.Seek(indexKey(after + 1)); k != nil; k, v = c.Next() {
		var e raft.Log
		index := after + 1
		if err := decodeEntry(index, v, &e); err != nil {
			return err
		}
		after = index
		if e.Type != raft.LogCommand {
			continue
		}
		f.Apply(&e)
		if failed := f.failed.Load(); failed != nil {
			return *failed
		}
	}
	return nil
}
