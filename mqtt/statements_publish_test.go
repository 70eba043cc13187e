package mqtt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/packet"
)

// What a PUBLISH may not hold ends the connection of an MQTT 5 client with the reason, and makes no record.
func TestBadPublishes(t *testing.T) {
	// MQTT5 [MQTT-1.5.7-1] [MQTT-2.2.2-1] [MQTT-3.3.2-1] [MQTT-3.3.2-2] [MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19] [MQTT-4.7.0-1]
	r := startRig(t, nil)
	const malformed, protocol, badTopic = 0x81, 0x82, 0x90
	for name, c := range map[string]struct {
		in   string
		want byte
	}{
		"no topic at all":             {"\x30\x00", malformed},
		"topic past the packet":       {"\x30\x00\x00\x09a\x00", malformed},
		"topic not UTF-8":             {"\x30\x00\x00\x02a\xff\x00x", malformed},
		"topic with a surrogate":      {"\x30\x00\x00\x03\xed\xa0\x80\x00x", malformed},
		"topic with U+0000":           {"\x30\x00\x00\x02a\x00\x00x", malformed},
		"topic is #":                  {"\x30\x00\x00\x01#\x00x", badTopic},
		"topic ends in +":             {"\x30\x00\x00\x03a/+\x00x", badTopic},
		"topic holds a wildcard":      {"\x30\x00\x00\x03a+b\x00x", badTopic},
		"wildcard behind an alias":    {"\x30\x00\x00\x01+\x03\x23\x00\x01x", badTopic},
		"no property length":          {"\x30\x00\x00\x01a", malformed},
		"no property length, QoS 1":   {"\x32\x00\x00\x01a\x00\x01", malformed},
		"user property name":          {"\x30\x00\x00\x01a\x07\x26\x00\x01\xff\x00\x01vx", malformed},
		"user property value":         {"\x30\x00\x00\x01a\x07\x26\x00\x01k\x00\x01\xffx", malformed},
		"user property with U+0000":   {"\x30\x00\x00\x01a\x07\x26\x00\x01k\x00\x01\x00x", malformed},
		"user property without value": {"\x30\x00\x00\x01a\x04\x26\x00\x01kx", malformed},
		"response topic not UTF-8":    {"\x30\x00\x00\x01a\x04\x08\x00\x01\xffx", malformed},
		"response topic with U+0000":  {"\x30\x00\x00\x01a\x04\x08\x00\x01\x00x", malformed},
		"response topic is a filter":  {"\x30\x00\x00\x01a\x06\x08\x00\x03r/#x", protocol},
		"content type not UTF-8":      {"\x30\x00\x00\x01a\x04\x03\x00\x01\xffx", malformed},
		"content type with U+0000":    {"\x30\x00\x00\x01a\x04\x03\x00\x01\x00x", malformed},
	} {
		p, _ := r.v5("dev", nil)
		p.say(sized(c.in))
		if f := p.frame(); len(f) < 3 || f[0] != 0xe0 || f[2] != c.want {
			t.Errorf("%s: % x, want DISCONNECT 0x%02x", name, f, c.want)
			continue
		}
		p.expectEnd()
	}
	if n := r.log.appended("telemetry"); n != 0 {
		t.Errorf("%d records", n)
	}
}

// A byte order mark is a character like any other wherever a string stands: in client identifier, topic, filter
// and properties.
func TestByteOrderMarkStays(t *testing.T) { // MQTT5 [MQTT-1.5.4-3]; MQTT3 [MQTT-1.5.3-3]
	const bom = "\ufeff"
	for _, version := range []byte{packet.V311, packet.V5} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			plain, marked := r.connectAs(version, "dev"), r.connectAs(version, bom+"dev")
			plain.quiet() // not taken over: the identifiers differ
			plain.subscribe("a", 1)
			marked.subscribe(bom+"a", 1)
			pub, _ := r.v5("pub", nil)
			pub.write(packet.AppendPublish(nil, &packet.Publish{
				Topic: []byte(bom + "a"), Payload: []byte(bom), QoS: 1, ID: 1, ContentType: []byte(bom + "t"), ResponseTopic: []byte(bom + "r"),
				User: []packet.UserProperty{{Name: []byte(bom + "k"), Value: []byte(bom)}},
			}, packet.V5)...)
			pub.expect(0x40, 2, 0, 1)
			m := marked.message()
			if m.Topic != bom+"a" || string(m.Payload) != bom {
				t.Errorf("version %d: %+v", version, m)
			}
			if version == packet.V5 {
				p := m.Properties
				if p.ContentType != bom+"t" || p.ResponseTopic != bom+"r" || len(p.User) != 1 || p.User[0].Key != bom+"k" || p.User[0].Value != bom {
					t.Errorf("%+v", p)
				}
			}
			plain.quiet()
			if rec := r.log.records(t, "telemetry")[0]; string(rec.Headers[0].Value) != bom+"a" {
				t.Errorf("recorded under %q", rec.Headers[0].Value)
			}
		})
	}
}

