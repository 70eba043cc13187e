package log

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// RecordBatch v2 (KIP-98), big endian, the one stored form of records (D6):
//
//	 0 i64 baseOffset       \ not under the CRC: the leader sets them
//	 8 i32 batchLength       | bytes after this field
//	12 i32 leaderEpoch      /
//	16 i8  magic = 2
//	17 u32 crc-32c            over everything from 21 on
//	21 i16 attributes         0–2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon; ours: 14 thinned
//	23 i32 lastOffsetDelta    offsets taken; not below the highest delta of a record
//	27 i64 baseTimestamp      of the first record, or the delete horizon (KIP-534)
//	35 i64 maxTimestamp
//	43 i64 producerId         -1 = none
//	51 i16 producerEpoch
//	53 i32 baseSequence
//	57 i32 count
//	61     records, compressed as a whole
const (
	atLength        = 8
	atLeaderEpoch   = 12
	atMagic         = 16
	atCRC           = 17
	atAttributes    = 21
	atLastDelta     = 23
	atBaseTimestamp = 27
	atMaxTimestamp  = 35
	atProducerID    = 43
	atProducerEpoch = 51
	atBaseSequence  = 53
	atCount         = 57

	// BatchHeaderSize is the size in bytes of a batch without records.
	BatchHeaderSize = 61
	// batchOverhead is what batchLength does not count.
	batchOverhead = 12
	batchMagic    = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Attributes are the flag bits of a batch.
type Attributes int16

const (
	codecMask         Attributes = 0x07
	AttrLogAppendTime Attributes = 1 << 3
	AttrTransactional Attributes = 1 << 4
	AttrControl       Attributes = 1 << 5
	AttrDeleteHorizon Attributes = 1 << 6
	// AttrThinned is weir's own, where Kafka has none and its clients do not look: each offset of the batch without a record had a committed one, given up for room (thin.go).
	AttrThinned Attributes = 1 << 14
)

// TimestampType says who stamped the records of a batch.
type TimestampType int8

const (
	CreateTime    TimestampType = 0 // the producer, record by record
	LogAppendTime TimestampType = 1 // the broker; all records carry MaxTimestamp
)

// Batch is exactly one RecordBatch v2 in wire form. It comes from NextBatch or BatchBuilder.Seal,
// which guarantee its length; its methods may not be called on other bytes.
type Batch []byte

// NextBatch returns a view of the first batch in b. It looks at length and magic only: contents are
// checked by CheckCRC and Validate. ErrShort: b ends before the batch does. ErrCorrupt: no v2 batch
// starts here. ErrTooLarge: it is larger than maxBytes (0 = no limit), known from the first 12 bytes.
func NextBatch(b []byte, maxBytes int) (Batch, error) {
	if len(b) < batchOverhead {
		return nil, ErrShort
	}
	length := int64(int32(binary.BigEndian.Uint32(b[atLength:])))
	if length < BatchHeaderSize-batchOverhead {
		return nil, fmt.Errorf("batch length %d is below the header's: %w", length, ErrCorrupt)
	}
	size := length + batchOverhead
	if len(b) > atMagic && b[atMagic] != batchMagic {
		return nil, fmt.Errorf("batch magic %d, want %d: %w", int8(b[atMagic]), batchMagic, ErrCorrupt)
	}
	if maxBytes > 0 && size > int64(maxBytes) {
		return nil, fmt.Errorf("batch of %d bytes, limit %d: %w", size, maxBytes, ErrTooLarge)
	}
	if int64(len(b)) < size {
		return nil, ErrShort
	}
	return Batch(b[:size:size]), nil
}

func (b Batch) i64(at int) int64 { return int64(binary.BigEndian.Uint64(b[at:])) }
func (b Batch) i32(at int) int32 { return int32(binary.BigEndian.Uint32(b[at:])) }
func (b Batch) i16(at int) int16 { return int16(binary.BigEndian.Uint16(b[at:])) }

// BaseOffset is the offset that deltas count from, the first record's unless compaction removed it.
func (b Batch) BaseOffset() Offset { return Offset(b.i64(0)) }

// LastOffset is the last offset the batch takes, whether or not that record still exists.
func (b Batch) LastOffset() Offset { return b.BaseOffset() + Offset(b.i32(atLastDelta)) }

// NextOffset is the first offset after the batch.
func (b Batch) NextOffset() Offset { return b.LastOffset() + 1 }

// LeaderEpoch is the epoch of the leader that appended the batch (A2).
func (b Batch) LeaderEpoch() Epoch { return Epoch(b.i32(atLeaderEpoch)) }

// Attributes are the batch's flag bits.
func (b Batch) Attributes() Attributes { return Attributes(b.i16(atAttributes)) }

// Compression is the codec of the records.
func (b Batch) Compression() Compression { return Compression(b.Attributes() & codecMask) }

// TimestampType says who stamped the records.
func (b Batch) TimestampType() TimestampType {
	if b.Attributes()&AttrLogAppendTime != 0 {
		return LogAppendTime
	}
	return CreateTime
}

// IsTransactional says whether the records belong to a transaction.
func (b Batch) IsTransactional() bool { return b.Attributes()&AttrTransactional != 0 }

// IsControl says whether the records are transaction markers, which consumers never see.
func (b Batch) IsControl() bool { return b.Attributes()&AttrControl != 0 }

// IsThinned says whether records of the batch were given up for room: all that its offsets lack, and nothing else.
func (b Batch) IsThinned() bool { return b.Attributes()&AttrThinned != 0 }

// MarkControl makes readers pass over the batch. Its CRC is not right afterwards: only for bytes that are on their way to a reader.
func (b Batch) MarkControl() {
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(b.Attributes()|AttrControl))
}

