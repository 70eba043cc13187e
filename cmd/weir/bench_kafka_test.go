package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestBenchKafka(t *testing.T) {
	tl := newTool(t)
	bench := func(args ...string) benchProduceResult {
		t.Helper()
		var r benchProduceResult
		if err := json.Unmarshal([]byte(tl.ok("", append(append([]string{"bench", "kafka"}, args...), "--json", "-d", "150ms")...)), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	stored := func() (n int64) {
		t.Helper()
		var d []topicDescription
		if err := json.Unmarshal([]byte(tl.ok("", "topics", "describe", "bench", "--json")), &d); err != nil {
			t.Fatal(err)
		}
		for _, p := range d[0].Parts {
			n += p.End
		}
		return n
	}
	// What it says it produced is in the topic.
	kgo := bench("produce", "--partitions", "3", "--size", "100", "--batch", "4096")
	if kgo.Messages == 0 || kgo.Messages != stored() || kgo.Partitions != 3 || kgo.P99 <= 0 {
		t.Errorf("kgo: %+v, %d stored", kgo, stored())
	}
	raw := bench("produce", "--client", "raw", "--size", "100", "--batch", "4096", "-c", "2")
	if raw.Messages == 0 || raw.Messages != stored()-kgo.Messages || raw.P99 <= 0 {
		t.Errorf("raw: %+v, %d stored", raw, stored())
	}
	// The ready batches are ones that any consumer takes.
	out := tl.ok("", "consume", "bench", "--count", "1", "--from=-1", "--partition", "1")
	if len(out) != 101 {
		t.Errorf("a record of the raw producer: %q", out)
	}
	for _, client := range []string{"kgo", "raw"} {
		r := bench("fetch", "--client", client, "--pid", "1", "--max-bytes", "100000")
		// Batches are whole, so that the raw client may read a little more than the records it counts.
		if r.Messages == 0 || math.Round(r.MBPerSecond*1e6*r.Seconds) < float64(r.Messages)*100 || r.ServerCPU == nil {
			t.Errorf("fetch by %s: %+v", client, r)
		}
	}
	tl.ok("", "topics", "create", "empty", "--partitions", "1", "--replicas", "1")
	tl.fails(exitFailed, "weir bench kafka produce", "bench", "kafka", "fetch", "--topic", "empty")
	tl.fails(exitFailed, "weir topics create", "bench", "kafka", "fetch", "--topic", "nope")
	tl.fails(exitUsage, "--batch", "bench", "kafka", "produce", "--batch", "1")
	tl.fails(exitUsage, "--duration", "bench", "kafka", "fetch", "-d", "0s")
}

func TestRawProduceReportsErrors(t *testing.T) {
	tl := newTool(t, kfake.BrokerConfigs(map[string]string{"message.max.bytes": "1000"}))
	tl.ok("", "topics", "create", "bench", "--partitions", "1", "--replicas", "1", "--config", "max.message.bytes=1000")
	tl.fails(exitFailed, "MESSAGE_TOO_LARGE", "bench", "kafka", "produce", "--client", "raw", "-d", "5s")
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		leaders     string
		connections int
		addrs       string
		parts       [][]int32
	}{
		{"a a a a", 1, "a", [][]int32{{0, 1, 2, 3}}},
		{"a a a a", 2, "a a", [][]int32{{0, 2}, {1, 3}}},
		{"a a", 9, "a a", [][]int32{{0}, {1}}},
		{"a b a b", 1, "a b", [][]int32{{0, 2}, {1, 3}}},
	} {
		addrs, parts := spread(strings.Fields(c.leaders), c.connections)
		if strings.Join(addrs, " ") != c.addrs || !reflect.DeepEqual(parts, c.parts) {
			t.Errorf("%s over %d: %v %v", c.leaders, c.connections, addrs, parts)
		}
	}
}

func TestBenchLog(t *testing.T) {
	g, out := testGlobals(t, "")
	g.JSON = true
	dir := t.TempDir()
	c := benchLogCmd{Dir: dir, Partitions: []int{3}, Window: 150, Size: 100, Duration: 200e6, Rounds: 1, JournalFile: 4 << 20}
	if err := c.Run(g); err != nil {
		t.Fatal(err)
	}
	var r benchLogResult
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	// A commit holds at most what the windows hold.
	if r.Messages == 0 || r.Commits == 0 || r.Messages > r.Commits*3*50 || r.P50 <= 0 || r.Max < r.P99 || r.BytesPerRecord < 100 {
		t.Errorf("%+v", r)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	// At a rate, and compared.
	out.Reset()
	c.Partitions, c.Rate = []int{1, 5}, 2000
	if err := c.Run(g); err != nil {
		t.Fatal(err)
	}
	var rs []benchLogResult
	if err := json.Unmarshal(out.Bytes(), &rs); err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		if r.Messages == 0 || r.Rate > 2200 || r.P50 <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if len(rs) != 2 || rs[0].Partitions != 1 || rs[1].Partitions != 5 {
		t.Errorf("%+v", rs)
	}
	c.Dir = filepath.Join(dir, "nowhere")
	if err := c.Run(g); exitCode(err) != exitFailed || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
