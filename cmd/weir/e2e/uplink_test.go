package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/cmd/weir/e2e/apache"
)

// sharedCentre is one Apache Kafka for the tests that neither kill it nor empty it: they write as different sites. TestMain ends it.
var sharedCentre struct {
	sync.Once
	*apache.Kafka
	err error
}

// centreKafka starts it with the first test that needs it. It refuses timestamps that are more than an hour ahead, and has a listener that wants a password.
func centreKafka(t *testing.T) *apache.Kafka {
	t.Helper()
	jars := filepath.Join(cacheDir(), "kafka")
	need(t, apache.Found(jars), "Apache Kafka")
	c := &sharedCentre
	c.Do(func() {
		c.Kafka = &apache.Kafka{
			Addr: peerPort(t), SASL: peerPort(t), Users: map[string]string{"weir": "right"}, Dir: filepath.Join(filepath.Dir(bins.weir), "kafka"), Jars: jars,
			More: []string{"log.message.timestamp.after.max.ms=3600000"},
		}
		if c.err = os.Mkdir(c.Dir, 0o700); c.err == nil {
			c.err = c.Format(peerPort(t))
		}
		if c.err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			defer cancel()
			c.err = c.Start(ctx)
		}
	})
	if c.err != nil {
		t.Fatalf("Apache Kafka: %v", c.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Apache Kafka's log:\n%s", c.Said())
		}
	})
	return c.Kafka
}

// ownKafka runs one for the test alone; the test's end kills it.
func ownKafka(t *testing.T) *apache.Kafka {
	t.Helper()
	k := &apache.Kafka{Addr: peerPort(t), Dir: t.TempDir(), Jars: filepath.Join(cacheDir(), "kafka")}
	runKafka(t, k)
	return k
}

// siteOf is what a test's gateway calls its site.
func siteOf(t *testing.T) string { return strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")) }

// atCentre is what a test's topic is called at the target.
func atCentre(t *testing.T, topic string) string { return siteOf(t) + "." + topic }

// runKafka begins with an empty one.
func runKafka(t *testing.T, k *apache.Kafka) {
	t.Helper()
	need(t, apache.Found(k.Jars), "Apache Kafka")
	if err := k.Format(peerPort(t)); err != nil {
		t.Fatalf("Apache Kafka: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Apache Kafka's transactions:\n%s", k.Transactions(context.Background()))
		}
		k.Kill()
		if t.Failed() {
			t.Logf("Apache Kafka's log:\n%s", k.Said())
		}
	})
	startAgain(t, k)
}

func startAgain(t *testing.T, k *apache.Kafka) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := k.Start(ctx); err != nil {
		t.Fatalf("Apache Kafka: %v", err)
	}
}

// startEdge runs a node of the test's site with an uplink "central" to a target; lines are more of the uplink's configuration, flags more of the command line.
func startEdge(t *testing.T, to string, lines []string, flags ...string) *node {
	t.Helper()
	return startNode(t, append([]string{"--config", edgeConfig(t, to, lines)}, flags...)...)
}

func edgeConfig(t *testing.T, to string, lines []string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weir.yaml")
	text := "node: {site: " + siteOf(t) + "}\nuplinks:\n  - name: central\n    to: kafka://" + to + "\n"
	for _, l := range append(lines, `rename: "{site}.{topic}"`) {
		text += "    " + l + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// uplinkStatus is what `weir --json bridge status` says of a shard.
type uplinkStatus struct {
	Uplink, State, Why, Node string
	Shard                    int
	LagRecords               int64   `json:"lag_records"`
	LagSeconds               float64 `json:"lag_seconds"`
	Records, Full            int64
	DeadLetters              int64 `json:"dead_letters"`
	GapRecords               int64 `json:"gap_records"`
	Failures                 int64
	LastError, Warning, Link string
	LinkError                string `json:"link_error"`
}

// uplinks asks a node.
func (n *node) uplinks() (all []uplinkStatus) {
	n.t.Helper()
	var a struct{ Uplinks []uplinkStatus }
	if err := json.Unmarshal([]byte(run(n.t, "", bins.weir, "--bootstrap", n.kafka, "--json", "bridge", "status")), &a); err != nil {
		n.t.Fatal(err)
	}
	return a.Uplinks
}

// awaitUplink waits until the node says of its uplink what is wanted.
func (n *node) awaitUplink(what string, is func(uplinkStatus) bool) uplinkStatus {
	n.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		all := n.uplinks()
		if len(all) == 1 && is(all[0]) {
			return all[0]
		}
		if time.Now().After(end) {
			stacks, _ := tryRun(n.t, "", "curl", "-s", "http://"+n.http+"/debug/pprof/goroutine?debug=1")
			n.t.Fatalf("not in time: %s\n%+v\n%s\n%s", what, all, n.stderr, stacks)
		}
	}
}

func carriedAll(s uplinkStatus) bool { return s.LagRecords == 0 && s.State == "idle" }

// comparison is what python/uplink_compare.py finds.
type comparison struct {
	Records, Arrived, Missing, Duplicates, Differing, Disordered, Strange int
	Examples                                                              []string
}

// compare reads both ends.
func compare(t *testing.T, source, target string, topics ...string) (c comparison) {
	t.Helper()
	python := confluentPython(t)
	cluster := clusterID(t, source)
	args := []string{"python/uplink_compare.py", source, target, cluster}
	for _, topic := range topics {
		args = append(args, topic+"="+atCentre(t, topic))
	}
	if err := json.Unmarshal([]byte(run(t, "", python, args...)), &c); err != nil {
		t.Fatal(err)
	}
	t.Logf("both ends: %+v", c)
	return c
}

// whole checks that everything arrived once, unchanged and in order.
func (c comparison) whole(t *testing.T, atLeast int) {
	t.Helper()
	if c.Missing+c.Duplicates+c.Differing+c.Disordered+c.Strange > 0 || c.Arrived != c.Records {
		t.Errorf("the ends differ: %+v", c)
	}
	if c.Records < atLeast {
		t.Errorf("only %d records were carried: the test proves nothing", c.Records)
	}
}

// clusterID asks as any client may.
func clusterID(t *testing.T, bootstrap string) string {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := kadm.NewClient(c).BrokerMetadata(t.Context())
	if err != nil || m.Cluster == "" {
		t.Fatalf("no cluster id from %s: %v", bootstrap, err)
	}
	return m.Cluster
}

// kafkaVersion is that of the broker.
func kafkaVersion(t *testing.T) string {
	t.Helper()
	return jarVersion(t, filepath.Join(cacheDir(), "kafka"), "kafka-server")
}

// makeTopic makes a topic of three partitions at a node.
func (n *node) makeTopic(name string) {
	n.t.Helper()
	run(n.t, "", bins.weir, "--bootstrap", n.kafka, "topics", "create", name, "--partitions", "3", "--replicas", "1")
}

// produceLines writes numbered records with keys.
func produceLines(t *testing.T, bootstrap, topic string, first, n int) {
	t.Helper()
	var text strings.Builder
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&text, "device-%d:{\"seq\": %d}\n", i%7, i/7)
	}
	run(t, text.String(), bins.weir, "--bootstrap", bootstrap, "produce", topic, "--key-sep", ":")
}
