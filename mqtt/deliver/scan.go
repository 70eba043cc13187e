package deliver

import (
	"encoding/binary"
	"fmt"

	"github.com/weir-io/weir/log"
)

// maxDecompressed bounds one batch after decompression; larger ones are skipped and counted.
const maxDecompressed = 64 << 20

// rawRecord is a record whose headers are still encoded: most records of a busy log interest nobody
// here, and all it takes to know that is the first header.
type rawRecord struct {
	offset      log.Offset
	timestamp   int64
	key, value  []byte
	headers     []byte // encoded, after the count
	headerCount int
	topicHeader int // index of mqtt.topic, -1 = none
}

// scanner walks the records of a run of batches. Its views are valid until the next reset.
type scanner struct {
	rest    []byte // batches not begun
	batch   log.Batch
	records []byte // of the batch, not read yet
	left    int
	unpack  []byte // decompressed records
	next    log.Offset
	last    []byte // records when the last one was parsed, for back
}

// reset starts on what Log.Read returned for from.
func (s *scanner) reset(chunk []byte, from log.Offset) {
	if cap(s.unpack) > maxKeptChunk {
		s.unpack = nil
	}
	s.rest, s.batch, s.records, s.last, s.left, s.next = chunk, nil, nil, nil, 0, from
}

// scan fills r with the next record; false at the end of the chunk. Control batches and offsets
// below the start are passed over. After an error the scanner stands at the next batch if there is
// one: position() tells how far it got.
func (s *scanner) scan(r *rawRecord) (bool, error) {
	for {
		for s.left > 0 {
			s.left--
			s.last = s.records
			if !s.parse(r) {
				s.left, s.next = 0, s.batch.NextOffset()
				return false, fmt.Errorf("record %d of batch %d: %w", s.batch.Count()-s.left, s.batch.BaseOffset(), log.ErrCorrupt)
			}
			if r.offset >= s.next {
				s.next = r.offset + 1
				return true, nil
			}
		}
		if s.batch != nil {
			s.next = max(s.next, s.batch.NextOffset())
			s.batch = nil
		}
		if len(s.rest) == 0 {
			return false, nil
		}
		if err := s.open(); err != nil {
			return false, err
		}
	}
}

// back returns the record that scan gave last, which scan will then give again.
func (s *scanner) back(r *rawRecord) { s.records, s.left, s.next = s.last, s.left+1, r.offset }

// position is the first offset not scanned.
func (s *scanner) position() log.Offset { return s.next }

// end is a lower bound of the first offset after the chunk.
func (s *scanner) end() log.Offset {
	if s.batch == nil {
		return s.next
	}
	return max(s.next, s.batch.NextOffset())
}

// open begins the next batch.
func (s *scanner) open() error {
	b, err := log.NextBatch(s.rest, 0)
	if err != nil {
		s.rest = nil
		return err
	}
	s.rest = s.rest[len(b):]
	if b.NextOffset() <= s.next {
		return nil
	}
	if b.IsControl() {
		s.next = b.NextOffset()
		return nil
	}
	records := []byte(b[log.BatchHeaderSize:])
	if c := b.Compression(); c != log.CompressionNone && b.Count() > 0 {
		if s.unpack, err = log.Decompress(s.unpack[:0], c, records, maxDecompressed); err != nil {
			s.next = b.NextOffset()
			return fmt.Errorf("batch %d: %w", b.BaseOffset(), err)
		}
		records = s.unpack
	}
	s.batch, s.records, s.left = b, records, b.Count()
	return nil
}

// parse reads one record: varint length, attributes, varint timestamp and offset deltas, key, value,
// header count, headers.
func (s *scanner) parse(r *rawRecord) bool {
	size, n := varint(s.records)
	if n <= 0 || size < 1 || size > int64(len(s.records)-n) {
		return false
	}
	b := s.records[n+1 : n+int(size)]
	s.records = s.records[n+int(size):]
	timestamp, n := varint(b)
	if n <= 0 {
		return false
	}
	b = b[n:]
	delta, n := varint(b)
	if n <= 0 || delta < 0 || delta > 1<<31-1 {
		return false
	}
	b = b[n:]
	var ok bool
	if r.key, b, ok = cutField(b); !ok {
		return false
	}
	if r.value, b, ok = cutField(b); !ok {
		return false
	}
	count, n := varint(b)
	if n <= 0 || count < 0 || count > int64(len(b)-n)/2 {
		return false
	}
	r.headers, r.headerCount = b[n:], int(count)
	r.offset = s.batch.BaseOffset() + log.Offset(delta)
	r.timestamp = s.batch.BaseTimestamp() + timestamp
	if s.batch.TimestampType() == log.LogAppendTime {
		r.timestamp = s.batch.MaxTimestamp()
	}
	return true
}

// topic finds the record's MQTT topic: its header, else "<log topic>/<key>" put together in buf.
func (r *rawRecord) topic(logTopic string, buf []byte) (topic, newBuf []byte) {
	r.topicHeader = -1
	b := r.headers
	for i := range r.headerCount {
		key, rest, ok := cutField(b)
		if !ok {
			break
		}
		value, rest, ok := cutField(rest)
		if !ok {
			break
		}
		if string(key) == HeaderTopic {
			r.topicHeader = i
			return value, buf
		}
		b = rest
	}
	buf = appendDerivedTopic(buf[:0], logTopic, r.key)
	return buf, buf
}

// appendDerivedTopic names a record that no MQTT client published. Bytes of the key that a topic
// name cannot hold are written as %XX; a record without key has the log topic's own name.
func appendDerivedTopic(dst []byte, logTopic string, key []byte) []byte {
	dst = append(dst, logTopic...)
	if key == nil {
		return dst
	}
	dst = append(dst, '/')
	start := len(dst)
	dst = append(dst, key...)
	if validTopic(dst) {
		return dst
	}
	dst = dst[:start]
	const digits = "0123456789ABCDEF"
	for _, c := range key {
		if c < ' ' || c >= 0x7f || c == '+' || c == '#' || c == '%' {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// cutField reads a varint length, -1 for null, and that many bytes.
func cutField(b []byte) (field, rest []byte, ok bool) {
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

// varint reads a zigzag varint; n <= 0 if it is cut short or overflows. Most are of one byte, and the
// lengths of payloads of two.
func varint(b []byte) (v int64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]>>1) ^ -int64(b[0]&1), 1
	}
	if len(b) > 1 && b[1] < 0x80 {
		u := uint(b[0]&0x7f) | uint(b[1])<<7
		return int64(u>>1) ^ -int64(u&1), 2
	}
	return binary.Varint(b)
}
