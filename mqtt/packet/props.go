package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// Property identifiers (MQTT 5 §2.2.2.2).
const (
	propPayloadFormat   = 1
	propExpiry          = 2
	propContentType     = 3
	propResponseTopic   = 8
	propCorrelation     = 9
	propSubscriptionID  = 11
	propSessionExpiry   = 17
	propAssignedID      = 18
	propServerKeepAlive = 19
	propAuthMethod      = 21
	propAuthData        = 22
	propProblemInfo     = 23
	propWillDelay       = 24
	propResponseInfoReq = 25
	propResponseInfo    = 26
	propServerReference = 28
	propReasonString    = 31
	propReceiveMaximum  = 33
	propAliasMaximum    = 34
	propTopicAlias      = 35
	propMaximumQoS      = 36
	propRetainAvailable = 37
	propUser            = 38
	propMaximumPacket   = 39
	propWildcardAvail   = 40
	propSubIDAvail      = 41
	propSharedAvail     = 42
)

// willProps stands for the will properties inside CONNECT, which have a set of their own.
const willProps Type = 0

// MaxUserProperties bounds the user properties of one packet: each becomes a record header.
const MaxUserProperties = 256

type propKind byte

const (
	kindByte propKind = iota + 1
	kindFlag          // a byte that must be 0 or 1
	kindU16
	kindU16NonZero
	kindU32
	kindU32NonZero
	kindVarint
	kindBytes
	kindString
	kindPair
)

// propTable says how each property is encoded and, bit per Type, where it may stand.
var propTable = [43]struct {
	kind propKind
	in   uint16
}{
	propPayloadFormat:   {kindFlag, in(PUBLISH, willProps)},
	propExpiry:          {kindU32, in(PUBLISH, willProps)},
	propContentType:     {kindString, in(PUBLISH, willProps)},
	propResponseTopic:   {kindString, in(PUBLISH, willProps)},
	propCorrelation:     {kindBytes, in(PUBLISH, willProps)},
	propSubscriptionID:  {kindVarint, in(PUBLISH, SUBSCRIBE)},
	propSessionExpiry:   {kindU32, in(CONNECT, CONNACK, DISCONNECT)},
	propAssignedID:      {kindString, in(CONNACK)},
	propServerKeepAlive: {kindU16, in(CONNACK)},
	propAuthMethod:      {kindString, in(CONNECT, CONNACK, AUTH)},
	propAuthData:        {kindBytes, in(CONNECT, CONNACK, AUTH)},
	propProblemInfo:     {kindFlag, in(CONNECT)},
	propWillDelay:       {kindU32, in(willProps)},
	propResponseInfoReq: {kindFlag, in(CONNECT)},
	propResponseInfo:    {kindString, in(CONNACK)},
	propServerReference: {kindString, in(CONNACK, DISCONNECT)},
	propReasonString:    {kindString, in(CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH)},
	propReceiveMaximum:  {kindU16NonZero, in(CONNECT, CONNACK)},
	propAliasMaximum:    {kindU16, in(CONNECT, CONNACK)},
	propTopicAlias:      {kindU16, in(PUBLISH)},
	propMaximumQoS:      {kindFlag, in(CONNACK)},
	propRetainAvailable: {kindFlag, in(CONNACK)},
	propUser: {kindPair, in(CONNECT, CONNACK, PUBLISH, willProps, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK,
		UNSUBSCRIBE, UNSUBACK, DISCONNECT, AUTH)},
	propMaximumPacket: {kindU32NonZero, in(CONNECT, CONNACK)},
	propWildcardAvail: {kindFlag, in(CONNACK)},
	propSubIDAvail:    {kindFlag, in(CONNACK)},
	propSharedAvail:   {kindFlag, in(CONNACK)},
}

func in(types ...Type) (set uint16) {
	for _, t := range types {
		set |= 1 << t
	}
	return set
}

// property is one decoded property; which fields hold depends on its kind.
type property struct {
	id    byte
	num   uint32
	bytes []byte // string, binary, or the name of a user property
	value []byte // of a user property
}

