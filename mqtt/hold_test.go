package mqtt

import (
	"bytes"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/packet"
)

// An append error is never answered with an ack (§5 trap): the publish is held and goes through when the log
// is back. M8
func TestHeldPublishGoesThrough(t *testing.T) {
	for _, version := range []byte{packet.V311, packet.V5} {
		for qos := byte(1); qos <= 2; qos++ {
			r := startRig(t, nil)
			p := r.connectAs(version, "dev")
			p.publish("warm", "up", 1, 1) // the topic is known
			p.expect(0x40, 2, 0, 1)
			r.log.set(errFakeDown, false)
			p.publish("a", "x", qos, 2)
			p.publish("a", "y", qos, 3)
			eventually(t, "the publish is held", func() bool { return r.srv.Stats().Held > 0 })
			r.log.set(nil, false)
			typ := byte(0x40)
			if qos == 2 {
				typ = 0x50
			}
			p.expect(typ, 2, 0, 2)
			p.expect(typ, 2, 0, 3)
			if n := len(r.log.records(t, "telemetry")); n != 3 {
				t.Errorf("%d records, want 3", n)
			}
			r.stop()
		}
	}
}

func TestHeldTooLongEndsTheConnection(t *testing.T) { // M8
	// MQTT3 [MQTT-4.8.0-2]
	for _, c := range []struct {
		err    error
		reason packet.Reason
	}{{errFakeDown, packet.ServerUnavailable}, {log.ErrDiskFull, packet.QuotaExceeded}} {
		inBubble(t, func(c *Config) { c.AckTimeout = 300 * time.Millisecond }, func(t *testing.T, r *rig) {
			five, three := r.connectAs(packet.V5, "five"), r.connectAs(packet.V311, "three")
			for _, p := range []*peer{five, three} {
				p.publish("warm", "up", 1, 1)
				p.expect(0x40, 2, 0, 1)
			}
			r.log.set(c.err, false)
			five.publish("a", "x", 1, 2)
			three.publish("a", "x", 1, 2)
			if f := five.expectType(packet.DISCONNECT); packet.Reason(f[2]) != c.reason {
				t.Errorf("%v: DISCONNECT % x, want %v", c.err, f, c.reason)
			}
			five.expectEnd()
			three.expectEnd()
		})
	}
}

// A commit that fails is no ack either: the client reconnects and sends again.
func TestFailedCommitEndsTheConnection(t *testing.T) {
	r := startRig(t, nil)
	r.log.set(nil, true)
	p, _ := r.v5("dev", nil)
	p.publish("a", "x", 1, 1)
	eventually(t, "the record is appended", func() bool { return r.log.appended("telemetry") == 1 })
	r.log.commit(errFakeDown)
	if f := p.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.ServerUnavailable {
		t.Errorf("DISCONNECT % x", f)
	}
	p.expectEnd()
}

// A retained publish is acknowledged when both its record and the retained entry are committed, and not at all
// when one of them fails. M6
func TestRetainedPublishWaitsForBoth(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.retained.hold()
		p, _ := r.v5("dev", nil)
		p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("x"), QoS: 1, ID: 1, Retain: true}, packet.V5)...)
		eventually(t, "the record is committed", func() bool { return len(r.log.records(t, "telemetry")) == 1 })
		p.quiet()
		r.retained.release()
		p.expect(0x40, 2, 0, 1)
		sub, _ := r.v5("sub", nil)
		sub.subscribe("a", 1)
		if m := sub.message(); string(m.Payload) != "x" || !m.Retain {
			t.Errorf("%+v", m)
		}
		r.retained.mu.Lock()
		r.retained.fail = errFakeDown
		r.retained.mu.Unlock()
		p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("a"), Payload: []byte("y"), QoS: 1, ID: 2, Retain: true}, packet.V5)...)
		if f := p.expectType(packet.DISCONNECT); packet.Reason(f[2]) != packet.ServerUnavailable {
			t.Errorf("DISCONNECT % x", f)
		}
	})
}

// refuser lets nobody publish below "secret/" nor subscribe there, and knows one password.
type refuser struct{}

func (refuser) Authenticate(c ClientInfo) (Identity, error) {
	switch {
	case c.ClientID == "banned":
		return Identity{}, ErrNotAuthorized
	case c.HasPassword && string(c.Password) != "good":
		return Identity{}, ErrBadCredentials
	}
	return Identity{Name: c.UserName, ClientID: c.ClientID}, nil
}

func (refuser) Allow(_ Identity, _ Action, topic []byte) bool {
	return len(topic) > 0 && !bytes.HasPrefix(topic, []byte("secret/"))
}