// BaseTimestamp is what the records' timestamp deltas count from, in ms.
func (b Batch) BaseTimestamp() int64 { return b.i64(atBaseTimestamp) }

// MaxTimestamp is the largest timestamp of the batch in ms, -1 if no record has one.
func (b Batch) MaxTimestamp() int64 { return b.i64(atMaxTimestamp) }

// DeleteHorizon is the time in ms after which compaction may drop the batch's tombstones (KIP-534).
func (b Batch) DeleteHorizon() (ms int64, ok bool) {
	return b.BaseTimestamp(), b.Attributes()&AttrDeleteHorizon != 0
}

// ProducerID is the idempotent producer, -1 if none.
func (b Batch) ProducerID() int64 { return b.i64(atProducerID) }

// ProducerEpoch is the incarnation of the producer, -1 if none.
func (b Batch) ProducerEpoch() int16 { return b.i16(atProducerEpoch) }

// BaseSequence is the producer's sequence number at delta 0, -1 if none.
func (b Batch) BaseSequence() int32 { return b.i32(atBaseSequence) }

// LastSequence is the producer's sequence number at the last offset; it wraps from 2³¹-1 to 0.
func (b Batch) LastSequence() int32 {
	if b.BaseSequence() < 0 {
		return -1
	}
	return addSequence(b.BaseSequence(), b.i32(atLastDelta))
}

// Count is the number of records in the batch; compaction may have made it smaller than the offsets taken, even 0.
func (b Batch) Count() int { return int(b.i32(atCount)) }

// Size is the batch's length in bytes, header included.
func (b Batch) Size() int { return len(b) }

// SetBaseOffset moves the batch to base. The CRC does not cover it.
func (b Batch) SetBaseOffset(base Offset) { binary.BigEndian.PutUint64(b, uint64(base)) }

// SetLeaderEpoch notes who appended the batch. The CRC does not cover it.
func (b Batch) SetLeaderEpoch(e Epoch) {
	binary.BigEndian.PutUint32(b[atLeaderEpoch:], uint32(e))
}

// SetLogAppendTime stamps the whole batch with the broker's time in ms, for topics with
// message.timestamp.type=LogAppendTime, and renews the CRC.
func (b Batch) SetLogAppendTime(ms int64) {
	binary.BigEndian.PutUint16(b[atAttributes:], uint16(b.Attributes()|AttrLogAppendTime))
	b.setMaxTimestamp(ms)
}

