package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A backlog goes to Apache Kafka under rules that leave most of it out, and the edge node is killed again and again meanwhile. What had to be carried is there once; what is not
// there was left out by a rule, and the target was told: weir bridge verify knows each of them, and so does librdkafka with rules of its own. // U10
func TestUplinkLeavesOutByRuleThroughKills(t *testing.T) {
	t.Parallel()
	passed(t, "Apache Kafka", kafkaVersion(t), "target of an uplink that filters, reduces and thins, the edge killed meanwhile; read with librdkafka")
	centre := centreKafka(t)
	edge := startEdge(t, centre.Addr, []string{
		"topics: [filtered, lasts, means, nths]", "limits: {rate: 400kbit}", "lanes:",
		`  - {topics: [filtered], priority: 1, filter: "payload.level > 1", fields: [seq, level]}`,
		"  - {topics: [lasts], priority: 2, thin: {after: 1h, last_over: 1m}}",
		"  - {topics: [means], priority: 2, thin: {after: 1h, mean_over: 1m}}",
		"  - {topics: [nths], priority: 3, thin: {after: 1h, every: 5}}",
	})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	begun := time.Now()
	for i, topic := range []string{"filtered", "lasts", "means", "nths"} {
		edge.makeTopic(topic)
		produceReadings(t, edge.kafka, topic, begun.Add(-3*time.Hour), 2400, rand.New(rand.NewPCG(seed, uint64(i)))) // every three seconds one of twelve devices, for two hours
	}
	edge.awaitUplink("something is carried", func(s uplinkStatus) bool { return s.Records > 0 })
	for i := range 4 { // not synchronisation: the moment of death is random on purpose
		time.Sleep(time.Duration(200+rng.IntN(1500)) * time.Millisecond)
		edge.kill()
		edge.start()
		for _, topic := range []string{"filtered", "lasts", "means", "nths"} {
			produceReadings(t, edge.kafka, topic, time.Now(), 20, rand.New(rand.NewPCG(seed, uint64(10+i))))
		}
	}
	edge.awaitUplink("all is carried", carriedAll)

	v, ok := edge.verify()
	if !ok {
		t.Errorf("weir bridge verify: %+v", v)
	}
	left := map[string]int64{}
	for _, p := range v.Partitions {
		left[p.Topic] += p.LeftOut
		if p.Records != p.Arrived+p.LeftOut || p.LeftOut != p.Filtered+p.Thinned+p.Averaged {
			t.Errorf("%+v", p)
		}
	}
	t.Logf("left out of 2480 records each: %v", left)
	for topic, n := range left {
		if n < 500 {
			t.Errorf("of %s only %d records were left out: the test proves nothing", topic, n)
		}
	}

	var found map[string]struct {
		Records, Arrived, Means int
		Faults                  []string
	}
	out := run(t, "", confluentPython(t), "python/uplink_rules.py", edge.kafka, centre.Addr, clusterID(t, edge.kafka), siteOf(t), fmt.Sprint(begun.Add(-30*time.Minute).UnixMilli()), "60000", "5")
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatal(err)
	}
	for topic, f := range found {
		t.Logf("%s: %d records here, %d arrived, and %d means", topic, f.Records, f.Arrived, f.Means)
		if f.Records != 2480 || len(f.Faults) > 0 || (f.Means > 0) != (topic == "means") || f.Records-f.Arrived != int(left[topic]) {
			t.Errorf("%s: %+v", topic, f)
		}
	}
}

// produceReadings writes JSON of twelve devices, one after the other, a reading every three seconds.
func produceReadings(t *testing.T, addr, topic string, from time.Time, n int, rng *rand.Rand) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{
			Key: fmt.Appendf(nil, "device-%d", i%12), Timestamp: from.Add(time.Duration(i) * 3 * time.Second),
			Value:   fmt.Appendf(nil, `{"seq": %d, "level": %d, "temp": %v, "note": "%x"}`, i/12, rng.IntN(5), float64(rng.IntN(400))/8, rng.Uint64()),
			Headers: []kgo.RecordHeader{{Key: "unit", Value: []byte("C")}},
		}
	}
	if err := c.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}
