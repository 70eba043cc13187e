package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Readings go from MQTT into a table in object storage, each exactly once, while the worker and the node are killed. The sink's tasks write files and tell each other of
// them in a topic, in transactions with their offsets; one of them commits what it has heard of to the table.
func TestIcebergSinkIntoObjectStorage(t *testing.T) {
	inClients(t)
	python := filepath.Join(cacheDir(), "venv-apps", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "moto (Python)")
	connector := jarVersion(t, filepath.Join(cacheDir(), "connect-iceberg"), "iceberg-kafka-connect")
	n := startTelemetryNode(t)
	catalog := startPostgres(t)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "weir", "AWS_SECRET_ACCESS_KEY": "weir", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"} {
		t.Setenv(name, value)
	}
	storage := startObjectStorage(t, python)
	w := newWorker(t, n.kafka, "org.apache.kafka.connect.json.JsonConverter", "connect-iceberg")
	passed(t, "Iceberg sink", connector, "from an MQTT-fed topic into a table in object storage (S3's protocol), exactly once; worker and node killed meanwhile")
	run(t, "", bins.weir, "--bootstrap", n.kafka, "topics", "create", "control-iceberg", "--partitions", "1")
	w.start()
	w.connect("to-iceberg", fmt.Sprintf(`{"connector.class": "org.apache.iceberg.connect.IcebergSinkConnector", "tasks.max": "2", "topics": "readings",
		"value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
		"consumer.override.auto.offset.reset": "earliest",
		"iceberg.tables": "plant.readings", "iceberg.tables.auto-create-enabled": "true", "iceberg.control.commit.interval-ms": "3000",
		"iceberg.catalog.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog", "iceberg.catalog.uri": "jdbc:postgresql://%s/postgres", "iceberg.catalog.jdbc.user": "postgres",
		"iceberg.catalog.warehouse": "s3://plant/warehouse", "iceberg.catalog.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
		"iceberg.catalog.s3.endpoint": %q, "iceberg.catalog.s3.path-style-access": "true",
		"iceberg.catalog.http-client.type": "urlconnection"}`, catalog.addr, storage))
	rows := 0
	count := func() int { // what the table's newest snapshot says, which is an object
		metadata := catalog.ask("select metadata_location from iceberg_tables where table_name = 'readings'")
		if metadata == "" {
			return 0
		}
		out, _, _ := execute("", python, "-c", `import boto3, json, sys
table = json.load(boto3.client("s3", endpoint_url=sys.argv[1]).get_object(Bucket="plant", Key=sys.argv[2])["Body"])
print(next((s["summary"]["total-records"] for s in table["snapshots"] if s["snapshot-id"] == table["current-snapshot-id"]), 0))`, storage, strings.TrimPrefix(metadata, "s3://plant/"))
		_, _ = fmt.Sscan(out, &rows)
		return rows
	}
	f := startFleet(t, n, "20/s", 30*time.Second)
	w.until("the first rows", func() bool { return count() > 0 })
	w.kill()
	w.start()
	n.kill()
	n.start()
	total := 0
	for _, readings := range windowCounts(t, n, "readings", f.acked()) {
		total += readings
	}
	defer func() { t.Logf("%d readings, %d rows", total, rows) }()
	w.until("a row of each reading", func() bool { return count() == total })
}

// startObjectStorage runs a server of S3's protocol with a bucket, and returns its URL.
func startObjectStorage(t *testing.T, python string) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + free.Addr().String()
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	await(t, background(t, python, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", port), "Running on")
	run(t, "", python, "-c", `import boto3, sys; boto3.client("s3", endpoint_url=sys.argv[1]).create_bucket(Bucket="plant")`, url)
	return url
}
