package mqtt

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/weir-io/weir/mqtt/packet"
)

// subackReasons and unsubackReasons are the tables of MQTT 5 §3.9.3 and §3.11.3.
var (
	subackReasons   = []byte{0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2}
	unsubackReasons = []byte{0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91}
)

// SUBACK and UNSUBACK repeat the identifier they answer and have one code of their table for each filter, in the
// filters' order; their property length is 0.
func TestSubackAndUnsubackOf5(t *testing.T) {
	// MQTT5 [MQTT-2.2.1-6] [MQTT-2.2.2-1] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] to [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2]
	// MQTT5 [MQTT-3.10.4-4] to [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2]
	r := startRig(t, func(c *Config) { c.Auth = refuser{} })
	p, _ := r.v5("dev", nil)
	p.say(sized("\x82\x00\x12\x34\x00\x00\x01a\x02\x00\x08secret/x\x01\x00\x04a/#b\x01\x00\x01b\x00\x00\x07$share/\x00\x00\x01c\x01"))
	p.expect(0x90, 9, 0x12, 0x34, 0, 2, 0x87, 0x8f, 0, 0x8f, 1)
	p.say(sized("\xa2\x00\xff\xfe\x00\x00\x01b\x00\x01z\x00\x04a/#b\x00\x01a"))
	p.expect(0xb0, 7, 0xff, 0xfe, 0, 0, 0x11, 0x8f, 0)
	// The same whatever the filters are.
	for i, filter := range []string{"", "#", "+", "+a", "/", "//", "$SYS/#", "$share", "$share/g", "$share/g/", "$share/+/a", "$share/g/#", "secret/#", "$x"} {
		p.say(sized(fmt.Sprintf("\x82\x00\x00%c\x00\x00%c%s\x02", i+1, len(filter), filter)))
		f := p.until(packet.SUBACK)
		if got := f[len(f)-1]; len(got) != 6 || got[3] != byte(i+1) || !slices.Contains(subackReasons, got[5]) {
			t.Errorf("%q: SUBACK % x", filter, got)
		}
		p.say(sized(fmt.Sprintf("\xa2\x00\x01%c\x00\x00%c%s", i+1, len(filter), filter)))
		f = p.until(packet.UNSUBACK)
		if got := f[len(f)-1]; len(got) != 6 || got[2] != 1 || got[3] != byte(i+1) || !slices.Contains(unsubackReasons, got[5]) {
			t.Errorf("%q: UNSUBACK % x", filter, got)
		}
	}
}

// What SUBSCRIBE and UNSUBSCRIBE may not hold ends an MQTT 5 connection with the reason.
func TestBadSubscribes(t *testing.T) {
	// MQTT5 [MQTT-1.5.7-1] [MQTT-2.2.2-1] [MQTT-3.8.1-1] [MQTT-3.8.3-1] [MQTT-3.8.3-2] [MQTT-3.8.3-5] [MQTT-3.10.1-1] [MQTT-3.10.3-1] [MQTT-3.10.3-2]
	r := startRig(t, nil)
	const malformed, protocol = 0x81, 0x82
	for in, want := range map[string]byte{
		"\x80\x00\x00\x01\x00\x00\x01a\x00":                       malformed, // flags
		"\x82\x00\x00\x01\x00\x00\x01\xff\x00":                    malformed, // not UTF-8
		"\x82\x00\x00\x01\x00\x00\x01\x00\x00":                    malformed, // U+0000
		"\x82\x00\x00\x01\x00":                                    protocol,  // no filter
		"\x82\x00\x00\x01\x00\x00\x01a":                           malformed, // no options
		"\x82\x00\x00\x01\x00\x00\x01a\x03":                       malformed, // QoS 3
		"\x82\x00\x00\x01\x00\x00\x01a\x40":                       malformed, // reserved bits
		"\x82\x00\x00\x01\x00\x00\x01a\x80":                       malformed,
		"\x82\x00\x00\x01":                                        malformed, // no property length
		"\x82\x00\x00\x01\x07\x26\x00\x01k\x00\x01\xff\x00\x01a0": malformed, // user property
		"\xa0\x00\x00\x01\x00\x00\x01a":                           malformed,
		"\xa2\x00\x00\x01\x00\x00\x01\xff":                        malformed,
		"\xa2\x00\x00\x01\x00\x00\x01\x00":                        malformed,
		"\xa2\x00\x00\x01\x00\x00\x01a\x00\x02\xc3(":              malformed, // the second one
		"\xa2\x00\x00\x01\x00":                                    protocol,
		"\xa2\x00\x00\x01\x07\x26\x00\x01\xff\x00\x01v\x00\x01a":  malformed,
		"\xa2\x00\x00\x01":                                        malformed,
	} {
		p, _ := r.v5("dev", nil)
		p.say(sized(in))
		if f := p.frame(); len(f) < 3 || f[0] != 0xe0 || f[2] != want {
			t.Errorf("% x: % x, want DISCONNECT 0x%02x", in, f, want)
			continue
		}
		p.expectEnd()
	}
}

