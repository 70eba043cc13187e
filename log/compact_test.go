package log

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log/vfs"
)

// compactBed is a partition's directory of closed segments and what a pass needs besides.
type compactBed struct {
	t       testing.TB
	fs      vfs.FS
	segs    []segmentFacts
	table   *producerTable
	policy  compactPolicy
	now     time.Time
	cleaned Offset
	untrust bool
	mapMax  int64
}

func newCompactBed(t testing.TB) *compactBed {
	return &compactBed{
		t: t, fs: vfs.NewMem(), table: newProducerTable(0), now: noon, mapMax: 1 << 20,
		policy: compactPolicy{deleteRetention: time.Hour, segmentBytes: 1 << 20},
	}
}

func (c *compactBed) path(o Offset) string { return fmt.Sprintf("%020d.log", int64(o)) }

// addSegment writes one closed segment of these batches.
func (c *compactBed) addSegment(batches ...Batch) {
	c.t.Helper()
	var data []byte
	for _, b := range batches {
		c.table.apply(b, 0)
		data = append(data, b...)
	}
	f, err := c.fs.Create(c.path(batches[0].BaseOffset()))
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err = errors.Join(err, f.Sync(), f.Close(), c.fs.SyncDir("/")); err != nil {
		c.t.Fatal(err)
	}
	c.segs = append(c.segs, segmentFacts{
		base: batches[0].BaseOffset(), next: batches[len(batches)-1].NextOffset(), size: int64(len(data)), lastAppend: c.now, trusted: true,
	})
}

func (c *compactBed) end() Offset {
	if len(c.segs) == 0 {
		return 0
	}
	return c.segs[len(c.segs)-1].next
}

func (c *compactBed) compactor() *compactor {
	return &compactor{
		compactPolicy: c.policy, now: c.now, clockTrusted: !c.untrust, remembers: c.table.remembers, aborted: c.table.isAborted, live: map[int64]bool{},
		follows: func(due Offset, b Batch) error {
			if b.BaseOffset() < due {
				return ErrCorrupt
			}
			return nil
		},
		open: func(s segmentFacts) (io.ReaderAt, func(), error) {
			f, err := c.fs.Open(c.path(s.base))
			if err != nil {
				return nil, nil, err
			}
			return f, func() { _ = f.Close() }, nil
		},
	}
}

// pass compacts as the partition does, and says whether there was anything to do.
func (c *compactBed) pass() (ran bool, err error) {
	plan, due := c.policy.plan(c.segs, c.cleaned, c.end(), c.now, !c.untrust)
	if !due {
		return false, nil
	}
	k := c.compactor()
	end, err := k.readKeys(plan, c.mapMax)
	if err != nil {
		return false, err
	}
	var segs []segmentFacts
	reach, _ := slices.BinarySearchFunc(plan.segments, end, func(s segmentFacts, o Offset) int { return int(s.base - o) })
	for _, group := range c.policy.groups(plan.segments[:reach]) {
		base, next := group[0].base, group[len(group)-1].next
		var f vfs.File
		size, changed, err := k.writeGroup(group, func() (output, error) {
			var err error
			f, err = c.fs.Create(swapName("", base, next, cleanExt))
			return f, err
		})
		if err != nil {
			return true, err
		}
		if changed {
			if err := f.Close(); err != nil {
				return true, err
			}
			if _, err := commitSwap(c.fs, ".", base, next); err != nil {
				return true, err
			}
			if err := finishSwap(c.fs, ".", base, next); err != nil {
				return true, err
			}
		}
		merged := group[len(group)-1]
		merged.base, merged.size = base, size
		segs = append(segs, merged)
	}
	c.segs = append(segs, c.segs[reach:]...)
	c.cleaned = end
	return true, nil
}

func (c *compactBed) mustPass() {
	c.t.Helper()
	if ran, err := c.pass(); !ran || err != nil {
		c.t.Fatalf("pass: ran %v, %v", ran, err)
	}
}

