package packet

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func mustSplit(t testing.TB, b []byte) Frame {
	t.Helper()
	f, err := Split(b, 0)
	if err != nil {
		t.Fatalf("split % x: %v", b, err)
	}
	if f.Size != len(b) {
		t.Fatalf("split % x: took %d of %d bytes", b, f.Size, len(b))
	}
	return f
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		max  int
		err  *Error
		size int
	}{
		{"nothing", nil, 0, ErrShort, 0},
		{"header alone", []byte{0xc0}, 0, ErrShort, 0},
		{"ping", []byte{0xc0, 0}, 0, nil, 2},
		{"two pings", []byte{0xc0, 0, 0xc0, 0}, 0, nil, 2},
		{"body missing", []byte{0x30, 5, 0, 1}, 0, ErrShort, 0},
		{"length cut", []byte{0x30, 0x80}, 0, ErrShort, 0},
		{"length of four bytes", append([]byte{0x30, 0x80, 0x80, 0x80, 0x01}, make([]byte, 2097152)...), 0, nil, 2097157},
		{"length of five bytes", []byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x01}, 0, errVarint, 0},
		{"too large is told from the header", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 1 << 20, ErrTooLarge, 0},
		{"just fits", []byte{0x30, 3, 0, 1, 'a'}, 5, nil, 5},
		{"one over", []byte{0x30, 3, 0, 1, 'a'}, 4, ErrTooLarge, 0},
		{"type 0", []byte{0x00, 0}, 0, errType, 0},
		{"an HTTP request", []byte("GET / HTTP/1.1\r\n"), 0, errFlags, 0},
		{"QoS 3", []byte{0x36, 0}, 0, errQoS, 0},              // MQTT5 [MQTT-3.3.1-4]
		{"DUP with QoS 0", []byte{0x38, 0}, 0, errDupQoS0, 0}, // MQTT5 [MQTT-3.3.1-2]
		{"the same, retained", []byte{0x39, 0}, 0, errDupQoS0, 0},
		{"SUBSCRIBE with flags 0", []byte{0x80, 0}, 0, errFlags, 0},    // MQTT5 [MQTT-3.8.1-1]
		{"UNSUBSCRIBE with flags 0", []byte{0xa0, 0}, 0, errFlags, 0},  // MQTT5 [MQTT-3.10.1-1]
		{"PUBREL with flags 0", []byte{0x60, 2, 0, 1}, 0, errFlags, 0}, // MQTT5 [MQTT-3.6.1-1]
		{"PUBACK with flags", []byte{0x41, 2, 0, 1}, 0, errFlags, 0},   // MQTT5 [MQTT-2.1.3-1]
		{"DISCONNECT with flags", []byte{0xe1, 0}, 0, errFlags, 0},     // MQTT5 [MQTT-3.14.1-1]
		{"AUTH with flags", []byte{0xf1, 0}, 0, errFlags, 0},           // MQTT5 [MQTT-3.15.1-1]
	} {
		f, err := Split(c.in, c.max)
		if c.err == nil && err == nil {
			if f.Size != c.size {
				t.Errorf("%s: size %d, want %d", c.name, f.Size, c.size)
			}
			continue
		}
		if err != error(c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}

func TestVarintIsMinimal(t *testing.T) { // MQTT5 [MQTT-1.5.5-1]
	for _, v := range []int{0, 1, 127, 128, 16383, 16384, 2097151, 2097152, MaxRemaining} {
		b := appendVarint(nil, v)
		if len(b) != varintSize(v) {
			t.Errorf("%d takes %d bytes, varintSize says %d", v, len(b), varintSize(v))
		}
		if got, n, err := readVarint(b); err != nil || got != v || n != len(b) {
			t.Errorf("%d: read back %d, %d bytes, %v", v, got, n, err)
		}
	}
}

// samples are publishes whose every field matters somewhere.
var samples = []Publish{
	{Topic: []byte("a"), Payload: []byte("x")},
	{Topic: []byte("a/b"), QoS: 1, ID: 1, Retain: true},
	{Topic: []byte("a/b"), QoS: 2, ID: 65535, Dup: true, Payload: bytes.Repeat([]byte("p"), 70000)},
	{
		Topic: []byte("a/ü"), QoS: 1, ID: 515, Payload: []byte{0, 1, 2}, PayloadFormat: 1, HasExpiry: true, Expiry: 0,
		TopicAlias: 12, ContentType: []byte("application/cbor"), ResponseTopic: []byte("r/t"), Correlation: []byte{},
		User: []UserProperty{{[]byte("k"), []byte("v")}, {[]byte("k"), []byte("")}, {[]byte(""), []byte("v")}},
	},
}

func TestPublishRoundTrip(t *testing.T) {
	for _, version := range []byte{V311, V5} {
		for i := range samples {
			want := samples[i]
			if version == V311 {
				want = Publish{Topic: want.Topic, Payload: want.Payload, ID: want.ID, QoS: want.QoS, Retain: want.Retain, Dup: want.Dup}
			}
			b := AppendPublish(nil, &samples[i], version)
			if len(b) != samples[i].Size(version) {
				t.Errorf("sample %d, version %d: %d bytes, Size says %d", i, version, len(b), samples[i].Size(version))
			}
			var got Publish
			if err := got.Decode(mustSplit(t, b), version); err != nil {
				t.Fatalf("sample %d, version %d: %v", i, version, err)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("sample %d, version %d: (-want +got)\n%s", i, version, d)
			}
			if want.Correlation != nil && got.Correlation == nil {
				t.Errorf("sample %d: empty correlation data became none", i)
			}
		}
	}
}

func TestPublishIsRefused(t *testing.T) {
	v5 := func(flags byte, topic string, id, props, payload string) []byte {
		body := string([]byte{byte(len(topic) >> 8), byte(len(topic))}) + topic + id + string([]byte{byte(len(props))}) + props + payload
		return append([]byte{0x30 | flags, byte(len(body))}, body...)
	}
	for _, c := range []struct {
		name    string
		in      []byte
		version byte
		reason  Reason
	}{
		{"no room for the topic", []byte{0x30, 1, 0}, V5, MalformedPacket},
		{"topic past the end", []byte{0x30, 3, 0, 9, 'a'}, V5, MalformedPacket},
		{"+ in the topic", v5(0, "a/+", "", "", ""), V5, TopicNameInvalid},                 // MQTT5 [MQTT-3.3.2-2]
		{"# in the topic", []byte{0x30, 3, 0, 1, '#'}, V311, TopicNameInvalid},             // MQTT3 [MQTT-3.3.2-2]
		{"topic not UTF-8", v5(0, "a\xff", "", "", ""), V5, MalformedPacket},               // MQTT5 [MQTT-1.5.4-1]
		{"surrogate in the topic", v5(0, "\xed\xa0\x80", "", "", ""), V5, MalformedPacket}, // MQTT5 [MQTT-1.5.4-1]
		{"U+0000 in the topic", v5(0, "a\x00", "", "", ""), V5, MalformedPacket},           // MQTT5 [MQTT-1.5.4-2]
		{"packet id 0", v5(2, "a", "\x00\x00", "", ""), V5, ProtocolError},                 // MQTT5 [MQTT-2.2.1-3]
		{"packet id 0 with QoS 2", v5(4, "a", "\x00\x00", "", ""), V5, ProtocolError},
		{"packet id cut", []byte{0x32, 4, 0, 1, 'a', 0}, V5, MalformedPacket},
		{"empty topic without alias", v5(0, "", "", "", ""), V5, ProtocolError},
		{"empty topic in 3.1.1", []byte{0x30, 2, 0, 0}, V311, ProtocolError},   // MQTT3 [MQTT-4.7.3-1]
		{"alias 0", v5(0, "a", "", "\x23\x00\x00", ""), V5, TopicAliasInvalid}, // MQTT5 [MQTT-3.3.2-8]
		{"alias twice", v5(0, "a", "", "\x23\x00\x01\x23\x00\x01", ""), V5, ProtocolError},
		{"subscription id from a client", v5(0, "a", "", "\x0b\x01", ""), V5, ProtocolError},       // MQTT5 [MQTT-3.3.4-6]
		{"wildcard in the response topic", v5(0, "a", "", "\x08\x00\x01#", ""), V5, ProtocolError}, // MQTT5 [MQTT-3.3.2-14]
		{"payload format 2", v5(0, "a", "", "\x01\x02", ""), V5, ProtocolError},
		{"property of CONNECT", v5(0, "a", "", "\x11\x00\x00\x00\x01", ""), V5, MalformedPacket},
		{"unknown property", v5(0, "a", "", "\x7f\x00", ""), V5, MalformedPacket},
		{"property list past the end", []byte{0x30, 4, 0, 1, 'a', 9}, V5, MalformedPacket},
		{"property cut", v5(0, "a", "", "\x02\x00\x00", ""), V5, MalformedPacket},
		{"no property length", []byte{0x30, 3, 0, 1, 'a'}, V5, MalformedPacket},
	} {
		var p Publish
		err := p.Decode(mustSplit(t, c.in), c.version)
		var pe *Error
		if !errors.As(err, &pe) || pe.Reason != c.reason {
			t.Errorf("%s: %v, want %v", c.name, err, c.reason)
		}
	}
}

func TestUserPropertiesAreBounded(t *testing.T) {
	p := Publish{Topic: []byte("a"), User: make([]UserProperty, MaxUserProperties)}
	var got Publish
	if err := got.Decode(mustSplit(t, AppendPublish(nil, &p, V5)), V5); err != nil {
		t.Fatal(err)
	}
	p.User = append(p.User, UserProperty{})
	if err := got.Decode(mustSplit(t, AppendPublish(nil, &p, V5)), V5); err != error(errPropCount) {
		t.Fatalf("%v, want %v", err, errPropCount)
	}
}

func TestAckRoundTrip(t *testing.T) {
	for _, typ := range []Type{PUBACK, PUBREC, PUBREL, PUBCOMP} {
		for _, r := range append(ackReasons[typ], Success) {
			want := Ack{typ, 0x1234, r}
			got, err := DecodeAck(mustSplit(t, AppendAck(nil, typ, 0x1234, r, V5)), V5)
			if err != nil || got != want {
				t.Errorf("%s %v: got %v, %v", typ, r, got, err)
			}
		}
		if b := AppendAck(nil, typ, 1, Success, V311); len(b) != 4 {
			t.Errorf("%s of 3.1.1 is % x", typ, b)
		}
	}
}

func TestAckIsRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      []byte
		version byte
	}{
		{"id cut", []byte{0x40, 1, 0}, V5},
		{"id 0", []byte{0x40, 2, 0, 0}, V5},
		{"reason in 3.1.1", []byte{0x40, 3, 0, 1, 0}, V311},
		{"reason of another packet", []byte{0x40, 3, 0, 1, 0x92}, V5}, // MQTT5 [MQTT-3.4.2-1]
		{"reason of another packet", []byte{0x50, 3, 0, 1, 0x92}, V5}, // MQTT5 [MQTT-3.5.2-1]
		{"reason of another packet", []byte{0x62, 3, 0, 1, 0x87}, V5}, // MQTT5 [MQTT-3.6.2-1]
		{"reason of another packet", []byte{0x70, 3, 0, 1, 0x87}, V5}, // MQTT5 [MQTT-3.7.2-1]
		{"bytes behind the properties", []byte{0x40, 5, 0, 1, 0, 0, 9}, V5},
		{"property of PUBLISH", []byte{0x40, 6, 0, 1, 0, 2, 1, 1}, V5},
	} {
		if a, err := DecodeAck(mustSplit(t, c.in), c.version); err == nil {
			t.Errorf("%s: % x decodes to %v", c.name, c.in, a)
		}
	}
	// A reason string and user properties are legal and of no consequence.
	in := []byte{0x40, 13, 0, 1, 0x10, 9, 0x1f, 0, 1, 'x', 0x26, 0, 0, 0, 0}
	if a, err := DecodeAck(mustSplit(t, in), V5); err != nil || a.Reason != NoMatchingSubscribers {
		t.Errorf("%v, %v", a, err)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	p := samples[3]
	b := AppendPublish(nil, &p, V5)
	ack := AppendAck(nil, PUBACK, 7, Success, V5)
	var got Publish
	out := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		f, err := Split(b, 1<<20)
		if err != nil || got.Decode(f, V5) != nil {
			t.Fatal("decode")
		}
		f, err = Split(ack, 1<<20)
		if err != nil {
			t.Fatal("split")
		}
		if _, err := DecodeAck(f, V5); err != nil {
			t.Fatal("ack")
		}
		out = AppendPublish(out[:0], &got, V5)
		out = AppendAck(out, PUBREL, 7, Success, V5)
		out = AppendPingresp(out)
	}); n > 0 {
		t.Errorf("%v allocations per publish and ack", n)
	}
}

