package kafka

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// randomize fills every field of a request, arrays with up to three elements.
func randomize(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "Version" && name != "UnknownTags" && v.Field(i).CanSet() {
				randomize(v.Field(i), r)
			}
		}
		if tags := v.FieldByName("UnknownTags"); tags.IsValid() && r.IntN(3) == 0 {
			tags.Addr().Interface().(*kmsg.Tags).Set(1000+uint32(r.IntN(9)), make([]byte, r.IntN(5)))
		}
	case reflect.Pointer:
		if r.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			randomize(v.Elem(), r)
		}
	case reflect.Slice:
		n := r.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			randomize(v.Index(i), r)
		}
	case reflect.Array:
		for i := range v.Len() {
			randomize(v.Index(i), r)
		}
	case reflect.String:
		v.SetString(string(make([]byte, r.IntN(200))))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Uint64()) >> (64 - v.Type().Bits()))
	case reflect.Uint8:
		v.SetUint(r.Uint64() & 0xff)
	}
}

// TestShapesFitTheMessages: what kmsg encodes is walked over to its last byte, and any cut
// is noticed.
func TestShapesFitTheMessages(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	apis, _ := table()
	for key, a := range apis {
		if a.raw != nil {
			continue
		}
		for version := max(a.min, a.flexible); version <= a.max; version++ {
			if a.shape == nil {
				t.Errorf("key %d version %d is flexible and has no shape", key, version)
				break
			}
			for range 200 {
				req := kmsg.RequestForKey(key)
				req.SetVersion(version)
				randomize(reflect.ValueOf(req).Elem(), r)
				body := req.AppendTo(nil)
				d := decoder{b: body}
				if a.shape.skip(&d, version); d.bad || len(d.b) > 0 {
					t.Fatalf("key %d version %d: bad %v, %d bytes left of %x", key, version, d.bad, len(d.b), body)
				}
				if cut := r.IntN(len(body)); a.shape.check(body[:cut], version) == nil {
					t.Fatalf("key %d version %d: cut at %d of %x went unnoticed", key, version, cut, body)
				}
			}
		}
	}
}

// TestTagBomb: kmsg would count to 2³² here.
func TestTagBomb(t *testing.T) {
	_, addr := startServer(t, Config{})
	for _, tail := range [][]byte{
		{0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f},             // of the request
		{2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f},             // cut in the only topic
		{0xff, 0xff, 0xff, 0xff, 0x0f},                      // topics
		append(make([]byte, 40), 0xff, 0xff, 0xff, 0xff, 1), // behind the end: not looked at
	} {
		c := dialRaw(t, addr)
		c.sendFrame(append([]byte{0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0}, tail...))
		if len(tail) > 40 {
			c.readFrame()
			continue
		}
		c.wantClosed()
	}
}

func TestParseShapeErrors(t *testing.T) {
	for _, text := range []string{"(", "x", "*", "4@x", "4)"} {
		if s, err := parseShape(text); err == nil {
			t.Errorf("%q was read as %+v", text, s)
		}
	}
}
