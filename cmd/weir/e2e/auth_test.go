package e2e

import (
	"strings"
	"testing"
)

// The example users file as mosquitto's clients meet it: who is let in, and what no rule allows is refused, for a
// publish, a will and a subscription alike; nothing refused reaches the log.
func TestUsersAndRules(t *testing.T) {
	pub, sub := needCommand(t, "mosquitto_pub"), needCommand(t, "mosquitto_sub")
	n := startNode(t, "--auth-file", "../../../deploy/users.yaml")
	at := []string{"-V", "mqttv5", "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-i", "gateway"}
	as := append(at, "-u", "plant-7", "-P", "secret")
	run(t, "", pub, append(as, "-t", "plants/7/heat", "-m", "allowed")...)
	run(t, "", pub, append(as, "-t", "devices/gateway/state", "-m", "allowed")...)
	for name, args := range map[string][]string{
		"wrong password":  append(at, "-u", "plant-7", "-P", "wrong", "-t", "plants/7/heat", "-m", "x"),
		"unknown user":    append(at, "-u", "plant-8", "-P", "secret", "-t", "plants/7/heat", "-m", "x"),
		"anonymous":       append(at, "-t", "devices/gateway/state", "-m", "x"),
		"forbidden will":  append(as, "-t", "plants/7/heat", "-m", "x", "--will-topic", "plants/8/heat", "--will-payload", "x"),
		"forbidden alias": append(as, "-t", "plants/8/heat", "-m", "x", "-D", "publish", "topic-alias", "1"),
		"forbidden topic": append(as, "-t", "plants/8/heat", "-m", "x"),
	} {
		out, err := tryRun(t, "", pub, args...)
		if err == nil && !strings.Contains(strings.ToLower(out), "not auth") {
			t.Errorf("%s: accepted; mosquitto_pub said %q", name, out)
		}
	}
	if out, err := tryRun(t, "", sub, append(as, "-t", "plants/#", "-W", "5", "-E")...); err == nil && !strings.Contains(out, "denied") && !strings.Contains(out, "not auth") {
		t.Errorf("a subscription to more than is allowed: %q", out)
	}
	for _, line := range kcatRead(t, n, "telemetry", "%s") {
		if line != "allowed" {
			t.Errorf("a refused publish is in the log: %q", line)
		}
	}
}
