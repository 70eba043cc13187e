package mqtt

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// twoMembers connects two lasting members of one group; the first has the messages, of QoS 2, that pub sent before
// the second came.
func (r *rig) twoMembers(payloads ...string) (first, second, pub *peer) {
	r.t.Helper()
	first, _ = r.v5("first", lasting(1000))
	first.subscribe("$share/g/t", 2)
	pub, _ = r.v5("pub", nil)
	for i, payload := range payloads {
		id := byte(i + 1)
		pub.publish("t", payload, 2, uint16(id))
		pub.expect(0x50, 2, 0, id)
		pub.write(0x62, 2, 0, id)
		pub.expect(0x70, 2, 0, id)
		if m := first.message(); string(m.Payload) != payload || m.QoS != 2 {
			r.t.Fatalf("%+v", m)
		}
	}
	second, _ = r.v5("second", lasting(1000))
	second.subscribe("$share/g/t", 2)
	return first, second, pub
}

// A QoS 2 delivery that a lost connection broke off goes on with the same member when it is back, at whatever step
// it was, and meanwhile with nobody else.
func TestSharedQoS2GoesOnWithItsMember(t *testing.T) { // MQTT5 [MQTT-4.8.2-4] [MQTT-4.4.0-1]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		first, second, pub := r.twoMembers("sent", "received", "done")
		for id := byte(2); id <= 3; id++ {
			first.write(0x50, 2, 0, id)
			first.expect(0x62, 2, 0, id)
		}
		first.write(0x70, 2, 0, 3)
		first.quiet()
		first.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 2 })
		pub.publish("t", "new", 2, 9) // what comes now is the other's
		pub.expect(0x50, 2, 0, 9)
		if m := second.message(); string(m.Payload) != "new" {
			t.Errorf("%+v", m)
		}
		second.write(0x50, 2, 0, 1)
		second.expect(0x62, 2, 0, 1)
		second.write(0x70, 2, 0, 1)
		second.quiet()
		first, ack := r.v5("first", lasting(1000))
		if !ack.SessionPresent {
			t.Fatal("no session")
		}
		if m := first.message(); string(m.Payload) != "sent" || !m.Duplicate || m.PacketID != 1 {
			t.Errorf("%+v", m)
		}
		first.expect(0x62, 2, 0, 2)
		first.write(0x70, 2, 0, 2)
		first.write(0x50, 2, 0, 1)
		first.expect(0x62, 2, 0, 1)
		first.write(0x70, 2, 0, 1)
		first.quiet()
		second.quiet()
	})
}

// Nor over a crash, for which the group's stored cursor is behind: messages that are open with a member stay with it, also
// when another comes first and when the node goes down again; those that are complete are nobody's. M9
func TestSharedQoS2StaysWithItsMemberOverCrash(t *testing.T) { // MQTT5 [MQTT-4.8.2-4] [MQTT-4.4.0-1]
	for _, restarts := range []int{1, 2} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			r.sessions.refuseOf("\x00share/", errFakeDown) // the group's cursor stays where the group began
			first, second, _ := r.twoMembers("sent", "received", "done")
			first.complete(3)
			first.quiet()
			time.Sleep(3 * time.Second) // the session's own cursor is written
			first.write(0x50, 2, 0, 2)  // and now the record of exchanges
			first.expect(0x62, 2, 0, 2)
			second.quiet()
			for range restarts {
				r = r.restart(true)
				second, _ = r.v5("second", lasting(1000))
				second.quiet()
				time.Sleep(3 * time.Second)
				second.quiet()
			}
			first, _ = r.v5("first", lasting(1000))
			if m := first.message(); string(m.Payload) != "sent" || !m.Duplicate || m.PacketID != 1 {
				t.Errorf("%+v", m)
			}
			first.expect(0x62, 2, 0, 2)
			first.write(0x70, 2, 0, 2)
			first.complete(1)
			first.quiet()
			second.quiet()
			for range 2 { // the group goes on, and once its cursor has passed what is complete, nothing of that is kept
				r.sendTo("t", "new")
				r.sendTo("t", "new")
				a, b := first.message(), second.message()
				if string(a.Payload) != "new" || string(b.Payload) != "new" {
					t.Errorf("%+v, %+v", a, b)
				}
				first.complete(a.PacketID)
				second.complete(b.PacketID)
				time.Sleep(3 * time.Second)
			}
			for _, id := range []string{"first", "second"} {
				value, _ := r.sessions.get(id + "\x00o")
				if rec, err := decodeOutbound([]byte(value)); err == nil && len(rec.Shares[0].Partitions[0].Rows) > 2 {
					t.Errorf("%s: %+v is kept", id, rec)
				}
			}
		})
	}
}

