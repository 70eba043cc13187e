package log

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// repairBed is a disk with two partitions of 40 records each in several segments, and what they held.
type repairBed struct {
	disk *vfs.Mem
	ids  [2]PartitionID
	dirs [2]string
	wal  string
	want map[PartitionID]map[Offset]string
}

// newRepairBed leaves the disk as a kill does: the last records of each partition are in the journal only, and the first
// in their segments only, unless the journal files that are free again still hold them.
func newRepairBed(t *testing.T, keepFree bool) *repairBed {
	t.Helper()
	bed := &repairBed{disk: vfs.NewMem(), want: map[PartitionID]map[Offset]string{}}
	w := newCommits()
	l := mustOpen(t, testConfig(bed.disk, "/d", w))
	var ps []*Partition
	for i := range int32(2) {
		bed.ids[i] = testID(i)
		p, err := l.Create(testID(i), "t", PartitionConfig{SegmentBytes: 4 * kib})
		if err != nil {
			t.Fatal(err)
		}
		bed.dirs[i], bed.want[p.id] = p.dir, map[Offset]string{}
		ps = append(ps, p)
	}
	put := func(n int) {
		for range n {
			for _, p := range ps {
				value := fmt.Sprintf("%d/%d %s", p.id.Index, p.LogEnd(), strings.Repeat("x", 300))
				bed.want[p.id][p.LogEnd()] = value
				if _, err := p.Append(&Record{Value: []byte(value)}, 3); err != nil {
					t.Fatal(err)
				}
				w.wait(t, l, p, p.LogEnd())
			}
		}
	}
	put(30)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(bed.disk, "/d", w))
	for i := range ps {
		ps[i] = l.Partition(testID(int32(i)))
		ps[i].SetConfig(PartitionConfig{SegmentBytes: 4 * kib})
	}
	put(10)
	done := make(chan error, 1)
	l.c.submit(item{typ: entrySeal, durable: done})
	if err := l.await(done); err != nil {
		t.Fatal(err)
	}
	bed.wal = l.j.cur.name
	cut := bed.disk.CrashClone(0, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	bed.disk = cut
	for _, name := range listNames(t, cut, "/d/journal") {
		if name != bed.wal && !keepFree {
			if err := cut.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cut.SyncDir("/d/journal"); err != nil {
		t.Fatal(err)
	}
	if !keepFree {
		listFiles(t, cut)
	}
	return bed
}

// listFiles makes the list of journal files name those that are there.
func listFiles(t *testing.T, fsys vfs.FS) {
	t.Helper()
	j := &journal{fs: fsys, dir: "/d/journal"}
	err := (&journalScan{ctx: t.Context(), j: j}).openFiles()
	if err := errors.Join(err, j.list(nil), j.close()); err != nil {
		t.Fatal(err)
	}
}

func (bed *repairBed) expected() (all []ExpectedPartition) {
	for _, id := range bed.ids {
		all = append(all, ExpectedPartition{id, "t"})
	}
	return all
}

func flip(t *testing.T, fsys vfs.FS, name string, at int64) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// findIn is where text stands in a file.
func findIn(t *testing.T, fsys vfs.FS, name, text string) int64 {
	t.Helper()
	b, err := vfs.ReadFile(fsys, name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), text)
	if at < 0 {
		t.Fatalf("%s does not hold %q", name, text)
	}
	return int64(at)
}

func listNames(t *testing.T, fsys vfs.FS, dir string) (names []string) {
	t.Helper()
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, filepath.Join(dir, e.Name()))
	}
	return names
}

func segmentFiles(t *testing.T, fsys vfs.FS, dir string) []string {
	return slices.DeleteFunc(listNames(t, fsys, dir), func(name string) bool { return filepath.Ext(name) != ".log" })
}

