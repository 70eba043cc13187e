package site

import (
	"os"
	"testing"
	"time"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (c *cluster) binary() string { return os.Getenv(insideEnv) }

// Scenarios of three nodes. They share one cluster: each begins when the one before has healed.
func TestThreeNodes(t *testing.T) {
	needCommand(t, "kcat")
	python(t)
	c := newCluster(t, 3)
	scenario := func(name string, run func(l *load)) {
		t.Run(name, func(t *testing.T) {
			c.use(t)
			c.awaitHealthy()
			l := c.load(name, c.net.hosts[0], c.nodes...)
			l.flow(devicesAndProducers)
			began := time.Now()
			run(l)
			l.flow(devicesAndProducers)
			l.finish()
			r := c.check(l)
			t.Logf("%s: acked %v, duplicates %v, longest pauses %v", name, r.acked, r.duplicates, l.pauses(began))
		})
	}
	scenario("leader-kill", func(l *load) {
		n := c.leader(c.nodes[0], kafkaTopic, 0)
		n.kill()
		l.flow(devicesAndProducers)
		n.start()
		n.awaitReady()
		t.Logf("healthy after %s", c.awaitHealthy())
	})
	c.use(t)
	c.compare()
}
