package schema

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// meterProto has what proto3 has.
const meterProto = `
syntax = "proto3";
package plants.v1;
import "google/protobuf/timestamp.proto";
import "confluent/meta.proto"; // of options that weir does not read
option java_package = "example.{";
message Meter {
  int64 seq = 1;
  Point point = 2 [deprecated = true];
  repeated sint32 deltas = 3;
  repeated string tags = 4;
  map<string, Point> named = 5;
  oneof value { double number = 6; bytes blob = 7; Unit unit = 8; }
  google.protobuf.Timestamp at = 9;
  .plants.v1.Meter.Inner inner = 10;
  optional fixed32 crc = 11;
  repeated Unit units = 12;
  repeated double readings = 13;
  bool on = 14;
  map<int32, Unit> by_number = 15;
  reserved 20 to 30;
  message Inner { Meter again = 1; enum State { OFF = 0; } State state = 2; message Innermost { float x = 1; } Innermost innermost = 3; }
}
message Point { float x = 1; float y = 2; }
enum Unit { UNIT_UNSPECIFIED = 0; UNIT_G = 1; }
service Meters { rpc Get(Point) returns (stream Meter) {} }
`

// orderProto has what only proto2 has.
const orderProto = `
syntax = "proto2";
message Order {
  required int32 id = 1;
  optional string note = 2 [default = "none"];
  repeated Kind kinds = 3 [packed = true];
  optional group Part = 4 { required sfixed64 size = 1; }
  extensions 100 to 199, 500 to max;
  enum Kind { A = 1; B = 2; NEGATIVE = -1; }
  optional Kind kind = 5;
}
extend Order { optional Order parent = 100; repeated fixed64 marks = 101; }
`

// descriptors is what Protobuf's own libraries make of a file.
func descriptors(t testing.TB, text string) protoreflect.FileDescriptor {
	t.Helper()
	files := map[string]string{"main.proto": text, "confluent/meta.proto": `syntax = "proto3"; package confluent;`}
	c := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: func(name string) (io.ReadCloser, error) {
		text, ok := files[name]
		if !ok {
			return nil, errNotFound
		}
		return io.NopCloser(strings.NewReader(text)), nil
	}})}
	all, err := c.Compile(context.Background(), "main.proto")
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

var errNotFound = errors.New("not found")

// fits tells what Protobuf's libraries say, with the fields that they do not know for a fault. Of some maps' entries without a key the library makes a panic.
func fits(d protoreflect.MessageDescriptor, payload []byte) (ok, panics bool) {
	defer func() {
		if recover() != nil {
			ok, panics = false, true
		}
	}()
	m := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(payload, m); err != nil {
		return false, false
	}
	return allKnown(m), false
}

func allKnown(m protoreflect.Message) bool {
	ok := true
	for unknown := m.GetUnknown(); len(unknown) > 0; { // of an extension, which is legal
		tag, n := binary.Uvarint(unknown)
		number := protoreflect.FieldNumber(tag >> 3)
		if !m.Descriptor().ExtensionRanges().Has(number) {
			return false
		}
		rest, err := skip(unknown[n:], int(number), int(tag&7), 0)
		if err != nil {
			return false
		}
		unknown = rest
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		closed := f.Enum() != nil && f.Enum().IsClosed() // which Go's library lets pass, and others do not
		switch {
		case closed && f.IsList():
			for i := range v.List().Len() {
				ok = ok && f.Enum().Values().ByNumber(v.List().Get(i).Enum()) != nil
			}
		case closed:
			ok = ok && f.Enum().Values().ByNumber(v.Enum()) != nil
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { ok = ok && allKnown(v.Message()); return ok })
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				ok = ok && allKnown(v.List().Get(i).Message())
			}
		case !f.IsMap() && !f.IsList() && f.Message() != nil:
			ok = ok && allKnown(v.Message())
		}
		return ok
	})
	return ok
}

// example fills a message with random values, some of which a reader takes for defaults.
func example(r *rand.Rand, m *dynamicpb.Message, depth int) {
	fields := m.Descriptor().Fields()
	value := func(f protoreflect.FieldDescriptor) protoreflect.Value {
		switch f.Kind() {
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(r.IntN(2) == 1)
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(f.Enum().Values().Get(r.IntN(f.Enum().Values().Len())).Number())
		case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
			return protoreflect.ValueOfInt32(r.Int32() - 1<<30)
		case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
			return protoreflect.ValueOfInt64(r.Int64() - 1<<62)
		case protoreflect.Fixed32Kind, protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(r.Uint32())
		case protoreflect.Fixed64Kind, protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(r.Uint64())
		case protoreflect.FloatKind:
			return protoreflect.ValueOfFloat32(r.Float32())
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(r.Float64())
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(strings.Repeat("ä", r.IntN(4)))
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes(bytes.Repeat([]byte{0xff}, r.IntN(4)))
		}
		in := dynamicpb.NewMessage(f.Message())
		example(r, in, depth+1)
		return protoreflect.ValueOfMessage(in)
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		deep := depth > 3 && f.Message() != nil && !f.IsMap()
		if f.Cardinality() != protoreflect.Required && (r.IntN(2) == 0 || deep) {
			continue
		}
		switch {
		case f.IsMap() && !(depth > 3 && f.MapValue().Message() != nil):
			for range r.IntN(3) {
				m.Mutable(f).Map().Set(value(f.MapKey()).MapKey(), value(f.MapValue()))
			}
		case f.IsMap():
		case f.IsList():
			for range r.IntN(3) {
				m.Mutable(f).List().Append(value(f))
			}
		default:
			m.Set(f, value(f))
		}
	}
}