// batches reads everything that is there now.
func (c *compactBed) batches() []Batch {
	c.t.Helper()
	var out []Batch
	for _, s := range c.segs {
		data, err := vfs.ReadFile(c.fs, c.path(s.base), 1<<30)
		if err != nil {
			c.t.Fatal(err)
		}
		if int64(len(data)) != s.size {
			c.t.Fatalf("segment %d has %d bytes, want %d", s.base, len(data), s.size)
		}
		last := s.base - 1
		for len(data) > 0 {
			b, err := NextBatch(data, 0)
			if err == nil {
				err = b.CheckCRC()
			}
			if err != nil {
				c.t.Fatalf("segment %d: %v", s.base, err)
			}
			if b.BaseOffset() <= last || b.NextOffset() > s.next {
				c.t.Fatalf("segment [%d, %d): batch [%d, %d) after %d", s.base, s.next, b.BaseOffset(), b.NextOffset(), last)
			}
			last = b.LastOffset()
			data = data[len(b):]
			out = append(out, b)
		}
		if last != s.next-1 {
			c.t.Fatalf("segment [%d, %d) ends at %d", s.base, s.next, last)
		}
	}
	return out
}

func (c *compactBed) records() []Record {
	c.t.Helper()
	var out []Record
	for _, b := range c.batches() {
		if !b.IsControl() {
			out = append(out, readBatch(c.t, b)...)
		}
	}
	return out
}

// kv makes a record; value "-" is a tombstone, key "-" no key.
func kv(o Offset, key, value string) Record {
	r := Record{Offset: o, Timestamp: noon.UnixMilli() + int64(o)}
	if key != "-" {
		r.Key = []byte(key)
	}
	if value != "-" {
		r.Value = []byte(value)
	}
	return r
}

func show(recs []Record) (out []string) {
	for _, r := range recs {
		value := "-"
		if r.Value != nil {
			value = string(r.Value)
		}
		out = append(out, fmt.Sprintf("%d %s=%s", r.Offset, r.Key, value))
	}
	return out
}

func TestCompactKeepsTheNewest(t *testing.T) {
	for _, codec := range allCodecs {
		c := newCompactBed(t)
		r := func(base Offset, recs ...Record) Batch { return buildBatch(t, base, 4, codec, recs) }
		c.addSegment(r(0, kv(0, "a", "1"), kv(1, "b", "1"), kv(2, "-", "none")), r(3, kv(3, "a", "2")))
		c.addSegment(r(4, kv(4, "c", "1"), kv(5, "a", "3")), r(6, kv(6, "", "empty key")))
		c.addSegment(r(7, kv(7, "b", "2"), kv(8, "a", "4")))
		c.mustPass()
		want := []string{"4 c=1", "6 =empty key", "7 b=2", "8 a=4"}
		if d := cmp.Diff(want, show(c.records())); d != "" {
			t.Errorf("%v: %s", codec, d)
		}
		if len(c.segs) != 1 {
			t.Errorf("%v: small segments are not merged: %v", codec, c.segs)
		}
		if ran, err := c.pass(); ran || err != nil {
			t.Errorf("%v: nothing is dirty, ran %v, %v", codec, ran, err)
		}
	}
}

