package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// newDisk is an empty disk on which dir exists for good.
func newDisk(t *testing.T, dir string) *vfs.Mem {
	t.Helper()
	disk := vfs.NewMem()
	if err := disk.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	for at := dir; at != filepath.Dir(at); at = filepath.Dir(at) {
		if err := disk.SyncDir(filepath.Dir(at)); err != nil {
			t.Fatal(err)
		}
	}
	return disk
}

// raftCopy keeps a copy of the metadata files, which bbolt holds on the real file system: they are set back before each start that
// stands for "the power went then".
type raftCopy struct{ dir, copy string }

func copyRaft(t *testing.T, dataDir string) raftCopy {
	t.Helper()
	c := raftCopy{filepath.Join(dataDir, "raft"), t.TempDir()}
	if err := os.CopyFS(c.copy, os.DirFS(c.dir)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c raftCopy) restore(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(c.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(c.dir, os.DirFS(c.copy)); err != nil {
		t.Fatal(err)
	}
}

// The power is cut again and again under load. Each time: every answered record stands at its offset, the epoch is a new one (A7), and
// appending goes on behind what is there.
func TestPowerCut(t *testing.T) {
	cfg := testConfig(t.TempDir())
	disk := newDisk(t, cfg.DataDir)
	cfg.FS = disk
	b := openBroker(t, cfg)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]

	type cut struct {
		disk  *vfs.Mem
		acked int
		keep  float64
	}
	var cuts []cut
	rng := rand.New(rand.NewPCG(7, 11))
	a := newAcks()
	const records = 600
	for i := range uint64(records) {
		if err := p.Append(&log.Record{Timestamp: 1, Value: fmt.Appendf(nil, "v%d", i)}, a, i); err != nil {
			t.Fatal(err)
		}
		if i%60 == 59 {
			a.await(t, int(i)-30)
			a.mu.Lock()
			acked := len(a.seqs) // before the cut: what is answered later does not count
			a.mu.Unlock()
			keep := []float64{0, 0.5, 1}[len(cuts)%3]
			cuts = append(cuts, cut{disk.CrashClone(keep, rng), acked, keep})
		}
	}
	a.await(t, records)
	cuts = append(cuts, cut{disk.CrashClone(0, nil), records, 0})
	closeBroker(t, b)
	raft := copyRaft(t, cfg.DataDir)

	for i, c := range cuts {
		raft.restore(t)
		cfg.FS = c.disk
		b, err := Open(within(t), cfg)
		if err != nil {
			t.Fatalf("cut %d: %v", i, err)
		}
		p, err := b.Partition("a", 0)
		if err != nil {
			t.Fatalf("cut %d: %v", i, err)
		}
		got := readAll(t, p)
		if len(got) < c.acked {
			t.Errorf("cut %d (unsynced kept: %g): %d records, %d were answered", i, c.keep, len(got), c.acked)
		}
		for j, v := range got {
			if v != fmt.Sprint("v", j) {
				t.Fatalf("cut %d: offset %d holds %q", i, j, v)
			}
		}
		if p.LeaderEpoch() != 1 {
			t.Errorf("cut %d: epoch %d", i, p.LeaderEpoch())
		}
		if first, err := produce(t, p, oneBatch(-1, -1, "next"), -1); err != nil || first != log.Offset(len(got)) {
			t.Errorf("cut %d: the next record is at %d, %v; want %d", i, first, err, len(got))
		}
		if err := b.Close(context.Background()); err != nil {
			t.Errorf("cut %d: %v", i, err)
		}
	}
	t.Logf("%d cuts, answered before them: %v", len(cuts), func() (n []int) {
		for _, c := range cuts {
			n = append(n, c.acked)
		}
		return n
	}())
}

// Each change of the disk fails in turn, from the start of a node through making a topic and appending to it. The node then says that it
// failed (A6) or refuses, and after a power cut a sound disk has every answered record, and no partition is offline.
func TestEveryFault(t *testing.T) {
	dir := t.TempDir()
	count := vfs.NewFault(newDisk(t, dir))
	cfg := testConfig(dir)
	cfg.FS = count
	if acked := faultyRun(t, cfg); acked != 10 {
		t.Fatalf("%d of 10 records without a fault", acked)
	}
	// Most of the time goes into waiting for elections, so several run at once.
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for n := range count.Changes() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			oneFault(t, filepath.Join(dir, fmt.Sprint(n)), n)
		})
	}
	wg.Wait()
	t.Logf("%d operations failed in turn", count.Changes())
}