// props walks the property list of one packet and refuses what the specification forbids: unknown ids,
// ids of other packets, repeats, values out of range, bad UTF-8.
type props struct {
	rest []byte
	typ  Type
	seen uint64
	user int
}

// openProps reads the property length at the head of b, and returns the walker and what follows the list.
func openProps(t Type, b []byte) (p props, rest []byte, err error) {
	n, size, err := readVarint(b)
	if err != nil {
		return props{}, nil, err
	}
	b = b[size:]
	if n > len(b) {
		return props{}, nil, errField
	}
	return props{rest: b[:n:n], typ: t}, b[n:], nil
}

// next decodes one property into out; false at the end of the list.
func (p *props) next(out *property) (bool, error) {
	if len(p.rest) == 0 {
		return false, nil
	}
	id := p.rest[0]
	if int(id) >= len(propTable) || propTable[id].kind == 0 || propTable[id].in&(1<<p.typ) == 0 {
		return false, errPropID
	}
	*out = property{id: id}
	if err := p.once(id); err != nil {
		return false, err
	}
	rest, err := out.decode(propTable[id].kind, p.rest[1:])
	if err != nil {
		return false, err
	}
	p.rest = rest
	return true, nil
}

// once refuses repeats. User properties may repeat, and so may the subscription identifiers that a server
// puts into PUBLISH (§3.3.2.3.8). // MQTT5 [MQTT-3.3.2-18]
func (p *props) once(id byte) error {
	if id == propUser {
		if p.user++; p.user > MaxUserProperties {
			return errPropCount
		}
		return nil
	}
	if p.seen&(1<<id) != 0 && !(id == propSubscriptionID && p.typ == PUBLISH) {
		return errPropTwice
	}
	p.seen |= 1 << id
	return nil
}

func (q *property) decode(k propKind, b []byte) (rest []byte, err error) {
	switch k {
	case kindByte, kindFlag:
		if len(b) < 1 {
			return nil, errField
		}
		if k == kindFlag && b[0] > 1 {
			return nil, errPropRange
		}
		q.num = uint32(b[0])
		return b[1:], nil
	case kindU16, kindU16NonZero:
		if len(b) < 2 {
			return nil, errField
		}
		q.num = uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	case kindU32, kindU32NonZero:
		if len(b) < 4 {
			return nil, errField
		}
		q.num = binary.BigEndian.Uint32(b)
		b = b[4:]
	case kindVarint:
		v, n, err := readVarint(b)
		if err != nil {
			return nil, err
		}
		if v == 0 {
			return nil, errPropRange
		}
		q.num = uint32(v)
		return b[n:], nil
	case kindBytes:
		q.bytes, rest, err = readBytes(b)
		return rest, err
	case kindString:
		q.bytes, rest, err = readString(b)
		return rest, err
	case kindPair:
		if q.bytes, b, err = readString(b); err != nil {
			return nil, err
		}
		q.value, rest, err = readString(b)
		return rest, err
	}
	if q.num == 0 && (k == kindU16NonZero || k == kindU32NonZero) {
		return nil, errPropRange
	}
	return b, nil
}

// checkProps walks a list for its faults alone and returns what follows it.
func checkProps(t Type, b []byte) (rest []byte, err error) {
	p, rest, err := openProps(t, b)
	if err != nil {
		return nil, err
	}
	var q property
	for {
		more, err := p.next(&q)
		if err != nil {
			return nil, err
		}
		if !more {
			return rest, nil
		}
	}
}

func readBytes(b []byte) (v, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errField
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, errField
	}
	return b[2 : 2+n : 2+n], b[2+n:], nil
}

func readString(b []byte) (v, rest []byte, err error) {
	if v, rest, err = readBytes(b); err != nil {
		return nil, nil, err
	}
	if !ValidUTF8(v) {
		return nil, nil, errUTF8
	}
	return v, rest, nil
}

// ValidUTF8 tells whether b may stand in an MQTT string: well formed, without surrogates and without U+0000.
// MQTT5 [MQTT-1.5.4-1] [MQTT-1.5.4-2]
func ValidUTF8(b []byte) bool {
	return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
}

func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}
