package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-io/weir/cluster"
)

func TestClusterOfANodeAlone(t *testing.T) {
	n := testNode(t)
	at := []string{"--bootstrap", n.addrOf("kafka")}
	do := func(args ...string) (int, string, string) { return commandLine(t, append(at, args...)...) }
	code, out, errs := do("cluster", "status")
	if code != exitDone || !strings.Contains(out, "quorum: 1 voter, 1 reachable\n") || !strings.Contains(out, "each led and with all its replicas in sync") {
		t.Errorf("status: exit %d\n%s%s", code, out, errs)
	}
	text := out
	w := httptest.NewRecorder()
	n.http.routes().ServeHTTP(w, httptest.NewRequest("GET", "/debug/cluster", nil))
	if w.Code != 200 || w.Body.String() != text {
		t.Errorf("/debug/cluster is not what status prints: %d\n%s", w.Code, w.Body)
	}
	var fromTool, fromAPI cluster.ClusterStatus
	_, out, _ = do("--json", "cluster", "status")
	w = httptest.NewRecorder()
	n.http.routes().ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/cluster", nil))
	if json.Unmarshal([]byte(out), &fromTool) != nil || json.Unmarshal(w.Body.Bytes(), &fromAPI) != nil || !reflect.DeepEqual(fromTool, fromAPI) || fromTool.Controller != 1 {
		t.Errorf("--json: %s\n/api/v1/cluster: %s", out, w.Body)
	}
	if code, out, _ := do("cluster", "members"); code != exitDone || !strings.Contains(out, "yes    yes    yes") {
		t.Errorf("members: exit %d\n%s", code, out)
	}
	for want, args := range map[string][]string{
		"broker 1 is the only one: start another":                             {"drain", "1"},
		`node "x": not found: the cluster has 1 (`:                            {"drain", "x"},
		"move them off with `weir cluster drain 1 --wait` first":              {"remove", "1"},
		"partition telemetry/0: node \"7\": not found":                        {"reassign", "telemetry", "--partition", "0", "--replicas", "1,7"},
		"partition 99 of 4":                                                   {"reassign", "telemetry", "--partition", "99", "--replicas", "1"},
		"want 1 to":                                                           {"reassign", "telemetry", "--factor", "99"},
		`topic "nothing"`:                                                     {"reassign", "nothing", "--factor", "1"},
		"weir cluster keygen FILE":                                            {"rotate-key"},
		"partition telemetry/0 is led by broker 1: nothing is to be given up": {"elect", "telemetry", "--partition", "0", "--leader", "1", "--unclean"},
	} {
		code, out, errs := do(append([]string{"cluster"}, args...)...)
		if code != exitFailed || out != "" || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, stdout %q, stderr %q, want %q", args, code, out, errs, want)
		}
	}
	if code, out, errs := do("cluster", "rebalance"); code != exitDone || out != "nothing to change\n" {
		t.Errorf("rebalance: exit %d, %q, %q", code, out, errs)
	}
	if code, out, _ := do("--json", "cluster", "reassign", "telemetry", "--partition", "0", "--replicas", "1"); code != exitDone || !strings.Contains(out, `"moves": []`) {
		t.Errorf("reassign to what is: exit %d, %q", code, out)
	}
}

