package log

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// commits wakes everybody who waits for a commit.
type commits struct {
	mu   sync.Mutex
	next chan struct{} // closed by the next commit
}

func newCommits() *commits { return &commits{next: make(chan struct{})} }

func (w *commits) onCommit([]*Partition) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.next)
	w.next = make(chan struct{})
}

// changed is to be asked for before looking at what a commit may change.
func (w *commits) changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// wait blocks until p is durable up to o.
func (w *commits) wait(t *testing.T, l *Log, p *Partition, o Offset) {
	t.Helper()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for changed := w.changed(); p.Durable() < o; changed = w.changed() {
		select {
		case <-changed:
		case <-l.failed:
			t.Errorf("log failed: %v", l.Err())
			return
		case <-timeout.C:
			t.Errorf("durable stays at %d, want %d", p.Durable(), o)
			return
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

// TestCloseWithFullJournal: Close commits what was appended even when that takes more journal files than there
// are, although the keeper has ended by then.
func TestCloseWithFullJournal(t *testing.T) {
	cfg := testConfig(vfs.NewMem(), "/d", nil)
	cfg.JournalFileBytes, cfg.JournalFiles = 32*kib, 2
	var once sync.Once
	hold := make(chan struct{})
	cfg.OnCommit = func([]*Partition) { once.Do(func() { <-hold }) }
	l := mustOpen(t, cfg)
	p := mustCreate(t, l, 0)
	const n = 300
	for range n {
		if _, err := p.Append(&Record{Value: make([]byte, kib)}, 1); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	<-l.keeper.ended
	close(hold)
	select {
	case err := <-closed:
		if err != nil || p.Durable() != n {
			t.Errorf("close: %v, %d of %d durable", err, p.Durable(), n)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("close hangs")
	}
}