// A surviving record keeps everything: offset, timestamp, headers; its batch keeps its place, leader
// epoch and producer.
func TestCompactKeepsWhatItTouches(t *testing.T) {
	c := newCompactBed(t)
	recs := testRecords(0, 40)
	for i := range recs {
		recs[i].Key = fmt.Appendf(nil, "k%d", i%25)
	}
	var bb BatchBuilder
	bb.SetProducer(5, 2, 100)
	bb.SetCompression(CompressionZstd)
	for i := range recs {
		bb.Append(&recs[i])
	}
	c.addSegment(bytes.Clone(bb.Seal(0, 9)))
	c.untrust = true // no horizons: base timestamp stays
	c.mustPass()
	b := c.batches()[0]
	if d := cmp.Diff(recs[15:], readBatch(t, b)); d != "" {
		t.Error(d)
	}
	if b.BaseOffset() != 0 || b.LastOffset() != 39 || b.Count() != 25 || b.LeaderEpoch() != 9 || b.ProducerID() != 5 || b.BaseSequence() != 100 || b.LastSequence() != 139 || b.Compression() != CompressionZstd {
		t.Errorf("header changed: %v to %v, %d records, sequence %d to %d", b.BaseOffset(), b.LastOffset(), b.Count(), b.BaseSequence(), b.LastSequence())
	}
	p, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{}, &kmsg.FetchResponseTopicPartition{RecordBatches: b, HighWatermark: 40}, kgo.DefaultDecompressor(), nil)
	if p.Err != nil || len(p.Records) != 25 || p.Records[0].Offset != 15 {
		t.Errorf("kgo reads %d records, %v", len(p.Records), p.Err)
	}
}

func TestCompactTombstones(t *testing.T) {
	c := newCompactBed(t)
	one := func(o Offset, k, v string) Batch { return buildBatch(t, o, 0, CompressionNone, []Record{kv(o, k, v)}) }
	c.addSegment(one(0, "a", "1"), one(1, "b", "1"))
	c.addSegment(one(2, "a", "-"))
	c.mustPass()
	want := []string{"1 b=1", "2 a=-"}
	if d := cmp.Diff(want, show(c.records())); d != "" {
		t.Fatal(d)
	}
	horizon, ok := c.batches()[1].DeleteHorizon()
	if !ok || horizon != noon.Add(time.Hour).UnixMilli() {
		t.Errorf("horizon %d, %v", horizon, ok)
	}
	if got := c.records()[1].Timestamp; got != noon.UnixMilli()+2 {
		t.Errorf("the tombstone's timestamp became %d", got)
	}
	// Before the horizon it stays, and its horizon does not move.
	c.now = noon.Add(59 * time.Minute)
	c.addSegment(one(3, "c", "1"), one(4, "d", "1"), one(5, "e", "1"))
	c.mustPass()
	if got := show(c.records()); !slices.Contains(got, "2 a=-") {
		t.Errorf("the tombstone went early: %v", got)
	}
	// After it, it goes, unless the clock cannot be trusted.
	c.now, c.untrust = noon.Add(61*time.Minute), true
	c.addSegment(one(6, "f", "1"))
	c.mustPass()
	if got := show(c.records()); !slices.Contains(got, "2 a=-") {
		t.Errorf("the tombstone went by a clock not trusted: %v", got)
	}
	c.untrust = false
	c.addSegment(one(7, "g", "1"))
	c.mustPass()
	if got := show(c.records()); slices.Contains(got, "2 a=-") || !slices.Contains(got, "1 b=1") {
		t.Errorf("the tombstone is still there: %v", got)
	}
}

func TestCompactKeepsHeadersThatCarryState(t *testing.T) {
	c := newCompactBed(t)
	produced := func(o Offset, id int64, seq int32) Batch {
		var bb BatchBuilder
		bb.SetProducer(id, 0, seq)
		r := kv(o, "same", "x")
		bb.Append(&r)
		return bytes.Clone(bb.Seal(o, 1))
	}
	var batches []Batch
	for i := range 8 {
		batches = append(batches, produced(Offset(i), 1, int32(i)))
	}
	batches = append(batches, buildBatch(t, 8, 1, CompressionNone, []Record{kv(8, "same", "x")}), buildBatch(t, 9, 1, CompressionNone, []Record{kv(9, "-", "dropped")}))
	c.addSegment(batches...)
	c.mustPass()
	var empty []Offset
	for _, b := range c.batches() {
		if b.Count() == 0 {
			empty = append(empty, b.BaseOffset())
			if id := b.ProducerID(); id == 1 && b.BaseSequence() != int32(b.BaseOffset()) {
				t.Errorf("sequence %d at offset %d", b.BaseSequence(), b.BaseOffset())
			}
			if b.MaxTimestamp() != noon.UnixMilli()+int64(b.BaseOffset()) {
				t.Errorf("maximum timestamp %d", b.MaxTimestamp())
			}
		}
	}
	// The five remembered batches of producer 1, and the last one of the segment.
	if want := []Offset{3, 4, 5, 6, 7, 9}; !slices.Equal(empty, want) {
		t.Errorf("empty batches at %v, want %v", empty, want)
	}
	rebuilt := newProducerTable(0)
	for _, b := range c.batches() {
		rebuilt.apply(b, 0)
	}
	compareTables(t, "rebuilt", rebuilt, c.table)
	p, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{}, &kmsg.FetchResponseTopicPartition{RecordBatches: bytes.Join(asBytes(c.batches()), nil), HighWatermark: 10}, kgo.DefaultDecompressor(), nil)
	if p.Err != nil || len(p.Records) != 1 || next != 10 {
		t.Errorf("kgo reads %d records up to %d, %v", len(p.Records), next, p.Err)
	}
}

