package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What a command says decides which lanes go, at once; a configuration that is read again puts other classes in force.
func TestUplinkLinks(t *testing.T) {
	t.Parallel()
	centre := startNode(t)
	dir := t.TempDir()
	class, probe := filepath.Join(dir, "class"), filepath.Join(dir, "link")
	write := func(file, text string, mode os.FileMode) {
		t.Helper()
		err := os.WriteFile(file+".new", []byte(text), mode)
		if err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(class, "lte\n", 0o600)
	write(probe, "#!/bin/sh\ncat "+class+"\n", 0o700)
	lines := []string{
		"topics: [telemetry, alerts]", "lanes: [{topics: [alerts], priority: 0}, {topics: ['*'], priority: 5}]",
		"links: [{name: eth}, {name: lte, limits: {rate: 256kbit, daily: 50MiB}, max_priority: 0}]", "link_probe: {command: [" + probe + "], every: 1s}",
	}
	file := edgeConfig(t, centre.kafka, lines)
	edge := startNode(t, "--config", file)
	edge.makeTopic("alerts")
	produceLines(t, edge.kafka, "telemetry", 0, 70)
	produceLines(t, edge.kafka, "alerts", 0, 70)
	edge.awaitUplink("alerts are carried, and no telemetry", func(s uplinkStatus) bool {
		return s.Records == 70 && s.LagRecords == 70 && s.State == "waiting" && s.Why == "what waits is for another link"
	})
	out := run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "status")
	t.Log("\n" + out)
	if !strings.Contains(out, "central: over the link lte (256kbit, 50 MiB a day, priorities up to 0)") {
		t.Error("the link is not named")
	}
	write(class, "satellite\n", 0o600)
	edge.awaitUplink("nobody can tell", func(s uplinkStatus) bool { return strings.Contains(s.LinkError, `"satellite"`) && s.LagRecords == 70 })
	out = run(t, "", bins.weir, "--bootstrap", edge.kafka, "bridge", "status")
	t.Log("\n" + out)
	if !strings.Contains(out, "nobody can tell which link it is: link_probe: "+probe) {
		t.Error("the reason is not named")
	}
	write(class, "eth\n", 0o600)
	edge.awaitUplink("all is carried", carriedAll)

	lines[2], lines[3] = "links: [{name: here, interface: lo}, {name: other, interface: '*', max_priority: -1}]", ""
	text, err := os.ReadFile(edgeConfig(t, centre.kafka, lines))
	if err != nil {
		t.Fatal(err)
	}
	write(file, string(text), 0o600)
	if err := edge.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	produceLines(t, edge.kafka, "telemetry", 70, 70)
	edge.awaitUplink("by the interface", func(s uplinkStatus) bool { return s.Link == "here" && s.LinkError == "" && carriedAll(s) })
	lines[2] = "links: [{name: cable, interface: 'eth*'}, {name: other, interface: 'wwan*', max_priority: -1}]"
	if text, err = os.ReadFile(edgeConfig(t, centre.kafka, lines)); err != nil {
		t.Fatal(err)
	}
	write(file, string(text), 0o600)
	if err := edge.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	produceLines(t, edge.kafka, "telemetry", 140, 70)
	edge.awaitUplink("nothing goes over an interface that is in no class", func(s uplinkStatus) bool {
		return s.State == "waiting" && s.LagRecords == 70 && strings.Contains(s.LinkError, `the interface "lo"`)
	})
}
