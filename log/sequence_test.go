package log

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// placedLog makes a partition of several segments, one record a batch and so many batches an epoch, and returns the disk
// after a clean stop, and every batch.
func placedLog(t *testing.T, pc PartitionConfig, n, perEpoch int) (disk *vfs.Mem, dir string, batches []placedBatch) {
	t.Helper()
	disk = vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(disk, "/d", w))
	p, err := l.Create(testID(0), "t", pc)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r := Record{Key: fmt.Appendf(nil, "k%d", i%4), Value: fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", 300))}
		if _, err := p.Append(&r, Epoch(3+i/perEpoch)); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	p.SetHighWatermark(p.LogEnd())
	if pc.Compact {
		if err := errors.Join(l.checkpointPast(), l.compact(t.Context(), p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range segmentFiles(t, disk, p.dir) {
		b, err := vfs.ReadFile(disk, name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(b); {
			batch, err := NextBatch(b[at:], 0)
			if err != nil {
				t.Fatal(err)
			}
			batches = append(batches, placedBatch{name, int64(at), batch})
			at += len(batch)
		}
	}
	return disk, p.dir, batches
}

type placedBatch struct {
	file string
	at   int64
	b    Batch
}

// flipPlace flips a bit of a batch's base offset (0 to 63) or leader epoch (64 to 95).
func (b placedBatch) flipPlace(t *testing.T, fsys vfs.FS, bit int) {
	t.Helper()
	at, mask := b.at+int64(bit/8), byte(1)<<(bit%8)
	if bit >= 64 {
		at += atLeaderEpoch - 8
	}
	f, err := fsys.OpenFile(b.file, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	_, err = f.ReadAt(one, at)
	one[0] ^= mask
	if _, werr := f.WriteAt(one, at); errors.Join(err, werr, f.Close()) != nil {
		t.Fatal(err, werr)
	}
}

// readPlaced reads all batches, size bytes at a time, up to the first error.
func readPlaced(p *Partition, size int) (batches []Batch, err error) {
	for from := p.LogStart(); from < p.LogEnd(); {
		b, err := p.Read(from, p.LogEnd(), size, nil)
		if err != nil {
			return batches, err
		}
		if len(b) == 0 {
			return batches, fmt.Errorf("nothing at %d of %d", from, p.LogEnd())
		}
		for len(b) > 0 {
			batch, err := NextBatch(b, 0)
			if err != nil {
				return batches, err
			}
			b = b[len(batch):]
			batches, from = append(batches, batch), batch.NextOffset()
		}
	}
	return batches, nil
}

// TestFlippedPlaceIsNoticed: whatever bit of a batch's offset or epoch is wrong, which no checksum covers, nobody reads
// the batch as sound: reads answer ErrCorrupt and are counted, an inspection finds it (A2, A3, A8).
func TestFlippedPlaceIsNoticed(t *testing.T) {
	for _, perEpoch := range []int{5, 100} { // the epoch index tells many a wrong offset
		flipDense(t, perEpoch)
	}
}

func flipDense(t *testing.T, perEpoch int) {
	disk, _, all := placedLog(t, PartitionConfig{SegmentBytes: 2 * kib}, 18, perEpoch)
	if len(all) != 18 {
		t.Fatalf("%d batches", len(all))
	}
	step := 5
	if os.Getenv("WEIR_SOAK") != "" {
		step = 1
	}
	for n := 0; n < len(all)*96; n += step {
		i, bit := n/96, n%96
		copied := disk.CrashClone(1, nil)
		all[i].flipPlace(t, copied, bit)
		r, err := (&Inspector{FS: copied}).InspectDir(t.Context(), "/d")
		if err != nil || len(r.Damaged) == 0 || !strings.Contains(r.Damaged[0], filepath.Base(all[i].file)) {
			t.Fatalf("batch %d bit %d: inspection %v, %v", i, bit, r, err)
		}
		l := mustOpen(t, testConfig(copied, "/d", nil))
		p := l.Partition(testID(0))
		for _, size := range []int{1, 4 * kib} {
			got, err := readPlaced(p, size)
			if !errors.Is(err, ErrCorrupt) && p.Damaged() == "" {
				t.Errorf("batch %d bit %d, reading %d: %d batches, %v", i, bit, size, len(got), err)
			}
			if len(got) > i || len(got) > 0 && got[len(got)-1].BaseOffset() != Offset(len(got)-1) {
				t.Errorf("batch %d bit %d, reading %d: %d batches were read", i, bit, size, len(got))
			}
		}
		if i == len(all)-1 && p.Damaged() == "" {
			t.Errorf("batch %d bit %d: recovery, which reads the last segment, did not notice", i, bit)
		}
		// Who begins there, or behind it, as after an index look-up.
		for from := Offset(i); from < min(Offset(i)+2, p.LogEnd()); from++ {
			b, err := p.Read(from, p.LogEnd(), 1, nil)
			if err == nil && (len(b) == 0 || Batch(b).BaseOffset() != from || from == Offset(i)) {
				t.Errorf("batch %d bit %d: read at %d gives %d bytes", i, bit, from, len(b))
			}
		}
		if l.Stats().CorruptReads == 0 && p.Damaged() == "" {
			t.Errorf("batch %d bit %d: no corrupt read was counted", i, bit)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlippedPlaceInACompactedLog: there an offset may be missing. What is read is what was written, or its offset still
// fits between its neighbours'.
func TestFlippedPlaceInACompactedLog(t *testing.T) {
	for _, perEpoch := range []int{5, 100} { // the epoch index tells many a wrong offset
		flipCompacted(t, perEpoch)
	}
}

func flipCompacted(t *testing.T, perEpoch int) {
	disk, _, all := placedLog(t, PartitionConfig{SegmentBytes: 2 * kib, Compact: true, MinCleanableRatio: 0.01}, 24, perEpoch)
	if len(all) >= 24 || len(all) < 6 {
		t.Fatalf("%d batches are left", len(all))
	}
	for n := range len(all) * 96 {
		i, bit := n/96, n%96
		copied := disk.CrashClone(1, nil)
		all[i].flipPlace(t, copied, bit)
		fits := false
		if bit < 64 {
			base := all[i].b.BaseOffset() ^ 1<<(56-bit/8*8+bit%8)
			first, _ := parseBase(all[i].file)
			fits = base >= first && (i == 0 || base >= all[i-1].b.NextOffset()) && i+1 < len(all) && base < all[i+1].b.BaseOffset()
		}
		l := mustOpen(t, testConfig(copied, "/d", nil))
		p := l.Partition(testID(0))
		p.SetConfig(PartitionConfig{Compact: true})
		for _, size := range []int{1, 4 * kib} {
			got, err := readPlaced(p, size)
			if fits || p.Damaged() != "" {
				continue
			}
			if !errors.Is(err, ErrCorrupt) || len(got) > i {
				t.Errorf("batch %d (%d to %d) bit %d, reading %d: %d batches, %v", i, all[i].b.BaseOffset(), all[i].b.LastOffset(), bit, size, len(got), err)
			}
		}
		p.hints.forget() // who begins there asks the index
		if _, err := p.Read(all[i].b.BaseOffset(), p.LogEnd(), 1, nil); !fits && p.Damaged() == "" && !errors.Is(err, ErrCorrupt) {
			t.Errorf("batch %d (%d to %d) bit %d: read there says %v", i, all[i].b.BaseOffset(), all[i].b.LastOffset(), bit, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCompactionRefusesWrongPlaces: a wrong offset would make compaction drop the newer of two records.
func TestCompactionRefusesWrongPlaces(t *testing.T) {
	disk, _, all := placedLog(t, PartitionConfig{SegmentBytes: 2 * kib}, 18, 5)
	for _, bit := range []int{56, 58, 24, 88} {
		copied := disk.CrashClone(1, nil)
		all[6].flipPlace(t, copied, bit)
		l := mustOpen(t, testConfig(copied, "/d", nil))
		p := l.Partition(testID(0))
		p.SetConfig(PartitionConfig{Compact: true, MinCleanableRatio: 0.01, SegmentBytes: 2 * kib})
		p.SetHighWatermark(p.LogEnd())
		if err := l.compact(t.Context(), p); !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit %d: compaction says %v", bit, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEpochsThatTheIndexDoesNotTell: where a batch's epoch may differ from the index, reads and inspections take it.
func TestEpochsThatTheIndexDoesNotTell(t *testing.T) {
	disk := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(disk, "/d", w))
	p := mustCreate(t, l, 0)
	if err := p.Begin(7); err != nil { // a follower of a log that begins at 7, before it knows an epoch
		t.Fatal(err)
	}
	put := func(e Epoch, n int) {
		for range n {
			if _, err := p.Append(&Record{Value: []byte("v")}, e); err != nil {
				t.Fatal(err)
			}
			w.wait(t, l, p, p.LogEnd())
		}
	}
	put(4, 5)
	for _, e := range []Epoch{5, 6, 8} { // a storm of restarts: they collapse (A3)
		if err := p.BeginEpoch(e); err != nil {
			t.Fatal(err)
		}
	}
	put(8, 5)
	if err := p.SetLogStart(9); err != nil { // within epoch 4, of which the index keeps what lies above
		t.Fatal(err)
	}
	// A hole that an earlier repair has covered with the epoch before it.
	p.mu.Lock()
	p.beginEpochLocked(9)
	added := p.copyLocked(emptyBatch(p.LogEnd(), p.LogEnd()+10, 8))
	p.mu.Unlock()
	p.addedBatches(added)
	put(9, 3)
	end := p.LogEnd()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(disk, "/d", nil))
	defer l.Close()
	p = l.Partition(testID(0))
	got, err := readPlaced(p, 1)
	if err != nil || p.Damaged() != "" || got[len(got)-1].NextOffset() != end {
		t.Errorf("%d batches, %v, damaged %q", len(got), err, p.Damaged())
	}
	if r, err := (&Inspector{FS: disk}).InspectDir(t.Context(), "/d"); err != nil || len(r.Damaged) > 0 {
		t.Errorf("inspection %v, %v", r, err)
	}
}

// TestRepairOfEpochs: a wrong epoch is put right, by the index, or by its neighbours where that is lost; nothing is lost.
func TestRepairOfEpochs(t *testing.T) {
	disk, dir, all := placedLog(t, PartitionConfig{SegmentBytes: 2 * kib}, 18, 5)
	for _, lost := range []bool{false, true} {
		for i := range 16 {
			for _, bit := range []int{64, 88, 89, 92} { // far too high, and a little wrong
				copied := disk.CrashClone(1, nil)
				all[i].flipPlace(t, copied, bit)
				if lost {
					if err := copied.Remove(filepath.Join(dir, "part.meta")); err != nil {
						t.Fatal(err)
					}
				}
				bed := &repairBed{disk: copied, ids: [2]PartitionID{testID(0), testID(0)}}
				r := bed.repair(t, copied, true)
				if len(r.Losses) > 0 || !lost && !slices.ContainsFunc(r.Fixes, func(s string) bool { return strings.Contains(s, "leader epoch of 1 batches") }) {
					t.Errorf("lost %t, batch %d bit %d: %+v", lost, i, bit, r)
				}
				l := mustOpen(t, testConfig(copied, "/d", nil))
				got, err := readPlaced(l.Partition(testID(0)), 1)
				if err != nil || len(got) != len(all) {
					t.Errorf("lost %t, batch %d bit %d: %d batches, %v", lost, i, bit, len(got), err)
				}
				for k, b := range got {
					if !lost && b.LeaderEpoch() != all[k].b.LeaderEpoch() {
						t.Errorf("batch %d bit %d: batch %d has epoch %d", i, bit, k, b.LeaderEpoch())
					}
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				if again := bed.repair(t, copied, true); again.Needed() {
					t.Errorf("lost %t, batch %d bit %d: a second repair finds %+v", lost, i, bit, again)
				}
			}
		}
	}
}
