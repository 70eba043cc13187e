package e2e

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for another process. It is generous: a slow machine must not fail a correct broker.
const patience = 60 * time.Second

var bins struct{ weir, sim string }

// TestMain builds the binaries once, as `make build` does.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "weir-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-o", dir+"/", "github.com/weir-io/weir/cmd/weir", "github.com/weir-io/weir/cmd/weir-sim")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the binaries: %v\n%s", err, out)
			return 1
		}
		bins.weir, bins.sim = filepath.Join(dir, "weir"), filepath.Join(dir, "weir-sim")
		code := m.Run()
		if sharedCentre.Kafka != nil {
			sharedCentre.Kill()
		}
		if code == 0 && os.Getenv("WEIR_CLIENTS") != "" && flag.Lookup("test.run").Value.String() == "" {
			if err := writeReport(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return code
	}())
}

// need skips the test when a client is missing, or fails it where everything must run.
func need(t *testing.T, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed, and with CI=true nothing may be skipped: see .ci/clients-deps", what)
	}
	notInstalled(t, what)
	t.Skipf("%s is not installed: run `make clients-deps`", what)
}

func needCommand(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && name == "mosquitto" {
		path, err = exec.LookPath("/usr/sbin/mosquitto")
	}
	need(t, err == nil, name)
	return path
}

// cacheDir is where .ci/clients-deps puts what is not a Debian package.
func cacheDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..", ".cache")
}

// node is a running `weir serve` with its own directory and ports.
type node struct {
	t                 *testing.T
	bin               []string // the command before "serve": the binary, or an emulator and the binary
	dir               string
	extra             []string
	mqtt, kafka, http string
	ws                string
	cmd               *exec.Cmd
	stderr            *lockedBuffer
	exited            chan struct{}
}

// startNode runs a node on fresh ports; the test's end stops it.
func startNode(t *testing.T, extra ...string) *node {
	t.Helper()
	n := &node{t: t, bin: []string{bins.weir}, dir: t.TempDir(), extra: extra}
	n.start()
	t.Cleanup(n.stop)
	return n
}

// start runs the node, on the same ports as before when it ran already, and waits for its ready line.
func (n *node) start() {
	n.t.Helper()
	n.mqtt, n.kafka, n.http, n.ws = keepPort(n.mqtt), keepPort(n.kafka), keepPort(n.http), keepPort(n.ws)
	args := append(n.bin[1:], "serve", "--data", n.dir, "--mqtt", n.mqtt, "--kafka", n.kafka, "--http", n.http, "--mqtt-ws", n.ws, "--gossip", "", "--raft", "")
	n.cmd = exec.Command(n.bin[0], append(args, n.extra...)...)
	n.stderr = &lockedBuffer{}
	n.cmd.Stderr = n.stderr
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		lines <- line
		_, _ = io.Copy(io.Discard, stdout)
	}()
	n.exited = make(chan struct{})
	go func() { _ = n.cmd.Wait(); close(n.exited) }()
	select {
	case line := <-lines:
		if !strings.HasPrefix(line, "weir ready") {
			n.t.Fatalf("the node did not become ready: %q\n%s", line, n.stderr)
		}
		for _, f := range strings.Fields(line) {
			k, v, _ := strings.Cut(f, "=")
			switch k {
			case "mqtt":
				n.mqtt = v
			case "kafka":
				n.kafka = v
			case "http":
				n.http = v
			case "mqtt-ws":
				n.ws = v
			}
		}
	case <-time.After(patience):
		n.kill()
		n.t.Fatalf("no ready line within %s\n%s", patience, n.stderr)
	}
}

func keepPort(addr string) string {
	if addr == "" {
		return "127.0.0.1:0"
	}
	return addr
}

// kill is a power cut for the process: SIGKILL, no drain.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	<-n.exited
}

// stop drains the node and fails the test if it does not exit 0.
func (n *node) stop() {
	select {
	case <-n.exited:
		return
	default:
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.exited:
	case <-time.After(patience):
		_ = n.cmd.Process.Signal(syscall.SIGQUIT)
		<-n.exited
		n.t.Errorf("the node did not stop within %s of SIGTERM", patience)
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Errorf("the node exited %d after SIGTERM", code)
	}
	if n.t.Failed() {
		n.t.Logf("the node's log:\n%s", n.stderr)
	}
}

func (n *node) mqttPort() string { _, p, _ := net.SplitHostPort(n.mqtt); return p }

// run runs a client to its end and returns its standard output; a failure fails the test with all that it said.
func run(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	out, errs, err := execute(stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs)
	}
	return out
}

// tryRun is for clients that are expected to fail: it returns all that they said.
func tryRun(t *testing.T, stdin string, name string, args ...string) (string, error) {
	t.Helper()
	out, errs, err := execute(stdin, name, args...)
	return out + errs, err
}

func execute(stdin string, name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// background starts a client and hands its output line by line; the test's end kills it.
func background(t *testing.T, name string, args ...string) <-chan string {
	t.Helper()
	cmd := exec.Command(name, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines { // a full channel must not keep the reader from its end
		}
		<-done
		_ = cmd.Wait()
	})
	return lines
}

// await returns the first line that holds want.
func await(t *testing.T, lines <-chan string, want string) string {
	t.Helper()
	timeout := time.After(patience)
	var seen []string
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the client ended without %q; it said:\n%s", want, strings.Join(seen, "\n"))
			}
			if strings.Contains(line, want) {
				return line
			}
			seen = append(seen, line)
		case <-timeout:
			t.Fatalf("no %q within %s; the client said:\n%s", want, patience, strings.Join(seen, "\n"))
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
