package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
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
	if !reflect.DeepEqual(c.MQTT, want.MQTT) || c.Kafka != want.Kafka || c.HTTP != want.HTTP || c.Log != want.Log || c.Schemas != want.Schemas {
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

func TestSchemasConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yaml")
	for text, want := range map[string]string{
		"schemas: {registry: http://127.0.0.1:8081/apis/ccompat/v7}\nroutes: [{match: '#', topic: t, schema: {subject: s, format: avro, frame: confluent}}]": "",
		"routes: [{match: '#', topic: t, schema: {subject: s}}]":                                           "routes[0].schema: needs schemas.registry",
		"schemas: {registry: http://a}\nroutes: [{match: '#', topic: t, schema: {subjct: s}}]":             "routes[0].schema.subjct: unknown key",
		"schemas: {registry: http://a}\nroutes: [{match: '#', topic: t, schema: {subject: s, format: x}}]": "routes[0].schema: format: \"x\" is not one of",
		"schemas: {registry: 'a:8081'}":                "schemas.registry: \"a:8081\" is no URL",
		"schemas: {registry: 'http://u:p@a'}":          "schemas.registry: ",
		"schemas: {ca: a.pem}":                         "schemas.registry: missing",
		"schemas: {registry: http://a, username: u}":   "schemas.username, schemas.password_file: name both",
		"schemas: {registry: http://a, refresh: 10ms}": "schemas.refresh: 10ms is not between",
		"schemas: {registry: http://a, url: http://b}": "schemas.url: unknown key",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (&serveCmd{Config: file}).load(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	c := Defaults()
	c.Schemas = SchemasConfig{Registry: "https://a", Username: "u", PasswordFile: file + ".none", Refresh: time.Minute}
	if _, err := c.openFiles(); err == nil || !strings.Contains(err.Error(), "schemas.password_file") {
		t.Error(err)
	}
}

// Beyond loopback a listener needs authentication, TLS with client certificates, or an explicit word.
func TestListeningBeyondLoopbackNeedsAuthentication(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"insecure":            func(c *Config) { c.Insecure = true; c.MQTT.Listen = ":1883" },
		"mqtt with users":     func(c *Config) { c.Auth.File = "users.yaml"; c.MQTT.Listen = ":1883" },
		"kafka with sasl":     func(c *Config) { c.Auth.File = "users.yaml"; c.Kafka.SASL = true; c.Kafka.Listen = ":9092" },
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
		"sasl without users":     func(c *Config) { c.Kafka.SASL = true },
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

// Web pages of other hosts may connect where they are listed, and only there.
func TestWebSocketOrigins(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("mqtt: {ws_origins: [https://console.example, 'http://[::1]:8443']}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Defaults()
	if err := errors.Join(c.loadFile(file), c.Validate()); err != nil {
		t.Fatal(err)
	}
	for _, origin := range []string{"", "null", "console.example", "https://", "https://a/", "https://a/page", "ftp://a", "https://u@a", "https://*.a", "https://a:443",
		"http://a:80", "https://a:", "https://a?b", "HTTPS://a"} {
		c.MQTT.WSOrigins = []string{"*", origin}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "mqtt.ws_origins") || !strings.Contains(err.Error(), strconv.Quote(origin)) {
			t.Errorf("%q: %v", origin, err)
		}
	}
	for _, run := range []struct {
		origins []string
		status  map[string]int // by origin
	}{
		{nil, map[string]int{"": 101, "http://HOST": 101, "https://console.example": 403}},
		{[]string{"https://console.example"}, map[string]int{"": 101, "http://HOST": 403, "https://console.example": 101, "http://console.example": 403}},
		{[]string{"*"}, map[string]int{"http://HOST": 101, "https://evil.example": 101}},
	} {
		n := testNodeWith(t, func(c *Config) { c.MQTT.WSOrigins = run.origins })
		for origin, want := range run.status {
			addr := n.addrOf("mqtt-ws")
			req, err := http.NewRequest("GET", "http://"+addr+"/mqtt", nil)
			if err != nil {
				t.Fatal(err)
			}
			for key, value := range map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
				"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "mqtt"} {
				req.Header.Set(key, value)
			}
			if origin != "" {
				req.Header.Set("Origin", strings.ReplaceAll(origin, "HOST", addr))
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("origins %v: a page of %q gets %d, want %d", run.origins, origin, resp.StatusCode, want)
			}
		}
	}
}
