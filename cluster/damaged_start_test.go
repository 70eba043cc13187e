package cluster

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
