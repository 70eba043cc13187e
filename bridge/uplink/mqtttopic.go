package uplink

import (
	"strings"
	"unicode/utf8"

	"github.com/weir-io/weir/log"
)

// Names of the headers in which the mqtt room keeps what belongs to a message, as the contract gives them. What stands behind mqtt.qos is a user property whatever
// its name.
const (
	headerTopic         = "mqtt.topic"
	headerClient        = "mqtt.client"
	headerRetain        = "mqtt.retain"
	headerContentType   = "content-type"
	headerResponseTopic = "mqtt.response-topic"
	headerCorrelation   = "mqtt.correlation-data"
	headerPayloadFormat = "mqtt.payload-format"
	headerExpiry        = "mqtt.expiry"
	headerQoS2          = "mqtt.qos2"
	headerClock         = "x-clock"
	headerQoS           = "mqtt.qos"
)

// topicTemplate makes MQTT topics of records: text, and placeholders between.
type topicTemplate []string

// parseTemplate fills in what is the same for all records.
func parseTemplate(text, site, cluster string) topicTemplate {
	text = strings.NewReplacer("{site}", site, "{cluster}", cluster).Replace(text)
	var t topicTemplate
	at := 0
	for _, m := range placeholder.FindAllStringIndex(text, -1) {
		t = append(t, text[at:m[0]], text[m[0]:m[1]])
		at = m[1]
	}
	return append(t, text[at:])
}

// appendTopic makes the topic of a record that stands in the log topic of the given name.
func (t topicTemplate) appendTopic(to []byte, topic string, r *log.Record) []byte {
	for _, piece := range t {
		switch piece {
		case "{mqtt.topic}":
			to = appendMQTTTopic(to, topic, r)
		case "{topic}":
			to = append(to, topic...)
		case "{key}":
			to = appendLevel(to, r.Key)
		default:
			to = append(to, piece...)
		}
	}
	return to
}

// appendMQTTTopic is the topic under which MQTT subscribers of this cluster see a record: its header, else <log topic>/<key>.
func appendMQTTTopic(to []byte, topic string, r *log.Record) []byte {
	for _, h := range r.Headers {
		if string(h.Key) == headerTopic {
			return append(to, h.Value...)
		}
	}
	to = append(to, topic...)
	if r.Key == nil {
		return to
	}
	return appendLevel(append(to, '/'), r.Key)
}

// appendLevel appends a key. When it holds what a topic cannot, such bytes are written as %XX.
func appendLevel(to, key []byte) []byte {
	if topicFault(key) == "" || len(key) == 0 {
		return append(to, key...)
	}
	const digits = "0123456789ABCDEF"
	for _, c := range key {
		if c < ' ' || c >= 0x7f || c == '+' || c == '#' || c == '%' {
			to = append(to, '%', digits[c>>4], digits[c&15])
			continue
		}
		to = append(to, c)
	}
	return to
}

// maxMQTTString is what MQTT can say of a string's length.
const maxMQTTString = 65535

// topicFault says why bytes are no name of a topic, "" when they are (MQTT 5 §4.7.3).
func topicFault(b []byte) string {
	switch {
	case len(b) == 0:
		return "it is empty"
	case len(b) > maxMQTTString:
		return "it is longer than 65535 bytes"
	case strings.ContainsAny(string(b), "+#"):
		return "it holds a wildcard"
	case !plainText(b):
		return "it is not UTF-8, or holds control characters, over which brokers end the connection"
	}
	return ""
}

// plainText says whether any broker takes the bytes as a string. MQTT forbids U+0000 and lets brokers end the connection over other control characters and
// over what is no character (§1.5.4), as mosquitto does.
func plainText(b []byte) bool {
	if len(b) > maxMQTTString || !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if r < ' ' || r >= 0x7f && r <= 0x9f || r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe {
			return false
		}
	}
	return true
}