func TestRefusedPublish(t *testing.T) {
	// MQTT5 [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-7] [MQTT-3.9.3-1]
	r := startRig(t, func(c *Config) { c.Auth = refuser{} })
	p, _ := r.v5("dev", nil)
	p.publish("secret/a", "x", 1, 1)
	p.expect(0x40, 3, 0, 1, 0x87)
	p.publish("secret/a", "x", 2, 2)
	p.expect(0x50, 3, 0, 2, 0x87) // a PUBREC, which ends the exchange (§5 trap)
	p.publish("$SYS/broker/uptime", "x", 1, 3)
	p.expect(0x40, 3, 0, 3, 0x87)
	// With an alias the rule still sees the name (§5 trap).
	p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("secret/a"), TopicAlias: 1, QoS: 1, ID: 4}, packet.V5)...)
	p.expect(0x40, 3, 0, 4, 0x87)
	p.write(packet.AppendPublish(nil, &packet.Publish{TopicAlias: 1, QoS: 1, ID: 5}, packet.V5)...)
	p.expect(0x40, 3, 0, 5, 0x87)
	p.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("open"), TopicAlias: 2, QoS: 1, ID: 6}, packet.V5)...)
	p.expect(0x40, 2, 0, 6)
	p.write(packet.AppendPublish(nil, &packet.Publish{TopicAlias: 2, QoS: 1, ID: 7}, packet.V5)...)
	p.expect(0x40, 2, 0, 7)
	for _, rec := range r.log.records(t, "telemetry") {
		if string(rec.Headers[0].Value) != "open" {
			t.Errorf("a record on %s", rec.Headers[0].Value)
		}
	}
	three := r.v311("three", true)
	three.publish("secret/a", "x", 1, 1)
	three.expectEnd()
	// SUBSCRIBE: one code per filter. // MQTT5 [MQTT-3.8.4-6]
	p.write([]byte("\x82\x18\x00\x09\x00\x00\x08secret/b\x01\x00\x03a/#\x01\x00\x01#\x02")...)
	p.expect(0x90, 6, 0, 9, 0, 0x87, 1, 2)
}

func TestRefusedConnect(t *testing.T) { // MQTT5 [MQTT-3.1.4-2] [MQTT-3.2.2-6] [MQTT-3.2.2-7]
	// MQTT5 [MQTT-3.14.0-1] [MQTT-4.13.2-1]; MQTT3 [MQTT-3.2.2-4] [MQTT-3.2.2-5]
	r := startRig(t, func(c *Config) { c.Auth = refuser{} })
	for in, want := range map[string]string{
		"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06banned":                    "\x20\x02\x00\x05",
		"\x10\x13\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x06banned":                "\x20\x03\x00\x87\x00",
		"\x10\x15\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x01u\x00\x03bad":     "\x20\x02\x00\x04",
		"\x10\x16\x00\x04MQTT\x05\xc2\x00\x3c\x00\x00\x01c\x00\x01u\x00\x03bad": "\x20\x03\x00\x86\x00",
		"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00":                          "\x20\x02\x00\x02",     // MQTT3 [MQTT-3.1.3-8]
		"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x00":                      "\x20\x02\x00\x01",     // MQTT3 [MQTT-3.1.2-2]
		"\x10\x12\x00\x04MQTT\x05\x02\x00\x3c\x04\x15\x00\x01m\x00\x01c":        "\x20\x03\x00\x8c\x00", // MQTT5 [MQTT-4.12.0-1]
		"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x00\x00\x00":          "\x20\x03\x00\x82\x00",
		// A will is a publish: its topic is checked while the client can still react (§5 trap).
		"\x10\x1b\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x00\x00\x08secret/w\x00\x00": "\x20\x03\x00\x87\x00",
	} {
		p := r.dial()
		in := []byte(in)
		in[1] = byte(len(in) - 2)
		p.write(in...)
		p.expect([]byte(want)...)
		p.expectEnd()
	}
}

func (r *rig) connectAs(version byte, id string) *peer {
	r.t.Helper()
	if version == packet.V5 {
		p, _ := r.v5(id, nil)
		return p
	}
	return r.v311(id, true)
}

// What was held because the log had no room goes on when Retry says that there is some, and need not wait for a
// timer. M8
func TestRetryWakesWhatWaitsForRoom(t *testing.T) {
	r := startRig(t, func(c *Config) { c.holdRetry = time.Hour })
	p, _ := r.v5("dev", nil)
	p.publish("warm", "up", 1, 1)
	p.expect(0x40, 2, 0, 1)
	for qos := byte(0); qos <= 1; qos++ {
		held := r.srv.Stats().Held
		r.log.set(log.ErrBusy, false)
		p.publish("a", "x", qos, 2)
		eventually(t, "the publish is held", func() bool { return r.srv.Stats().Held == held+1 })
		r.srv.Retry() // still no room: back into the queue
		r.log.set(nil, false)
		r.srv.Retry()
		if qos == 1 {
			p.expect(0x40, 2, 0, 2)
		}
		eventually(t, "it is stored", func() bool { return len(r.log.records(t, "telemetry")) == 2+int(qos) })
	}
}
