package log

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// kept lists the segments that were put aside.
func kept(t *testing.T, fsys vfs.FS, dir string) (names []string) {
	t.Helper()
	var walk func(string)
	walk = func(name string) {
		entries, err := fsys.ReadDir(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(name, e.Name())
			if e.IsDir() {
				walk(path)
			} else if strings.Contains(path, asideMark) && filepath.Ext(path) == ".log" {
				names = append(names, path)
			}
		}
	}
	walk(dir)
	return names
}

// E7: what is put aside is kept over power cuts at any moment, and the partition can be made anew and holds what it was given since.
func TestPutAside(t *testing.T) {
	for _, anew := range []bool{true, false} { // its directory's name is put on the disk by whoever makes it anew, too
		putAside(t, anew)
	}
}

func putAside(t *testing.T, anew bool) {
	for step := 0; ; step++ {
		mem := vfs.NewMem()
		in := vfs.NewFault(mem)
		w := newCommits()
		l := mustOpen(t, testConfig(in, "d", w))
		p := mustCreate(t, l, 0)
		fill(t, l, w, p, 3)
		var clones []*vfs.Mem
		rng := rand.New(rand.NewPCG(uint64(step), 0))
		in.Inject(vfs.Rule{Ops: vfs.OpAll, After: step, Times: 1, Hook: func(vfs.Op, string) {
			for _, keep := range []float64{0, 0.5, 1} {
				clones = append(clones, mem.CrashClone(keep, rng))
			}
		}})
		if err := l.PutAside(p.ID()); err != nil {
			t.Fatal(err)
		}
		if anew {
			p = mustCreate(t, l, 0)
			fill(t, l, w, p, 1)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		done := len(clones) == 0
		clones = append(clones, mem.CrashClone(0, rng))
		for _, disk := range append(clones, mem) {
			again := mustOpen(t, testConfig(disk, "d", nil))
			q := again.Partition(testID(0))
			switch {
			case q == nil && len(kept(t, disk, "d")) == 0:
				t.Fatalf("step %d: neither the partition nor what was put aside is there", step)
			case q != nil && q.LogEnd() > 1 && q.LogEnd() != 3:
				t.Fatalf("step %d: the log ends at %d", step, q.LogEnd())
			case q != nil && q.LogEnd() <= 1 && len(kept(t, disk, "d")) == 0:
				t.Fatalf("step %d: what was put aside is gone", step)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if done {
			break
		}
	}
}