func (b Batch) setMaxTimestamp(ms int64) {
	binary.BigEndian.PutUint64(b[atMaxTimestamp:], uint64(ms))
	b.sealCRC()
}

func (b Batch) sealCRC() {
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
}

// CheckCRC verifies the checksum of everything but base offset and leader epoch (A8).
func (b Batch) CheckCRC() error {
	want, got := binary.BigEndian.Uint32(b[atCRC:]), crc32.Checksum(b[atAttributes:], castagnoli)
	if got != want {
		return fmt.Errorf("batch at offset %d: crc %08x, want %08x: %w", b.BaseOffset(), got, want, ErrCorrupt)
	}
	return nil
}

// Validate checks a batch as a producer may send it (A8): checksum, at least one record, as many as
// declared, each one well formed, offset deltas 0, 1, 2 …, producer fields that agree. The records may
// take at most maxDecompressed bytes (0 = DefaultMaxDecompressed). ErrCorrupt or ErrTooLarge.
//
// A header that states a wrong maximum timestamp, as some clients write, is put right in place with
// a new CRC, since time lookups depend on it; Kafka does the same.
//
// It does not judge policy: control batches, timestamps far from now and codecs are the caller's.
func (b Batch) Validate(maxDecompressed int) error {
	if err := b.CheckCRC(); err != nil {
		return err
	}
	count, last := b.i32(atCount), b.i32(atLastDelta)
	if count < 1 || last != count-1 {
		return fmt.Errorf("batch of %d records takes offsets 0 to %d: %w", count, last, ErrCorrupt)
	}
	if base := b.BaseOffset(); base < 0 || base > math.MaxInt64-Offset(count) {
		return fmt.Errorf("batch at offset %d: %w", base, ErrCorrupt)
	}
	if b.ProducerID() >= 0 && !b.IsControl() && (b.ProducerEpoch() < 0 || b.BaseSequence() < 0) {
		return fmt.Errorf("batch of producer %d has epoch %d and sequence %d: %w",
			b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), ErrCorrupt)
	}
	if _, ok := b.DeleteHorizon(); ok {
		return fmt.Errorf("batch has a delete horizon, which only compaction sets: %w", ErrCorrupt)
	}
	if b.IsThinned() {
		return fmt.Errorf("batch is marked as thinned, which only the log does: %w", ErrCorrupt)
	}
	maxTimestamp, err := b.checkRecords(maxDecompressed)
	if err != nil {
		return err
	}
	if maxTimestamp != b.MaxTimestamp() {
		b.setMaxTimestamp(maxTimestamp)
	}
	return nil
}

// checkRecords walks all records and returns their largest timestamp.
func (b Batch) checkRecords(maxDecompressed int) (int64, error) {
	r := readers.Get().(*RecordReader)
	defer readers.put(r)
	r.MaxDecompressed = maxDecompressed
	if err := r.Reset(b); err != nil {
		return 0, err
	}
	r.skipHeaders = true
	maxTimestamp := int64(math.MinInt64)
	var rec Record
	for want := b.BaseOffset(); ; want++ {
		ok, err := r.Next(&rec)
		if err != nil {
			return 0, err
		}
		if !ok {
			return maxTimestamp, nil
		}
		if rec.Offset != want {
			return 0, fmt.Errorf("record offset delta %d, want %d: %w", rec.Offset-b.BaseOffset(), want-b.BaseOffset(), ErrCorrupt)
		}
		maxTimestamp = max(maxTimestamp, rec.Timestamp)
	}
}

// addSequence adds n offsets to a producer sequence number, which wraps from 2³¹-1 to 0.
func addSequence(seq, n int32) int32 {
	if s := int64(seq) + int64(n); s > math.MaxInt32 {
		return int32(s - math.MaxInt32 - 1)
	}
	return seq + n
}
