package meta

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// boltContents is everything that walk finds, by bucket and key.
func boltContents(file []byte) (map[string]string, error) {
	b, err := openBolt(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	return got, b.walk(func(bucket, key, value []byte) error {
		got[fmt.Sprintf("%s %x", bucket, key)] = string(value)
		return nil
	})
}

// someRaftFile is a raft.db with a branch page, entries longer than a page, a free list and stable values.
func someRaftFile(t *testing.T) (file []byte, last uint64) {
	t.Helper()
	dir := t.TempDir()
	s := tempStore(t, dir)
	es := entries(1, 60)
	es[20].Data = bytes.Repeat([]byte("long"), 2500)
	for _, step := range []func() error{
		func() error { return s.StoreLogs(es[:30]) },
		func() error { return s.SetUint64([]byte("CurrentTerm"), 3) },
		func() error { return s.Set([]byte("LastVoteCand"), []byte("somebody")) },
		func() error { return s.StoreLogs(es[30:]) },
		func() error { return s.DeleteRange(1, 9) },
		s.close,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	return file, 59
}

// What the reader finds is what bbolt finds, however the pages came to be.
func TestBoltFileReadsWhatBboltWrote(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	name := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for round := range 120 {
		err := db.Update(func(tx *bbolt.Tx) error {
			for _, bucket := range []string{"a", "inline", "z"} {
				b, err := tx.CreateBucketIfNotExists([]byte(bucket))
				if err != nil {
					return err
				}
				if rnd.IntN(12) == 0 { // as when a snapshot of a leader replaces everything
					c := b.Cursor()
					for k, _ := c.First(); k != nil; k, _ = c.First() {
						if err := c.Delete(); err != nil {
							return err
						}
					}
					continue
				}
				for range rnd.IntN(60) {
					key := fmt.Appendf(nil, "%0*d", 1+rnd.IntN(40), rnd.IntN(2000))
					if bucket == "inline" {
						key = key[:1]
					}
					if rnd.IntN(100) < 30+40*(round%2) {
						err = b.Delete(key)
					} else {
						err = b.Put(key, bytes.Repeat(key, rnd.IntN(1+rnd.IntN(1+rnd.IntN(400)))))
					}
					if err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		if err := db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(bucket []byte, b *bbolt.Bucket) error {
				want[fmt.Sprintf("%s ", bucket)] = ""
				return b.ForEach(func(k, v []byte) error { want[fmt.Sprintf("%s %x", bucket, k)] = string(v); return nil })
			})
		}); err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := boltContents(file)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(got) != len(want) {
			t.Fatalf("round %d: %d values, want %d", round, len(got), len(want))
		}
		for k, v := range want {
			if got[k] != v {
				t.Fatalf("round %d: %s is %q, want %q", round, k, got[k], v)
			}
		}
	}
}

// bbolt went round in circles over a wrong bit in its free list, and read another page's contents over one in its tree. Now
// each wrong bit ends the opening at once, or is in no place that is in use. All bits are tried in a soak.
func TestEveryFlippedBitIsRefusedOrHarmless(t *testing.T) {
	whole, last := someRaftFile(t)
	t.Parallel()
	want, err := boltContents(whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkFile(bytes.NewReader(whole), int64(len(whole))); err != nil {
		t.Fatal(err)
	}
	tree, err := openBolt(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	tree.freeList = noFreeList // used then has the pages of the tree alone
	if err := tree.walk(func(_, _, _ []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	soak := os.Getenv("WEIR_SOAK") != ""
	refused, harmless := 0, 0
	file := bytes.Clone(whole)
	for at := range file {
		for bit := range 8 {
			if !soak && at%os.Getpagesize() > 96 && (at%7 != 0 || bit != at/7%8) { // but every bit of the heads of pages
				continue
			}
			file[at] ^= 1 << bit
			if err := checkFile(bytes.NewReader(file), int64(len(file))); err != nil {
				refused++
				if !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), restoreMetadata) {
					t.Fatalf("bit %d of byte %d: %v", bit, at, err)
				}
			} else {
				harmless++
				got, err := boltContents(file)
				if err != nil || !maps.Equal(got, want) {
					t.Fatalf("bit %d of byte %d was accepted, and changes what is read: %v", bit, at, err)
				}
				inTree := tree.used[0]&(1<<(uint64(at)/tree.pageSize)) != 0 && at%os.Getpagesize() <= 96
				if inTree || harmless%499 == 0 || soak && harmless%31 == 0 {
					openFlipped(t, file, last)
				}
			}
			file[at] ^= 1 << bit
		}
	}
	t.Logf("%d bytes: %d bits refused, %d harmless", len(file), refused, harmless)
	if refused < 2000 || harmless < 4000 {
		t.Error("the file does not test both sides")
	}
}

// openFlipped opens what was accepted: every entry is there, and bbolt can write.
func openFlipped(t *testing.T, file []byte, last uint64) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "raft.db"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := tempStore(t, dir)
	defer s.close()
	if err := s.StoreLogs(entries(last+1, last+4)); err != nil {
		t.Fatal(err)
	}
	for i := uint64(10); i < last+4; i++ {
		var e raft.Log
		if err := s.GetLog(i, &e); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	if term, err := s.GetUint64([]byte("CurrentTerm")); term != 3 || err != nil {
		t.Fatalf("term %d %v", term, err)
	}
}

// A head that a power cut tore is not damage: the state before it is whole, and nothing was acknowledged after it.
func TestTornHeadGoesBackToTheStateBefore(t *testing.T) {
	whole, _ := someRaftFile(t)
	b, err := openBolt(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	head := int(b.txid % 2 * b.pageSize)
	torn := bytes.Clone(whole)
	copy(torn[head+pageHeaderSize+40:head+pageHeaderSize+metaSize], bytes.Repeat([]byte{0x5a}, 24))
	before, err := openBolt(bytes.NewReader(torn), int64(len(torn)))
	if err != nil || before.txid != b.txid-1 {
		t.Errorf("transaction %d follows a torn %d: %v", before.txid, b.txid, err)
	}
	rotten := bytes.Clone(whole)
	rotten[head+pageHeaderSize+40] ^= 4
	if _, err := openBolt(bytes.NewReader(rotten), int64(len(rotten))); err == nil || !strings.Contains(err.Error(), "newest state") {
		t.Errorf("a wrong bit in the newest head: %v", err)
	}
}

// An empty log under other names would be a node that forgot what it voted for.
func TestRenamedBucketIsNoNewFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "raft.db")
	db, err := bbolt.Open(name, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("stable"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := openStore(filepath.Dir(name), func(error) {}); err == nil || !strings.Contains(err.Error(), `holds the buckets ["stable"]`) {
		t.Errorf("opened as %v, %v", s, err)
	}
}

func FuzzBoltFile(f *testing.F) {
	dir := f.TempDir()
	s, err := openStore(dir, func(error) {})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.StoreLogs(entries(1, 20)); err != nil {
		f.Fatal(err)
	}
	if err := s.close(); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(file[:8192])
	f.Fuzz(func(t *testing.T, file []byte) {
		_ = checkFile(bytes.NewReader(file), int64(len(file))) // returns, and does not panic
	})
}