func asBytes(batches []Batch) (out [][]byte) {
	for _, b := range batches {
		out = append(out, b)
	}
	return out
}

func TestCompactPlan(t *testing.T) {
	segs := []segmentFacts{hoursOld(0, 9), hoursOld(10, 5), hoursOld(20, 1)}
	tests := []struct {
		name     string
		policy   compactPolicy
		cleaned  Offset
		limit    Offset
		untrust  bool
		segments int
		dirty    Offset
		due      bool
	}{
		{name: "all dirty", limit: 30, segments: 3, due: true},
		{name: "all clean", cleaned: 30, limit: 30},
		{name: "ratio met", policy: compactPolicy{minRatio: 1. / 3}, cleaned: 20, limit: 30, segments: 3, dirty: 20, due: true},
		{name: "ratio not met", policy: compactPolicy{minRatio: 0.5}, cleaned: 20, limit: 30},
		{name: "segment partly seen is dirty", policy: compactPolicy{minRatio: 0.5}, cleaned: 15, limit: 30, segments: 3, dirty: 15, due: true},
		{name: "lag", policy: compactPolicy{minLag: 2 * time.Hour}, limit: 30, segments: 2, due: true},
		{name: "lag, clock not trusted", policy: compactPolicy{minLag: 2 * time.Hour}, limit: 30, untrust: true},
		{name: "overdue", policy: compactPolicy{minRatio: 0.9, maxLag: 5 * time.Hour}, cleaned: 20, limit: 30, segments: 3, dirty: 20, due: true},
		{name: "not yet overdue", policy: compactPolicy{minRatio: 0.9, maxLag: 6 * time.Hour}, cleaned: 20, limit: 30},
		{name: "overdue, clock not trusted", policy: compactPolicy{minRatio: 0.9, maxLag: 5 * time.Hour}, cleaned: 20, limit: 30, untrust: true},
		{name: "overdue, and too fresh in part", policy: compactPolicy{minRatio: 0.9, minLag: 2 * time.Hour, maxLag: 5 * time.Hour}, cleaned: 10, limit: 30, segments: 2, dirty: 10, due: true},
		{name: "overdue, with nothing that is dirty", policy: compactPolicy{maxLag: time.Hour}, cleaned: 30, limit: 30},
		{name: "the first segment, by its own age", policy: compactPolicy{minRatio: 1.1, maxLag: 10 * time.Hour, rollAge: time.Hour}, limit: 30, segments: 3, due: true},
		{name: "the first segment, younger", policy: compactPolicy{minRatio: 1.1, maxLag: 10 * time.Hour, rollAge: 30 * time.Minute}, limit: 30},
		{name: "above the high watermark", limit: 25, segments: 2, due: true},
		{name: "nothing committed", limit: 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, due := tt.policy.plan(segs, tt.cleaned, tt.limit, noon, !tt.untrust)
			if due != tt.due || len(plan.segments) != tt.segments || plan.dirty != tt.dirty {
				t.Errorf("due %v, %d segments from %d", due, len(plan.segments), plan.dirty)
			}
		})
	}
}