// oneFault fails the nth change.
func oneFault(t *testing.T, dir string, n int) {
	disk := newDisk(t, dir)
	fault := vfs.NewFault(disk)
	fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: n, Times: 1, Err: errors.New("injected i/o error")})
	cfg := testConfig(dir)
	cfg.FS = fault
	acked := faultyRun(t, cfg)
	cfg.FS = disk.CrashClone(0, nil)
	b, err := Open(within(t), cfg)
	if err != nil {
		t.Errorf("operation %d: start after it: %v", n, err)
		return
	}
	var got []string
	if b.Image().Topic("a") != nil {
		if p, err := b.Partition("a", 0); err != nil {
			t.Errorf("operation %d: %v", n, err)
		} else {
			got = readAll(t, p)
		}
	}
	if len(got) < acked {
		t.Errorf("operation %d: %d records, %d were answered", n, len(got), acked)
	}
	for i, v := range got {
		if v != fmt.Sprint("v", i) {
			t.Errorf("operation %d: offset %d holds %q", n, i, v)
		}
	}
	if err := b.Close(context.Background()); err != nil {
		t.Errorf("operation %d: %v", n, err)
	}
}

// faultyRun goes as far as it gets and answers how many records were answered without error.
func faultyRun(t *testing.T, cfg Config) (acked int) {
	t.Helper()
	b, err := Open(within(t), cfg)
	if err != nil {
		return 0
	}
	defer b.Close(context.Background()) // fails where the disk does
	if _, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 1}, false); err != nil {
		return 0
	}
	p, err := b.Partition("a", 0)
	if err != nil {
		t.Errorf("made, but %v", err)
		return 0
	}
	for i := range 10 {
		if _, err := produce(t, p, oneBatch(-1, -1, fmt.Sprint("v", i)), -1); err != nil {
			select {
			case <-b.Failed(): // A6: it says so, and takes nothing more
				if _, again := produce(t, p, oneBatch(-1, -1, "after"), 0); again == nil {
					t.Error("an append after the failure")
				}
			default:
				t.Errorf("refused without a failure: %v", err)
			}
			return acked
		}
		acked++
	}
	return acked
}

// A6: when the log fails, whoever waits is told, the broker says why, and every later append gets the error.
func TestFailureIsTold(t *testing.T) {
	fault := vfs.NewFault(vfs.NewMem())
	cfg := testConfig(t.TempDir())
	cfg.FS = fault
	b := openBroker(t, cfg)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	appendAll(t, p, "x")
	fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Err: errors.New("injected i/o error")})
	a, taken := newAcks(), 0
	for i := range uint64(20) {
		err := p.Append(&log.Record{Value: []byte("y")}, a, i)
		if err != nil && i > 0 && errors.Is(err, log.ErrFailed) {
			break // the first one's sync has failed already
		}
		if err != nil {
			t.Fatal(err)
		}
		taken++
	}
	a.await(t, taken)
	for _, err := range a.errs {
		if err == nil || !Transient(err) {
			t.Fatalf("told %v although nothing was synced", err)
		}
	}
	<-b.Failed()
	if !errors.Is(b.Err(), log.ErrFailed) {
		t.Errorf("reason %v", b.Err())
	}
	if err := p.Append(&log.Record{}, nil, 0); !errors.Is(err, log.ErrFailed) {
		t.Errorf("append after the failure: %v", err)
	}
	if _, err := b.CreateTopic(within(t), TopicSpec{Name: "b"}, false); err == nil {
		t.Error("made a topic after the failure")
	}
	if got := p.HighWatermark(); got != 1 {
		t.Errorf("high watermark %d", got)
	}
}

// P1: the repeat of a committed batch is answered at once, also while later batches wait for the disk, and the repeat of one
// that waits is not answered before it.
func TestProduceAgainWhileTheDiskIsSlow(t *testing.T) {
	cfg := testConfig(t.TempDir())
	fault := vfs.NewFault(vfs.OS{})
	cfg.FS = fault
	b := openBroker(t, cfg)
	p := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1})[0]
	if _, err := produce(t, p, oneBatch(7, 0, "x", "y"), -1); err != nil {
		t.Fatal(err)
	}
	gate, syncing := make(chan struct{}), make(chan struct{}, 100)
	fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Hook: func(vfs.Op, string) {
		syncing <- struct{}{}
		<-gate
	}})
	answers := make(chan string, 10)
	send := func(name string, seq int32) {
		p.Produce(oneBatch(7, seq, "x", "y"), -1, func(first log.Offset, _ int64, err error) {
			answers <- fmt.Sprint(name, " ", first, " ", err)
		})
	}
	send("second", 2)
	<-syncing
	send("second again", 2)
	send("first again", 0)
	if got := <-answers; got != "first again 0 <nil>" {
		t.Errorf("answered %s", got)
	}
	if len(answers) != 0 {
		t.Errorf("answered before it was synced: %s", <-answers)
	}
	close(gate)
	for _, want := range []string{"second 2 <nil>", "second again 2 <nil>"} {
		if got := <-answers; got != want {
			t.Errorf("answered %s, want %s", got, want)
		}
	}
}

