package session

import (
	"github.com/weir-io/weir/mqtt/packet"
)

// Limits is what the server grants a client. All fields must be set.
type Limits struct {
	MaxPacket      uint32 // bytes of one packet from the client
	ReceiveMaximum uint16 // unacknowledged QoS 1 and 2 publishes from the client
	AliasMaximum   uint16 // topic aliases from the client
	AliasOut       uint16 // topic aliases towards the client, below what it takes
	MaxInflight    int    // unacknowledged messages to the client, below what its own receive maximum allows
	OutputMax      int    // bytes waiting in Out above which deliveries are refused
	KeepAliveMax   uint16 // seconds; a client that asks for more, or none, gets this; 0 = as asked
	ExpiryMax      uint32 // seconds of session expiry; NoExpiry = as asked
	Overtake       int64  // milliseconds after which an uncommitted publish no longer holds up later acks (M2)
}

// NoExpiry is the session expiry interval that means never (MQTT 5 §3.1.2.11.2).
const NoExpiry = 0xffffffff

// Verdict is what becomes of a publish that the session hands over.
type Verdict struct {
	Held   bool          // cannot be taken now: leave the packet unread and try again
	Reason packet.Reason // 0x80 or above: refused for good
}

// Ref names the record that a message to the client came from. Offset -1: no record can be read again.
type Ref struct {
	Topic  [16]byte
	Index  int32
	Offset int64
}

// Effects is what a session asks of its owner. Calls come under the owner's lock and must not call back.
type Effects interface {
	// Append asks that p become a record. p lives during the call only. When the verdict is neither held nor
	// refused and seq is not 0, the answer comes as Committed (QoS 1) or Stored (QoS 2) with this seq.
	Append(seq uint64, p *packet.Publish) Verdict
	// Release asks that the QoS 2 exchange be forgotten durably; the answer comes as Released.
	Release(id uint16, seq uint64)
	// Received asks that a PUBREC for our message be stored; the answer comes as ReceivedStored.
	Received(id uint16, ref Ref)
	// Done says that the exchange of a message to the client has ended and its packet id is free.
	Done(id uint16, qos byte, ref Ref, extra any)
	// Ready says that there is room again after a refused Deliver.
	Ready()
}

// Session is one client's protocol state.
type Session struct {
	Out []byte // bytes to send; the owner takes them

	fx      Effects
	limits  *Limits // shared by all sessions of the server
	version byte
	online  bool

	clientAliases   uint16 // topic aliases that this connection's client takes from us
	clientMaxPacket uint32
	generation      uint32
	aliases         *aliases // nil until one is set on this connection
	in1             slots
	in2             *inbound2 // nil until the client uses QoS 2

	out outbound
}

// New returns a session without a connection. generation must differ between the sessions that one owner has
// one after the other: it is part of every seq, so that an answer meant for an earlier session cannot be
// taken for one of this session's.
func New(fx Effects, limits *Limits, generation uint32) *Session {
	s := &Session{fx: fx, limits: limits, generation: generation}
	s.in1.first = uint64(generation) << 32 &^ qos2Bit
	s.in1.next = s.in1.first
	return s
}

// Grant is the outcome of Connected.
type Grant struct {
	KeepAlive uint16 // seconds the client must keep to; 0 = no limit
	Expiry    uint32 // seconds the session outlives the connection
}

// Connected starts a connection for c and writes CONNACK. present tells that the session existed before;
// assigned is the client identifier when the server chose it. What belonged to an earlier connection and not
// to the session is dropped: aliases, slots of QoS 1 publishes (the client sends them again), bytes not sent.
func (s *Session) Connected(c *packet.Connect, present bool, assigned string) Grant {
	s.version, s.online = c.Version, true
	s.clientMaxPacket = c.MaxPacket
	s.clientAliases = min(c.AliasMaximum, s.limits.AliasOut)
	s.Out = s.Out[:0] // CONNACK comes first, whatever was committed since the last connection // MQTT5 [MQTT-3.2.0-1]
	s.aliases = nil
	s.in1.reset()
	s.in2.reconnect()
	s.out.connected(min(s.limits.MaxInflight, receiveMaximum(c)))
	g := Grant{KeepAlive: c.KeepAlive, Expiry: min(c.SessionExpiry, s.limits.ExpiryMax)}
	if c.Version != packet.V5 {
		g.Expiry = 0
		if !c.CleanStart {
			g.Expiry = s.limits.ExpiryMax // MQTT3 §3.1.2.4: a 3.1.1 session has no expiry of its own
		}
	} else if limit := s.limits.KeepAliveMax; limit > 0 && (g.KeepAlive == 0 || g.KeepAlive > limit) {
		g.KeepAlive = limit // MQTT5 [MQTT-3.2.2-21]
	}
	// The limits are always spelled out, so that no client has to guess (§5 trap).
	s.Out = packet.AppendConnack(s.Out, &packet.Connack{
		SessionPresent: present, // MQTT5 [MQTT-3.2.2-2] [MQTT-3.2.2-3]
		ReceiveMaximum: s.limits.ReceiveMaximum, MaxPacket: s.limits.MaxPacket, AliasMaximum: s.limits.AliasMaximum,
		KeepAlive: g.KeepAlive, AssignedID: assigned,
		HasExpiry: c.Version == packet.V5 && g.Expiry != c.SessionExpiry, SessionExpiry: g.Expiry,
	}, c.Version)
	return g
}

func receiveMaximum(c *packet.Connect) int {
	if c.ReceiveMaximum == 0 {
		return 0xffff // MQTT5 §3.1.2.11.3
	}
	return int(c.ReceiveMaximum)
}

// Lost ends the connection; the session stays as it is for the next one.
func (s *Session) Lost() {
	s.online = false
	s.Out = nil
	s.aliases = nil
	s.out.dropHeld()
}

// Online tells whether a connection is there.
func (s *Session) Online() bool { return s.online }

// Version is the protocol version of the current or last connection.
func (s *Session) Version() byte { return s.version }

// Ping answers PINGREQ. // MQTT5 [MQTT-3.12.4-1]
func (s *Session) Ping() { s.Out = packet.AppendPingresp(s.Out) }

// Suback answers SUBSCRIBE. // MQTT5 [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-6]
func (s *Session) Suback(id uint16, codes []packet.Reason) {
	s.Out = packet.AppendSuback(s.Out, id, codes, s.version)
}

// Unsuback answers UNSUBSCRIBE. // MQTT5 [MQTT-3.10.4-4] [MQTT-3.10.4-5]
func (s *Session) Unsuback(id uint16, codes []packet.Reason) {
	s.Out = packet.AppendUnsuback(s.Out, id, codes, s.version)
}

// Fail writes the DISCONNECT that tells a v5 client why its connection ends. // MQTT5 [MQTT-4.13.1-1]
func (s *Session) Fail(r packet.Reason) {
	if s.online {
		s.Out = packet.AppendDisconnect(s.Out, &packet.Disconnect{Reason: r}, s.version)
	}
}
