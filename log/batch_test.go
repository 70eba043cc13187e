package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var allCodecs = []Compression{CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd}

// testRecords makes n records that cover null, empty and repeated fields; offsets count from base.
func testRecords(base Offset, n int) []Record {
	recs := make([]Record, n)
	for i := range recs {
		r := Record{Offset: base + Offset(i), Timestamp: 1_700_000_000_000 + int64(i%7)*1000 - int64(i)}
		switch i % 4 {
		case 0:
			r.Key = fmt.Appendf(nil, "device-%d", i)
		case 1:
			r.Key = []byte{}
		}
		switch i % 5 {
		case 0, 1, 2:
			r.Value = bytes.Repeat([]byte{byte(i)}, i%300)
		}
		for h := range i % 3 {
			r.Headers = append(r.Headers, Header{Key: []byte("mqtt.topic"), Value: fmt.Appendf(nil, "a/%d", h)}, Header{Key: []byte{}}, Header{Key: []byte("e"), Value: []byte{}})
		}
		recs[i] = r
	}
	return recs
}

func buildBatch(t testing.TB, base Offset, epoch Epoch, c Compression, recs []Record) Batch {
	t.Helper()
	var bb BatchBuilder
	bb.SetCompression(c)
	for i := range recs {
		bb.Append(&recs[i])
	}
	return bytes.Clone(bb.Seal(base, epoch))
}

// readBatch reads all records; their slices are copies.
func readBatch(t testing.TB, b Batch) []Record {
	t.Helper()
	var r RecordReader
	if err := r.Reset(b); err != nil {
		t.Fatal(err)
	}
	var recs []Record
	for {
		var rec Record
		ok, err := r.Next(&rec)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return recs
		}
		recs = append(recs, rec)
	}
}

func TestBatchRoundTrip(t *testing.T) {
	for _, c := range allCodecs {
		for _, n := range []int{1, 2, 1000} {
			t.Run(fmt.Sprintf("%v/%d", c, n), func(t *testing.T) {
				want := testRecords(41, n)
				b := buildBatch(t, 41, 7, c, want)
				if err := Batch(bytes.Clone(b)).Validate(0); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, readBatch(t, b)); d != "" {
					t.Error(d)
				}
				if n == 1000 && b.Compression() != c {
					t.Errorf("codec %v, want %v", b.Compression(), c)
				}
				if b.BaseOffset() != 41 || b.NextOffset() != 41+Offset(n) || b.LeaderEpoch() != 7 || b.Count() != n || b.ProducerID() != -1 {
					t.Errorf("header: base %v next %v epoch %v count %d producer %d", b.BaseOffset(), b.NextOffset(), b.LeaderEpoch(), b.Count(), b.ProducerID())
				}
			})
		}
	}
}

