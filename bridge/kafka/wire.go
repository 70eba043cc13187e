package kafka

import "encoding/binary"

// decoder reads Kafka's primitive types off a slice, for the hot path and for headers.
// After the first short or senseless value bad is set and every further value is zero.
// Byte slices are views.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) int8() int8 {
	if v := d.take(1); v != nil {
		return int8(v[0])
	}
	return 0
}

func (d *decoder) int16() int16 {
	if v := d.take(2); v != nil {
		return int16(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (d *decoder) int32() int32 {
	if v := d.take(4); v != nil {
		return int32(binary.BigEndian.Uint32(v))
	}
	return 0
}

func (d *decoder) int64() int64 {
	if v := d.take(8); v != nil {
		return int64(binary.BigEndian.Uint64(v))
	}
	return 0
}

func (d *decoder) uvarint() uint32 {
	var v uint32
	for i := range 5 {
		if i == len(d.b) {
			break
		}
		c := d.b[i]
		if i == 4 && c > 0x0f {
			break
		}
		v |= uint32(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.b = d.b[i+1:]
			return v
		}
	}
	d.bad, d.b = true, nil
	return 0
}

// bytes16 is a nullable string: int16 length, -1 for null (nil).
func (d *decoder) bytes16() []byte {
	n := d.int16()
	if n == -1 {
		return nil
	}
	return d.take(int(n))
}

// bytes32 is nullable bytes: int32 length, -1 for null (nil).
func (d *decoder) bytes32() []byte {
	n := d.int32()
	if n == -1 {
		return nil
	}
	return d.take(int(n))
}

// compact is a compact nullable string or bytes: uvarint length + 1, 0 for null (nil).
func (d *decoder) compact() []byte {
	n := d.uvarint()
	if n == 0 {
		return nil
	}
	if n-1 > uint32(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	return d.take(int(n - 1))
}

func (d *decoder) string(flexible bool) []byte {
	if flexible {
		return d.compact()
	}
	return d.bytes16()
}

func (d *decoder) blob(flexible bool) []byte {
	if flexible {
		return d.compact()
	}
	return d.bytes32()
}

// array is the number of elements that follow, each of at least minSize bytes: a count
// that the rest of the frame cannot hold is bad, so nothing is ever sized by a lie. A null
// array is as good as an empty one.
func (d *decoder) array(flexible bool, minSize int) int {
	var n int64
	if flexible {
		n = int64(d.uvarint()) - 1
	} else {
		n = int64(d.int32())
	}
	if d.bad || n < -1 || n*int64(minSize) > int64(len(d.b)) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(max(n, 0))
}

// tags skips tagged fields.
func (d *decoder) tags() {
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		d.uvarint()
		if size := d.uvarint(); size > uint32(len(d.b)) {
			d.bad, d.b = true, nil
		} else {
			d.take(int(size))
		}
	}
}

func appendUvarint(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

func appendInt16(b []byte, v int16) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }
func appendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }
func appendInt64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

func appendArray(b []byte, n int, flexible bool) []byte {
	if flexible {
		return appendUvarint(b, uint32(n+1))
	}
	return appendInt32(b, int32(n))
}

func appendString[S ~string | ~[]byte](b []byte, s S, flexible bool) []byte {
	if flexible {
		b = appendUvarint(b, uint32(len(s)+1))
	} else {
		b = appendInt16(b, int16(len(s)))
	}
	return append(b, s...)
}
