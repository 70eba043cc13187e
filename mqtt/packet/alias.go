package packet

import "encoding/binary"

// AliasOverhead is how much longer AppendAliased may make a frame: the property, and a byte more for each length.
const AliasOverhead = 5

// PublishTopic returns the topic name of an encoded PUBLISH, a view.
func PublishTopic(frame []byte) []byte {
	at := topicAt(frame)
	return frame[at+2 : at+2+int(binary.BigEndian.Uint16(frame[at:]))]
}

// topicAt finds the topic's length behind the remaining length.
func topicAt(frame []byte) int {
	at := 1
	for frame[at]&0x80 != 0 {
		at++
	}
	return at + 1
}

// AppendAliased appends an encoded MQTT 5 PUBLISH that has no topic alias with one; bare leaves the topic out. idAt
// is where the packet identifier of QoS 1 and 2 stands in what is returned. // MQTT5 §3.3.2.3.4
func AppendAliased(dst, frame []byte, alias uint16, bare bool) (out []byte, idAt int) {
	at := topicAt(frame)
	topic := frame[at : at+2+int(binary.BigEndian.Uint16(frame[at:]))]
	rest := frame[at+len(topic):]
	var id []byte
	if frame[0]&6 != 0 {
		id, rest = rest[:2], rest[2:]
	}
	props, n, err := readVarint(rest)
	if err != nil {
		panic("BUG: a PUBLISH of ours without properties: " + err.Error())
	}
	rest = rest[n:]
	if bare {
		topic = []byte{0, 0}
	}
	dst = append(dst, frame[0])
	dst = appendVarint(dst, len(topic)+len(id)+varintSize(props+3)+3+len(rest))
	dst = append(dst, topic...)
	idAt = len(dst)
	dst = append(dst, id...)
	dst = appendVarint(dst, props+3)
	dst = binary.BigEndian.AppendUint16(append(dst, propTopicAlias), alias)
	return append(dst, rest...), idAt
}
