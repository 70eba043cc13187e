package payload

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func inCBOR(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFieldsOfBothFormats(t *testing.T) {
	for _, raw := range [][]byte{[]byte(` {"a":1.5,"b":{"c":[true,null]},"a":2.5}`), inCBOR(t, map[string]any{"a": 2.5, "b": map[string]any{"c": []any{true, nil}}})} {
		got, err := Fields(raw)
		if want := map[string]any{"a": 2.5, "b": map[string]any{"c": []any{true, nil}}}; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", raw, got, err)
		}
	}
}

// A map that has an integer among its keys can be judged by the others, and not be written again.
func TestOtherKeys(t *testing.T) {
	raw := inCBOR(t, map[any]any{1: 2, "a": 3})
	if f, err := Fields(raw); err != nil || len(f) != 1 || f["a"] != uint64(3) {
		t.Errorf("fields %v, %v", f, err)
	}
	if _, m, err := Members(raw); err == nil {
		t.Errorf("members %v", m)
	}
}

func TestNeither(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for _, raw := range []string{"", "null", "[1]", "{", `{"a":}`, "12", "\xf6", "\x80", "\xa1", "\xbf", deep, strings.Repeat("[", 1<<16), "\xa1\x61a" + strings.Repeat("\x81", 40) + "\x01"} {
		if f, err := Fields([]byte(raw)); err == nil {
			t.Errorf("%.40q has fields %v", raw, f)
		}
		if _, m, err := Members([]byte(raw)); err == nil {
			t.Errorf("%.40q has members %v", raw, m)
		}
	}
}

func TestNumbers(t *testing.T) {
	for raw, want := range map[string]float64{"1": 1, "-2.5e3": -2500, `"1"`: math.NaN(), "true": math.NaN(), "null": math.NaN(), "1e999": math.NaN(), "1" + strings.Repeat("0", 80): math.NaN()} {
		if n, ok := Number(JSON, []byte(raw)); ok == math.IsNaN(want) || ok && n != want {
			t.Errorf("%s is %v, %v", raw, n, ok)
		}
	}
	for _, c := range []struct {
		of   any
		want float64
	}{{7, 7}, {-7, -7}, {1.25, 1.25}, {float32(0.5), 0.5}, {math.Inf(1), math.NaN()}, {math.NaN(), math.NaN()}, {"7", math.NaN()}, {true, math.NaN()}, {nil, math.NaN()}} {
		if n, ok := Number(CBOR, inCBOR(t, c.of)); ok == math.IsNaN(c.want) || ok && n != c.want {
			t.Errorf("%v is %v, %v", c.of, n, ok)
		}
	}
}

// What Object writes, other decoders read.
func TestObjectIsReadBack(t *testing.T) {
	for _, f := range []Format{JSON, CBOR} {
		raw := map[Format][]byte{JSON: []byte(`[1, 2]`), CBOR: inCBOR(t, []any{1, 2})}[f]
		long := strings.Repeat("n", 300)
		var o Object
		o.Begin(f, 3)
		o.Name(`a "<b>"`)
		o.Begin(f, 1)
		o.Name("mean")
		o.Float(0.1)
		o.End()
		o.Name("list")
		o.Raw(raw)
		o.Name(long)
		o.Float(-3)
		o.End()
		got := map[string]any{}
		var err error
		if f == JSON {
			err = json.Unmarshal(o.Bytes(), &got)
		} else {
			err = modeCBOR.Unmarshal(o.Bytes(), &got)
		}
		if inner, _ := got[`a "<b>"`].(map[string]any); err != nil || len(got) != 3 || inner["mean"] != 0.1 || got[long] != -3.0 || len(got["list"].([]any)) != 2 {
			t.Errorf("%d: %v %v", f, got, err)
		}
	}
}

func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"a":1}`))
	f.Add(inCBOR(f, map[string]any{"a": []any{1.5, "x"}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		format, members, err := Members(raw)
		if _, ferr := Fields(raw); (err == nil) && ferr != nil && format == JSON {
			t.Errorf("%q has members and no fields", raw)
		}
		if err != nil {
			return
		}
		var o Object
		o.Begin(format, len(members))
		for name, v := range members {
			Number(format, v)
			o.Name(name)
			o.Raw(v)
		}
		o.End()
		again, back, err := Members(o.Bytes())
		if err != nil || again != format || len(back) != len(members) {
			t.Fatalf("%q became %q: %v", raw, o.Bytes(), err)
		}
		for name, v := range members {
			if !bytes.Equal(back[name], v) {
				t.Fatalf("%q: member %q became %q", raw, v, back[name])
			}
		}
	})
}
