package site

import (
	"fmt"
	"testing"
	"time"
)

// pauseOfNobody is how long a device may wait on a busy machine when nothing is wrong. An election takes longer by far.
const pauseOfNobody = time.Second

// The controller is on the way of no record: while the quorum elects another, everybody goes on. With two nodes and a witness, the witness leads it
// and dies.
func TestElectionAlone(t *testing.T) {
	needCommand(t, "kcat")
	python(t)
	c := newCluster(t, form{size: 3, witness: true, profile: "lan"})
	witness := c.nodes[2]
	for try := 0; ; try++ { // a stop in good order would always choose the same one
		n := c.controller()
		if n == witness {
			break
		}
		if try == 20 {
			t.Fatal("the witness was elected in none of 20 elections between two")
		}
		n.kill()
		for c.controller() == n {
			wait(t, 50*time.Millisecond)
		}
		n.start()
		n.awaitReady()
	}
	c.awaitHealthy()
	l := c.load("election", c.net.hosts[0], c.nodes[:2]...)
	l.flow(devicesAndProducers)
	killed := time.Now()
	witness.kill()
	for c.controller() == witness { // as long as nobody has noticed
		wait(t, 50*time.Millisecond)
	}
	took := time.Since(killed)
	l.flow(devicesAndProducers)
	pauses := l.pauses(killed)
	for kind, p := range pauses {
		if p > pauseOfNobody {
			t.Errorf("%s: %.2f s without an acknowledgement, in an election of %.2f s", kind, p.Seconds(), took.Seconds())
		}
	}
	witness.start()
	witness.awaitReady()
	c.awaitHealthy()
	l.finish()
	r := c.check(l)
	report(t, fmt.Sprintf("an election alone: %.2f s, longest pauses %s; acked %s", took.Seconds(), figures(pauses), figures(r.acked)))
	if !t.Failed() {
		c.compare()
	}
}
