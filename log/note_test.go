package log

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

func noteExists(t *testing.T, p *Partition, first Offset) bool {
	t.Helper()
	_, err := p.l.cfg.FS.Stat(segmentName(p.dir, first, noteExt))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestNotesGoWithTheirSegments(t *testing.T) {
	l, w, p, _ := retainLog(t, newTestClock(), PartitionConfig{SegmentBytes: 4 * kib, Retention: -1}, nil)
	fill(t, l, w, p, 20)
	var spans []Span
	for at := Offset(0); at < p.LogEnd(); {
		s, ok := p.SpanAt(at)
		if !ok || s.First != at || s.Next <= at || s.Closed != (s.Next < p.LogEnd()) {
			t.Fatalf("at %d: %+v, %v", at, s, ok)
		}
		if mid, _ := p.SpanAt(s.Next - 1); mid != s {
			t.Fatalf("%+v is %+v at its end", s, mid)
		}
		spans, at = append(spans, s), s.Next
	}
	if _, ok := p.SpanAt(p.LogEnd()); ok || len(spans) < 5 {
		t.Fatalf("%d segments, one at the end: %v", len(spans), ok)
	}
	for _, s := range spans {
		if err := p.SetNote(s.First, []byte("older")); err != nil {
			t.Fatal(err)
		}
		want := []byte{byte(s.First)}
		if err := p.SetNote(s.First, want); err != nil {
			t.Fatal(err)
		}
		if got := p.Note(s.First); s.Closed && !bytes.Equal(got, want) || !s.Closed && got != nil {
			t.Errorf("note of %+v: %q", s, got)
		}
		if s.First > 0 && p.SetNote(s.First-1, want) != nil || p.Note(s.First+1) != nil {
			t.Error("a note where no segment begins")
		}
	}
	// Retention.
	if err := p.SetLogStart(spans[1].First); err != nil {
		t.Fatal(err)
	}
	flushNow(t, l)
	housekeepNow(t, l)
	if noteExists(t, p, spans[0].First) || !noteExists(t, p, spans[1].First) {
		t.Error("retention left the first note, or took the second")
	}
	if err := p.SetNote(spans[0].First, []byte("late")); err != nil || noteExists(t, p, spans[0].First) {
		t.Errorf("a note for a segment that is gone: %v", err)
	}
	// Truncation: what is appended next may reach as far with other contents.
	cut := spans[3]
	if err := p.Truncate(cut.First + 1); err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 8)
	if noteExists(t, p, cut.First) || !noteExists(t, p, spans[2].First) {
		t.Error("a truncation left the note of what it cut, or took another")
	}
}

// Compaction makes one segment of several, and what a note says of the first is not true of all.
func TestCompactionTakesNotes(t *testing.T) {
	fsys, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(fsys, "d", w))
	defer l.Close()
	p, err := l.Create(testID(0), "t", compactedTopic)
	if err != nil {
		t.Fatal(err)
	}
	k, rng := &keyed{t: t, p: p}, rand.New(rand.NewPCG(1, 1))
	for range 60 {
		if err := k.put(rng, 5); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	p.SetHighWatermark(p.LogEnd())
	if err := l.checkpointPast(); err != nil {
		t.Fatal(err)
	}
	before := map[Offset]Span{}
	for at := p.LogStart(); at < p.LogEnd(); {
		s, _ := p.SpanAt(at)
		if before[s.First], at = s, s.Next; s.Closed {
			if err := p.SetNote(s.First, []byte("note")); err != nil || !noteExists(t, p, s.First) {
				t.Fatalf("%+v: %v", s, err)
			}
		}
	}
	if err := l.compact(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for first, was := range before {
		switch s, ok := p.SpanAt(first); {
		case (!ok || s != was) && noteExists(t, p, first):
			t.Errorf("a note of %+v is left, where %+v is now", was, s)
		case was.Closed && !noteExists(t, p, first):
			taken++
		}
	}
	if taken == 0 {
		t.Error("nothing was compacted")
	}
}

// A note that cannot be written is no reason to stop.
func TestNoteOnAFullDisk(t *testing.T) {
	fault := vfs.NewFault(vfs.NewMem())
	w := newCommits()
	l := mustOpen(t, testConfig(fault, "/d", w))
	defer l.Close()
	p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 4 * kib, Retention: -1})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 10)
	first, _ := p.SpanAt(0)
	if err := p.SetNote(0, []byte("note")); err != nil {
		t.Fatal(err)
	}
	fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Match: "*.note", Err: syscall.ENOSPC, Partial: 3})
	if err := p.SetNote(0, []byte("longer note")); !errors.Is(err, syscall.ENOSPC) || p.Note(0) != nil {
		t.Errorf("%v, note %q", err, p.Note(0))
	}
	if l.Err() != nil || !first.Closed {
		t.Errorf("log: %v", l.Err())
	}
	fill(t, l, w, p, 3)
}
