package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/bridge/uplink"
)

// edgeOf is a node that carries to a centre.
func edgeOf(t *testing.T, dir, centre string, change func(*Config)) (n *node, stop func()) {
	t.Helper()
	cfg := Defaults()
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", ""
	cfg.Node.Data, cfg.Node.Site = dir, "plant-7"
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Uplinks = []uplink.Config{{Name: "central", To: "kafka://" + centre, Topics: []string{"telemetry"}, Rename: "{site}.{topic}"}}
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n, err := openNode(ctx, cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
	}
	t.Cleanup(stop)
	return n, stop
}

// produce writes n records and waits for their acknowledgements.
func produceTo(t *testing.T, addr, topic string, from, n int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range n {
		cl.Produce(t.Context(), &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "device-%d", i%7), Value: fmt.Appendf(nil, "value-%d-%s", from+i, strings.Repeat("x", 500))}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// readCommitted reads a topic until it has n records and, for a moment, no more; by value.
func readCommitted(t *testing.T, addr, topic string, n int) map[string]int {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	got, total := map[string]int{}, 0
	limit, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for quiet := false; !quiet; {
		ctx := limit
		if total >= n {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeout(limit, 500*time.Millisecond)
			defer stop()
		}
		fetches := cl.PollFetches(ctx)
		if limit.Err() != nil {
			t.Fatalf("%d of %d records of %s in time", total, n, topic)
		}
		quiet = ctx.Err() != nil
		for r := range fetches.RecordsAll() {
			value, _, _ := strings.Cut(string(r.Value), "-x")
			got[value]++
			total++
			if len(r.Headers) == 0 || r.Headers[len(r.Headers)-1].Key != uplink.OriginHeader {
				t.Fatalf("headers %v", r.Headers)
			}
		}
	}
	return got
}

func bridge(t *testing.T, addr string, args ...string) (string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), append(append([]string{"bridge"}, args...), "--bootstrap", addr), strings.NewReader(""), &out, &errs)
	return out.String() + errs.String(), code
}

// An uplink between two nodes goes on where it was, over restarts of either side, and is steered from the command line.
func TestUplinkCarriesOverRestarts(t *testing.T) {
	centre := testNode(t)
	at, dir := centre.addrOf("kafka"), t.TempDir()
	want := 0
	for round := range 3 {
		n, stop := edgeOf(t, dir, at, nil)
		produceTo(t, n.addrOf("kafka"), "telemetry", want, 500)
		want += 500
		if round == 1 {
			if text, code := bridge(t, n.addrOf("kafka"), "pause", "central"); code != 0 {
				t.Fatal(text)
			}
			produceTo(t, n.addrOf("kafka"), "telemetry", want, 500)
			want += 500
			awaitUplink(t, n, func(s uplink.Status) bool { return s.State == "paused" && s.LagRecords >= 500 })
			stop() // an operator's word outlives the node
			n, stop = edgeOf(t, dir, at, nil)
			awaitUplink(t, n, func(s uplink.Status) bool { return s.State == "paused" && s.LagRecords >= 500 })
			if text, code := bridge(t, n.addrOf("kafka"), "resume", "central"); code != 0 {
				t.Fatal(text)
			}
		}
		awaitUplink(t, n, func(s uplink.Status) bool { return s.State == "idle" && s.LagRecords == 0 })
		if text, code := bridge(t, n.addrOf("kafka"), "status"); code != 0 || !strings.Contains(text, "central") || !strings.Contains(text, "idle") {
			t.Errorf("status %d: %s", code, text)
		}
		if text, code := bridge(t, n.addrOf("kafka"), "pause", "nobody"); code != 1 || !strings.Contains(text, `no uplink "nobody"`) {
			t.Errorf("%d: %s", code, text)
		}
		stop()
	}
	got := readCommitted(t, at, "plant-7.telemetry", want)
	for i := range want {
		if n := got[fmt.Sprintf("value-%d", i)]; n != 1 {
			t.Errorf("record %d arrived %d times", i, n)
		}
	}
}

// awaitUplink waits until the only shard is as it should be.
func awaitUplink(t *testing.T, n *node, ok func(uplink.Status) bool) {
	t.Helper()
	var last []uplink.Status
	for limit := time.Now().Add(60 * time.Second); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		if last = n.uplinks.own(); len(last) == 1 && ok(last[0]) {
			return
		}
	}
	text, _ := json.Marshal(last)
	t.Fatalf("the uplink stays %s", text)
}

