package deliver

import "github.com/weir-io/weir/log"

// Record header names, as the contract gives them. Ingress writes HeaderTopic first and HeaderQoS
// last of its own; everything after HeaderQoS is a user property whatever its name, so that no
// client can pass off a user property as one of ours.
const (
	HeaderTopic         = "mqtt.topic"
	HeaderClient        = "mqtt.client"
	HeaderRetain        = "mqtt.retain" // "1"
	HeaderContentType   = "content-type"
	HeaderResponseTopic = "mqtt.response-topic"
	HeaderCorrelation   = "mqtt.correlation-data"
	HeaderPayloadFormat = "mqtt.payload-format" // "1": UTF-8 text
	HeaderExpiry        = "mqtt.expiry"         // decimal Unix ms at which the message expires
	HeaderQoS2          = "mqtt.qos2"           // token of a QoS 2 exchange (M4)
	HeaderClock         = "x-clock"             // the broker's clock was not trusted
	HeaderQoS           = "mqtt.qos"            // "0", "1", "2"
)

// parseHeaders fills a message from a record's headers, all but the topic. Producers that do not speak MQTT put
// there what its strings cannot hold; that stays in the log and out of the message, which would otherwise be one
// that a client has to close its connection for.
func (m *Message) parseHeaders(raw []byte, n int) bool {
	ours := true
	for i := range n {
		var key, value []byte
		var ok bool
		if key, raw, ok = cutField(raw); !ok {
			return false
		}
		if value, raw, ok = cutField(raw); !ok {
			return false
		}
		if (!ours || !m.ourHeader(i, key, value, &ours)) && validString(key) && validString(value) { // MQTT5 [MQTT-1.5.7-1]
			m.UserProps = append(m.UserProps, log.Header{Key: key, Value: value})
		}
	}
	return true
}

// FromRecord fills a message from a record that was not read from a log here; its topic is the header, nil when there is none.
func (m *Message) FromRecord(r *log.Record) {
	m.reset()
	m.Payload, m.Timestamp, m.Offset = r.Value, r.Timestamp, -1
	ours := true
	for i, h := range r.Headers {
		if m.topicHeader < 0 && string(h.Key) == HeaderTopic {
			m.topicHeader, m.Topic = i, h.Value
		}
		if (!ours || !m.ourHeader(i, h.Key, h.Value, &ours)) && validString(h.Key) && validString(h.Value) {
			m.UserProps = append(m.UserProps, h)
		}
	}
}

// ourHeader takes one of our own headers; false leaves it to the user properties, as the headers of
// Kafka producers are.
func (m *Message) ourHeader(i int, key, value []byte, ours *bool) bool {
	switch string(key) {
	case HeaderTopic:
		return i == m.topicHeader
	case HeaderClient:
		m.Publisher = value
	case HeaderRetain:
		m.Retain = len(value) == 1 && value[0] == '1'
	case HeaderContentType:
		if validString(value) { // MQTT5 [MQTT-3.3.2-19]
			m.ContentType = value
		}
	case HeaderResponseTopic:
		if validTopic(value) { // MQTT5 [MQTT-3.3.2-13] [MQTT-3.3.2-14]
			m.ResponseTopic = value
		}
	case HeaderCorrelation:
		if len(value) <= maxTopicBytes {
			m.Correlation = value
		}
	case HeaderPayloadFormat:
		m.PayloadFormat = len(value) == 1 && value[0] == '1'
	case HeaderExpiry:
		m.ExpiresAt = parseMillis(value)
	case HeaderQoS2, HeaderClock:
	case HeaderQoS:
		*ours = false
		if len(value) == 1 && value[0] >= '0' && value[0] <= '2' {
			m.QoS = value[0] - '0'
		}
	default:
		return false
	}
	return true
}

// parseMillis reads a decimal time; 0, no expiry, if it is none.
func parseMillis(b []byte) int64 {
	if len(b) > 18 {
		return 0
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
