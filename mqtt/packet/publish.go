package packet

import (
	"bytes"
	"encoding/binary"
)

// UserProperty is one name-value pair of MQTT 5 (§3.3.2.3.7). Names may repeat and order matters.
type UserProperty struct{ Name, Value []byte }

// Publish is a PUBLISH packet. After Decode its slices are views into the frame: they live as long as the
// read buffer does. A Publish may be decoded into again and again; it keeps its own slices' capacity.
type Publish struct {
	Topic   []byte // empty when only an alias stands in the packet
	Payload []byte
	ID      uint16 // 0 for QoS 0
	QoS     byte
	Retain  bool
	Dup     bool

	// MQTT 5 properties; zero values mean absent unless a Has field says otherwise.
	HasExpiry       bool
	PayloadFormat   byte // 1: the payload is UTF-8
	TopicAlias      uint16
	Expiry          uint32 // seconds
	ContentType     []byte
	ResponseTopic   []byte
	Correlation     []byte
	SubscriptionIDs []uint32 // server to client only
	User            []UserProperty
}

// Decode fills p from a frame that a client sent. It checks everything that can be checked without a
// session: strings, wildcards, packet identifier, properties. An empty topic passes when an alias is there;
// whether that alias is known is the session's to say.
func (p *Publish) Decode(f Frame, version byte) error {
	*p = Publish{
		QoS: f.Header >> 1 & 3, Retain: f.Header&1 != 0, Dup: f.Header&8 != 0,
		User: p.User[:0], SubscriptionIDs: p.SubscriptionIDs[:0],
	}
	topic, b, err := readString(f.Body) // MQTT5 [MQTT-3.3.2-1]
	if err != nil {
		return err
	}
	if hasWildcard(topic) {
		return errTopicWild // MQTT5 [MQTT-3.3.2-2]
	}
	p.Topic = topic
	if p.QoS > 0 {
		if len(b) < 2 {
			return errField
		}
		if p.ID = binary.BigEndian.Uint16(b); p.ID == 0 {
			return errPacketID // MQTT5 [MQTT-2.2.1-3]
		}
		b = b[2:]
	}
	if version == V5 {
		if b, err = p.decodeProps(b); err != nil {
			return err
		}
	}
	if len(topic) == 0 && p.TopicAlias == 0 {
		return errTopicEmpty // MQTT5 §3.3.2.1; MQTT 3.1.1 [MQTT-4.7.3-1]
	}
	p.Payload = b
	return nil
}

func (p *Publish) decodeProps(b []byte) (rest []byte, err error) {
	if len(b) > 0 && b[0] == 0 { // no properties, by far the commonest
		return b[1:], nil
	}
	list, rest, err := openProps(PUBLISH, b)
	if err != nil {
		return nil, err
	}
	var q property
	for {
		more, err := list.next(&q)
		if err != nil {
			return nil, err
		}
		if !more {
			return rest, nil
		}
		switch q.id {
		case propPayloadFormat:
			p.PayloadFormat = byte(q.num)
		case propExpiry:
			p.HasExpiry, p.Expiry = true, q.num
		case propContentType:
			p.ContentType = q.bytes
		case propResponseTopic:
			if len(q.bytes) == 0 || hasWildcard(q.bytes) {
				return nil, errRespWild // MQTT5 [MQTT-3.3.2-14]
			}
			p.ResponseTopic = q.bytes
		case propCorrelation:
			p.Correlation = q.bytes
		case propSubscriptionID:
			return nil, errSubIDPub // MQTT5 [MQTT-3.3.4-6]
		case propTopicAlias:
			if q.num == 0 {
				return nil, errAlias0 // MQTT5 [MQTT-3.3.2-8]
			}
			p.TopicAlias = uint16(q.num)
		case propUser:
			p.User = append(p.User, UserProperty{q.bytes, q.value})
		}
	}
}

// Size returns the length that AppendPublish will add for p.
func (p *Publish) Size(version byte) int {
	n := p.remaining(version)
	return 1 + varintSize(n) + n
}

func (p *Publish) remaining(version byte) int {
	n := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if version == V5 {
		pl := p.propsSize()
		n += varintSize(pl) + pl
	}
	return n
}

func (p *Publish) propsSize() (n int) {
	if p.PayloadFormat != 0 {
		n += 2
	}
	if p.HasExpiry {
		n += 5
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, s := range [...][]byte{p.ContentType, p.ResponseTopic, p.Correlation} {
		if s != nil {
			n += 3 + len(s)
		}
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintSize(int(id))
	}
	for i := range p.User {
		n += 5 + len(p.User[i].Name) + len(p.User[i].Value)
	}
	return n
}

// AppendPublish encodes p for a receiver of the given version. Properties are left out for 3.1.1.
func AppendPublish(dst []byte, p *Publish, version byte) []byte {
	h := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Retain {
		h |= 1
	}
	if p.Dup {
		h |= 8
	}
	dst = append(dst, h)
	dst = appendVarint(dst, p.remaining(version))
	dst = appendString(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.ID)
	}
	if version == V5 {
		dst = p.appendProps(dst)
	}
	return append(dst, p.Payload...)
}

func (p *Publish) appendProps(dst []byte) []byte {
	dst = appendVarint(dst, p.propsSize())
	if p.PayloadFormat != 0 {
		dst = append(dst, propPayloadFormat, p.PayloadFormat)
	}
	if p.HasExpiry {
		dst = binary.BigEndian.AppendUint32(append(dst, propExpiry), p.Expiry)
	}
	if p.TopicAlias != 0 {
		dst = binary.BigEndian.AppendUint16(append(dst, propTopicAlias), p.TopicAlias)
	}
	if p.ContentType != nil {
		dst = appendString(append(dst, propContentType), p.ContentType)
	}
	if p.ResponseTopic != nil {
		dst = appendString(append(dst, propResponseTopic), p.ResponseTopic)
	}
	if p.Correlation != nil {
		dst = appendString(append(dst, propCorrelation), p.Correlation)
	}
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, propSubscriptionID), int(id))
	}
	for i := range p.User {
		dst = appendString(append(dst, propUser), p.User[i].Name)
		dst = appendString(dst, p.User[i].Value)
	}
	return dst
}

func hasWildcard(topic []byte) bool {
	return bytes.IndexByte(topic, '#') >= 0 || bytes.IndexByte(topic, '+') >= 0
}