// U6: retention keeps what a centre that is away has not got, and takes it once it has.
func TestRetentionKeepsWhatIsNotCarried(t *testing.T) {
	small := func(cfg *Config) {
		cfg.Topics.Partitions = 1
		cfg.Topics.Config = map[string]string{"segment.bytes": "65536", "retention.bytes": "65536"}
		cfg.Routes = nil
	}
	dir := t.TempDir()
	n, stop := edgeOf(t, dir, "127.0.0.1:1", small)
	produceTo(t, n.addrOf("kafka"), "telemetry", 0, 2000)
	keep := func() {
		t.Helper()
		p, err := n.broker.Partition("telemetry", 0)
		if err != nil {
			t.Fatal(err)
		}
		if from, yield := n.uplinks.hold(p.ID()); from != 0 || yield {
			t.Errorf("held from %d, yields: %v", from, yield)
		}
	}
	keep()
	stop()
	centre := testNode(t)
	n, _ = edgeOf(t, dir, centre.addrOf("kafka"), small)
	awaitUplink(t, n, func(s uplink.Status) bool { return s.State == "idle" && s.LagRecords == 0 })
	if got := readCommitted(t, centre.addrOf("kafka"), "plant-7.telemetry", 2000); len(got) != 2000 {
		t.Errorf("%d records arrived, %d were acknowledged", len(got), 2000)
	}
	p, err := n.broker.Partition("telemetry", 0)
	if err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if from, _ := n.uplinks.hold(p.ID()); from == p.HighWatermark() {
			break
		} else if time.Now().After(limit) {
			t.Fatalf("held from %d of %d", from, p.HighWatermark())
		}
	}
}

// Uplinks change while the node runs: one that is added begins, one whose limits change goes on from its cursor, one that is taken out stops and holds nothing any more.
func TestUplinksAreReloaded(t *testing.T) {
	centre := testNode(t)
	cfg := Defaults()
	cfg.Uplinks = []uplink.Config{{Name: "central", To: "kafka://" + centre.addrOf("kafka"), Topics: []string{"telemetry"}, Rename: "{site}.{topic}"}}
	cfg.Node.Site = "plant-7"
	n, _ := edgeOf(t, t.TempDir(), "127.0.0.1:1", func(c *Config) { c.Uplinks = nil })
	n.reloadConfig = func() (Config, error) {
		c := cfg
		c.Uplinks = append([]uplink.Config(nil), cfg.Uplinks...)
		return c, c.Validate()
	}
	reload := func() {
		t.Helper()
		if err := n.reload(); err != nil {
			t.Fatal(err)
		}
	}
	produceTo(t, n.addrOf("kafka"), "telemetry", 0, 100)
	reload()
	awaitUplink(t, n, func(s uplink.Status) bool { return s.State == "idle" && s.Records == 100 })
	cfg.Uplinks[0].Limits.Rate = 1e6
	reload()
	produceTo(t, n.addrOf("kafka"), "telemetry", 100, 100)
	awaitUplink(t, n, func(s uplink.Status) bool { return s.State == "idle" && s.Records == 100 }) // of another forwarder
	before := n.uplinks.own()[0].Commits
	reload()
	awaitUplink(t, n, func(s uplink.Status) bool { return s.Commits == before }) // nothing has changed: it goes on undisturbed
	if got := readCommitted(t, centre.addrOf("kafka"), "plant-7.telemetry", 200); len(got) != 200 {
		t.Errorf("%d records arrived", len(got))
	}
	cfg.Uplinks[0].Shards = 2
	if err := n.reload(); err == nil || !strings.Contains(err.Error(), "uplinks[0].shards") || len(n.uplinks.own()) != 1 {
		t.Errorf("two shards were made of one: %v", err)
	}
	cfg.Uplinks[0].Shards = 1
	cfg.Uplinks[0].Guarantee = "perhaps"
	if err := n.reload(); err == nil || len(n.uplinks.own()) != 1 {
		t.Errorf("a faulty file was put in force: %v", err)
	}
	cfg.Uplinks = nil
	reload()
	p, err := n.broker.Partition("telemetry", 0)
	if err != nil {
		t.Fatal(err)
	}
	for limit := time.Now().Add(30 * time.Second); len(n.uplinks.own()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("an uplink that is not configured any more goes on")
		}
	}
	if from, _ := n.uplinks.hold(p.ID()); from < p.HighWatermark() {
		t.Errorf("held from %d for nobody", from)
	}
}
