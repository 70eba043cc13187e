package mqtt

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"unicode/utf8"
)

// transcoder writes one well-formed CBOR item as JSON in one pass, keeping the order of map keys and
// allocating nothing but out. It follows RFC 8949 §6.1: byte strings become base64url without
// padding, NaN and the infinities become null, tags are dropped except bignums, which become numbers.
type transcoder struct {
	in, out []byte
}

// CBOR major types.
const (
	cborUint byte = iota
	cborNegative
	cborBytes
	cborText
	cborArray
	cborMap
	cborTag
	cborSimple
)

const cborBreak = 0xff

func (t *transcoder) value() error {
	major, info, arg, err := t.head()
	if err != nil {
		return err
	}
	switch major {
	case cborUint:
		t.out = strconv.AppendUint(t.out, arg, 10)
		return nil
	case cborNegative:
		t.negative(arg)
		return nil
	case cborBytes:
		return t.byteString(info, arg)
	case cborText:
		return t.textString(info, arg)
	case cborArray:
		return t.array(info, arg)
	case cborMap:
		return t.object(info, arg)
	case cborTag:
		if arg == 2 || arg == 3 {
			return t.bignum(arg == 3)
		}
		return t.value()
	}
	return t.simple(info, arg)
}

// head reads an item's first byte and argument; info 31 is the indefinite length.
func (t *transcoder) head() (major, info byte, arg uint64, err error) {
	if len(t.in) == 0 {
		return 0, 0, 0, t.short()
	}
	major, info = t.in[0]>>5, t.in[0]&31
	t.in = t.in[1:]
	switch {
	case info < 24:
		return major, info, uint64(info), nil
	case info < 28:
		n := 1 << (info - 24)
		if len(t.in) < n {
			return 0, 0, 0, t.short()
		}
		for _, b := range t.in[:n] {
			arg = arg<<8 | uint64(b)
		}
		t.in = t.in[n:]
		return major, info, arg, nil
	case info == 31:
		return major, info, 0, nil
	}
	return 0, 0, 0, fmt.Errorf("%w: reserved CBOR length", ErrPayload)
}

func (t *transcoder) short() error { return fmt.Errorf("%w: CBOR ends early", ErrPayload) }

// negative writes -1-arg, which needs 65 bits.
func (t *transcoder) negative(arg uint64) {
	if arg == math.MaxUint64 {
		t.out = append(t.out, "-18446744073709551616"...)
		return
	}
	t.out = strconv.AppendUint(append(t.out, '-'), arg+1, 10)
}

func (t *transcoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(t.in)) {
		return nil, t.short()
	}
	b := t.in[:n]
	t.in = t.in[n:]
	return b, nil
}

// chunks calls fn for the string's only piece, or for each piece of one of indefinite length.
func (t *transcoder) chunks(info byte, n uint64, fn func([]byte)) error {
	if info != 31 {
		b, err := t.take(n)
		if err == nil {
			fn(b)
		}
		return err
	}
	for !t.atBreak() {
		_, _, n, err := t.head()
		if err != nil {
			return err
		}
		b, err := t.take(n)
		if err != nil {
			return err
		}
		fn(b)
	}
	return nil
}

// atBreak consumes the end of an indefinite item. A missing one ends the loop as well: the next read
// then fails.
func (t *transcoder) atBreak() bool {
	if len(t.in) > 0 && t.in[0] != cborBreak {
		return false
	}
	if len(t.in) > 0 {
		t.in = t.in[1:]
	}
	return true
}

func (t *transcoder) byteString(info byte, n uint64) error {
	t.out = append(t.out, '"')
	if info != 31 {
		b, err := t.take(n)
		if err != nil {
			return err
		}
		t.out = append(base64.RawURLEncoding.AppendEncode(t.out, b), '"')
		return nil
	}
	var whole []byte
	if err := t.chunks(info, n, func(b []byte) { whole = append(whole, b...) }); err != nil {
		return err
	}
	t.out = append(base64.RawURLEncoding.AppendEncode(t.out, whole), '"')
	return nil
}

