package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// durable makes a file that survives: synced, its name too.
func durable(t *testing.T, m *Mem, name, data string) File {
	t.Helper()
	f := create(t, m, name, data)
	if err := errors.Join(f.Sync(), m.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	for seed := range uint64(50) {
		rng := seeded(seed)
		m := NewMem()
		f := durable(t, m, "f", "")
		// Each sector holds one byte value; synced ones must be exact after any crash.
		want := bytes.Repeat([]byte{1}, 20*sectorSize)
		must[int](t)(f.WriteAt(want, 0))
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		must[int](t)(f.WriteAt(bytes.Repeat([]byte{2}, 7*sectorSize), 10*sectorSize))
		for _, keep := range []float64{0, 0.5, 1} {
			got := contents(t, m.CrashClone(keep, rng), "f")
			if len(got) != len(want) {
				t.Fatalf("seed %d keep %v: %d bytes", seed, keep, len(got))
			}
			for s := range 20 {
				sector := got[s*sectorSize:][:sectorSize]
				v := sector[0]
				if sector != string(bytes.Repeat([]byte{v}, sectorSize)) {
					t.Fatalf("seed %d: sector %d is torn inside", seed, s)
				}
				if written := s >= 10 && s < 17; !written && v != 1 || keep == 0 && v != 1 || keep == 1 && written && v != 2 {
					t.Errorf("seed %d keep %v: sector %d holds %d", seed, keep, s, v)
				}
			}
		}
	}
}

// Over many seeds the model shows each outcome that recovery must stand: nothing of a write, all of
// it, a part, a length without its data, an earlier version of an overwritten sector.
func TestCrashShowsEveryOutcome(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(300) {
		m := NewMem()
		f := durable(t, m, "f", "")
		must[int](t)(f.WriteAt(bytes.Repeat([]byte{1}, sectorSize), 0))
		must[int](t)(f.WriteAt(bytes.Repeat([]byte{2}, 2*sectorSize), 0))
		switch got := contents(t, m.CrashClone(0.5, seeded(seed)), "f"); {
		case len(got) == 0:
			seen["nothing"] = true
		case len(got) == 2*sectorSize && got[0] == 2 && got[sectorSize] == 2:
			seen["all"] = true
		case len(got) == 2*sectorSize && got[0] == 0 && got[sectorSize] == 0:
			seen["length only"] = true
		case len(got) == 2*sectorSize && got[0] == 0 && got[sectorSize] == 2:
			seen["second sector only"] = true
		case got[0] == 1:
			seen["earlier version"] = true
		case len(got) == sectorSize:
			seen["half"] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("only saw %v", seen)
	}
}

func TestCrashIsRepeatable(t *testing.T) {
	m := NewMem()
	for i := range 5 {
		f := create(t, m, fmt.Sprint("f", i), "")
		for at := range 40 {
			must[int](t)(f.WriteAt(bytes.Repeat([]byte{byte(at)}, 1000), int64(at)*700))
		}
	}
	dump := func(m *Mem) (out []string) {
		for _, name := range names(t, m, "/") {
			out = append(out, name, contents(t, m, name))
		}
		return out
	}
	for seed := range uint64(20) {
		if a, b := dump(m.CrashClone(0.5, seeded(seed))), dump(m.CrashClone(0.5, seeded(seed))); !slices.Equal(a, b) {
			t.Fatalf("seed %d gives two disks", seed)
		}
	}
}

func TestCrashNames(t *testing.T) {
	m := NewMem()
	durable(t, m, "old", "1")
	create(t, m, "new", "2").Sync()
	if got := names(t, m.CrashClone(0, nil), "/"); !slices.Equal(got, []string{"old"}) {
		t.Errorf("a name without SyncDir survived: %v", got)
	}
	if got := names(t, m.CrashClone(1, nil), "/"); !slices.Equal(got, []string{"new", "old"}) {
		t.Errorf("keep 1: %v", got)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if err := m.Rename("new", "old"); err != nil {
		t.Fatal(err)
	}
	// A rename happens whole or not at all.
	outcomes := map[string]bool{}
	for seed := range uint64(40) {
		c := m.CrashClone(0.5, seeded(seed))
		outcomes[fmt.Sprint(names(t, c, "/"), contents(t, c, "old"))] = true
	}
	if len(outcomes) != 2 || !outcomes["[new old]1"] || !outcomes["[old]2"] {
		t.Errorf("outcomes %v", outcomes)
	}
	if err := m.Remove("old"); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, m.CrashClone(0, nil), "old"); got != "1" {
		t.Errorf("a removal without SyncDir happened: %q", got)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, m.CrashClone(0, nil), "/"); len(got) != 0 {
		t.Errorf("removed names are back: %v", got)
	}
}

func TestCrashLosesDirectoryWithoutParentSync(t *testing.T) {
	m := NewMem()
	if err := m.MkdirAll("a/b"); err != nil {
		t.Fatal(err)
	}
	create(t, m, "a/b/f", "x").Sync()
	if err := errors.Join(m.SyncDir("a/b"), m.SyncDir("a")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, m.CrashClone(0, nil), "/"); len(got) != 0 {
		t.Errorf("a survived: %v", got)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, m.CrashClone(0, nil), "a/b/f"); got != "x" {
		t.Errorf("%q", got)
	}
}

func TestCrashAfterTruncate(t *testing.T) {
	sizes := map[int]bool{}
	for seed := range uint64(100) {
		m := NewMem()
		f := durable(t, m, "f", string(bytes.Repeat([]byte{7}, 10_000)))
		if err := f.Truncate(100); err != nil {
			t.Fatal(err)
		}
		sizes[len(contents(t, m.CrashClone(0.5, seeded(seed)), "f"))] = true
	}
	if len(sizes) != 2 || !sizes[100] || !sizes[10_000] {
		t.Errorf("sizes %v, want the old and the new one", sizes)
	}
}

func TestCrashCloneIsIndependent(t *testing.T) {
	m := NewMem()
	f := durable(t, m, "f", "before")
	c := m.CrashClone(1, nil)
	must[int](t)(f.WriteAt([]byte("after!"), 0))
	if got := contents(t, c, "f"); got != "before" {
		t.Errorf("clone shows %q", got)
	}
	if got := contents(t, c.CrashClone(0, nil), "f"); got != "before" {
		t.Errorf("clone is not durable: %q", got)
	}
}

// J7: after a failed sync the data reads well, another sync succeeds and changes nothing, and the
// power cut takes the data.
func TestFailedSyncIsReadableThenGone(t *testing.T) {
	m := NewMem()
	f := durable(t, m, "f", "old")
	fault := NewFault(m)
	ff := must[File](t)(fault.OpenFile("f", 2))
	must[int](t)(ff.WriteAt([]byte("new"), 0))
	boom := errors.New("boom")
	in := fault.Inject(Rule{Ops: OpSync, Times: 1, Err: boom})
	if err := ff.Sync(); !errors.Is(err, boom) || in.Hits() != 1 {
		t.Fatalf("sync: %v", err)
	}
	if err := errors.Join(ff.Sync(), f.Sync()); err != nil {
		t.Fatal("the kernel forgets the error:", err)
	}
	if got := contents(t, m, "f"); got != "new" {
		t.Errorf("reads %q", got)
	}
	if got := contents(t, m.CrashClone(0, nil), "f"); got != "old" {
		t.Errorf("after the power cut %q", got)
	}
	if got := contents(t, m.CrashClone(1, nil), "f"); got != "old" {
		t.Errorf("after the power cut, everything else kept: %q", got)
	}
	// A page written again goes to the disk whole.
	must[int](t)(ff.WriteAt([]byte("!"), 3))
	if err := ff.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, m.CrashClone(0, nil), "f"); got != "new!" {
		t.Errorf("after a rewrite %q", got)
	}
}

func TestCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(3 * pageSize)
	f := create(t, m, "f", "x")
	n, err := f.WriteAt(make([]byte, 5*pageSize), 0)
	if n != 3*pageSize || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d, %v", n, err)
	}
	if u := must[Usage](t)(m.DiskUsage("/")); u.Free != 0 || u.Total != 3*pageSize {
		t.Errorf("%+v", u)
	}
	must[int](t)(f.WriteAt([]byte("rewriting what is there needs no room"), 100))
	if err := f.Truncate(pageSize); err != nil {
		t.Fatal(err)
	}
	create(t, m, "g", "y")
	if err := m.Remove("f"); err != nil {
		t.Fatal(err)
	}
	if u := must[Usage](t)(m.DiskUsage("/")); u.Free != 2*pageSize {
		t.Errorf("after removal %+v", u)
	}
}
