package mqtt

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/avro"

	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/schema"
)

const pumpAvro = `{"type": "record", "name": "Pump", "fields": [{"name": "id", "type": "string"}, {"name": "ts", "type": "long"}, {"name": "bar", "type": "float"}]}`

const pumpJSON = `{"type": "object", "required": ["id", "bar"], "properties": {"id": {"type": "string"}, "bar": {"type": "number"}}}`

func pumpPayload(t testing.TB) []byte {
	t.Helper()
	b, err := avro.MustParse(pumpAvro).Encode(map[string]any{"id": "p7", "ts": int64(1_700_000_000_000), "bar": float32(2.5)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fakeSchemas knows what a test tells it to.
type fakeSchemas struct {
	subjects map[string]*schema.Subject
	counters schema.Counters
}

func newFakeSchemas() *fakeSchemas { return &fakeSchemas{subjects: map[string]*schema.Subject{}} }

func (f *fakeSchemas) Subject(rule schema.Rule) *schema.Subject {
	s := schema.NewSubject(rule, &f.counters, func() {})
	f.subjects[rule.Subject] = s
	return s
}

func (f *fakeSchemas) know(t testing.TB, subject string, id int32, format schema.Format, text string) {
	t.Helper()
	v, err := schema.Compile(schema.Source{Subject: subject, ID: id, Number: 1, Format: format, Message: f.subjects[subject].Rule.Message, Text: text})
	if err != nil {
		t.Fatal(err)
	}
	f.subjects[subject].Known([]*schema.Version{v}, nil)
}

func schemaRoutes() []Route {
	return []Route{
		{Match: "avro/#", Topic: "a", Schema: &schema.Rule{Subject: "avro", Format: schema.Avro}},
		{Match: "framed/#", Topic: "f", Schema: &schema.Rule{Subject: "framed", Frame: schema.FrameConfluent}},
		{Match: "device/#", Topic: "d", Schema: &schema.Rule{Subject: "device", Frame: schema.FrameDevice}},
		{Match: "tojson/#", Topic: "t", Decode: "avro", Key: "{payload.id}", Timestamp: "{payload.ts}", Schema: &schema.Rule{Subject: "tojson", Frame: schema.FrameDevice}},
		{Match: "devjson/#", Topic: "j", Decode: "json", Key: "{payload.id}", Schema: &schema.Rule{Subject: "devjson", Frame: schema.FrameDevice}},
		{Match: "proto/#", Topic: "p", Schema: &schema.Rule{Subject: "proto", Message: "Second", Frame: schema.FrameConfluent}},
		{Match: "cbor/#", Topic: "c", Decode: "cbor", Key: "{payload.id}", OnError: "dead-letter", Schema: &schema.Rule{Subject: "cbor", Frame: schema.FrameConfluent}},
	}
}

func TestRoutesWithSchemas(t *testing.T) {
	f := newFakeSchemas()
	r, err := NewRouter(schemaRoutes(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"avro", "framed", "device", "tojson"} {
		f.know(t, s, 258, schema.Avro, pumpAvro)
	}
	f.know(t, "cbor", 9, schema.JSON, pumpJSON)
	f.know(t, "devjson", 9, schema.JSON, pumpJSON)
	f.know(t, "proto", 3, schema.Protobuf, `syntax = "proto3"; message First { int64 a = 1; } message Second { string b = 1; }`)
	pump := string(pumpPayload(t))
	prefix := "\x00\x00\x00\x01\x02"
	cborPump := "\xa2\x62id\x62p7\x63bar\xf9\x41\x00" // {"id": "p7", "bar": 2.5}
	for _, c := range []struct{ name, topic, payload, value, key, fault string }{
		{"as it is", "avro/1", pump, pump, "dev", ""},
		{"short", "avro/1", pump[:5], "", "", "schema avro version 1: "},
		{"framed where bare is wanted", "avro/1", prefix + pump, "", "", "schema avro version 1: "},
		{"weir frames", "framed/1", pump, prefix + pump, "dev", ""},
		{"weir frames nothing bad", "framed/1", "x", "", "", "schema framed version 1: "},
		{"the device frames", "device/1", prefix + pump, prefix + pump, "dev", ""},
		{"the device frames something bad", "device/1", prefix + "x", "", "", "schema device version 1: "},
		{"bare where framed is wanted", "device/1", pump, "", "", "schema device: it does not begin with a zero byte"},
		{"made JSON of", "tojson/1", prefix + pump, `{"id":"p7","ts":1700000000000,"bar":2.5}`, "p7", ""},
		{"not made JSON of", "tojson/1", prefix + pump + "x", "", "", "1 bytes behind the value"},
		{"JSON behind the device's prefix", "devjson/1", "\x00\x00\x00\x00\x09" + `{"id":"p7","bar":2.5}`, `{"id":"p7","bar":2.5}`, "p7", ""},
		{"JSON without the prefix", "devjson/1", `{"id":"p7","bar":2.5}`, "", "", "schema devjson: it does not begin with a zero byte"},
		{"protobuf", "proto/1", "\x0a\x01x", "\x00\x00\x00\x00\x03\x02\x02\x0a\x01x", "dev", ""},
		{"another message", "proto/1", "\x08\x01", "", "", "schema proto version 1: field b has wire type 0, not 2"},
		{"cbor, JSON Schema, frame", "cbor/1", cborPump, "\x00\x00\x00\x00\x09" + `{"id":"p7","bar":2.5}`, "p7", ""},
	} {
		res, err := r.Match([]byte(c.topic), &RouteScratch{}, &PublishInfo{ClientID: []byte("dev"), Payload: []byte(c.payload), Time: 5})
		if c.fault != "" {
			if !errors.Is(err, ErrPayload) || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %v, want %q", c.name, err, c.fault)
			}
			continue
		}
		if err != nil || string(res.Value) != c.value || string(res.Key) != c.key {
			t.Errorf("%s: %q %q %v, want %q %q", c.name, res.Value, res.Key, err, c.value, c.key)
		}
		if want := map[string]int64{"tojson/1": 1_700_000_000_000}[c.topic]; want != 0 && res.Timestamp != want {
			t.Errorf("%s: timestamp %d", c.name, res.Timestamp)
		}
	}
	dead := "\xa1\x62id\x62p7"
	res, err := r.Match([]byte("cbor/1"), &RouteScratch{}, &PublishInfo{ClientID: []byte("dev"), Payload: []byte(dead)})
	if err != nil || !res.DeadLetter || res.LogTopic != "c.dlq" || string(res.Value) != dead || !strings.Contains(string(res.Headers[0].Value), "missing property 'bar'") {
		t.Errorf("%+v %v", res, err)
	}
	if checked, refused := f.counters.Checked.Load(), f.counters.Refused.Load(); checked != 16 || refused != 9 {
		t.Errorf("%d checked, %d refused", checked, refused)
	}
	if n := len(r.SchemaRules()); n != 7 {
		t.Errorf("%d rules", n)
	}
}

// A publish whose schema is not known is held; a route with dead letters does not hold it beyond the first answer of the registry.
func TestRoutesWithoutTheirSchema(t *testing.T) {
	f := newFakeSchemas()
	r, err := NewRouter(schemaRoutes(), f)
	if err != nil {
		t.Fatal(err)
	}
	match := func(topic string) (RouteResult, error) {
		return r.Match([]byte(topic), &RouteScratch{}, &PublishInfo{ClientID: []byte("dev"), Payload: []byte("x")})
	}
	for _, topic := range []string{"avro/1", "framed/1", "device/1", "tojson/1", "proto/1", "cbor/1"} {
		if _, err := match(topic); !errors.Is(err, ErrNoSchema) || errors.Is(err, ErrPayload) {
			t.Errorf("%s before the registry was asked: %v", topic, err)
		}
	}
	for _, s := range f.subjects {
		s.Failed(errors.New("the registry cannot be reached"))
	}
	for _, topic := range []string{"avro/1", "framed/1", "device/1", "tojson/1"} {
		if _, err := match(topic); !errors.Is(err, ErrNoSchema) {
			t.Errorf("%s in an outage: %v", topic, err)
		}
	}
	res, err := match("cbor/1")
	if err != nil || !res.DeadLetter || !strings.Contains(string(res.Headers[0].Value), "its schema is not known: cbor: the registry cannot be reached") {
		t.Errorf("dead letter in an outage: %+v %v", res, err)
	}
	unbound, err := NewRouter(schemaRoutes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unbound.Match([]byte("avro/1"), &RouteScratch{}, &PublishInfo{Payload: pumpPayload(t)}); !errors.Is(err, ErrNoSchema) {
		t.Errorf("without a registry: %v", err) // S3
	}
}

func TestRoutesWithWrongSchemas(t *testing.T) {
	for want, route := range map[string]Route{
		"routes[0].decode: avro needs a schema":                                        {Decode: "avro"},
		"routes[0].schema: subject: missing":                                           {Schema: &schema.Rule{}},
		"routes[0].schema: frame: \"json\" is not one of":                              {Schema: &schema.Rule{Subject: "s", Frame: "json"}},
		"routes[0].decode: avro makes no payloads for a schema of format json":         {Decode: "avro", Schema: &schema.Rule{Subject: "s", Format: schema.JSON}},
		"routes[0].decode: cbor makes no payloads for a schema of format avro":         {Decode: "cbor", Schema: &schema.Rule{Subject: "s", Format: schema.Avro}},
		"routes[0].schema: frame: confluent says that the value is avro, and decode: ": {Decode: "avro", Schema: &schema.Rule{Subject: "s", Frame: schema.FrameConfluent}},
		"routes[0].schema: message: says which message of a Protobuf file":             {Schema: &schema.Rule{Subject: "s", Message: "M", Frame: schema.FrameDevice}},
		"routes[0].decode: json makes no payloads for a schema of format protobuf":     {Decode: "json", Schema: &schema.Rule{Subject: "s", Format: schema.Protobuf}},
		"routes[0].schema: version: with frame: device":                                {Schema: &schema.Rule{Subject: "s", Version: 2, Frame: schema.FrameDevice}},
	} {
		route.Match, route.Topic = "#", "t"
		if _, err := NewRouter([]Route{route}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The schema comes while a publish waits for it: it goes through, or is refused for good. Without it the connection ends, so that nothing is acknowledged. M8
func TestPublishWaitsForItsSchema(t *testing.T) {
	inBubble(t, func(c *Config) { c.AckTimeout = 10 * time.Second }, func(t *testing.T, r *rig) {
		f := newFakeSchemas()
		router, err := NewRouter([]Route{{Match: "#", Topic: "telemetry", Schema: &schema.Rule{Subject: "s"}}}, f)
		if err != nil {
			t.Fatal(err)
		}
		r.srv.ReloadRoutes(router)
		p := r.connectAs(packet.V5, "dev")
		p.publish("a", "1", 1, 1)
		p.publish("a", "x", 1, 2)
		time.Sleep(5 * time.Second)
		if n := r.log.appended("telemetry"); n != 0 {
			t.Errorf("%d records without a schema", n)
		}
		f.know(t, "s", 1, schema.JSON, `{"type": "integer"}`)
		p.expect(0x40, 2, 0, 1)
		if ack := p.expectType(packet.PUBACK); packet.Reason(ack[4]) != packet.PayloadFormatInvalid {
			t.Errorf("% x", ack)
		}

		f2 := newFakeSchemas()
		if router, err = NewRouter([]Route{{Match: "#", Topic: "telemetry", Schema: &schema.Rule{Subject: "s"}}}, f2); err != nil {
			t.Fatal(err)
		}
		r.srv.ReloadRoutes(router)
		p.publish("a", "1", 1, 3)
		if d := p.expectType(packet.DISCONNECT); packet.Reason(d[2]) != packet.ServerUnavailable {
			t.Errorf("% x", d)
		}
		p.expectEnd()
	})
}