func TestCompactGroups(t *testing.T) {
	p := compactPolicy{segmentBytes: 250}
	far := hoursOld(30, 0)
	far.next = 1 << 33
	segs := []segmentFacts{hoursOld(0, 0), hoursOld(10, 0), hoursOld(20, 0), far}
	var got [][]Offset
	for _, g := range p.groups(segs) {
		var bases []Offset
		for _, s := range g {
			bases = append(bases, s.base)
		}
		got = append(got, bases)
	}
	if d := cmp.Diff([][]Offset{{0, 10}, {20}, {30}}, got); d != "" {
		t.Error(d)
	}
}

// A lone segment that loses nothing is not written again: flash wears.
func TestCompactLeavesCleanSegmentsAlone(t *testing.T) {
	c := newCompactBed(t)
	c.policy.segmentBytes = 1 // no merging
	one := func(o Offset, k string) Batch { return buildBatch(t, o, 0, CompressionNone, []Record{kv(o, k, "v")}) }
	c.addSegment(one(0, "a"), one(1, "b"))
	c.addSegment(one(2, "c"), one(3, "d"), one(4, "c"))
	fault := vfs.NewFault(c.fs)
	c.fs = fault
	in := fault.Inject(vfs.Rule{Ops: vfs.OpCreate})
	c.mustPass()
	if in.Hits() != 1 {
		t.Errorf("%d files written, want the second segment's only", in.Hits())
	}
	if d := cmp.Diff([]string{"0 a=v", "1 b=v", "3 d=v", "4 c=v"}, show(c.records())); d != "" {
		t.Error(d)
	}
}

