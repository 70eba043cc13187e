package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Spark counts what devices publish over MQTT by windows, and writes the counts into a topic, while it and the node are killed: it goes on from its checkpoint. Its sink
// may repeat what it wrote (at least once), so the last count of each window is the one that holds.
func TestSparkStructuredStreaming(t *testing.T) {
	inClients(t)
	needCommand(t, "java")
	submit := filepath.Join(cacheDir(), "venv-apps", "bin", "spark-submit")
	_, err := os.Stat(submit)
	need(t, err == nil, "PySpark")
	jars, _ := filepath.Glob(filepath.Join(cacheDir(), "spark", "*.jar"))
	version := jarVersion(t, filepath.Join(cacheDir(), "spark"), "spark-sql-kafka-0-10_2.13")
	passed(t, "Spark Structured Streaming", version, "count by device and window from an MQTT-fed topic into a topic; application and node killed, restart from the checkpoint")
	n := startTelemetryNode(t)
	t.Setenv("PYSPARK_PYTHON", filepath.Join(cacheDir(), "venv-apps", "bin", "python"))
	t.Setenv("SPARK_LOCAL_IP", "127.0.0.1")
	a := startApplication(t, submit, "--master", "local[2]", "--driver-memory", "768m", "--jars", strings.Join(jars, ","), "--conf", "spark.ui.enabled=false",
		"--conf", "spark.sql.shuffle.partitions=2", "--conf", "spark.log.level=WARN", "python/spark_windows.py", n.kafka, "readings", "counts", t.TempDir())
	f := startFleet(t, n, "20/s", 30*time.Second)
	r := follow(t, n, "counts", kgo.ReadUncommitted())
	r.more(a, 20)
	a.kill()
	a.start()
	r.more(a, 20)
	n.kill()
	n.start()
	want := windowCounts(t, n, "readings", f.acked())
	r.until(a, "the counts that are so", func() bool { return maps.Equal(r.last, want) })
}
