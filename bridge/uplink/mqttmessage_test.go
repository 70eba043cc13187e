package uplink

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-io/weir/log"
)

func headers(kv ...string) (all []log.Header) {
	for i := 0; i < len(kv); i += 2 {
		all = append(all, log.Header{Key: []byte(kv[i]), Value: []byte(kv[i+1])})
	}
	return all
}

// What a device has published arrives as it was, and what a Kafka producer has written as MQTT subscribers of this cluster see it.
func TestMQTTMessage(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	left := uint32(3)
	one := uint32(1)
	origin := packets.User{Key: OriginHeader, Value: "edge/telemetry/0/7"}
	for name, c := range map[string]struct {
		rename string
		record log.Record
		want   packets.Publish
		err    string
	}{
		"published": {
			record: log.Record{Key: []byte("d1"), Value: []byte("v"), Headers: headers("mqtt.topic", "devices/d1/t", "mqtt.client", "d1", "mqtt.retain", "1", "content-type", "text/plain",
				"mqtt.response-topic", "r/1", "mqtt.correlation-data", "\x00\xff", "mqtt.payload-format", "1", "mqtt.expiry", "1002001", "mqtt.qos2", "x", "dead", "letter", "mqtt.qos", "0",
				"mqtt.topic", "user's own", "mqtt.retain", "0")},
			want: packets.Publish{Topic: "devices/d1/t", Payload: []byte("v"), Retain: true, Properties: &packets.Properties{
				ContentType: "text/plain", ResponseTopic: "r/1", CorrelationData: []byte("\x00\xff"), PayloadFormat: &utf8Payload, MessageExpiry: &left,
				User: []packets.User{{Key: "dead", Value: "letter"}, {Key: "mqtt.topic", Value: "user's own"}, {Key: "mqtt.retain", Value: "0"}, origin},
			}},
		},
		"produced": {
			record: log.Record{Key: []byte("d1"), Value: []byte("v"), Headers: headers("a", "1", "binary", "\xff\xfe", "lines", "a\nb", "a", "2")},
			want:   packets.Publish{Topic: "telemetry/d1", Payload: []byte("v"), Properties: &packets.Properties{User: []packets.User{{Key: "a", Value: "1"}, {Key: "a", Value: "2"}, origin}}},
		},
		"without key":             {want: packets.Publish{Topic: "telemetry", Properties: &packets.Properties{User: []packets.User{origin}}}},
		"key with wildcards":      {record: log.Record{Key: []byte("a/b+%\xff")}, want: packets.Publish{Topic: "telemetry/a/b%2B%25%FF", Properties: &packets.Properties{User: []packets.User{origin}}}},
		"empty key":               {record: log.Record{Key: []byte{}}, want: packets.Publish{Topic: "telemetry/", Properties: &packets.Properties{User: []packets.User{origin}}}},
		"has expired":             {record: log.Record{Headers: headers("mqtt.expiry", "5")}, want: packets.Publish{Topic: "telemetry", Properties: &packets.Properties{MessageExpiry: &one, User: []packets.User{origin}}}},
		"properties of no use":    {record: log.Record{Headers: headers("content-type", "\xff", "mqtt.response-topic", "a/#", "mqtt.expiry", "soon", "mqtt.payload-format", "2")}, want: packets.Publish{Topic: "telemetry", Properties: &packets.Properties{User: []packets.User{origin}}}},
		"renamed":                 {rename: "{site}/{cluster}/{topic}/{key}/{mqtt.topic}", record: log.Record{Key: []byte("k"), Headers: headers("mqtt.topic", "a/b")}, want: packets.Publish{Topic: "plant-7/edge/telemetry/k/a/b", Properties: &packets.Properties{User: []packets.User{origin}}}},
		"a wildcard":              {record: log.Record{Headers: headers("mqtt.topic", "a/#")}, err: "wildcard"},
		"no UTF-8":                {record: log.Record{Headers: headers("mqtt.topic", "a/\xff")}, err: "UTF-8"},
		"a control character":     {record: log.Record{Headers: headers("mqtt.topic", "a/\n")}, err: "control"},
		"no topic":                {record: log.Record{Headers: headers("mqtt.topic", "")}, err: "empty"},
		"a long topic":            {record: log.Record{Headers: headers("mqtt.topic", strings.Repeat("x", 65536))}, err: "longer"},
		"a topic of the broker's": {record: log.Record{Headers: headers("mqtt.topic", "$SYS/x")}, err: "broker's own"},
	} {
		if c.rename == "" {
			c.rename = "{mqtt.topic}"
		}
		var m message
		c.record.Offset = 7
		p, err := m.build(parseTemplate(c.rename, "plant-7", "edge"), &outgoing{Record: c.record, from: &part{f: &Forwarder{Options: Options{Cluster: "edge"}}, log: &pipeLog{topic: "telemetry"}}}, now)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", name, err, c.err)
			}
			continue
		}
		c.want.QoS = 1
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d := cmp.Diff(&c.want, p); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// The size that is compared with what the broker takes is that on the wire.
func TestMQTTMessageSize(t *testing.T) {
	for _, n := range []int{0, 30, 100, 200, 16000, 16500, 2_000_000, 3_000_000} {
		r := &outgoing{Record: log.Record{Value: make([]byte, n)}, from: &part{f: &Forwarder{Options: Options{Cluster: "edge"}}, log: &pipeLog{topic: "telemetry"}}}
		var m message
		p, err := m.build(parseTemplate("{topic}", "", ""), r, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var wire bytes.Buffer
		if _, err := p.WriteTo(&wire); err != nil {
			t.Fatal(err)
		}
		if got := m.size(0); got != wire.Len() {
			t.Errorf("payload of %d bytes: size %d, on the wire %d", n, got, wire.Len())
		}
		if got := m.size(wire.Len() + 1000); got < wire.Len() {
			t.Errorf("payload of %d bytes: bound %d, on the wire %d", n, got, wire.Len())
		}
	}
}

func TestMQTTConfig(t *testing.T) {
	yes := true
	ok := Config{Name: "central", To: "mqtts://broker:8883", Topics: []string{"*"}, SASL: SASLConfig{User: "u", PasswordFile: "f"}, TLS: TLSConfig{CA: "ca.pem"}}
	all := []Config{ok}
	if err := Check(all, ""); err != nil || all[0].Guarantee != AtLeastOnce || all[0].Rename != "{mqtt.topic}" {
		t.Errorf("%v, %+v", err, all[0])
	}
	for want, change := range map[string]func(*Config){
		"uplinks[0].guarantee: an MQTT broker keeps no cursors":        func(c *Config) { c.Guarantee = ExactlyOnce },
		"uplinks[0].partition: MQTT has none":                          func(c *Config) { c.Partition = "same" },
		"uplinks[0].compression: MQTT has none":                        func(c *Config) { c.Compress = "zstd" },
		"uplinks[0].create_topics: MQTT has none":                      func(c *Config) { c.Create = &yes },
		"uplinks[0].sasl.mechanism: MQTT has none":                     func(c *Config) { c.SASL.Mechanism = "PLAIN" },
		"uplinks[0].sasl: name user and password_file":                 func(c *Config) { c.SASL.User = "" },
		"uplinks[0].tls: is of no use":                                 func(c *Config) { c.To = "mqtt://broker:1883" },
		"an MQTT broker has one address":                               func(c *Config) { c.To = "mqtts://a:1,b:1" },
		"uplinks[0].rename: {nobody} is none of {topic}, {mqtt.topic}": func(c *Config) { c.Rename = "{nobody}" },
		"without {topic} or {mqtt.topic} or {key}":                     func(c *Config) { c.Rename = "all" },
		"{mqtt.topic} is none of {topic}, {site}, {cluster}": func(c *Config) {
			*c = Config{Name: "c", To: "kafka://a:1", Topics: []string{"*"}, Rename: "{mqtt.topic}"}
		},
	} {
		c := ok
		change(&c)
		if err := Check([]Config{c}, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
