package mqtt

import (
	"testing"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/packet"
)

// Inbound QoS 2 over a crash at each of its steps: one record in the end, whatever the client repeats. M4
func TestQoS2InboundOverCrash(t *testing.T) { // MQTT5 [MQTT-4.3.3-8] to [MQTT-4.3.3-12]
	for _, c := range []struct {
		name  string
		until func(r *rig, p *peer) // brings the exchange to where the crash comes
	}{
		{"intent not committed", func(r *rig, p *peer) {
			r.sessions.hold()
			p.publish("a", "x", 2, 7)
			p.quietOrHeld()
		}},
		{"intent committed, record not appended", func(r *rig, p *peer) {
			r.log.set(errFakeDown, false)
			p.publish("a", "x", 2, 7)
			eventually(r.t, "the intent is stored", func() bool { return r.sessions.has("dev\x00i") })
		}},
		{"record appended, not committed", func(r *rig, p *peer) {
			r.log.set(nil, true)
			p.publish("a", "x", 2, 7)
			eventually(r.t, "the record is appended", func() bool { return r.log.appended("telemetry") == 2 })
		}},
		{"PUBREC sent", func(r *rig, p *peer) {
			p.publish("a", "x", 2, 7)
			p.expect(0x50, 2, 0, 7)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startRig(t, nil)
			p, _ := r.v5("dev", lasting(1000))
			p.publish("warm", "up", 1, 1)
			p.expect(0x40, 2, 0, 1)
			eventually(t, "the session is stored", func() bool { return r.sessions.has("dev") })
			c.until(r, p)
			sessions, retained := r.sessions.clone(), r.retained.clone()
			p.c.Close()
			r.log.set(errFakeDown, true) // the crash: nothing more gets into the log
			r.stop()
			r.log.commit(errFakeDown) // what was not committed is gone
			r.log.mu.Lock()
			r.log.watchers = nil
			r.log.mu.Unlock()
			r.log.set(nil, false)

			r = startOn(t, r.log, sessions, retained, nil)
			p, ack := r.v5("dev", lasting(1000))
			if !ack.SessionPresent {
				t.Fatal("the session is gone")
			}
			for range 2 { // the client repeats, and repeats again
				p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 2, ID: 7, Dup: true}, packet.V5)...)
				p.expect(0x50, 2, 0, 7)
			}
			p.write(0x62, 2, 0, 7)
			p.expect(0x70, 2, 0, 7)
			if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 1 {
				t.Errorf("%d records, want 1", n)
			}
			eventually(t, "the intent is gone", func() bool { return !r.sessions.has("dev\x00i") })
			p.write(0x62, 2, 0, 7) // after PUBCOMP the exchange is over
			p.expect(0x70, 3, 0, 7, 0x92)
			p.publish("a", "x", 2, 7) // and the same packet id is a new message
			p.expect(0x50, 2, 0, 7)
			if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 2 {
				t.Errorf("%d records, want 2", n)
			}
		})
	}
}

// quietOrHeld gives the server time to read what was sent.
func (p *peer) quietOrHeld() { p.quiet() }

// A QoS 2 publish that the log does not take in time ends the connection; its exchange goes on with the next
// one, as one record. M8 M4
func TestQoS2HeldTooLong(t *testing.T) {
	for _, c := range []struct {
		err    error
		reason packet.Reason
	}{{errFakeDown, packet.ServerUnavailable}, {log.ErrDiskFull, packet.QuotaExceeded}} {
		inBubble(t, func(c *Config) { c.AckTimeout = 300 * time.Millisecond }, func(t *testing.T, r *rig) {
			p, _ := r.v5("dev", lasting(1000))
			p.publish("warm", "up", 1, 1)
			p.expect(0x40, 2, 0, 1)
			r.log.set(c.err, false)
			p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 2, ID: 7, Retain: true}, packet.V5)...)
			if f := p.expectType(packet.DISCONNECT); packet.Reason(f[2]) != c.reason {
				t.Errorf("DISCONNECT % x, want %v", f, c.reason)
			}
			p.expectEnd()
			r.log.set(nil, false)
			p, _ = r.v5("dev", lasting(1000))
			p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 2, ID: 7, Retain: true, Dup: true}, packet.V5)...)
			p.expect(0x50, 2, 0, 7)
			p.write(0x62, 2, 0, 7)
			p.expect(0x70, 2, 0, 7)
			if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 1 {
				t.Errorf("%d records, want 1", n)
			}
			sub, _ := r.v5("sub", nil)
			sub.subscribe("a", 2)
			if m := sub.message(); string(m.Payload) != "x" || !m.Retain {
				t.Errorf("%+v", m)
			}
		})
	}
}

// PUBREC waits for the commit, PUBCOMP for the durable end of the exchange. M1 M4
func TestQoS2AcksFollowCommits(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", lasting(1000))
		p.publish("a", "warm", 2, 1)
		p.expect(0x50, 2, 0, 1)
		p.write(0x62, 2, 0, 1)
		p.expect(0x70, 2, 0, 1)
		r.log.set(nil, true)
		p.publish("a", "x", 2, 2)
		eventually(t, "the record is appended", func() bool { return r.log.appended("telemetry") == 2 })
		p.quiet()
		r.log.set(nil, false)
		p.expect(0x50, 2, 0, 2)
		r.sessions.hold()
		p.write(0x62, 2, 0, 2)
		p.quiet()
		r.sessions.release()
		p.expect(0x70, 2, 0, 2)
	})
}

// Outbound QoS 2 over restarts: what the client has said PUBREC to is released, never sent as new. M9
func TestQoS2OutboundOverCrash(t *testing.T) {
	r := startRig(t, nil)
	sub, _ := r.v5("sub", lasting(1000))
	sub.subscribe("a", 2)
	pub, _ := r.v5("pub", nil)
	for i, payload := range []string{"done", "received", "sent"} {
		pub.publish("a", payload, 2, uint16(i+1))
		pub.expect(0x50, 2, 0, byte(i+1))
		pub.write(0x62, 2, 0, byte(i+1))
		pub.expect(0x70, 2, 0, byte(i+1))
		if m := sub.message(); string(m.Payload) != payload || m.QoS != 2 {
			t.Fatalf("%+v", m)
		}
	}
	sub.write(0x50, 2, 0, 1)
	sub.expect(0x62, 2, 0, 1)
	sub.write(0x70, 2, 0, 1)
	r.sessions.hold()
	sub.write(0x50, 2, 0, 2)
	sub.quiet() // no PUBREL before the PUBREC is durable
	r.sessions.release()
	sub.expect(0x62, 2, 0, 2)
	r = r.restart(true)
	sub, _ = r.v5("sub", lasting(1000))
	sub.expect(0x62, 2, 0, 2) // MQTT5 [MQTT-4.4.0-1]
	m := sub.message()
	if string(m.Payload) != "sent" {
		t.Fatalf("%+v", m)
	}
	sub.write(0x70, 2, 0, 2)
	sub.write(0x50, 2, byte(m.PacketID>>8), byte(m.PacketID))
	sub.expect(0x62, 2, byte(m.PacketID>>8), byte(m.PacketID))
	sub.write(0x70, 2, byte(m.PacketID>>8), byte(m.PacketID))
	sub.quiet()
}
