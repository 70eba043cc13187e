package group

import (
	"bytes"
	"slices"
	"time"
)

// Ticket names a request that may be answered by a later step. The caller
// chooses it, once per request; 0 is no ticket.
type Ticket uint64

// Protocol is one assignor that a member can use, with what it tells the leader.
type Protocol struct {
	Name     string
	Metadata []byte
}

// member is one consumer of a group. Its fields change only within a step of
// its group.
type member struct {
	id, instance         string // instance is empty for a dynamic member
	clientID, clientHost string
	session, rebalance   time.Duration
	protocols            []Protocol
	assignment           []byte

	join, sync Ticket // requests that wait, 0 for none
	fresh      bool   // has not been through a completed join phase yet
	owesSync   bool   // was told a generation and has not sent SyncGroup for it
	deadline   time.Time
}

// watched reports whether the deadline counts: a member whose request waits
// here cannot heartbeat. A first join is bounded all the same, because nothing
// tells whether its client still lives.
func (m *member) watched() bool {
	return m.sync == 0 && (m.join == 0 || m.fresh)
}

func (m *member) metadata(protocol string) []byte {
	for i := range m.protocols {
		if m.protocols[i].Name == protocol {
			return m.protocols[i].Metadata
		}
	}
	return nil
}

func (m *member) speaks(protocol string) bool {
	return slices.ContainsFunc(m.protocols, func(p Protocol) bool { return p.Name == protocol })
}

func (m *member) size() int {
	return len(m.id) + len(m.instance) + len(m.clientID) + len(m.clientHost) + protocolBytes(m.protocols) + len(m.assignment)
}

func protocolBytes(ps []Protocol) int {
	n := 0
	for i := range ps {
		n += len(ps[i].Name) + len(ps[i].Metadata)
	}
	return n
}

func sameProtocols(a, b []Protocol) bool {
	return slices.EqualFunc(a, b, func(x, y Protocol) bool {
		return x.Name == y.Name && bytes.Equal(x.Metadata, y.Metadata)
	})
}

// subscription lists the topics in a consumer's protocol metadata (int16
// version, then an array of strings; what follows is the assignor's own).
// ok is false if the bytes are something else.
func subscription(metadata []byte) (topics []string, ok bool) {
	b := metadata
	if len(b) < 6 {
		return nil, false
	}
	n := int(int32(uint32(b[2])<<24 | uint32(b[3])<<16 | uint32(b[4])<<8 | uint32(b[5])))
	b = b[6:]
	if n < 0 || n > len(b)/2 {
		return nil, n == -1
	}
	for ; n > 0; n-- {
		if len(b) < 2 {
			return nil, false
		}
		size := int(b[0])<<8 | int(b[1])
		if b = b[2:]; size > len(b) {
			return nil, false
		}
		topics = append(topics, string(b[:size]))
		b = b[size:]
	}
	return topics, true
}

// sameTopics reports whether two subscriptions name the same topics. If either
// is not a subscription that we can read, the bytes must be equal.
func sameTopics(a, b []byte) bool {
	x, ok := subscription(a)
	y, ok2 := subscription(b)
	if !ok || !ok2 {
		return bytes.Equal(a, b)
	}
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(slices.Compact(x), slices.Compact(y))
}
