package log

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

var update = flag.Bool("update", false, "rewrite golden files; read the diff before committing it")

// goldenSegment holds one batch of every kind that a segment may hold.
func goldenSegment(t *testing.T) []byte {
	var out []byte
	next := Offset(100)
	add := func(b Batch) {
		out = append(out, b...)
		next = b.NextOffset()
	}
	for _, c := range allCodecs {
		add(buildBatch(t, next, 3, c, testRecords(next, 60)))
	}
	b := producerBatchOf(4711, 2, 2147483646, 4, next)
	b.SetLeaderEpoch(3)
	add(b)
	b = buildBatch(t, next, 4, CompressionNone, testRecords(next, 2))
	b.SetLogAppendTime(1_700_000_123_456)
	add(b)
	var bb BatchBuilder
	bb.SetProducer(4711, 2, -1)
	bb.SetFlags(AttrControl | AttrTransactional)
	bb.Append(&Record{Timestamp: 1_700_000_000_000, Key: []byte{0, 0, 0, 1}, Value: []byte{0, 0, 0, 0, 0, 0}})
	add(bytes.Clone(bb.Seal(next, 4)))
	// What compaction leaves: a batch with a tombstone and its horizon, one without records.
	c := newCompactBed(t)
	c.addSegment(buildBatch(t, next, 5, CompressionNone, []Record{kv(next, "a", "1"), kv(next+1, "a", "-"), kv(next+2, "b", "1")}),
		buildBatch(t, next+3, 5, CompressionNone, []Record{kv(next+3, "c", "1"), kv(next+4, "-", "no key")}),
		buildBatch(t, next+5, 5, CompressionNone, []Record{kv(next+5, "-", "no key")}))
	c.mustPass()
	for _, b := range c.batches() {
		add(b)
	}
	return out
}

// goldenJournal is a file with an entry of every type.
func goldenJournal() []byte {
	h := journalHeader{number: 7, salt: 0x1234567890abcdef, firstSeq: 500}
	out := make([]byte, 0, 64*kib)
	out = append(out, h.encode()...)
	seq, commit := h.firstSeq, uint64(90)
	add := func(last bool, e entry) {
		e.seq, e.salt, e.commit = seq, h.salt, commit
		if last {
			e.flags |= flagCommitEnd
			commit++
		}
		seq++
		at := len(out)
		out = appendEntry(out, &e)
		sealEntry(out[at:], len(e.payload))
	}
	id := PartitionID{Topic: TopicID{1, 2, 3}, Index: 2}
	cp := checkpoint{covered: 498, oldest: 6, nextPID: 4, parts: []checkpointPart{{pid: 3, position: 1000, end: 10, snapshot: -1}}}
	add(true, entry{typ: entryPartDef, pid: 3, payload: encodePartDef(nil, id, "telemetry")})
	add(true, entry{typ: entryCheckpoint, payload: cp.encode(nil)})
	add(false, entry{typ: entryEpoch, pid: 3, epoch: 5, base: 10})
	b := producerBatchOf(-1, -1, -1, 3, 10)
	add(false, entry{typ: entryData, pid: 3, epoch: 5, base: 10, count: 3, payload: b})
	add(true, entry{typ: entryHighWatermark, pid: 3, base: 10})
	add(true, entry{typ: entryTruncate, pid: 3, base: 12})
	add(true, entry{typ: entryLogStart, pid: 3, base: 4})
	add(true, entry{typ: entrySeal, base: 94})
	add(true, entry{typ: entryPartDef, pid: 3, flags: flagGone, payload: encodePartDef(nil, id, "telemetry")})
	add(true, entry{typ: entryPad, payload: make([]byte, 100)})
	out = append(out, make([]byte, 4096)...)
	h.bytes = int64(len(out))
	copy(out, h.encode())
	return out
}

