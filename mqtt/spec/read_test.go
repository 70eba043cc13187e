package spec

import (
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
