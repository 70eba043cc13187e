package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaAdmin administers a broker.
func kafkaAdmin(t *testing.T, addr string) *kadm.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return kadm.NewClient(c)
}

func createTopic(t *testing.T, addr, name string, partitions int32, configs map[string]*string) {
	t.Helper()
	if _, err := kafkaAdmin(t, addr).CreateTopic(t.Context(), partitions, 1, configs, name); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

// produceRecords writes records as they are.
func produceRecords(t *testing.T, addr string, records ...*kgo.Record) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, r := range records { // one batch each
		if err := c.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// readTopic gives the committed records of a topic as soon as there are n.
func readTopic(t *testing.T, addr, topic string, n int) (all []*kgo.Record) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for len(all) < n {
		fetches := c.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%s has %d records, want %d", topic, len(all), n)
		}
		all = append(all, fetches.Records()...)
	}
	return all
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// ptr is for the values of configs.
func ptr(s string) *string { return &s }

// Records that the target will never take, for their size or their timestamp, are put into the dead-letter topic with the reason; all others go on, in their order,
// however many of them there are and whatever the codec makes of them. // U7, U8
func TestUplinkPoison(t *testing.T) {
	t.Parallel()
	centre := centreKafka(t)
	createTopic(t, centre.Addr, atCentre(t, "telemetry"), 2, map[string]*string{"max.message.bytes": ptr("100000")})
	createTopic(t, centre.Addr, atCentre(t, "alerts"), 1, nil)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry, alerts]"})
	noise := func(n int) []byte { b := make([]byte, n); _, _ = rand.Read(b); return b }
	records := []*kgo.Record{}
	for i := range 2000 { // more than a batch of what the topic takes
		r := &kgo.Record{Topic: "telemetry", Partition: int32(i % 2), Key: []byte(fmt.Sprint(i % 2)), Value: noise(256)}
		switch i {
		case 500:
			r.Value = noise(150_000)
		case 700:
			r.Value = bytes.Repeat([]byte("a"), 150_000) // compresses to little
		case 900, 901:
			r.Timestamp = time.Now().Add(48 * time.Hour)
		}
		records = append(records, r)
	}
	records = append(records,
		&kgo.Record{Topic: "alerts", Value: noise(1_040_000)}, // less than Kafka's limit for a topic, which counts all of the batch
		&kgo.Record{Topic: "alerts", Value: noise(1_050_000)}) // more
	produceRecords(t, edge.kafka, records...)
	s := edge.awaitUplink("all is carried", carriedAll)
	if s.DeadLetters != 4 {
		t.Errorf("%d dead letters, want 4", s.DeadLetters)
	}
	c := compare(t, edge.kafka, centre.Addr, "telemetry", "alerts")
	if c.Missing != 4 || c.Duplicates+c.Differing+c.Disordered+c.Strange > 0 || c.Records != len(records) {
		t.Errorf("the ends differ by more than the dead letters: %+v", c)
	}
	reasons := map[string]int{}
	for _, r := range append(readTopic(t, edge.kafka, "telemetry.dlq", 3), readTopic(t, edge.kafka, "alerts.dlq", 1)...) {
		why, _, _ := strings.Cut(header(r, "weir.error"), ":")
		reasons[why]++
		if header(r, "weir.uplink") != "central" || !strings.HasPrefix(header(r, "weir.origin"), clusterID(t, edge.kafka)+"/") {
			t.Errorf("headers %v", r.Headers)
		}
		if r.Topic == "alerts.dlq" && !bytes.Equal(r.Value, records[2001].Value) {
			t.Error("the dead letter is not what was refused")
		}
	}
	if reasons["MESSAGE_TOO_LARGE"] != 2 || reasons["INVALID_TIMESTAMP"] != 2 {
		t.Errorf("reasons %v", reasons)
	}
	t.Logf("%d beginnings", s.Failures)
}

