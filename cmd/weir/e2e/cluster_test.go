package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// portsGiven are those of peerPort: whom one was given may not have bound it yet.
var portsGiven sync.Map

// peerPort finds a port that is free for TCP and UDP, below those from which others dial.
func peerPort(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		if _, taken := portsGiven.LoadOrStore(addr, true); taken {
			continue
		}
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		tcp.Close()
		if err == nil {
			udp.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// member is a node of a cluster.
type member struct {
	*node
	gossip string
}

// site is a cluster of processes.
type site struct {
	t       *testing.T
	ring    string // keyring that each node gets a copy of
	members []*member
}

// startSite runs n nodes that form one cluster, with keys; the first of them in the zones given.
func startSite(t *testing.T, n int, zones ...string) *site {
	t.Helper()
	return startSiteWith(t, n, nil, zones...)
}

// startSiteWith is startSite with more flags for each node.
func startSiteWith(t *testing.T, n int, flags []string, zones ...string) *site {
	t.Helper()
	s := &site{t: t, ring: filepath.Join(t.TempDir(), "keyring")}
	run(t, "", bins.weir, "cluster", "keygen", s.ring)
	for i := range n {
		extra := []string{"--expect", fmt.Sprint(n)}
		if i > 0 {
			extra = append(extra, "--join", s.members[0].gossip)
		}
		if i < len(zones) {
			extra = append(extra, "--zone", zones[i])
		}
		s.make(append(extra, flags...)...)
	}
	s.start(s.members...)
	return s
}

// make prepares a node.
func (s *site) make(extra ...string) *member {
	s.t.Helper()
	dir := s.t.TempDir()
	ring, err := os.ReadFile(s.ring)
	if err != nil {
		s.t.Fatal(err)
	}
	own := filepath.Join(dir, "keyring")
	if err := os.WriteFile(own, ring, 0o600); err != nil {
		s.t.Fatal(err)
	}
	m := &member{node: &node{t: s.t, bin: []string{bins.weir}, dir: filepath.Join(dir, "data"), kafka: peerPort(s.t)}, gossip: peerPort(s.t)} // clients of others are told its port
	m.extra = append([]string{"--node-id", fmt.Sprintf("node%d", len(s.members)+1), "--gossip", m.gossip, "--raft", peerPort(s.t), "--keyring", own, "--profile", "fast"}, extra...)
	s.members = append(s.members, m)
	return m
}

// name is the node's id.
func (m *member) name() string { return m.extra[slices.Index(m.extra, "--node-id")+1] }

// start runs nodes at the same time: each becomes ready when the cluster is there.
func (s *site) start(ms ...*member) {
	s.t.Helper()
	var starting sync.WaitGroup
	for _, m := range ms {
		starting.Go(m.start)
	}
	starting.Wait()
	for _, m := range ms {
		s.t.Cleanup(func() {
			if m.cmd != nil && m.exited != nil {
				m.stop()
			}
		})
	}
	if s.t.Failed() {
		for _, m := range s.members {
			s.t.Logf("%v\n%s", m.extra, m.stderr)
		}
		s.t.FailNow()
	}
}

// weir runs a tool against a node.
func (m *member) weir(args ...string) string {
	m.t.Helper()
	return run(m.t, "", bins.weir, append([]string{"--bootstrap", m.kafka}, args...)...)
}

// refused runs a tool that must fail, and returns what it says.
func (m *member) refused(args ...string) string {
	m.t.Helper()
	out, err := tryRun(m.t, "", bins.weir, append([]string{"--bootstrap", m.kafka}, args...)...)
	if err == nil {
		m.t.Errorf("weir %s: done:\n%s", strings.Join(args, " "), out)
	}
	return out
}

type brokerState struct {
	ID       int
	Name     string
	Kafka    string
	State    string
	Replicas int
}

type clusterStatus struct {
	Generation int
	Controller int
	Quorum     struct {
		Voters, Reachable int
		Members           []struct{ Broker int }
	}
	Brokers    []brokerState
	Partitions map[string]int
}

func (m *member) status() (s clusterStatus) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.weir("--json", "cluster", "status")), &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *member) await(what string, is func(clusterStatus) bool) {
	m.t.Helper()
	for end := time.Now().Add(patience); ; {
		s := m.status()
		if is(s) {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("not in time: %s\n%s", what, m.weir("cluster", "status"))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// lines are numbered, from first on.
func lines(first, n int) (text string) {
	for i := range n {
		text += fmt.Sprintf("record %d\n", first+i)
	}
	return text
}

// missing are the records that a consumer does not get.
func (m *member) missing(topic string, n int) (all []int) {
	m.t.Helper()
	got := strings.Split(m.weir("consume", topic, "--from", "beginning", "--count", fmt.Sprint(n)), "\n")
	slices.Sort(got)
	for i := range n {
		if _, there := slices.BinarySearch(got, fmt.Sprintf("record %d", i)); !there {
			all = append(all, i)
		}
	}
	return all
}

// A node is drained while records come in, stopped and removed; a new one takes its place. Nothing acknowledged is missing, and each step that would lose something
// is refused with the way out.
func TestDrainRemoveAndReplaceANode(t *testing.T) {
	s := startSite(t, 3)
	a, b, c := s.members[0], s.members[1], s.members[2]
	a.weir("topics", "create", "orders", "--partitions", "4", "--replicas", "2")
	if out := b.weir("cluster", "status"); !strings.Contains(out, "quorum: 3 voters, 3 reachable\n") || !strings.Contains(out, "node3") {
		t.Errorf("status:\n%s", out)
	}
	if code, body := get(t, "GET", "http://"+c.http+"/debug/cluster"); code != 200 || !strings.Contains(body, "quorum: 3 voters") {
		t.Errorf("/debug/cluster: %d\n%s", code, body)
	}
	b.weir("cluster", "rotate-key")
	var load sync.WaitGroup
	stop, n := make(chan struct{}), 0
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			run(t, lines(n, 20), bins.weir, "--bootstrap", a.kafka, "produce", "orders")
			n += 20
		}
	})
	if out := a.refused("cluster", "remove", "node3"); !strings.Contains(out, "weir cluster drain") {
		t.Errorf("remove of a node that has replicas: %s", out)
	}
	if out := b.weir("cluster", "drain", "node3", "--wait"); !strings.Contains(out, "stop it, then run `weir cluster remove node3`") {
		t.Errorf("drain: %s", out)
	}
	if out := a.refused("cluster", "remove", "node3"); !strings.Contains(out, "is running") {
		t.Errorf("remove of a node that runs: %s", out)
	}
	c.stop()
	a.await("the cluster knows that it is gone", func(s clusterStatus) bool {
		return slices.ContainsFunc(s.Brokers, func(k brokerState) bool { return k.Name == "node3" && (k.State == "gone" || k.State == "fenced") })
	})
	b.weir("cluster", "remove", "node3")
	a.await("two members", func(s clusterStatus) bool { return len(s.Brokers) == 2 && len(s.Quorum.Members) == 2 })
	s.ring = a.extra[slices.Index(a.extra, "--keyring")+1] // as it is after the rotation
	d := s.make("--join", a.gossip)
	s.start(d)
	d.weir("cluster", "rebalance", "--wait")
	a.await("three nodes in full", func(s clusterStatus) bool {
		return s.Quorum.Voters == 3 && s.Partitions["under_replicated"]+s.Partitions["moving"]+s.Partitions["leaderless"] == 0 && s.Brokers[2].Replicas > 0
	})
	close(stop)
	load.Wait()
	if n < 40 {
		t.Errorf("only %d records came in", n)
	}
	if lost := d.missing("orders", n); len(lost) > 0 {
		t.Errorf("%d of %d records are missing: %v", len(lost), n, lost)
	}
}

