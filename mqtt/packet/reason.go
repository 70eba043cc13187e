package packet

import "strconv"

// Reason is an MQTT 5 reason code (§2.4). Values from 0x80 up are refusals.
type Reason byte

// Reason codes that a server sends or receives.
const (
	Success                     Reason = 0x00
	GrantedQoS1                 Reason = 0x01
	GrantedQoS2                 Reason = 0x02
	DisconnectWithWill          Reason = 0x04
	NoMatchingSubscribers       Reason = 0x10
	NoSubscriptionExisted       Reason = 0x11
	ContinueAuthentication      Reason = 0x18
	ReAuthenticate              Reason = 0x19
	UnspecifiedError            Reason = 0x80
	MalformedPacket             Reason = 0x81
	ProtocolError               Reason = 0x82
	ImplementationSpecificError Reason = 0x83
	UnsupportedProtocolVersion  Reason = 0x84
	ClientIdentifierNotValid    Reason = 0x85
	BadUserNameOrPassword       Reason = 0x86
	NotAuthorized               Reason = 0x87
	ServerUnavailable           Reason = 0x88
	ServerBusy                  Reason = 0x89
	Banned                      Reason = 0x8a
	ServerShuttingDown          Reason = 0x8b
	BadAuthenticationMethod     Reason = 0x8c
	KeepAliveTimeout            Reason = 0x8d
	SessionTakenOver            Reason = 0x8e
	TopicFilterInvalid          Reason = 0x8f
	TopicNameInvalid            Reason = 0x90
	PacketIdentifierInUse       Reason = 0x91
	PacketIdentifierNotFound    Reason = 0x92
	ReceiveMaximumExceeded      Reason = 0x93
	TopicAliasInvalid           Reason = 0x94
	PacketTooLarge              Reason = 0x95
	MessageRateTooHigh          Reason = 0x96
	QuotaExceeded               Reason = 0x97
	AdministrativeAction        Reason = 0x98
	PayloadFormatInvalid        Reason = 0x99
	RetainNotSupported          Reason = 0x9a
	QoSNotSupported             Reason = 0x9b
	UseAnotherServer            Reason = 0x9c
	ServerMoved                 Reason = 0x9d
	SharedSubsNotSupported      Reason = 0x9e
	ConnectionRateExceeded      Reason = 0x9f
	MaximumConnectTime          Reason = 0xa0
	SubscriptionIDsNotSupported Reason = 0xa1
	WildcardSubsNotSupported    Reason = 0xa2
)

var reasonNames = map[Reason]string{
	Success: "success", GrantedQoS1: "granted QoS 1", GrantedQoS2: "granted QoS 2",
	DisconnectWithWill: "disconnect with will message", NoMatchingSubscribers: "no matching subscribers",
	NoSubscriptionExisted: "no subscription existed", ContinueAuthentication: "continue authentication",
	ReAuthenticate: "re-authenticate", UnspecifiedError: "unspecified error", MalformedPacket: "malformed packet",
	ProtocolError: "protocol error", ImplementationSpecificError: "implementation specific error",
	UnsupportedProtocolVersion: "unsupported protocol version", ClientIdentifierNotValid: "client identifier not valid",
	BadUserNameOrPassword: "bad user name or password", NotAuthorized: "not authorized",
	ServerUnavailable: "server unavailable", ServerBusy: "server busy", Banned: "banned",
	ServerShuttingDown: "server shutting down", BadAuthenticationMethod: "bad authentication method",
	KeepAliveTimeout: "keep alive timeout", SessionTakenOver: "session taken over",
	TopicFilterInvalid: "topic filter invalid", TopicNameInvalid: "topic name invalid",
	PacketIdentifierInUse: "packet identifier in use", PacketIdentifierNotFound: "packet identifier not found",
	ReceiveMaximumExceeded: "receive maximum exceeded", TopicAliasInvalid: "topic alias invalid",
	PacketTooLarge: "packet too large", MessageRateTooHigh: "message rate too high", QuotaExceeded: "quota exceeded",
	AdministrativeAction: "administrative action", PayloadFormatInvalid: "payload format invalid",
	RetainNotSupported: "retain not supported", QoSNotSupported: "QoS not supported",
	UseAnotherServer: "use another server", ServerMoved: "server moved",
	SharedSubsNotSupported: "shared subscriptions not supported", ConnectionRateExceeded: "connection rate exceeded",
	MaximumConnectTime: "maximum connect time", SubscriptionIDsNotSupported: "subscription identifiers not supported",
	WildcardSubsNotSupported: "wildcard subscriptions not supported",
}

