package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// serveArgs start a node on free ports.
func serveArgs(dir string) []string {
	return []string{"serve", "--data", dir, "--mqtt", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mqtt-ws", "127.0.0.1:0", "--gossip", "", "--raft", ""}
}

// refused runs a command that must exit 1 and say all of that, without a stack trace.
func refused(t *testing.T, says []string, name string, args ...string) {
	t.Helper()
	out, err := tryRun(t, "", name, args...)
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 1 || strings.Contains(out, "goroutine ") {
		t.Fatalf("%s %s: %v, want exit code 1; it said:\n%s", name, strings.Join(args, " "), err, out)
	}
	for _, want := range says {
		if !strings.Contains(out, want) {
			t.Errorf("the message lacks %q:\n%s", want, out)
		}
	}
}

// A disk that cannot be written, or has no room for a node's first files, is named with what to do about it.
func TestStartOnADiskThatTakesNothing(t *testing.T) {
	need(t, exec.Command("unshare", "-m", "true").Run() == nil, "leave to mount in a namespace of its own")
	dir := t.TempDir()
	for name, c := range map[string]struct {
		mount string
		says  []string
	}{
		"read-only": {"mount -t tmpfs -o ro none \"$0\"", []string{dir, "read-only file system", "mount it writable"}},
		"full":      {"mount -t tmpfs -o size=1m none \"$0\"", []string{dir, "no space left on device", "make room"}},
	} {
		t.Run(name, func(t *testing.T) {
			script := c.mount + ` && exec "$@"`
			refused(t, c.says, "unshare", append([]string{"-m", "sh", "-c", script, dir, bins.weir}, serveArgs(dir)...)...)
		})
	}
}

// A directory in which another node's files lie is not served: that node's topics would be taken for deleted ones.
func TestStartOnAnotherNodesDirectory(t *testing.T) {
	a, b := startNode(t), startNode(t)
	a.stop()
	b.stop()
	identity, err := os.ReadFile(filepath.Join(b.dir, "meta.cbor"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, "meta.cbor"), identity, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{a.dir, "meta.cbor"}, bins.weir, serveArgs(a.dir)...)
}

// A lost partition keeps no other from serving, is shown with its reason, and `weir repair` is the way out: without --yes it
// changes nothing, with it the node starts and nobody gets other data for a lost offset.
func TestRepairOfALostPartitionAndALostInternalTopic(t *testing.T) {
	n := startNode(t)
	pub := needCommand(t, "mosquitto_pub")
	publish := func(client string) {
		t.Helper()
		run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", client, "-q", "1", "-t", "t", "-m", "from "+client)
	}
	publish("damaged")
	for _, client := range []string{"a", "b", "c", "d", "e"} { // one of them writes to another partition
		publish(client)
	}
	run(t, "", bins.weir, "--bootstrap", n.kafka, "consume", "telemetry", "--group", "g", "--from", "beginning", "--count", "6")
	n.stop()
	lost, whole, gone := "", "", 0
	segments, err := filepath.Glob(filepath.Join(n.dir, "topics", "telemetry-*", "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "from damaged") {
			lost, gone = filepath.Dir(s), strings.Count(string(text), "from ")
		} else if _, after, ok := strings.Cut(string(text), "from "); ok {
			whole = after[:1]
		}
	}
	if lost == "" || whole == "" {
		t.Fatal("no two segments hold the records")
	}
	if err := os.RemoveAll(lost); err != nil {
		t.Fatal(err)
	}
	n.start()
	publish(whole)
	if out := run(t, "", bins.weir, "--bootstrap", n.kafka, "topics", "describe", "telemetry"); !strings.Contains(out, "partition "+filepath.Base(lost)+" is offline") {
		t.Errorf("weir topics describe says:\n%s", out)
	}
	res, err := http.Get("http://" + n.http + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	status, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || !strings.Contains(string(status), "missing from the data directory") || !strings.Contains(string(status), "weir repair") {
		t.Errorf("the status says %v:\n%s", err, status)
	}
	n.stop()
	for _, topic := range []string{"__mqtt_sessions", "__mqtt_retained", "__consumer_offsets"} {
		dirs, err := filepath.Glob(filepath.Join(n.dir, "topics", topic+"-*"))
		if err != nil || len(dirs) != 1 {
			t.Fatal(dirs, err)
		}
		if err := os.RemoveAll(dirs[0]); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, []string{"__mqtt_sessions", "weir repair"}, bins.weir, serveArgs(n.dir)...)
	refused(t, []string{"telemetry-" + filepath.Base(lost), "__mqtt_sessions-0", "__consumer_offsets-0", "directory is missing", "--yes"}, bins.weir, "repair", n.dir)
	if _, err := os.Stat(lost); err == nil {
		t.Fatal("repair without --yes made the directory")
	}
	if out := run(t, "", bins.weir, "repair", n.dir, "--yes"); !strings.Contains(out, "start the node") {
		t.Errorf("weir repair --yes says:\n%s", out)
	}
	if out := run(t, "", bins.weir, "repair", n.dir); !strings.Contains(out, "nothing to repair") {
		t.Errorf("a second weir repair says:\n%s", out)
	}
	n.start()
	publish("damaged")
	left := 6 - gone + 2
	out := run(t, "", bins.weir, "--bootstrap", n.kafka, "consume", "telemetry", "--from", "beginning", "--count", fmt.Sprint(left), "--json")
	if strings.Count(out, `"offset"`) != left {
		t.Errorf("weir consume says:\n%s", out)
	}
	n.stop()
}
