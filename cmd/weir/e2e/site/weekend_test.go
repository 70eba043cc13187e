package site

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/cmd/weir/e2e/apache"
)

// weekend is a gateway at host 1 whose centre, an Apache Kafka and a mosquitto at host 2, is reached over one mobile line.
type weekend struct {
	t       *testing.T
	net     *network
	edge    *node
	centre  *apache.Kafka
	broker  *broker
	gateway *kgo.Client // a client of the edge, beside it
}

const weekendConfig = `node: {site: plant-7}
uplinks:
  - name: central
    to: kafka://%s
    topics: [telemetry, bulk, small, alerts]
    rename: "{site}.{topic}"
    lanes: [{topics: [alerts], priority: 0}, {topics: [bulk], priority: 5, order: live_first}, {topics: ["*"], priority: 5}]
    limits: {rate: 600kbit}
  - name: broker
    to: mqtt://%s:1883
    topics: [telemetry, alerts]
    rename: "{site}/{mqtt.topic}"
    lanes: [{topics: [alerts], priority: 0}]
    limits: {rate: 300kbit}
`

func newWeekend(t *testing.T) *weekend {
	t.Helper()
	w := &weekend{t: t, net: newNetwork(t, 1, 2)}
	_, file, _, _ := runtime.Caller(0)
	h := w.net.hosts[2]
	w.centre = &apache.Kafka{Addr: h.addr() + ":9092", Dir: t.TempDir(), Jars: filepath.Join(filepath.Dir(file), "..", "..", "..", "..", ".cache", "kafka"), Wrap: h.command}
	need(t, apache.Found(w.centre.Jars), "Apache Kafka is not installed: run `make clients-deps`")
	if err := w.centre.Format(h.addr() + ":9093"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.centre.Kill()
		if t.Failed() {
			t.Logf("Apache Kafka's log:\n%s", w.centre.Said())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := w.centre.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.broker = startBroker(t, h)
	config := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, weekendConfig, w.centre.Addr, h.addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	w.edge = &node{t: t, host: w.net.hosts[1], disk: newDisk(t, "edge"), log: &lockedBuffer{}, clock: filepath.Join(t.TempDir(), "clock"), args: []string{"--config", config}}
	w.edge.start()
	t.Cleanup(func() {
		w.edge.stop()
		if t.Failed() {
			t.Logf("the edge's log:\n%s", w.edge.log)
		}
	})
	w.edge.awaitReady()
	var err error
	if w.gateway, err = kgo.NewClient(kgo.SeedBrokers(w.edge.kafka()), kgo.ProducerBatchCompression(kgo.NoCompression())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.gateway.Close)
	return w
}

func (w *weekend) topic(name string, configs map[string]*string) {
	w.t.Helper()
	if _, err := kadm.NewClient(w.gateway).CreateTopic(w.t.Context(), 2, 1, configs, name); err != nil {
		w.t.Fatal(err)
	}
}

// produce writes n records of the site itself.
func (w *weekend) produce(topic string, n int, value func() []byte) {
	w.t.Helper()
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, "device-", i%20), Value: value()})
	}
	if err := w.gateway.ProduceSync(w.t.Context(), records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// link parts the two hosts, or joins them.
func (w *weekend) link(up bool) {
	w.t.Helper()
	edge, centre := w.net.hosts[1:2], w.net.hosts[2:3]
	if up {
		w.net.heal()
	} else {
		w.net.cut(edge, centre)
	}
}

// tool runs the binary at a host.
func (w *weekend) tool(h *host, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	c := h.command(os.Getenv(insideEnv), args...)
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Kill() })
	defer stop()
	out, err := c.CombinedOutput()
	return string(out), err
}

type uplinkState struct {
	Uplink     string
	State, Why string
	Lag        int64 `json:"lag_records"`
	Gaps       int64 `json:"gap_records"`
	Dead       int64 `json:"dead_letters"`
	Sent       int64 `json:"sent_bytes"`
	Records    int64
	Failures   int64
}

func (w *weekend) status(uplink string) uplinkState {
	w.t.Helper()
	out, err := w.tool(w.net.hosts[0], "--json", "bridge", "status", "--bootstrap", w.edge.kafka())
	var a struct{ Uplinks []uplinkState }
	if err == nil {
		err = json.Unmarshal([]byte(out), &a)
	}
	i := slices.IndexFunc(a.Uplinks, func(s uplinkState) bool { return s.Uplink == uplink })
	if err != nil || i < 0 {
		w.t.Fatalf("bridge status: %v\n%s", err, out)
	}
	return a.Uplinks[i]
}

