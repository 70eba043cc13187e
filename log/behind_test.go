package log

import (
	"fmt"
	"sync"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// Writers append to one partition, and behind that to others, and wait for neither, while commits are so small that nearly every one leaves something for the next. Whenever the
// power goes, what came behind is there only where what it is behind is there too. // J8
func TestBehindIsNeverThereAlone(t *testing.T) {
	const writers, each = 4, 8
	disk := &everyCut{Mem: vfs.NewMem()}
	var broken error
	cuts := 0
	armed := false
	disk.before = func(op string) {
		if cuts++; !armed || broken != nil || cuts%5 != 0 {
			return
		}
		for _, keep := range []float64{0, 1} {
			l, err := Open(testConfig(disk.CrashClone(keep, newRand(uint64(cuts))), "d", nil))
			if err == nil {
				err = behindIsNotAlone(l, writers)
				_ = l.Close()
			}
			if err != nil {
				broken = fmt.Errorf("cut %d, before %s: %w", cuts, op, err)
			}
		}
	}
	cfg := testConfig(disk, "d", nil)
	cfg.CommitMaxBytes, cfg.SyncsPerSecond = 1, 100_000
	l := mustOpen(t, cfg)
	first := mustCreate(t, l, 0)
	var others []*Partition
	for i := range int32(writers) {
		others = append(others, mustCreate(t, l, i+1))
	}
	disk.mu.Lock()
	armed = true
	disk.mu.Unlock()
	var wg sync.WaitGroup
	for i, p := range others {
		wg.Go(func() {
			for n := range int32(each) {
				if _, _, err := p.AppendVerified(transactionalBatchOf(9, 0, 2*n, 1, 0), 1, Verified{Ended: NotVerified + 1}); err != nil { // what the partition waits to commit anyway
					t.Error(err)
				}
				if _, err := first.Append(&Record{Key: fmt.Append(nil, i+1), Value: fmt.Append(nil, 2*n+1)}, 1); err != nil {
					t.Error(err)
				}
				if _, _, err := p.AppendVerified(transactionalBatchOf(9, 0, 2*n+1, 1, 0), 1, Verified{Ended: NotVerified, Behind: first}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if broken != nil {
		t.Error(broken)
	}
	if cuts < writers*each {
		t.Errorf("only %d changes of the disk: the commits are too large for this test", cuts)
	}
}

// behindIsNotAlone looks for the record of the first partition that each second record of the others is behind.
func behindIsNotAlone(l *Log, others int) error {
	first, there := l.Partition(testID(0)), map[string]bool{}
	if first == nil {
		return nil // cut before it was made
	}
	if err := eachRecord(first, func(r *Record) { there[string(r.Key)+"/"+string(r.Value)] = true }); err != nil {
		return err
	}
	for i := range others {
		p := l.Partition(testID(int32(i + 1)))
		if p == nil {
			continue
		}
		for o := Offset(1); o < p.LogEnd(); o += 2 {
			if !there[fmt.Sprintf("%d/%d", i+1, o)] {
				return fmt.Errorf("partition %d has offset %d, and what that is behind is gone", i+1, o)
			}
		}
	}
	return nil
}