func (r Reason) String() string {
	if s, ok := reasonNames[r]; ok {
		return s
	}
	return "reason 0x" + strconv.FormatUint(uint64(r), 16)
}

// ConnackV311 maps a refusal to the return code of MQTT 3.1.1 §3.2.2.3, which has only five.
func (r Reason) ConnackV311() byte {
	switch r {
	case Success:
		return 0
	case UnsupportedProtocolVersion:
		return 1
	case ClientIdentifierNotValid:
		return 2
	case BadUserNameOrPassword, BadAuthenticationMethod:
		return 4
	case NotAuthorized, Banned:
		return 5
	default:
		return 3
	}
}

// Error is what a decoder says of bytes that are not a packet it may act on.
type Error struct {
	Reason Reason // for DISCONNECT or CONNACK
	Detail string
}

func (e *Error) Error() string { return e.Reason.String() + ": " + e.Detail }

// ErrShort says that the buffer ends before the packet does: read more and ask again.
var ErrShort = &Error{MalformedPacket, "packet is cut short"}

// ErrTooLarge says that the packet announces more bytes than the receiver takes.
var ErrTooLarge = &Error{PacketTooLarge, "packet is larger than the maximum packet size"}

// ErrVersion says that CONNECT names a protocol or version other than MQTT 3.1.1 and 5.
var ErrVersion = &Error{UnsupportedProtocolVersion, "protocol version is neither MQTT 3.1.1 nor 5"}

// Static, because a flood of bad packets must not become a flood of garbage.
var (
	errType       = &Error{MalformedPacket, "packet type 0 is reserved"}
	errFlags      = &Error{MalformedPacket, "reserved flag bits of the fixed header are wrong"}
	errQoS        = &Error{MalformedPacket, "QoS 3 does not exist"}
	errDupQoS0    = &Error{ProtocolError, "DUP is set on a QoS 0 PUBLISH"}
	errVarint     = &Error{MalformedPacket, "variable byte integer is longer than four bytes"}
	errField      = &Error{MalformedPacket, "a field ends past the packet"}
	errTrailing   = &Error{MalformedPacket, "bytes follow the last field"}
	errUTF8       = &Error{MalformedPacket, "a string is not valid UTF-8 or contains U+0000"}
	errPacketID   = &Error{ProtocolError, "packet identifier is 0"}
	errPropID     = &Error{MalformedPacket, "property does not belong in this packet"}
	errPropTwice  = &Error{ProtocolError, "a property that may stand once stands twice"}
	errPropRange  = &Error{ProtocolError, "property value is out of range"}
	errPropCount  = &Error{QuotaExceeded, "more user properties than the server takes"}
	errAlias0     = &Error{TopicAliasInvalid, "topic alias is 0"}
	errTopicWild  = &Error{TopicNameInvalid, "topic name contains a wildcard"}
	errTopicEmpty = &Error{ProtocolError, "topic name is empty and there is no topic alias"}
	errRespWild   = &Error{ProtocolError, "response topic contains a wildcard"}
	errSubIDPub   = &Error{ProtocolError, "a client's PUBLISH carries a subscription identifier"}
	errAckReason  = &Error{MalformedPacket, "reason code does not belong in this packet"}
)
