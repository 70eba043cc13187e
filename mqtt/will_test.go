package mqtt

import (
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/log"
)

func willing(delay, expiry uint32, clean bool) func(*packets.Connect) {
	return func(c *packets.Connect) {
		c.CleanStart = clean
		c.WillFlag, c.WillTopic, c.WillMessage, c.WillQOS = true, "wills/dev", []byte("gone"), 1
		c.WillProperties = &packets.Properties{WillDelayInterval: &delay}
		if expiry > 0 {
			c.Properties.SessionExpiryInterval = &expiry
		}
	}
}

func (r *rig) willCount() int { return countPayload(r.log.records(r.t, "telemetry"), "gone") }

func (r *rig) wantWill(n int) {
	r.t.Helper()
	eventually(r.t, "the will is in the log", func() bool { return r.willCount() == n })
}

func TestWillGoesThroughTheLog(t *testing.T) { // MQTT5 [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.14.4-3]
	// MQTT5 [MQTT-3.1.2-10]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		sub, _ := r.v5("sub", nil)
		sub.subscribe("wills/#", 1)
		p, _ := r.v5("dev", willing(0, 0, true))
		p.c.Close()
		if m := sub.message(); m.Topic != "wills/dev" || string(m.Payload) != "gone" {
			t.Errorf("%+v", m)
		}
		rec := r.log.records(t, "telemetry")[0]
		if string(rec.Key) != "dev" || string(rec.Headers[0].Value) != "wills/dev" {
			t.Errorf("%+v", rec)
		}
		p, _ = r.v5("dev", willing(0, 0, true))
		p.write(0xe0, 0) // a polite end
		p.expectEnd()
		p, _ = r.v5("dev", willing(0, 0, true))
		p.write(0xe0, 1, 4) // MQTT5 §3.14.2.1: polite, but with the will
		p.expectEnd()
		r.wantWill(2)
		p, _ = r.v5("dev", willing(0, 0, true))
		p.write(0x00, 0) // closed for a protocol error
		r.wantWill(3)
	})
}

func TestWillDelay(t *testing.T) { // MQTT5 [MQTT-3.1.3-9]
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", willing(1, 1000, false))
		p.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 0 })
		p, ack := r.v5("dev", willing(1000, 1000, false)) // back in time: no will, nor the new one at the old one's time
		if !ack.SessionPresent {
			t.Error("no session")
		}
		time.Sleep(2 * time.Second) // the first will to a new topic takes a retry more
		if n := r.willCount(); n != 0 {
			t.Errorf("%d wills although the client came back", n)
		}
		p.write(0xe0, 0)
		p.expectEnd()
		p, _ = r.v5("dev", willing(1, 1000, false))
		p.c.Close()
		r.wantWill(1) // not back in time
		p, _ = r.v5("dev", willing(1000, 1, false))
		p.c.Close()
		r.wantWill(2) // the session's end comes before the delay's // MQTT5 [MQTT-3.1.2-8]
		p, _ = r.v5("dev", willing(1000, 1000, false))
		p.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 0 })
		r.v5("dev", nil) // a clean start ends the session
		r.wantWill(3)
	})
}

func TestWillAtTakeover(t *testing.T) { // MQTT5 [MQTT-3.1.4-3] §3.1.2.5
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.v5("dev", willing(0, 1000, false))
		r.v5("dev", willing(1000, 1000, false)) // no delay: the will of the first goes out
		r.wantWill(1)
		r.v5("dev", lasting(1000)) // the delay of the second is cut short by the new connection
		time.Sleep(50 * time.Millisecond)
		if n := r.willCount(); n != 1 {
			t.Errorf("%d wills", n)
		}
	})
}

// A delayed will is part of the stored session (§5 trap).
func TestWillSurvivesRestart(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", willing(1, 1000, false))
		eventually(t, "the session is stored", func() bool { return r.sessions.has("dev") })
		p.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 0 })
		r = r.restart(true)
		r.wantWill(1)
		r = r.restart(true)
		time.Sleep(100 * time.Millisecond)
		if n := r.willCount(); n != 1 {
			t.Errorf("%d wills after another restart", n)
		}
	})
}

// A will that the log cannot take is held like any publish. M8
func TestWillIsHeld(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p, _ := r.v5("dev", willing(0, 0, true))
		r.log.set(log.ErrDiskFull, false)
		p.c.Close()
		eventually(t, "the connection is gone", func() bool { return r.srv.Stats().Connections == 0 })
		r.log.set(nil, false)
		r.wantWill(1)
	})
}
