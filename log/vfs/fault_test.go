package vfs

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var errBoom = errors.New("boom")

func TestFaultHitsTheNth(t *testing.T) {
	f := NewFault(NewMem())
	in := f.Inject(Rule{Ops: OpWrite, Match: "*.log", After: 2, Times: 2, Err: errBoom, Partial: 3})
	other, log := must[File](t)(f.Create("a.idx")), must[File](t)(f.Create("a.log"))
	var failed []int
	for i := range 6 {
		must[int](t)(other.WriteAt([]byte("other"), 0))
		n, err := log.WriteAt([]byte("12345"), int64(5*i))
		if err != nil {
			if !errors.Is(err, errBoom) || n != 3 {
				t.Errorf("write %d: %d bytes, %v", i, n, err)
			}
			failed = append(failed, i)
		}
	}
	if len(failed) != 2 || failed[0] != 2 || failed[1] != 3 || in.Hits() != 2 {
		t.Errorf("failed %v, hits %d", failed, in.Hits())
	}
}

// Every kind of operation can be made to fail, and none reaches the disk then.
func TestFaultFailsEveryKind(t *testing.T) {
	m := NewMem()
	create(t, m, "f", "data").Close()
	f := NewFault(m)
	file := must[File](t)(f.OpenFile("f", 2))
	ops := map[string]func() error{
		"open":      func() error { _, err := f.OpenFile("f", 0); return err },
		"create":    func() error { _, err := f.Create("g"); return err },
		"remove":    func() error { return f.Remove("f") },
		"removeall": func() error { return f.RemoveAll("f") },
		"rename":    func() error { return f.Rename("f", "g") },
		"readdir":   func() error { _, err := f.ReadDir("/"); return err },
		"mkdir":     func() error { return f.MkdirAll("d") },
		"stat":      func() error { _, err := f.Stat("f"); return err },
		"syncdir":   func() error { return f.SyncDir("/") },
		"lock":      func() error { _, err := f.Lock("l"); return err },
		"read":      func() error { _, err := file.ReadAt(make([]byte, 1), 0); return err },
		"write":     func() error { _, err := file.WriteAt([]byte("x"), 0); return err },
		"truncate":  func() error { return file.Truncate(0) },
		"sync":      file.Sync,
	}
	f.Inject(Rule{Err: errBoom})
	for name, op := range ops {
		if err := op(); !errors.Is(err, errBoom) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := contents(t, m, "f"); got != "data" || len(names(t, m, "/")) != 1 {
		t.Errorf("the disk changed: %q, %v", got, names(t, m, "/"))
	}
	f.Clear()
	if err := file.Sync(); err != nil {
		t.Error(err)
	}
}

func TestFaultStop(t *testing.T) {
	f := NewFault(NewMem())
	in := f.Inject(Rule{Ops: OpCreate, Err: errBoom})
	if _, err := f.Create("a"); err == nil {
		t.Error("the rule does not work")
	}
	in.Stop()
	if _, err := f.Create("a"); err != nil {
		t.Error("the rule still works:", err)
	}
	if in.Hits() != 1 || f.Changes() != 2 {
		t.Errorf("hits %d, changes %d", in.Hits(), f.Changes())
	}
}

func TestFaultSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFault(NewMem())
		hooks := 0
		f.Inject(Rule{Ops: OpSync, Delay: 5 * time.Millisecond, Hook: func(Op, string) { hooks++ }})
		f.Inject(Rule{Ops: OpWrite, PerMiB: 100 * time.Millisecond}) // 10 MiB/s
		file := must[File](t)(f.Create("f"))
		start := time.Now()
		must[int](t)(file.WriteAt(make([]byte, 512<<10), 0))
		if err := file.Sync(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 55*time.Millisecond || hooks != 1 {
			t.Errorf("took %v, %d hooks", took, hooks)
		}
	})
}