// A wrong password is named; once the file is mended the uplink goes on without a restart.
func TestUplinkRefusedByName(t *testing.T) {
	t.Parallel()
	centre := centreKafka(t)
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256"} {
		t.Run(mechanism, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "password")
			password := func(text string) {
				if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			password("wrong")
			topic := "from-" + strings.ToLower(mechanism)
			edge := startEdge(t, centre.SASL, []string{"topics: [" + topic + "]", "sasl: {mechanism: " + mechanism + ", user: weir, password_file: " + file + "}"})
			edge.makeTopic(topic)
			produceLines(t, edge.kafka, topic, 0, 50)
			s := edge.awaitUplink("it is refused", func(s uplinkStatus) bool { return s.State == "failing" })
			for _, want := range []string{"weir", "password_file", "SASL"} {
				if !strings.Contains(s.Why, want) {
					t.Errorf("%q is not named: %s", want, s.Why)
				}
			}
			password("right")
			run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
			edge.awaitUplink("all is carried", carriedAll)
			compare(t, edge.kafka, centre.Addr, topic).whole(t, 50)
		})
	}
}

// A topic that is not there and may not be made holds up itself alone, and goes on when it is made.
func TestUplinkUnknownTopic(t *testing.T) {
	t.Parallel()
	centre := centreKafka(t)
	createTopic(t, centre.Addr, atCentre(t, "alerts"), 1, nil)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry, alerts]", "create_topics: false"})
	edge.makeTopic("alerts")
	produceLines(t, edge.kafka, "telemetry", 0, 50)
	produceLines(t, edge.kafka, "alerts", 0, 50)
	s := edge.awaitUplink("the topic is named", func(s uplinkStatus) bool {
		return s.LagRecords == 50 && s.State == "failing" && strings.Contains(s.Why, atCentre(t, "telemetry"))
	})
	for _, want := range []string{"UNKNOWN_TOPIC_OR_PARTITION", "create_topics"} {
		if !strings.Contains(s.Why, want) {
			t.Errorf("%q is not named: %s", want, s.Why)
		}
	}
	compare(t, edge.kafka, centre.Addr, "alerts").whole(t, 50)
	createTopic(t, centre.Addr, atCentre(t, "telemetry"), 3, nil)
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	edge.awaitUplink("all is carried", carriedAll)
	compare(t, edge.kafka, centre.Addr, "telemetry", "alerts").whole(t, 100)
}

// A target that was made anew is noticed before anything is written to it, and an operator says where to go on. // U5
func TestUplinkToATargetMadeAnew(t *testing.T) {
	t.Parallel()
	controller := peerPort(t)
	centre := ownKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produced := 0
	produce := func(n int) {
		t.Helper()
		produceLines(t, edge.kafka, "telemetry", produced, n)
		produced += n
	}
	anew := func() {
		t.Helper()
		centre.Kill()
		if err := centre.Format(controller); err != nil {
			t.Fatal(err)
		}
		startAgain(t, centre)
		produce(7)
		run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central") // or it would wait for up to half a minute
		s := edge.awaitUplink("it stops", func(s uplinkStatus) bool { return s.State == "stopped" })
		for _, want := range []string{"telemetry", "made anew", "weir bridge resume central --from target", "weir bridge resume central --from here"} {
			if !strings.Contains(s.Why, want) {
				t.Errorf("%q is not named: %s", want, s.Why)
			}
		}
	}
	produce(700)
	edge.awaitUplink("all is carried", carriedAll)
	anew()
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central", "--from", "target")
	edge.awaitUplink("all is carried", carriedAll)
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, produced)
	anew()
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central", "--from", "here")
	produce(70)
	edge.awaitUplink("all is carried", carriedAll)
	if c := compare(t, edge.kafka, centre.Addr, "telemetry"); c.Arrived != 77 || c.Missing != 707 || c.Duplicates+c.Differing+c.Disordered+c.Strange > 0 {
		t.Errorf("it did not go on behind what was confirmed: %+v", c)
	}
}

