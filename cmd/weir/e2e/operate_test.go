package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// Inspection of a stopped node's files finds nothing wrong, and one flipped bit wherever it is in a segment.
func TestInspectFindsAFlippedBit(t *testing.T) {
	n := startNode(t)
	run(t, "", needCommand(t, "mosquitto_pub"), "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "d", "-q", "1", "-t", "t", "-m", strings.Repeat("x", 500))
	n.stop()
	out := run(t, "", bins.weir, "inspect", "data", n.dir)
	if !strings.Contains(out, "every checksum is right") {
		t.Fatalf("weir inspect says:\n%s", out)
	}
	segments, err := filepath.Glob(filepath.Join(n.dir, "topics", "telemetry-*", "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) == 0 {
			continue
		}
		if out := run(t, "", bins.weir, "inspect", "segment", "--records", s); !strings.Contains(out, "1 records") {
			t.Errorf("weir inspect segment says:\n%s", out)
		}
		text[len(text)/2] ^= 1
		if err := os.WriteFile(s, text, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"inspect", "data", n.dir}, {"inspect", "segment", s}} {
			out, err := tryRun(t, "", bins.weir, args...)
			if err == nil || !strings.Contains(out, "DAMAGED") || !strings.Contains(out, filepath.Base(s)) {
				t.Errorf("weir %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
		return
	}
	t.Fatal("no segment holds the record")
}

// A record whose batch was damaged on the disk is never given out: the consumer is told, others are served, and the
// node's log does not fill with it. // A8
func TestDamagedBatchIsReportedToItsReader(t *testing.T) {
	n := startNode(t)
	pub := needCommand(t, "mosquitto_pub")
	publish := func(client, message string) {
		t.Helper()
		run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", client, "-q", "1", "-t", "t", "-m", message)
	}
	publish("damaged", strings.Repeat("x", 500))
	publish("whole", "still here") // murmur2 puts the two into different partitions
	n.stop()
	flipped := false
	segments, err := filepath.Glob(filepath.Join(n.dir, "topics", "telemetry-*", "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		if at := strings.Index(string(text), "xxxx"); at > 0 {
			text[at] ^= 1
			flipped = true
			if err := os.WriteFile(s, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !flipped {
		t.Fatal("no segment holds the record")
	}
	n.start()
	out, err := tryRun(t, "", bins.weir, "--bootstrap", n.kafka, "consume", "telemetry", "--from", "beginning", "--count", "2")
	if err == nil || !strings.Contains(strings.ToLower(out), "corrupt") || strings.Contains(out, "xxx") {
		t.Errorf("weir consume: %v\n%s", err, out)
	}
	publish("whole", "and this")
	if lines := strings.Count(n.stderr.String(), "corrupt"); lines > 20 {
		t.Errorf("the node wrote %d lines about one batch", lines)
	}
}

// A changed file is in force after a reload; a file with a mistake changes nothing and is answered with the mistake.
func TestReloadOfRoutes(t *testing.T) {
	pub := needCommand(t, "mosquitto_pub")
	config := filepath.Join(t.TempDir(), "weir.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	publish := func(n *node, message string) {
		t.Helper()
		run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "d", "-q", "1", "-t", "plants/a/machines/m1/vibration", "-m", message)
	}
	write("routes: [{match: '#', topic: first}]\n")
	n := startNode(t, "--config", config)
	publish(n, "one")
	write("routes:\n  - {match: plants/+plant/machines/+machine/vibration, topic: second, key: '{plant}/{machine}'}\n")
	if code, body := get(t, "POST", "http://"+n.http+"/api/v1/routes/reload"); code != 200 || !strings.Contains(body, `"topic": "second"`) {
		t.Fatalf("reload answered %d: %s", code, body)
	}
	publish(n, "two")
	write("routes: [{match: 'a/#/b', topic: third}]\n")
	if code, body := get(t, "POST", "http://"+n.http+"/api/v1/routes/reload"); code != 422 || !strings.Contains(body, "match") {
		t.Errorf("a bad file was answered %d: %s", code, body)
	}
	publish(n, "three")
	if got := kcatRead(t, n, "first", "%k=%s"); len(got) != 1 || got[0] != "d=one" {
		t.Errorf("topic first holds %q", got)
	}
	if got := kcatRead(t, n, "second", "%k=%s"); len(got) != 2 || got[0] != "a/m1=two" || got[1] != "a/m1=three" {
		t.Errorf("topic second holds %q", got)
	}
}

func TestHealthAndMetrics(t *testing.T) {
	n := startNode(t)
	run(t, "", needCommand(t, "mosquitto_pub"), "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "d", "-q", "1", "-t", "t", "-m", "x")
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(t, "GET", "http://"+n.http+path); code != 200 || body != "ok\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	_, metrics := get(t, "GET", "http://"+n.http+"/metrics")
	for _, want := range []string{"weir_mqtt_published_total 1\n", `weir_cluster_high_watermark_offset{topic="`, "weir_log_commits_total", "weir_kafka_connections 0\n"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for path, want := range map[string]string{"/": "<title>weir</title>", "/api/v1/status": `"name":"telemetry"`, "/debug/pprof/": "goroutine"} {
		if code, body := get(t, "GET", "http://"+n.http+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, lacks %s", path, code, want)
		}
	}
}
