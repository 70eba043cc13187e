package log

import (
	"encoding/binary"
	"math/bits"
)

// recordOverhead bounds what a record takes besides its key, value and headers: length, attributes,
// timestamp delta, offset delta, key length, value length, header count.
const recordOverhead = 5 + 1 + 10 + 5 + 5 + 5 + 5

// MaxRecordSize bounds the bytes that r takes in a batch without compression.
func MaxRecordSize(r *Record) int {
	n := recordOverhead + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += 10 + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// BatchBuilder encodes records straight into one growing buffer and seals it as a batch. The zero
// value is ready. Not for concurrent use. Once its buffer has grown it allocates nothing.
type BatchBuilder struct {
	buf          []byte // header space, then records
	packed       []byte // the sealed batch when compressed
	count        int32
	base, max    int64 // timestamps
	compression  Compression
	flags        Attributes
	producerID   int64
	producerEp   int16
	baseSequence int32
	hasProducer  bool
}

// Reset empties the builder, keeping its buffer and compression; the last sealed batch is no longer valid.
func (bb *BatchBuilder) Reset() {
	bb.buf, bb.count, bb.hasProducer, bb.flags = bb.buf[:0], 0, false, 0
}

// SetCompression chooses the codec of batches sealed from now on.
func (bb *BatchBuilder) SetCompression(c Compression) { bb.compression = c }

// SetProducer makes the batch one of an idempotent producer, until Reset.
func (bb *BatchBuilder) SetProducer(id int64, epoch int16, baseSequence int32) {
	bb.producerID, bb.producerEp, bb.baseSequence, bb.hasProducer = id, epoch, baseSequence, true
}

// SetFlags sets flag bits (AttrTransactional, AttrControl), until Reset. The codec is not set here.
func (bb *BatchBuilder) SetFlags(a Attributes) { bb.flags = a &^ codecMask }

// Grow makes room for a batch of n bytes at once, so that appends up to it do not allocate.
func (bb *BatchBuilder) Grow(n int) {
	if cap(bb.buf) < n {
		bb.buf = append(make([]byte, 0, n), bb.buf...)
	}
}

// Append copies r to the end of the batch. r.Offset is ignored: offsets are given by Seal, in order.
// The caller keeps Len below 2 GiB by asking MaxRecordSize first.
func (bb *BatchBuilder) Append(r *Record) {
	if bb.count == 0 {
		var header [BatchHeaderSize]byte
		bb.buf = append(bb.buf[:0], header[:]...)
		bb.base, bb.max = r.Timestamp, r.Timestamp
	}
	bb.buf = appendRecord(bb.buf, r, bb.count, r.Timestamp-bb.base)
	bb.count++
	bb.max = max(bb.max, r.Timestamp)
}

// Len is the size in bytes of the batch so far, uncompressed; 0 while it has no record.
func (bb *BatchBuilder) Len() int {
	if bb.count == 0 {
		return 0
	}
	return len(bb.buf)
}

// Count is the number of records appended.
func (bb *BatchBuilder) Count() int { return int(bb.count) }

// Seal completes the batch; at least one record must have been appended. The batch is a view, valid
// until the next Append or Reset. Records that do not get smaller are left uncompressed.
func (bb *BatchBuilder) Seal(base Offset, epoch Epoch) Batch {
	if bb.count == 0 {
		panic("BUG: sealing a batch without records")
	}
	h := batchHeader{
		base: base, epoch: epoch, attributes: bb.flags, lastDelta: bb.count - 1, count: bb.count,
		baseTimestamp: bb.base, maxTimestamp: bb.max, producerID: -1, producerEpoch: -1, baseSequence: -1,
	}
	if bb.hasProducer {
		h.producerID, h.producerEpoch, h.baseSequence = bb.producerID, bb.producerEp, bb.baseSequence
	}
	return h.seal(bb.buf, &bb.packed, bb.compression)
}

// batchHeader is what a sealed header says, apart from length, codec and CRC.
type batchHeader struct {
	base          Offset
	epoch         Epoch
	attributes    Attributes
	lastDelta     int32
	count         int32
	baseTimestamp int64
	maxTimestamp  int64
	producerID    int64
	producerEpoch int16
	baseSequence  int32
}

// seal writes the header into the first BatchHeaderSize bytes of buf, which the uncompressed records
// follow, or into *packed together with the compressed records where those are smaller.
func (h *batchHeader) seal(buf []byte, packed *[]byte, c Compression) Batch {
	out := buf
	attributes := h.attributes &^ codecMask
	if c != CompressionNone && h.count > 0 {
		p := append((*packed)[:0], buf[:BatchHeaderSize]...)
		p, err := Compress(p, c, buf[BatchHeaderSize:])
		*packed = p
		if err == nil && len(p) < len(buf) {
			out, attributes = p, attributes|Attributes(c)
		}
	}
	be := binary.BigEndian
	be.PutUint64(out, uint64(h.base))
	be.PutUint32(out[atLength:], uint32(len(out)-batchOverhead))
	be.PutUint32(out[atLeaderEpoch:], uint32(h.epoch))
	out[atMagic] = batchMagic
	be.PutUint16(out[atAttributes:], uint16(attributes))
	be.PutUint32(out[atLastDelta:], uint32(h.lastDelta))
	be.PutUint64(out[atBaseTimestamp:], uint64(h.baseTimestamp))
	be.PutUint64(out[atMaxTimestamp:], uint64(h.maxTimestamp))
	be.PutUint64(out[atProducerID:], uint64(h.producerID))
	be.PutUint16(out[atProducerEpoch:], uint16(h.producerEpoch))
	be.PutUint32(out[atBaseSequence:], uint32(h.baseSequence))
	be.PutUint32(out[atCount:], uint32(h.count))
	b := Batch(out[:len(out):len(out)])
	b.sealCRC()
	return b
}

// appendRecord writes one record: varint length, i8 attributes (unused), varlong timestamp delta,
// varint offset delta, then key, value and headers, each with a varint length where -1 is null.
func appendRecord(dst []byte, r *Record, offsetDelta int32, timestampDelta int64) []byte {
	size := 1 + varintSize(timestampDelta) + varintSize(int64(offsetDelta)) +
		bytesSize(r.Key) + bytesSize(r.Value) + varintSize(int64(len(r.Headers)))
	for i := range r.Headers {
		k := len(r.Headers[i].Key)
		size += varintSize(int64(k)) + k + bytesSize(r.Headers[i].Value)
	}
	dst = binary.AppendVarint(dst, int64(size))
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, timestampDelta)
	dst = binary.AppendVarint(dst, int64(offsetDelta))
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for i := range r.Headers {
		// A header key is a string and cannot be null.
		dst = binary.AppendVarint(dst, int64(len(r.Headers[i].Key)))
		dst = append(dst, r.Headers[i].Key...)
		dst = appendBytes(dst, r.Headers[i].Value)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 1) // zigzag of -1
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

func bytesSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(int64(len(b))) + len(b)
}

// varintSize is the length of v as a zigzag varint.
func varintSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(u|1) + 6) / 7
}
