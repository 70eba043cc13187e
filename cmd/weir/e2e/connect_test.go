package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// worker is a Kafka Connect worker in distributed mode: it keeps its configuration, offsets and status in compacted topics, and its members are a group of their own protocol.
type worker struct {
	t        *testing.T
	jars     string
	settings string
	rest     string
	output   *lockedBuffer
	cmd      *exec.Cmd
}

// newWorker prepares one, whose values are of that form, and which has those plugins besides what is on its class path.
func newWorker(t *testing.T, bootstrap, converter string, plugins ...string) *worker {
	t.Helper()
	pluginPath := t.TempDir()
	for _, name := range plugins {
		if err := os.Symlink(filepath.Join(cacheDir(), name), filepath.Join(pluginPath, name)); err != nil {
			t.Fatal(err)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rest := "http://" + free.Addr().String()
	free.Close()
	w := &worker{t: t, jars: filepath.Join(cacheDir(), "connect"), settings: filepath.Join(t.TempDir(), "worker.properties"), rest: rest, output: &lockedBuffer{}}
	discovery := "service_load" // by their manifests: it starts in half the time
	if slices.Contains(plugins, "connect-mongodb") {
		discovery = "only_scan" // MongoDB's have none
	}
	replicas := 1 + min(2, strings.Count(bootstrap, ","))
	if err := os.WriteFile(w.settings, fmt.Appendf(nil, `bootstrap.servers=%[1]s
group.id=connect
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=%[2]s
offset.storage.topic=connect-offsets
config.storage.topic=connect-configs
status.storage.topic=connect-status
offset.storage.replication.factor=%[3]d
config.storage.replication.factor=%[3]d
status.storage.replication.factor=%[3]d
exactly.once.source.support=enabled
plugin.discovery=%[6]s
plugin.path=%[5]s
session.timeout.ms=6000
heartbeat.interval.ms=2000
offset.flush.interval.ms=1000
listeners=%[4]s
`, bootstrap, converter, replicas, rest, pluginPath, discovery), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *worker) start() {
	w.t.Helper()
	w.cmd = exec.Command(needCommand(w.t, "java"), "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", w.jars+"/*", "org.apache.kafka.connect.cli.ConnectDistributed", w.settings)
	w.cmd.Stdout, w.cmd.Stderr = w.output, w.output
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.kill) // also when it never serves
	w.until("the worker to serve", func() bool {
		_, err := w.ask("GET", "/connectors", "")
		return err == nil
	})
}

func (w *worker) kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// connect gives the worker a connector.
func (w *worker) connect(name, config string) {
	w.t.Helper()
	var refused error
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) { // it serves before it has its group
		if _, refused = w.ask("PUT", "/connectors/"+name+"/config", config); refused == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: %v", name, refused)
		}
	}
}

// ask calls the worker's REST interface.
func (w *worker) ask(method, path, body string) (string, error) {
	req, err := http.NewRequest(method, w.rest+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

func (w *worker) until(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(3 * patience); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited for %s in vain; it said:\n%s", what, w.output)
		}
	}
}

// A file goes into a topic exactly once and out into another file, while the worker and a node are killed.
func TestKafkaConnect(t *testing.T) {
	inClients(t)
	dir := t.TempDir()
	s := startSite(t, 3)
	var seeds []string
	for _, m := range s.members {
		seeds = append(seeds, m.kafka)
	}
	s.members[0].weir("topics", "create", "lines", "--partitions", "1")
	w := newWorker(t, strings.Join(seeds, ","), "org.apache.kafka.connect.storage.StringConverter")
	passed(t, "Kafka Connect", jarVersion(t, w.jars, "connect-runtime"), "distributed; file source exactly once, file sink; worker and a node killed meanwhile")
	w.start()

	in, out := filepath.Join(dir, "in.txt"), filepath.Join(dir, "out.txt")
	file, err := os.Create(in)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, config := range map[string]string{
		"from-file": fmt.Sprintf(`{"connector.class": "FileStreamSource", "tasks.max": "1", "file": %q, "topic": "lines", "exactly.once.support": "required"}`, in),
		"to-file":   fmt.Sprintf(`{"connector.class": "FileStreamSink", "tasks.max": "1", "file": %q, "topics": "lines"}`, out),
	} {
		w.connect(name, config)
	}
	const total = 2000
	written := make(chan error, 1)
	go func() {
		for i := range total {
			if _, err := fmt.Fprintln(file, i); err != nil {
				written <- err
				return
			}
			if i%50 == 49 {
				time.Sleep(500 * time.Millisecond)
			}
		}
		written <- nil
	}()
	time.Sleep(6 * time.Second)
	w.kill()
	w.start()
	s.members[1].kill()
	time.Sleep(2 * time.Second)
	s.members[1].start()
	time.Sleep(3 * time.Second)
	w.kill()
	w.start()
	if err := <-written; err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	reader, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics("lines"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for next := 0; next < total; {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("the topic has %d of %d lines; the worker said:\n%s", next, total, w.output)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Value) != fmt.Sprint(next) {
				t.Fatalf("line %q where %d is due: once each, in order", r.Value, next)
			}
			next++
		})
	}
	w.until("all lines to come out", func() bool {
		b, _ := os.ReadFile(out)
		seen := map[string]bool{}
		for line := range bytes.Lines(b) {
			seen[string(line)] = true
		}
		return len(seen) == total
	})
}

// Readings go into a table of a real PostgreSQL, each once, while the worker and the node are killed: the sink may repeat what it wrote, and puts it in the same row.
func TestKafkaConnectIntoPostgreSQL(t *testing.T) {
	inClients(t)
	n := startNode(t)
	db := startPostgres(t)
	w := newWorker(t, n.kafka, "org.apache.kafka.connect.json.JsonConverter")
	passed(t, "Debezium JDBC sink", jarVersion(t, w.jars, "debezium-connector-jdbc"), "into PostgreSQL "+db.version+"; worker and node killed meanwhile")
	run(t, "", bins.weir, "--bootstrap", n.kafka, "topics", "create", "metrics", "--partitions", "2")
	w.start()
	w.connect("to-postgres", fmt.Sprintf(`{"connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector", "tasks.max": "2", "topics": "metrics",
		"connection.url": "jdbc:postgresql://%s/postgres", "connection.username": "postgres", "connection.password": "",
		"insert.mode": "upsert", "primary.key.mode": "record_value", "primary.key.fields": "device,seq", "schema.evolution": "basic"}`, db.addr))
	producer, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.DefaultProduceTopic("metrics"))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	const total = 600
	for i := range total {
		if i == total/3 {
			w.kill()
			w.start()
		}
		if i == 2*total/3 {
			n.kill()
			n.start()
		}
		value := fmt.Sprintf(`{"schema": {"type": "struct", "fields": [{"field": "device", "type": "string"}, {"field": "seq", "type": "int64"}, {"field": "value", "type": "double"}]},
			"payload": {"device": "device-%d", "seq": %d, "value": %d.5}}`, i%7, i, i)
		if err := producer.ProduceSync(t.Context(), &kgo.Record{Key: fmt.Append(nil, i%7), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	w.until("all rows", func() bool {
		return db.ask("select count(*), sum(value) from metrics") == fmt.Sprintf("%d|%d", total, total*total/2)
	})
}