// complete answers a QoS 2 message and the PUBREL that follows.
func (p *peer) complete(id uint16) {
	p.t.Helper()
	p.write(0x50, 2, byte(id>>8), byte(id))
	p.expect(0x62, 2, byte(id>>8), byte(id))
	p.write(0x70, 2, byte(id>>8), byte(id))
}

// A session may be a member of several shared subscriptions, and subscribe by itself besides: each gives it the message
// once, over a crash too.
func TestSharedQoS2OfSeveralGroupsOverCrash(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.sessions.refuseOf("\x00share/", errFakeDown)
		sub, _ := r.v5("sub", lasting(1000))
		for _, filter := range []string{"a", "$share/g/a", "$share/h/+"} {
			sub.subscribe(filter, 2)
		}
		r.send("x")
		seen := map[uint16]bool{}
		for range 3 {
			seen[sub.message().PacketID] = true
		}
		sub.write(0x50, 2, 0, 2)
		sub.expect(0x62, 2, 0, 2)
		sub.write(0x70, 2, 0, 2)
		sub.quiet()
		r = r.restart(true)
		sub, _ = r.v5("sub", lasting(1000))
		for _, id := range []uint16{1, 3} {
			if m := sub.message(); m.PacketID != id || !m.Duplicate || !seen[id] {
				t.Errorf("%+v, want id %d", m, id)
			}
			if id == 1 {
				sub.expect(0x62, 2, 0, 2)
			}
		}
		sub.quiet()
	})
}

// Nor does it go to another member when the session of its own ends before it is back.
func TestSharedQoS2EndsWithItsSession(t *testing.T) { // MQTT5 [MQTT-4.8.2-5]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		first, second, _ := r.twoMembers("sent")
		first.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 2 })
		second.quiet()
		back, _ := r.v5("first", nil) // a clean start
		back.quiet()
		second.quiet()
		third, _ := r.v5("third", nil)
		third.subscribe("$share/g/t", 2)
		third.quiet()
	})
	inBubble(t, nil, func(t *testing.T, r *rig) { // also when the node goes down right then
		first, second, _ := r.twoMembers("sent")
		time.Sleep(2500 * time.Millisecond) // between two writes of the group's cursor
		first.write(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0)
		first.expectEnd()
		synctest.Wait()
		second.quiet()
		r = r.restart(true)
		second, _ = r.v5("second", lasting(1000))
		second.quiet()
	})
}

// A message that its member refuses is nobody's: not another member's, not that member's again, also after the
// member has gone or the server was restarted.
func TestSharedRefusalDiscards(t *testing.T) { // MQTT5 [MQTT-4.8.2-6] [MQTT-4.4.0-2]
	for _, qos := range []byte{1, 2} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			first, _ := r.v5("first", lasting(1000))
			first.subscribe("$share/g/t", qos)
			pub, _ := r.v5("pub", nil)
			pub.publish("t", "x", 2, 1)
			pub.expect(0x50, 2, 0, 1)
			if m := first.message(); m.QoS != qos {
				t.Fatalf("%+v", m)
			}
			second, _ := r.v5("second", lasting(1000))
			second.subscribe("$share/g/t", qos)
			first.write(byte(packet.PUBACK)<<4+(qos-1)<<4, 3, 0, 1, byte(packet.ImplementationSpecificError))
			first.quiet()
			second.quiet()
			first.c.Close()
			eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 2 })
			second.quiet()
			first, _ = r.v5("first", lasting(1000))
			first.quiet()
			first.write(0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0)
			first.expectEnd()
			eventually(t, "the session is gone", func() bool { return !r.sessions.has("first") })
			second.quiet()
			r = r.restart(false)
			second, _ = r.v5("second", lasting(1000))
			second.quiet()
			third, _ := r.v5("third", nil)
			third.subscribe("$share/g/t", qos)
			third.quiet()
		})
	}
}
