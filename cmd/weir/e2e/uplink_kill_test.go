package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Devices publish while the edge node and Apache Kafka are killed at random moments, one after the other and both at once. Readers of committed records at the centre
// find each record once, unchanged and in order: both ends are read with librdkafka. // U2, U3
func TestUplinkExactlyOnceThroughKills(t *testing.T) {
	passed(t, "Apache Kafka", kafkaVersion(t), "target of an uplink, exactly once, both ends killed meanwhile; read with librdkafka, read_committed")
	killBothEnds(t, "exactly_once").whole(t, 1000)
}

// With at_least_once nothing is missing either; what arrived twice is counted.
func TestUplinkAtLeastOnceThroughKills(t *testing.T) {
	passed(t, "Apache Kafka", kafkaVersion(t), "target of an uplink, at least once, both ends killed meanwhile")
	c := killBothEnds(t, "at_least_once")
	t.Logf("%d records arrived again", c.Duplicates)
	c.Duplicates = 0
	c.whole(t, 1000)
}

func killBothEnds(t *testing.T, guarantee string) comparison {
	t.Helper()
	rounds, seed := 1, uint64(time.Now().UnixNano())
	if os.Getenv("WEIR_SOAK") != "" {
		rounds = 20
	}
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	centre := startKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry, alerts]", "guarantee: " + guarantee})
	fleet := startFleet(t, edge, 20, "20/s")
	edge.awaitUplink("something is carried", func(s uplinkStatus) bool { return s.Records > 0 })
	moment := func() { // not synchronisation: the moment of death is random on purpose
		time.Sleep(time.Duration(500+rng.IntN(2500)) * time.Millisecond)
	}
	for range rounds {
		for range 3 {
			moment()
			edge.kill()
			edge.start()
		}
		moment()
		centre.Kill()
		moment()
		startAgain(t, centre)
		moment()
		edge.kill()
		centre.Kill()
		edge.start()
		moment()
		startAgain(t, centre)
	}
	fleet.end()
	edge.awaitUplink("all is carried", carriedAll)
	return compare(t, edge.kafka, centre.Addr, "telemetry")
}

// fleet is a running weir-sim.
type fleet struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   *lockedBuffer
	ended chan error
}

// startFleet has devices publish until end is called; they come again when their broker does.
func startFleet(t *testing.T, n *node, devices int, rate string) *fleet {
	t.Helper()
	f := &fleet{t: t, out: &lockedBuffer{}, ended: make(chan error, 1)}
	f.cmd = exec.Command(bins.sim, "--broker", "mqtt://"+n.mqtt, "--devices", fmt.Sprint(devices), "--profile", "thermostat", "--rate", rate, "--duration", "1h", "--seed", "1")
	f.cmd.Stdout, f.cmd.Stderr = f.out, f.out
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { f.ended <- f.cmd.Wait() }()
	t.Cleanup(func() { _ = f.cmd.Process.Kill() })
	return f
}

// end has the devices stop once what they have sent is acknowledged.
func (f *fleet) end() {
	f.t.Helper()
	_ = f.cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-f.ended:
		if err != nil {
			f.t.Errorf("the fleet: %v\n%s", err, f.out)
		}
	case <-time.After(patience):
		f.t.Fatalf("the fleet does not end\n%s", f.out)
	}
}
