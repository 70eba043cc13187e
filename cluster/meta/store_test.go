package meta

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func tempStore(t *testing.T, dir string) *store {
	t.Helper()
	s, err := openStore(dir, func(err error) { t.Errorf("store failed: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func entries(first, next uint64) (es []*raft.Log) {
	for i := first; i < next; i++ {
		es = append(es, &raft.Log{Index: i, Term: 3, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i)}, 100), AppendedAt: time.Unix(5, 6)})
	}
	return es
}

func TestStoreKeepsEntries(t *testing.T) {
	dir := t.TempDir()
	s := tempStore(t, dir)
	check := func(s *store, first, last uint64) {
		t.Helper()
		f, err1 := s.FirstIndex()
		l, err2 := s.LastIndex()
		if f != first || l != last || err1 != nil || err2 != nil {
			t.Fatalf("indexes [%d, %d] %v %v, want [%d, %d]", f, l, err1, err2, first, last)
		}
	}
	check(s, 0, 0)
	es := entries(1, 300)
	es[4].Extensions = []byte("ext")
	es[5].Data, es[5].AppendedAt = nil, time.Time{}
	if err := s.StoreLogs(es); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 3); err != nil { // as after a snapshot
		t.Fatal(err)
	}
	if err := s.DeleteRange(290, 400); err != nil { // as when a leader replaces a tail
		t.Fatal(err)
	}
	if err := s.SetUint64([]byte("term"), 9); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}

	s = tempStore(t, dir)
	defer s.close()
	check(s, 4, 289)
	for _, want := range es[3:289] {
		var got raft.Log
		if err := s.GetLog(want.Index, &got); err != nil {
			t.Fatal(err)
		}
		if len(want.Data) == 0 {
			want.Data, got.Data = nil, nil
		}
		if !reflect.DeepEqual(&got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	}
	var e raft.Log
	if err := s.GetLog(3, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("deleted entry: %v", err)
	}
	if v, err := s.GetUint64([]byte("term")); v != 9 || err != nil {
		t.Errorf("term %d %v", v, err)
	}
	if v, err := s.Get([]byte("absent")); len(v) != 0 || err != nil {
		t.Errorf("absent value %q %v", v, err)
	}
}

// C6: raft sets its term at every start; what stands there already is not written again.
func TestStoreDoesNotRewriteTheSameValue(t *testing.T) {
	s := tempStore(t, t.TempDir())
	defer s.close()
	txid := func() (id int) {
		if err := s.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return id
	}
	if err := s.SetUint64([]byte("term"), 1); err != nil {
		t.Fatal(err)
	}
	before := txid()
	if err := s.SetUint64([]byte("term"), 1); err != nil {
		t.Fatal(err)
	}
	if now := txid(); now != before {
		t.Errorf("transaction %d follows %d", now, before)
	}
}

func TestStoreIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := tempStore(t, dir)
	defer s.close()
	if other, err := openStore(dir, func(error) {}); err == nil {
		other.close()
		t.Fatal("two stores in one directory")
	}
}

// Every page flipped, and every cut at a page: an error or the whole content, never a panic nor other entries.
func TestStoreDamage(t *testing.T) {
	dir := t.TempDir()
	s := tempStore(t, dir)
	if err := s.StoreLogs(entries(1, 50)); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	used := 0 // up to the last byte that is not zero
	for i, b := range whole {
		if b != 0 {
			used = i + 1
		}
	}
	try := func(name string, file []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "raft.db"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStore(dir, func(error) {})
		if err != nil {
			return
		}
		defer s.close()
		last, err := s.LastIndex()
		if err != nil {
			return
		}
		// A damaged newest meta page makes bbolt go back to the one before: an earlier moment, not other contents.
		for i := uint64(1); i <= last; i++ {
			var e raft.Log
			if err := s.GetLog(i, &e); err != nil || !bytes.Equal(e.Data, bytes.Repeat([]byte{byte(i)}, 100)) {
				t.Errorf("%s: entry %d of %d: %q %v", name, i, last, e.Data, err)
			}
		}
	}
	for at := 0; at < used; at += 1021 {
		file := bytes.Clone(whole)
		file[at] ^= 0x41
		try("flip", file)
	}
	for cut := 0; cut < used; cut += os.Getpagesize() / 2 {
		try("cut", whole[:cut])
	}
}

// A6: after a failed write nothing more is written, the node is told once, and raft is held instead of
// being told that its vote is stored.
func TestStoreFailsForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		s, err := openStore(t.TempDir(), func(error) { told++ })
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		broken := errors.New("i/o error")
		if err := s.update(func(*bbolt.Tx) error { return broken }); !errors.Is(err, broken) {
			t.Fatal(err)
		}
		if err := s.StoreLogs(entries(1, 2)); !errors.Is(err, broken) {
			t.Errorf("a later write: %v", err)
		}
		returned := false
		go func() {
			_ = s.SetUint64([]byte("CurrentTerm"), 2)
			returned = true
		}()
		synctest.Wait()
		if returned {
			t.Error("SetUint64 returned although nothing was stored")
		}
		s.release()
		synctest.Wait()
		if !returned || told != 1 {
			t.Errorf("after release: returned %t, told %d times", returned, told)
		}
	})
}

// A full disk passes: nothing fails for good.
func TestStoreDiskFull(t *testing.T) {
	s := tempStore(t, t.TempDir())
	defer s.close()
	if err := s.update(func(*bbolt.Tx) error { return &os.PathError{Op: "write", Err: syscall.ENOSPC} }); !full(err) {
		t.Fatal(err)
	}
	if !full(s.trouble()) {
		t.Errorf("trouble %v", s.trouble())
	}
	if err := s.StoreLogs(entries(1, 2)); err != nil || s.trouble() != nil {
		t.Errorf("after there was room again: %v, trouble %v", err, s.trouble())
	}
}

func TestEntryForm(t *testing.T) {
	e := raft.Log{Index: 7, Term: 3, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(0, 5)}
	const want = "9e9ee9c80100000000000000000300000000000000050000000464617461657874"
	if got := hex.EncodeToString(encodeEntry(&e)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
