package log

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// testClock is a wall clock that tests set.
type testClock struct{ unix atomic.Int64 }

func newTestClock() *testClock {
	c := &testClock{}
	c.unix.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *testClock) now() time.Time          { return time.Unix(0, c.unix.Load()) }
func (c *testClock) forward(d time.Duration) { c.unix.Add(int64(d)) }

// fill appends n records of about 1 KiB, waiting for each commit, and flushes them into segments.
func fill(t *testing.T, l *Log, w *commits, p *Partition, n int) {
	t.Helper()
	for range n {
		if _, err := p.Append(&Record{Timestamp: l.cfg.Now().UnixMilli(), Key: []byte("k"), Value: make([]byte, kib)}, 1); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	flushNow(t, l)
}

func flushNow(t *testing.T, l *Log) {
	t.Helper()
	l.maintenance.Lock()
	defer l.maintenance.Unlock()
	if err := l.checkpoint(); err != nil {
		t.Fatal(err)
	}
}

func housekeepNow(t *testing.T, l *Log) {
	t.Helper()
	if err := l.housekeep(context.Background()); err != nil {
		t.Fatal(err)
	}
	l.maintenance.Lock()
	l.dropBelowStart()
	l.maintenance.Unlock()
}

func retainLog(t *testing.T, clock *testClock, pc PartitionConfig, edit func(*Config)) (*Log, *commits, *Partition, *vfs.Mem) {
	t.Helper()
	mem := vfs.NewMem()
	w := newCommits()
	cfg := testConfig(mem, "/d", w)
	cfg.Now = clock.now
	cfg.ClockTrusted = func() bool { return true }
	if edit != nil {
		edit(&cfg)
	}
	l := mustOpen(t, cfg)
	t.Cleanup(func() { _ = l.Close() })
	p, err := l.Create(testID(0), "t", pc)
	if err != nil {
		t.Fatal(err)
	}
	return l, w, p, mem
}

func TestRetentionBySize(t *testing.T) {
	l, w, p, mem := retainLog(t, newTestClock(), PartitionConfig{SegmentBytes: 4 * kib, RetentionBytes: 10 * kib, Retention: -1}, nil)
	fill(t, l, w, p, 40)
	housekeepNow(t, l)
	if size := p.Size(); size < 10*kib || size > 16*kib {
		t.Errorf("size %d after retention to 10 KiB", size)
	}
	start := p.LogStart()
	if start == 0 || (*p.segs.Load())[0].base != start {
		t.Errorf("log start %d, first segment %d", start, (*p.segs.Load())[0].base)
	}
	if _, err := p.Read(start-1, 40, kib, nil); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("read below the log start: %v", err)
	}
	if got := readAllRecords(t, p); len(got) != 40-int(start) {
		t.Errorf("%d records from %d on", len(got), start)
	}
	// LOGSTART was durable before the segments went (J4).
	l2 := mustOpen(t, testConfig(mem.CrashClone(0, nil), "/d", nil))
	defer l2.Close()
	if got := l2.Partition(testID(0)).LogStart(); got != start || l2.Partition(testID(0)).Damaged() != "" {
		t.Errorf("log start %d after a power cut, want %d; %s", got, start, l2.Partition(testID(0)).Damaged())
	}
}

func TestRetentionByAge(t *testing.T) {
	clock := newTestClock()
	l, w, p, mem := retainLog(t, clock, PartitionConfig{SegmentBytes: 4 * kib, Retention: time.Hour}, nil)
	fill(t, l, w, p, 20)
	clock.forward(30 * time.Minute)
	housekeepNow(t, l)
	if p.LogStart() != 0 {
		t.Fatalf("log start %d after half the retention", p.LogStart())
	}
	fill(t, l, w, p, 20)
	clock.forward(40 * time.Minute)
	housekeepNow(t, l)
	// The segment that was active after the first 20 may hold records of both.
	if start := p.LogStart(); start < 15 || start > 20 {
		t.Fatalf("log start %d, want that of the second half", start)
	}
	// A partition that fell silent keeps nothing beyond its time, and its offsets stay.
	clock.forward(50 * time.Minute)
	housekeepNow(t, l)
	if p.LogStart() != 40 || p.LogEnd() != 40 || p.Size() != 0 {
		t.Errorf("silent partition: log %d to %d, %d bytes", p.LogStart(), p.LogEnd(), p.Size())
	}
	l2 := mustOpen(t, testConfig(mem.CrashClone(0, nil), "/d", nil))
	defer l2.Close()
	if p2 := l2.Partition(testID(0)); p2.LogStart() != 40 || p2.LogEnd() != 40 {
		t.Errorf("after a power cut: log %d to %d", p2.LogStart(), p2.LogEnd())
	}
	fill(t, l, w, p, 1)
	if got := readAllRecords(t, p); len(got) != 1 {
		t.Errorf("%d records after the silence", len(got))
	}
}