// What we build must read as any Kafka client reads it: here with kgo, an implementation that is not ours.
func TestBatchIsReadByKgo(t *testing.T) {
	for _, c := range allCodecs {
		t.Run(c.String(), func(t *testing.T) {
			want := testRecords(500, 300)
			p, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: 500, Topic: "t"},
				&kmsg.FetchResponseTopicPartition{RecordBatches: buildBatch(t, 500, 3, c, want), HighWatermark: 800, LastStableOffset: 800},
				kgo.DefaultDecompressor(), nil)
			if p.Err != nil {
				t.Fatal(p.Err)
			}
			var got []Record
			for _, r := range p.Records {
				rec := Record{Offset: Offset(r.Offset), Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
				for _, h := range r.Headers {
					rec.Headers = append(rec.Headers, Header{Key: []byte(h.Key), Value: h.Value})
				}
				if r.LeaderEpoch != 3 {
					t.Fatalf("leader epoch %d", r.LeaderEpoch)
				}
				got = append(got, rec)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// kmsg's structs describe the same bytes: header field by field, and records one by one.
func TestBatchIsReadByKmsg(t *testing.T) {
	var bb BatchBuilder
	bb.SetProducer(77, 5, math.MaxInt32)
	bb.SetFlags(AttrTransactional)
	recs := testRecords(9, 20)
	for i := range recs {
		bb.Append(&recs[i])
	}
	b := bb.Seal(9, 2)
	var k kmsg.RecordBatch
	if err := k.ReadFrom(b); err != nil {
		t.Fatal(err)
	}
	maxTimestamp := int64(0)
	for _, r := range recs {
		maxTimestamp = max(maxTimestamp, r.Timestamp)
	}
	k.CRC = 0
	records := k.Records
	k.Records = nil
	want := kmsg.RecordBatch{
		FirstOffset: 9, Length: int32(len(b) - 12), PartitionLeaderEpoch: 2, Magic: 2, Attributes: 1 << 4, LastOffsetDelta: 19,
		FirstTimestamp: recs[0].Timestamp, MaxTimestamp: maxTimestamp, ProducerID: 77, ProducerEpoch: 5, FirstSequence: math.MaxInt32, NumRecords: 20,
	}
	if d := cmp.Diff(want, k); d != "" {
		t.Error(d)
	}
	if got := b.LastSequence(); got != 18 {
		t.Errorf("last sequence %d, want 18: it wraps to 0 after 2^31-1", got)
	}
	for i := range recs {
		length, n := binary.Varint(records)
		var kr kmsg.Record
		if err := kr.ReadFrom(records[:n+int(length)]); err != nil {
			t.Fatal(err)
		}
		records = records[n+int(length):]
		if kr.OffsetDelta != int32(i) || kr.TimestampDelta64 != recs[i].Timestamp-recs[0].Timestamp || !bytes.Equal(kr.Key, recs[i].Key) || !bytes.Equal(kr.Value, recs[i].Value) || len(kr.Headers) != len(recs[i].Headers) {
			t.Errorf("record %d reads as %+v", i, kr)
		}
	}
}

// kmsgBatch encodes records with kmsg only, sealing the CRC by hand.
func kmsgBatch(t *testing.T, edit func(*kmsg.RecordBatch), recs ...kmsg.Record) Batch {
	t.Helper()
	var raw []byte
	for _, r := range recs {
		body := r.AppendTo(nil)
		_, n := binary.Varint(body) // AppendTo writes the Length field it was given
		body = body[n:]
		raw = append(binary.AppendVarint(raw, int64(len(body))), body...)
	}
	k := kmsg.RecordBatch{Magic: 2, LastOffsetDelta: int32(len(recs)) - 1, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(recs)), Records: raw}
	if edit != nil {
		edit(&k)
	}
	k.Length = int32(len(k.AppendTo(nil)) - 12)
	b := Batch(k.AppendTo(nil))
	b.sealCRC()
	return b
}

func TestValidateRefuses(t *testing.T) {
	rec := func(delta int32) kmsg.Record {
		return kmsg.Record{OffsetDelta: delta, Key: []byte("k"), Value: []byte("v")}
	}
	tests := []struct {
		name string
		b    Batch
		want error
	}{
		{"sound", kmsgBatch(t, nil, rec(0), rec(1)), nil},
		{"producer", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.ProducerID, k.ProducerEpoch, k.FirstSequence = 1, 0, 0 }, rec(0)), nil},
		{"no records", kmsgBatch(t, nil), ErrCorrupt},
		{"more declared than there", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.NumRecords, k.LastOffsetDelta = 3, 2 }, rec(0), rec(1)), ErrCorrupt},
		{"fewer declared than there", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.NumRecords, k.LastOffsetDelta = 1, 0 }, rec(0), rec(1)), ErrCorrupt},
		{"huge count", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.NumRecords, k.LastOffsetDelta = math.MaxInt32, math.MaxInt32-1 }, rec(0)), ErrCorrupt},
		{"negative count", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.NumRecords, k.LastOffsetDelta = -1, -2 }, rec(0)), ErrCorrupt},
		{"offset gap", kmsgBatch(t, nil, rec(0), rec(2)), ErrCorrupt},
		{"offset repeated", kmsgBatch(t, nil, rec(0), rec(0)), ErrCorrupt},
		{"negative delta", kmsgBatch(t, nil, rec(-1)), ErrCorrupt},
		{"last delta", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.LastOffsetDelta = 5 }, rec(0), rec(1)), ErrCorrupt},
		{"negative base", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.FirstOffset = -1 }, rec(0)), ErrCorrupt},
		{"offsets run out", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.FirstOffset = math.MaxInt64 }, rec(0)), ErrCorrupt},
		{"producer without sequence", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.ProducerID = 4 }, rec(0)), ErrCorrupt},
		{"delete horizon", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.Attributes = 1 << 6 }, rec(0)), ErrCorrupt},
		{"unknown codec", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.Attributes = 5 }, rec(0)), ErrCorrupt},
		{"codec that is not", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.Attributes = 4 }, rec(0)), ErrCorrupt},
		{"trailing byte", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.Records = append(k.Records, 0) }, rec(0)), ErrCorrupt},
		{"null header key", kmsgBatch(t, func(k *kmsg.RecordBatch) { k.Records = []byte{18, 0, 0, 0, 1, 1, 2, 1, 1, 0}; k.Records[0] = 18 }, rec(0)), ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.b.Validate(0); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestValidateLimitsMemory(t *testing.T) {
	recs := []Record{{Value: make([]byte, 1<<20)}}
	for _, c := range allCodecs {
		b := buildBatch(t, 0, 0, c, recs)
		if err := b.Validate(1 << 19); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v: %v, want ErrTooLarge", c, err)
		}
		if err := b.Validate(1<<20 + 100); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestValidateMendsMaxTimestamp(t *testing.T) {
	b := kmsgBatch(t, func(k *kmsg.RecordBatch) { k.FirstTimestamp, k.MaxTimestamp = 1000, 99 },
		kmsg.Record{TimestampDelta64: 50}, kmsg.Record{OffsetDelta: 1, TimestampDelta64: -3})
	if err := b.Validate(0); err != nil {
		t.Fatal(err)
	}
	if b.MaxTimestamp() != 1050 {
		t.Errorf("max timestamp %d, want 1050", b.MaxTimestamp())
	}
	if err := b.CheckCRC(); err != nil {
		t.Error(err)
	}
}

// A single flipped bit anywhere under the CRC is noticed; outside of it, by NextBatch or not at all.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	b := buildBatch(t, 3, 1, CompressionNone, testRecords(3, 5))
	for i := range b {
		for bit := range 8 {
			bad := bytes.Clone(b)
			bad[i] ^= 1 << bit
			got, err := NextBatch(bad, len(bad))
			if err == nil && len(got) == len(b) {
				err = got.CheckCRC()
			} else if err == nil {
				err = ErrCorrupt // a shorter batch: its CRC is checked over other bytes
				if got.CheckCRC() == nil {
					t.Errorf("byte %d bit %d: a shorter batch passes", i, bit)
				}
			}
			free := i < atLength || i >= atLeaderEpoch && i < atMagic
			if (err == nil) != free {
				t.Errorf("byte %d bit %d: %v", i, bit, err)
			}
		}
	}
}

func TestNextBatch(t *testing.T) {
	one := buildBatch(t, 0, 0, CompressionNone, testRecords(0, 3))
	two := append(bytes.Clone(one), one...)
	for n := range len(one) {
		if _, err := NextBatch(one[:n], 0); err != ErrShort {
			t.Fatalf("%d bytes: %v, want ErrShort", n, err)
		}
	}
	if b, err := NextBatch(two, 0); err != nil || !bytes.Equal(b, one) {
		t.Errorf("first of two: %v", err)
	}
	if _, err := NextBatch(one[:20], len(one)-1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("limit: %v", err)
	}
	magic1 := bytes.Clone(one)
	magic1[atMagic] = 1
	if _, err := NextBatch(magic1, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("magic 1: %v", err)
	}
	for _, length := range []int32{0, -1, math.MinInt32, 48} {
		bad := bytes.Clone(one)
		binary.BigEndian.PutUint32(bad[atLength:], uint32(length))
		if _, err := NextBatch(bad, 0); !errors.Is(err, ErrCorrupt) {
			t.Errorf("length %d: %v", length, err)
		}
	}
}

func TestLogAppendTimeStampsAllRecords(t *testing.T) {
	b := buildBatch(t, 0, 0, CompressionZstd, testRecords(0, 100))
	b.SetLogAppendTime(12345)
	if err := b.CheckCRC(); err != nil {
		t.Fatal(err)
	}
	for _, r := range readBatch(t, b) {
		if r.Timestamp != 12345 {
			t.Fatalf("timestamp %d", r.Timestamp)
		}
	}
}

func TestBuilderReuse(t *testing.T) {
	var bb BatchBuilder
	bb.SetProducer(1, 2, 3)
	bb.Append(&Record{Value: []byte("first")})
	bb.Seal(0, 0)
	bb.Reset()
	if bb.Len() != 0 || bb.Count() != 0 {
		t.Errorf("after reset: %d bytes, %d records", bb.Len(), bb.Count())
	}
	want := Record{Offset: 8, Timestamp: 5, Key: []byte("k")}
	bb.Append(&want)
	if bb.Len() > BatchHeaderSize+MaxRecordSize(&want) {
		t.Errorf("a record takes %d bytes, more than MaxRecordSize", bb.Len()-BatchHeaderSize)
	}
	b := bb.Seal(8, 1)
	if b.ProducerID() != -1 {
		t.Errorf("producer %d survived Reset", b.ProducerID())
	}
	if d := cmp.Diff([]Record{want}, readBatch(t, b)); d != "" {
		t.Error(d)
	}
}

// Header views of early records hold until Reset although later ones make the reader take more room.
func TestHeaderViewsLastUntilReset(t *testing.T) {
	var recs []Record
	for i := range 3 * headerArena / 100 {
		r := Record{Offset: Offset(i)}
		for h := range 100 {
			r.Headers = append(r.Headers, Header{Key: fmt.Appendf(nil, "%d-%d", i, h)})
		}
		recs = append(recs, r)
	}
	b := buildBatch(t, 0, 0, CompressionNone, recs)
	if d := cmp.Diff(recs, readBatch(t, b)); d != "" {
		t.Error(d)
	}
}

func TestVarintSize(t *testing.T) {
	for _, v := range []int64{0, 1, -1, 63, 64, -64, -65, 8191, 8192, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64} {
		if got, want := varintSize(v), len(binary.AppendVarint(nil, v)); got != want {
			t.Errorf("%d: %d, want %d", v, got, want)
		}
	}
}