// The packets that carry a message, byte for byte: type and flags, length, topic first, an identifier only above
// QoS 0, a property length of 0 in MQTT 5, the payload. DUP is never set at first, at QoS 0 not ever, and a
// message of QoS 0 waits for nothing.
func TestMessagesByteForByte(t *testing.T) {
	// MQTT5 [MQTT-2.2.1-2] [MQTT-2.2.2-1] [MQTT-3.3.1-2] [MQTT-3.3.2-1] [MQTT-4.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.3-1] [MQTT-4.3.3-2]
	// MQTT3 [MQTT-2.3.1-5] [MQTT-3.3.1-2] [MQTT-3.3.2-1] [MQTT-4.3.1-1]
	for version, want := range map[byte][3]string{
		packet.V311: {"\x30\x08\x00\x03t/0one", "\x32\x0a\x00\x03t/1\x00\x01two", "\x34\x0c\x00\x03t/2\x00\x02three"},
		packet.V5:   {"\x30\x09\x00\x03t/0\x00one", "\x32\x0b\x00\x03t/1\x00\x01\x00two", "\x34\x0d\x00\x03t/2\x00\x02\x00three"},
	} {
		r := startRig(t, nil)
		sub, pub := r.connectAs(version, "sub"), r.connectAs(version, "pub")
		sub.subscribe("t/#", 2)
		for qos, payload := range []string{"one", "two", "three"} {
			pub.publish("t/"+string(rune('0'+qos)), payload, byte(qos), uint16(qos*9))
			sub.hear(want[qos])
		}
		sub.quiet() // nothing is repeated while the connection stands // MQTT5 [MQTT-4.4.0-1]
		for range 3 {
			pub.publish("t/0", "one", 0, 0)
			sub.hear(want[0])
		}
		// DUP with QoS 0 does not exist in the other direction either.
		pub.expect(0x40, 2, 0, 9)
		pub.expect(0x50, 2, 0, 18)
		pub.write(0x38, 3, 0, 1, 'a')
		if f := pub.frame(); version == packet.V311 && f != nil || version == packet.V5 && (f[0] != 0xe0 || f[2] < 0x80) {
			t.Errorf("DUP with QoS 0 is answered with % x", f)
		}
		r.stop()
	}
}

// A record that no MQTT client made may hold what MQTT cannot say. Its message leaves that out and stays one that
// a client may read.
func TestHeadersOfKafkaProducers(t *testing.T) { // MQTT5 [MQTT-1.5.7-1] [MQTT-3.3.2-13] [MQTT-3.3.2-14] [MQTT-3.3.2-19]
	r := startRig(t, nil)
	sub, _ := r.v5("sub", nil)
	sub.subscribe("telemetry/#", 1)
	parts, err := r.log.Topic("telemetry")
	if err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte("x"), 1<<16)
	h := func(key, value string) log.Header { return log.Header{Key: []byte(key), Value: []byte(value)} }
	for i, headers := range [][]log.Header{
		{h("k", "v"), h("bin", "\xff\x00"), h("\xfe", "v"), h("nul", "a\x00"), {Key: []byte("long"), Value: long}, {Key: []byte("nil")}, h("k", "w")},
		{h("content-type", "\xff"), h("mqtt.response-topic", "\xff"), {Key: []byte("mqtt.correlation-data"), Value: long}},
		{h("content-type", "a\x00"), h("mqtt.response-topic", "a/#")},
		{{Key: []byte("content-type"), Value: long}, h("mqtt.response-topic", "")},
		{h("content-type", "t"), h("mqtt.response-topic", "r"), h("mqtt.correlation-data", "\xff\x00")},
	} {
		if err := parts[0].Append(&log.Record{Key: []byte("k"), Value: []byte("v"), Headers: headers}, nil, 0); err != nil {
			t.Fatal(err)
		}
		f := sub.expectType(packet.PUBLISH)
		fr, err := packet.Split(f, 0)
		if err != nil {
			t.Fatal(err)
		}
		var p packet.Publish // our decoder refuses what a client may refuse
		if err := p.Decode(fr, packet.V5); err != nil {
			t.Fatalf("record %d is sent as a PUBLISH of %d bytes that is none: %v", i, len(f), err)
		}
		sub.puback(p.ID)
		got := fmt.Sprintf("%s %s %q", p.ContentType, p.ResponseTopic, p.Correlation)
		for _, u := range p.User {
			got += fmt.Sprintf(" %s=%s", u.Name, u.Value)
		}
		want := []string{`  "" k=v nil= k=w`, `  ""`, `  ""`, `  ""`, `t r "\xff\x00"`}[i]
		if got != want || string(p.Payload) != "v" {
			t.Errorf("record %d: %q, want %q", i, got, want)
		}
	}
}

