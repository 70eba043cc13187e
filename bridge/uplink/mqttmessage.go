package uplink

import (
	"fmt"
	"strconv"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// message makes PUBLISH packets of records. It is pure, and one packet lasts until the next.
type message struct {
	packet  packets.Publish
	props   packets.Properties
	expires uint32
	scratch []byte
	strings map[string]string // topics and names that come again and again
}

var utf8Payload = byte(1)

// maxStrings bounds what is kept of them.
const maxStrings = 1024

// build gives a record's message: its value under the topic that the template makes, with the properties that its publisher gave it, its other headers as user
// properties, and its origin. An error says why the record can never be one.
func (m *message) build(rename topicTemplate, r *outgoing, now time.Time) (*packets.Publish, error) {
	m.scratch = rename.appendTopic(m.scratch[:0], r.from.log.Topic(), &r.Record)
	if fault := topicFault(m.scratch); fault != "" {
		return nil, fmt.Errorf("its MQTT topic would be %.128q: %s", m.scratch, fault)
	}
	if m.scratch[0] == '$' {
		return nil, fmt.Errorf("its MQTT topic would be %.128q: what begins with $ is the broker's own", m.scratch)
	}
	m.props = packets.Properties{User: m.props.User[:0]}
	m.packet = packets.Publish{QoS: 1, Topic: m.intern(m.scratch), Payload: r.Value, Properties: &m.props}
	ours, topic := true, false
	for _, h := range r.Headers {
		switch name := string(h.Key); {
		case ours && name == headerTopic && !topic:
			topic = true
		case ours && m.property(name, h.Value, now):
			ours = name != headerQoS
		case plainText(h.Key) && plainText(h.Value):
			m.props.User = append(m.props.User, packets.User{Key: m.intern(h.Key), Value: string(h.Value)})
		}
	}
	m.scratch = r.origin(m.scratch[:0])
	m.props.User = append(m.props.User, packets.User{Key: OriginHeader, Value: string(m.scratch)})
	for _, h := range r.own {
		m.props.User = append(m.props.User, packets.User{Key: m.intern(h.Key), Value: string(h.Value)})
	}
	return &m.packet, nil
}

// property takes one of the headers that the mqtt room writes; false leaves it to the user properties. The publisher's client identifier is of this cluster only.
func (m *message) property(name string, value []byte, now time.Time) bool {
	switch name {
	case headerRetain:
		m.packet.Retain = string(value) == "1"
	case headerContentType:
		if plainText(value) {
			m.props.ContentType = string(value)
		}
	case headerResponseTopic:
		if topicFault(value) == "" {
			m.props.ResponseTopic = string(value)
		}
	case headerCorrelation:
		if len(value) <= maxMQTTString {
			m.props.CorrelationData = value
		}
	case headerPayloadFormat:
		if string(value) == "1" {
			m.props.PayloadFormat = &utf8Payload
		}
	case headerExpiry:
		m.expiry(value, now)
	case headerClient, headerQoS2, headerClock, headerQoS:
	default:
		return false
	}
	return true
}

// expiry turns the moment at which a message expires into what is left of its time. One that has expired on its way is carried all the same, for the record's sake,
// with the shortest time there is.
func (m *message) expiry(value []byte, now time.Time) {
	at, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || at <= 0 {
		return
	}
	left := (at - now.UnixMilli() + 999) / 1000
	m.expires = uint32(min(max(left, 1), 1<<32-1))
	m.props.MessageExpiry = &m.expires
}

// size is that of the packet on the wire, or a bound of it that does not exceed limit.
func (m *message) size(limit int) int {
	bound := 64 + len(m.packet.Topic) + len(m.packet.Payload) + len(m.props.ContentType) + len(m.props.ResponseTopic) + len(m.props.CorrelationData)
	for _, u := range m.props.User {
		bound += 5 + len(u.Key) + len(u.Value)
	}
	if bound <= limit {
		return bound
	}
	rest := 0
	for _, b := range m.packet.Buffers() {
		rest += len(b)
	}
	switch {
	case rest < 1<<7:
		return 2 + rest
	case rest < 1<<14:
		return 3 + rest
	case rest < 1<<21:
		return 4 + rest
	}
	return 5 + rest
}

func (m *message) intern(b []byte) string {
	if s, ok := m.strings[string(b)]; ok {
		return s
	}
	if len(m.strings) >= maxStrings || m.strings == nil {
		m.strings = map[string]string{}
	}
	s := string(b)
	m.strings[s] = s
	return s
}