func TestParseFilter(t *testing.T) {
	for _, c := range []struct {
		in, group, filter string
		ok                bool
	}{
		{"a/b", "", "a/b", true}, {"#", "", "#", true}, {"+", "", "+", true}, {"a/#", "", "a/#", true},
		{"+/a/+", "", "+/a/+", true}, {"/", "", "/", true}, {"$SYS/#", "", "$SYS/#", true},
		{"", "", "", false},                                                     // MQTT5 [MQTT-4.7.3-1]
		{"a/#/b", "", "", false}, {"a#", "", "", false}, {"#/a", "", "", false}, // MQTT5 [MQTT-4.7.1-1]
		{"a+", "", "", false}, {"a/b+/c", "", "", false}, // MQTT5 [MQTT-4.7.1-2]
		{"$share/g/a/#", "g", "a/#", true}, {"$share/g//a", "g", "/a", true},
		{"$share/g", "", "", false}, {"$share//a", "", "", false}, {"$share/g/", "", "", false}, // MQTT5 [MQTT-4.8.2-1]
		{"$share/g+/a", "", "", false}, {"$share/#/a", "", "", false}, {"$share", "", "", false}, // MQTT5 [MQTT-4.8.2-2]
	} {
		group, filter, ok := ParseFilter(c.in)
		if ok != c.ok || ok && (group != c.group || filter != c.filter) {
			t.Errorf("%q: %q %q %v", c.in, group, filter, ok)
		}
	}
}

func TestReasonsHaveNames(t *testing.T) {
	for r := Success; ; r++ {
		if name, ok := reasonNames[r]; ok && (name == "" || r.String() != name) {
			t.Errorf("0x%02x is called %q", byte(r), r)
		}
		if r == 0xff {
			break
		}
	}
	if got := Reason(0xee).String(); got != "reason 0xee" {
		t.Error(got)
	}
}
