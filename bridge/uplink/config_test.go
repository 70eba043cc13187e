package uplink

import (
	"strings"
	"testing"

	"github.com/weir-io/weir/internal/strictyaml"
)

func parse(t *testing.T, text, site string) ([]Config, error) {
	t.Helper()
	var file struct {
		Uplinks []Config `yaml:"uplinks"`
	}
	if err := strictyaml.Decode([]byte(text), &file); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return file.Uplinks, Check(file.Uplinks, site)
}

func TestConfigOfTheContract(t *testing.T) {
	all, err := parse(t, `
uplinks:
  - name: central
    to: kafka://central-1:9092,central-2:9092
    topics: [telemetry, alerts, "plant*"]
    rename: "{site}.{topic}"
    guarantee: exactly_once
    lanes: [{topics: [alerts], priority: 0}, {topics: ["*"], priority: 5}]
    limits: {rate: 1mbit, daily: 500MiB, windows: ["22:00-06:00"]}
`, "plant-7")
	if err != nil {
		t.Fatal(err)
	}
	c := all[0]
	if c.Limits.Rate != 125_000 || c.Limits.Daily != 500<<20 || len(c.Limits.Windows) != 1 || len(c.to) != 2 || c.Shards != 1 {
		t.Errorf("%+v", c)
	}
	for topic, want := range map[string]bool{"telemetry": true, "alerts": true, "plants": true, "plant.dlq": false, "other": false} {
		if c.Carries(topic) != want {
			t.Errorf("carries %s: %v", topic, !want)
		}
	}
	if l := c.laneOf("alerts"); l.priority != 0 {
		t.Errorf("alerts are in lane %+v", l)
	}
	if l := c.laneOf("telemetry"); l.priority != 5 {
		t.Errorf("telemetry is in lane %+v", l)
	}
}

// An uplink of all topics of a centre leaves out what the gateways below keep there.
func TestAllTopicsButCursorsAndDeadLetters(t *testing.T) {
	all, named := Config{Topics: []string{"*"}}, Config{Topics: []string{ProgressTopic, "a.dlq"}}
	if !all.Carries("a") || all.Carries(ProgressTopic) || all.Carries("a.dlq") || !named.Carries(ProgressTopic) || !named.Carries("a.dlq") {
		t.Error("what * names, and what has to be named")
	}
}

func TestConfigFaultsNameTheirKey(t *testing.T) {
	const good = `name: a, to: "kafka://h:1", topics: [t]`
	for text, want := range map[string]string{
		`name: "a b", to: "kafka://h:1", topics: [t]`:                                                      "uplinks[0].name",
		`name: a, to: "http://h:1", topics: [t]`:                                                           "uplinks[0].to",
		`name: a, to: "kafka://h", topics: [t]`:                                                            "uplinks[0].to",
		`name: a, to: "kafka://h:0", topics: [t]`:                                                          "uplinks[0].to",
		`name: a, to: "kafka://h:1"`:                                                                       "uplinks[0].topics",
		`name: a, to: "kafka://h:1", topics: ["["]`:                                                        "uplinks[0].topics",
		good + `, rename: "{site}.{topic}"`:                                                                "{site} needs node.site",
		good + `, rename: "{nope}.{topic}"`:                                                                "{nope}",
		good + `, rename: fixed`:                                                                           "without {topic}",
		good + `, guarantee: maybe`:                                                                        "uplinks[0].guarantee",
		good + `, lanes: [{topics: [t], priority: 10}]`:                                                    "uplinks[0].lanes[0].priority",
		good + `, lanes: [{topics: [t], order: random}]`:                                                   "uplinks[0].lanes[0].order",
		good + `, lanes: [{topics: [t], filter: "level > 3"}]`:                                             "uplinks[0].lanes[0].filter",
		good + `, lanes: [{topics: [t], fields: [a, a]}]`:                                                  "uplinks[0].lanes[0].fields",
		good + `, lanes: [{topics: [t], fields: ["a\u0085b"]}]`:                                            "uplinks[0].lanes[0].fields",
		good + `, lanes: [{topics: [t], fields: ["a\ufdd0"]}]`:                                             "uplinks[0].lanes[0].fields",
		good + `, lanes: [{topics: [t], fields: ["a,b"]}]`:                                                 "uplinks[0].lanes[0].fields",
		good + `, lanes: [{topics: [t], thin: {every: 10}}]`:                                               "uplinks[0].lanes[0].thin.after",
		good + `, lanes: [{topics: [t], thin: {after: 1h}}]`:                                               "name one of last_over, mean_over and every",
		good + `, lanes: [{topics: [t], thin: {after: 1h, every: 2, last_over: 1m}}]`:                      "name one of last_over, mean_over and every",
		good + `, lanes: [{topics: [t], thin: {after: 1h, every: 1}}]`:                                     "uplinks[0].lanes[0].thin.every",
		good + `, lanes: [{topics: [t], thin: {after: 1h, mean_over: 1ms}}]`:                               "uplinks[0].lanes[0].thin.mean_over",
		`name: a, to: "mqtt://h:1", topics: [t], lanes: [{topics: [t], thin: {after: 1h, mean_over: 1m}}]`: "use last_over or every",
		good + `, on_full: panic`:                                                                          "uplinks[0].on_full",
		good + `, shards: 9`:                                                                               "uplinks[0].shards",
		good + `, limits: {rate: 100bit}`:                                                                  "uplinks[0].limits.rate",
		good + `, tls: {ca: x}`:                                                                            "kafkas://",
		good + `, sasl: {user: u}`:                                                                         "uplinks[0].sasl",
		good + `, sasl: {user: u, password_file: f, mechanism: NTLM}`:                                      "uplinks[0].sasl.mechanism",
		good + `}, {` + good:                                                                               `uplinks[1].name: "a" is taken`,
	} {
		_, err := parse(t, "uplinks: [{"+text+"}]", "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("{%s}: %v; want %q", text, err, want)
		}
	}
}

func TestRates(t *testing.T) {
	for in, want := range map[string]Rate{"1mbit": 125_000, "500kbit": 62_500, "1.5mbit": 187_500, "64KiB": 64 << 10, "64KiB/s": 64 << 10, "1gbit": 125_000_000} {
		var r Rate
		if err := r.UnmarshalText([]byte(in)); err != nil || r != want {
			t.Errorf("%s: %d, %v; want %d", in, r, err, want)
		}
	}
	for _, in := range []string{"", "fast", "-1mbit", "0mbit", "1e300gbit", "-5"} {
		var r Rate
		if err := r.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q: accepted as %d", in, r)
		}
	}
	var w Window
	for _, in := range []string{"", "22:00", "22:00-22:00", "25:00-06:00", "22-6"} {
		if err := w.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("window %q: accepted", in)
		}
	}
}
