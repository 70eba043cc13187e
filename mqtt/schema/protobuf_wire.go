package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// protoKind is how a field's bytes are read.
type protoKind byte

const (
	kindVarint protoKind = iota
	kindFixed64
	kindFixed32
	kindBytes
	kindString
	kindEnum
	kindMessage
	kindGroup
)

var protoKinds = map[string]protoKind{
	"int32": kindVarint, "int64": kindVarint, "uint32": kindVarint, "uint64": kindVarint, "sint32": kindVarint, "sint64": kindVarint, "bool": kindVarint,
	"double": kindFixed64, "fixed64": kindFixed64, "sfixed64": kindFixed64, "float": kindFixed32, "fixed32": kindFixed32, "sfixed32": kindFixed32,
	"bytes": kindBytes, "string": kindString,
}

// Wire types, as in https://protobuf.dev/programming-guides/encoding/.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireLength  = 2
	wireStart   = 3
	wireEnd     = 4
	wireFixed32 = 5
)

var wireOf = [...]int{
	kindVarint: wireVarint, kindFixed64: wireFixed64, kindFixed32: wireFixed32, kindBytes: wireLength, kindString: wireLength, kindEnum: wireVarint,
	kindMessage: wireLength, kindGroup: wireStart,
}

const maxProtoDepth = 100 // of messages within each other, as libraries have it

var errProtoShort = errors.New("it ends early")

// check walks the payload once and builds nothing. Libraries take fields that they do not know for those of a newer schema, and values of a wrong type for such fields;
// a payload with such fields is not one of this schema, and is refused.
func (c *protoChecker) check(payload []byte) error {
	_, err := c.message.walk(payload, 0, 0)
	return err
}

// toJSON is not made for Protobuf: routes do not offer it.
func (c *protoChecker) toJSON(_, _ []byte) ([]byte, error) {
	return nil, errors.New("JSON is not made of Protobuf")
}

// walk checks a message and returns what is behind it: nothing, or for a group, whose number is given, what follows its end.
func (m *protoMessage) walk(b []byte, group, depth int) (rest []byte, err error) {
	if depth > maxProtoDepth {
		return nil, fmt.Errorf("messages are nested deeper than %d", maxProtoDepth)
	}
	var seen []bool // by the place in m.required
	if len(m.required) > 0 {
		seen = make([]bool, len(m.required))
	}
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errProtoShort
		}
		b = b[n:]
		number, wire := int(min(tag>>3, maxFieldNumber+1)), int(tag&7)
		if number < 1 || number > maxFieldNumber {
			return nil, fmt.Errorf("%s has a field without a legal number", m.name)
		}
		if wire == wireEnd {
			if number != group {
				return nil, errors.New("a group ends that was not begun")
			}
			return b, m.complete(seen)
		}
		f := m.fields[number]
		if f == nil {
			if !m.extensible(number) {
				return nil, fmt.Errorf("%s has no field %d", m.name, number)
			}
			if b, err = skip(b, number, wire, depth); err != nil {
				return nil, err
			}
			continue
		}
		if b, err = f.value(b, number, wire, depth); err != nil {
			return nil, err
		}
		for i, r := range m.required {
			if r == number {
				seen[i] = true
			}
		}
	}
	if group != 0 {
		return nil, errProtoShort
	}
	return nil, m.complete(seen)
}

// complete tells whether all required fields were there.
func (m *protoMessage) complete(seen []bool) error {
	for i, ok := range seen {
		if !ok {
			return fmt.Errorf("%s lacks its required field %s", m.name, m.fields[m.required[i]].name)
		}
	}
	return nil
}

func (m *protoMessage) extensible(number int) bool {
	for _, r := range m.open {
		if number >= r.From && (number <= r.To || r.Max) {
			return true
		}
	}
	return false
}

// value checks one value of a field and returns what is behind it.
func (f *protoField) value(b []byte, number, wire, depth int) (rest []byte, err error) {
	if want := wireOf[f.kind]; wire != want && !(f.repeated && wire == wireLength && (want == wireVarint || want == wireFixed64 || want == wireFixed32)) {
		return nil, fmt.Errorf("field %s has wire type %d, not %d", f.name, wire, want)
	}
	if wire == wireStart {
		return f.message.walk(b, number, depth+1)
	}
	if wire != wireLength {
		return f.scalar(b)
	}
	part, rest, err := lengthDelimited(b)
	if err != nil {
		return nil, fmt.Errorf("field %s: %w", f.name, err)
	}
	switch f.kind {
	case kindBytes:
	case kindString:
		if !utf8.Valid(part) {
			return nil, fmt.Errorf("field %s is not valid UTF-8", f.name)
		}
	case kindMessage:
		_, err = f.message.walk(part, 0, depth+1)
	default: // packed
		for len(part) > 0 && err == nil {
			part, err = f.scalar(part)
		}
	}
	return rest, err
}

func (f *protoField) scalar(b []byte) (rest []byte, err error) {
	size := 8
	switch f.kind {
	case kindFixed64:
	case kindFixed32:
		size = 4
	default:
		var v uint64
		v, size = binary.Uvarint(b)
		if f.kind == kindEnum && size > 0 && f.values != nil && !f.values[int(int32(v))] {
			return nil, fmt.Errorf("field %s has no value %d", f.name, int32(v))
		}
	}
	if size <= 0 || size > len(b) {
		return nil, fmt.Errorf("field %s: %w", f.name, errProtoShort)
	}
	return b[size:], nil
}

func lengthDelimited(b []byte) (part, rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, errProtoShort
	}
	b = b[n:]
	return b[:size], b[size:], nil
}

// skip passes over a field of an extension that is not known.
func skip(b []byte, number, wire, depth int) (rest []byte, err error) {
	size := 0
	switch wire {
	case wireVarint:
		_, size = binary.Uvarint(b)
	case wireFixed64:
		size = 8
	case wireFixed32:
		size = 4
	case wireLength:
		_, rest, err = lengthDelimited(b)
		return rest, err
	case wireStart:
		any := protoMessage{open: anyNumber}
		return any.walk(b, number, depth+1)
	default:
		return nil, fmt.Errorf("there is no wire type %d", wire)
	}
	if size <= 0 || size > len(b) {
		return nil, errProtoShort
	}
	return b[size:], nil
}