// listing is every file with its contents, but the lock.
func listing(t *testing.T, fsys vfs.FS, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.IsDir() {
			for k, v := range listing(t, fsys, name) {
				all[k] = v
			}
		} else if e.Name() != "lock" {
			b, err := vfs.ReadFile(fsys, name, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = string(b)
		}
	}
	return all
}

func (bed *repairBed) repair(t *testing.T, fsys vfs.FS, apply bool) *RepairReport {
	t.Helper()
	r, err := Repair(t.Context(), RepairOptions{FS: fsys, Dir: "/d", Expected: bed.expected(), Apply: apply, Now: time.Unix(1_800_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// check opens the log: every record that is not reported lost is at its offset, nothing else is, and what is
// appended next gets an offset that no lost record can have had (A7).
func (bed *repairBed) check(t *testing.T, disk vfs.FS, r *RepairReport) {
	t.Helper()
	w := newCommits()
	l := mustOpen(t, testConfig(disk, "/d", w))
	defer l.Close()
	for id, want := range bed.want {
		p := l.Partition(id)
		if p == nil || p.Damaged() != "" {
			t.Fatalf("partition %v after the repair: %v", id, p)
		}
		highest := Offset(-1)
		for o := range want {
			highest = max(highest, o)
		}
		got := map[Offset]string{}
		var rr RecordReader
		for from := p.LogStart(); from < p.LogEnd(); {
			b, err := p.Read(from, p.LogEnd(), 64*kib, nil)
			if err != nil || len(b) == 0 {
				t.Fatalf("read %v at %d of %d: %d bytes, %v", id, from, p.LogEnd(), len(b), err)
			}
			for len(b) > 0 {
				batch, err := NextBatch(b, 0)
				if err != nil || batch.BaseOffset() > from {
					t.Fatalf("read %v at %d: %v, batch at %d", id, from, err, batch.BaseOffset())
				}
				b = b[len(batch):]
				if err := rr.Reset(batch); err != nil {
					t.Fatal(err)
				}
				for {
					var rec Record
					ok, err := rr.Next(&rec)
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						break
					}
					got[rec.Offset] = string(rec.Value)
				}
				from = batch.NextOffset()
			}
		}
		for o, v := range got {
			if want[o] != v {
				t.Errorf("%v at %d: other data: %.20q", id, o, v)
			}
		}
		for o := range want {
			reported := slices.ContainsFunc(r.Losses, func(l Loss) bool { return l.ID == id && o >= l.First && o < l.Next })
			if _, ok := got[o]; ok == reported {
				t.Errorf("%v at %d: there %t, reported lost %t", id, o, ok, reported)
			}
		}
		if p.LogEnd() <= highest {
			t.Errorf("%v ends at %d, record %d was acknowledged", id, p.LogEnd(), highest)
		}
		if err := p.BeginEpoch(4); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Append(&Record{Value: []byte("next")}, 4); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := (&Inspector{FS: disk, Records: true}).InspectDir(t.Context(), "/d")
	if err != nil || len(report.Damaged) > 0 {
		t.Errorf("inspection after the repair: %v, %v", report, err)
	}
	if again := bed.repair(t, disk, true); again.Needed() {
		t.Errorf("a second repair finds %+v", again)
	}
}

// TestRepair: each kind of damage, what it costs, and that nothing is removed.
func TestRepair(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, bed *repairBed)
		opens  bool   // a node starts on it without a repair
		old    bool   // the journal files that are free hold what was in the segments
		tail   bool   // what stood in the journal only is lost
		lost   string // records that are lost, as partition/first-next; with old and without tail: none are
		says   string
	}{
		"nothing": {damage: func(*testing.T, *repairBed) {}, opens: true},
		"batch in the middle of a segment": {opens: true, lost: "0/5-6", says: "is damaged at", damage: func(t *testing.T, bed *repairBed) {
			s := segmentFiles(t, bed.disk, bed.dirs[0])[0]
			flip(t, bed.disk, s, findIn(t, bed.disk, s, "0/5 xx")+100)
		}},
		"offset of a batch, which no checksum covers": {opens: true, lost: "0/5-6", damage: func(t *testing.T, bed *repairBed) {
			s := segmentFiles(t, bed.disk, bed.dirs[0])[0]
			flip(t, bed.disk, s, findIn(t, bed.disk, s, "0/5 xx")-BatchHeaderSize-8+2)
		}},
		"offset of the last batch that the checkpoint covers": {opens: true, lost: "0/29-30", damage: func(t *testing.T, bed *repairBed) {
			for _, s := range segmentFiles(t, bed.disk, bed.dirs[0]) {
				if b, err := vfs.ReadFile(bed.disk, s, 1<<20); err == nil && strings.Contains(string(b), "0/29 xx") {
					flip(t, bed.disk, s, findIn(t, bed.disk, s, "0/29 xx")-BatchHeaderSize-8+1)
				}
			}
		}},
		"batch in the middle of a segment, which the journal still has": {opens: true, old: true, says: "nothing of it is lost", damage: func(t *testing.T, bed *repairBed) {
			s := segmentFiles(t, bed.disk, bed.dirs[0])[0]
			flip(t, bed.disk, s, findIn(t, bed.disk, s, "0/5 xx")+100)
		}},
		"a segment is missing, which the journal still has": {opens: true, old: true, says: "nothing of it is lost", damage: func(t *testing.T, bed *repairBed) {
			if err := bed.disk.Remove(segmentFiles(t, bed.disk, bed.dirs[1])[1]); err != nil {
				t.Fatal(err)
			}
		}},
		"a segment is missing": {opens: true, lost: "1/10-20", says: "followed by a gap", damage: func(t *testing.T, bed *repairBed) {
			s := segmentFiles(t, bed.disk, bed.dirs[1])
			if err := bed.disk.Remove(s[1]); err != nil {
				t.Fatal(err)
			}
		}},
		"the first segment is missing": {opens: true, says: "segments are missing", damage: func(t *testing.T, bed *repairBed) {
			if err := bed.disk.Remove(segmentFiles(t, bed.disk, bed.dirs[1])[0]); err != nil {
				t.Fatal(err)
			}
		}},
		"the segment that the checkpoint ends in is cut": {opens: true, damage: func(t *testing.T, bed *repairBed) {
			s := segmentFiles(t, bed.disk, bed.dirs[0])
			f, err := bed.disk.OpenFile(s[len(s)-1], os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(f.Truncate(500), f.Sync(), f.Close()); err != nil {
				t.Fatal(err)
			}
		}},
		"the segment that the checkpoint ends in is cut, which the journal still has": {opens: true, old: true, says: "nothing of it is lost", damage: func(t *testing.T, bed *repairBed) {
			s := segmentFiles(t, bed.disk, bed.dirs[0])
			f, err := bed.disk.OpenFile(s[len(s)-1], os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(f.Truncate(500), f.Sync(), f.Close()); err != nil {
				t.Fatal(err)
			}
		}},
		"an entry in the middle of the journal": {lost: "0/35-36", says: "unreadable", damage: func(t *testing.T, bed *repairBed) {
			flip(t, bed.disk, bed.wal, findIn(t, bed.disk, bed.wal, "0/35 xx")+9)
		}},
		"the last commit before the seal": {says: "new records begin at", damage: func(t *testing.T, bed *repairBed) {
			flip(t, bed.disk, bed.wal, findIn(t, bed.disk, bed.wal, "1/39 xx")+9)
		}},
		"the header of the journal file": {damage: func(t *testing.T, bed *repairBed) { flip(t, bed.disk, bed.wal, 20) }},
		"the journal is missing": {says: "journal", damage: func(t *testing.T, bed *repairBed) {
			if err := bed.disk.RemoveAll("/d/journal"); err != nil {
				t.Fatal(err)
			}
		}},
		"the newest journal file is missing": {old: true, says: "new records begin at", tail: true, damage: func(t *testing.T, bed *repairBed) {
			if err := bed.disk.Remove(bed.wal); err != nil {
				t.Fatal(err)
			}
		}},
		"the list of journal files is damaged": {says: "journal.slots", damage: func(t *testing.T, bed *repairBed) { flip(t, bed.disk, "/d/journal.slots", 17) }},
		"the list of journal files is missing": {says: "journal.slots", damage: func(t *testing.T, bed *repairBed) {
			if err := bed.disk.Remove("/d/journal.slots"); err != nil {
				t.Fatal(err)
			}
		}},
		"part.meta is damaged": {says: "part.meta", damage: func(t *testing.T, bed *repairBed) {
			flip(t, bed.disk, filepath.Join(bed.dirs[1], "part.meta"), 30)
		}},
		"part.meta is missing": {says: "part.meta", damage: func(t *testing.T, bed *repairBed) {
			if err := bed.disk.Remove(filepath.Join(bed.dirs[1], "part.meta")); err != nil {
				t.Fatal(err)
			}
		}},
		"a directory is missing": {opens: true, says: "directory is missing", damage: func(t *testing.T, bed *repairBed) {
			if err := bed.disk.RemoveAll(bed.dirs[1]); err != nil {
				t.Fatal(err)
			}
		}},
		"log.meta is damaged": {says: "log.meta", damage: func(t *testing.T, bed *repairBed) { flip(t, bed.disk, "/d/log.meta", 3) }},
	} {
		t.Run(name, func(t *testing.T) {
			bed := newRepairBed(t, c.old)
			c.damage(t, bed)
			l, err := Open(testConfig(bed.disk.CrashClone(1, nil), "/d", nil))
			if (err == nil) != c.opens || err != nil && !strings.Contains(err.Error(), "weir repair /d") {
				t.Fatalf("open before the repair: %v, want it to open %t", err, c.opens)
			}
			if err == nil {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			before := listing(t, bed.disk, "/d")
			dry := bed.repair(t, bed.disk, false)
			if after := listing(t, bed.disk, "/d"); !mapsEqual(before, after) {
				t.Fatal("a dry run changed the directory")
			}
			real := bed.repair(t, bed.disk, true)
			text := fmt.Sprint(real.Journal, real.Losses, real.Fixes)
			if real.Needed() != (name != "nothing") || !strings.Contains(text, c.says) || fmt.Sprint(dry.Losses, dry.Journal) != fmt.Sprint(real.Losses, real.Journal) {
				t.Errorf("dry run %+v\nrepair %+v", dry, real)
			}
			var lost []string
			for _, l := range real.Losses {
				if l.Certain {
					lost = append(lost, fmt.Sprintf("%d/%d-%d", l.Partition, l.First, l.Next))
				}
			}
			if c.old && !c.tail && len(real.Losses) > 0 {
				t.Errorf("lost %v, which the journal has", real.Losses)
			}
			if c.lost != "" && !slices.Equal(lost, []string{c.lost}) {
				t.Errorf("lost %v, want %s", real.Losses, c.lost)
			}
			after := listing(t, bed.disk, "/d")
			kept := map[string]bool{}
			for _, v := range after {
				kept[v] = true
			}
			for n, v := range before {
				if ext := filepath.Ext(n); !kept[v] && ext != ".idx" && ext != ".tix" && n != "/d/clean" && filepath.Base(n) != slotsName && filepath.Base(n) != "part.meta" {
					t.Errorf("%s is gone, under every name", n)
				}
			}
			bed.check(t, bed.disk.CrashClone(0, nil), real)
		})
	}
}

// A damaged part.meta beside no segments is moved aside, whether the journal, the metadata or nobody knows the
// partition: a node does not start with it. What was acknowledged elsewhere stays.
func TestRepairDamagedMetaWithoutSegments(t *testing.T) {
	for name, known := range map[string]bool{"partition that exists": true, "directory that nobody expects": false} {
		t.Run(name, func(t *testing.T) {
			bed := newRepairBed(t, false)
			l := mustOpen(t, testConfig(bed.disk, "/d", nil))
			empty, err := l.Create(testID(2), "t", PartitionConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			dir := empty.dir
			if !known {
				dir = partitionDir("/d", PartitionID{Topic: TopicID{9}}, "gone")
				b, err := vfs.ReadFile(bed.disk, filepath.Join(empty.dir, "part.meta"), 4*kib)
				if err == nil {
					err = errors.Join(bed.disk.MkdirAll(dir), vfs.WriteFile(bed.disk, filepath.Join(dir, "part.meta"), b))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			flip(t, bed.disk, filepath.Join(dir, "part.meta"), 20)
			if _, err := Open(testConfig(bed.disk.CrashClone(1, nil), "/d", nil)); err == nil || !strings.Contains(err.Error(), "weir repair /d") {
				t.Fatalf("open before the repair: %v", err)
			}
			dry, real := bed.repair(t, bed.disk, false), bed.repair(t, bed.disk, true)
			for _, r := range []*RepairReport{dry, real} {
				if !strings.Contains(fmt.Sprint(r.Fixes), filepath.Join(dir, "part.meta")) || len(r.Losses) > 0 ||
					!slices.ContainsFunc(r.Moved, func(n string) bool { return strings.HasPrefix(n, filepath.Join(dir, "part.meta.damaged-")) }) {
					t.Errorf("report %+v", r)
				}
			}
			bed.check(t, bed.disk.CrashClone(0, nil), real)
			l = mustOpen(t, testConfig(bed.disk, "/d", nil))
			defer l.Close()
			if p := l.Partition(testID(2)); p == nil || p.LogEnd() != 0 {
				t.Errorf("the empty partition after the repair: %v", p)
			}
		})
	}
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// TestRepairCutOff stops a repair at each change that it makes, by a dead process and by a power cut: until it is finished
// no node starts on what lies half exchanged, and the next repair ends where the first would have.
func TestRepairCutOff(t *testing.T) {
	bed := newRepairBed(t, false)
	s := segmentFiles(t, bed.disk, bed.dirs[0])[1]
	flip(t, bed.disk, s, findIn(t, bed.disk, s, "0/12 xx")+100)
	flip(t, bed.disk, bed.wal, findIn(t, bed.disk, bed.wal, "1/35 xx")+9)
	flip(t, bed.disk, filepath.Join(bed.dirs[1], "part.meta"), 30)
	whole := bed.repair(t, bed.disk, false)
	stopped, step := 0, 1
	if testing.Short() {
		step = 5
	}
	for n := 0; ; n += step {
		disk := bed.disk.CrashClone(1, nil)
		fault := vfs.NewFault(disk)
		in := fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: n, Err: syscall.EIO})
		_, err := Repair(t.Context(), RepairOptions{FS: fault, Dir: "/d", Expected: bed.expected(), Apply: true, Now: time.Unix(1_800_000_000, 0)})
		if in.Hits() == 0 {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		in.Stop()
		for _, keep := range []float64{0, 1} {
			cut := disk.CrashClone(keep, nil)
			if _, err := cut.Stat("/d/" + repairingName); err == nil {
				stopped++
				if _, err := Open(testConfig(cut.CrashClone(1, nil), "/d", nil)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "--yes") {
					t.Fatalf("open after a repair cut off at change %d: %v", n, err)
				}
			}
			if r := bed.repair(t, cut, false); r.Applied {
				t.Fatal("a dry run says that it repaired")
			}
			bed.repair(t, cut, true)
			bed.check(t, cut.CrashClone(0, nil), whole)
			if t.Failed() {
				t.Fatalf("cut off at change %d (%v), keeping %g", n, err, keep)
			}
		}
	}
	if stopped < 20/step {
		t.Errorf("only %d repairs were cut off in the middle", stopped)
	}
}