// Payloads, cut and flipped, are taken where Protobuf's own libraries take them and know all their fields.
func TestProtobufAgreesWithItsLibraries(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, text := range []string{meterProto, orderProto} {
		v := mustCompile(t, Protobuf, text)
		d := descriptors(t, text).Messages().Get(0)
		accepted, refused := 0, 0
		judge := func(payload []byte) {
			err := v.Check(payload)
			want, panics := fits(d, payload)
			if panics {
				return
			}
			if want && err != nil && (strings.Contains(err.Error(), ".named has no field") || strings.Contains(err.Error(), ".by_number has no field") ||
				strings.HasPrefix(err.Error(), "field key has wire type") || strings.HasPrefix(err.Error(), "field value has wire type")) {
				return // what a map's entry has besides its key and value is dropped by the library without a trace
			}
			if want && err != nil && d.Syntax() == protoreflect.Proto2 && strings.Contains(err.Error(), "not valid UTF-8") {
				return // proto2 leaves that to the reader, and readers differ
			}
			if (err == nil) != want {
				t.Fatalf("%x: we say %v, the library says %v", payload, err, want)
			}
			if want {
				accepted++
			} else {
				refused++
			}
		}
		for range 2000 {
			m := dynamicpb.NewMessage(d)
			example(r, m, 0)
			payload, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			judge(payload)
			if len(payload) == 0 {
				continue
			}
			judge(payload[:r.IntN(len(payload))])
			flipped := bytes.Clone(payload)
			flipped[r.IntN(len(flipped))] ^= 1 << r.IntN(8)
			judge(flipped)
		}
		t.Logf("%s: %d accepted, %d refused", d.FullName(), accepted, refused)
		if accepted < 1000 || refused < 500 {
			t.Errorf("the examples show too little: %d accepted, %d refused", accepted, refused)
		}
	}
}

func TestProtobufPayloads(t *testing.T) {
	meter, order := mustCompile(t, Protobuf, meterProto), mustCompile(t, Protobuf, orderProto)
	for _, c := range []struct {
		name    string
		v       *Version
		payload string
		part    string
	}{
		{"nothing is something", meter, "", ""},
		{"unknown field", meter, "\xa8\x01\x01", "plants.v1.Meter has no field 21"},
		{"wrong wire type", meter, "\x0a\x01a", "field seq has wire type 2, not 0"},
		{"text", meter, "\x22\x01\xff", "field tags is not valid UTF-8"},
		{"in a map", meter, "\x2a\x05\x0a\x01a\x18\x01", "plants.v1.Meter.named has no field 3"},
		{"longer than it is", meter, "\x22\xff\xff\xff\xff\x7f", "field tags: it ends early"},
		{"open enumeration", meter, "\x40\x63", ""},
		{"number 0", meter, "\x00\x01", "without a legal number"},
		{"end of no group", meter, "\x0c", "a group ends that was not begun"},
		{"required", order, "\x12\x00", "Order lacks its required field id"},
		{"required in a group", order, "\x08\x01\x23\x24", "Order.Part lacks its required field size"},
		{"group", order, "\x08\x01\x23\x09\x01\x02\x03\x04\x05\x06\x07\x08\x24", ""},
		{"endless group", order, "\x08\x01\x23", "it ends early"},
		{"closed enumeration", order, "\x08\x01\x28\x03", "field kind has no value 3"},
		{"negative", order, "\x08\x01\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", ""},
		{"packed", order, "\x08\x01\x1a\x02\x01\x02", ""},
		{"not packed", order, "\x08\x01\x18\x01", ""},
		{"an extension", order, "\x08\x01\xa2\x06\x02\x08\x01", ""},
		{"a bad extension", order, "\x08\x01\xa2\x06\x00", "Order lacks its required field id"},
		{"an unknown extension", order, "\x08\x01\xb2\x06\x01x", ""},
		{"not even an extension", order, "\x08\x01\xc2\x0c\x01x", "Order has no field 200"},
	} {
		wants(t, c.name, c.v.Check([]byte(c.payload)), c.part)
	}
	deep := []byte{}
	for range 120 {
		deep = append(binary.AppendUvarint([]byte{0x52}, uint64(len(deep))), deep...)
		deep = append(binary.AppendUvarint([]byte{0x0a}, uint64(len(deep))), deep...)
	}
	wants(t, "deep", mustCompile(t, Protobuf, `syntax = "proto3"; message N { M m = 1; } message M { N n = 10; }`).Check(deep), "nested deeper than 100")
}

