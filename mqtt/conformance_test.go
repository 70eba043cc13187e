package mqtt

import (
	"testing"

	"github.com/weir-io/weir/mqtt/packet"
)

// What an accepted 3.1.1 client may not send ends its connection, without a word: that version has none.
func TestBadPacketsOf311(t *testing.T) { // MQTT3 [MQTT-2.2.2-1] [MQTT-2.2.2-2] [MQTT-4.8.0-1]
	r := startRig(t, nil)
	other := r.v311("other", true)
	for name, in := range map[string]string{
		"second CONNECT":           "\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c", // MQTT3 [MQTT-3.1.0-2]
		"QoS 3":                    "\x36\x06\x00\x01a\x00\x01x",                    // MQTT3 [MQTT-3.3.1-4]
		"topic not UTF-8":          "\x30\x03\x00\x01\xff",                          // MQTT3 [MQTT-1.5.3-1] [MQTT-3.3.2-1]
		"U+0000 in a topic":        "\x30\x03\x00\x01\x00",                          // MQTT3 [MQTT-1.5.3-2]
		"wildcard in a topic":      "\x30\x03\x00\x01+",                             // MQTT3 [MQTT-4.7.1-1]
		"PUBREL with flags 0":      "\x60\x02\x00\x01",                              // MQTT3 [MQTT-3.6.1-1]
		"SUBSCRIBE with flags 0":   "\x80\x06\x00\x01\x00\x01a\x00",                 // MQTT3 [MQTT-3.8.1-1]
		"SUBSCRIBE not UTF-8":      "\x82\x06\x00\x01\x00\x01\xff\x00",              // MQTT3 [MQTT-3.8.3-1]
		"SUBSCRIBE without filter": "\x82\x02\x00\x01",                              // MQTT3 [MQTT-3.8.3-3]
		"SUBSCRIBE to QoS 3":       "\x82\x06\x00\x01\x00\x01a\x03",                 // MQTT3 [MQTT-3.8.3-4]
		"UNSUBSCRIBE with flags 0": "\xa0\x05\x00\x01\x00\x01a",                     // MQTT3 [MQTT-3.10.1-1]
		"UNSUBSCRIBE not UTF-8":    "\xa2\x05\x00\x01\x00\x01\xff",                  // MQTT3 [MQTT-3.10.3-1]
		"UNSUBSCRIBE of nothing":   "\xa2\x02\x00\x01",                              // MQTT3 [MQTT-3.10.3-2]
		"DISCONNECT with flags":    "\xe1\x00",                                      // MQTT3 [MQTT-3.14.1-1]
	} {
		p := r.v311("dev", true)
		p.write([]byte(in)...)
		if f := p.frame(); f != nil {
			t.Errorf("%s: answered with % x", name, f)
		}
	}
	other.quiet()
}

func TestSubackAndUnsubackOf311(t *testing.T) {
	// MQTT3 [MQTT-2.3.1-7] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-4] [MQTT-3.8.4-5] [MQTT-3.9.3-1]
	// MQTT3 [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6]
	r := startRig(t, nil)
	p := r.v311("dev", true)
	p.write([]byte("\x82\x11\x12\x34\x00\x01a\x01\x00\x03b/#\x02\x00\x02#x\x00")...)
	p.expect(0x90, 5, 0x12, 0x34, 1, 2, 0x80)
	p.write([]byte("\xa2\x0a\x12\x35\x00\x01a\x00\x03b/+")...)
	p.expect(0xb0, 2, 0x12, 0x35)
	pub, _ := r.v5("pub", nil)
	pub.publish("a", "gone", 1, 1)
	pub.expect(0x40, 2, 0, 1)
	pub.publish("b/c", "stays", 1, 2)
	pub.expect(0x40, 2, 0, 2)
	if m := p.message(); string(m.Payload) != "stays" {
		t.Errorf("%+v", m)
	}
	p.write([]byte("\xa2\x05\x12\x36\x00\x01z")...) // never subscribed
	p.expect(0xb0, 2, 0x12, 0x36)
}

// Retained messages over real connections of both versions.
func TestRetainedOverConnections(t *testing.T) {
	// MQTT5 [MQTT-3.3.1-5] to [MQTT-3.3.1-8]; MQTT3 [MQTT-3.1.2-7] [MQTT-3.3.1-5] [MQTT-3.3.1-7] [MQTT-3.3.1-8] [MQTT-3.3.1-10] to [MQTT-3.3.1-12]
	for _, version := range []byte{packet.V311, packet.V5} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			pub, live := r.connectAs(version, "pub"), r.connectAs(version, "live")
			live.subscribe("a", 1)
			live.quiet() // the retained messages of the subscription are out: "first" must not be one of them
			send := func(payload string, qos byte, retain bool) {
				t.Helper()
				p := packet.Publish{Topic: []byte("a"), Payload: []byte(payload), QoS: qos, ID: uint16(qos), Retain: retain}
				pub.write(packet.AppendPublish(nil, &p, version)...)
				if qos > 0 {
					pub.expect(0x40, 2, 0, 1)
				}
				m := live.message()
				if string(m.Payload) != payload || m.Retain {
					t.Errorf("version %d: %+v, want %q as a live message", version, m, payload)
				}
				if qos > 0 {
					live.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
				}
			}
			stored := func(id, payload string, qos byte) {
				t.Helper()
				p := r.connectAs(version, id)
				p.subscribe("a", 1)
				if payload == "" {
					p.quiet()
				} else if m := p.message(); string(m.Payload) != payload || !m.Retain || m.QoS != qos {
					t.Errorf("version %d: %+v, want %q retained", version, m, payload)
				}
				p.write(0xe0, 0)
				p.expectEnd()
			}
			send("first", 1, true)
			stored("one", "first", 1)
			send("plain", 1, false)
			stored("two", "first", 1)
			send("second", 1, true)
			stored("three", "second", 1)
			send("", 1, true)
			stored("four", "", 0)
			send("again", 1, true)
			send("zero", 0, true)
			send("barrier", 1, false) // behind it the retained entry is there
			stored("five", "zero", 0)
		})
	}
}

