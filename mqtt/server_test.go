package mqtt

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPublishQoS1IsAckedAfterCommit(t *testing.T) {
	// MQTT5 [MQTT-2.2.1-5] [MQTT-3.12.4-1]; MQTT3 [MQTT-2.3.1-6] [MQTT-3.1.4-4] [MQTT-3.2.0-1] [MQTT-3.3.4-1] [MQTT-3.12.4-1]
	for _, version := range []byte{4, 5} {
		inBubble(t, nil, func(t *testing.T, r *rig) {
			r.log.set(nil, true)
			var p *peer
			if version == 5 {
				p, _ = r.v5("dev", nil)
			} else {
				p = r.v311("dev", true)
			}
			p.publish("a/b", "one", 1, 7)
			eventually(t, "the record is appended", func() bool { return r.log.appended("telemetry") == 1 })
			p.quiet() // M1: nothing before the commit
			r.log.commit(nil)
			p.expect(0x40, 2, 0, 7)
			recs := r.log.records(t, "telemetry")
			if len(recs) != 1 || string(recs[0].Key) != "dev" || string(recs[0].Value) != "one" {
				t.Fatalf("records %+v", recs)
			}
			want := [][2]string{{"mqtt.topic", "a/b"}, {"mqtt.client", "dev"}, {"mqtt.qos", "1"}}
			for i, h := range recs[0].Headers {
				if string(h.Key) != want[i][0] || string(h.Value) != want[i][1] {
					t.Errorf("header %d is %s=%s, want %v", i, h.Key, h.Value, want[i])
				}
			}
		})
	}
}

func TestSubscriberGetsWhatIsPublished(t *testing.T) {
	// MQTT5 [MQTT-3.8.4-1] [MQTT-4.5.0-1] [MQTT-4.6.0-5] [MQTT-4.6.0-6]
	r := startRig(t, nil)
	sub, _ := r.v5("sub", nil)
	sub.subscribe("a/+", 1)
	pub := r.v311("pub", true)
	for i := range 100 {
		pub.publish("a/b", string(rune('A'+i%26)), 1, uint16(i+1))
	}
	for i := range 100 {
		m := sub.message()
		if m.QoS != 1 || string(m.Payload) != string(rune('A'+i%26)) || m.PacketID != uint16(i+1) {
			t.Fatalf("message %d: %+v", i, m)
		}
		sub.write(0x40, 2, byte(m.PacketID>>8), byte(m.PacketID))
	}
	for i := range 100 {
		pub.expect(0x40, 2, 0, byte(i+1))
	}
}