func (t *transcoder) textString(info byte, n uint64) error {
	if info != 31 {
		b, err := t.take(n)
		if err != nil {
			return err
		}
		return t.quote(b)
	}
	var whole []byte
	if err := t.chunks(info, n, func(b []byte) { whole = append(whole, b...) }); err != nil {
		return err
	}
	return t.quote(whole)
}

const hexDigits = "0123456789abcdef"

// quote writes a JSON string.
func (t *transcoder) quote(b []byte) error {
	if !utf8.Valid(b) {
		return fmt.Errorf("%w: CBOR text is not valid UTF-8", ErrPayload)
	}
	out := append(t.out, '"')
	from := 0
	for i, c := range b {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		out = append(out, b[from:i]...)
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\t':
			out = append(out, '\\', 't')
		case '\r':
			out = append(out, '\\', 'r')
		default:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		from = i + 1
	}
	t.out = append(append(out, b[from:]...), '"')
	return nil
}

func (t *transcoder) array(info byte, n uint64) error {
	t.out = append(t.out, '[')
	for i := uint64(0); ; i++ {
		if info != 31 && i == n || info == 31 && t.atBreak() {
			break
		}
		if i > 0 {
			t.out = append(t.out, ',')
		}
		if err := t.value(); err != nil {
			return err
		}
	}
	t.out = append(t.out, ']')
	return nil
}

func (t *transcoder) object(info byte, n uint64) error {
	t.out = append(t.out, '{')
	for i := uint64(0); ; i++ {
		if info != 31 && i == n || info == 31 && t.atBreak() {
			break
		}
		if i > 0 {
			t.out = append(t.out, ',')
		}
		if err := t.key(); err != nil {
			return err
		}
		t.out = append(t.out, ':')
		if err := t.value(); err != nil {
			return err
		}
	}
	t.out = append(t.out, '}')
	return nil
}

// key writes a map key: text as it is, integers as text, as COSE-like compact maps use them.
func (t *transcoder) key() error {
	if len(t.in) == 0 {
		return t.short()
	}
	switch t.in[0] >> 5 {
	case cborText:
		return t.value()
	case cborUint, cborNegative:
		t.out = append(t.out, '"')
		if err := t.value(); err != nil {
			return err
		}
		t.out = append(t.out, '"')
		return nil
	}
	return fmt.Errorf("%w: a CBOR map key is neither text nor an integer", ErrPayload)
}

// maxBignum bounds the bytes of a bignum: writing n digits in decimal takes time in n².
const maxBignum = 64

func (t *transcoder) bignum(negative bool) error {
	major, info, n, err := t.head()
	if err != nil {
		return err
	}
	if major != cborBytes || info == 31 || n > maxBignum {
		return fmt.Errorf("%w: a CBOR bignum must be one byte string of at most %d bytes", ErrPayload, maxBignum)
	}
	b, err := t.take(n)
	if err != nil {
		return err
	}
	v := new(big.Int).SetBytes(b)
	if negative {
		v.Not(v)
	}
	t.out = v.Append(t.out, 10)
	return nil
}

func (t *transcoder) simple(info byte, arg uint64) error {
	switch info {
	case 20:
		t.out = append(t.out, "false"...)
	case 21:
		t.out = append(t.out, "true"...)
	case 25:
		t.float(float64(halfFloat(uint16(arg))), 32)
	case 26:
		t.float(float64(math.Float32frombits(uint32(arg))), 32)
	case 27:
		t.float(math.Float64frombits(arg), 64)
	case 31:
		return fmt.Errorf("%w: CBOR break outside of an item", ErrPayload)
	default: // null, undefined and simple values that nobody assigned
		t.out = append(t.out, "null"...)
	}
	return nil
}

// float writes a number as encoding/json does: the shortest text that reads back equal.
func (t *transcoder) float(f float64, bits int) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		t.out = append(t.out, "null"...)
		return
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	t.out = strconv.AppendFloat(t.out, f, format, -1, bits)
}

// halfFloat widens an IEEE 754 half.
func halfFloat(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp := uint32(h>>10) & 31
	frac := uint32(h & 0x3ff)
	switch exp {
	case 0:
		f := float32(frac) / (1 << 24)
		if sign != 0 {
			f = -f
		}
		return f
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}
