package session

import (
	"bytes"

	"github.com/weir-io/weir/mqtt/packet"
)

// aliases are the topic names that have an alias on this connection, by alias - 1: those that the client has set,
// and those that we have.
type aliases struct{ in, out [][]byte }

const (
	minAliased = 4    // bytes of topic; the alias takes three in its place
	maxAliased = 1024 // bounds what a connection keeps
)

// aliasFor says whether a message goes out under a topic alias, and whether the client knows that already, so that
// the topic can be left out (bare). The first topics of a connection get one, as many as the client takes and
// Limits.AliasOut allows; they keep it. // MQTT5 [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8]
func (s *Session) aliasFor(frame []byte) (alias uint16, bare bool) {
	topic := packet.PublishTopic(frame)
	if len(topic) < minAliased || len(topic) > maxAliased {
		return 0, false
	}
	if s.aliases == nil {
		s.aliases = new(aliases)
	}
	names := s.aliases.out
	for i := range names {
		if bytes.Equal(names[i], topic) {
			return uint16(i + 1), true
		}
	}
	if len(names) >= int(s.clientAliases) || s.clientMaxPacket > 0 && len(frame)+packet.AliasOverhead > int(s.clientMaxPacket) {
		return 0, false
	}
	s.aliases.out = append(names, bytes.Clone(topic))
	return uint16(len(names) + 1), false
}
