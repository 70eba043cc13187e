package main

import (
	"slices"
	"strings"
	"testing"
)

func TestParseAnnotation(t *testing.T) {
	for in, want := range map[string]string{
		"// M1; MQTT5 [MQTT-4.3.2-1] to [MQTT-4.3.2-3] [MQTT-3.1.0-1]; MQTT3 [MQTT-1.5.3-1]": "MQTT5 4.3.2-1,MQTT5 4.3.2-2,MQTT5 4.3.2-3,MQTT5 3.1.0-1,MQTT3 1.5.3-1",
		"// MQTT5 §4.9: QoS 0 is not counted":                                                "",
		"// of QoS 2 never [MQTT-4.8.2-5]":                                                   "bad",
		"// MQTT5 [MQTT-4.3.2-3] to [MQTT-4.3.2-1]":                                          "bad",
		"// MQTT5 [MQTT-4.3.2-3] to MQTT3 [MQTT-1.5.3-1]":                                    "MQTT5 4.3.2-3,MQTT3 1.5.3-1",
	} {
		keys, problem := parseAnnotation(in)
		got := strings.Join(keys, ",")
		if problem != "" {
			got = "bad"
		}
		if got != want {
			t.Errorf("%s: got %q (%s), want %q", in, got, problem, want)
		}
	}
}

// A test that failed, was skipped or did not run proves nothing, and a statement without one is a gap.
func TestCoverageFindsWhatIsMissing(t *testing.T) {
	c := newCoverage([]*statement{{key: "MQTT5 1.0.0-1", role: "both", phrase: "proven"}, {key: "MQTT5 1.0.0-2", role: "server", phrase: "open"},
		{key: "MQTT5 1.0.0-3", role: "client", phrase: "not ours"}, {key: "MQTT5 1.0.0-4", role: "server", phrase: "none", reason: "not offered"}})
	a := test{"m/mqtt", "TestA"}
	c.cite("MQTT5 1.0.0-1", a)
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