// A disk that is full for a moment does not end the node: what could not be made is refused, and made when there is room.
func TestDiskFullWhileATopicIsMade(t *testing.T) {
	cfg := testConfig(t.TempDir())
	fault := vfs.NewFault(vfs.OS{})
	cfg.FS = fault
	fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Match: identityFile + ".tmp", After: 1, Times: 1, Err: syscall.ENOSPC})
	full := fault.Inject(vfs.Rule{Ops: vfs.OpCreate, Match: "[01]", Err: syscall.ENOSPC}) // the partitions' directories
	b := openBroker(t, cfg)
	_, err := b.CreateTopic(within(t), TopicSpec{Name: "a", Partitions: 2}, false)
	if !errors.Is(err, ErrOffline) || !errors.Is(err, syscall.ENOSPC) || !Transient(err) {
		t.Fatalf("made on a full disk: %v", err)
	}
	if s := b.Stats(); s.Offline != 2 || s.Partitions != 0 {
		t.Errorf("stats %+v", s)
	}
	full.Stop()
	open := make(chan struct{}, 100)
	defer b.WatchTopics(func(*meta.Image) {
		if len(b.Partitions()) == 2 {
			open <- struct{}{}
		}
	})()
	select {
	case <-open: // tried again by itself
	case <-within(t).Done():
		t.Fatal("still offline")
	}
	for _, p := range b.Partitions() {
		appendAll(t, p, "x")
	}
	if err := b.Err(); err != nil {
		t.Error(err)
	}
	closeBroker(t, b)
	cfg.FS = vfs.OS{}
	if s := openBroker(t, cfg).Stats(); s.Offline != 0 || s.Partitions != 2 {
		t.Errorf("after a restart %+v", s)
	}
}

// valueOf is the value of the only record of the only batch in b.
func valueOf(t *testing.T, b []byte) string {
	t.Helper()
	batch, err := log.NextBatch(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	var records log.RecordReader
	var r log.Record
	if err := records.Reset(batch); err != nil {
		t.Fatal(err)
	}
	if _, err := records.Next(&r); err != nil {
		t.Fatal(err)
	}
	return string(r.Value)
}

// E7: a partition that has lost committed records takes none, serves what is sound, and says so; a consumer behind the damage is
// not sent back to the start. Others go on, and the state survives a restart.
func TestDamagedPartition(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := openBroker(t, cfg)
	ps := mustCreate(t, b, TopicSpec{Name: "a", Partitions: 2})
	for i := range 50 {
		appendAll(t, ps[0], fmt.Sprint("v", i))
	}
	appendAll(t, ps[1], "w")
	closeBroker(t, b)
	segments, err := filepath.Glob(filepath.Join(cfg.DataDir, "topics", "a-*", "0", "*.log"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v %v", segments, err)
	}
	info, err := os.Stat(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(segments[0], info.Size()/2); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b = openBroker(t, cfg)
		ps = partitionsOf(t, b, b.Image().Topic("a"))
		if err := ps[0].Append(&log.Record{}, nil, 0); !errors.Is(err, ErrOffline) || !Transient(err) {
			t.Errorf("append: %v", err)
		}
		if _, err := produce(t, ps[0], oneBatch(-1, -1, "x"), 1); !errors.Is(err, ErrOffline) {
			t.Errorf("produce: %v", err)
		}
		sound := 0
		var err error
		for buf := []byte(nil); err == nil; {
			if buf, err = ps[0].Read(log.Offset(sound), 1, buf); err == nil {
				if got := valueOf(t, buf); got != fmt.Sprint("v", sound) {
					t.Fatalf("offset %d holds %q", sound, got)
				}
				sound++
			}
		}
		if sound == 0 || sound >= 50 || !errors.Is(err, ErrOffline) {
			t.Errorf("%d of 50 records are sound, then %v", sound, err)
		}
		if _, err := ps[0].Read(51, 1<<16, nil); !errors.Is(err, ErrOffline) {
			t.Errorf("read behind the damage: %v", err)
		}
		appendAll(t, ps[1], "more")
		if err := b.AlterConfigs(within(t), "a", map[string]string{"retention.ms": fmt.Sprint(1_000_000_000 + b.epoch)}, nil, false); err != nil {
			t.Error(err)
		}
		closeBroker(t, b)
	}
	b = openBroker(t, cfg)
	if err := b.DeleteTopic(within(t), "a"); err != nil {
		t.Error(err)
	}
}