// Two of three nodes are lost for ever. The third says that it serves nothing, is recovered, and goes on with all that was acknowledged.
func TestRecoverFromTheLossOfAMajority(t *testing.T) {
	s := startSite(t, 3)
	a, b, c := s.members[0], s.members[1], s.members[2]
	c.await("each node has everything", func(s clusterStatus) bool { // topics that were made before all three were there grow (C7)
		return s.Partitions["under_replicated"]+s.Partitions["moving"] == 0 &&
			!slices.ContainsFunc(s.Brokers, func(k brokerState) bool { return k.Replicas < s.Partitions["total"] })
	})
	run(t, lines(0, 200), bins.weir, "--bootstrap", c.kafka, "produce", "telemetry")
	a.kill()
	b.kill()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		code, body := get(t, "GET", "http://"+c.http+"/readyz")
		if code == http.StatusServiceUnavailable && strings.Contains(body, "lease has lapsed") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("/readyz without a controller: %d %s", code, body)
		}
	}
	if code, body := get(t, "GET", "http://"+c.http+"/healthz"); code != 200 {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if out := c.weir("cluster", "status"); !strings.Contains(out, "NO MAJORITY") || !strings.Contains(out, "silent") {
		t.Errorf("status without a majority:\n%s", out)
	}
	if out, err := tryRun(t, "", bins.weir, "cluster", "recover", "--data", c.dir); err == nil || !strings.Contains(out, "stop the node") {
		t.Errorf("a running node is recovered: %v %s", err, out)
	}
	c.stop()
	out := run(t, "", bins.weir, "cluster", "recover", "--data", c.dir)
	if !strings.Contains(out, "generation 1") || !strings.Contains(out, "weir cluster forget") {
		t.Errorf("recover says:\n%s", out)
	}
	c.extra = c.extra[:slices.Index(c.extra, "--expect")] // and so --join
	s.start(c)
	var lost []int
	for _, k := range c.status().Brokers {
		if k.State != "running" {
			lost = append(lost, k.ID)
		}
	}
	if len(lost) != 2 {
		t.Fatalf("status:\n%s", c.weir("cluster", "status"))
	}
	for _, id := range lost {
		c.weir("cluster", "drain", fmt.Sprint(id))
	}
	for _, id := range lost {
		c.weir("cluster", "drain", fmt.Sprint(id), "--wait")
		c.await("it is known to be gone", func(s clusterStatus) bool {
			for _, k := range s.Brokers {
				if k.ID == id {
					return k.State == "gone"
				}
			}
			return false
		})
		c.weir("cluster", "remove", fmt.Sprint(id))
	}
	run(t, lines(200, 10), bins.weir, "--bootstrap", c.kafka, "produce", "telemetry")
	if missing := c.missing("telemetry", 210); len(missing) > 0 {
		t.Errorf("%d records are missing: %v", len(missing), missing)
	}
	if st := c.status(); st.Generation != 1 || len(st.Brokers) != 1 || st.Partitions["leaderless"]+st.Partitions["under_replicated"] > 0 {
		t.Errorf("status:\n%s", c.weir("cluster", "status"))
	}
}
