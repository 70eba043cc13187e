package cluster

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// A metadata file whose damage bbolt shows only at the first write ends the start at once and by name; it used to be reported
// as a quorum that does not form, after the whole time limit.
func TestDamagedFreeListEndsTheStart(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(cfg.DataDir, "raft", "raft.db")
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// bbolt's pages begin with id u64, flags u16 (16: free list), count u16, overflow u32; the list of ids follows.
	const pageSize, header, freeList = 4096, 16, 16
	damaged := 0
	for at := 2 * pageSize; at+pageSize <= len(file); at += pageSize {
		if binary.LittleEndian.Uint16(file[at+8:]) != freeList || binary.LittleEndian.Uint16(file[at+10:]) == 0 {
			continue
		}
		copy(file[at+header:], file[at:at+8]) // the list's own page is free, it says
		damaged++
	}
	if damaged == 0 {
		t.Fatal("the file has no free list")
	}
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.StartTimeout = 10 * time.Second // the limit that must not be what ends it
	if _, err = Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "damaged") || strings.Contains(err.Error(), "no metadata quorum") {
		t.Errorf("the start ended with: %v", err)
	}
}

// TestExpectedPartitions: what the metadata says, read from its files without a node: after a snapshot too.
func TestExpectedPartitions(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	topic := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 3})[0].ID().Topic
	if err := b.DeleteTopic(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	kept := mustCreate(t, b, TopicSpec{Name: "b", Partitions: 2})[0].ID().Topic
	if err := b.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	all, err := ExpectedPartitions(vfs.OS{}, cfg.DataDir)
	if err != nil || len(all) != 2 || topic == kept {
		t.Fatalf("%v, %v", all, err)
	}
	for i, x := range all {
		if x.Topic != "b" || x.ID != (log.PartitionID{Topic: kept, Index: int32(i)}) {
			t.Errorf("%+v", x)
		}
	}
}

// TestOfflinePartitionIsNamed: a partition whose log is gone is listed with its reason and the way out, and its neighbour serves.
func TestOfflinePartitionIsNamed(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	ps := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 2})
	id := ps[0].ID()
	closeBroker(t, b)
	if err := os.RemoveAll(filepath.Join(cfg.DataDir, "topics", "a-"+id.Topic.String(), "0")); err != nil {
		t.Fatal(err)
	}
	b = openBroker(t, cfg)
	off := b.Offline()
	if len(off) != 1 || off[0].Topic != "a" || off[0].Partition != 0 || !strings.Contains(off[0].Reason, "weir repair") || b.Stats().Offline != 1 {
		t.Errorf("%+v, %d", off, b.Stats().Offline)
	}
	p, err := b.Partition("a", 1)
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, p, "x")
}
