package mqtt

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// decodeMode is what a route does to payloads before they are stored.
type decodeMode byte

const (
	decodeNone decodeMode = iota
	decodeJSON
	decodeCBOR
	decodeAvro // by the route's schema
)

var decodeModes = map[string]decodeMode{"": decodeNone, "none": decodeNone, "json": decodeJSON, "cbor": decodeCBOR, "avro": decodeAvro}

// maxNesting bounds arrays and maps within each other, in JSON and CBOR alike.
const maxNesting = 32

// cborMode refuses what a constrained device has no reason to send and what would cost us recursion.
var cborMode = func() cbor.DecMode {
	m, err := cbor.DecOptions{MaxNestedLevels: maxNesting, IndefLength: cbor.IndefLengthAllowed}.DecMode()
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return m
}()

// toJSON checks the payload and returns it as JSON: itself when it is JSON already, else appended to
// dst. Errors wrap ErrPayload.
func (m decodeMode) toJSON(dst, payload []byte) ([]byte, error) {
	if m == decodeJSON {
		// encoding/json lets invalid UTF-8 pass inside strings; other parsers do not.
		if !json.Valid(payload) || !utf8.Valid(payload) {
			return nil, fmt.Errorf("%w: not valid JSON", ErrPayload)
		}
		if jsonDepth(payload) > maxNesting {
			return nil, fmt.Errorf("%w: JSON nested deeper than %d", ErrPayload, maxNesting)
		}
		return payload, nil
	}
	if err := cborMode.Wellformed(payload); err != nil {
		return nil, fmt.Errorf("%w: not valid CBOR: %v", ErrPayload, err)
	}
	t := transcoder{in: payload, out: dst}
	if err := t.value(); err != nil {
		return nil, err
	}
	if len(t.in) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the CBOR item", ErrPayload, len(t.in))
	}
	return t.out, nil
}

// jsonDepth is the nesting of valid JSON.
func jsonDepth(b []byte) int {
	depth, deepest := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i = jsonStringEnd(b, i) - 1
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		}
	}
	return deepest
}
