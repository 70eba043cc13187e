package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestKcatProducesAndConsumesInAGroup(t *testing.T) {
	kcat := needCommand(t, "kcat")
	passed(t, "kcat", wordAfter(t, "Version", kcat, "-V"), "produce with every codec, consume in a group")
	n := startNode(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		run(t, "a:1\nb:2\nc:3\n", kcat, "-b", n.kafka, "-P", "-t", "from-kcat-"+codec, "-K:", "-z", codec)
		if got := kcatRead(t, n, "from-kcat-"+codec, "%k=%s"); len(got) != 3 {
			t.Errorf("%s: kcat read back %q", codec, got)
		}
	}
	lines := background(t, kcat, "-b", n.kafka, "-G", "kcat-group", "-u", "-q", "-X", "auto.offset.reset=earliest", "from-kcat-lz4")
	missing := map[string]bool{"1": true, "2": true, "3": true} // in any order: three keys, several partitions
	for timeout := time.After(patience); len(missing) > 0; {
		select {
		case line := <-lines:
			delete(missing, line)
		case <-timeout:
			t.Fatalf("the group did not get %v", missing)
		}
	}
}

func TestLibrdkafka(t *testing.T) {
	python := confluentPython(t)
	passed(t, "librdkafka (confluent-kafka-python)", pythonVersion(t, "confluent-kafka"), "produce, consume in groups")
	n := startNode(t)
	for codec, assignor := range map[string]string{"none": "range", "lz4": "roundrobin", "zstd": "cooperative-sticky"} {
		t.Run(codec+"/"+assignor, func(t *testing.T) {
			out := run(t, "", python, "python/confluent_round_trip.py", n.kafka, "rd-"+codec, "1000", codec, assignor)
			if !strings.Contains(out, "consumed 1000") {
				t.Errorf("the client said:\n%s", out)
			}
		})
	}
}

func confluentPython(t *testing.T) string {
	t.Helper()
	python := filepath.Join(cacheDir(), "venv", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "confluent-kafka (Python)")
	return python
}

func TestLibrdkafkaAdministers(t *testing.T) {
	n := startNode(t)
	if out := run(t, "", confluentPython(t), "python/confluent_admin.py", n.kafka); !strings.Contains(out, "administered") {
		t.Errorf("the client said:\n%s", out)
	}
}

// The Java client's defaults: idempotent, acks=all, the newest protocol versions it finds. A key's partition is the one
// that the MQTT side chooses, so that both sides of one device meet in one partition.
func TestJavaClient(t *testing.T) {
	java, javac := needCommand(t, "java"), needCommand(t, "javac")
	jars := filepath.Join(cacheDir(), "java")
	found, _ := filepath.Glob(filepath.Join(jars, "kafka-clients-*.jar"))
	need(t, len(found) > 0, "the Apache Kafka Java client")
	classes := t.TempDir()
	classPath := jars + "/*:" + classes
	run(t, "", javac, "-cp", classPath, "-d", classes, "java/RoundTrip.java")
	passed(t, "Apache Kafka clients (Java)", jarVersion(t, jars, "kafka-clients"), "produce with every codec, consume in groups with every assignor")
	n := startNode(t)
	for codec, assignor := range map[string]string{
		"none": "RangeAssignor", "gzip": "RoundRobinAssignor", "snappy": "StickyAssignor", "lz4": "CooperativeStickyAssignor", "zstd": "CooperativeStickyAssignor",
	} {
		t.Run(codec+"/"+assignor, func(t *testing.T) {
			topic := "java-" + codec
			out := run(t, "", java, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "RoundTrip", n.kafka, topic, "1000", codec, assignor)
			if !strings.Contains(out, "consumed 1000") {
				t.Fatalf("the client said:\n%s", out)
			}
			if codec != "none" {
				return
			}
			for i := range 10 {
				key := fmt.Sprint("device-", i)
				want := fmt.Sprintf("partition %s %d\n", key, mqttPartition(t, n, key))
				if !strings.Contains(out, want) {
					t.Errorf("MQTT maps %s to %q, Java said:\n%s", key, strings.TrimSpace(want), out)
				}
			}
		})
	}
}

// mqttPartition publishes as the given client id and tells which partition of telemetry the record went to.
func mqttPartition(t *testing.T, n *node, clientID string) int {
	t.Helper()
	run(t, "", needCommand(t, "mosquitto_pub"), "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", clientID, "-q", "1", "-t", "where", "-m", "am i")
	for _, line := range kcatRead(t, n, "telemetry", "%k %p") {
		if partition, ok := strings.CutPrefix(line, clientID+" "); ok {
			var p int
			if _, err := fmt.Sscan(partition, &p); err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Fatalf("no record of %s", clientID)
	return -1
}