// Subscribing to the same filter again replaces the subscription: one copy of each message, by the new options;
// the retained messages come again.
func TestSameFilterAgainReplaces(t *testing.T) { // MQTT5 [MQTT-3.8.4-3] [MQTT-3.8.4-4]; MQTT3 [MQTT-3.8.4-3]
	for _, version := range []byte{packet.V311, packet.V5} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			pub, _ := r.v5("pub", nil)
			pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("kept"), QoS: 2, ID: 1, Retain: true}, packet.V5)...)
			pub.expect(0x50, 2, 0, 1)
			p := r.connectAs(version, "dev")
			ack := func(f []byte) {
				switch f[0] & 6 {
				case 2:
					p.puback(packetID(f))
				case 4:
					id := packetID(f)
					p.write(0x50, 2, byte(id>>8), byte(id))
					p.expect(0x62, 2, byte(id>>8), byte(id))
					p.write(0x70, 2, byte(id>>8), byte(id))
				}
			}
			for i, qos := range []byte{1, 1, 0, 2} {
				p.subscribe("a", qos)
				f := p.expectType(packet.PUBLISH)
				if f[0] != 0x31|qos<<1 {
					t.Errorf("version %d, time %d: % x, want the retained message at QoS %d", version, i, f, qos)
				}
				ack(f)
				pub.publish("a", "live", 2, uint16(i+2))
				pub.expect(0x50, 2, 0, byte(i+2))
				if f = p.expectType(packet.PUBLISH); f[0] != 0x30|qos<<1 {
					t.Errorf("version %d, time %d: % x, want one live message at QoS %d", version, i, f, qos)
				}
				ack(f)
				p.quiet() // no second copy
			}
			if version == packet.V5 { // the new identifier and options count, alone
				p.say(sized("\x82\x00\x00\x01\x02\x0b\x07\x00\x01a\x29")) // identifier 7, QoS 1, retain as published, none of the retained
				p.expect(0x90, 4, 0, 1, 0, 1)
				pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 1, ID: 99, Retain: true}, packet.V5)...)
				pub.expect(0x40, 2, 0, 99)
				if m := p.message(); !m.Retain || m.QoS != 1 || m.Properties.SubscriptionIdentifier == nil || *m.Properties.SubscriptionIdentifier != 7 {
					t.Errorf("%+v %+v", m, m.Properties)
				}
				p.quiet()
			}
			p.say(map[byte]string{packet.V311: "\xa2\x05\x00\x02\x00\x01a", packet.V5: "\xa2\x06\x00\x02\x00\x00\x01a"}[version])
			p.expectType(packet.UNSUBACK)
			pub.publish("a", "gone", 1, 100)
			pub.expect(0x40, 2, 0, 100)
			p.quiet() // one UNSUBSCRIBE ends it, however often it was subscribed
		})
	}
}

// While a subscription is replaced over and over, no message is lost, doubled or out of order, nor one that waits
// for room in a small window.
func TestReplacingLosesNothing(t *testing.T) { // MQTT5 [MQTT-3.8.4-4]; MQTT3 [MQTT-3.8.4-3] [MQTT-4.6.0-6]
	r := startRig(t, func(c *Config) { c.MaxInflight = 3 })
	p := r.v311("dev", true)
	p.subscribe("a", 1)
	pub, _ := r.v5("pub", nil)
	const n = 500
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			pub.publish("a", fmt.Sprint(i), 1, uint16(i+1))
			pub.expect(0x40, 2, byte((i+1)>>8), byte(i+1))
		}
	}()
	subacks := 0
	for next := 0; next < n; {
		if next%10 == 0 && subacks*10 <= next {
			p.say("\x82\x06\x00\x09\x00\x01a\x01")
			subacks++
		}
		f := p.frame()
		if packet.Type(f[0]>>4) == packet.SUBACK {
			continue
		}
		m, err := decodePaho(f, packet.V311)
		if err != nil || string(m.Payload) != fmt.Sprint(next) {
			t.Fatalf("% x, want message %d", f, next)
		}
		p.puback(m.PacketID)
		next++
	}
	<-done
	if subacks < n/10 {
		t.Errorf("replaced %d times only", subacks)
	}
}

