package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// forEach runs a test on the real file system and on Mem: what the log sees must not differ.
func forEach(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) {
		m := NewMem()
		if err := m.MkdirAll("some/dir"); err != nil {
			t.Fatal(err)
		}
		test(t, m, "some/dir")
	})
	t.Run("fault", func(t *testing.T) { test(t, NewFault(OS{}), t.TempDir()) })
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func create(t *testing.T, fsys FS, name, data string) File {
	t.Helper()
	f := must[File](t)(fsys.Create(name))
	must[int](t)(f.WriteAt([]byte(data), 0))
	return f
}

func contents(t *testing.T, fsys FS, name string) string {
	t.Helper()
	return string(must[[]byte](t)(ReadFile(fsys, name, 1<<30)))
}

func names(t *testing.T, fsys FS, dir string) []string {
	t.Helper()
	var out []string
	for _, e := range must[[]fs.DirEntry](t)(fsys.ReadDir(dir)) {
		out = append(out, e.Name())
	}
	return out
}

func TestFileReadWriteTruncate(t *testing.T) {
	forEach(t, func(t *testing.T, fsys FS, dir string) {
		f := create(t, fsys, filepath.Join(dir, "f"), "hello")
		must[int](t)(f.WriteAt([]byte("world"), 5000))
		if size := must[int64](t)(f.Size()); size != 5005 {
			t.Errorf("size %d", size)
		}
		want := append([]byte("hello"), make([]byte, 5000)...)
		copy(want[5000:], "world")
		got := make([]byte, 6000)
		if n, err := f.ReadAt(got, 0); n != 5005 || err != io.EOF || !bytes.Equal(got[:n], want) {
			t.Errorf("read %d, %v", n, err)
		}
		if n, err := f.ReadAt(got, 5005); n != 0 || err != io.EOF {
			t.Errorf("read at the end: %d, %v", n, err)
		}
		// What a truncation cut off is gone: growing again shows zeros.
		for _, size := range []int64{3, 4500} {
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
		}
		if n, _ := f.ReadAt(got, 0); n != 4500 || !bytes.Equal(got[:n], append([]byte("hel"), make([]byte, 4497)...)) {
			t.Errorf("after truncation: %d bytes, %q", n, got[:5])
		}
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.ReadAt(got, 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read of a closed file: %v", err)
		}
		if err := f.Sync(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("sync of a closed file: %v", err)
		}
	})
}

func TestNames(t *testing.T) {
	forEach(t, func(t *testing.T, fsys FS, dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		if _, err := fsys.OpenFile(at("no"), os.O_RDWR); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open: %v", err)
		}
		if _, err := fsys.Create(at("no/f")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("create in no directory: %v", err)
		}
		if err := fsys.MkdirAll(at("a/b/c")); err != nil {
			t.Fatal(err)
		}
		if err := fsys.MkdirAll(at("a/b")); err != nil {
			t.Error("directory is there already:", err)
		}
		create(t, fsys, at("a/x"), "x").Close()
		create(t, fsys, at("a/y"), "y").Close()
		if _, err := fsys.OpenFile(at("a/x"), os.O_RDWR|os.O_CREATE|os.O_EXCL); !errors.Is(err, fs.ErrExist) {
			t.Errorf("exclusive create: %v", err)
		}
		if err := fsys.Rename(at("a/x"), at("a/y")); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, fsys, at("a/y")); got != "x" {
			t.Errorf("renamed file holds %q", got)
		}
		if err := fsys.Rename(at("a/y"), at("a/b/z")); err != nil {
			t.Fatal(err)
		}
		if got := names(t, fsys, at("a")); !slices.Equal(got, []string{"b"}) {
			t.Errorf("a holds %v", got)
		}
		if got := names(t, fsys, at("a/b")); !slices.Equal(got, []string{"c", "z"}) {
			t.Errorf("a/b holds %v", got)
		}
		if st := must[fs.FileInfo](t)(fsys.Stat(at("a/b"))); !st.IsDir() || st.Name() != "b" {
			t.Errorf("stat: %v %v", st.Name(), st.IsDir())
		}
		if st := must[fs.FileInfo](t)(fsys.Stat(at("a/b/z"))); st.IsDir() || st.Size() != 1 {
			t.Errorf("stat: %v %d", st.IsDir(), st.Size())
		}
		if err := fsys.Remove(at("a/b")); err == nil {
			t.Error("a directory that is not empty was removed")
		}
		if err := fsys.SyncDir(at("a")); err != nil {
			t.Error(err)
		}
		for range 2 { // the second time nothing is there
			if err := fsys.RemoveAll(at("a")); err != nil {
				t.Error(err)
			}
		}
		if err := fsys.Remove(at("a")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("remove: %v", err)
		}
		u := must[Usage](t)(fsys.DiskUsage(dir))
		if u.Total <= 0 || u.Free < 0 || u.Free > u.Total {
			t.Errorf("disk usage %+v", u)
		}
	})
}

func TestReadOnlyFileRefusesWrites(t *testing.T) {
	forEach(t, func(t *testing.T, fsys FS, dir string) {
		create(t, fsys, filepath.Join(dir, "f"), "x").Close()
		f := must[File](t)(fsys.OpenFile(filepath.Join(dir, "f"), os.O_RDONLY))
		defer f.Close()
		if _, err := f.WriteAt([]byte("y"), 0); err == nil {
			t.Error("write to a file opened for reading")
		}
	})
}

func TestLock(t *testing.T) {
	forEach(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "lock")
		l := must[io.Closer](t)(fsys.Lock(name))
		if _, err := fsys.Lock(name); !errors.Is(err, ErrLocked) {
			t.Errorf("second lock: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = must[io.Closer](t)(fsys.Lock(name))
		_ = l.Close()
	})
}

func TestRemovedFileStaysReadable(t *testing.T) {
	forEach(t, func(t *testing.T, fsys FS, dir string) {
		f := create(t, fsys, filepath.Join(dir, "f"), "still")
		defer f.Close()
		if err := fsys.Remove(filepath.Join(dir, "f")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := f.ReadAt(got, 0); err != nil || string(got) != "still" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestWriteFileReplacesWhole(t *testing.T) {
	forEach(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "meta")
		for _, want := range []string{"first, longer", "second"} {
			if err := WriteFile(fsys, name, []byte(want)); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, fsys, name); got != want {
				t.Errorf("got %q", got)
			}
		}
		if _, err := ReadFile(fsys, name, 3); err == nil {
			t.Error("a file over the limit was read")
		}
		if got := names(t, fsys, dir); !slices.Equal(got, []string{"meta"}) {
			t.Errorf("left behind: %v", got)
		}
	})
}
