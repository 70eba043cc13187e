package main

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// testNode runs a node on free ports until the test ends.
func testNode(t *testing.T) *node {
	t.Helper()
	return testNodeWith(t, func(*Config) {})
}

func testNodeWith(t *testing.T, change func(*Config)) *node {
	t.Helper()
	cfg := Defaults()
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", ""
	cfg.Node.Data = t.TempDir()
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	change(&cfg)
	ctx, stop := context.WithCancel(t.Context())
	n, err := openNode(ctx, cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
	})
	return n
}

// Every metric that a room's doc.go names is exported, and nothing is exported that no doc.go explains.
func TestMetricsAreThoseThatTheRoomsDocument(t *testing.T) {
	var exported []string
	w := httptest.NewRecorder()
	testNode(t).http.routes().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) { // not the samples: a node alone follows nobody
		if f := strings.Fields(line); len(f) > 3 && f[1] == "TYPE" && strings.HasPrefix(f[2], "weir_") {
			exported = append(exported, f[2])
		}
	}
	var documented []string
	name := regexp.MustCompile(`weir_[a-z]+_[a-z0-9_]+`)
	for _, doc := range []string{
		"log/doc.go", "cluster/doc.go", "cluster/rpc/doc.go", "cluster/gossip/doc.go", "mqtt/doc.go", "mqtt/conn/doc.go", "mqtt/deliver/doc.go", "mqtt/schema/registry/doc.go", "bridge/kafka/doc.go", "bridge/uplink/doc.go", "cmd/weir/main.go",
	} {
		text, err := os.ReadFile("../../" + doc)
		if err != nil {
			t.Fatal(err)
		}
		documented = append(documented, name.FindAllString(string(text), -1)...)
	}
	alerts, err := os.ReadFile("../../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range name.FindAllString(string(alerts), -1) {
		if !slices.Contains(exported, m) {
			t.Errorf("deploy/alerts.yaml watches %s, which is not exported", m)
		}
	}
	slices.Sort(documented)
	documented = slices.Compact(documented)
	for _, m := range exported {
		if !slices.Contains(documented, m) {
			t.Errorf("%s is exported, and no room's doc.go explains it", m)
		}
	}
	for _, m := range documented {
		if !slices.Contains(exported, m) && !strings.HasSuffix(m, "_") {
			t.Errorf("%s stands in a doc.go and is not exported", m)
		}
	}
}

// parse reads an answer with Prometheus' own parser, which refuses what its server would refuse.
func parse(t *testing.T, r io.Reader) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func scrape(t *testing.T, s *httpServer, acceptEncoding string) map[string]*dto.MetricFamily {
	t.Helper()
	req, w := httptest.NewRequest("GET", "/metrics", nil), httptest.NewRecorder()
	req.Header.Set("Accept-Encoding", acceptEncoding)
	s.routes().ServeHTTP(w, req)
	body := io.Reader(w.Body)
	if got := w.Header().Get("Content-Encoding"); got == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			t.Fatal(err)
		}
		body = z
	} else if acceptEncoding == "gzip" {
		t.Errorf("asked for gzip, got encoding %q", got)
	}
	if format := expfmt.ResponseFormat(w.Header()); format.FormatType() != expfmt.TypeTextPlain {
		t.Errorf("Content-Type %q is not one that Prometheus takes for text", w.Header().Get("Content-Type"))
	}
	return parse(t, body)
}

// What the common client library says of every Go process, weir says under the same name, type and labels.
func TestRuntimeMetricsAreThoseOfEveryGoProcess(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	theirs, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := scrape(t, testNode(t).http, "gzip")
	if len(theirs) < 20 {
		t.Fatalf("the library names %d metrics only", len(theirs))
	}
	for _, want := range theirs {
		got := ours[want.GetName()]
		switch {
		case got == nil:
			t.Errorf("%s is missing", want.GetName())
		case got.GetType() != want.GetType():
			t.Errorf("%s is a %v, want a %v", want.GetName(), got.GetType(), want.GetType())
		case len(got.Metric) != 1 || len(want.Metric) != 1 || len(got.Metric[0].Label) != len(want.Metric[0].Label):
			t.Errorf("%s: labels differ", want.GetName())
		}
	}
	// Those that hardly move between two readings have the same value too.
	for _, name := range []string{"process_start_time_seconds", "process_max_fds", "process_virtual_memory_max_bytes", "go_gc_gogc_percent", "go_gc_gomemlimit_bytes", "go_sched_gomaxprocs_threads"} {
		i := slices.IndexFunc(theirs, func(f *dto.MetricFamily) bool { return f.GetName() == name })
		if i < 0 || ours[name] == nil {
			continue // not on this system, or reported above
		}
		want, got := theirs[i].Metric[0].Gauge.GetValue(), ours[name].Metric[0].Gauge.GetValue()
		if math.Abs(got-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"process_resident_memory_bytes", "process_open_fds", "go_goroutines", "go_memstats_heap_alloc_bytes"} {
		if m := ours[name]; m != nil && m.Metric[0].Gauge.GetValue() <= 0 {
			t.Errorf("%s is %v", name, m.Metric[0].Gauge.GetValue())
		}
	}
}

func TestExpositionEscapesAndKeepsValues(t *testing.T) {
	var e exposition
	e.family("a", "line\nbreak, \\ and \"quotes\"")
	awkward := "x\"y\\z\nend, {a=\"1\"} \xff"
	values := []float64{0, -1, 0.1, 1 << 60, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), 123456789012}
	for i, v := range values {
		e.sample("a", v, "i", string(rune('a'+i)), "topic", awkward)
	}
	e.family("none", "A family without samples is no fault.")
	e.family("b_total", "Counts.")
	e.sample("b_total", 123456789012)
	if !strings.Contains(e.String(), "\nb_total 123456789012\n") {
		t.Errorf("a count is not written in full:\n%s", e.String())
	}
	families := parse(t, &e.Buffer)
	if got, want := families["a"].GetHelp(), "line\nbreak, \\ and \"quotes\""; got != want {
		t.Errorf("help %q, want %q", got, want)
	}
	if got := families["b_total"].GetType(); got != dto.MetricType_COUNTER {
		t.Errorf("b_total is a %v", got)
	}
	for i, m := range families["a"].Metric {
		if m.Gauge.GetValue() != values[i] {
			t.Errorf("value %v, want %v", m.Gauge.GetValue(), values[i])
		}
		if got, want := m.Label[1].GetValue(), strings.ToValidUTF8(awkward, "\uFFFD"); got != want {
			t.Errorf("label %q, want %q", got, want)
		}
	}
}

// /proc is input as well: what it may hold must never end a scrape.
func TestProcessMetricsOfAnOddProcDirectory(t *testing.T) {
	proc := t.TempDir()
	var empty exposition
	processMetrics(&empty, proc)
	if empty.Len() != 0 {
		t.Errorf("an empty directory gives %q", empty.String())
	}
	for name, text := range map[string]string{
		"self/stat":        "7 (a) b) S 1 7 7",
		"self/limits":      "Limit   Soft\nMax open files",
		"self/net/netstat": "IpExt: InOctets\nIpExt:\nIpExt:",
	} {
		file := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var e exposition
	processMetrics(&e, proc)
	for name := range parse(t, &e.Buffer) {
		if !strings.HasPrefix(name, "process_network_") {
			t.Errorf("%s was made up", name)
		}
	}
}
