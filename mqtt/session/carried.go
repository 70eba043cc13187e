package session

import "github.com/weir-io/weir/mqtt/packet"

// Carried is what belongs to a connection and not to the session, for a connection that goes on at another node: the session itself comes there out of
// what is stored of it.
type Carried struct {
	Version        byte
	MaxPacket      uint32   // what the client takes; 0: anything
	ReceiveMaximum uint16   // as far as it was used
	AliasMaximum   uint16   // likewise
	Aliases        [][]byte // topics that the client has given an alias, by alias - 1; nil where it has not
	Granted        Granted
}

// Size is the bytes of the aliases.
func (c Carried) Size() (n int) {
	for _, topic := range c.Aliases {
		n += len(topic) + 4
	}
	return n
}

// Granted is what the client was told that it may do: it keeps to that, wherever its session lives.
type Granted struct {
	MaxPacket      uint32
	ReceiveMaximum uint16
	AliasMaximum   uint16
}

func (l *Limits) granted() Granted { return Granted{l.MaxPacket, l.ReceiveMaximum, l.AliasMaximum} }

// Settled says whether nothing is under way that only this node can bring to an end: every publish of the client has its answer, and what is stored of the
// window, once it is written again, is all of it. Messages with an Extra are the owner's to judge.
func (s *Session) Settled() bool {
	if s.Waiting() || s.out.held != nil {
		return false
	}
	if s.in2 != nil {
		for _, e := range s.in2.exchanges {
			if e.state == exchangePending || e.released {
				return false
			}
		}
	}
	for n := s.out.first; n < s.out.next; n++ {
		if e := s.out.at(n); e.unsent() || e.state == outReceived {
			return false
		}
	}
	return true
}

// Carry is what Resumed takes on another node; call it while the session is online.
func (s *Session) Carry() Carried {
	c := Carried{
		Version: s.version, MaxPacket: s.clientMaxPacket, ReceiveMaximum: uint16(min(s.out.limit, 0xffff)), AliasMaximum: s.clientAliases,
		Granted: s.limits.granted(),
	}
	if s.aliases != nil {
		c.Aliases = s.aliases.in
	}
	return c
}

// Resumed goes on with a connection that another node has served so far. Nothing is written, and nothing sent again: what the window holds is on its way to
// the client. It answers false, and does nothing, where the client was granted more than it would be here.
func (s *Session) Resumed(c Carried) bool {
	here := s.limits.granted()
	if c.Granted.MaxPacket > here.MaxPacket || c.Granted.ReceiveMaximum > here.ReceiveMaximum || c.Granted.AliasMaximum > here.AliasMaximum ||
		len(c.Aliases) > int(here.AliasMaximum) || c.Version != packet.V5 && c.Version != packet.V311 {
		return false
	}
	s.version, s.online = c.Version, true
	s.clientMaxPacket = c.MaxPacket
	s.clientAliases = min(c.AliasMaximum, s.limits.AliasOut)
	s.aliases = nil
	if len(c.Aliases) > 0 {
		s.aliases = &aliases{in: c.Aliases}
	}
	s.in1.reset()
	s.in2.reconnect()
	s.out.connected(min(s.limits.MaxInflight, int(c.ReceiveMaximum)))
	return true
}