func TestClusterUsage(t *testing.T) {
	plan := func(text string) string {
		path := filepath.Join(t.TempDir(), "plan.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, args := range [][]string{
		{"reassign"}, {"reassign", "t"}, {"reassign", "t", "--partition", "0"}, {"reassign", "t", "--factor", "-1"}, {"reassign", "--factor", "2"},
		{"reassign", "t", "--file", plan(`{"partitions": [{"topic": "t", "partition": 0, "replicas": [1]}]}`)},
		{"reassign", "--file", plan(`{"partitions": [{"topic": "t", "replicas": [1]}]}`)},
		{"reassign", "--file", plan(`{"partitions": []}`)},
		{"reassign", "--file", plan(`not JSON`)},
		{"drain", "1", "--wait", "--cancel"},
		{"elect", "t", "--partition", "0", "--leader", "1"},
		{"recover"}, {"recover", "--data", "/nowhere"}, {"forget"},
	} {
		if code, out, errs := commandLine(t, append([]string{"cluster"}, args...)...); code != exitUsage || out != "" || errs == "" {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", args, code, out, errs)
		}
	}
	moves, err := readMoves(plan(`{"version": 1, "partitions": [{"topic": "t", "partition": 3, "replicas": [1, 2], "log_dirs": ["any", "any"]}]}`))
	if want := []moveWish{{"t", 3, []string{"1", "2"}}}; err != nil || !reflect.DeepEqual(moves, want) {
		t.Errorf("a file of Kafka's own tool: %+v, %v", moves, err)
	}
}

func TestClusterKeygen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	if code, out, errs := commandLine(t, "cluster", "keygen", path); code != exitDone || !strings.Contains(out, "--keyring") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	if code, _, errs := commandLine(t, "cluster", "keygen", path); code != exitFailed || !strings.Contains(errs, "exists") {
		t.Errorf("it replaces a key: exit %d, %q", code, errs)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A node that runs is neither recovered nor made to forget.
func TestRecoverNeedsAStoppedNode(t *testing.T) {
	n := testNode(t)
	for _, what := range []string{"recover", "forget"} {
		code, out, errs := commandLine(t, "cluster", what, "--data", n.cfg.Node.Data)
		if code != exitFailed || out != "" || !strings.Contains(errs, "locked by another process") || !strings.Contains(errs, "stop the node on") {
			t.Errorf("%s: exit %d, %q, %q", what, code, out, errs)
		}
		if code, _, errs := commandLine(t, "cluster", what, "--data", t.TempDir()); code != exitFailed || !strings.Contains(errs, "name the data directory of a node") {
			t.Errorf("%s of an empty directory: exit %d, %q", what, code, errs)
		}
	}
}

// What a person reads of a cluster that is in trouble.
func TestClusterText(t *testing.T) {
	s := &cluster.ClusterStatus{
		ClusterID: "kQ", Generation: 1, Version: 77, Broker: 1, Controller: 1,
		Quorum: cluster.QuorumStatus{Voters: 3, Reachable: 2},
		Brokers: []cluster.BrokerStatus{
			{ID: 1, Name: "a", State: "running", Voter: true, Leaders: 2, Replicas: 3, Kafka: "10.0.0.1:9092", Peer: "10.0.0.1:7947", Said: &cluster.BrokerReport{LeaseHeld: true, LeaseMS: 3456}},
			{ID: 2, Name: "b\x1b[31m", State: "running", Voter: true, Draining: true, Replicas: 2, OutOfSync: 1, Said: &cluster.BrokerReport{LagRecords: 12, Fault: "the disk\nfailed"}},
			{ID: 3, State: "gone", Voter: true, Replicas: 1, OutOfSync: 1, Zone: "east"},
		},
		Partitions: cluster.PartitionCounts{Total: 3, Leaderless: 1, SingleOffline: 1, UnderReplicated: 2, Unclean: 1},
		Attention: []cluster.PartitionState{
			{Topic: "t", Partition: 0, Leader: 1, Replicas: []int32{1, 2}, ISR: []int32{1}, State: []string{"under-replicated", "unclean"}},
			{Topic: "u", Partition: 1, Leader: -1, Replicas: []int32{3}, State: []string{"leaderless"}},
		},
	}
	var b strings.Builder
	if err := writeCluster(&b, s); err != nil {
		t.Fatal(err)
	}
	want := `cluster kQ  generation 1  metadata version 77  controller 1 (a)
quorum: 3 voters, 2 reachable: none may fail now

NODE  NAME    STATE              ROLE        ZONE  LEADERS  REPLICAS  OUT-OF-SYNC  LAG  LEASE   KAFKA          MQTT  PEER
   1  a       running            controller  -           2         3            0    0  3.5s    10.0.0.1:9092  -     10.0.0.1:7947
   2  b?[31m  running, draining  voter       -           0         2            1   12  lapsed  -              -     -
   3  -       gone               voter       east        0         1            1    -  -       -              -     -
node 2 serves nothing: the disk?failed

partitions: 3: 1 without a leader, 1 of those with one replica by choice, 2 under-replicated, 1 led uncleanly once

PARTITION  LEADER  REPLICAS  ISR  ADDING  REMOVING  STATE
t/0        1            1,2    1  -       -         under-replicated, unclean
u/1        none           3    -  -       -         leaderless
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
