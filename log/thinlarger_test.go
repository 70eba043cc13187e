package log

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"sync/atomic"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// packed6 is the batch as a Java client packs it: gzip at its default level.
func packed6(t *testing.T, b Batch) Batch {
	h := headerOf(b)
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, 6)
	w.Write(b[BatchHeaderSize:])
	w.Close()
	nb := append(make([]byte, BatchHeaderSize), out.Bytes()...)
	nb = h.seal(nb, nil, CompressionNone)
	nb[22] |= 1
	binary.BigEndian.PutUint32(nb[17:], crc32.Checksum(nb[21:], castagnoli))
	return nb
}

// A batch that its client has packed better than this node would is left as it is when little of it goes.
func TestThinningNeverMakesLarger(t *testing.T) {
	var from atomic.Int64
	w := newCommits()
	cfg := thinLog(t, vfs.NewMem(), w, 16*mib, &from)
	l := mustOpen(t, cfg)
	defer l.Close()
	p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 40 * kib, IndexIntervalBytes: 4096, Retention: -1, MaxMessageBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	rng := newRand(5)
	n := 0
	for range 40 {
		var bb BatchBuilder
		for i := range 200 {
			key := fmt.Appendf(nil, "device-%d", n)
			if i == 0 || i == 199 {
				key = []byte("same")
			}
			bb.Append(&Record{Key: key, Timestamp: 1000, Value: fmt.Appendf(nil, `{"ts":%d,"temperature":%.2f,"pressure":%.3f,"state":"running","unit":"boiler-%d"}`, int64(1796085689052)+int64(n), 20+rng.Float64()*3, 1+rng.Float64()/10, rng.IntN(9))})
			n++
		}
		b := packed6(t, bb.Seal(0, 0))
		if err := b.Validate(0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.AppendBatch(b, 1); err != nil {
			t.Fatal(err)
		}
		w.wait(t, l, p, p.LogEnd())
	}
	p.SetHighWatermark(p.LogEnd())
	flushNow(t, l)
	before := p.Size()
	_, facts := p.closedSegments()
	for _, f := range facts {
		_, err := l.thin(t.Context(), p, f, []Thinner{lastOver{math.MaxInt64}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if p.Size() > before || l.Stats().ThinnedBytes < 0 {
		t.Errorf("%d bytes before, %d after; %d are said to be freed", before, p.Size(), l.Stats().ThinnedBytes)
	}
}
