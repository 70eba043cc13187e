package firmwaresim

import (
	"fmt"
	"math"
	"strconv"
)

// Format is the encoding of payloads and command replies.
type Format uint8

// The formats.
const (
	JSON Format = iota
	CBOR
)

// ParseFormat reads "json" or "cbor".
func ParseFormat(s string) (Format, error) {
	switch s {
	case "json":
		return JSON, nil
	case "cbor":
		return CBOR, nil
	}
	return 0, fmt.Errorf("format %q: want json or cbor", s)
}

func (f Format) String() string {
	if f == CBOR {
		return "cbor"
	}
	return "json"
}

// ContentType is the MQTT 5 content type property that goes with the format.
func (f Format) ContentType() string { return "application/" + f.String() }

// Value is one named field of a reading: a number rounded to Decimals (-1: not at all), a flag, or a text.
type Value struct {
	Name     string
	Kind     Kind
	Number   float64
	Decimals int
	Flag     bool
	Text     string
}

// Kind says which part of a Value counts.
type Kind uint8

// The kinds of values.
const (
	Number Kind = iota
	Flag
	Text
)

// AppendPayload appends a map of seq, ts (milliseconds, by the device's clock) and the values, in that order.
func AppendPayload(dst []byte, f Format, seq, ts int64, values []Value) []byte {
	if f == CBOR {
		return appendCBOR(dst, seq, ts, values)
	}
	return appendJSON(dst, seq, ts, values)
}

func appendJSON(dst []byte, seq, ts int64, values []Value) []byte {
	dst = append(dst, `{"seq":`...)
	dst = strconv.AppendInt(dst, seq, 10)
	dst = append(dst, `,"ts":`...)
	dst = strconv.AppendInt(dst, ts, 10)
	for i := range values {
		v := &values[i]
		dst = append(dst, ',', '"')
		dst = append(dst, v.Name...)
		dst = append(dst, '"', ':')
		switch v.Kind {
		case Flag:
			dst = strconv.AppendBool(dst, v.Flag)
		case Text:
			dst = strconv.AppendQuote(dst, v.Text) // texts are our own ASCII words
		default:
			dst = strconv.AppendFloat(dst, v.Number, 'f', v.Decimals, 64)
		}
	}
	return append(dst, '}')
}

// CBOR major types (RFC 8949 §3.1).
const (
	cborUint  = 0 << 5
	cborNeg   = 1 << 5
	cborText  = 3 << 5
	cborMap   = 5 << 5
	cborFalse = 0xf4
	cborTrue  = 0xf5
	cborFloat = 0xfb
)

func appendCBOR(dst []byte, seq, ts int64, values []Value) []byte {
	dst = appendHead(dst, cborMap, uint64(len(values)+2))
	dst = appendInt(appendText(dst, "seq"), seq)
	dst = appendInt(appendText(dst, "ts"), ts)
	for i := range values {
		v := &values[i]
		dst = appendText(dst, v.Name)
		switch v.Kind {
		case Flag:
			if v.Flag {
				dst = append(dst, cborTrue)
			} else {
				dst = append(dst, cborFalse)
			}
		case Text:
			dst = appendText(dst, v.Text)
		default:
			dst = appendNumber(dst, v.Number, v.Decimals)
		}
	}
	return dst
}

// appendNumber writes whole numbers as integers and the rest as float64, both as the JSON form would read them.
func appendNumber(dst []byte, x float64, decimals int) []byte {
	if decimals >= 0 {
		scale := math.Pow10(decimals)
		x = math.Round(x*scale) / scale
	}
	if decimals == 0 && math.Abs(x) < 1<<53 {
		return appendInt(dst, int64(x))
	}
	dst = append(dst, cborFloat)
	return appendBE(dst, math.Float64bits(x), 8)
}

func appendInt(dst []byte, v int64) []byte {
	if v < 0 {
		return appendHead(dst, cborNeg, uint64(-1-v))
	}
	return appendHead(dst, cborUint, uint64(v))
}

func appendText(dst []byte, s string) []byte {
	return append(appendHead(dst, cborText, uint64(len(s))), s...)
}

// appendHead writes an initial byte and its argument in the shortest form.
func appendHead(dst []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n <= math.MaxUint8:
		return append(dst, major|24, byte(n))
	case n <= math.MaxUint16:
		return appendBE(append(dst, major|25), n, 2)
	case n <= math.MaxUint32:
		return appendBE(append(dst, major|26), n, 4)
	}
	return appendBE(append(dst, major|27), n, 8)
}

func appendBE(dst []byte, n uint64, size int) []byte {
	for s := 8 * (size - 1); s >= 0; s -= 8 {
		dst = append(dst, byte(n>>s))
	}
	return dst
}
