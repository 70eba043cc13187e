package log

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// A flood of records is held off long before it fills the memory that producers' batches have, leaves those and
// internal topics alone, and is told when there is room again.
func TestRecordsHaveABudgetOfTheirOwn(t *testing.T) {
	cfg := testConfig(vfs.NewMem(), "/d", nil)
	cfg.MaxUncommittedRecordBytes = 2 * kib
	blocked, block, room := make(chan struct{}, 100), make(chan struct{}), make(chan struct{}, 100)
	var told atomic.Int32
	cfg.OnCommit = func([]*Partition) { blocked <- struct{}{}; <-block }
	cfg.OnRoom = func() {
		told.Add(1)
		room <- struct{}{}
	}
	l := mustOpen(t, cfg)
	p, err := l.Create(testID(0), "t", PartitionConfig{})
	if err != nil {
		t.Fatal(err)
	}
	internal, err := l.Create(testID(1), "__t", PartitionConfig{Internal: true, Compact: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Append(&Record{}, 1); err != nil {
		t.Fatal(err)
	}
	<-blocked // nothing is committed from here on
	refused := 0
	for range 100 {
		if _, err := p.Append(&Record{Value: make([]byte, 500)}, 1); errors.Is(err, ErrBusy) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if end := p.LogEnd(); refused == 0 || end > 7 {
		t.Errorf("%d refused, log end %d", refused, end)
	}
	if _, _, err := p.AppendBatch(benchBatch(t, CompressionNone, 8), 1); err != nil {
		t.Errorf("a producer's batch: %v", err)
	}
	if _, err := internal.Append(&Record{Key: []byte("k"), Value: []byte("v")}, 1); err != nil {
		t.Errorf("an internal record: %v", err)
	}
	if n := told.Load(); n != 0 {
		t.Errorf("told of room %d times while there is none", n)
	}
	close(block)
	<-room
	if _, err := p.Append(&Record{}, 1); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, m := l.uncommitted.Load(), l.ofBatches.Load(); n != 0 || m != 0 {
		t.Errorf("%d bytes, %d of batches, count as uncommitted in the end", n, m)
	}
	if n := told.Load(); n != 1 {
		t.Errorf("told of room %d times, want once", n)
	}
}