func TestAssignedClientID(t *testing.T) { // MQTT5 [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]; MQTT3 [MQTT-3.1.3-6]
	r := startRig(t, nil)
	a, first := r.v5("", lasting(100))
	_, second := r.v5("", nil)
	id := first.Properties.AssignedClientID
	if id == "" || id == second.Properties.AssignedClientID {
		t.Fatalf("assigned %q and %q", id, second.Properties.AssignedClientID)
	}
	a.c.Close()
	if _, ack := r.v5(id, lasting(100)); !ack.SessionPresent {
		t.Error("the assigned identifier does not name the session")
	}
	one, two := r.v311("", true), r.v311("", true)
	one.quiet()
	two.quiet()
}

func TestIdentifiersThatEveryServerTakes(t *testing.T) { // MQTT5 [MQTT-3.1.3-5] [MQTT-3.1.4-5]; MQTT3 [MQTT-3.1.3-5]
	r := startRig(t, nil)
	for _, id := range []string{"a", "0123456789ABCDEFGHIJKLM", "NOPQRSTUVWXYZabcdefghij", "klmnopqrstuvwxyz"} {
		p, ack := r.v5(id, nil)
		if ack.ReasonCode != 0 || ack.Properties.AssignedClientID != "" {
			t.Errorf("%q: %+v", id, ack)
		}
		p.write(0xe0, 0)
		p.expectEnd()
		r.v311(id, true)
	}
}

// After PUBACK the same packet id is a new message whatever DUP says, and DUP is not passed on.
func TestDupIsNotPassedOn(t *testing.T) { // MQTT5 [MQTT-3.3.1-3] [MQTT-4.3.2-5]; MQTT3 [MQTT-3.3.1-3] [MQTT-4.3.2-2]
	for _, version := range []byte{packet.V311, packet.V5} {
		r := startRig(t, nil)
		sub, pub := r.connectAs(version, "sub"), r.connectAs(version, "pub")
		sub.subscribe("a", 1)
		for range 2 {
			pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 1, ID: 1, Dup: true}, version)...)
			pub.expect(0x40, 2, 0, 1)
			if m := sub.message(); m.Duplicate {
				t.Errorf("version %d: %+v", version, m)
			}
		}
		if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 2 {
			t.Errorf("%d records, want 2", n)
		}
		r.stop()
	}
}

// Behind a refused CONNECT nothing counts, of either version.
func TestNothingAfterARefusal(t *testing.T) { // MQTT5 [MQTT-3.1.4-6] [MQTT-3.2.0-2]; MQTT3 [MQTT-3.1.4-5]
	r := startRig(t, func(c *Config) { c.Auth = refuser{} })
	for connect, connack := range map[string]string{
		"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06banned\x30\x04\x00\x01ax":         "\x20\x02\x00\x05",
		"\x10\x13\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x06banned\x30\x05\x00\x01a\x00x": "\x20\x03\x00\x87\x00",
	} {
		p := r.dial()
		p.write([]byte(connect)...)
		p.expect([]byte(connack)...)
		p.expectEnd()
	}
	p, _ := r.v5("dev", nil)
	p.publish("a", "y", 1, 1)
	p.expect(0x40, 2, 0, 1)
	if n := len(r.log.records(t, "telemetry")); n != 1 {
		t.Errorf("%d records, want only the accepted client's", n)
	}
}

// The will of a 3.1.1 client: its topic, QoS and retain are used, and DISCONNECT calls it off.
func TestWillOf311(t *testing.T) {
	// MQTT3 [MQTT-3.1.2-8] to [MQTT-3.1.2-10] [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.14.4-3]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", nil)
		sub.write([]byte("\x82\x07\x00\x01\x00\x00\x01w\x09")...) // QoS 1, retain as published
		sub.expect(0x90, 4, 0, 1, 0, 1)
		for _, c := range []struct {
			flags  byte
			polite bool
			retain bool
		}{{0x0e, true, false}, {0x0e, false, false}, {0x2e, false, true}} {
			p := r.dial()
			p.write([]byte("\x10\x14\x00\x04MQTT\x04" + string([]byte{c.flags}) + "\x00\x3c\x00\x01d\x00\x01w\x00\x02go")...)
			p.expect(0x20, 2, 0, 0)
			if c.polite {
				p.write(0xe0, 0)
				p.expectEnd()
				sub.quiet()
				continue
			}
			p.c.Close()
			m := sub.message()
			if m.Topic != "w" || string(m.Payload) != "go" || m.QoS != 1 || m.Retain != c.retain {
				t.Errorf("flags %#x: %+v", c.flags, m)
			}
			sub.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
		}
	})
}