func TestCompactRefusesDamage(t *testing.T) {
	c := newCompactBed(t)
	c.addSegment(buildBatch(t, 0, 0, CompressionNone, []Record{kv(0, "a", "1")}), buildBatch(t, 1, 0, CompressionNone, []Record{kv(1, "a", "2")}))
	f, err := c.fs.OpenFile(c.path(0), 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{'X'}, c.segs[0].size-3); err != nil {
		t.Fatal(err)
	}
	if _, err := c.pass(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestCompactStops(t *testing.T) {
	c := newCompactBed(t)
	c.addSegment(buildBatch(t, 0, 0, CompressionNone, []Record{kv(0, "a", "1")}))
	plan, _ := c.policy.plan(c.segs, 0, c.end(), c.now, true)
	k := c.compactor()
	stop := errors.New("shutting down")
	k.pace = func(int) error { return stop }
	if _, err := k.readKeys(plan, 1<<20); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// TestCompactModel appends random batches, compacts at random with maps that hold all keys or only a few,
// and compares with what compaction promises.
func TestCompactModel(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		c := newCompactBed(t)
		c.policy.segmentBytes = int64(500 + rng.IntN(3000))
		c.policy.minRatio = rng.Float64() / 2
		c.mapMax = int64(24 * (4 + rng.IntN(60)))
		var all []Record
		for range 25 {
			var batches []Batch
			for range 1 + rng.IntN(4) {
				var recs []Record
				for range 1 + rng.IntN(5) {
					r := kv(Offset(len(all)), fmt.Sprint("key", rng.IntN(12)), fmt.Sprint("value", rng.IntN(1000)))
					if rng.IntN(6) == 0 {
						r.Value = nil
					}
					if rng.IntN(4) == 0 {
						r.Headers = []Header{{Key: []byte("h"), Value: fmt.Append(nil, len(all))}}
					}
					recs = append(recs, r)
					all = append(all, r)
				}
				batches = append(batches, buildBatch(t, recs[0].Offset, Epoch(len(all)/50), allCodecs[rng.IntN(5)], recs))
			}
			c.addSegment(batches...)
			c.now = c.now.Add(time.Duration(rng.IntN(40)) * time.Minute)
			if rng.IntN(2) == 0 {
				if _, err := c.pass(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				checkCompacted(t, fmt.Sprint("seed ", seed), all, c.records(), c.cleaned)
			}
		}
	}
}

// checkCompacted: everything past cleaned is untouched; before it each key has at most its newest record, unless
// that was a tombstone exactly one; and what is there is as it was.
func checkCompacted(t *testing.T, where string, all, got []Record, cleaned Offset) {
	t.Helper()
	newest := map[string]Offset{}
	for _, r := range all[:cleaned] {
		newest[string(r.Key)] = r.Offset
	}
	present := map[Offset]bool{}
	for _, r := range got {
		if d := cmp.Diff(all[r.Offset], r); d != "" {
			t.Fatalf("%s: record %d changed: %s", where, r.Offset, d)
		}
		if r.Offset < cleaned && newest[string(r.Key)] != r.Offset {
			t.Fatalf("%s: %d %s survived below %d, newest is %d", where, r.Offset, r.Key, cleaned, newest[string(r.Key)])
		}
		present[r.Offset] = true
	}
	for _, r := range all {
		must := r.Offset >= cleaned || newest[string(r.Key)] == r.Offset && r.Value != nil
		if must && !present[r.Offset] {
			t.Fatalf("%s: record %d %s is lost", where, r.Offset, r.Key)
		}
	}
}

// TestSwapCrash cuts the power at every step of a pass, keeping nothing, some or all of what was not
// synced: after recovery the directory holds the old records or the compacted ones, and no offset twice (K1).
func TestSwapCrash(t *testing.T) {
	build := func() *compactBed {
		c := newCompactBed(t)
		for o := Offset(0); o < 30; o += 3 {
			c.addSegment(buildBatch(t, o, 0, CompressionNone, []Record{kv(o, "a", fmt.Sprint(o)), kv(o+1, "b", fmt.Sprint(o)), kv(o+2, fmt.Sprint("k", o), "v")}))
		}
		return c
	}
	ref := build()
	old := show(ref.records())
	ref.mustPass()
	compacted := show(ref.records())
	outcomes := map[bool]int{}
	for step := 0; ; step++ {
		c := build()
		mem := c.fs.(*vfs.Mem)
		fault := vfs.NewFault(mem)
		c.fs = fault
		cut := errors.New("power cut")
		fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: step, Err: cut, Partial: 100})
		_, err := c.pass()
		for i, keep := range []float64{0, 1, 0.3, 0.4, 0.5, 0.5, 0.6, 0.6, 0.7, 0.8} {
			disk := mem.CrashClone(keep, rand.New(rand.NewPCG(uint64(step), uint64(i))))
			// A crash during recovery, too: its first changes are kept or lost at will.
			half := vfs.NewFault(disk)
			half.Inject(vfs.Rule{Ops: vfs.OpChange, After: step % 5, Err: cut})
			_, _ = recoverSwaps(half, ".")
			disk = disk.CrashClone(keep, rand.New(rand.NewPCG(uint64(i), uint64(step))))
			if _, err := recoverSwaps(disk, "."); err != nil {
				t.Fatal(err)
			}
			got := readDir(t, disk)
			switch isOld, isNew := slices.Equal(got, old), slices.Equal(got, compacted); {
			case isOld || isNew:
				outcomes[isNew]++
			default:
				t.Fatalf("step %d keep %v: %v", step, keep, got)
			}
		}
		if err == nil {
			break
		}
	}
	if outcomes[true] < 5 || outcomes[false] < 5 {
		t.Errorf("outcomes %v: the cut came never before, or never after, the swap", outcomes)
	}
}

// readDir reads the segments that a directory lists, which may not overlap.
func readDir(t *testing.T, fsys vfs.FS) []string {
	t.Helper()
	entries, err := fsys.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	next := Offset(0)
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".log" {
			t.Fatalf("left behind: %s", e.Name())
		}
		data, err := vfs.ReadFile(fsys, e.Name(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for len(data) > 0 {
			b, err := NextBatch(data, 0)
			if err == nil {
				err = b.CheckCRC()
			}
			if err != nil {
				t.Fatalf("%s: %v", e.Name(), err)
			}
			if b.BaseOffset() < next {
				t.Fatalf("%s: offset %d twice", e.Name(), b.BaseOffset())
			}
			next = b.NextOffset()
			out = append(out, show(readBatch(t, b))...)
			data = data[len(b):]
		}
	}
	return out
}

func TestParseSwapName(t *testing.T) {
	if base, next, ok := parseSwapName(filepath.Base(swapName("d", 5, 1234, swapExt))); !ok || base != 5 || next != 1234 {
		t.Errorf("%d %d %v", base, next, ok)
	}
	for _, bad := range []string{"", "x.swap", "00000000000000000005.log", "00000000000000000005-00000000000000000005.swap", "00000000000000000005-00000000000000000009.clean", "-0000000000000000005-00000000000000000009.swap"} {
		if _, _, ok := parseSwapName(bad); ok {
			t.Errorf("%q is taken for a swap", bad)
		}
	}
}

func TestOffsetMap(t *testing.T) {
	m := newOffsetMap(1000, 1<<20)
	for i := range 1000 {
		if !m.put(fmt.Append(nil, i), Offset(i)) {
			t.Fatalf("no room for key %d of 1000", i)
		}
	}
	m.put([]byte("7"), 5000)
	m.put([]byte("8"), 3) // older: ignored
	for i, want := range map[int]Offset{0: 0, 7: 5000, 8: 8, 999: 999} {
		if got, ok := m.get(fmt.Append(nil, i)); !ok || got != want {
			t.Errorf("key %d: %v, %v", i, got, ok)
		}
	}
	if _, ok := m.get([]byte("none")); ok {
		t.Error("a key that was never put")
	}
	small := newOffsetMap(1<<40, 24*8)
	n := 0
	for small.put(fmt.Append(nil, n), Offset(n)) {
		n++
	}
	if n != 6 || !small.put([]byte("0"), 99) {
		t.Errorf("%d keys in 8 slots; known keys must still be taken", n)
	}
}

func BenchmarkOffsetMap(b *testing.B) {
	m := newOffsetMap(100_000, 8<<20)
	key := []byte("sim-thermostat-00000000")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key[len(key)-1], key[len(key)-2] = byte(i), byte(i>>8)
		m.put(key, Offset(i))
	}
}

// One op is a pass over 1 MiB in which every second record is superseded.
func BenchmarkCompact(b *testing.B) {
	for _, codec := range []Compression{CompressionNone, CompressionLZ4, CompressionZstd} {
		b.Run(codec.String(), func(b *testing.B) {
			c := newCompactBed(b)
			c.policy.segmentBytes = 8 << 20
			var batches []Batch
			for next := Offset(0); next < 4000; next += 200 {
				var bb BatchBuilder
				bb.SetCompression(codec)
				r := benchRecord()
				for i := range 200 {
					r.Key = fmt.Append(nil, "key-", (int(next)+i)%2000)
					bb.Append(&r)
				}
				batches = append(batches, bytes.Clone(bb.Seal(next, 1)))
			}
			c.addSegment(batches...)
			plan, _ := c.policy.plan(c.segs, 0, c.end(), c.now, true)
			mem := vfs.NewMem()
			b.SetBytes(4000 * 256)
			b.ReportAllocs()
			for b.Loop() {
				k := c.compactor()
				if _, err := k.readKeys(plan, 1<<20); err != nil {
					b.Fatal(err)
				}
				if _, _, err := k.writeGroup(plan.segments, func() (output, error) { return mem.Create("out") }); err != nil {
					b.Fatal(err)
				}
				if k.stats.recordsKept != 2000 {
					b.Fatalf("%d records kept", k.stats.recordsKept)
				}
			}
		})
	}
}