// The will of an MQTT 5 client carries its retain flag and its user properties in their order, also when it waited
// over a restart.
func TestWillIsPublishedAsGiven(t *testing.T) {
	// MQTT5 [MQTT-3.1.2-9] [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT-3.1.3-10]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		user := []packets.User{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "0"}, {Key: "a", Value: "2"}}
		const props = "\x01\x01\x03\x00\x01t\x08\x00\x01r\x09\x00\x01c\x26\x00\x01b\x00\x011\x26\x00\x01a\x00\x012\x26\x00\x01b\x00\x010\x26\x00\x01a\x00\x012"
		for i, c := range []struct {
			retain, restart bool
			delay           uint32
		}{{false, false, 0}, {true, false, 0}, {false, true, 100}, {true, true, 100}} {
			p, flags := r.dial(), byte(0x0c) // will, QoS 1
			if c.retain {
				flags |= 0x20
			}
			p.say(sized("\x10\x00\x00\x04MQTT\x05" + string([]byte{flags}) + "\x00\x3c\x05\x11\x00\x00\x03\xe8\x00\x03dev" +
				string([]byte{byte(len(props) + 5)}) + props + "\x18\x00\x00\x00" + string([]byte{byte(c.delay)}) + "\x00\x09wills/dev\x00\x04gone"))
			p.expectType(packet.CONNACK)
			p.quiet()
			p.c.Close()
			eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 0 })
			if c.restart {
				r = r.restart(true)
			}
			if c.delay == 0 {
				r.wantWill(i + 1)
			}
			sub, _ := r.v5("sub", nil)
			sub.say("\x82\x0d\x00\x01\x00\x00\x07wills/#\x09") // QoS 1, retain as published
			sub.expect(0x90, 4, 0, 1, 0, 1)
			if c.delay > 0 {
				sub.quiet()
				sub.c.SetReadDeadline(time.Time{})
				time.Sleep(50 * time.Second)
				sub.quiet()
				time.Sleep(51 * time.Second)
			}
			var got *packets.Publish
			if c.delay == 0 && !c.retain { // published before the subscription: read from the log
				sub.quiet()
			} else {
				got = sub.message()
				sub.puback(got.PacketID)
			}
			recs := slices.DeleteFunc(r.log.records(t, "telemetry"), func(r log.Record) bool { return string(r.Value) != "gone" })
			rec := recs[len(recs)-1]
			var headers []string
			for _, h := range rec.Headers {
				headers = append(headers, string(h.Key)+"="+string(h.Value))
			}
			if flag := slices.Contains(headers, "mqtt.retain=1"); flag != c.retain {
				t.Errorf("%+v: recorded with %v", c, headers)
			}
			if want := []string{"b=1", "a=2", "b=0", "a=2"}; !slices.Equal(headers[len(headers)-4:], want) {
				t.Errorf("%+v: recorded with %v, want %v last", c, headers, want)
			}
			if got != nil && (got.Retain != c.retain || !slices.Equal(got.Properties.User, user) || got.Properties.ContentType != "t" ||
				got.Properties.ResponseTopic != "r" || string(got.Properties.CorrelationData) != "c" || string(got.Payload) != "gone") {
				t.Errorf("%+v: %+v %+v", c, got, got.Properties)
			}
			sub.quiet()
			sub.write(0xe0, 0)
			sub.expectEnd()
			late, _ := r.v5("late", nil) // what is retained waits for those who come later
			late.subscribe("wills/dev", 0)
			if c.retain {
				if m := late.message(); !m.Retain || string(m.Payload) != "gone" || !slices.Equal(m.Properties.User, user) {
					t.Errorf("%+v: %+v", c, m)
				}
				late.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("wills/dev"), QoS: 1, ID: 1, Retain: true}, packet.V5)...)
				late.until(packet.PUBACK)
			} else {
				late.quiet()
			}
			late.c.Close()
			eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 0 })
		}
	})
}