// UNSUBSCRIBE ends no delivery that was begun: what was sent is sent again on reconnect and acknowledged to its
// end, what waited for room is not sent.
func TestUnsubscribeCompletesWhatWasBegun(t *testing.T) {
	// MQTT5 [MQTT-3.10.4-2] [MQTT-3.10.4-3]; MQTT3 [MQTT-3.10.4-2] [MQTT-3.10.4-3]
	for _, version := range []byte{packet.V311, packet.V5} {
		inBubble(t, func(c *Config) { c.MaxInflight = 3 }, func(t *testing.T, r *rig) {
			connect := func() *peer {
				if version == packet.V311 {
					p := r.dial()
					p.version = version
					p.say("\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03dev")
					p.expectType(packet.CONNACK)
					return p
				}
				p, _ := r.v5("dev", lasting(1000))
				return p
			}
			p := connect()
			p.subscribe("one", 1)
			p.subscribe("two", 2)
			pub, _ := r.v5("pub", nil)
			for i, c := range []struct{ topic, payload string }{{"one", "a"}, {"two", "b"}, {"two", "c"}, {"one", "d"}, {"two", "e"}} {
				pub.publish(c.topic, c.payload, 2, uint16(i+1))
				pub.expect(0x50, 2, 0, byte(i+1))
				if i < 3 {
					if m := p.message(); string(m.Payload) != c.payload {
						t.Fatalf("%+v", m)
					}
				}
			}
			p.say(map[byte]string{packet.V311: "\xa2\x0c\x00\x02\x00\x03one\x00\x03two", packet.V5: "\xa2\x0d\x00\x02\x00\x00\x03one\x00\x03two"}[version])
			p.expectType(packet.UNSUBACK)
			p.write(0x50, 2, 0, 2) // the first of QoS 2 goes on at once
			p.expect(0x62, 2, 0, 2)
			p.c.Close()
			eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 1 })
			p = connect()
			if m := p.message(); string(m.Payload) != "a" || !m.Duplicate || m.PacketID != 1 {
				t.Errorf("version %d: %+v", version, m)
			}
			p.expect(0x62, 2, 0, 2)
			if m := p.message(); string(m.Payload) != "c" || !m.Duplicate || m.PacketID != 3 {
				t.Errorf("version %d: %+v", version, m)
			}
			p.puback(1)
			p.write(0x70, 2, 0, 2)
			p.write(0x50, 2, 0, 3)
			p.expect(0x62, 2, 0, 3)
			p.write(0x70, 2, 0, 3)
			p.quiet()
		})
	}
}

// What is sent again on a new connection is the packet that was sent first, with DUP: the same identifiers of
// subscriptions, the same retain flag.
func TestRepeatsAreTheSamePacket(t *testing.T) { // MQTT5 [MQTT-3.3.1-1] [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.3.4-3] [MQTT-4.4.0-1]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		pub, _ := r.v5("pub", nil)
		for _, options := range []byte{0x01, 0x09} { // QoS 1, without and with retain as published
			for _, filter := range []string{"a/b", "a/+", "$share/g/a/#"} {
				p, _ := r.v5("dev", lasting(1000))
				p.say(sized(fmt.Sprintf("\x82\x00\x00\x01\x02\x0b\x2a\x00%c%s%c", len(filter), filter, options)))
				p.expectType(packet.SUBACK)
				p.say(sized("\x82\x00\x00\x02\x02\x0b\x2b\x00\x01z\x01")) // matches nothing
				p.expectType(packet.SUBACK)
				for i := range byte(2) {
					pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a/b"), Payload: []byte("x"), QoS: 1, ID: 1, Retain: i == 0}, packet.V5)...)
					pub.expect(0x40, 2, 0, 1)
				}
				var sent [2][]byte
				for i := range sent {
					if sent[i] = p.expectType(packet.PUBLISH); (sent[i][0]&1 != 0) != (i == 0 && options == 9) || !bytes.Contains(sent[i], []byte{2, 0x0b, 0x2a}) {
						t.Errorf("%s: sent % x", filter, sent[i])
					}
				}
				p.c.Close()
				eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 1 })
				p, _ = r.v5("dev", lasting(1000))
				for i := range sent {
					sent[i][0] |= 8
					p.expect(sent[i]...)
				}
				p.quiet()
				p.write(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0)
				p.expectEnd()
				pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a/b"), QoS: 1, ID: 2, Retain: true}, packet.V5)...)
				pub.expect(0x40, 2, 0, 2)
			}
		}
	})
}