// TestAgeNeedsTrust: with a clock that cannot be believed nothing is deleted by age, and a jump forward
// suspends deletion.
func TestAgeNeedsTrust(t *testing.T) {
	clock := newTestClock()
	var trusted atomic.Bool
	l, w, p, _ := retainLog(t, clock, PartitionConfig{SegmentBytes: 4 * kib, Retention: time.Hour}, func(c *Config) {
		c.ClockTrusted = trusted.Load
	})
	fill(t, l, w, p, 20)
	clock.forward(50 * time.Minute)
	housekeepNow(t, l)
	clock.forward(50 * time.Minute)
	housekeepNow(t, l)
	if p.LogStart() != 0 {
		t.Errorf("log start %d with a clock nobody trusts", p.LogStart())
	}
	trusted.Store(true)
	housekeepNow(t, l)
	if p.LogStart() != 0 {
		t.Errorf("log start %d: segments stamped by an untrusted clock were deleted", p.LogStart())
	}
	fill(t, l, w, p, 20)
	clock.forward(30 * 24 * time.Hour)
	housekeepNow(t, l)
	if p.LogStart() != 0 {
		t.Errorf("log start %d right after the clock jumped a month", p.LogStart())
	}
}

func TestQuota(t *testing.T) {
	clock := newTestClock()
	l, w, p, _ := retainLog(t, clock, PartitionConfig{SegmentBytes: 4 * kib, Retention: -1}, func(c *Config) { c.DiskQuota = 40 * kib })
	table, err := l.Create(testID(1), "table", PartitionConfig{SegmentBytes: 4 * kib, Compact: true})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, table, 10)
	clock.forward(time.Minute)
	fill(t, l, w, p, 50)
	housekeepNow(t, l)
	if total := p.Size() + table.Size(); total > 40*kib {
		t.Errorf("%d bytes with a quota of 40 KiB", total)
	}
	if table.LogStart() != 0 {
		t.Error("a compacted topic was cut for room")
	}
}

// TestHeldRecordsStay: what somebody carries elsewhere is kept past its age and size until it was carried, and by the quota too unless it yields.
func TestHeldRecordsStay(t *testing.T) {
	for _, yield := range []bool{false, true} {
		clock := newTestClock()
		var from atomic.Int64
		l, w, p, _ := retainLog(t, clock, PartitionConfig{SegmentBytes: 4 * kib, Retention: time.Hour, RetentionBytes: 8 * kib}, func(c *Config) {
			c.DiskQuota = 40 * kib
			c.Hold = func(PartitionID) (Offset, bool) { return Offset(from.Load()), yield }
		})
		fill(t, l, w, p, 20)
		clock.forward(2 * time.Hour)
		housekeepNow(t, l)
		if p.LogStart() != 0 {
			t.Fatalf("log start %d: deleted what nobody has carried", p.LogStart())
		}
		fill(t, l, w, p, 40)
		housekeepNow(t, l)
		r := Record{Value: make([]byte, 100)}
		_, err := p.Append(&r, 1)
		switch {
		case yield && (p.LogStart() == 0 || err != nil):
			t.Errorf("log start %d, append: %v, want room made of what yields", p.LogStart(), err)
		case !yield && (p.LogStart() != 0 || !errors.Is(err, ErrDiskFull)):
			t.Errorf("log start %d, append: %v, want all kept and appends refused", p.LogStart(), err)
		}
		from.Store(int64(p.LogEnd()))
		housekeepNow(t, l)
		if _, err := p.Append(&r, 1); err != nil || p.Size() > 40*kib {
			t.Errorf("%d bytes, append: %v, once everything is carried", p.Size(), err)
		}
	}
}