func TestProtobufReferencesAndMessages(t *testing.T) {
	common := Reference{"common.proto", `syntax = "proto3"; package common; message Point { float x = 1; } enum Unit { G = 0; }`}
	text := `syntax = "proto3"; package a.b; import "common.proto"; message First { common.Point p = 1; } message Second { message In { common.Unit u = 1; } In in = 2; }`
	compile := func(message string) *Version {
		v, err := Compile(Source{Subject: "s", ID: 1, Number: 1, Format: Protobuf, Message: message, Text: text, References: []Reference{common}})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for message, prefix := range map[string]string{"": "\x00", "First": "\x00", "Second": "\x02\x02", "a.b.Second.In": "\x04\x02\x00", "In": "\x04\x02\x00"} {
		v := compile(message)
		if got := string(v.AppendFrame(nil)); got != "\x00\x00\x00\x00\x01"+prefix {
			t.Errorf("%s: frame %q", message, got)
		}
		s, _, _ := testSubject(Rule{Subject: "s", Frame: FrameDevice})
		s.Known([]*Version{compile("")}, nil)
		got, body, err := s.For(append(v.AppendFrame(nil), 8, 0))
		if err != nil || string(body) != "\x08\x00" || string(got.AppendFrame(nil)) != string(v.AppendFrame(nil)) {
			t.Fatalf("%s: %+v %q %v", message, got, body, err)
		}
		if a, b := got.Check(body), v.Check(body); (a == nil) != (b == nil) || (a == nil) != strings.HasSuffix(message, "In") {
			t.Errorf("%s: %v, %v", message, a, b)
		}
	}
	s, _, _ := testSubject(Rule{Subject: "s", Frame: FrameDevice})
	s.Known([]*Version{compile("")}, nil)
	for _, indexes := range []string{"", "\x02", "\x02\x04", "\x01", "\x04\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if _, _, err := s.For([]byte("\x00\x00\x00\x00\x01" + indexes)); err == nil {
			t.Errorf("%q names a message", indexes)
		}
	}
}

// A parser that asks for more for ever is stopped.
func TestParsersEnd(t *testing.T) {
	parse := func() (err error) {
		defer recovered(&err)
		for r := (&endingReader{Reader: strings.NewReader("message")}); ; {
			_, _ = r.Read(make([]byte, 4))
		}
	}
	wants(t, "endless", parse(), "it ends in the middle of a definition")
}

func TestProtobufSchemasThatAreRefused(t *testing.T) {
	required, ranges := "message A { ", "message A { extensions 1"
	for i := range maxListed + 1 {
		required += fmt.Sprintf("required int32 f%d = %d; ", i, i+1)
		ranges += fmt.Sprintf(", %d", 2*i+3)
	}
	for text, part := range map[string]string{
		`syntax = "proto3";`:                                                     "defines no message",
		`syntax = "proto3"; message A { B b = 1; }`:                              "field b: B is defined neither",
		`syntax = "proto3"; message A {} message A {}`:                           "A is defined twice",
		`syntax = "proto3"; message A { int32 a = 1; int32 b = 1; }`:             "fields a and b have the number 1",
		`syntax = "proto3"; message A { int32 a = 0; }`:                          "field a has the number 0",
		`Cg92aWJyYXRpb24ucHJvdG8SBnBsYW50cw==`:                                   "a descriptor in base64",
		`edition = "2023"; message A {}`:                                         "editions are not taken",
		`syntax = "proto4"; message A {}`:                                        "none of proto2, proto3",
		`message A {extensions to 0`:                                             "the library cannot deal with it", // whose parser has an index out of range
		`message A { `:                                                           "",
		`syntax = "proto2"; extend Other { optional int32 a = 1; } message A {}`: "Other is defined neither",
		required + "}":                        "A has more than 1000 required fields",
		ranges + "; }":                        "A leaves 1002 ranges of numbers to extensions, more than 1000",
		strings.Repeat("message a{", 100_000): "nested deeper than 64",
		`syntax = "proto3"; message A {} //` + strings.Repeat("x", 10<<20): "more than 1048576",
	} {
		if _, err := Compile(Source{Format: Protobuf, Text: text}); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%.80s: %v, want %q", text, err, part)
		}
	}
	_, err := Compile(Source{Format: Protobuf, Message: "B", Text: `message A {}`})
	wants(t, "message", err, "it defines no message B")
}
