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

func (w *worker) start() {
	w.t.Helper()
	w.cmd = exec.Command(needCommand(w.t, "java"), "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", w.jars+"/*", "org.apache.kafka.connect.cli.ConnectDistributed", w.settings)
	w.cmd.Stdout, w.cmd.Stderr = w.output, w.output
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.until("the worker to serve", func() bool {
		_, err := w.ask("GET", "/connectors", "")
		return err == nil
	})
}

func (w *worker) kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
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
	for end := time.Now().Add(2 * patience); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited for %s in vain; it said:\n%s", what, w.output)
		}
	}
}

// A file goes into a topic exactly once and out into another file, while the worker and a node are killed.
func TestKafkaConnect(t *testing.T) {
	inClients(t)
	dir := t.TempDir()
	jars := filepath.Join(cacheDir(), "connect")
	version := jarVersion(t, jars, "connect-runtime")
	s := startSite(t, 3)
	var seeds []string
	for _, m := range s.members {
		seeds = append(seeds, m.kafka)
	}
	s.members[0].weir("topics", "create", "lines", "--partitions", "1")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rest := "http://" + free.Addr().String()
	free.Close()
	settings := fmt.Sprintf(`bootstrap.servers=%s
group.id=connect
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
offset.storage.topic=connect-offsets
config.storage.topic=connect-configs
status.storage.topic=connect-status
exactly.once.source.support=enabled
session.timeout.ms=6000
heartbeat.interval.ms=2000
listeners=%s
`, strings.Join(seeds, ","), rest)
	w := &worker{t: t, jars: jars, settings: filepath.Join(dir, "worker.properties"), rest: rest, output: &lockedBuffer{}}
	if err := os.WriteFile(w.settings, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	w.start()
	defer func() { w.kill() }()

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
		w.until(name, func() bool { _, err := w.ask("PUT", "/connectors/"+name+"/config", config); return err == nil })
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
	passed(t, "Kafka Connect", version, "distributed; file source exactly once, file sink; worker and a node killed meanwhile")
}