// TestHeldRecordsAndAQuotaOfOthers: a quota that is exceeded by what nobody may delete, or by segments that are still written to, is no reason to refuse appends because
// an uplink is a record behind.
func TestHeldRecordsAndAQuotaOfOthers(t *testing.T) {
	var from atomic.Int64
	l, w, p, _ := retainLog(t, newTestClock(), PartitionConfig{SegmentBytes: 16 * kib, Retention: -1}, func(c *Config) {
		c.DiskQuota = 20 * kib
		c.Hold = func(id PartitionID) (Offset, bool) {
			if id == testID(1) {
				return 1 << 62, true
			}
			return Offset(from.Load()), false
		}
	})
	table, err := l.Create(testID(1), "table", PartitionConfig{SegmentBytes: 4 * kib, Compact: true})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, table, 20)
	fill(t, l, w, p, 10)
	from.Store(int64(p.LogEnd()) - 1)
	housekeepNow(t, l)
	r := Record{Value: make([]byte, 100)}
	if _, err := p.Append(&r, 1); err != nil || p.Size()+table.Size() <= 20*kib {
		t.Errorf("%d and %d bytes, append: %v", p.Size(), table.Size(), err)
	}
}

// TestDeadLettersWhereAQuotaIsHeld: they are taken where others are refused, or an uplink that has to put one away would never let go of what it holds; but not without end.
func TestDeadLettersWhereAQuotaIsHeld(t *testing.T) {
	var from atomic.Int64
	l, w, p, _ := retainLog(t, newTestClock(), PartitionConfig{SegmentBytes: 4 * kib, Retention: -1}, func(c *Config) {
		c.DiskQuota = 40 * kib
		c.Hold = func(id PartitionID) (Offset, bool) {
			if id == testID(1) {
				return 1 << 62, true
			}
			return Offset(from.Load()), false
		}
	})
	dead, err := l.Create(testID(1), "telemetry.dlq", PartitionConfig{DeadLetters: true})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 60)
	housekeepNow(t, l)
	r := Record{Value: make([]byte, 100)}
	if _, err := p.Append(&r, 1); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("the quota refuses nothing: %v", err)
	}
	if _, err := dead.Append(&r, 1); err != nil {
		t.Errorf("a dead letter: %v", err)
	}
	began := l.dead.began
	l.dead.began -= deadLettersUnderPressure + 1
	l.dead.judge(l.Partitions(), true)
	if _, err := dead.Append(&r, 1); !errors.Is(err, ErrDiskFull) {
		t.Errorf("one of too many: %v", err)
	}
	l.dead.began = began
	from.Store(int64(p.LogEnd()))
	housekeepNow(t, l)
	if _, err := dead.Append(&r, 1); err != nil || l.dead.pressed {
		t.Errorf("there is room again: %v, %+v", err, &l.dead)
	}
}

// TestDiskFull: under pressure ordinary topics refuse, those that drop their oldest data make room and go on,
// and everything passes when there is room again.
func TestDiskFull(t *testing.T) {
	w := newCommits()
	disk := &meteredFS{FS: vfs.NewMem()}
	disk.usage.Store(&vfs.Usage{Total: 1000 * mib, Free: 500 * mib})
	cfg := testConfig(disk, "/d", w)
	cfg.BallastBytes = 64 * kib
	l := mustOpen(t, cfg)
	defer l.Close()
	p := mustCreate(t, l, 0)
	ring, err := l.Create(testID(1), "ring", PartitionConfig{SegmentBytes: 4 * kib, DiskFull: "drop-oldest", Retention: -1})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 10)
	fill(t, l, w, ring, 20)
	housekeepNow(t, l)
	if _, err := disk.Stat("/d/ballast"); err != nil {
		t.Errorf("no ballast: %v", err)
	}
	r := &Record{Value: []byte("x")}
	disk.usage.Store(&vfs.Usage{Total: 1000 * mib, Free: 110 * mib})
	housekeepNow(t, l)
	if _, err := p.Append(r, 1); !errors.Is(err, ErrDiskFull) {
		t.Errorf("append on a full disk: %v", err)
	}
	if _, err := ring.Append(r, 1); err != nil {
		t.Errorf("append to a topic that drops its oldest: %v", err)
	}
	if ring.LogStart() == 0 || p.LogStart() != 0 {
		t.Errorf("log starts: ring %d, reject %d", ring.LogStart(), p.LogStart())
	}
	disk.usage.Store(&vfs.Usage{Total: 1000 * mib, Free: mib})
	housekeepNow(t, l)
	if _, err := ring.Append(r, 1); !errors.Is(err, ErrDiskFull) {
		t.Errorf("append with the last bytes: %v", err)
	}
	if _, err := disk.Stat("/d/ballast"); err == nil {
		t.Error("the ballast is still there")
	}
	disk.usage.Store(&vfs.Usage{Total: 1000 * mib, Free: 500 * mib})
	housekeepNow(t, l)
	if _, err := p.Append(r, 1); err != nil {
		t.Errorf("append after room was made: %v", err)
	}
	if l.Stats().DiskFull {
		t.Error("stats still say full")
	}
}

