package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/weir-io/weir/mqtt/spec"
)

// A test that failed, was skipped or did not run proves nothing, and a statement without one is a gap.
func TestCoverageFindsWhatIsMissing(t *testing.T) {
	a := spec.Test{Package: "m/mqtt", Name: "TestA"}
	c := newCoverage([]*spec.Statement{{Key: "MQTT5 1.0.0-1", Role: "both", Phrase: "proven"}, {Key: "MQTT5 1.0.0-2", Role: "server", Phrase: "open"},
		{Key: "MQTT5 1.0.0-3", Role: "client", Phrase: "not ours"}, {Key: "MQTT5 1.0.0-4", Role: "server", Phrase: "none", Reason: "not offered"}},
		&spec.Annotations{Cited: map[string][]spec.Test{"MQTT5 1.0.0-1": {a}}})
	if p := c.problems(); len(p) != 1 || !strings.Contains(p[0], "did not run") {
		t.Errorf("%v", p)
	}
	for action, problems := range map[string]int{"skip": 1, "pass": 0} {
		if err := c.readResults(strings.NewReader(`{"Action":"` + action + `","Package":"m/mqtt","Test":"TestA"}` + "\n")); err != nil {
			t.Fatal(err)
		}
		if p := c.problems(); len(p) != problems {
			t.Errorf("%s: %v", action, p)
		}
		delete(c.outcome, a)
	}
	if g := c.gaps(); !slices.Equal(g, []string{"MQTT5 1.0.0-2 open\n"}) {
		t.Errorf("gaps %v", g)
	}
	if err := c.readResults(strings.NewReader(`{"Action":"fail","Package":"m/mqtt","Test":"TestB"}`)); err != nil || len(c.bad) != 1 {
		t.Errorf("%v %v", err, c.bad)
	}
}