// dump inspects a file and returns what it says, one line each.
func dump(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	var out strings.Builder
	in := Inspector{FS: fsys, Records: true, Line: func(s fmt.Stringer) error {
		fmt.Fprintln(&out, s)
		return nil
	}}
	r, err := in.InspectFile(t.Context(), name)
	if err != nil {
		fmt.Fprintln(&out, "error:", err)
		return out.String()
	}
	fmt.Fprintln(&out, r)
	return out.String()
}

// TestInspectGolden reads files of each format version, as they were written when that version was new.
func TestInspectGolden(t *testing.T) {
	table := newProducerTable(0)
	for i := range int32(7) {
		table.apply(producerBatchOf(int64(i%2), 1, i/2, 3, Offset(3*i)), noon.UnixMilli()+int64(i))
	}
	segment, journal := goldenSegment(t), goldenJournal()
	meta := &partMeta{pid: 3, id: PartitionID{Topic: TopicID{1, 2, 3}, Index: 2}, topic: "telemetry", start: 100, epochs: epochList{{3, 100}, {4, 404}, {5, 407}}}
	damaged := bytes.Clone(segment)
	damaged[len(segment)/2] ^= 1 // in the middle: one batch is bad, the others are read
	noBatch := bytes.Clone(segment)
	copy(noBatch[buildBatch(t, 100, 3, CompressionNone, testRecords(100, 60)).Size():], make([]byte, 30)) // a header is gone
	// What no checksum covers: the epoch of the first batch, the offset of the second.
	misplaced := bytes.Clone(segment)
	misplaced[atLeaderEpoch+3] ^= 4
	misplaced[buildBatch(t, 100, 3, CompressionNone, testRecords(100, 60)).Size()+6] ^= 1
	future := bytes.Clone(buildBatch(t, 100, 3, CompressionNone, testRecords(100, 60)))
	future[atMagic] = batchMagic + 1
	future[BatchHeaderSize] ^= 0xff // and whatever else a later format does otherwise
	futureJournal := bytes.Clone(journal)
	futureJournal[8]++
	fixJournalHeaderCRC(futureJournal)
	hole := bytes.Clone(journal)
	hole[journalHeaderSize+200] ^= 1
	files := map[string][]byte{
		"v1/00000000000000000100.log": segment, "v1/00000007.wal": journal, "v1/00000000000000000021.snap": table.encode(nil), "v1/part.meta": meta.encode(),
		"v1/00000000000000000100.idx":          {0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 16, 0, 0},
		"v1/00000000000000000100.tix":          append(bytes.Repeat([]byte{9, 0, 0, 0}, 3), 0x40, 0xe2, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff),
		"damaged/bit/00000000000000000100.log": damaged, "damaged/header/00000000000000000100.log": noBatch, "damaged/tail/00000000000000000100.log": segment[:len(segment)-10],
		"damaged/place/00000000000000000100.log": misplaced, "damaged/place/part.meta": meta.encode(),
		"damaged/00000007.wal":            hole,
		"damaged/cut/00000007.wal":        journal[:8*kib],
		"future/00000000000000000100.log": future, "future/00000007.wal": futureJournal,
	}
	if *update {
		for name, data := range files {
			name = filepath.Join("testdata", "inspect", name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name := range files {
		t.Run(name, func(t *testing.T) {
			name = filepath.Join("testdata", "inspect", name)
			got := filepath.ToSlash(dump(t, vfs.OS{}, name))
			if *update {
				if err := os.WriteFile(name+".txt", []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func fixJournalHeaderCRC(b []byte) {
	h := b[:journalHeaderSize]
	putCRC(h[48:], h[:48])
}

// Every kind of file, each byte flipped or cut off: a report or an error of ours, never a panic.
func TestInspectEveryFlippedByte(t *testing.T) {
	root := filepath.Join("testdata", "inspect", "v1")
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".txt" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		stride := max(1, len(data)/2000)
		checked := kindOf(e.Name()) == kindProducers || kindOf(e.Name()) == kindPartition
		for i := 0; i < len(data); i += stride {
			for _, bad := range [][]byte{flipped(data, i), data[:i]} {
				m := vfs.NewMem()
				f, err := m.Create(e.Name())
				if err == nil {
					_, err = f.WriteAt(bad, 0)
				}
				if err != nil {
					t.Fatal(err)
				}
				r, err := (&Inspector{FS: m, Records: true}).InspectFile(t.Context(), e.Name())
				if !known(err) {
					t.Fatalf("%s byte %d: %v", e.Name(), i, err)
				}
				if checked && err == nil && !r.Damaged() {
					t.Errorf("%s byte %d: nothing noticed", e.Name(), i)
				}
			}
		}
	}
}

func flipped(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 0x20
	return b
}

func TestInspectFileRefuses(t *testing.T) {
	in := Inspector{}
	if _, err := in.InspectFile(t.Context(), filepath.Join(t.TempDir(), "none.log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := in.InspectFile(t.Context(), "inspect_test.go"); err == nil || !strings.Contains(err.Error(), "neither a segment") {
		t.Errorf("a file of no kind: %v", err)
	}
	if _, err := in.InspectDir(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "no log here") {
		t.Errorf("a directory without log: %v", err)
	}
}

// inspectedLog makes a directory with two partitions, one of them compacted, several segments and a journal
// that was recycled, on a disk that may be crashed.
func inspectedLog(t *testing.T) (*vfs.Mem, *Log, []*Partition) {
	t.Helper()
	m, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(m, "d", w))
	rng := rand.New(rand.NewPCG(8, 8))
	var parts []*Partition
	for i := range int32(2) {
		pc := compactedTopic
		pc.Compact = i == 1
		p, err := l.Create(testID(i), "t", pc)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, p)
		k := &keyed{t: t, p: p}
		for range 30 {
			if err := k.put(rng, 20); err != nil {
				t.Fatal(err)
			}
			w.wait(t, l, p, p.LogEnd())
		}
		p.SetHighWatermark(p.LogEnd())
	}
	if err := errors.Join(l.checkpointPast(), l.compact(t.Context(), parts[1])); err != nil {
		t.Fatal(err)
	}
	return m, l, parts
}

func TestInspectDir(t *testing.T) {
	m, l, parts := inspectedLog(t)
	var files []string
	var lastDone, lastTotal int64
	in := Inspector{FS: m, Records: true, File: func(r *FileReport) error {
		files = append(files, r.String())
		return nil
	}, Progress: func(done, total int64) {
		if done < lastDone || done > total {
			t.Errorf("progress %d of %d after %d", done, total, lastDone)
		}
		lastDone, lastTotal = done, total
	}}
	inspect := func(where string, fsys vfs.FS) *DirReport {
		t.Helper()
		files, lastDone = nil, 0
		in.FS = fsys
		r, err := in.InspectDir(t.Context(), "d")
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		return r
	}
	// Of a running broker, of one that was cut off, of one that ended well, and of one that was started again.
	if r := inspect("running", m); len(r.Damaged) > 0 || r.Records == 0 || r.Files < 10 || lastDone != lastTotal {
		t.Errorf("running: %v %v, progress %d of %d\n%s", r, r.Damaged, lastDone, lastTotal, strings.Join(files, "\n"))
	}
	if _, err := parts[0].Append(&Record{Value: make([]byte, 3000)}, 1); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		if r := inspect("cut off", m.CrashClone(0.5, rand.New(rand.NewPCG(seed, 9)))); len(r.Damaged) > 0 {
			t.Errorf("cut off: %v\n%s", r.Damaged, strings.Join(files, "\n"))
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r := inspect("closed", m); len(r.Damaged) > 0 {
		t.Errorf("closed: %v", r.Damaged)
	}
	crashed := m.CrashClone(0, nil)
	l = mustOpen(t, testConfig(crashed, "d", nil))
	defer l.Close()
	if r := inspect("reopened", crashed); len(r.Damaged) > 0 {
		t.Errorf("reopened: %v", r.Damaged)
	}
}

// Damage below what a checkpoint covers is found wherever it is.
func TestInspectDirFindsDamage(t *testing.T) {
	m, l, _ := inspectedLog(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	in := Inspector{FS: m, Records: true}
	var segments []foundFile
	files, err := in.walk("d")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.kind == kindSegment && f.size > 0 {
			segments = append(segments, f)
		}
	}
	if len(segments) < 5 {
		t.Fatalf("only %d segments", len(segments))
	}
	flip := func(at func(size int64) int64, mask byte) func(vfs.FS, foundFile) error {
		return func(fsys vfs.FS, s foundFile) error {
			f, err := fsys.OpenFile(s.name, os.O_RDWR)
			if err != nil {
				return err
			}
			b := make([]byte, 1)
			_, err1 := f.ReadAt(b, at(s.size))
			_, err2 := f.WriteAt([]byte{b[0] ^ mask}, at(s.size))
			return errors.Join(err1, err2, f.Close())
		}
	}
	for i, s := range segments {
		for kind, damage := range []func(vfs.FS, foundFile) error{
			flip(func(size int64) int64 { return size - 1 }, 4), // the last record
			// The first batch's offset, which no checksum covers, by 2²⁶; a shift within a gap that compaction left stays unseen.
			flip(func(int64) int64 { return 4 }, 4),
			flip(func(int64) int64 { return atLength + 3 }, 1), // its length
			flip(func(int64) int64 { return atMagic }, 1),
			func(fsys vfs.FS, s foundFile) error { // the end is missing
				f, err := fsys.OpenFile(s.name, os.O_RDWR)
				if err != nil {
					return err
				}
				return f.Truncate(s.size - 7)
			},
		} {
			disk := m.CrashClone(1, nil)
			if err := damage(disk, s); err != nil {
				t.Fatal(err)
			}
			in.FS = disk
			r, err := in.InspectDir(t.Context(), "d")
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Damaged) == 0 || !strings.Contains(r.Damaged[0], filepath.Base(s.name)) {
				t.Errorf("segment %d of %d, damage %d: %v", i, len(segments), kind, r.Damaged)
			}
		}
	}
}

func TestInspectStops(t *testing.T) {
	m, l, _ := inspectedLog(t)
	defer l.Close()
	stop := errors.New("enough")
	in := Inspector{FS: m, Line: func(fmt.Stringer) error { return stop }}
	if _, err := in.InspectDir(t.Context(), "d"); !errors.Is(err, stop) {
		t.Errorf("callback's error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&Inspector{FS: m}).InspectDir(ctx, "d"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// A broker that compacts while it is inspected is not damaged, whenever its files change under the inspection.
func TestInspectWhileCompacting(t *testing.T) {
	for after := range 80 {
		m, w := vfs.NewMem(), newCommits()
		l := mustOpen(t, testConfig(m, "d", w))
		p, err := l.Create(testID(0), "t", compactedTopic)
		if err != nil {
			t.Fatal(err)
		}
		k := &keyed{t: t, p: p}
		rng := rand.New(rand.NewPCG(uint64(after), 4))
		for range 20 {
			if err := k.put(rng, 20); err != nil {
				t.Fatal(err)
			}
			w.wait(t, l, p, p.LogEnd())
		}
		p.SetHighWatermark(p.LogEnd())
		if err := l.checkpointPast(); err != nil {
			t.Fatal(err)
		}
		merging := compactedTopic
		merging.SegmentBytes = mib
		p.SetConfig(merging)
		// The pass runs between two reads of the inspection.
		fault := vfs.NewFault(m)
		var once sync.Once
		fault.Inject(vfs.Rule{Ops: vfs.OpOpen | vfs.OpRead, After: after, Times: 1, Hook: func(vfs.Op, string) {
			once.Do(func() {
				if err := l.compact(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}})
		r, err := (&Inspector{FS: fault, Records: true}).InspectDir(t.Context(), "d")
		if err != nil || len(r.Damaged) > 0 {
			t.Errorf("compacted after %d reads: %v, %v", after, r, err)
			if r != nil {
				t.Log(strings.Join(r.Damaged, "\n"))
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
