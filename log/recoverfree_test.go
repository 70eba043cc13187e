package log

import (
	"sync"
	"syscall"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// J7: a checkpoint that can be read, and whose sync has failed, frees no journal file. The next recovery would write over the file that holds
// the last checkpoint on the disk, and a power cut then leave none.
func TestCheckpointThatIsNotOnTheDiskFreesNoJournalFile(t *testing.T) {
	disk, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(disk, "d", w))
	p := mustCreate(t, l, 0)
	if _, _, err := p.AppendBatch(producerBatchOf(7, 0, 0, 1, 0), 0); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 1)
	if err := l.j.prepare(nil, true); err != nil { // a free one is there to be used
		t.Fatal(err)
	}
	disk = disk.CrashClone(1, nil)
	_ = l.Close()
	tried := 0
	for fails := range 8 {
		cache := disk.CrashClone(1, nil)
		bad := vfs.NewFault(cache)
		bad.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", After: fails, Times: 1, Err: syscall.EIO})
		if l, err := Open(testConfig(bad, "d", newCommits())); err == nil {
			_ = l.Close() // another file was made, or it was the sync of no recovery
			continue
		}
		var mu sync.Mutex
		var cuts []*vfs.Mem
		again := vfs.NewFault(cache)
		again.Inject(vfs.Rule{Ops: vfs.OpSync | vfs.OpSyncDir, Hook: func(vfs.Op, string) {
			mu.Lock()
			defer mu.Unlock()
			cuts = append(cuts, cache.CrashClone(0, nil))
		}})
		l := mustOpen(t, testConfig(again, "d", newCommits()))
		_ = l.Close()
		mu.Lock()
		for i, cut := range cuts {
			l, err := Open(testConfig(cut, "d", newCommits()))
			if err != nil {
				t.Fatalf("sync %d of a journal file failed in recovery, and the power was cut at sync %d of the next: %v", fails, i, err)
			}
			if p := l.Partition(testID(0)); p == nil || p.Durable() != 1 {
				t.Errorf("sync %d, cut %d: the record is gone", fails, i)
			}
			_ = l.Close()
			tried++
		}
		mu.Unlock()
	}
	if tried == 0 {
		t.Error("nothing was tried")
	}
}
