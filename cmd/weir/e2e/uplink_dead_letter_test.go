package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A record that the target will never take cannot be put away, since what is held for the uplink uses up the quota, and dead letters what it leaves to them. That is named, other topics go
// on, nothing of this one is passed over, and once there is room everything is where it belongs. // U7, U8
func TestUplinkPoisonWithoutRoomForDeadLetters(t *testing.T) {
	t.Parallel()
	centre := centreKafka(t)
	config := edgeConfig(t, centre.Addr, []string{"topics: [telemetry, alerts]"})
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	quota := func(size string) {
		if err := os.WriteFile(config, append(text[:len(text):len(text)], "log: {disk_quota: "+size+"}\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	quota("32MiB")
	edge := startNode(t, "--config", config)
	eventually(t, "it is paused", func() bool {
		_, err := tryRun(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "pause", "central")
		return err == nil
	})
	edge.makeTopic("alerts")
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "topics", "alter", "telemetry", "--config", "segment.bytes=8388608") // only whole segments are held
	run(t, "", bins.weir, "--bootstrap", edge.kafka, "topics", "create", "telemetry.dlq", "--partitions", "1", "--replicas", "1", "--config", "segment.bytes=1073741824")
	noise := make([]byte, 1_000_000)
	_, _ = rand.Read(noise)
	var records []*kgo.Record
	for i := range 150 {
		r := &kgo.Record{Topic: "telemetry", Value: fmt.Append(nil, i)}
		switch {
		case i == 50:
			r.Timestamp = time.Now().Add(48 * time.Hour)
		case i >= 100:
			r.Value = noise
		}
		records = append(records, r)
	}
	produceLines(t, edge.kafka, "alerts", 0, 70)
	produceRecords(t, edge.kafka, records...)
	eventually(t, "what is held is more than the quota", func() bool { return strings.Contains(edge.stderr.String(), `"appends":"refused"`) })
	fill(t, edge, "telemetry.dlq", noise)

	run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "resume", "central")
	s := edge.awaitUplink("the alerts are carried, and what holds the others up is named", func(s uplinkStatus) bool {
		return s.State == "failing" && s.LagRecords >= 100 && s.LagRecords <= 150 && strings.Contains(s.Why, "dead-letter")
	})
	t.Log(s.Why)
	for _, want := range []string{"INVALID_TIMESTAMP", "cannot be put into the dead-letter topic", "disk"} {
		if !strings.Contains(s.Why, want) {
			t.Errorf("%q is not named: %s", want, s.Why)
		}
	}
	compare(t, edge.kafka, centre.Addr, "alerts").whole(t, 70)
	if s.DeadLetters > 0 {
		t.Errorf("%+v", s)
	}

	edge.stop()
	quota("2GiB")
	edge.start()
	edge.awaitUplink("all is carried", func(s uplinkStatus) bool { return carriedAll(s) && s.DeadLetters == 1 })
	if c := compare(t, edge.kafka, centre.Addr, "telemetry"); c.Records != 150 || c.Missing != 1 || c.Duplicates+c.Differing+c.Disordered+c.Strange > 0 {
		t.Errorf("the ends differ by more than the dead letter: %+v", c)
	}
}

// fill writes to a topic until it takes no more.
func fill(t *testing.T, n *node, topic string, value []byte) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordRetries(0), kgo.DisableIdempotentWrite())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	const enough = 200 << 20 // more than is left to dead letters: from then on it is a matter of when the node looks
	taken := 0
	for refused := 0; refused < 10; { // for good, not while a segment is closed
		switch err := c.ProduceSync(ctx, &kgo.Record{Value: value}).FirstErr(); {
		case ctx.Err() != nil:
			t.Fatalf("it has taken %d bytes: %v", taken, err)
		case err == nil:
			refused, taken = 0, taken+len(value)
		default:
			refused++
		}
		if refused > 0 || taken > enough {
			time.Sleep(100 * time.Millisecond)
		}
	}
	t.Logf("%s has taken %d bytes", topic, taken)
}
