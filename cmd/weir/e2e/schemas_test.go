package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// apicurio is a schema registry that keeps all it knows in topics of the node: what it answers, it has read from there.
type apicurio struct {
	t               *testing.T
	java, home      string
	bootstrap, addr string
	output          *lockedBuffer
	cmd             *exec.Cmd
}

func newApicurio(t *testing.T) *apicurio {
	t.Helper()
	a := &apicurio{t: t, home: filepath.Join(cacheDir(), "registry", "app"), output: &lockedBuffer{}}
	_, err := os.Stat(filepath.Join(a.home, "quarkus-run.jar"))
	need(t, err == nil, "Apicurio Registry")
	a.java = newJava(t, 21)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.addr = free.Addr().String()
	free.Close()
	return a
}

// newJava finds a Java of at least that version: the default one, or another that is installed.
func newJava(t *testing.T, least int) string {
	t.Helper()
	others, _ := filepath.Glob("/usr/lib/jvm/*/bin/java")
	for _, java := range append([]string{"java"}, others...) {
		version := 0
		if out, stderr, err := execute("", java, "-version"); err == nil {
			_, rest, _ := strings.Cut(out+stderr, `version "`)
			_, _ = fmt.Sscanf(rest, "%d", &version)
		}
		if version >= least {
			return java
		}
	}
	need(t, false, fmt.Sprint("Java ", least))
	return ""
}

func (a *apicurio) start() {
	a.t.Helper()
	host, port, _ := net.SplitHostPort(a.addr)
	a.cmd = exec.Command(a.java, "-Xmx512m", "-jar", filepath.Join(a.home, "quarkus-run.jar"))
	a.cmd.Env = append(os.Environ(), "APICURIO_STORAGE_KIND=kafkasql", "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS="+a.bootstrap,
		"QUARKUS_HTTP_HOST="+host, "QUARKUS_HTTP_PORT="+port, "QUARKUS_MANAGEMENT_ENABLED=false", "QUARKUS_LOG_LEVEL=WARN")
	a.cmd.Stdout, a.cmd.Stderr = a.output, a.output
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	for end := time.Now().Add(4 * patience); ; time.Sleep(200 * time.Millisecond) {
		resp, err := http.Get(a.compatible() + "/subjects")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			a.t.Fatalf("the registry does not serve (%v); it said:\n%s", err, a.output)
		}
	}
}

func (a *apicurio) kill() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// compatible is where it serves Confluent's interface, own its own.
func (a *apicurio) compatible() string { return "http://" + a.addr + "/apis/ccompat/v7" }
func (a *apicurio) own() string        { return "http://" + a.addr + "/apis/registry/v2" }

// version is that of the registry; it stands in the name of the file that it comes in.
func (a *apicurio) version() string {
	found, _ := filepath.Glob(filepath.Join(a.home, "..", "apicurio-registry-app-*-all.tar.gz"))
	need(a.t, len(found) == 1, "Apicurio Registry")
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), "apicurio-registry-app-"), "-all.tar.gz")
}

// A registry keeps its schemas in weir's topics, and weir holds what devices publish to them: each needs the other, and either may be killed. Central consumers read
// with the deserializers of confluent-kafka and of Java what devices published without knowing of a registry.
func TestSchemaRegistry(t *testing.T) {
	inClients(t)
	python := confluentPython(t)
	a := newApicurio(t)
	passed(t, "Apicurio Registry", a.version(), "keeps its schemas in weir's topics (kafkasql); MQTT routes hold payloads to them; registry and node killed meanwhile")
	passed(t, "confluent-kafka serializers (Python)", pythonVersion(t, "confluent-kafka"), "Avro, JSON Schema, Protobuf: there and back, and from MQTT devices whose payloads weir frames")
	passed(t, "Apicurio Avro serdes (Java)", jarVersion(t, filepath.Join(cacheDir(), "registry"), "apicurio-registry-serdes-avro-serde"), "there and back, and from MQTT devices whose payloads weir frames")
	formats := []string{"avro", "json", "protobuf"}

	config := filepath.Join(t.TempDir(), "weir.yaml")
	text := fmt.Sprintf("schemas: {registry: %s, refresh: 1s}\nmqtt: {ack_timeout: 60s}\nroutes:\n", a.compatible())
	for _, f := range formats {
		text += fmt.Sprintf("  - {match: vibration/%s, topic: vibration-%s, schema: {subject: vibration-%[1]s, format: %[1]s, frame: confluent}}\n", f, f)
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, "--config", config)
	a.bootstrap = n.kafka
	a.start()
	defer func() { a.kill() }()
	run(t, "", python, "python/schemas.py", "register", a.compatible())
	if out := run(t, "", python, "python/schemas.py", "round-trip", a.compatible(), n.kafka, "100"); strings.Count(out, "round trip") != 3 {
		t.Fatalf("the serializers said:\n%s", out)
	}

	const each = 50
	publish := func(round int) {
		t.Helper()
		for _, f := range formats {
			out := run(t, "", python, "python/schemas.py", "publish", "127.0.0.1", n.mqttPort(), f, fmt.Sprint(round*each), fmt.Sprint(each))
			if want := fmt.Sprintf("published %d and the bad one was answered Payload format invalid", each); !strings.Contains(out, want) {
				t.Fatalf("want %q, the device said:\n%s", want, out)
			}
		}
	}
	publish(0)
	a.kill()
	publish(1) // what is known stays in force
	n.kill()
	n.start()
	a.start() // from the topics of a node that was killed
	publish(2)
	for _, f := range formats {
		run(t, "", python, "python/schemas.py", "read", a.compatible(), n.kafka, f, fmt.Sprint(3*each))
	}

	jars := filepath.Join(cacheDir(), "registry", "*")
	classes := t.TempDir()
	run(t, "", needCommand(t, "javac"), "-cp", jars, "-d", classes, "java/Registry.java")
	run(t, "", needCommand(t, "java"), "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", jars+":"+classes, "Registry",
		a.own(), n.kafka, "java-avro", "100", "vibration-avro", fmt.Sprint(3*each))
}
