package log

import (
	"path/filepath"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// Retention removes segments, the power goes, and the disk has forgotten that the oldest was removed, but not the others: nothing is damaged by that, since all of
// them lie below the log start.
func TestOldSegmentThatIsBackAloneIsNoDamage(t *testing.T) {
	for name, cut := range map[string]bool{"behind the checkpoint": false, "behind a cut": true} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			w := newCommits()
			l := mustOpen(t, testConfig(mem, "/d", w))
			defer l.Close()
			p := mustCreate(t, l, 0)
			p.SetConfig(PartitionConfig{SegmentBytes: kib})
			appendN(t, l, w, p, 60, 1)
			flushNow(t, l)
			if cut {
				if err := p.Truncate(55); err != nil {
					t.Fatal(err)
				}
			}
			appendN(t, l, w, p, 60, 1)
			if err := p.SetLogStart(p.LogEnd() - 5); err != nil {
				t.Fatal(err)
			}
			disk := mem.CrashClone(1, nil)
			files, err := disk.ReadDir(p.dir)
			if err != nil {
				t.Fatal(err)
			}
			segments := 0
			for _, f := range files {
				if filepath.Ext(f.Name()) == ".log" {
					if segments++; segments > 1 {
						if err := disk.Remove(filepath.Join(p.dir, f.Name())); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if segments < 3 {
				t.Fatalf("%d segments prove nothing", segments)
			}
			again := mustOpen(t, testConfig(disk, "/d", w))
			defer again.Close()
			q := again.Partition(testID(0))
			if q.Damaged() != "" || q.LogStart() != p.LogStart() || q.LogEnd() != p.LogEnd() {
				t.Fatalf("log %d to %d, want %d to %d; damaged: %s", q.LogStart(), q.LogEnd(), p.LogStart(), p.LogEnd(), q.Damaged())
			}
			if got := len(readAllRecords(t, q)); got != 5 {
				t.Errorf("%d records are read, want 5", got)
			}
			appendN(t, again, w, q, 1, 1)
			if err := again.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}
