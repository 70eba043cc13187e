package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

func TestBenchIdle(t *testing.T) {
	broker, _ := mqttStandin(t, 0)
	g, out := testGlobals(t, "")
	g.JSON = true
	if err := (&benchIdleCmd{Broker: broker, Connections: 50, Waves: 2, Pid: os.Getpid()}).Run(g); err != nil {
		t.Fatal(err)
	}
	var waves []idleWave
	if err := json.Unmarshal(out.Bytes(), &waves); err != nil {
		t.Fatal(err)
	}
	if len(waves) != 2 || waves[1].ConnectRate <= 0 || *waves[1].RSS < 1<<20 {
		t.Errorf("%s", out)
	}
	g.Out, g.JSON = out, false
	if err := (&benchIdleCmd{Broker: broker, Connections: 1, Waves: 1, Hold: time.Millisecond}).Run(g); err != nil || !strings.Contains(out.String(), "CONNECTS/S") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestBenchAbsent(t *testing.T) {
	for _, version := range []string{"3.1.1", "5"} {
		broker, h := mqttStandin(t, 64)
		g, out := testGlobals(t, "")
		g.JSON = true
		c := benchAbsentCmd{Broker: broker, Sessions: 40, Messages: 3, Traffic: 64 * 1000, Size: 64, MQTTVersion: version, Timeout: 10 * time.Second}
		if err := c.Run(g); err != nil {
			t.Fatal(err)
		}
		var r benchAbsentResult
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if r.Received != 120 || r.Missing != 0 || r.Foreign != 0 || r.ReturnSecs <= 0 {
			t.Errorf("%+v", r)
		}
		if n := h.published.Load(); n < 1100 || n > 1120 || h.wrongSize.Load() != 0 {
			t.Errorf("the server got %d messages, %d of a wrong size; want 120 and 1000 of others", n, h.wrongSize.Load())
		}
	}
}

// A server that forgets what it should have kept must not pass.
func TestBenchAbsentNoticesAForgetfulServer(t *testing.T) {
	broker, h := mqttStandin(t, 64)
	h.lose = "/7"
	g, _ := testGlobals(t, "")
	c := benchAbsentCmd{Broker: broker, Sessions: 10, Messages: 2, Traffic: 640, Size: 64, MQTTVersion: "5", Timeout: 300 * time.Millisecond}
	if err := c.Run(g); exitCode(err) != exitFailed || !strings.Contains(err.Error(), "2 messages missing") {
		t.Errorf("%v", err)
	}
}
