package log

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weir-io/weir/log/vfs"
)

// Segments come after the ack: while the file system keeps the segment writer waiting, commits go on, and no more than
// MaxUnwrittenBytes of them gather.
func TestStalledSegmentWriterDoesNotHoldUpCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := vfs.NewFault(vfs.NewMem())
		cfg := testConfig(fault, "/d", nil)
		cfg.MaxUnwrittenBytes = 256 * kib
		cfg.JournalFileBytes = 4 * mib
		cfg.CommitMaxBytes = 8 * kib
		l := mustOpen(t, cfg)
		p := mustCreate(t, l, 0)
		stall := make(chan struct{})
		release := sync.OnceFunc(func() { close(stall) })
		fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Match: "*.log", Hook: func(vfs.Op, string) { <-stall }})
		t.Cleanup(func() { release(); l.Close() })
		add := func(bytes int) {
			if _, err := p.Append(&Record{Value: make([]byte, bytes)}, 1); err != nil {
				t.Fatal(err)
			}
		}

		add(65 * kib) // as much as the writer gathers for one write
		synctest.Wait()
		for range 50 {
			add(kib)
			synctest.Wait() // a commit of its own
		}
		if got := p.Durable(); got != 51 {
			t.Errorf("%d of 51 records are durable while the segment writer waits", got)
		}

		for range 200 { // in batches of up to openBatchBytes, one of which may go over
			add(4 * kib)
		}
		synctest.Wait()
		if ahead, most := l.w.ahead.Load(), cfg.MaxUnwrittenBytes+openBatchBytes+10*kib; ahead > most || p.Durable() == p.LogEnd() {
			t.Errorf("%d bytes are ahead of the segment writer, want at most %d", ahead, most)
		}

		release()
		synctest.Wait()
		if got := p.Durable(); got != 251 {
			t.Errorf("%d of 251 records are durable once the segment writer goes on", got)
		}
	})
}

// A follower may be told to begin anew just where its log ends, while the disk still has to be told of that end: that is waited for, not refused. // T5
func TestBeginWhereTheLogEndsWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := vfs.NewFault(vfs.NewMem())
		l := mustOpen(t, testConfig(fault, "/d", nil))
		p := mustCreate(t, l, 0)
		synctest.Wait()
		stall := make(chan struct{})
		release := sync.OnceFunc(func() { close(stall) })
		fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Hook: func(vfs.Op, string) { <-stall }})
		t.Cleanup(func() { release(); l.Close() })
		if _, err := p.Append(&Record{Value: []byte("v")}, 1); err != nil {
			t.Fatal(err)
		}
		began := make(chan error, 1)
		go func() { began <- p.Begin(p.LogEnd()) }()
		synctest.Wait()
		if p.Durable() != 0 {
			t.Fatal("the record is durable already: that proves nothing")
		}
		release()
		if err := <-began; err != nil || p.LogStart() != 1 || p.Durable() != 1 {
			t.Errorf("%v; log start %d, durable %d", err, p.LogStart(), p.Durable())
		}
	})
}
