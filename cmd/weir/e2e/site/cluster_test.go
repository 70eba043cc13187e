package site

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	mqttTopic  = "readings" // what devices publish
	kafkaTopic = "events"   // what Kafka producers produce
	partitions = 3
)

// cluster is a number of nodes, each at its own host, and the two topics of the workload.
type cluster struct {
	t     *testing.T
	net   *network
	nodes []*node
	form
}

// form is what a cluster consists of.
type form struct {
	size    int    // nodes, at hosts 1 to size
	witness bool   // the last of them keeps no records
	profile string // of timings; "" is fast
}

// factor is how many replicas everything has.
func (f form) factor() int {
	if f.witness {
		return min(3, f.size-1)
	}
	return min(3, f.size)
}

// newCluster starts the nodes, and waits until everything has its replicas. More hosts are for clients.
func newCluster(t *testing.T, f form, clients ...int) *cluster {
	t.Helper()
	var numbers []int
	for i := range f.size {
		numbers = append(numbers, i+1)
	}
	c := &cluster{t: t, net: newNetwork(t, append(numbers, clients...)...), form: f}
	config := filepath.Join(t.TempDir(), "weir.yaml")
	text := fmt.Sprintf("routes: [{match: \"site/#\", topic: %s}]\nlog: {journal_file: 16MiB}\n", mqttTopic)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range numbers {
		var peers []string
		for _, other := range numbers {
			if other != i+1 {
				peers = append(peers, fmt.Sprintf("10.99.0.%d:7946", other))
			}
		}
		n := &node{
			t: t, host: c.net.hosts[i+1], disk: newDisk(t, fmt.Sprint("n", i+1)), log: &lockedBuffer{}, clock: filepath.Join(t.TempDir(), "clock"),
			args: []string{"--config", config, "--profile", cmp.Or(f.profile, "fast"), "--join", strings.Join(peers, ","), "--expect", fmt.Sprint(f.size)},
		}
		if f.witness && i == f.size-1 {
			n.args = append(n.args, "--witness")
		}
		c.nodes = append(c.nodes, n)
	}
	t.Cleanup(c.end)
	began := time.Now()
	for _, n := range c.nodes {
		n.setClock(0)
		n.start()
	}
	for _, n := range c.nodes {
		n.awaitReady()
	}
	if got := c.replicas(c.nodes[0], mqttTopic, 0); len(got) != f.factor() { // C7
		t.Errorf("a topic that was made as the cluster was formed has %d replicas", len(got))
	}
	c.createTopics()
	c.awaitHealthy()
	t.Logf("%d nodes formed a cluster with all replicas in %.1f s", f.size, time.Since(began).Seconds())
	return c
}

// use makes t the test that fails when something does.
func (c *cluster) use(t *testing.T) {
	c.t, c.net.t = t, t
	for _, n := range c.nodes {
		n.t, n.disk.t = t, t
	}
}

// end kills what still runs, and shows the nodes' logs when the test failed.
func (c *cluster) end() {
	for _, n := range c.nodes {
		if c.t.Failed() && !n.exitedNow() {
			c.keepStacks(n)
		}
		if n.cmd != nil && !n.exitedNow() {
			n.kill()
		}
		keepLog(fmt.Sprintf("%s-of-%d", n.name(), c.size), n.log)
		if c.t.Failed() {
			c.t.Logf("the log of %s ends:\n%s", n.name(), tail(n.log.String(), 60))
		}
	}
}

// keepLog writes what a process said to the directory that WEIR_SITE_LOGS names, if it does.
func keepLog(name string, log *lockedBuffer) {
	if dir := os.Getenv("WEIR_SITE_LOGS"); dir != "" {
		_ = os.WriteFile(filepath.Join(dir, name+".log"), []byte(log.String()), 0o600)
	}
}

