// Package payload looks into the values of records as devices send them: a JSON object, or a CBOR map with text keys. No byte that begins the one can begin the other, so nobody
// has to say which it is. It is pure, and made for input that nobody has checked: nesting is bounded, and nothing panics.
//
// Third-party modules: fxamacker/cbor.
package payload

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strconv"

	"github.com/fxamacker/cbor/v2"
)

// Format is how a payload is written.
type Format byte

// The formats.
const (
	JSON Format = iota
	CBOR
)

// ErrPayload: it is neither a JSON object nor a CBOR map with text keys, or is nested too deeply.
var ErrPayload = errors.New("neither a JSON object nor a CBOR map with text keys")

// maxNesting bounds arrays and maps within each other, as routes do.
const maxNesting = 32

// maxDigits bounds the text of a number: what is longer is not taken for one.
const maxDigits = 64

// modeCBOR gives nested maps the type that JSON gives them. Of two members with one name the last counts, as in JSON.
var modeCBOR = func() cbor.DecMode {
	m, err := cbor.DecOptions{DefaultMapType: reflect.TypeFor[map[string]any](), MaxNestedLevels: maxNesting}.DecMode()
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return m
}()

// formatOf tells them apart by the first byte.
func formatOf(raw []byte) Format {
	if t := bytes.TrimLeft(raw, " \t\r\n"); len(t) > 0 && t[0] == '{' {
		return JSON
	}
	return CBOR
}

// Fields decodes a payload: numbers are float64, int64 or uint64. Members of a CBOR map whose keys are no text are passed over.
func Fields(raw []byte) (fields map[string]any, err error) {
	if formatOf(raw) == JSON {
		if nesting(raw) > maxNesting {
			return nil, ErrPayload
		}
		err = json.Unmarshal(raw, &fields)
	} else {
		if err = modeCBOR.Unmarshal(raw, &fields); errors.As(err, new(*cbor.UnmarshalTypeError)) && raw[0]>>5 == 5 {
			err = nil
		}
	}
	if err != nil || fields == nil {
		return nil, ErrPayload
	}
	return fields, nil
}

// Members splits a payload into its members, each as its bytes stand there.
func Members(raw []byte) (Format, map[string][]byte, error) {
	members := map[string][]byte{}
	if formatOf(raw) == JSON {
		var found map[string]json.RawMessage
		if nesting(raw) > maxNesting || json.Unmarshal(raw, &found) != nil {
			return JSON, nil, ErrPayload
		}
		for name, v := range found {
			members[name] = v
		}
		return JSON, members, nil
	}
	var found map[string]cbor.RawMessage
	if modeCBOR.Unmarshal(raw, &found) != nil || found == nil {
		return CBOR, nil, ErrPayload
	}
	for name, v := range found {
		members[name] = v
	}
	return CBOR, members, nil
}

// nesting is that of valid JSON, and a bound of work for any other.
func nesting(b []byte) int {
	depth, deepest := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}

// Number reads a member as a finite number.
func Number(f Format, raw []byte) (n float64, ok bool) {
	if len(raw) == 0 || len(raw) > maxDigits {
		return 0, false
	}
	if f == JSON {
		if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
			return 0, false
		}
		n, err := strconv.ParseFloat(string(raw), 64)
		return n, err == nil
	}
	if major := raw[0] >> 5; major > 1 && (major != 7 || raw[0]&31 < 25 || raw[0]&31 > 27) {
		return 0, false
	}
	var v any
	if modeCBOR.Unmarshal(raw, &v) != nil {
		return 0, false
	}
	switch v := v.(type) {
	case uint64:
		n = float64(v)
	case int64:
		n = float64(v)
	case float64:
		n = v
	default:
		return 0, false
	}
	return n, !math.IsInf(n, 0) && !math.IsNaN(n)
}

// Object writes a payload member by member.
type Object struct {
	format Format
	out    []byte
	open   bool // JSON: a member stands there already
}

// Begin starts an object of so many members, within what is written already.
func (o *Object) Begin(f Format, members int) {
	o.format, o.open = f, false
	if f == JSON {
		o.out = append(o.out, '{')
		return
	}
	o.head(5, uint64(members))
}

// Name begins a member.
func (o *Object) Name(name string) {
	if o.format == CBOR {
		o.head(3, uint64(len(name)))
		o.out = append(o.out, name...)
		return
	}
	if o.open {
		o.out = append(o.out, ',')
	}
	o.open = true
	o.out = appendQuoted(o.out, name)
	o.out = append(o.out, ':')
}

// Raw is a member's value as it stood in a payload of the same format.
func (o *Object) Raw(value []byte) { o.out = append(o.out, value...) }

// Float is a finite number.
func (o *Object) Float(n float64) {
	if o.format == JSON {
		text, _ := json.Marshal(n)
		o.out = append(o.out, text...)
		return
	}
	o.out = append(o.out, 7<<5|27)
	o.out = binary.BigEndian.AppendUint64(o.out, math.Float64bits(n))
}

// End closes what Begin began; the one around it goes on.
func (o *Object) End() {
	if o.format == JSON {
		o.out = append(o.out, '}')
	}
	o.open = true
}

// Bytes is the whole.
func (o *Object) Bytes() []byte { return o.out }

// head writes a CBOR item's first bytes in the shortest form.
func (o *Object) head(major byte, n uint64) {
	switch {
	case n < 24:
		o.out = append(o.out, major<<5|byte(n))
	case n < 1<<8:
		o.out = append(o.out, major<<5|24, byte(n))
	case n < 1<<16:
		o.out = binary.BigEndian.AppendUint16(append(o.out, major<<5|25), uint16(n))
	default:
		o.out = binary.BigEndian.AppendUint32(append(o.out, major<<5|26), uint32(n))
	}
}

// appendQuoted writes a JSON string, and leaves alone what only HTML minds.
func appendQuoted(to []byte, s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can always be written
	return append(to, bytes.TrimRight(b.Bytes(), "\n")...)
}
