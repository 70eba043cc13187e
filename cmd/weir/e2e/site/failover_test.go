package site

import (
	"fmt"
	"testing"
	"time"
)

// clientsOwn is what clients add by themselves: paho waits for a second before it connects again, librdkafka about as long before it asks who leads, more than once.
const clientsOwn = 1500 * time.Millisecond

// TestFailoverTimes measures what the timings promise: how long after a node's death the last client has something acknowledged again. It is long, and wants a machine
// for itself.
func TestFailoverTimes(t *testing.T) {
	if !soak() {
		t.Skip("failovers are measured in long runs: set WEIR_SOAK=1")
	}
	needCommand(t, "kcat")
	python(t)
	for _, promise := range []struct {
		profile            string
		leader, controller time.Duration // in which a leader is replaced that is not the controller, and that is
	}{
		{"lan", 8 * time.Second, 14 * time.Second},
		{"fast", 3 * time.Second, 3 * time.Second},
	} {
		t.Run(promise.profile, func(t *testing.T) {
			c := newCluster(t, form{size: 3, profile: promise.profile})
			for round := range rounds() {
				for _, both := range []bool{false, true} {
					n, most, what := c.controller(), promise.controller, "leader and controller"
					if !both {
						n, most, what = c.others(n)[0], promise.leader, "a leader"
					}
					c.lead(n, kafkaTopic, 0)
					c.lead(n, mqttTopic, 0)
					l := c.load(fmt.Sprint("failover-", both, "-", round), c.net.hosts[0], c.nodes...)
					l.flow(devicesAndProducers)
					killed := time.Now()
					n.kill()
					l.flow(devicesAndProducers)
					pauses := l.pauses(killed)
					for kind, p := range pauses {
						if p > most+clientsOwn {
							t.Errorf("%s: %.1f s without an acknowledgement, promised are %s and %s of the client's own", kind, p.Seconds(), most, clientsOwn)
						}
					}
					n.start()
					n.awaitReady()
					c.awaitHealthy()
					l.finish()
					r := c.check(l)
					report(t, fmt.Sprintf("%s, %s killed: longest pauses %s; acked %s", promise.profile, what, figures(pauses), figures(r.acked)))
				}
			}
			if !t.Failed() {
				c.compare()
			}
		})
	}
}
