package e2e

import (
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

// Share groups are refused by not being listed: the client gives up at once and says why.
func TestJavaShareGroupsAreRefused(t *testing.T) {
	classPath := javaClass(t, "ShareRefused")
	n := startNode(t)
	out := run(t, "", "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", classPath, "ShareRefused", n.kafka)
	if !strings.Contains(out, "refused: UnsupportedVersionException") {
		t.Errorf("the client said:\n%s", out)
	}
}