// keepStacks keeps what a node's goroutines are at, and how it sees the cluster.
func (c *cluster) keepStacks(n *node) {
	for name, path := range map[string]string{"stacks": "/debug/pprof/goroutine?debug=2", "cluster": "/debug/cluster"} {
		cl := http.Client{Timeout: 5 * time.Second}
		resp, err := cl.Get("http://" + n.host.addr() + ":8080" + path)
		if err != nil {
			continue
		}
		var b lockedBuffer
		_, _ = io.Copy(&b, resp.Body)
		_ = resp.Body.Close()
		keepLog(n.name()+"-"+name, &b)
	}
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// admin talks to the given nodes only until they have told of others.
func (c *cluster) admin(nodes ...*node) *kadm.Client {
	c.t.Helper()
	return kadm.NewClient(newClient(c.t, nodes...))
}

func newClient(t *testing.T, nodes ...*node) *kgo.Client {
	t.Helper()
	var seeds []string
	for _, n := range nodes {
		seeds = append(seeds, n.kafka())
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.RetryTimeout(2*time.Second), kgo.RequestRetries(2), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func (c *cluster) createTopics() {
	c.t.Helper()
	min := "2"
	adm := c.admin(c.nodes...)
	defer adm.Close()
	c.await("the topics are created", func(ctx context.Context) error {
		rs, err := adm.CreateTopics(ctx, partitions, int16(c.factor()), map[string]*string{"min.insync.replicas": &min}, mqttTopic, kafkaTopic)
		if err != nil {
			return err
		}
		for _, r := range rs.Sorted() {
			if r.Err != nil && !strings.Contains(r.Err.Error(), "TOPIC_ALREADY_EXISTS") {
				return fmt.Errorf("%s: %w %s", r.Topic, r.Err, r.ErrMessage)
			}
		}
		return nil
	})
}

// await asks until there is no error.
func (c *cluster) await(what string, ask func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("not so after %s: %s: %v", patience, what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// awaitHealthy waits until every running node says that every partition has a leader and all its replicas in sync.
func (c *cluster) awaitHealthy() time.Duration {
	c.t.Helper()
	began := time.Now()
	for _, n := range c.nodes {
		if n.exitedNow() {
			c.t.Fatalf("%s ended", n.name())
		}
		adm := c.admin(n)
		c.await("all replicas are in sync, says "+n.name(), func(ctx context.Context) error { return c.healthy(ctx, adm) })
		adm.Close()
	}
	return time.Since(began)
}

func (c *cluster) healthy(ctx context.Context, adm *kadm.Client) error {
	m, err := adm.Metadata(ctx)
	if err != nil {
		return err
	}
	if len(m.Brokers) != len(c.nodes) {
		return fmt.Errorf("%d of %d brokers", len(m.Brokers), len(c.nodes))
	}
	for _, topic := range m.Topics.Sorted() {
		for _, p := range topic.Partitions.Sorted() {
			if p.Err != nil || p.Leader < 0 || len(p.ISR) != c.factor() || len(p.Replicas) != len(p.ISR) {
				return fmt.Errorf("%s/%d: leader %d, replicas %v, in sync %v, %v", p.Topic, p.Partition, p.Leader, p.Replicas, p.ISR, p.Err)
			}
		}
	}
	return nil
}

// leader is the node that leads a partition, as the asked node says.
func (c *cluster) leader(ask *node, topic string, partition int32) *node {
	c.t.Helper()
	return c.replicas(ask, topic, partition)[0]
}

// replicas are the nodes with a replica of a partition, as the asked node says, its leader first.
func (c *cluster) replicas(ask *node, topic string, partition int32) (nodes []*node) {
	c.t.Helper()
	adm := c.admin(ask)
	defer adm.Close()
	c.await(fmt.Sprintf("%s/%d has a leader", topic, partition), func(ctx context.Context) error {
		m, err := adm.Metadata(ctx, topic)
		if err != nil {
			return err
		}
		p := m.Topics[topic].Partitions[partition]
		nodes = nil
		for _, id := range append([]int32{p.Leader}, slices.DeleteFunc(p.Replicas, func(r int32) bool { return r == p.Leader })...) {
			i := slices.IndexFunc(m.Brokers, func(b kadm.BrokerDetail) bool { return b.NodeID == id })
			if i < 0 {
				return fmt.Errorf("broker %d is none of %v", id, m.Brokers)
			}
			for _, n := range c.nodes {
				if n.host.addr() == m.Brokers[i].Host {
					nodes = append(nodes, n)
				}
			}
		}
		return nil
	})
	return nodes
}

// others are all nodes but the given ones.
func (c *cluster) others(without ...*node) []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return slices.Contains(without, n) })
}

func hosts(nodes ...*node) (hs []*host) {
	for _, n := range nodes {
		hs = append(hs, n.host)
	}
	return hs
}
