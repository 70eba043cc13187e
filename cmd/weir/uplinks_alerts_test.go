package main

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/bridge/uplink"
)

// The rules of deploy/alerts.yaml about uplinks say of which something is wrong, and of no other: each is looked at with what a node exports that has one of each kind.
func TestAlertsNameTheUplinksThatAreInTrouble(t *testing.T) {
	centre := testNode(t)
	shut, dark := -1, []string{"/bin/false"}
	to := "kafka://" + centre.addrOf("kafka")
	edge, _ := edgeOf(t, t.TempDir(), "", func(c *Config) {
		c.Uplinks = []uplink.Config{
			{Name: "well", To: to, Topics: []string{"telemetry"}},
			{Name: "down", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}},
			{Name: "shut", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}, Links: []uplink.Link{{Name: "none", Interface: "*", MaxPriority: &shut}}},
			{Name: "dark", To: to, Topics: []string{"telemetry"}, Links: []uplink.Link{{Name: "some"}}, LinkProbe: uplink.LinkProbe{Command: dark}},
			{Name: "deaf", To: to, Topics: []string{"telemetry"}, Lanes: []uplink.Lane{{Topics: []string{"*"}, Filter: "payload.level > 3"}}},
		}
	})
	before := uplinkSamples(t, edge)
	cl, err := kgo.NewClient(kgo.SeedBrokers(edge.addrOf("kafka")))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	old := &kgo.Record{Topic: "telemetry", Value: []byte("no object"), Timestamp: time.Now().Add(-2 * time.Hour)}
	if err := cl.ProduceSync(t.Context(), old).FirstErr(); err != nil {
		t.Fatal(err)
	}
	rules := uplinkRules(t)
	for _, c := range []struct {
		alert string
		want  []string
	}{
		{"WeirUplinkDown", []string{"down"}},
		{"WeirUplinkLinkUnknown", []string{"dark"}},
		{"WeirUplinkBehind", []string{"down", "shut"}},
		{"WeirUplinkUnjudged", []string{"deaf"}},
		{"WeirUplinkDeadLetters", nil},
		{"WeirUplinkGap", nil},
	} {
		expr := rules[c.alert]
		if expr == "" {
			t.Errorf("%s is no rule", c.alert)
			continue
		}
		delete(rules, c.alert)
		var got []string
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if got = fires(t, expr, before, uplinkSamples(t, edge)); slices.Equal(got, c.want) || time.Now().After(end) {
				break
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s (%s) is about %v, want %v", c.alert, expr, got, c.want)
		}
	}
	if len(rules) > 0 {
		t.Errorf("nobody looks at %v", rules)
	}
	for _, c := range []struct {
		alert  string
		metric string
	}{{"WeirUplinkDeadLetters", "weir_uplink_dead_letters_total"}, {"WeirUplinkGap", "weir_uplink_gap_records_total"}} {
		after := uplinkSamples(t, edge)
		after[c.metric]["well"]++
		if got := fires(t, uplinkRules(t)[c.alert], uplinkSamples(t, edge), after); !slices.Equal(got, []string{"well"}) {
			t.Errorf("%s is about %v once there is one", c.alert, got)
		}
	}
}

// uplinkRules are those about uplinks, by name.
func uplinkRules(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)- alert: (WeirUplink\w*)\n +expr: (.*)$`).FindAllStringSubmatch(string(text), -1) {
		all[m[1]] = m[2]
	}
	return all
}

// uplinkSamples are the values of each metric, by uplink.
func uplinkSamples(t *testing.T, n *node) map[string]map[string]float64 {
	t.Helper()
	all := map[string]map[string]float64{}
	for name, f := range scrape(t, n.http, "") {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != "uplink" {
					continue
				}
				if all[name] == nil {
					all[name] = map[string]float64{}
				}
				all[name][l.GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
			}
		}
	}
	return all
}

var comparisonForm = regexp.MustCompile(`^(increase\()?(\w+)(?:\[\w+\]\))? (==|>) ([0-9.]+)$`)

// fires says of which uplinks an expression holds. It knows as much of PromQL as our rules use: comparisons of a metric or its increase with a number, and unless.
func fires(t *testing.T, expr string, before, after map[string]map[string]float64) (all []string) {
	t.Helper()
	expr, except, _ := strings.Cut(expr, " unless ")
	m := comparisonForm.FindStringSubmatch(expr)
	if m == nil {
		t.Fatalf("%q is more than this test reads", expr)
	}
	limit, err := strconv.ParseFloat(m[4], 64)
	if err != nil {
		t.Fatal(err)
	}
	var not []string
	if except != "" {
		not = fires(t, except, before, after)
	}
	for name, v := range after[m[2]] {
		if m[1] != "" {
			v -= before[m[2]][name]
		}
		if holds := v > limit && m[3] == ">" || v == limit && m[3] == "=="; holds && !slices.Contains(not, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}