// The gateway is cut off while devices publish and more is written than a topic's retention keeps; then it has a thin line, then one that comes and goes, and its power fails. Neither alerts
// nor what is new wait for the backlog, the rate that is allowed is kept, and in the end both centres have everything: Apache Kafka once, mosquitto at least once. // U6, U7
func TestWeekend(t *testing.T) {
	w := newWeekend(t)
	small := map[string]*string{"retention.bytes": ptr("262144"), "segment.bytes": ptr("131072")}
	w.topic("small", small)
	w.topic("elsewhere", small) // the same, and not carried
	w.topic("bulk", nil)
	w.topic("alerts", nil)

	w.link(false)
	ledger := filepath.Join(t.TempDir(), "ledger.json")
	fleet := exec.Command(filepath.Join(filepath.Dir(os.Getenv(insideEnv)), "weir-sim"), "--broker", "mqtt://"+w.edge.host.addr()+":1883", "--devices", "20",
		"--profile", "thermostat", "--rate", "2/s", "--duration", "1h", "--seed", "1", "--report", ledger)
	if err := fleet.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fleet.Process.Kill() }()
	backlog, live := 8000, 15*time.Second // about two megabytes that no codec makes smaller
	if soak() {
		backlog, live = 100_000, 5*time.Minute
	}
	w.produce("bulk", backlog, func() []byte { b := make([]byte, 256); _, _ = rand.Read(b); return b })
	for range 8 { // eight times what their retention keeps
		for _, topic := range []string{"small", "elsewhere"} {
			w.produce(topic, 256, func() []byte { return slices.Repeat([]byte("weir"), 256) })
		}
	}
	w.awaitRetention("elsewhere", true)
	w.awaitRetention("small", false)
	if s := w.status("central"); s.Lag < int64(backlog)+2048 || s.Gaps > 0 {
		t.Errorf("while the line is down: %+v", s)
	}

	if lacks := w.net.thin(w.net.hosts[2], 1000, 80*time.Millisecond); lacks != "" {
		t.Log("skipped, since this kernel has no netem: " + lacks)
	}
	w.link(true)
	for _, uplink := range []string{"central", "broker"} {
		w.await(uplink, "it carries", func(s uplinkState) bool { return s.Records > 0 })
	}
	w.live(live, int64(backlog))

	for range 3 { // the line comes and goes, on purpose at no particular moment
		w.link(false)
		time.Sleep(2 * time.Second)
		w.link(true)
		time.Sleep(3 * time.Second)
	}
	w.edge.kill() // the gateway's power fails
	w.edge.start()
	w.edge.awaitReady()
	_ = fleet.Process.Signal(os.Interrupt)
	if err := fleet.Wait(); err != nil {
		t.Errorf("the fleet: %v", err)
	}
	for _, uplink := range []string{"central", "broker"} {
		w.await(uplink, "all is carried", func(s uplinkState) bool { return s.Lag == 0 && s.State == "idle" })
		if s := w.status(uplink); s.Gaps > 0 || s.Dead > 0 {
			t.Errorf("in the end: %+v", s)
		}
	}
	w.net.slow(w.net.hosts[2], 0)
	w.kafkaHasAll(ledger)
	w.mosquittoHasAll()
	w.awaitRetention("small", true)
}

// awaitRetention waits until retention has deleted something of a topic, or checks that it has deleted nothing.
func (w *weekend) awaitRetention(topic string, deletes bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		starts, err := kadm.NewClient(w.gateway).ListStartOffsets(w.t.Context(), topic)
		if err == nil {
			err = starts.Error()
		}
		if err != nil {
			w.t.Fatal(err)
		}
		var deleted int64
		starts.Each(func(o kadm.ListedOffset) { deleted += o.Offset })
		if deleted > 0 == deletes {
			return
		}
		if !deletes || time.Now().After(end) {
			w.t.Fatalf("retention has deleted %d records of %s", deleted, topic)
		}
	}
}

func ptr(s string) *string { return &s }

func (w *weekend) await(uplink, what string, is func(uplinkState) bool) {
	w.t.Helper()
	limit := 2 * patience
	if soak() {
		limit = 40 * time.Minute
	}
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		s := w.status(uplink)
		if is(s) {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s is not in time: %s: %+v", uplink, what, s)
		}
	}
}
