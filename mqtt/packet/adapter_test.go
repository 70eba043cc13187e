package packet

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"
)

// lp is a length-prefixed string.
func lp(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// list is a property list.
func list(props ...string) string {
	all := strings.Join(props, "")
	return string([]byte{byte(len(all))}) + all
}

// fullConnect uses every field of CONNECT.
func fullConnect() []byte {
	body := lp("MQTT") + "\x05\xee\x00\x1e" +
		list("\x11\x00\x00\x00\x09", "\x21\x00\x08", "\x27\x00\x00\x1b\x58", "\x22\x00\x06", "\x17\x00", "\x19\x01",
			"\x15"+lp("m"), "\x16"+lp("d"), "\x26"+lp("k")+lp("v")) +
		lp("dev-1") +
		list("\x18\x00\x00\x00\x05", "\x02\x00\x00\x00\x00", "\x01\x01", "\x03"+lp("text/plain"), "\x08"+lp("r"), "\x09"+lp("c"),
			"\x26"+lp("wk")+lp("wv")) +
		lp("w/t") + lp("gone") + lp("u") + lp("p")
	return append(appendVarint([]byte{0x10}, len(body)), body...)
}

func TestDecodeConnect(t *testing.T) {
	want := &Connect{
		Version: V5, CleanStart: true, KeepAlive: 30, ClientID: "dev-1", HasUserName: true, UserName: "u", HasPassword: true,
		Password: []byte("p"), SessionExpiry: 9, ReceiveMaximum: 8, MaxPacket: 7000, AliasMaximum: 6, NoProblemInfo: true,
		RequestResponse: true, AuthMethod: "m", AuthData: []byte("d"), User: []UserProperty{{[]byte("k"), []byte("v")}},
		Will: &Will{
			Topic: "w/t", Payload: []byte("gone"), QoS: 1, Retain: true, Delay: 5, HasExpiry: true, PayloadFormat: 1,
			ContentType: []byte("text/plain"), ResponseTopic: []byte("r"), Correlation: []byte("c"),
			User: []UserProperty{{[]byte("wk"), []byte("wv")}},
		},
	}
	b := fullConnect()
	got, err := DecodeConnect(mustSplit(t, b))
	if err != nil {
		t.Fatal(err)
	}
	clear(b) // what was decoded must not alias the read buffer
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestDecodeConnect311(t *testing.T) {
	in := []byte("\x10\x1b\x00\x04MQTT\x04\xee\x00\x3c\x00\x01c\x00\x01w\x00\x00\x00\x01u\x00\x02pw")
	in[1] = byte(len(in) - 2)
	got, err := DecodeConnect(mustSplit(t, in))
	if err != nil {
		t.Fatal(err)
	}
	want := &Connect{
		Version: V311, CleanStart: true, KeepAlive: 60, ClientID: "c", HasUserName: true, UserName: "u", HasPassword: true,
		Password: []byte("pw"), Will: &Will{Topic: "w", Payload: []byte{}, QoS: 1, Retain: true}, // an empty will message is legal
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestConnectIsRefused(t *testing.T) {
	body := func(s string) []byte { return append([]byte{0x10, byte(len(s))}, s...) }
	for _, c := range []struct {
		name   string
		in     []byte
		reason Reason
	}{
		{"version 3", body("\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c"), UnsupportedProtocolVersion},              // MQTT3 [MQTT-3.1.2-2]
		{"version 6", body("\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01c"), UnsupportedProtocolVersion},            // MQTT5 [MQTT-3.1.2-2]
		{"another protocol", body("\x00\x04HTTP\x04\x02\x00\x3c\x00\x01c"), UnsupportedProtocolVersion},         // MQTT5 [MQTT-3.1.2-1]
		{"reserved flag", body("\x00\x04MQTT\x04\x03\x00\x3c\x00\x01c"), MalformedPacket},                       // MQTT5 [MQTT-3.1.2-3]
		{"will QoS without will", body("\x00\x04MQTT\x04\x0a\x00\x3c\x00\x01c"), MalformedPacket},               // MQTT5 [MQTT-3.1.2-11]
		{"will QoS 3", body("\x00\x04MQTT\x04\x1e\x00\x3c\x00\x01c\x00\x01w\x00\x00"), MalformedPacket},         // MQTT5 [MQTT-3.1.2-12]
		{"will retain without will", body("\x00\x04MQTT\x04\x22\x00\x3c\x00\x01c"), MalformedPacket},            // MQTT5 [MQTT-3.1.2-13]
		{"password without user name", body("\x00\x04MQTT\x04\x42\x00\x3c\x00\x01c\x00\x01p"), MalformedPacket}, // MQTT3 [MQTT-3.1.2-22]
		{"user name missing", body("\x00\x04MQTT\x04\x82\x00\x3c\x00\x01c"), MalformedPacket},                   // MQTT5 [MQTT-3.1.2-17]
		{"password missing", body("\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01c"), MalformedPacket},                // MQTT5 [MQTT-3.1.2-19]
		{"client id not UTF-8", body("\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\xff"), MalformedPacket},              // MQTT5 [MQTT-3.1.3-4]
		{"will topic with wildcard", body("\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x01#\x00\x00"), TopicNameInvalid},
		{"bytes behind the end", body("\x00\x04MQTT\x04\x02\x00\x3c\x00\x01cX"), MalformedPacket},
		{"receive maximum 0", body("\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x00\x00\x01c"), ProtocolError},
		{"maximum packet size 0", body("\x00\x04MQTT\x05\x02\x00\x3c\x05\x27\x00\x00\x00\x00\x00\x01c"), ProtocolError},
		{"session expiry twice", body("\x00\x04MQTT\x05\x02\x00\x3c\x0a\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01\x00\x01c"), ProtocolError},
		{"request problem info 2", body("\x00\x04MQTT\x05\x02\x00\x3c\x02\x17\x02\x00\x01c"), ProtocolError},
		{"topic alias in CONNECT", body("\x00\x04MQTT\x05\x02\x00\x3c\x03\x23\x00\x01\x00\x01c"), MalformedPacket},
	} {
		_, err := DecodeConnect(mustSplit(t, c.in))
		var pe *Error
		if !errors.As(err, &pe) || pe.Reason != c.reason {
			t.Errorf("%s: %v, want %v", c.name, err, c.reason)
		}
	}
}

// Every prefix of a valid packet is an error and never a panic. A truncated v5 SUBSCRIBE panics the codec
// behind the adapter (§5 trap).
func TestTruncatedPackets(t *testing.T) {
	subscribe := []byte("\x82\x00\x00\x01\x02\x0b\x05\x00\x03a/b\x01\x00\x01c\x02")
	unsubscribe := []byte("\xa2\x00\x00\x01\x00\x00\x03a/b")
	disconnect := []byte("\xe0\x00\x04\x05\x11\x00\x00\x00\x09")
	auth := []byte("\xf0\x00\x18\x08\x15\x00\x01m\x16\x00\x01d")
	for _, whole := range [][]byte{fullConnect(), subscribe, unsubscribe, disconnect, auth} {
		head := 2
		if whole[0] == 0x10 {
			head = mustSplit(t, whole).Size - len(mustSplit(t, whole).Body)
		}
		body := whole[head:]
		for n := range len(body) + 1 {
			f := Frame{Header: whole[0], Body: body[:n]}
			err := decodeAny(f, V5)
			if n == len(body) && err != nil {
				t.Errorf("%s whole: %v", f.Type(), err)
			}
			if n < len(body) && err == nil && !optionalTail(f, n) {
				t.Errorf("%s cut to %d bytes is accepted", f.Type(), n)
			}
		}
	}
}

// optionalTail knows the prefixes that are packets of their own.
func optionalTail(f Frame, n int) bool {
	switch f.Type() {
	case SUBSCRIBE:
		return n == 11 // after the first filter
	case DISCONNECT:
		return n == 0 || n == 1 // reason alone
	case AUTH:
		return n == 0
	}
	return false
}

func decodeAny(f Frame, version byte) (err error) {
	switch f.Type() {
	case CONNECT:
		_, err = DecodeConnect(f)
	case PUBLISH:
		err = new(Publish).Decode(f, version)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		_, err = DecodeAck(f, version)
	case SUBSCRIBE:
		_, err = DecodeSubscribe(f, version)
	case UNSUBSCRIBE:
		_, err = DecodeUnsubscribe(f, version)
	case DISCONNECT:
		_, err = DecodeDisconnect(f, version)
	case AUTH:
		_, err = DecodeAuth(f)
	case PINGREQ:
		err = DecodePing(f)
	}
	return err
}

func TestDecodeSubscribe(t *testing.T) {
	got, err := DecodeSubscribe(mustSplit(t, []byte("\x82\x0f\x00\x01\x02\x0b\x05\x00\x03a/b\x2d\x00\x01c\x02")), V5)
	if err != nil {
		t.Fatal(err)
	}
	want := &Subscribe{PacketID: 1, ID: 5, Filters: []Subscription{
		{Filter: "a/b", QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}, {Filter: "c", QoS: 2},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	for name, in := range map[string]string{
		"no filter":            "\x82\x03\x00\x01\x00",              // MQTT5 [MQTT-3.8.3-2]
		"packet id 0":          "\x82\x07\x00\x00\x00\x00\x01a\x00", // MQTT5 [MQTT-2.2.1-3]
		"QoS 3":                "\x82\x07\x00\x01\x00\x00\x01a\x03", // MQTT5 [MQTT-3.8.3-5]
		"reserved option bits": "\x82\x07\x00\x01\x00\x00\x01a\x40", // MQTT5 [MQTT-3.8.3-5]
		"retain handling 3":    "\x82\x07\x00\x01\x00\x00\x01a\x30",
		"subscription id 0":    "\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00",
		"two subscription ids": "\x82\x0b\x00\x01\x04\x0b\x01\x0b\x02\x00\x01a\x00",
		"filter not UTF-8":     "\x82\x07\x00\x01\x00\x00\x01\xff\x00", // MQTT5 [MQTT-3.8.3-1]
	} {
		if s, err := DecodeSubscribe(mustSplit(t, []byte(in)), V5); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if _, err := DecodeSubscribe(mustSplit(t, []byte("\x82\x06\x00\x01\x00\x01a\x04")), V311); err == nil { // MQTT3 [MQTT-3.8.3-4]
		t.Error("option bits of MQTT 5 pass in 3.1.1")
	}
}

func TestDecodeDisconnect(t *testing.T) {
	for in, want := range map[string]Disconnect{
		"\xe0\x00":                             {},
		"\xe0\x01\x04":                         {Reason: DisconnectWithWill},
		"\xe0\x07\x00\x05\x11\x00\x00\x00\x00": {HasExpiry: true},
		"\xe0\x07\x04\x05\x11\x00\x00\x00\x09": {Reason: DisconnectWithWill, HasExpiry: true, SessionExpiry: 9},
		"\xe0\x06\x81\x04\x1f\x00\x01x":        {Reason: MalformedPacket, ReasonString: "x"},
	} {
		got, err := DecodeDisconnect(mustSplit(t, []byte(in)), V5)
		if err != nil || *got != want {
			t.Errorf("% x: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"\xe0\x01\x8e", "\xe0\x03\x00\x00x", "\xe0\x04\x00\x02\x23\x00"} { // MQTT5 [MQTT-3.14.2-1]
		if d, err := DecodeDisconnect(mustSplit(t, []byte(in)), V5); err == nil {
			t.Errorf("% x: %+v", in, d)
		}
	}
	if _, err := DecodeDisconnect(mustSplit(t, []byte("\xe0\x01\x00")), V311); err == nil {
		t.Error("3.1.1 has no reason code")
	}
}

// What we encode, a second codec reads.
func TestEncodersAgainstPaho(t *testing.T) {
	read := func(b []byte) packets.Packet {
		t.Helper()
		cp, err := packets.ReadPacket(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("% x: %v", b, err)
		}
		return cp.Content
	}
	ack := read(AppendConnack(nil, &Connack{
		SessionPresent: true, ReceiveMaximum: 100, MaxPacket: 5000, AliasMaximum: 10, KeepAlive: 0, AssignedID: "x", HasExpiry: true, SessionExpiry: 3,
	}, V5)).(*packets.Connack)
	p := ack.Properties
	if !ack.SessionPresent || *p.ReceiveMaximum != 100 || *p.MaximumPacketSize != 5000 || *p.TopicAliasMaximum != 10 ||
		p.ServerKeepAlive == nil || *p.ServerKeepAlive != 0 || p.AssignedClientID != "x" || *p.SessionExpiryInterval != 3 || p.MaximumQOS != nil {
		t.Errorf("CONNACK %+v", p)
	}
	if d := read(AppendDisconnect(nil, &Disconnect{Reason: SessionTakenOver}, V5)).(*packets.Disconnect); d.ReasonCode != 0x8e {
		t.Errorf("DISCONNECT %+v", d)
	}
	if s := read(AppendSuback(nil, 9, []Reason{GrantedQoS1, NotAuthorized}, V5)).(*packets.Suback); s.PacketID != 9 || !bytes.Equal(s.Reasons, []byte{1, 0x87}) {
		t.Errorf("SUBACK %+v", s)
	}
	if s := read(AppendUnsuback(nil, 9, []Reason{NoSubscriptionExisted}, V5)).(*packets.Unsuback); s.PacketID != 9 || !bytes.Equal(s.Reasons, []byte{0x11}) {
		t.Errorf("UNSUBACK %+v", s)
	}
	for i := range samples {
		pub := read(AppendPublish(nil, &samples[i], V5)).(*packets.Publish)
		if pub.Topic != string(samples[i].Topic) || !bytes.Equal(pub.Payload, samples[i].Payload) || pub.PacketID != samples[i].ID ||
			len(pub.Properties.User) != len(samples[i].User) {
			t.Errorf("PUBLISH %d: %+v", i, pub)
		}
	}
	if b := AppendDisconnect(nil, &Disconnect{Reason: ServerBusy}, V311); len(b) != 0 {
		t.Errorf("a server has no DISCONNECT in 3.1.1: % x", b)
	}
	if b := AppendSuback(nil, 1, []Reason{GrantedQoS2, NotAuthorized}, V311); !bytes.Equal(b, []byte{0x90, 4, 0, 1, 2, 0x80}) { // MQTT3 [MQTT-3.9.3-2]
		t.Errorf("% x", b)
	}
	if b := AppendConnack(nil, &Connack{Reason: NotAuthorized}, V311); !bytes.Equal(b, []byte{0x20, 2, 0, 5}) {
		t.Errorf("% x", b)
	}
}
