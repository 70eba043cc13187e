package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
)

// What the tools of Apache Kafka 4.4 print.
const (
	sentOut = `In steady state.
23752 records sent, 11852.3 records/sec (1.13 MB/sec), 186.6 ms avg latency, 519.0 ms max latency.
50000 records sent, 9765.625000 records/sec (0.93 MB/sec), 148.07 ms avg latency, 1006.00 ms max latency, 17 ms 50th, 495 ms 95th, 518 ms 99th, 531 ms 99.9th.
40000 steady state records sent, 10649.627263 records/sec (1.02 MB/sec), 114.28 ms avg latency, 519.00 ms max latency, 11 ms 50th, 492 ms 95th, 506 ms 99th, 518 ms 99.9th.
`
	consumedOut = "2026-11-30 17:20:13:958, 2026-11-30 17:20:19:746, 976.5625, 168.7219, 1000000, 172771.2509, 1050, 4738, 206.1128, 211059.5188\n"
)

func TestParseSent(t *testing.T) {
	for steady, want := range map[bool]sent{false: {9765.625, 17, 518}, true: {10649.627263, 11, 506}} {
		if got, err := parseSent(sentOut, steady); err != nil || got != want {
			t.Errorf("steady %t: %v, %v; want %v", steady, got, err, want)
		}
	}
	if _, err := parseSent("org.apache.kafka.common.errors.TimeoutException\n", false); err == nil {
		t.Error("a run without figures has some")
	}
}

func TestParseConsumed(t *testing.T) {
	if got, err := parseConsumed(consumedOut, 1e6); err != nil || got != 211059.5188 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseConsumed(consumedOut, 1e6+1); err == nil || !strings.Contains(err.Error(), "read 1000000 records of 1000001") {
		t.Errorf("a record that was not read: %v", err)
	}
	if _, err := parseConsumed("Exiting before consuming the expected number of records\n", 1); err == nil {
		t.Error("a run without figures has some")
	}
}

func TestParseCommits(t *testing.T) {
	if rate, all, err := parseCommits("500 commits in 2500 ms, 540 in all\n"); err != nil || rate != 200 || all != 540 {
		t.Errorf("%v, %v, %v", rate, all, err)
	}
}

func TestPerfSteps(t *testing.T) {
	steps, rest := perfSteps([]string{"fan-in", "kafka-rate", "kafka"})
	if !reflect.DeepEqual(steps, map[string]bool{"kafka-rate": true}) || !reflect.DeepEqual(rest, []string{"fan-in", "kafka"}) {
		t.Errorf("%v, %v", steps, rest)
	}
	if steps, _ = perfSteps([]string{"apache"}); len(steps) != len(perfLoads) {
		t.Errorf("apache is %v", steps)
	}
}

func TestParseBytes(t *testing.T) {
	if n, err := parseBytes("256MiB"); err != nil || n != 256<<20 {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "256", "MiB", "-1MiB", "0MiB", "1MB"} {
		if n, err := parseBytes(bad); err == nil {
			t.Errorf("%q is %d", bad, n)
		}
	}
}

// The ratio is of figures of the same round: the machine may be half as fast in the next one.
func TestTableDividesWithinRounds(t *testing.T) {
	rate := func(n float64) perfFigures { return perfFigures{produced: sent{rate: n}} }
	var out bytes.Buffer
	c := perfComparison{out: &out}
	rows := []perfRow{{"kafka-produce", "produce", "%.0f", func(f perfFigures) float64 { return f.produced.rate }, "≥ 1"}}
	all := [][]perfFigures{{rate(200), rate(100), rate(60)}, {rate(100), rate(50), rate(60)}}
	if err := c.table([]peer{{name: "weir"}, {name: "Apache Kafka"}}, rows, all); err != nil {
		t.Fatal(err)
	}
	if line := strings.Join(strings.Fields(strings.Split(out.String(), "\n")[1]), " "); line != "produce 100 (60–200) 60 (50–100) 2.00 (1.00–2.00) ≥ 1" {
		t.Errorf("%q", line)
	}
}

func TestCPUMicrosOfThisProcess(t *testing.T) {
	before, err := cpuMicros(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	x := 1.0
	for after := before; after < before+2e4; { // two ticks
		for range 1 << 20 {
			x = math.Sqrt(x + 1)
		}
		if after, err = cpuMicros(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
}

// Each payload is one line of the size that the records are counted by.
func TestTelemetry(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(string(telemetry()), "\n"), "\n")
	if len(lines) != uplinkPayloads {
		t.Fatalf("%d lines", len(lines))
	}
	for _, l := range lines {
		if len(l) != uplinkRecord || !json.Valid([]byte(l)) {
			t.Fatalf("%d bytes: %s", len(l), l)
		}
	}
}