// TestDiskFillsBetweenTicks: a disk that fills faster than housekeeping looks stops appends before it is full, so
// that nothing accepted meets its end.
func TestDiskFillsBetweenTicks(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(12 * mib)
	w := newCommits()
	cfg := testConfig(mem, "/d", w)
	cfg.DiskMinFree = 4 * mib
	cfg.MaxUncommittedBytes, cfg.MaxUnwrittenBytes = mib, mib
	l := mustOpen(t, cfg)
	defer l.Close()
	p := mustCreate(t, l, 0)
	r := &Record{Value: make([]byte, 8*kib)}
	for {
		_, err := p.Append(r, 1)
		if errors.Is(err, ErrBusy) {
			w.wait(t, l, p, p.LogEnd())
			continue
		}
		if errors.Is(err, ErrDiskFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.wait(t, l, p, p.LogEnd())
	flushNow(t, l)
	if err := l.Err(); err != nil {
		t.Error(err)
	}
	if got := len(readAllRecords(t, p)); got != int(p.LogEnd()) {
		t.Errorf("%d records of %d", got, p.LogEnd())
	}
}

// meteredFS reports the usage it is told.
type meteredFS struct {
	vfs.FS
	usage atomic.Pointer[vfs.Usage]
}

func (m *meteredFS) DiskUsage(string) (vfs.Usage, error) { return *m.usage.Load(), nil }

func TestRollByAge(t *testing.T) {
	clock := newTestClock()
	l, w, p, _ := retainLog(t, clock, PartitionConfig{SegmentAge: time.Hour}, nil)
	fill(t, l, w, p, 2)
	clock.forward(2 * time.Hour)
	fill(t, l, w, p, 2)
	if n := len(*p.segs.Load()); n != 2 {
		t.Errorf("%d segments, want one more after the age passed", n)
	}
}

// TestRunEndsWithTheLog: Run returns when its context ends, and when the log is closed.
func TestRunEndsWithTheLog(t *testing.T) {
	l := mustOpen(t, testConfig(vfs.NewMem(), "/d", nil))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Run(context.Background()); err != nil && !errors.Is(err, ErrClosed) {
		t.Errorf("run of a closed log: %v", err)
	}
}

// TestOffsetForTime compares with a search through all records, over segments, memory and after a restart.
func TestOffsetForTime(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	cfg := testConfig(mem, "/d", w)
	cfg.RecentCacheBytes = 4 * kib
	l := mustOpen(t, cfg)
	p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 4 * kib, IndexIntervalBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	rng := newRand(1)
	var stamps []int64
	for i := range 300 {
		ts := int64(1000 + i*10 + rng.IntN(200)) // not in order
		stamps = append(stamps, ts)
		if _, err := p.Append(&Record{Timestamp: ts, Value: make([]byte, 100)}, 1); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			w.wait(t, l, p, p.LogEnd())
		}
		if i == 200 {
			flushNow(t, l)
		}
	}
	w.wait(t, l, p, 300)
	check := func(p *Partition) {
		t.Helper()
		for ts := int64(900); ts < 4400; ts += 7 {
			want, wantTS := Offset(-1), int64(-1)
			for i, s := range stamps {
				if s >= ts {
					want, wantTS = Offset(i), s
					break
				}
			}
			if o, got, err := p.OffsetForTime(ts, 300); err != nil || o != want || got != wantTS {
				t.Fatalf("offset for %d: %d at %d, %v; want %d at %d", ts, o, got, err, want, wantTS)
			}
		}
	}
	check(p)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, lost := range []string{"", ".idx", ".tix"} {
		disk := mem.CrashClone(1, nil)
		if lost != "" {
			removeAll(t, disk, p.dir, lost)
		}
		l := mustOpen(t, testConfig(disk, "/d", nil))
		check(l.Partition(testID(0)))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// removeAll removes the files of a directory that have the extension.
func removeAll(t *testing.T, disk *vfs.Mem, dir, ext string) {
	t.Helper()
	entries, err := disk.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if name := e.Name(); len(name) > 4 && name[len(name)-4:] == ext {
			n++
			if err := disk.Remove(fmt.Sprint(dir, "/", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n == 0 {
		t.Fatalf("no %s files in %s", ext, dir)
	}
}

// TestNothingIsDeletedBeforeTheConfigIsKnown: after a restart partitions have the default configuration until their user
// sets their own, which may keep more.
func TestNothingIsDeletedBeforeTheConfigIsKnown(t *testing.T) {
	clock := newTestClock()
	keep := PartitionConfig{SegmentBytes: 4 * kib, Retention: -1, Compact: true, Internal: true}
	l, w, p, mem := retainLog(t, clock, keep, nil)
	fill(t, l, w, p, 20)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	clock.forward(100 * 24 * time.Hour)
	cfg := testConfig(mem, "/d", newCommits())
	cfg.Now, cfg.ClockTrusted, cfg.DiskQuota = clock.now, func() bool { return true }, 1
	l = mustOpen(t, cfg)
	defer l.Close()
	p = l.Partition(testID(0))
	housekeepNow(t, l)
	if p.LogStart() != 0 {
		t.Fatalf("log start %d before the partition's configuration was set", p.LogStart())
	}
	p.SetConfig(PartitionConfig{Retention: time.Hour})
	housekeepNow(t, l)
	if p.LogStart() == 0 {
		t.Error("nothing is deleted with a configuration that says so")
	}
}

// The segment in which the last checkpoint ends may go before the next one: deleted records must not look like lost ones after a
// power cut, and what was appended since is in the journal (J4, E7).
func TestRetentionTakesTheSegmentOfTheLastCheckpoint(t *testing.T) {
	w := newCommits()
	mem := vfs.NewMem()
	config := func(fs vfs.FS) Config {
		c := crashConfig(fs, w)
		c.JournalFileBytes = 1 * mib // no checkpoint is due by itself
		return c
	}
	l := mustOpen(t, config(mem))
	p := mustCreate(t, l, 1)
	p.SetConfig(PartitionConfig{SegmentBytes: 12 * kib, IndexIntervalBytes: 1 * kib})
	add := func(n int) {
		for range n {
			if _, err := p.Append(&Record{Value: make([]byte, 1000)}, 0); err != nil {
				t.Fatal(err)
			}
			awaitDurable(t, w, p)
		}
	}
	add(3)
	l.maintenance.Lock()
	err := l.checkpoint()
	l.maintenance.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	add(60)
	start := p.LogEnd() - 5
	if err := p.SetLogStart(start); err != nil {
		t.Fatal(err)
	}
	if err := l.onWriter(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	l.maintenance.Lock()
	l.dropBelowStart()
	l.maintenance.Unlock()
	if first := (*p.segs.Load())[0].base; first == 0 {
		t.Fatal("the first segment is still there: this tests nothing")
	}
	disk := mem.CrashClone(1, rand.New(rand.NewPCG(1, 1))) // the removal has reached the disk
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, config(disk))
	defer l.Close()
	p = l.Partition(testID(1))
	if why := p.Damaged(); why != "" {
		t.Fatal(why)
	}
	if got := readAllRecords(t, p); p.LogStart() != start || len(got) != 5 {
		t.Errorf("log starts at %d with %d records, want %d with 5", p.LogStart(), len(got), start)
	}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
}
