package log

import (
	"bytes"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// A reader that has no use for a batch above its limit gets what any other reader gets within it, and else nothing: no part of a batch, and no error.
func TestReadWithin(t *testing.T) {
	fs, w := vfs.NewMem(), newCommits()
	l := mustOpen(t, testConfig(fs, "/d", w))
	p := mustCreate(t, l, 0)
	batch := benchBatch(t, CompressionNone, 20)
	for range 5 {
		if _, _, err := p.AppendBatch(batch, 1); err != nil {
			t.Fatal(err)
		}
	}
	w.wait(t, l, p, 100)
	check := func(p *Partition) {
		t.Helper()
		room := make([]byte, 0, BatchHeaderSize)
		for _, from := range []Offset{0, 25, 80} {
			for _, maxBytes := range []int{0, 1, BatchHeaderSize, len(batch) - 1, len(batch), len(batch) + 1, 2 * len(batch), 3*len(batch) - 1, 1 << 20} {
				want, err := p.Read(from, 100, maxBytes, nil)
				if err != nil || len(want) == 0 {
					t.Fatalf("read at %d: %d bytes, %v", from, len(want), err)
				}
				if len(want) > maxBytes {
					want = nil
				}
				got, err := p.ReadWithin(from, 100, maxBytes, room)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("at %d, within %d bytes of batches of %d: %d bytes, %v; want %d", from, maxBytes, len(batch), len(got), err, len(want))
				}
				if maxBytes < len(batch) && cap(got) > max(maxBytes, BatchHeaderSize) {
					t.Errorf("at %d, within %d bytes: room for %d", from, maxBytes, cap(got))
				}
			}
		}
		if got, err := p.ReadWithin(100, 100, 1, room); err != nil || len(got) > 0 {
			t.Errorf("at the end: %d bytes, %v", len(got), err)
		}
	}
	check(p) // in memory
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(fs, "/d", w))
	defer l.Close()
	check(l.Partition(testID(0))) // in a segment
}
