//go:build !race

package vfs

import (
	"sync/atomic"
	"testing"
)

// Every commit syncs: it must cost the collector nothing.
func TestSyncDoesNotAllocate(t *testing.T) {
	var n atomic.Int64
	f, err := CountSyncs(OS{}, &n).Create(t.TempDir() + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := testing.AllocsPerRun(100, func() {
		StartWriteback(f, 0, 4096)
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
	})
	if got > 0 {
		t.Errorf("%v allocations per sync", got)
	}
}
