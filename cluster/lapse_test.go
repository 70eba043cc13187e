package cluster

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/log/vfs"
)

// R2: a leader that stands still between the look at its lease and the look into its log may have been replaced meanwhile: what it does not find may be there.
func TestLeaseThatLapsesDuringARead(t *testing.T) {
	var later atomic.Int64
	disk := vfs.NewFault(vfs.OS{})
	cfg := testConfig(t.TempDir())
	cfg.FS, cfg.Now = disk, func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	b := openBroker(t, cfg)
	appendAll(t, mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0], "v")
	closeBroker(t, b) // from here on it is read from its segment
	b = openBroker(t, cfg)
	p, err := b.Partition("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	lease := control.NewLease(control.LANTiming)
	now := b.mono()
	lease.Sent(now)
	lease.Answered(now, 0)
	b.duties.mu.Lock()
	b.duties.lease = lease
	b.duties.mu.Unlock()
	if got, err := b.readLed(p, 0, 1<<10, nil); err != nil || len(got) == 0 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	disk.Inject(vfs.Rule{Ops: vfs.OpRead, Match: "*.log", Hook: func(vfs.Op, string) { later.Store(int64(time.Hour)) }})
	if got, err := b.readLed(p, 0, 1<<10, nil); !errors.Is(err, ErrNotLeader) || len(got) > 0 {
		t.Errorf("an hour later it answers with %d bytes, %v", len(got), err)
	}
}
