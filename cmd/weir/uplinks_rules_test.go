package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/bridge/uplink"
)

// Rules of a lane change while the node runs; what they left out is told under each of them, and `weir bridge verify` tells it from a record that is missing, one that was added to
// what the target is told of, and a mean that is gone. // U10
func TestRulesAreReloadedAndVerified(t *testing.T) {
	centre := testNode(t)
	file := filepath.Join(t.TempDir(), "weir.yaml")
	lane := ""
	n, _ := edgeOf(t, t.TempDir(), "127.0.0.1:1", func(c *Config) { c.Uplinks = nil })
	n.reloadConfig = func() (Config, error) {
		c := Defaults()
		err := c.loadFile(file)
		if err == nil {
			err = c.Validate()
		}
		return c, err
	}
	rule := func(text string) {
		t.Helper()
		lane = text
		whole := fmt.Sprintf("node: {site: plant-7}\nuplinks:\n  - name: central\n    to: kafka://%s\n    topics: [telemetry]\n    lanes:\n      - topics: [telemetry]\n        %s\n", centre.addrOf("kafka"), lane)
		if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.reload(); err != nil {
			t.Fatal(err)
		}
	}
	edge := newTestClient(t, n.addrOf("kafka"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	hour := time.Now().Truncate(time.Hour)
	total := 0
	write := func(count int, stamp time.Time) {
		t.Helper()
		for range count {
			r := &kgo.Record{Topic: "telemetry", Key: []byte("device"), Timestamp: stamp, Value: fmt.Appendf(nil, `{"n": %d, "odd": %v, "pad": "x"}`, total, total%2 == 1)}
			if err := edge.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			total++
		}
	}
	settled := func(left int64) {
		t.Helper()
		awaitUplink(t, n, func(s uplink.Status) bool {
			return s.State == "idle" && s.LagRecords == 0 && s.Filtered+s.Thinned >= left
		})
	}
	write(10, hour)
	rule("filter: payload.odd")
	settled(5)
	rule("fields: [n]")
	write(10, hour)
	settled(0)
	if text, code := bridge(t, n.addrOf("kafka"), "pause", "central"); code != exitDone {
		t.Fatal(text)
	}
	rule("thin: {after: 1h, mean_over: 1m}")
	write(10, hour.Add(-3*time.Hour))
	if text, code := bridge(t, n.addrOf("kafka"), "resume", "central"); code != exitDone {
		t.Fatal(text)
	}
	settled(10)
	if text, _ := bridge(t, n.addrOf("kafka"), "status"); !strings.Contains(text, "LEFT OUT") {
		t.Errorf("status:\n%s", text)
	}

	verify := func() (p verifyPartition, code int) {
		t.Helper()
		text, code := bridge(t, n.addrOf("kafka"), "verify", "central", "--json")
		var rep verifyReport
		if err := json.NewDecoder(strings.NewReader(text)).Decode(&rep); err != nil || len(rep.Partitions) == 0 {
			t.Fatalf("%v: %s", err, text)
		}
		for _, q := range rep.Partitions {
			if q.Records > 0 {
				p = q
			}
		}
		return p, code
	}
	if p, code := verify(); code != exitDone || p.Records != 30 || p.Arrived != 15 || p.LeftOut != 15 || p.Filtered != 5 || p.Averaged != 10 || p.Unsaid+p.Missing.Count+p.Differing.Count != 0 {
		t.Errorf("whole: exit %d, %+v", code, p)
	}

	rule("filter: payload.n < 0")
	write(5, hour)
	settled(5)
	if p, code := verify(); code != exitDone || p.Records != 35 || p.Arrived != 15 || p.LeftOut != 20 || p.Filtered != 10 || p.Waiting != 0 { // the cursor tells, as no record has come since
		t.Errorf("left out at the end: exit %d, %+v", code, p)
	}

	// The target forgets its first ten: five of the first rule, five of the second.
	adm := kadm.NewClient(newTestClient(t, centre.addrOf("kafka")))
	drop := func(to int64) {
		t.Helper()
		ends, err := adm.ListEndOffsets(t.Context(), "telemetry")
		if err != nil {
			t.Fatal(err)
		}
		offsets := kadm.Offsets{}
		ends.Each(func(o kadm.ListedOffset) {
			if o.Offset > 0 {
				offsets.Add(kadm.Offset{Topic: o.Topic, Partition: o.Partition, At: min(to, o.Offset)})
			}
		})
		if _, err := adm.DeleteRecords(t.Context(), offsets); err != nil {
			t.Fatal(err)
		}
	}
	drop(4)
	if p, code := verify(); code != exitFailed || p.Missing.Count == 0 || p.LeftOut+p.Missing.Count != 35-p.Arrived {
		t.Errorf("some are gone: exit %d, %+v", code, p)
	}
	other := &kgo.Record{Topic: "telemetry", Key: []byte("device"), Value: []byte("another"), Headers: []kgo.RecordHeader{{Key: originHeader, Value: fmt.Appendf(nil, "%s/telemetry/0/1", n.broker.ClusterID())}}}
	if err := newTestClient(t, centre.addrOf("kafka")).ProduceSync(t.Context(), other).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if p, code := verify(); code != exitFailed || p.Differing.Count != 1 { // and those that were reduced do not
		t.Errorf("one is another: exit %d, %+v", code, p)
	}
	drop(1 << 40)
	if p, code := verify(); code != exitFailed || p.Arrived != 0 || p.Missing.Count+p.LeftOut+p.Unsaid < 25 {
		t.Errorf("all are gone: exit %d, %+v", code, p)
	}
}

func newTestClient(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}