// A connection without the will flag has no will, whatever the one before it had.
func TestNoWillFlagNoWill(t *testing.T) { // MQTT3 [MQTT-3.1.2-12]; MQTT5 [MQTT-3.1.3-9]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p := r.dial()
		p.say("\x10\x14\x00\x04MQTT\x04\x04\x00\x3c\x00\x01d\x00\x01w\x00\x02go")
		p.expect(0x20, 2, 0, 0)
		p.write(0xe0, 0) // called off
		p.expectEnd()
		p = r.v311("d", false, 0x20, 2, 1, 0)
		p.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 0 })
		sub, _ := r.v5("sub", nil)
		sub.subscribe("#", 1)
		p = r.v311("d", false, 0x20, 2, 1, 0)
		p.write(0x00, 0) // ended by the server
		p.expectEnd()
		sub.quiet()
		five, _ := r.v5("five", willing(1, 1000, false))
		five.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 1 })
		five, _ = r.v5("five", lasting(1000)) // within the delay, and without a will of its own
		five.c.Close()
		time.Sleep(10 * time.Second)
		sub.quiet()
		if s := r.srv.Stats(); s.Wills != 0 || r.log.appended("telemetry") != 0 {
			t.Errorf("%d wills", s.Wills)
		}
	})
}

// A client that asked for no problem information gets reason codes and nothing more: no packet but PUBLISH,
// CONNACK and DISCONNECT may carry a reason string or a user property.
func TestNoProblemInformation(t *testing.T) { // MQTT5 [MQTT-3.1.2-29]
	r := startRig(t, func(c *Config) { c.Auth = refuser{} })
	off := byte(0)
	p, _ := r.v5("dev", func(c *packets.Connect) { c.Properties.RequestProblemInfo = &off })
	for _, c := range []struct{ in, want string }{
		{"\x32\x0e\x00\x08secret/a\x00\x01\x00x", "\x40\x03\x00\x01\x87"},
		{"\x34\x0e\x00\x08secret/a\x00\x02\x00x", "\x50\x03\x00\x02\x87"},
		{"\x62\x02\x00\x09", "\x70\x03\x00\x09\x92"},
		{"\x50\x02\x00\x09", "\x62\x03\x00\x09\x92"},
		{"\x82\x17\x00\x03\x00\x00\x08secret/a\x01\x00\x05a/#/b\x01", "\x90\x05\x00\x03\x00\x87\x8f"},
		{"\xa2\x0f\x00\x04\x00\x00\x01z\x00\x05a/#/b", "\xb0\x05\x00\x04\x00\x11\x8f"},
	} {
		p.say(sized(c.in))
		p.hear(c.want)
	}
	// The user properties of a message are the publisher's and stay.
	p.subscribe("a", 0)
	p.say(sized("\x30\x00\x00\x01a\x07\x26\x00\x01k\x00\x01vx"))
	if m := p.message(); len(m.Properties.User) != 1 {
		t.Errorf("%+v", m.Properties)
	}
}

