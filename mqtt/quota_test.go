package mqtt

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// fakeQuota lets each client publish so many bytes a second, and nothing ahead.
type fakeQuota struct {
	mu        sync.Mutex
	perSecond int
	until     map[string]time.Time
}

func (q *fakeQuota) Publish(user, clientID string, bytes int) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.perSecond == 0 {
		return 0
	}
	now := time.Now()
	if q.until[clientID].Before(now) {
		q.until[clientID] = now
	}
	q.until[clientID] = q.until[clientID].Add(time.Duration(bytes) * time.Second / time.Duration(q.perSecond))
	return q.until[clientID].Sub(now)
}

func (q *fakeQuota) set(perSecond int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.perSecond = perSecond
}

// withQuota runs f with a server that holds clients to ten bytes a second: a publish to a of one byte is eight bytes in MQTT 5, seven in 3.1.1.
func withQuota(t *testing.T, f func(t *testing.T, r *rig, q *fakeQuota)) {
	q := &fakeQuota{perSecond: 10, until: map[string]time.Time{}}
	inBubble(t, func(c *Config) { c.Quota, c.AckTimeout = q, time.Second }, func(t *testing.T, r *rig) { f(t, r, q) })
}

// A client over its quota is acknowledged what it has published, is read no further for as long as it owes, beyond mqtt.ack_timeout too, and loses nothing. Others are not held up.
func TestQuotaSlowsAClientDown(t *testing.T) {
	for _, version := range []byte{packet.V311, packet.V5} {
		for qos := byte(0); qos <= 1; qos++ {
			withQuota(t, func(t *testing.T, r *rig, q *fakeQuota) {
				p, other := r.connectAs(version, "dev"), r.connectAs(version, "other")
				const n = 10
				started := time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for i := range n {
						p.publish("a", fmt.Sprint(i), qos, uint16(i+1))
					}
				}()
				other.publish("a", "x", 1, 1)
				other.expect(0x40, 2, 0, 1)
				if waited := time.Since(started); waited > 100*time.Millisecond {
					t.Errorf("another client waited %v", waited)
				}
				for i := range n * int(qos) {
					p.expect(0x40, 2, 0, byte(i+1))
				}
				<-sent
				p.write(0xC0, 0)
				p.expect(0xD0, 0)
				// All but the last are waited for before it is read, and the last before the ping.
				low := time.Duration(n-1) * 6 * time.Second / 10
				if waited := time.Since(started); waited < low || waited > 3*low {
					t.Errorf("version %d QoS %d: %d publishes took %v, want about %v", version, qos, n, waited, low)
				}
				if got := len(r.log.records(t, "telemetry")); got != n+1 {
					t.Errorf("version %d QoS %d: %d records, want %d", version, qos, got, n+1)
				}
				if st := r.srv.Stats(); st.Throttled == 0 || st.HeldClosed != 0 {
					t.Errorf("%+v", st)
				}
			})
		}
	}
}

// A quota that is taken away frees those who wait within a second; who connects anew still owes what it owed.
func TestQuotaThatChanges(t *testing.T) {
	withQuota(t, func(t *testing.T, r *rig, q *fakeQuota) {
		p := r.connectAs(packet.V5, "dev")
		p.publish("a", string(make([]byte, 10_000)), 1, 1) // a quarter of an hour's
		p.expect(0x40, 2, 0, 1)
		p.c.Close()
		p = r.connectAs(packet.V5, "dev")
		p.publish("a", "x", 1, 2)
		time.Sleep(time.Minute)
		if got := len(r.log.records(t, "telemetry")); got != 1 {
			t.Errorf("%d records of a client that owes much", got)
		}
		q.set(0)
		changed := time.Now()
		p.expect(0x40, 2, 0, 2)
		if waited := time.Since(changed); waited > 2*lookAgain {
			t.Errorf("waited %v after the quota was gone", waited)
		}
		p.publish("a", "y", 1, 3)
		p.expect(0x40, 2, 0, 3)
	})
}

// A publish that is held when its client's quota is used up, by another connection of the same user, waits for the quota, and then has mqtt.ack_timeout anew.
func TestHeldPublishWaitsForTheQuotaFirst(t *testing.T) {
	withQuota(t, func(t *testing.T, r *rig, q *fakeQuota) {
		q.set(0)
		p := r.connectAs(packet.V5, "dev")
		p.publish("warm", "up", 1, 1)
		p.expect(0x40, 2, 0, 1)
		r.log.set(errFakeDown, false)
		p.publish("a", "x", 1, 2)
		time.Sleep(100 * time.Millisecond) // of the bubble: it is held
		q.mu.Lock()
		q.perSecond, q.until["dev"] = 10, time.Now().Add(20*time.Second)
		q.mu.Unlock()
		time.Sleep(20*time.Second + 500*time.Millisecond)
		r.log.set(nil, false)
		p.expect(0x40, 2, 0, 2)
	})
}
