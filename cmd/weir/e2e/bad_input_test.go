package e2e

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Garbage on either port closes that connection and nothing else.
func TestGarbageHurtsOnlyItsSender(t *testing.T) {
	pub := needCommand(t, "mosquitto_pub")
	n := startNode(t)
	garbage := make([]byte, 64<<10)
	_, _ = rand.Read(garbage)
	for name, sends := range map[string][][]byte{
		n.mqtt: {
			garbage,
			[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
			{0x10, 0xff, 0xff, 0xff, 0x7f},           // CONNECT that claims 256 MiB
			{0x30, 0xff, 0xff, 0xff, 0x7f},           // PUBLISH before CONNECT
			{0x82, 0x02, 0x00, 0x01},                 // SUBSCRIBE without a filter
			{0xf0, 0x00}, {0x00, 0x00}, {0x10, 0x00}, // AUTH, reserved, empty CONNECT
			{0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, // a length of six bytes
		},
		n.kafka: {
			garbage,
			{0x7f, 0xff, 0xff, 0xff},             // a request of 2 GiB
			{0xff, 0xff, 0xff, 0xff},             // of −1 bytes
			{0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 1}, // Produce without a body
			{0, 0, 0, 14, 0, 1, 0, 11, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff}, // Fetch with a huge array
		},
	} {
		for i, bytes := range sends {
			c, err := net.DialTimeout("tcp", name, patience)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(15 * time.Second))
			_, _ = c.Write(bytes)
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
				t.Errorf("%s garbage %d: the node keeps the connection", name, i)
			}
			_ = c.Close()
		}
	}
	run(t, "", pub, "-h", "127.0.0.1", "-p", n.mqttPort(), "-i", "sane", "-q", "1", "-t", "t", "-m", "still here")
	if got := kcatRead(t, n, "telemetry", "%s"); len(got) != 1 || got[0] != "still here" {
		t.Errorf("after the garbage kcat read %q", got)
	}
}

// What a node cannot start with is said in one message that names the thing, with the exit code of the contract.
func TestStartErrors(t *testing.T) {
	n := startNode(t)
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plainFile := file("plain", "not a directory")
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"data directory in use": {[]string{"--data", n.dir}, 1, []string{n.dir, "locked by another process", fmt.Sprintf("pid %d", n.cmd.Process.Pid), "stop that process", "--data"}},
		"data is a file":        {[]string{"--data", plainFile}, 1, []string{plainFile}},
		"unknown key":           {[]string{"--config", file("typo.yaml", "mqtt:\n  lisen: 127.0.0.1:1883\n")}, 2, []string{"typo.yaml", "2", "lisen"}},
		"bad value":             {[]string{"--config", file("bad.yaml", "mqtt:\n  receive_maximum: 70000\n")}, 2, []string{"bad.yaml", "mqtt.receive_maximum", "65535"}},
		"bad route":             {[]string{"--config", file("route.yaml", "routes:\n  - match: a/#/b\n    topic: t\n")}, 2, []string{"route.yaml", "match"}},
		"no authentication":     {[]string{"--mqtt", "0.0.0.0:0"}, 2, []string{"--insecure"}},
		"unknown flag":          {[]string{"--mqt", "x"}, 2, []string{"--mqt"}},
		"port taken":            {[]string{"--mqtt", n.mqtt}, 1, []string{n.mqtt, "in use"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"serve", "--data", t.TempDir(), "--mqtt", "127.0.0.1:0", "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mqtt-ws", "127.0.0.1:0", "--gossip", "", "--raft", ""}, c.args...)
			out, err := tryRun(t, "", bins.weir, args...)
			exit, ok := err.(*exec.ExitError)
			if !ok || exit.ExitCode() != c.code {
				t.Fatalf("weir %s: %v, want exit code %d; it said:\n%s", strings.Join(args, " "), err, c.code, out)
			}
			for _, want := range c.says {
				if !strings.Contains(out, want) {
					t.Errorf("the message lacks %q:\n%s", want, out)
				}
			}
			if strings.Contains(out, "goroutine ") {
				t.Errorf("a stack trace is no error message:\n%s", out)
			}
		})
	}
}