// A client that has used up its receive maximum is still answered: acknowledgements, SUBACK, UNSUBACK, PINGRESP
// and PUBREL do not wait for quota.
func TestOnlyPublishWaitsForQuota(t *testing.T) { // MQTT5 [MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		two := uint16(2)
		p, _ := r.v5("dev", func(c *packets.Connect) { c.Properties.ReceiveMaximum = &two })
		p.subscribe("q", 2)
		pub, _ := r.v5("pub", nil)
		for i := range byte(5) {
			pub.publish("q", string(rune('0'+i)), 2, uint16(i+1))
			pub.expect(0x50, 2, 0, i+1)
		}
		first, second := p.message(), p.message()
		p.quiet() // no third one; PINGRESP came
		p.publish("x", "", 1, 1)
		p.expect(0x40, 2, 0, 1)
		p.publish("x", "", 2, 2)
		p.expect(0x50, 2, 0, 2)
		p.write(0x62, 2, 0, 2)
		p.expect(0x70, 2, 0, 2)
		p.say("\x82\x07\x00\x09\x00\x00\x01z\x00")
		p.expect(0x90, 4, 0, 9, 0, 0)
		p.say("\xa2\x06\x00\x0a\x00\x00\x01z")
		p.expect(0xb0, 4, 0, 10, 0, 0)
		p.write(0x50, 2, byte(first.PacketID>>8), byte(first.PacketID)) // PUBREC gives nothing back yet
		p.expect(0x62, 2, byte(first.PacketID>>8), byte(first.PacketID))
		p.quiet()
		p.write(0x70, 2, byte(first.PacketID>>8), byte(first.PacketID))
		if m := p.message(); string(m.Payload) != "2" {
			t.Errorf("%+v", m)
		}
		p.quiet()
		p.write(0x50, 3, byte(second.PacketID>>8), byte(second.PacketID), 0x80) // a refusal gives it back at once
		if m := p.message(); string(m.Payload) != "3" {
			t.Errorf("%+v", m)
		}
		p.quiet()
	})
}

// Expiry breaks off no exchange that was begun, in either direction: its repeat is acknowledged as ever, PUBREL
// follows PUBREC and PUBCOMP PUBREL, and what was sent before it expired is sent again.
func TestExpiryBreaksNothingOff(t *testing.T) { // MQTT5 [MQTT-4.3.3-7] [MQTT-4.3.3-13] [MQTT-4.4.0-1]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", lasting(1000))
		sub.subscribe("a", 2)
		pub, _ := r.v5("pub", lasting(1000))
		send := func(payload string, id uint16, dup bool) {
			t.Helper()
			p := packet.Publish{Topic: []byte("a"), Payload: []byte(payload), QoS: 2, ID: id, Dup: dup, HasExpiry: true, Expiry: 5}
			pub.write(packet.AppendPublish(nil, &p, packet.V5)...)
			pub.expect(0x50, 2, byte(id>>8), byte(id))
		}
		for i, payload := range []string{"one", "two", "three"} {
			send(payload, uint16(i+1), false)
			if m := sub.message(); string(m.Payload) != payload || *m.Properties.MessageExpiry != 5 {
				t.Errorf("%+v", m)
			}
		}
		sub.write(0x50, 2, 0, 1)
		sub.expect(0x62, 2, 0, 1)
		time.Sleep(10 * time.Second) // all have expired
		send("one", 1, true)
		pub.write(0x62, 2, 0, 1)
		pub.expect(0x70, 2, 0, 1)
		sub.write(0x70, 2, 0, 1)
		sub.write(0x50, 2, 0, 2)
		sub.expect(0x62, 2, 0, 2)
		pub.c.Close()
		sub.c.Close()
		eventually(t, "both are gone", func() bool { return r.srv.Stats().Connections == 0 })
		pub, _ = r.v5("pub", lasting(1000))
		send("two", 2, true)
		send("three", 3, true)
		for id := byte(2); id <= 3; id++ {
			pub.write(0x62, 2, 0, id)
			pub.expect(0x70, 2, 0, id)
		}
		sub, _ = r.v5("sub", lasting(1000))
		sub.expect(0x62, 2, 0, 2)
		m := sub.message()
		if string(m.Payload) != "three" || !m.Duplicate || m.PacketID != 3 || m.Properties.MessageExpiry == nil || *m.Properties.MessageExpiry != 0 {
			t.Errorf("%+v %+v", m, m.Properties)
		}
		sub.write(0x70, 2, 0, 2)
		sub.write(0x50, 2, 0, 3)
		sub.expect(0x62, 2, 0, 3)
		sub.write(0x70, 2, 0, 3)
		sub.quiet()
		if n := len(r.log.records(t, "telemetry")); n != 3 {
			t.Errorf("%d records, want 3", n)
		}
	})
}

// packetID reads the identifier of a PUBLISH of QoS 1 or 2.
func packetID(f []byte) uint16 {
	at := 1
	for f[at]&0x80 != 0 {
		at++
	}
	topic := int(binary.BigEndian.Uint16(f[at+1:]))
	return binary.BigEndian.Uint16(f[at+3+topic:])
}
