package alert

import (
	"strings"
	"testing"
	"time"
)

func TestParseRules(t *testing.T) {
	f, err := Parse([]byte(`
lateness: 5s
rules:
  - name: hot
    devices: sim-thermostat-*
    field: temperature
    window: 1m
    every: 10s
    when: avg > 25 && count >= 3
    severity: critical
  - name: silent
    topic: vibration
    absent: 5m
`))
	if err != nil {
		t.Fatal(err)
	}
	hot, silent := f.Rules[0], f.Rules[1]
	if f.Group != "weir-alerts" || f.Output != "alerts" || f.Lateness != 5*time.Second || hot.Topic != "telemetry" || hot.Every != 10*time.Second || silent.Absent != 5*time.Minute || silent.Severity != "warning" {
		t.Errorf("%+v %+v %+v", f, hot, silent)
	}
	if got := strings.Join(f.Topics(), ","); got != "telemetry,vibration" {
		t.Errorf("topics %s", got)
	}
}

func TestWrongRulesAreNamed(t *testing.T) {
	rule := func(s string) string { return "rules: [{name: r, " + s + "}]" }
	for text, want := range map[string]string{
		"":                      "0 rules",
		"rules: []":             "0 rules",
		"rulez: []":             "rulez",
		"rules: [~]":            "rule 1 is empty",
		"rules: [{absent: 1m}]": "needs a name",
		rule("absent: soon"):    "rule file",
		rule(""):                "want either window and when, or absent",
		rule("absent: 1m, window: 1m, when: 'true'"):                     "want either",
		rule("window: 1m"):                                               "window needs when",
		rule("window: 1m, when: avg >"):                                  "when:",
		rule("window: 1m, when: avg + 1"):                                "when:",
		rule("window: 1m, when: mean > 1"):                               "mean",
		rule("window: 1m, every: 2m, when: avg > 1"):                     "longer than window",
		rule("window: 24h, every: 1s, when: avg > 1"):                    "greater every",
		rule("absent: 100h"):                                             "longer than forget",
		rule("absent: 1m, when: avg > 1"):                                "absent goes without",
		rule("absent: 1m, topic: alerts"):                                "feed themselves",
		rule("absent: 1m, devices: '[a'"):                                "no glob",
		rule("window: 1m, when: avg > 1, fiedl: x"):                      "fiedl",
		"rules: [{name: r, absent: 1m}, {name: r, absent: 2m}]":          `"r" is taken`,
		"lateness: -1s\nrules: [{name: r, absent: 1m}]":                  "must not be negative",
		"rules: [{name: a, window: 1m}, {name: b, absent: 1m, when: x}]": "rule 2 (b)",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tsays %v\n\twant %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("rules: [{name: r, window: 1m, when: 'avg / count > 1'}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(text)
		if err != nil {
			return
		}
		for _, r := range file.Rules {
			if r.cond != nil {
				w := &window{end: 1}
				w.add(0, 1)
				r.holds(w) // whatever it says, it does not panic
			}
		}
	})
}
