package log

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
)

const (
	// DefaultMaxDecompressed bounds the records of one batch in bytes after decompression.
	DefaultMaxDecompressed = 64 << 20
	// maxHeaders bounds the headers of one record: a header of 2 bytes takes 48 (24 on 32-bit) as a view.
	maxHeaders = 1 << 16
	// minRecordSize is a record without anything: each of its seven fields takes a byte.
	minRecordSize = 7
	// headerArena is how many headers a reader keeps room for; a batch with more costs an allocation per so many.
	headerArena = 1 << 14
	// keepBuffer is the largest decompression buffer that a pooled reader keeps.
	keepBuffer = 4 << 20
)

// RecordReader yields the records of a batch as views. The zero value is ready. Not for concurrent
// use. It allocates nothing per record once its buffers have grown.
type RecordReader struct {
	// MaxDecompressed limits the bytes of a batch's records after decompression; 0 = DefaultMaxDecompressed.
	MaxDecompressed int

	batch       Batch
	records     []byte // all of them, decompressed
	rest        []byte // those not read yet
	left        int32
	appendTime  bool
	skipHeaders bool     // count and check headers without keeping them
	buf         []byte   // decompressed records
	headers     []Header // views handed out since Reset
}

// Reset starts on b, decompressing its records if need be. All views handed out before are no longer
// valid. It does not check the CRC. ErrCorrupt, or ErrTooLarge over the limit.
func (r *RecordReader) Reset(b Batch) error {
	r.batch, r.records, r.rest, r.left = b, nil, nil, 0
	r.appendTime, r.skipHeaders = b.TimestampType() == LogAppendTime, false
	r.headers = r.headers[:0]
	limit := r.MaxDecompressed
	if limit <= 0 {
		limit = DefaultMaxDecompressed
	}
	records := []byte(b[BatchHeaderSize:])
	switch c := b.Compression(); {
	case c == CompressionNone:
	case b.i32(atCount) == 0 && len(records) == 0:
		// Compaction leaves such a batch with its codec and no bytes to decompress.
	default:
		var err error
		if r.buf, err = Decompress(r.buf[:0], c, records, limit); err != nil {
			return fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
		}
		records = r.buf
	}
	if len(records) > limit {
		return fmt.Errorf("batch at offset %d: records of %d bytes, limit %d: %w", b.BaseOffset(), len(records), limit, ErrTooLarge)
	}
	count := b.i32(atCount)
	if count < 0 || int64(count)*minRecordSize > int64(len(records)) {
		return r.corrupt("%d records in %d bytes", count, len(records))
	}
	r.records, r.rest, r.left = records, records, count
	return nil
}

// rewind starts over on the same batch without decompressing it again; views stay valid.
func (r *RecordReader) rewind() {
	r.rest, r.left = r.records, int32(r.batch.Count())
}

// Next fills rec with the next record; false after the last. Key, Value and Headers are views valid
// until Reset. After an error the reader is at its end.
func (r *RecordReader) Next(rec *Record) (bool, error) {
	if r.left == 0 {
		if len(r.rest) > 0 {
			n := len(r.rest)
			r.rest = nil
			return false, r.corrupt("%d bytes after the last record", n)
		}
		return false, nil
	}
	body, ok := r.body()
	if !ok {
		return false, r.stop("record length")
	}
	if field := r.decode(body, rec); field != "" {
		return false, r.stop(field)
	}
	r.left--
	return true, nil
}

// body cuts the next record off rest.
func (r *RecordReader) body() ([]byte, bool) {
	size, n := varint(r.rest)
	if n <= 0 || size < minRecordSize-1 || size > int64(len(r.rest)-n) {
		return nil, false
	}
	body := r.rest[n : n+int(size)]
	r.rest = r.rest[n+int(size):]
	return body, true
}

// decode reads the fields of one record; it returns the name of the first one that is malformed.
func (r *RecordReader) decode(b []byte, rec *Record) string {
	b = b[1:] // attributes: unused
	timestamp, n := varint(b)
	if n <= 0 {
		return "timestamp"
	}
	b = b[n:]
	delta, n := varint(b)
	if n <= 0 || delta < 0 || delta > math.MaxInt32 {
		return "offset delta"
	}
	b = b[n:]
	var ok bool
	if rec.Key, b, ok = cutBytes(b); !ok {
		return "key"
	}
	if rec.Value, b, ok = cutBytes(b); !ok {
		return "value"
	}
	rec.Offset = r.batch.BaseOffset() + Offset(delta)
	rec.Timestamp = r.batch.BaseTimestamp() + timestamp
	if r.appendTime {
		rec.Timestamp = r.batch.MaxTimestamp()
	}
	if len(b) == 1 && b[0] == 0 {
		rec.Headers = nil
		return ""
	}
	return r.decodeHeaders(b, rec)
}

func (r *RecordReader) decodeHeaders(b []byte, rec *Record) string {
	count, n := varint(b)
	if n <= 0 || count < 0 || count > maxHeaders || count > int64(len(b)-n)/2 {
		return "header count"
	}
	b = b[n:]
	if !r.skipHeaders && len(r.headers)+int(count) > max(cap(r.headers), headerArena) {
		// Views handed out stay with the old piece; who does not keep them frees it.
		r.headers = make([]Header, 0, max(int(count), headerArena))
	}
	first := len(r.headers)
	for range count {
		var h Header
		var ok bool
		if h.Key, b, ok = cutBytes(b); !ok || h.Key == nil {
			return "header key"
		}
		if h.Value, b, ok = cutBytes(b); !ok {
			return "header value"
		}
		if !r.skipHeaders {
			r.headers = append(r.headers, h)
		}
	}
	if len(b) > 0 {
		return "length"
	}
	rec.Headers = r.headers[first:len(r.headers):len(r.headers)]
	return ""
}

func (r *RecordReader) stop(field string) error {
	nth := r.batch.i32(atCount) - r.left
	r.left, r.rest = 0, nil
	return r.corrupt("record %d: malformed %s", nth, field)
}

func (r *RecordReader) corrupt(format string, args ...any) error {
	return fmt.Errorf("batch at offset %d: %s: %w", r.batch.BaseOffset(), fmt.Sprintf(format, args...), ErrCorrupt)
}

// cutBytes reads a varint length, -1 for null, and that many bytes.
func cutBytes(b []byte) (field, rest []byte, ok bool) {
	size, n := varint(b)
	if n <= 0 || size < -1 || size > int64(len(b)-n) {
		return nil, nil, false
	}
	b = b[n:]
	if size < 0 {
		return nil, b, true
	}
	return b[:size:size], b[size:], true
}

// varint reads a zigzag varint; n <= 0 if it is cut short or overflows. Most are of one byte.
func varint(b []byte) (v int64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]>>1) ^ -int64(b[0]&1), 1
	}
	return binary.Varint(b)
}

// readerPool lends readers to short checks, without keeping huge buffers alive.
type readerPool struct{ sync.Pool }

var readers = readerPool{sync.Pool{New: func() any { return new(RecordReader) }}}

func (p *readerPool) put(r *RecordReader) {
	if cap(r.buf) > keepBuffer {
		r.buf = nil
	}
	r.batch, r.records, r.rest = nil, nil, nil
	clear(r.headers[:cap(r.headers)]) // drop the views
	r.headers = r.headers[:0]
	p.Put(r)
}
