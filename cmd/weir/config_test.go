package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The annotated file that operators start from is accepted as it stands, and what it calls defaults are the defaults.
func TestExampleConfigurationIsValid(t *testing.T) {
	c := Defaults()
	if err := c.loadFile("../../deploy/weir.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	if c.MQTT != want.MQTT || c.Kafka != want.Kafka || c.HTTP != want.HTTP || c.Log != want.Log {
		t.Errorf("deploy/weir.yaml names other defaults than the code has:\n%+v\n%+v", c, want)
	}
	if len(c.Routes) != 2 || c.Routes[0].Topic != "vibration" || c.Routes[0].Config["retention.ms"] != "86400000" {
		t.Errorf("routes: %+v", c.Routes)
	}
}

func TestLaterSourcesOverrideEarlierOnes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("node: {id: from-file, data: from-file}\nmqtt: {ack_timeout: 5s, max_packet: 64KiB}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := "from-flag"
	c, err := (&serveCmd{Config: file, NodeID: &id}).load()
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.ID != "from-flag" || c.Node.Data != "from-file" || c.MQTT.AckTimeout != 5*time.Second || c.MQTT.MaxPacket != 64<<10 || c.Kafka.Listen != "127.0.0.1:9092" {
		t.Errorf("%+v", c)
	}
}

// Every fault is named, with its key and what is allowed; none hides another.
func TestValidateNamesEveryFault(t *testing.T) {
	c := Defaults()
	c.MQTT.Listen = "0.0.0.0:1883"
	c.MQTT.TLS = "127.0.0.1:8883"
	c.Kafka.Listen = "nowhere"
	c.MQTT.ReceiveMaximum = 0
	c.Topics.Partitions = -1
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"mqtt.listen", "--insecure", "mqtt.tls", "tls.cert", "kafka.listen", `"nowhere"`, "mqtt.receive_maximum", "topics.partitions"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

// Beyond loopback a listener needs authentication, TLS with client certificates, or an explicit word.
func TestListeningBeyondLoopbackNeedsAuthentication(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"insecure":            func(c *Config) { c.Insecure = true; c.MQTT.Listen = ":1883" },
		"mqtt with users":     func(c *Config) { c.Auth.File = "users.yaml"; c.MQTT.Listen = ":1883" },
		"client certificates": func(c *Config) { c.TLS = TLSConfig{"cert", "key", "ca"}; c.Kafka.TLS = ":9093" },
		"IPv6 loopback":       func(c *Config) { c.MQTT.Listen = "[::1]:1883" },
	} {
		c := Defaults()
		if change(&c); c.Validate() != nil {
			t.Errorf("%s: %v", name, c.Validate())
		}
	}
	for name, change := range map[string]func(*Config){
		"kafka with users only":  func(c *Config) { c.Auth.File = "users.yaml"; c.Kafka.Listen = ":9092" },
		"http":                   func(c *Config) { c.Auth.File = "users.yaml"; c.HTTP.Listen = ":8080" },
		"tls without client CA":  func(c *Config) { c.TLS = TLSConfig{Cert: "cert", Key: "key"}; c.Kafka.TLS = ":9093" },
		"mqtt on a host's name":  func(c *Config) { c.MQTT.Listen = "gateway:1883" },
		"websocket on all hosts": func(c *Config) { c.MQTT.WS = "0.0.0.0:8083" },
	} {
		c := Defaults()
		if change(&c); c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "512": 512, "64KiB": 64 << 10, "1 MiB": 1 << 20, "10GB": 1e10, "8B": 8} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || int64(s) != want {
			t.Errorf("%q: %d, %v; want %d", in, s, err, want)
		}
	}
	for _, in := range []string{"", "-1", "1.5MiB", "MiB", "9223372036854775807KiB", "12 parsecs"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q: accepted as %d", in, s)
		}
	}
}
