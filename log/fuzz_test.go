package log

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// known says whether an error is one that this room declares: anything else is a surprise.
func known(err error) bool {
	return err == nil || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrShort) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNewerFormat)
}

func seedBatches(f *testing.F) {
	for _, c := range allCodecs {
		f.Add([]byte(buildBatch(f, 3, 1, c, testRecords(3, 12))))
	}
	f.Add([]byte(producerBatchOf(7, 1, 0, 3, 0)))
	f.Add([]byte{})
}

// FuzzBatch: no bytes make header, validation or reader panic or take memory beyond the limit; what validates reads
// to the end, dense, and a batch built from what was read reads the same.
func FuzzBatch(f *testing.F) {
	seedBatches(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := NextBatch(data, 1<<20)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		if b.Size() > len(data) || b.Size() < BatchHeaderSize {
			t.Fatalf("batch of %d bytes from %d", b.Size(), len(data))
		}
		b = bytes.Clone(b)
		b.sealCRC() // else the fuzzer never gets past the checksum
		if err := b.Validate(1 << 20); err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		recs := readBatch(t, b)
		if len(recs) != b.Count() || len(recs) == 0 {
			t.Fatalf("%d records, header says %d", len(recs), b.Count())
		}
		var bb BatchBuilder
		for i := range recs {
			if recs[i].Offset != b.BaseOffset()+Offset(i) {
				t.Fatalf("record %d at offset %d of %d", i, recs[i].Offset, b.BaseOffset())
			}
			bb.Append(&recs[i])
		}
		again := bb.Seal(b.BaseOffset(), b.LeaderEpoch())
		for i, r := range readBatch(t, again) {
			w := recs[i]
			if r.Offset != w.Offset || r.Timestamp != w.Timestamp || !bytes.Equal(r.Key, w.Key) || (r.Key == nil) != (w.Key == nil) ||
				!bytes.Equal(r.Value, w.Value) || (r.Value == nil) != (w.Value == nil) || len(r.Headers) != len(w.Headers) {
				t.Fatalf("record %d became %+v, was %+v", i, r, w)
			}
		}
	})
}

// FuzzRecordReader: batches that nobody validated, such as those of a damaged disk, give records and then an end or an error.
func FuzzRecordReader(f *testing.F) {
	seedBatches(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := NextBatch(data, 1<<20)
		if err != nil {
			return
		}
		r := RecordReader{MaxDecompressed: 1 << 20}
		if err := r.Reset(b); err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		var rec Record
		for n := 0; ; n++ {
			ok, err := r.Next(&rec)
			if !known(err) {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if n > b.Count() || len(rec.Key)+len(rec.Value) > 1<<20 {
				t.Fatalf("record %d of %d, %d bytes", n, b.Count(), len(rec.Key)+len(rec.Value))
			}
		}
		if ok, err := r.Next(&rec); ok || err != nil {
			t.Fatalf("after the end: %v, %v", ok, err)
		}
	})
}

// FuzzDecompress: the limit holds whatever the bytes claim, and nothing before dst's end changes.
func FuzzDecompress(f *testing.F) {
	for _, c := range allCodecs {
		packed, err := Compress(nil, c, bytes.Repeat([]byte("telemetry "), 300))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(int8(c), packed)
	}
	f.Add(int8(CompressionSnappy), append(bytes.Clone(xerialMagic), 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 2, 4, 'a', 'b'))
	f.Fuzz(func(t *testing.T, codec int8, data []byte) {
		const limit = 1 << 16
		out, err := Decompress([]byte("prefix"), Compression(codec), data, limit)
		if !known(err) {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(out, []byte("prefix")) || len(out) > limit+len("prefix") || cap(out) > 16*(limit+zstdMaxBlock) {
			t.Fatalf("%d bytes, room for %d, %q", len(out), cap(out), out[:min(6, len(out))])
		}
	})
}

// FuzzProducerSnapshot: what decodes encodes to the same bytes.
func FuzzProducerSnapshot(f *testing.F) {
	table := newProducerTable(0)
	for i := range int32(12) {
		table.apply(producerBatchOf(int64(i%4), 1, i, 2, Offset(2*i)), int64(i))
	}
	f.Add(table.encode(nil))
	f.Add(newProducerTable(0).encode(nil))
	table.apply(transactionalBatchOf(9, 2, 0, 2, 24), 30)
	table.apply(transactionalBatchOf(8, 0, 0, 1, 26), 31)
	table.apply(markerAt(8, 0, false, 7, 27), 32)
	f.Add(table.encode(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= producerSuffixSize {
			data = bytes.Clone(data) // with the right checksum, or the fuzzer gets nowhere
			fixProducerCRC(data)
		}
		p, err := decodeProducers(data, 0)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		if again := p.encode(nil); p.forgotten == 0 && !bytes.Equal(again, data) {
			t.Fatalf("encodes to %x, was %x", again, data)
		}
	})
}

// FuzzSegmentScan: a segment file of any bytes is walked to its end or first fault, in order and within it.
func FuzzSegmentScan(f *testing.F) {
	seedBatches(f)
	f.Add(bytes.Repeat(buildBatch(f, 0, 0, CompressionNone, testRecords(0, 2)), 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s batchScanner
		s.reset(bytes.NewReader(data), 0, int64(len(data)))
		at := int64(0)
		for {
			b, err := s.next()
			if err != nil {
				return
			}
			if s.position != at || !bytes.Equal(b, data[at:at+int64(len(b))]) {
				t.Fatalf("batch at %d, want %d", s.position, at)
			}
			at += int64(len(b))
		}
	})
}

// FuzzInspect: a file of any bytes, under any name, gives a report or an error of ours; a whole sound file gives no fault.
func FuzzInspect(f *testing.F) {
	names := []string{"00000000000000000100.log", "00000007.wal", "00000000000000000021.snap", "part.meta", "00000000000000000100.idx", "00000000000000000100.tix", formatName, cleanName}
	for kind, name := range names {
		for _, dir := range []string{"v1", "damaged", "damaged/bit", "damaged/header", "damaged/tail"} {
			if data, err := os.ReadFile(filepath.Join("testdata", "inspect", dir, name)); err == nil {
				f.Add(uint8(kind), data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		name := names[int(kind)%len(names)]
		m := vfs.NewMem()
		if file, err := m.Create(name); err != nil {
			t.Fatal(err)
		} else if _, err := file.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		lines := int64(0)
		in := Inspector{FS: m, Records: true, Line: func(s fmt.Stringer) error {
			lines++
			if s.String() == "" {
				t.Fatal("an empty line")
			}
			return nil
		}}
		r, err := in.InspectFile(t.Context(), name)
		if !known(err) {
			t.Fatal(err)
		}
		if err == nil && (r.Kind == kindSegment || r.Kind == kindJournal) && lines != r.Entries {
			t.Fatalf("%d lines for %d entries", lines, r.Entries)
		}
	})
}
