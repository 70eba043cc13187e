package mqtt

import (
	"testing"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// A publish that is not committed in time ends the connection, also where the log took it: on a node that is cut off from those that decide soon, since its
// client may reach another. M8
func TestPublishThatIsNotCommittedInTime(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		for _, isolated := range []bool{false, true} {
			inBubble(t, func(c *Config) { c.Isolated = func() bool { return isolated } }, func(t *testing.T, r *rig) {
				p, _ := r.v5("dev", lasting(1000))
				p.publish("a", "warm", 1, 1)
				p.expect(0x40, 2, 0, 1)
				r.log.set(nil, true)
				start := time.Now()
				p.publish("a", "x", qos, 7)
				f, err := p.tryFrame(time.Minute)
				if err != nil || packet.Type(f[0]>>4) != packet.DISCONNECT || packet.Reason(f[2]) != packet.ServerUnavailable {
					t.Fatalf("% x, %v, want DISCONNECT", f, err)
				}
				want := 30 * time.Second
				if isolated {
					want = isolatedPatience
				}
				if took := time.Since(start); took < want || took > want+2*overtake {
					t.Errorf("QoS %d, isolated %t: the connection ends after %s, want %s", qos, isolated, took, want)
				}
				r.log.set(nil, false)
				p, _ = r.v5("dev", lasting(1000))
				p.repeat("a", "x", 7)
				if qos == 2 {
					p.expect(0x50, 2, 0, 7)
					if n := countPayload(r.log.records(t, "telemetry"), "x"); n != 1 {
						t.Errorf("%d records", n)
					}
				}
			})
		}
	}
}
