package mqtt

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/weir-io/weir/log"
	"pgregory.net/rapid"
)

// The values are those of Kafka's own UtilsTest.testMurmur2.
func TestMurmur2EqualsJava(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(Murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, Java says %d", key, got, want)
		}
	}
}

func TestPartitionForEqualsKafkaClients(t *testing.T) {
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "key")
		n := rapid.IntRange(1, 1000).Draw(t, "partitions")
		if got, want := PartitionFor(key, n), theirs.Partition(&kgo.Record{Key: key}, n); got != want {
			t.Fatalf("partition of %x of %d = %d, franz-go says %d", key, n, got, want)
		}
	})
}

func mustRouter(t testing.TB, text string) *Router {
	t.Helper()
	var routes []Route
	if err := yaml.UnmarshalWithOptions([]byte(text), &routes, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	r, err := NewRouter(routes, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const exampleRoutes = `
- match: plants/+plant/machines/+machine/vibration
  topic: vibration
  key: "{plant}/{machine}"
  decode: cbor
  on_error: dead-letter
  timestamp: "{payload.ts}"
  partitions: 8
  config: {retention.ms: 604800000, cleanup.policy: delete}
- match: json/+/#
  topic: json
  decode: json
  key: "{client}:{payload.id}"
- match: plain/+a/+b
  topic: plain
  key: "{b}-{a}-{user.site}-{topic}-{{x}}"
- match: "#"
  topic: telemetry
`

func TestRouteExamples(t *testing.T) {
	r := mustRouter(t, exampleRoutes)
	payload, err := cbor.Marshal(map[string]any{"ts": int64(1700000000123), "x": 1.5})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, topic, payload string
		want                 RouteResult
		err                  error
	}{
		{name: "captures and decodes", topic: "plants/north/machines/m1/vibration", payload: string(payload),
			want: RouteResult{LogTopic: "vibration", Key: []byte("north/m1"), Value: nil, Timestamp: 1700000000123}},
		{name: "an empty level is a level", topic: "plants//machines//vibration", payload: string(payload),
			want: RouteResult{LogTopic: "vibration", Key: []byte("/"), Timestamp: 1700000000123}},
		{name: "later rule takes the rest", topic: "plants/north/machines/m1/heat", payload: "raw",
			want: RouteResult{LogTopic: "telemetry", Route: 3, Key: []byte("dev"), Value: []byte("raw"), Timestamp: 5}},
		{name: "hash includes its parent", topic: "json/a", payload: `{"id": 7}`,
			want: RouteResult{LogTopic: "json", Route: 1, Key: []byte("dev:7"), Value: []byte(`{"id": 7}`), Timestamp: 5}},
		{name: "invalid json is refused", topic: "json/a/b", payload: `{"id": 7`, err: ErrPayload},
		{name: "missing key field is refused", topic: "json/a/b", payload: `{"di": 7}`, err: ErrPayload},
		{name: "literals, user property, topic, braces", topic: "plain/1/2", payload: "p",
			want: RouteResult{LogTopic: "plain", Route: 2, Key: []byte("2-1-s7-plain/1/2-{x}"), Value: []byte("p"), Timestamp: 5}},
		{name: "dollar topics have no route", topic: "$SYS/x", payload: "p", err: ErrNoRoute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s RouteScratch
			in := PublishInfo{ClientID: []byte("dev"), UserProps: []log.Header{{Key: []byte("site"), Value: []byte("s7")}}, Payload: []byte(tt.payload), Time: 5}
			got, err := r.Match([]byte(tt.topic), &s, &in)
			if !errors.Is(err, tt.err) || tt.err == nil && err != nil {
				t.Fatalf("err = %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if tt.want.Value == nil {
				var fields map[string]any
				if err := json.Unmarshal(got.Value, &fields); err != nil || fields["x"] != 1.5 {
					t.Fatalf("value %s is not the JSON of the payload: %v", got.Value, err)
				}
				got.Value = nil
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestDeadLetterKeepsPayloadAndSaysWhy(t *testing.T) {
	r := mustRouter(t, exampleRoutes)
	var s RouteScratch
	in := PublishInfo{ClientID: []byte("dev"), Payload: []byte("not cbor"), Time: 9}
	got, err := r.Match([]byte("plants/a/machines/b/vibration"), &s, &in)
	if err != nil {
		t.Fatal(err)
	}
	if !got.DeadLetter || got.LogTopic != "vibration.dlq" || string(got.Value) != "not cbor" || string(got.Key) != "dev" || got.Timestamp != 9 {
		t.Fatalf("dead letter = %+v", got)
	}
	headers := map[string]string{}
	for _, h := range got.Headers {
		headers[string(h.Key)] = string(h.Value)
	}
	if !strings.Contains(headers[HeaderDeadLetterReason], "not valid CBOR") || headers[HeaderDeadLetterTopic] != "vibration" ||
		headers[HeaderDeadLetterRoute] != "plants/+plant/machines/+machine/vibration" {
		t.Fatalf("headers = %v", headers)
	}
}

func TestTopicsCarryCreationSettings(t *testing.T) {
	got := mustRouter(t, exampleRoutes).Topics()
	want := []TopicSettings{
		{Name: "vibration", Partitions: 8, Configs: map[string]string{"retention.ms": "604800000", "cleanup.policy": "delete"}},
		{Name: "vibration.dlq"}, {Name: "json"}, {Name: "plain"}, {Name: "telemetry"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func TestRouteErrorsNameRuleAndField(t *testing.T) {
	ok := Route{Match: "#", Topic: "t"}
	tests := []struct {
		change func(*Route)
		want   string
	}{
		{func(r *Route) { r.Match = "" }, "routes[1].match: missing"},
		{func(r *Route) { r.Match = "a/#/b" }, "routes[1].match: "},
		{func(r *Route) { r.Match = "a+/b" }, "routes[1].match: "},
		{func(r *Route) { r.Match = "+a/+a" }, "used twice"},
		{func(r *Route) { r.Match = "+1a" }, "capture name"},
		{func(r *Route) { r.Match = "+client" }, "is taken"},
		{func(r *Route) { r.Match = "\xff" }, "UTF-8"},
		{func(r *Route) { r.Topic = "" }, "routes[1].topic: missing"},
		{func(r *Route) { r.Topic = "a b" }, "routes[1].topic: "},
		{func(r *Route) { r.Topic = "__x" }, "internal"},
		{func(r *Route) { r.Topic = strings.Repeat("x", 250) }, "at most 249"},
		{func(r *Route) { r.Topic, r.OnError = strings.Repeat("x", 249), "dead-letter" }, "routes[1].on_error: "},
		{func(r *Route) { r.Decode = "xml" }, "routes[1].decode: "},
		{func(r *Route) { r.OnError = "drop" }, "routes[1].on_error: "},
		{func(r *Route) { r.Key = "{plant}" }, "routes[1].key: {plant} is unknown"},
		{func(r *Route) { r.Key = "{client" }, "routes[1].key: "},
		{func(r *Route) { r.Key = "client}" }, "routes[1].key: "},
		{func(r *Route) { r.Key = "{payload.x}" }, "needs decode"},
		{func(r *Route) { r.Key, r.Decode = "{payload.}", "json" }, "field name is missing"},
		{func(r *Route) { r.Key = "{user.}" }, "name is missing"},
		{func(r *Route) { r.Timestamp = "{payload.ts}" }, "routes[1].timestamp: "},
		{func(r *Route) { r.Timestamp, r.Decode = "ts", "json" }, "routes[1].timestamp: "},
		{func(r *Route) { r.Timestamp, r.Decode = "ts}", "json" }, "routes[1].timestamp: "},
		{func(r *Route) { r.TimestampUnit = "h" }, "routes[1].timestamp_unit: "},
		{func(r *Route) { r.Partitions = -1 }, "routes[1].partitions: "},
		{func(r *Route) { r.Partitions = 3 }, "routes[1].partitions: topic t has 2"},
		{func(r *Route) { r.Config = map[string]string{"a": "2"} }, "routes[1].config: topic t has a=1"},
	}
	for _, tt := range tests {
		first, second := ok, ok
		first.Partitions, first.Config = 2, map[string]string{"a": "1"}
		tt.change(&second)
		_, err := NewRouter([]Route{first, second}, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v, want one with %q", second, err, tt.want)
		}
	}
}

func TestCBORToJSON(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"map keeps order", "\xa2\x61b\x01\x61a\x20", `{"b":1,"a":-1}`},
		{"integer keys", "\xa2\x01\x02\x20\x03", `{"1":2,"-1":3}`},
		{"bytes are base64url", "\x43\xfb\xff\xfe", `"-__-"`},
		{"chunked text", "\x7f\x61a\x62bc\xff", `"abc"`},
		{"chunked bytes", "\x5f\x41a\x41b\xff", `"YWI"`},
		{"indefinite array and map", "\x9f\x01\xbf\x61x\x02\xff\xff", `[1,{"x":2}]`},
		{"empty", "\x80", `[]`},
		{"half", "\xf9\x3e\x00", `1.5`},
		{"half subnormal", "\xf9\x80\x01", `-5.9604645e-08`},
		{"half max", "\xf9\x7b\xff", `65504`},
		{"single stays short", "\xfa\x41\xac\x00\x00", `21.5`},
		{"double", "\xfb\x3f\xf1\x99\x99\x99\x99\x99\x9a", `1.1`},
		{"nan and infinity", "\x82\xf9\x7e\x00\xf9\x7c\x00", `[null,null]`},
		{"largest", "\x82\x1b\xff\xff\xff\xff\xff\xff\xff\xff\x3b\xff\xff\xff\xff\xff\xff\xff\xff", `[18446744073709551615,-18446744073709551616]`},
		{"bignum", "\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00", `18446744073709551616`},
		{"negative bignum", "\xc3\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00", `-18446744073709551617`},
		{"tag is dropped", "\xc1\x1a\x65\x53\xf1\x00", `1700000000`},
		{"simple", "\x84\xf4\xf5\xf6\xf7", `[false,true,null,null]`},
		{"escapes", "\x66\"\\\n\x01/\t", `"\"\\\n\u0001/\t"`},
	} {
		got, err := decodeCBOR.toJSON(nil, []byte(tt.in))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.name, got, err, tt.want)
		}
	}
	for name, in := range map[string]string{
		"nothing": "", "cut": "\x82\x01", "trailing": "\x01\x01", "bad utf-8": "\x61\xff", "array key": "\xa1\x80\x01",
		"too deep": strings.Repeat("\x81", 40) + "\x01", "huge length": "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "lone break": "\xff",
		"large bignum": "\xc2\x58\x41" + strings.Repeat("\x01", 65),
	} {
		if got, err := decodeCBOR.toJSON(nil, []byte(in)); !errors.Is(err, ErrPayload) {
			t.Errorf("%s: %s, %v; want ErrPayload", name, got, err)
		}
	}
}

func TestPayloadField(t *testing.T) {
	value := []byte(` { "a" : "x\"y" , "b" : {"c": [1,{"d":2}], "e": -1.5e3} ,"u\u0041": true, "n": null, "s":"plain" } `)
	for path, want := range map[string]string{"a": `x"y`, "b.e": "-1.5e3", "uA": "true", "s": "plain"} {
		var s RouteScratch
		got, err := s.payloadField(value, strings.Split(path, "."))
		if err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"b", "b.c", "n", "x", "a.b", "b.c.d", "s.x"} {
		var s RouteScratch
		if got, err := s.payloadField(value, strings.Split(path, ".")); !errors.Is(err, ErrPayload) {
			t.Errorf("%s = %q, %v; want ErrPayload", path, got, err)
		}
	}
}

func TestTimestampUnitsAndText(t *testing.T) {
	for _, tt := range []struct {
		unit, field string
		want        int64
	}{
		{"", "1700000000123", 1700000000123}, {"s", "1700000000", 1700000000000}, {"s", "1700000000.25", 1700000000250},
		{"us", "1700000000123456", 1700000000123}, {"ns", "1700000000123456789", 1700000000123}, {"ns", "99", 0},
		{"s", `"2023-11-14T22:13:20.5Z"`, 1700000000500}, {"ms", `"1700000000123"`, 1700000000123},
		{"", "-1", -1}, {"", `"soon"`, -1}, {"s", "1e300", -1}, {"", "true", -1}, {"s", "999999999999999999", -1}, {"", `"NaN"`, -1},
	} {
		var s RouteScratch
		got, err := s.payloadTime([]byte(`{"ts":`+tt.field+`}`), []string{"ts"}, timestampUnits[tt.unit])
		if err != nil {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%s in %q = %d (%v), want %d", tt.field, tt.unit, got, err, tt.want)
		}
	}
}

// naiveMatch is the filter rule in its plainest form.
func naiveMatch(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false
	}
	f, l := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i >= len(l) || !strings.HasPrefix(level, "+") && level != l[i] {
			return false
		}
	}
	return len(f) == len(l)
}

func TestRouteMatchesLikeNaive(t *testing.T) {
	level := rapid.SampledFrom([]string{"a", "b", "", "$x", "ab"})
	rapid.Check(t, func(t *rapid.T) {
		topic := strings.Join(rapid.SliceOfN(level, 1, 5).Draw(t, "topic"), "/")
		filter := rapid.SliceOfN(rapid.OneOf(level, rapid.Just("+"), rapid.Just("+")), 0, 5).Draw(t, "filter")
		if len(filter) == 0 || rapid.Bool().Draw(t, "rest") {
			filter = append(filter, "#")
		}
		match := strings.Join(filter, "/")
		if topic == "" || match == "" {
			t.Skip("not a topic")
		}
		r, err := NewRouter([]Route{{Match: match, Topic: "t"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Match([]byte(topic), new(RouteScratch), &PublishInfo{})
		if got, want := err == nil, naiveMatch(match, topic); got != want {
			t.Fatalf("%q takes %q: %v, want %v", match, topic, got, want)
		}
	})
}

func FuzzRouteParse(f *testing.F) {
	f.Add("plants/+plant/#", "{plant}/{client}", "plants/a/b")
	f.Add("#", "{{}}{topic}{user.x}", "$a")
	f.Fuzz(func(t *testing.T, match, key, topic string) {
		r, err := NewRouter([]Route{{Match: match, Topic: "t", Key: key, Decode: "json"}}, nil)
		if err != nil {
			return
		}
		in := PublishInfo{ClientID: []byte("c"), Payload: []byte(`{"a":1}`)}
		res, err := r.Match([]byte(topic), new(RouteScratch), &in)
		if err == nil && (res.LogTopic != "t" || res.Key == nil) {
			t.Fatalf("result %+v", res)
		}
		if topic != "" && !errors.Is(err, ErrNoRoute) != naiveMatch(match, topic) {
			t.Fatalf("%q takes %q: %v", match, topic, err)
		}
	})
}

func FuzzCBORToJSON(f *testing.F) {
	f.Add([]byte("\xa2\x61b\x01\x61a\x9f\xf9\x3e\x00\xff"), "b")
	f.Fuzz(func(t *testing.T, payload []byte, field string) {
		before := bytes.Clone(payload)
		out, err := decodeCBOR.toJSON(nil, payload)
		if !bytes.Equal(before, payload) {
			t.Fatal("the payload was changed")
		}
		if err != nil {
			if !errors.Is(err, ErrPayload) {
				t.Fatalf("error %v is not ErrPayload", err)
			}
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%x became invalid JSON %s", payload, out)
		}
		new(RouteScratch).payloadField(out, []string{field})
	})
}

func FuzzJSONField(f *testing.F) {
	f.Add([]byte(`{"a":{"b":"c\n"},"d":[{}]}`), "a")
	f.Fuzz(func(t *testing.T, payload []byte, field string) {
		value, err := decodeJSON.toJSON(nil, payload)
		if err != nil {
			return
		}
		got, err := new(RouteScratch).payloadField(value, []string{field})
		var object map[string]json.RawMessage
		if json.Unmarshal(value, &object) != nil {
			if err == nil {
				t.Fatalf("field %q of %s = %s", field, value, got)
			}
			return
		}
		if _, there := object[field]; err == nil && !there {
			t.Fatalf("field %q of %s = %s, encoding/json finds none", field, value, got)
		}
	})
}

func BenchmarkRouteMatch(b *testing.B) {
	r := mustRouter(b, exampleRoutes)
	payload, err := cbor.Marshal(map[string]any{"ts": int64(1700000000123), "x": 1.5, "y": 2.25, "name": "bearing"})
	if err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name, topic string
		payload     []byte
	}{{"plain", "devices/sim-1/telemetry", make([]byte, 256)}, {"cbor", "plants/a/machines/b/vibration", payload}} {
		b.Run(bb.name, func(b *testing.B) {
			var s RouteScratch
			topic, in := []byte(bb.topic), PublishInfo{ClientID: []byte("sim-1"), Payload: bb.payload}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Match(topic, &s, &in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
