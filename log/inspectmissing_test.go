package log

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// TestInspectDirMissesFiles: a file that is gone as a whole is reported, by its name or where it was due.
func TestInspectDirMissesFiles(t *testing.T) {
	m, l, parts := inspectedLog(t)
	kept, lost := parts[0], parts[1]
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w := newCommits()
	l = mustOpen(t, testConfig(m, "d", w)) // and is cut off
	p := l.Partition(kept.id)
	if _, err := p.Append(&Record{Value: []byte("last")}, 3); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, p.LogEnd())
	disk, newest := m.CrashClone(0, nil), l.j.cur.name
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	segs, other := segmentFiles(t, disk, kept.dir), segmentFiles(t, disk, lost.dir)
	if len(segs) < 4 || len(other) < 2 {
		t.Fatalf("segments %v, %v", segs, other)
	}
	of := func(dir string) []string { return listNames(t, disk, dir) }
	for name, c := range map[string]struct {
		remove []string
		want   string
	}{
		"nothing":                     {},
		"the first segment":           {segs[:1], "its first segment begins at"},
		"a segment in the middle":     {segs[2:3], "but the next segment begins at"},
		"the last segment":            {segs[len(segs)-1:], segs[len(segs)-1] + ", in which the last checkpoint ends"},
		"all segments":                {segs, "in which the last checkpoint ends"},
		"part.meta":                   {[]string{filepath.Join(kept.dir, "part.meta")}, "has segments but no part.meta"},
		"part.meta and all segments":  {slices.DeleteFunc(of(lost.dir), func(n string) bool { return filepath.Ext(n) == ".snap" }), "partition number 2,"},
		"a partition's directory":     {append(of(lost.dir), lost.dir), "partition number 2,"},
		"the newest journal file":     {[]string{newest}, newest + " is missing"},
		"the list of journal files":   {[]string{"d/journal.slots"}, "journal.slots"},
		"the journal":                 {append(of("d/journal"), "d/journal"), "no checkpoint can be found"},
		"the last compacted segment":  {other[len(other)-1:], "in which the last checkpoint ends"},
		"the first compacted segment": {other[:1], "its first segment begins at"},
	} {
		t.Run(name, func(t *testing.T) {
			copied := disk.CrashClone(0, nil)
			for _, n := range c.remove {
				if err := copied.Remove(n); err != nil {
					t.Fatal(err)
				}
			}
			r, err := (&Inspector{FS: copied}).InspectDir(t.Context(), "d")
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && len(r.Damaged) > 0 || !strings.Contains(strings.Join(r.Damaged, "\n"), c.want) {
				t.Errorf("found %q", r.Damaged)
			}
		})
	}
}

// TestInspectDirBelievesTheJournal: what the journal says behind the last checkpoint explains what is missing.
func TestInspectDirBelievesTheJournal(t *testing.T) {
	m := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(m, "d", w))
	p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 2 * kib})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 30)
	if err := l.checkpointPast(); err != nil {
		t.Fatal(err)
	}
	inspect := func(where string) {
		t.Helper()
		for _, disk := range []*vfs.Mem{m, m.CrashClone(0, nil), m.CrashClone(1, nil)} {
			if r, err := (&Inspector{FS: disk}).InspectDir(t.Context(), "d"); err != nil || len(r.Damaged) > 0 {
				t.Errorf("%s: %+v, %v", where, r, err)
			}
		}
	}
	inspect("after a checkpoint")
	if err := p.Truncate(11); err != nil {
		t.Fatal(err)
	}
	inspect("after a truncation")
	for range 8 {
		if _, err := p.Append(&Record{Value: []byte(strings.Repeat("y", 900))}, 9); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	flushNow(t, l)
	inspect("after a new epoch")
	if err := p.SetLogStart(p.LogEnd()); err != nil {
		t.Fatal(err)
	}
	l.maintenance.Lock()
	l.dropBelowStart()
	l.maintenance.Unlock()
	inspect("after a new log start")
	q := mustCreate(t, l, 1) // its part.meta is left to the next checkpoint
	fill(t, l, w, q, 300)
	flushNow(t, l)
	inspect("after a creation")
	if err := l.Delete(p.id); err != nil {
		t.Fatal(err)
	}
	inspect("after a deletion")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	inspect("after a stop")
}
