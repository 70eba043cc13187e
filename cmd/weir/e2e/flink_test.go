package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Flink counts what devices publish over MQTT by windows and writes each count exactly once, in transactions that commit with its checkpoints, while it and the node are
// killed. It names its transactions in two ways: by the number of the checkpoint, or from a pool, for which it lists those that are open.
func TestFlinkExactlyOnce(t *testing.T) {
	inClients(t)
	java, javac := needCommand(t, "java"), needCommand(t, "javac")
	jars := filepath.Join(cacheDir(), "flink")
	version := jarVersion(t, jars, "flink-runtime") + ", connector " + jarVersion(t, jars, "flink-connector-kafka")
	classes := t.TempDir()
	classPath := jars + "/*:" + classes
	run(t, "", javac, "-cp", classPath, "-d", classes, "java/DeviceWindows.java")
	for _, naming := range []string{"INCREMENTING", "POOLING"} {
		t.Run(naming, func(t *testing.T) {
			passed(t, "Flink", version, "count by device and window, exactly once, transactions named by "+naming+"; application and node killed, restart from a checkpoint")
			n := startTelemetryNode(t)
			a := startApplication(t, java, "-Xmx512m", "--add-opens", "java.base/java.util=ALL-UNNAMED", "--add-opens", "java.base/java.lang=ALL-UNNAMED",
				"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.log.org.apache.flink.metrics=error", "-cp", classPath, "DeviceWindows", n.kafka, "readings", "counts", t.TempDir(), naming)
			f := startFleet(t, n, "20/s", 30*time.Second)
			r := follow(t, n, "counts", kgo.ReadCommitted())
			r.more(a, 8)
			a.kill()
			a.start()
			r.more(a, 8)
			n.kill()
			n.start()
			want := windowCounts(t, n, "readings", f.acked())
			closeWindows(t, n, "readings")
			r.until(a, "the counts that are so", func() bool { return maps.Equal(r.last, want) })
			if r.records != len(want) {
				t.Errorf("%d windows were counted %d times", len(want), r.records)
			}
			if !strings.Contains(a.output.String(), "begins at chk-") {
				t.Errorf("it did not go on from a checkpoint:\n%s", a.output)
			}
		})
	}
}

// closeWindows writes a record of a later time into each partition of a topic of readings, with which event time goes on.
func closeWindows(t *testing.T, n *node, topic string) {
	t.Helper()
	producer, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for p := range int32(2) {
		later := &kgo.Record{Partition: p, Key: fmt.Append(nil, "later-", p), Value: []byte("{}"), Timestamp: time.Now().Add(10 * time.Minute)}
		if err := producer.ProduceSync(t.Context(), later).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}
