package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kcatRead reads a whole topic with kcat, a record a line in the given format.
func kcatRead(t *testing.T, n *node, topic, format string) []string {
	t.Helper()
	out := run(t, "", needCommand(t, "kcat"), "-b", n.kafka, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", format+"\\n")
	out = strings.TrimSuffix(out, "\n")
	if out == "" {
		return nil
	}
	return strings.Split(out, "\n")
}

// What a device publishes with QoS 1 stands in the log as the contract says: value untouched, keyed by client id,
// topic, client and QoS in the headers.
func TestMosquittoPublishIsReadByKcat(t *testing.T) {
	pub := needCommand(t, "mosquitto_pub")
	passed(t, "mosquitto_pub", wordAfter(t, "version", pub, "--version"), "publish with MQTT 3.1.1 and 5, read by kcat")
	n := startNode(t)
	for _, version := range []string{"mqttv311", "mqttv5"} {
		run(t, "", pub, "-V", version, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "boiler-7", "-q", "1", "-t", "plants/a/"+version, "-m", "21.5")
	}
	run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "boiler-7", "-q", "2", "-t", "plants/a/exactly", "-m", "22")
	got := kcatRead(t, n, "telemetry", "%k|%s|%h")
	want := []string{
		"boiler-7|21.5|mqtt.topic=plants/a/mqttv311,mqtt.client=boiler-7,mqtt.qos=1",
		"boiler-7|21.5|mqtt.topic=plants/a/mqttv5,mqtt.client=boiler-7,mqtt.qos=1",
		"boiler-7|22|mqtt.topic=plants/a/exactly,mqtt.client=boiler-7,mqtt.qos2=",
	}
	if len(got) != len(want) {
		t.Fatalf("kcat read %d records, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("record %d: kcat read %q, want it to begin with %q", i, got[i], want[i])
		}
	}
}

func TestMosquittoSubscriberGetsWhatOthersPublish(t *testing.T) {
	pub, sub := needCommand(t, "mosquitto_pub"), needCommand(t, "mosquitto_sub")
	n := startNode(t)
	lines := background(t, "stdbuf", "-oL", sub, "-d", "-V", "mqttv5", "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-v", "-t", "plants/+/temperature")
	await(t, lines, "SUBACK")
	run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-t", "plants/a/humidity", "-m", "not for us")
	run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-t", "plants/a/temperature", "-m", "21.5")
	await(t, lines, "plants/a/temperature 21.5")
}

// A lasting session gets what was published while it was away, also when the broker was killed in between.
func TestLastingSessionSurvivesKill(t *testing.T) {
	pub, sub := needCommand(t, "mosquitto_pub"), needCommand(t, "mosquitto_sub")
	n := startNode(t)
	session := []string{"-V", "mqttv5", "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "archive", "-c", "-x", "3600", "-q", "1", "-t", "alarms/#"}
	run(t, "", sub, append(session, "-E")...)
	const count = 20
	for i := range count {
		if i == count/2 {
			n.kill()
			n.start()
		}
		run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "sensor", "-q", "1", "-t", "alarms/fire", "-m", fmt.Sprint("alarm-", i))
	}
	out := run(t, "", sub, append(session, "-C", fmt.Sprint(count), "-W", "30")...)
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if want := fmt.Sprint("alarm-", i); line != want {
			t.Errorf("message %d is %q, want %q", i, line, want)
		}
	}
}

func TestRetainedMessageSurvivesKill(t *testing.T) {
	pub, sub := needCommand(t, "mosquitto_pub"), needCommand(t, "mosquitto_sub")
	n := startNode(t)
	run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-r", "-t", "config/limit", "-m", "80")
	n.kill()
	n.start()
	out := run(t, "", sub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-q", "1", "-t", "config/#", "-C", "1", "-W", "30", "-F", "%r %p")
	if got := strings.TrimSpace(out); got != "1 80" {
		t.Errorf("the subscriber got %q, want the retained message %q", got, "1 80")
	}
}

// paho, MQTT 3.1.1 and 5: QoS 0 to 2 both ways, user properties, a will.
func TestPaho(t *testing.T) {
	python := filepath.Join(cacheDir(), "venv", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "paho-mqtt (Python)")
	passed(t, "paho-mqtt (Python)", pythonVersion(t, "paho-mqtt"), "publish and subscribe with every QoS, MQTT 3.1.1 and 5")
	n := startNode(t)
	for _, protocol := range []string{"3.1.1", "5"} {
		out := run(t, "", python, "python/paho_round_trip.py", n.mqttPort(), protocol)
		if !strings.Contains(out, "all done") {
			t.Errorf("paho with MQTT %s said:\n%s", protocol, out)
		}
	}
}
