package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Devices publish while the edge node and Apache Kafka are killed at random moments, one after the other and both at once. Readers of committed records at the centre
// find each record once, unchanged and in order: both ends are read with librdkafka. // U2, U3
func TestUplinkExactlyOnceThroughKills(t *testing.T) {
	t.Parallel()
	passed(t, "Apache Kafka", kafkaVersion(t), "target of an uplink, exactly once, both ends killed meanwhile; read with librdkafka, read_committed")
	killBothEnds(t, "exactly_once").whole(t, 1000)
}

// With at_least_once nothing is missing either; what arrived twice is counted.
func TestUplinkAtLeastOnceThroughKills(t *testing.T) {
	t.Parallel()
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
	centre := ownKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry, alerts]", "guarantee: " + guarantee})
	fleet := startThermostats(t, edge, 20, "20/s")
	edge.awaitUplink("something is carried", func(s uplinkStatus) bool { return s.Records > 0 })
	moment := func() { // not synchronisation: the moment of death is random on purpose
		time.Sleep(time.Duration(500+rng.IntN(2500)) * time.Millisecond)
	}
	for range rounds {
		for range 2 {
			moment()
			edge.kill()
			edge.start()
		}
		moment()
		if guarantee == "exactly_once" || rounds > 1 {
			centre.Kill()
			moment()
			startAgain(t, centre)
			moment()
		}
		edge.kill()
		centre.Kill()
		edge.start()
		moment()
		startAgain(t, centre)
	}
	fleet.end()
	edge.awaitUplink("all is carried", carriedAll)
	out, err := tryRun(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "verify", "central")
	if t.Logf("weir bridge verify:\n%s", out); guarantee == "exactly_once" && err != nil {
		t.Errorf("weir bridge verify: %v", err)
	}
	if out, err := tryRun(t, "", bins.weir, "--bootstrap", centre.Addr, "audit", atCentre(t, "telemetry")); err != nil || !strings.Contains(out, " of 20 devices: 0 missing in 0 gaps") {
		t.Errorf("weir audit at the centre: %v\n%s", err, out)
	}
	return compare(t, edge.kafka, centre.Addr, "telemetry")
}

// thermostats is a running weir-sim.
type thermostats struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   *lockedBuffer
	ended chan error
}

// startThermostats has devices publish until end is called; they come again when their broker does.
func startThermostats(t *testing.T, n *node, devices int, rate string) *thermostats {
	t.Helper()
	f := &thermostats{t: t, out: &lockedBuffer{}, ended: make(chan error, 1)}
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
func (f *thermostats) end() {
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

// Another gateway of the fleet has a transaction open in the topic of cursors when this one is killed: what this one has committed behind it is not to be sent again. // U3
func TestUplinkBesideAnOpenTransaction(t *testing.T) {
	t.Parallel()
	centre := centreKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	edge.awaitUplink("all is carried", carriedAll)
	other, err := kgo.NewClient(kgo.SeedBrokers(centre.Addr), kgo.TransactionalID("another gateway"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for p := range int32(16) {
		if err := other.ProduceSync(t.Context(), &kgo.Record{Topic: "weir.uplinks", Partition: p, Key: []byte("another/gateway"), Value: []byte("{}")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	produceLines(t, edge.kafka, "telemetry", 70, 700)
	edge.awaitUplink("all is carried", carriedAll)
	edge.kill() // before its own store has the cursors, or after
	edge.start()
	produceLines(t, edge.kafka, "telemetry", 770, 70)
	edge.awaitUplink("it says what it waits for", func(s uplinkStatus) bool {
		return s.State == "connecting" && strings.Contains(s.Why, "waits for a transaction of another producer") && strings.Contains(s.Why, "that is open in weir.uplinks, partition ")
	})
	if err := other.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	edge.awaitUplink("all is carried", func(s uplinkStatus) bool { return carriedAll(s) && s.Records > 0 })
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, 840)
}
