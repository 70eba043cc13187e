package vfs

import (
	"bytes"
	"sync/atomic"
	"testing"
)

// What CountSyncs wraps keeps what it offers besides File, and counts directories too.
func TestCountSyncs(t *testing.T) {
	var n atomic.Int64
	dir := t.TempDir()
	fsys := CountSyncs(OS{}, &n)
	if err := WriteFile(fsys, dir+"/a", []byte("x")); err != nil { // the file's and the directory's
		t.Fatal(err)
	}
	f, err := fsys.OpenFile(dir+"/a", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := n.Load(); got != 3 {
		t.Errorf("%d syncs counted, made were 3", got)
	}
	plain, err := OS{}.Create(dir + "/b")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	counted, err := fsys.Create(dir + "/c")
	if err != nil {
		t.Fatal(err)
	}
	defer counted.Close()
	if a, b := Reserve(plain, 1<<16), Reserve(counted, 1<<16); a != b {
		t.Errorf("the plain file reserves room: %v, the counted one: %v", a, b)
	}
}

// A hint changes nothing that can be read, on files that take it and on those that do not.
func TestStartWritebackChangesNothing(t *testing.T) {
	mem, err := NewMem().Create("a")
	if err != nil {
		t.Fatal(err)
	}
	disk, err := OS{}.Create(t.TempDir() + "/a")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []File{mem, disk} {
		want := bytes.Repeat([]byte("weir"), 1<<12)
		if _, err := f.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		StartWriteback(f, 0, 1<<13)
		StartWriteback(f, 5, 5)
		if Reserve(mem, 10) {
			t.Error("memory has no room to reserve")
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read back wrong, err %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
