package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/weir-io/weir/bridge/alert"
)

func ruleFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAlertsRunPrintsAndProduces(t *testing.T) {
	tl := newTool(t, kfake.SeedTopics(1, "telemetry"), kfake.SeedTopics(1, "alerts"))
	path := ruleFile(t, "{lateness: 1ms, rules: [{name: low, field: v, window: 1ms, when: last < 5}]}")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errOut lockedBuffer
	ready := make(chan struct{})
	errOut.wait = func(s string) {
		if strings.Contains(s, "watching telemetry by 1 rules") {
			close(ready)
			errOut.wait = func(string) {}
		}
	}
	out.wait = func(s string) {
		if strings.HasSuffix(s, "\n") {
			cancel()
		}
	}
	g := &Globals{Bootstrap: tl.addr, JSON: true, Out: &out, Err: &errOut, Ctx: ctx}
	ended := make(chan error, 1)
	go func() { ended <- (&alertsRunCmd{File: path}).Run(g) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	tl.ok("dev-1:{\"v\":3}\n", "produce", "telemetry", "--key-sep", ":")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	var printed, stored alert.Alert
	if err := json.Unmarshal(out.b.Bytes(), &printed); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(tl.ok("", "consume", "alerts", "--count", "1")), &stored); err != nil {
		t.Fatal(err)
	}
	if printed.Rule != "low" || printed.Device != "dev-1" || printed.State != alert.Firing || printed.Message != stored.Message {
		t.Errorf("printed %+v, stored %+v", printed, stored)
	}
}

func TestAlertsCheck(t *testing.T) {
	var out bytes.Buffer
	g := &Globals{Out: &out, Ctx: t.Context()}
	path := ruleFile(t, "rules: [{name: low, field: v, window: 1m, when: last < 5}, {name: gone, absent: 5m}]")
	if err := (&alertsCheckCmd{File: path}).Run(g); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"RULE  TOPIC      DEVICES  FIRES\n" +
		"low   telemetry  *        v: last < 5 over 1m0s every 1m0s\n" +
		"gone  telemetry  *        silent for 5m0s\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	for _, path := range []string{"/nowhere", ruleFile(t, "rules: [{name: x}]")} {
		if err := (&alertsCheckCmd{File: path}).Run(g); exitCode(err) != exitUsage {
			t.Errorf("%s: %v", path, err)
		}
	}
}
