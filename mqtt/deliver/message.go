package deliver

import (
	"math/bits"

	"github.com/weir-io/weir/log"
)

// Message is one application message on its way to subscribers. It and everything it points to are
// valid only during the call that passes it.
type Message struct {
	Topic, Payload []byte
	QoS            byte // as published; 1 for records of Kafka producers
	Retain         bool // as published
	ID             log.PartitionID
	Offset         log.Offset // -1: a retained message, which has no place in the log here
	Timestamp      int64      // of the record, Unix ms
	Publisher      []byte     // client id, nil for Kafka producers

	ContentType, ResponseTopic, Correlation []byte // nil = not given
	PayloadFormat                           bool   // the payload is UTF-8 text
	ExpiresAt                               int64  // Unix ms of the hub's clock, 0 = never
	UserProps                               []log.Header

	// Group is set when the message came through a shared subscription: see Group.Ack.
	Group *Group
	// Filter is the subscription for which a retained message is sent.
	Filter string

	now         int64 // the hub's clock when the message was read
	topicHeader int   // which header is the topic, -1 = derived
	headers     []byte
	headerCount int
	shared      [sharedSlots][]byte
	used        uint16 // slots of shared in use
}

// sharedSlots is how many encodings of one message its targets may share.
const sharedSlots = 16

// maxKeptShared is the largest encoding whose buffer is kept for the next message.
const maxKeptShared = 256 << 10

// Shared lends a buffer that all targets of this message see, so that a fan-out encodes each form
// once. slot, 0 to 15, is the caller's code for the form (version, QoS, retain). The first caller
// finds it empty and fills it; the others copy. Targets of one message are called one by one.
func (m *Message) Shared(slot int) *[]byte {
	if bit := uint16(1) << slot; m.used&bit == 0 {
		m.used |= bit
		m.shared[slot] = m.shared[slot][:0]
	}
	return &m.shared[slot]
}

// ExpiresIn is what is left of the message expiry interval in seconds, rounded up; ok is false when
// it has none (MQTT 5.0 §3.3.2.3.3).
func (m *Message) ExpiresIn() (seconds uint32, ok bool) {
	if m.ExpiresAt == 0 {
		return 0, false
	}
	left := max(m.ExpiresAt-m.now+999, 0) / 1000
	return uint32(min(left, 1<<32-1)), true
}

func (m *Message) expired() bool { return m.ExpiresAt != 0 && m.ExpiresAt <= m.now }

// reset clears what the last message left and keeps the buffers.
func (m *Message) reset() {
	m.Topic, m.Payload, m.QoS, m.Retain, m.Publisher = nil, nil, 1, false, nil
	m.ContentType, m.ResponseTopic, m.Correlation = nil, nil, nil
	m.PayloadFormat, m.ExpiresAt, m.Group, m.Filter = false, 0, nil, ""
	m.UserProps, m.topicHeader = m.UserProps[:0], -1
	for used := m.used; used != 0; used &= used - 1 {
		if i := bits.TrailingZeros16(used); cap(m.shared[i]) > maxKeptShared {
			m.shared[i] = nil // one huge message must not pin its size
		}
	}
	m.used = 0
}

// load fills the message from a record whose topic is known; false if its headers are malformed.
func (m *Message) load(r *rawRecord, id log.PartitionID, topic []byte, now int64) bool {
	m.reset()
	m.ID, m.Offset, m.Timestamp, m.now = id, r.offset, r.timestamp, now
	m.Topic, m.Payload, m.topicHeader = topic, r.value, r.topicHeader
	m.headers, m.headerCount = r.headers, r.headerCount
	return m.parseHeaders(r.headers, r.headerCount)
}
