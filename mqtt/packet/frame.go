package packet

// Type is the control packet type, the high four bits of the first byte (MQTT 5 §2.1.2).
type Type byte

// Control packet types.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [16]string{
	"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE",
	"SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

func (t Type) String() string { return typeNames[t&15] }

// Protocol versions as they stand in CONNECT.
const (
	V311 byte = 4
	V5   byte = 5
)

// MaxRemaining is the largest remaining length that four bytes can carry (MQTT 5 §1.5.5).
const MaxRemaining = 268_435_455

// Frame is one whole control packet: a view into the buffer given to Split.
type Frame struct {
	Header byte   // type and flags
	Body   []byte // variable header and payload
	Size   int    // bytes of the packet on the wire, fixed header included
}

// Type returns the control packet type.
func (f Frame) Type() Type { return Type(f.Header >> 4) }

// Split returns the first whole packet of b. It answers ErrShort while b ends before the packet does, and
// judges as early as it can: a bad type, bad flags, an endless length or one above maxSize is refused from
// the first bytes, so that a caller never buffers for a packet it will not take. maxSize counts the whole
// packet; 0 means no limit but the protocol's.
func Split(b []byte, maxSize int) (Frame, error) {
	if len(b) == 0 {
		return Frame{}, ErrShort
	}
	if err := checkFlags(b[0]); err != nil {
		return Frame{}, err
	}
	remaining, n, err := readVarint(b[1:])
	if err != nil {
		return Frame{}, err
	}
	size := 1 + n + remaining
	if maxSize > 0 && size > maxSize {
		return Frame{}, ErrTooLarge
	}
	if len(b) < size {
		return Frame{}, ErrShort
	}
	return Frame{Header: b[0], Body: b[1+n : size : size], Size: size}, nil
}

// checkFlags holds the reserved flag bits of each type to the values that MQTT 5 §2.1.3 fixes.
func checkFlags(h byte) error {
	switch Type(h >> 4) {
	case 0:
		return errType
	case PUBLISH:
		if h&0x06 == 0x06 {
			return errQoS // MQTT5 [MQTT-3.3.1-4]
		}
		if h&0x0e == 0x08 {
			return errDupQoS0 // MQTT5 [MQTT-3.3.1-2]
		}
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		if h&0x0f != 0x02 {
			return errFlags // MQTT5 [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
		}
	default:
		if h&0x0f != 0 {
			return errFlags // MQTT5 [MQTT-2.1.3-1]
		}
	}
	return nil
}

// readVarint decodes a variable byte integer and says how many bytes it took.
func readVarint(b []byte) (v, n int, err error) {
	for n < 4 {
		if n >= len(b) {
			return 0, 0, ErrShort
		}
		c := b[n]
		v |= int(c&0x7f) << (7 * n)
		n++
		if c < 0x80 {
			return v, n, nil
		}
	}
	return 0, 0, errVarint
}

// appendVarint encodes v, which must be within 0..MaxRemaining, in the fewest bytes. // MQTT5 [MQTT-1.5.5-1]
func appendVarint(dst []byte, v int) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// varintSize says how many bytes appendVarint takes for v.
func varintSize(v int) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	default:
		return 4
	}
}
