package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// Readings go from MQTT into a collection, each once, while the worker and the node are killed: a record's place in its topic is its document's id. MongoDB's own server
// is in no registry; FerretDB, which speaks its protocol over SQLite, is a Go module.
func TestMongoDBSink(t *testing.T) {
	inClients(t)
	python := filepath.Join(cacheDir(), "venv-apps", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "pymongo")
	connector := jarVersion(t, filepath.Join(cacheDir(), "connect-mongodb"), "mongo-kafka-connect")
	n := startTelemetryNode(t)
	url, server := startMongoDB(t)
	w := newWorker(t, n.kafka, "org.apache.kafka.connect.json.JsonConverter", "connect-mongodb")
	passed(t, "MongoDB sink", connector, "from an MQTT-fed topic into FerretDB "+server+" (MongoDB's protocol); worker and node killed meanwhile")
	w.start()
	w.connect("to-mongodb", fmt.Sprintf(`{"connector.class": "com.mongodb.kafka.connect.MongoSinkConnector", "tasks.max": "2", "topics": "readings",
		"value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
		"connection.uri": %q, "database": "plant", "collection": "readings",
		"document.id.strategy": "com.mongodb.kafka.connect.sink.processor.id.strategy.KafkaMetaDataStrategy"}`, url))
	count := 0
	documents := func() int {
		out, _, _ := execute("", python, "-c", "import sys, pymongo; print(pymongo.MongoClient(sys.argv[1]).plant.readings.count_documents({}))", url)
		_, _ = fmt.Sscan(out, &count)
		return count
	}
	f := startFleet(t, n, "4/s", 30*time.Second)
	w.until("the first documents", func() bool { return documents() > 0 })
	w.kill()
	w.start()
	n.kill()
	n.start()
	total := 0
	for _, readings := range windowCounts(t, n, "readings", f.acked()) {
		total += readings
	}
	defer func() { t.Logf("%d readings, %d documents", total, count) }()
	w.until("a document of each reading", func() bool { return documents() == total })
}

// startMongoDB runs a server and returns its URL and version.
func startMongoDB(t *testing.T) (url, version string) {
	t.Helper()
	mod, err := os.ReadFile("clients/mongodb/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "mongodb")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir = "clients/mongodb"
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	await(t, background(t, bin, addr, t.TempDir()), "Listening on TCP")
	return "mongodb://" + addr, string(regexp.MustCompile(`FerretDB v(\S+)`).FindSubmatch(mod)[1])
}
