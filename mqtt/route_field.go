package mqtt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// payloadField finds a field of a JSON object by path. A string comes unescaped, a number or boolean
// as it is written; null, objects, arrays and missing fields are errors that wrap ErrPayload. value
// must be valid JSON. The result is a view of value or of s.field.
func (s *RouteScratch) payloadField(value []byte, path []string) ([]byte, error) {
	raw := value
	for _, name := range path {
		if raw = jsonMember(raw, name); raw == nil {
			return nil, fmt.Errorf("%w: payload field %q is missing", ErrPayload, strings.Join(path, "."))
		}
	}
	switch raw[0] {
	case '"':
		inner := raw[1 : len(raw)-1]
		if bytes.IndexByte(inner, '\\') < 0 {
			return inner, nil
		}
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, fmt.Errorf("%w: payload field %q: %v", ErrPayload, strings.Join(path, "."), err)
		}
		s.field = append(s.field[:0], text...)
		return s.field, nil
	case '{', '[', 'n':
		return nil, fmt.Errorf("%w: payload field %q is not a string, number or boolean", ErrPayload, strings.Join(path, "."))
	}
	return raw, nil
}

// timestampUnits are units per second.
var timestampUnits = map[string]int64{"": 1e3, "s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}

// maxTimestampMillis is the end of year 9999, past which other tools stop reading timestamps.
const maxTimestampMillis = 253402300799999

// payloadTime reads a timestamp field: a number in the route's unit, or an RFC 3339 string.
func (s *RouteScratch) payloadTime(value []byte, path []string, unit int64) (int64, error) {
	text, err := s.payloadField(value, path)
	if err != nil {
		return 0, err
	}
	ms, ok := parseMillis(text, unit)
	if !ok || ms < 0 || ms > maxTimestampMillis {
		return 0, fmt.Errorf("%w: payload field %q is no timestamp of the years 1970 to 9999", ErrPayload, strings.Join(path, "."))
	}
	return ms, nil
}

func parseMillis(text []byte, unit int64) (int64, bool) {
	if n, ok := parseDigits(text); ok {
		if unit > 1000 {
			return n / (unit / 1000), true
		}
		factor := 1000 / unit
		return n * factor, n <= math.MaxInt64/factor
	}
	if f, err := strconv.ParseFloat(string(text), 64); err == nil {
		f = math.Floor(f * 1000 / float64(unit))
		return int64(f), f >= 0 && f <= maxTimestampMillis
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	return t.UnixMilli(), err == nil
}

// parseDigits reads what nearly every device sends, without the string that strconv wants.
func parseDigits(text []byte) (int64, bool) {
	if len(text) == 0 || len(text) > 18 {
		return 0, false
	}
	n := int64(0)
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// jsonMember is the raw value of an object's member, nil if raw is no object or has none by that
// name. The first of several wins. raw must be valid JSON.
func jsonMember(raw []byte, name string) []byte {
	i := jsonSpace(raw, 0)
	if i >= len(raw) || raw[i] != '{' {
		return nil
	}
	for i++; ; i++ {
		i = jsonSpace(raw, i)
		if i >= len(raw) || raw[i] != '"' {
			return nil // '}': an empty object
		}
		end := jsonStringEnd(raw, i)
		found := jsonNameIs(raw[i:end], name)
		i = jsonSpace(raw, end) + 1 // past ':'
		i = jsonSpace(raw, i)
		end = jsonValueEnd(raw, i)
		if end <= i {
			return nil
		}
		if found {
			return raw[i:end]
		}
		if i = jsonSpace(raw, end); i >= len(raw) || raw[i] != ',' {
			return nil
		}
	}
}

// jsonNameIs compares a quoted JSON string with text.
func jsonNameIs(quoted []byte, text string) bool {
	if len(quoted) < 2 {
		return false
	}
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner) == text
	}
	var s string
	return json.Unmarshal(quoted, &s) == nil && s == text
}

func jsonSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// jsonStringEnd is the index after the string that starts at b[i].
func jsonStringEnd(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// jsonValueEnd is the index after the value that starts at b[i]. It does not recurse.
func jsonValueEnd(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = jsonStringEnd(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			i++
			continue
		}
		if depth == 0 {
			return i
		}
	}
	return i
}
