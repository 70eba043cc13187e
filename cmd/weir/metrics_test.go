package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// testNode runs a node on free ports until the test ends.
func testNode(t *testing.T) *node {
	t.Helper()
	cfg := Defaults()
	cfg.Node.Data = t.TempDir()
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
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
	registry := prometheus.NewRegistry()
	registry.MustRegister(nodeCollector{testNode(t)})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var exported []string
	for _, f := range families {
		exported = append(exported, f.GetName())
	}
	var documented []string
	name := regexp.MustCompile(`weir_[a-z]+_[a-z0-9_]+`)
	for _, doc := range []string{"log/doc.go", "cluster/doc.go", "mqtt/doc.go", "mqtt/conn/doc.go", "mqtt/deliver/doc.go", "bridge/kafka/doc.go"} {
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
