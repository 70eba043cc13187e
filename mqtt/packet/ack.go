package packet

import "encoding/binary"

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP. Reason strings and user properties are checked and dropped:
// nothing in the server depends on them.
type Ack struct {
	Type   Type
	ID     uint16
	Reason Reason // Success for 3.1.1
}

// ackReasons lists, by type, the reasons that MQTT 5 tables 3-4 to 3-7 allow.
var ackReasons = map[Type][]Reason{
	PUBACK: {Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecificError, NotAuthorized,
		TopicNameInvalid, PacketIdentifierInUse, QuotaExceeded, PayloadFormatInvalid},
	PUBREC: {Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecificError, NotAuthorized,
		TopicNameInvalid, PacketIdentifierInUse, QuotaExceeded, PayloadFormatInvalid},
	PUBREL:  {Success, PacketIdentifierNotFound},
	PUBCOMP: {Success, PacketIdentifierNotFound},
}

// DecodeAck decodes the four packets of an acknowledged delivery.
func DecodeAck(f Frame, version byte) (Ack, error) {
	a := Ack{Type: f.Type()}
	b := f.Body
	if len(b) < 2 {
		return a, errField
	}
	if a.ID = binary.BigEndian.Uint16(b); a.ID == 0 {
		return a, errPacketID // MQTT5 [MQTT-2.2.1-3]
	}
	if b = b[2:]; len(b) == 0 {
		return a, nil
	}
	if version != V5 {
		return a, errTrailing
	}
	a.Reason = Reason(b[0])
	if a.Reason != Success && !allowed(ackReasons[a.Type], a.Reason) {
		return a, errAckReason // MQTT5 [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
	}
	if b = b[1:]; len(b) == 0 {
		return a, nil
	}
	rest, err := checkProps(a.Type, b)
	if err == nil && len(rest) > 0 {
		err = errTrailing
	}
	return a, err
}

func allowed(set []Reason, r Reason) bool {
	for _, s := range set {
		if s == r {
			return true
		}
	}
	return false
}

// AppendAck encodes a PUBACK, PUBREC, PUBREL or PUBCOMP. For 3.1.1 the reason is left out: that version has
// no negative acknowledgement, so a caller must not come here with a refusal.
func AppendAck(dst []byte, t Type, id uint16, r Reason, version byte) []byte {
	h := byte(t) << 4
	if t == PUBREL {
		h |= 2 // MQTT5 [MQTT-3.6.1-1]
	}
	if r == Success || version != V5 {
		return append(dst, h, 2, byte(id>>8), byte(id))
	}
	return append(dst, h, 3, byte(id>>8), byte(id), byte(r))
}

// AppendPingresp encodes PINGRESP.
func AppendPingresp(dst []byte) []byte { return append(dst, byte(PINGRESP)<<4, 0) }

// DecodePing refuses a PINGREQ that carries anything.
func DecodePing(f Frame) error {
	if len(f.Body) > 0 {
		return errTrailing
	}
	return nil
}
