package log

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// countingFS counts the bytes read from segments.
type countingFS struct {
	vfs.FS
	read *atomic.Int64
}

type countingFile struct {
	vfs.File
	read *atomic.Int64
}

func (f countingFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	f.read.Add(int64(n))
	return n, err
}

func (fs countingFS) OpenFile(name string, flag int) (vfs.File, error) {
	f, err := fs.FS.OpenFile(name, flag)
	if err == nil && filepath.Ext(name) == ".log" {
		f = countingFile{f, fs.read}
	}
	return f, err
}

// TestStartReadsLittle: what Open reads of segments does not grow with them. Closed ones are not opened, of
// the active one only what its index does not cover is looked at, a header at a time.
func TestStartReadsLittle(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(mem, "/d", w))
	p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 256 * kib})
	if err != nil {
		t.Fatal(err)
	}
	for range 150 {
		fill(t, l, w, p, 10)
	}
	total := p.Size()
	if n := len(*p.segs.Load()); n < 6 {
		t.Fatalf("%d segments", n)
	}
	crashed := mem.CrashClone(1, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, disk := range map[string]*vfs.Mem{"clean": mem, "crashed": crashed} {
		var read atomic.Int64
		l := mustOpen(t, testConfig(countingFS{disk, &read}, "/d", nil))
		if got := read.Load(); got > total/50 {
			t.Errorf("%s: %d bytes of %d were read", name, got, total)
		}
		if p := l.Partition(testID(0)); p.LogEnd() != 1500 {
			t.Errorf("%s: log end %d", name, p.LogEnd())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIndexesAreHints: an index that is missing, cut, zeroed or of other data never changes what is read (J3).
func TestIndexesAreHints(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	cfg := testConfig(mem, "/d", w)
	l := mustOpen(t, cfg)
	p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 16 * kib, IndexIntervalBytes: kib})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 60)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	spoil := map[string]func(vfs.File) error{
		"cut":    func(f vfs.File) error { return f.Truncate(5) },
		"empty":  func(f vfs.File) error { return f.Truncate(0) },
		"zeroed": func(f vfs.File) error { size, _ := f.Size(); _, err := f.WriteAt(make([]byte, size), 0); return err },
		"shifted": func(f vfs.File) error {
			size, _ := f.Size()
			b := make([]byte, size)
			_, err := f.ReadAt(b, 0)
			for i := range b {
				b[i] += byte(i%3) + 1
			}
			_, werr := f.WriteAt(b, 0)
			return errors.Join(err, werr)
		},
	}
	for how, edit := range spoil {
		for _, ext := range []string{".idx", ".tix"} {
			disk := mem.CrashClone(1, nil)
			for _, s := range *p.segs.Load() {
				disk = change(t, disk, segmentName(p.dir, s.base, ext), func(f vfs.File) {
					if err := edit(f); err != nil {
						t.Fatal(err)
					}
				})
			}
			l := mustOpen(t, testConfig(disk, "/d", nil))
			q := l.Partition(testID(0))
			for o := Offset(59); o >= 0; o -= 7 {
				b, err := q.Read(o, 60, 1, nil)
				if err != nil || len(b) == 0 || Batch(b).BaseOffset() > o || Batch(b).LastOffset() < o {
					t.Fatalf("%s %s: read at %d: %d bytes, %v", ext, how, o, len(b), err)
				}
			}
			if got := len(readAllRecords(t, q)); got != 60 {
				t.Errorf("%s %s: %d records", ext, how, got)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestProducersSurvive: a repeat is recognised after a clean stop, a power cut, and with the snapshot gone (P1, J6).
func TestProducersSurvive(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(mem, "/d", w))
	p := mustCreate(t, l, 0)
	var bb BatchBuilder
	batch := func(seq int32) Batch {
		bb.Reset()
		for i := range 3 {
			bb.Append(&Record{Timestamp: 1, Value: fmt.Append(nil, seq, i)})
		}
		bb.SetProducer(77, 2, seq)
		return append(Batch(nil), bb.Seal(0, 0)...)
	}
	for seq := int32(0); seq < 30; seq += 3 {
		if _, duplicate, err := p.AppendBatch(batch(seq), 1); err != nil || duplicate {
			t.Fatal(duplicate, err)
		}
		if seq == 15 {
			w.wait(t, l, p, p.LogEnd())
			flushNow(t, l)
		}
	}
	w.wait(t, l, p, 30)
	crashed := mem.CrashClone(0, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	noSnapshot := mem.CrashClone(1, nil)
	removeAll(t, noSnapshot, p.dir, "snap")
	for name, disk := range map[string]*vfs.Mem{"clean": mem, "crashed": crashed, "without snapshot": noSnapshot} {
		l := mustOpen(t, testConfig(disk, "/d", nil))
		p := l.Partition(testID(0))
		if first, duplicate, err := p.AppendBatch(batch(27), 1); first != 27 || !duplicate || err != nil {
			t.Errorf("%s: repeat: %d %v %v", name, first, duplicate, err)
		}
		if _, _, err := p.AppendBatch(batch(33), 1); !errors.Is(err, ErrOutOfOrderSequence) {
			t.Errorf("%s: gap: %v", name, err)
		}
		if first, duplicate, err := p.AppendBatch(batch(30), 1); first != 30 || duplicate || err != nil {
			t.Errorf("%s: next: %d %v %v", name, first, duplicate, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSealWritesOnce: an idle spell costs one more sync, not one each tick (J2).
func TestSealWritesOnce(t *testing.T) {
	mem := vfs.NewMem()
	fault := vfs.NewFault(mem)
	w := newCommits()
	cfg := testConfig(fault, "/d", w)
	cfg.SealAfter = time.Millisecond
	l := mustOpen(t, cfg)
	defer l.Close()
	p := mustCreate(t, l, 0)
	syncs := make(chan struct{}, 100)
	fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Hook: func(vfs.Op, string) { syncs <- struct{}{} }})
	if _, err := p.Append(&Record{Value: []byte("x")}, 1); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 1)
	for range 2 { // the commit and its seal; a seal may also have been under way before it
		<-syncs
	}
	quiet := time.NewTimer(100 * time.Millisecond)
	defer quiet.Stop()
	extra := 0
	for {
		select {
		case <-syncs:
			extra++
		case <-quiet.C:
			if extra > 1 {
				t.Errorf("%d more syncs while idle", extra)
			}
			crashed := mustOpen(t, testConfig(mem.CrashClone(0, nil), "/d", nil))
			defer crashed.Close()
			if crashed.Recovery().TailUncertain {
				t.Errorf("recovery of a sealed journal: %+v", crashed.Recovery())
			}
			return
		}
	}
}

// TestOpenCanBeGivenUp: a start that is told to stop while it reads the journal or finds partitions stops, and the next
// one finds everything (J5).
func TestOpenCanBeGivenUp(t *testing.T) {
	disk, promises, ledgers, _, _, _ := sealedDisk(t)
	for at := 0; ; at++ {
		ctx, cancel := context.WithCancel(t.Context())
		fault := vfs.NewFault(disk)
		seen := 0
		in := fault.Inject(vfs.Rule{Ops: vfs.OpChange, Hook: func(vfs.Op, string) {
			if seen++; seen > at {
				cancel()
			}
		}})
		cfg := crashConfig(fault, newCommits())
		if at == 0 {
			cancel()
		}
		l, err := OpenContext(ctx, cfg)
		cancel()
		in.Stop()
		if err == nil {
			if at < 3 {
				t.Errorf("opened although told to stop at change %d", at)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("stopped at change %d: %v", at, err)
		}
		if reported, err := keepsOrReports(disk.CrashClone(1, nil), promises, ledgers); err != nil || reported {
			t.Fatalf("the start after one stopped at change %d: reported %t, %v", at, reported, err)
		}
	}
}
