package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Members come and go under every assignor that a client has, and static members restart; what was committed before a
// hand-over is not read again. The node is shared: groups must not disturb each other.
func TestLibrdkafkaGroups(t *testing.T) {
	python := filepath.Join(cacheDir(), "venv", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "confluent-kafka (Python)")
	passed(t, "librdkafka (confluent-kafka-python)", pythonVersion(t, "confluent-kafka"), "members come, go and restart; dynamic and static; every assignor")
	n := startNode(t)
	for _, assignor := range []string{"range", "roundrobin", "cooperative-sticky", "broker-uniform", "broker-range"} {
		for _, membership := range []string{"dynamic", "static"} {
			t.Run(assignor+"/"+membership, func(t *testing.T) {
				t.Parallel()
				out := run(t, "", python, "python/group_members.py", n.kafka, assignor, membership)
				if !strings.Contains(out, "read 180") {
					t.Errorf("the client said:\n%s", out)
				}
			})
		}
	}
}

// javaClass compiles a client and returns the class path that runs it.
func javaClass(t *testing.T, name string) string {
	t.Helper()
	needCommand(t, "java")
	javac := needCommand(t, "javac")
	jars := filepath.Join(cacheDir(), "java")
	found, _ := filepath.Glob(filepath.Join(jars, "kafka-clients-*.jar"))
	need(t, len(found) > 0, "the Apache Kafka Java client")
	classes := t.TempDir()
	run(t, "", javac, "-cp", jars+"/*", "-d", classes, "java/"+name+".java")
	return jars + "/*:" + classes
}

func TestJavaGroups(t *testing.T) {
	classPath := javaClass(t, "GroupMembers")
	passed(t, "Apache Kafka clients (Java)", javaVersion(t), "members of both group protocols come, go, restart and change protocols; every assignor")
	n := startNode(t)
	for _, assignor := range []string{"RangeAssignor", "RoundRobinAssignor", "StickyAssignor", "CooperativeStickyAssignor", "uniform", "range"} {
		for _, membership := range []string{"dynamic", "static", "moves"} {
			want := "read 180"
			if membership == "moves" { // between the protocols, which takes a client's assignor
				if want = "read all"; assignor != "RangeAssignor" && assignor != "CooperativeStickyAssignor" {
					continue
				}
			}
			t.Run(assignor+"/"+membership, func(t *testing.T) {
				t.Parallel()
				out := run(t, "", "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "GroupMembers", n.kafka, assignor, membership)
				if !strings.Contains(out, want) {
					t.Errorf("the client said:\n%s", out)
				}
			})
		}
	}
}

// Consumers of the consumer protocol go on over a kill of their coordinator: no partition moves, and each record is read once.
func TestJavaConsumersGoOnAfterAKill(t *testing.T) {
	classPath := javaClass(t, "GroupMembers")
	n := startNode(t)
	lines := background(t, "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "GroupMembers", n.kafka, "uniform", "restart")
	await(t, lines, "flowing")
	n.kill()
	n.start()
	out := run(t, "", bins.weir, "groups", "describe", "java-uniform-restart", "--bootstrap", n.kafka)
	if !strings.Contains(out, "state Stable  protocol uniform") || strings.Count(out, "127.0.0.1") != 3 || strings.Count(out, "\njava-uniform-restart ") != 6 {
		t.Errorf("groups describe:\n%s", out)
	}
	if out, err := tryRun(t, "", bins.weir, "groups", "reset", "java-uniform-restart", "--to", "beginning", "--bootstrap", n.kafka); err == nil || !strings.Contains(out, "3 running members") {
		t.Errorf("groups reset: %v\n%s", err, out)
	}
	await(t, lines, "read all")
}

// They go on at another broker when their coordinator is killed and stays away.
func TestJavaConsumersGoOnAtTheNextCoordinator(t *testing.T) {
	classPath := javaClass(t, "GroupMembers")
	s := startSite(t, 3)
	var brokers []string
	for _, m := range s.members {
		brokers = append(brokers, m.kafka)
	}
	lines := background(t, "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "GroupMembers", strings.Join(brokers, ","), "range", "restart")
	await(t, lines, "flowing")
	coordinator := func(m *member) (broker int) {
		var d struct{ Coordinator int }
		if err := json.Unmarshal([]byte(m.weir("groups", "describe", "java-range-restart", "--json")), &d); err != nil {
			t.Fatal(err)
		}
		return d.Coordinator
	}
	first := coordinator(s.members[0])
	var i int
	for _, b := range s.members[0].status().Brokers {
		if b.ID == first {
			if _, err := fmt.Sscanf(b.Name, "node%d", &i); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.members[i-1].kill()
	await(t, lines, "read all")
	if next := coordinator(s.members[i%3]); next == first {
		t.Errorf("the coordinator is still broker %d", first)
	}
}

// Share groups are refused by not being listed: the client gives up at once and says why.
func TestJavaShareGroupsAreRefused(t *testing.T) {
	classPath := javaClass(t, "ShareRefused")
	n := startNode(t)
	out := run(t, "", "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "ShareRefused", n.kafka)
	if !strings.Contains(out, "refused: UnsupportedVersionException") {
		t.Errorf("the client said:\n%s", out)
	}
}