// The same while the gateway is away as well: what it had stored tells, whether it was stopped or its power failed. // U5
func TestUplinkToATargetMadeAnewBehindItsBack(t *testing.T) {
	t.Parallel()
	controller := peerPort(t)
	centre := ownKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produced := 0
	for _, leave := range []func(){edge.stop, edge.kill} {
		produceLines(t, edge.kafka, "telemetry", produced, 700)
		produced += 700
		edge.awaitUplink("all is carried", carriedAll)
		leave()
		centre.Kill()
		if err := centre.Format(controller); err != nil {
			t.Fatal(err)
		}
		startAgain(t, centre)
		edge.start()
		s := edge.awaitUplink("it stops", func(s uplinkStatus) bool { return s.State == "stopped" })
		if s.LagRecords > 700 || !strings.Contains(s.Why, "weir bridge resume central --from target") {
			t.Errorf("%+v", s)
		}
		if topics, err := kafkaAdmin(t, centre.Addr).ListTopics(t.Context(), atCentre(t, "telemetry")); err != nil || topics.Has(atCentre(t, "telemetry")) {
			t.Errorf("something was sent before anybody had said so: %v, %v", topics, err)
		}
		run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central", "--from", "target")
		edge.awaitUplink("all is carried", carriedAll)
		compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, produced)
	}
}

// A target that hangs takes nothing with it: devices are acknowledged as before, and everything arrives once when it goes on.
func TestUplinkToATargetThatHangs(t *testing.T) {
	t.Parallel()
	centre := centreKafka(t)
	edge := startEdge(t, centre.Addr, []string{"topics: [telemetry]"})
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	edge.awaitUplink("all is carried", carriedAll)
	if err := centre.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = centre.Resume() }() // others need it too
	pause, count := 5*time.Second, 70
	if os.Getenv("WEIR_SOAK") != "" {
		pause = 2 * time.Minute // longer than its sessions and the uplink's own patience
	}
	for end := time.Now().Add(pause); time.Now().Before(end); count += 70 {
		produceLines(t, edge.kafka, "telemetry", count, 70)
	}
	edge.awaitUplink("the lag is seen", func(s uplinkStatus) bool { return s.LagRecords >= int64(count-70) })
	if err := centre.Resume(); err != nil {
		t.Fatal(err)
	}
	edge.awaitUplink("all is carried", carriedAll)
	compare(t, edge.kafka, centre.Addr, "telemetry").whole(t, count)
}

// Two gateways with the same site and the same topics are told apart, by name, where the second one shows up; both carry, and each is whole. The one that is started
// again alone has nothing to complain of.
func TestUplinksOfOneSite(t *testing.T) {
	t.Parallel()
	centre := startNode(t)
	one := startEdge(t, centre.kafka, []string{"topics: [telemetry]"})
	produceLines(t, one.kafka, "telemetry", 0, 70)
	if s := one.awaitUplink("all is carried", carriedAll); s.Warning != "" {
		t.Errorf("the first: %s", s.Warning)
	}
	two := startEdge(t, centre.kafka, []string{"topics: [telemetry]"})
	produceLines(t, two.kafka, "telemetry", 0, 70)
	s := two.awaitUplink("all is carried", carriedAll)
	for _, want := range []string{siteOf(t), clusterID(t, one.kafka), clusterID(t, two.kafka), "node.site"} {
		if !strings.Contains(s.Warning, want) {
			t.Errorf("%q is not named: %s", want, s.Warning)
		}
	}
	if out := run(t, "", bins.weir, "--bootstrap", two.kafka, "bridge", "status"); !strings.Contains(out, "node.site") {
		t.Errorf("bridge status says nothing of it:\n%s", out)
	}
	for _, n := range []*node{one, two} {
		v, ok := n.verify()
		if !ok || len(v.Notes) != 1 || !strings.Contains(v.Notes[0], "70 records of "+atCentre(t, "telemetry")+" at the target are not of this cluster's topic") {
			t.Errorf("%v %+v", ok, v)
		}
	}
	two.stop()
	two.start()
	if s := two.awaitUplink("it has begun", carriedAll); s.Warning != "" {
		t.Errorf("it has claimed the site: %s", s.Warning)
	}
}
