package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
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
	last, err := restoreNewest(dir, f)
	if err != nil {
		return nil, fmt.Errorf("read metadata %s: %w", dir, err)
	}
	err = readEntries(path, last, f)
	if err != nil {
		return nil, fmt.Errorf("read metadata %s: %w", path, err)
	}
	return f.image.Load(), nil
}

func restoreNewest(dir string, f *fsm) (last uint64, err error) {
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

func readEntries(path string, after uint64, f *fsm) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	b, err := openBolt(file, info.Size())
	if err != nil {
		return err
	}
	return b.walk(func(bucket, key, value []byte) error {
		if len(key) != 8 || !bytes.Equal(bucket, bucketLog) || binary.BigEndian.Uint64(key) <= after {
			return nil
		}
		var e raft.Log
		if err := decodeEntry(binary.BigEndian.Uint64(key), value, &e); err != nil {
			return err
		}
		if e.Type != raft.LogCommand {
			return nil
		}
		f.Apply(&e)
		if failed := f.failed.Load(); failed != nil {
			return *failed
		}
		return nil
	})
}
