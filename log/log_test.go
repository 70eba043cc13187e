package log

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// waitDurable blocks until everything appended to p is durable; commits announce it, so nothing polls.
type commits struct{ c chan struct{} }

func newCommits() *commits { return &commits{c: make(chan struct{}, 1)} }

func (w *commits) onCommit([]*Partition) {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

func (w *commits) wait(t *testing.T, l *Log, p *Partition, o Offset) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for p.Durable() < o {
		select {
		case <-w.c:
		case <-l.failed:
			t.Fatalf("log failed: %v", l.Err())
		case <-timeout:
			t.Fatalf("durable stays at %d, want %d", p.Durable(), o)
		}
	}
}

func testConfig(fs vfs.FS, dir string, w *commits) Config {
	cfg := Config{Dir: dir, FS: fs, JournalFileBytes: 64 * kib, CommitMaxWait: -1, BallastBytes: -1}
	if w != nil {
		cfg.OnCommit = w.onCommit
	}
	return cfg
}

func testID(i int32) PartitionID { return PartitionID{Topic: TopicID{1, 2, 3}, Index: i} }

func mustOpen(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustCreate(t *testing.T, l *Log, i int32) *Partition {
	t.Helper()
	p, err := l.Create(testID(i), "t", PartitionConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readAllRecords reads [start, durable) and checks that offsets are dense.
func readAllRecords(t *testing.T, p *Partition) [][]byte {
	t.Helper()
	var out [][]byte
	var rr RecordReader
	var buf []byte
	from := p.LogStart()
	for from < p.Durable() {
		b, err := p.Read(from, p.Durable(), 64*kib, buf)
		if err != nil {
			t.Fatalf("read at %d: %v", from, err)
		}
		if len(b) == 0 {
			t.Fatalf("read at %d of %d: nothing", from, p.Durable())
		}
		buf = b
		for len(b) > 0 {
			batch, err := NextBatch(b, maxJournalFileBytes)
			if err != nil {
				t.Fatal(err)
			}
			b = b[len(batch):]
			if err := rr.Reset(batch); err != nil {
				t.Fatal(err)
			}
			var r Record
			for {
				ok, err := rr.Next(&r)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				if r.Offset < from {
					continue
				}
				if r.Offset != from {
					t.Fatalf("offset %d follows %d", r.Offset, from-1)
				}
				out = append(out, bytes.Clone(r.Value))
				from++
			}
		}
	}
	return out
}

func TestAppendReadReopen(t *testing.T) {
	fs := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(fs, "/d", w))
	p := mustCreate(t, l, 0)
	var want []string
	for i := range 1000 {
		v := fmt.Sprintf("value %d", i)
		o, err := p.Append(&Record{Timestamp: int64(i), Value: []byte(v)}, 1)
		if err != nil || o != Offset(i) {
			t.Fatal(o, err)
		}
		want = append(want, v)
	}
	w.wait(t, l, p, 1000)
	check := func(p *Partition) {
		t.Helper()
		got := readAllRecords(t, p)
		if len(got) != len(want) {
			t.Fatalf("%d records, want %d", len(got), len(want))
		}
		for i := range got {
			if string(got[i]) != want[i] {
				t.Fatalf("record %d is %q", i, got[i])
			}
		}
	}
	check(p)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l = mustOpen(t, testConfig(fs, "/d", w))
		if !l.Recovery().Clean {
			t.Errorf("recovery after a clean stop: %+v", l.Recovery())
		}
		check(l.Partition(testID(0)))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if e, o := l.Partition(testID(0)).EpochEnd(1); e != 1 || o != 1000 {
		t.Errorf("epoch end %d %d", e, o)
	}
}
