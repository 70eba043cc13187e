package deliver

import (
	"encoding/binary"
	"errors"

	"github.com/weir-io/weir/log"
)

// A message on its way to another node is its record with its place and topic:
//
//	16 topic id, 4 partition index, 8 offset, 8 timestamp, 4 which header is the topic, 4 number of headers, 4 length of the
//	topic, 4 length of the value, then topic, value and the record's headers as they are
const recordHead = 16 + 4 + 8 + 8 + 4 + 4 + 4 + 4

var errRecord = errors.New("not a record as nodes send it")

// RecordSize is how many bytes AppendRecord appends.
func (m *Message) RecordSize() int {
	return recordHead + len(m.Topic) + len(m.Payload) + len(m.headers)
}

// AppendRecord appends the message, which must have a place in the log, for LoadRecord.
func (m *Message) AppendRecord(b []byte) []byte {
	b = AppendPlace(b, m.ID, m.Offset)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Timestamp))
	for _, n := range [...]int{m.topicHeader, m.headerCount, len(m.Topic), len(m.Payload)} {
		b = binary.BigEndian.AppendUint32(b, uint32(int32(n)))
	}
	return append(append(append(b, m.Topic...), m.Payload...), m.headers...)
}

// LoadRecord fills m with views of b, by the hub's clock.
func (h *Hub) LoadRecord(m *Message, b []byte) error {
	if len(b) < recordHead {
		return errRecord
	}
	id, offset, _ := CutPlace(b)
	n := func(at int) int { return int(int32(binary.BigEndian.Uint32(b[at:]))) }
	topic, value, rest := n(44), n(48), b[recordHead:]
	if topic < 0 || value < 0 || topic > len(rest) || value > len(rest)-topic || offset < 0 || !validTopic(rest[:topic]) {
		return errRecord
	}
	r := rawRecord{
		offset: offset, timestamp: int64(binary.BigEndian.Uint64(b[28:])), topicHeader: n(36), headerCount: n(40),
		value: rest[topic : topic+value], headers: rest[topic+value:],
	}
	if r.headerCount < 0 || r.headerCount > len(r.headers)/2 || !m.load(&r, id, rest[:topic], h.cfg.Now().UnixMilli()) {
		return errRecord
	}
	return nil
}

// placeSize is how many bytes AppendPlace appends.
const placeSize = 16 + 4 + 8

// AppendPlace appends a message's place.
func AppendPlace(b []byte, id log.PartitionID, offset log.Offset) []byte {
	b = append(b, id.Topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(id.Index))
	return binary.BigEndian.AppendUint64(b, uint64(offset))
}

// CutPlace reads what AppendPlace wrote; false if b is shorter.
func CutPlace(b []byte) (id log.PartitionID, offset log.Offset, ok bool) {
	if len(b) < placeSize {
		return id, 0, false
	}
	copy(id.Topic[:], b)
	id.Index = int32(binary.BigEndian.Uint32(b[16:]))
	return id, log.Offset(binary.BigEndian.Uint64(b[20:])), true
}
