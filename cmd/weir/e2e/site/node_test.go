package site

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. It is generous: a slow machine must not fail a correct cluster.
const patience = 60 * time.Second

// node is a `weir serve` at a host, with a disk of its own.
type node struct {
	t      *testing.T
	host   *host
	disk   *disk
	args   []string
	clock  string // file that holds how far its wall clock is off, see setClock
	cmd    *exec.Cmd
	log    *lockedBuffer
	exited chan struct{}
	ready  chan struct{} // closed with the ready line
}

func (n *node) name() string       { return fmt.Sprint("n", n.host.number) }
func (n *node) dir() string        { return filepath.Join(n.disk.dir, "data") }
func (n *node) kafka() string      { return n.host.addr() + ":9092" }
func (n *node) exitedNow() bool    { return closed(n.exited) }
func (n *node) signal(s os.Signal) { _ = n.cmd.Process.Signal(s) }

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// start runs the node; it says nothing about when it will be ready.
func (n *node) start() {
	n.t.Helper()
	a := n.host.addr()
	args := append([]string{"serve", "--node-id", n.name(), "--data", n.dir(), "--insecure", "--mqtt", a + ":1883", "--kafka", a + ":9092", "--http", a + ":8080",
		"--mqtt-ws", "", "--gossip", a + ":7946", "--raft", a + ":7947"}, n.args...)
	n.cmd = n.host.command(os.Getenv(insideEnv), args...)
	n.cmd.Env = append(os.Environ(), clockEnv+"="+n.clock)
	n.cmd.Stderr = n.log
	stdout, err := n.cmd.StdoutPipe()
	if err == nil {
		err = n.cmd.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.exited, n.ready = make(chan struct{}), make(chan struct{})
	ready, exited, cmd := n.ready, n.exited, n.cmd
	go func() {
		r := bufio.NewReader(stdout)
		if line, _ := r.ReadString('\n'); strings.HasPrefix(line, "weir ready") {
			close(ready)
		}
		_, _ = io.Copy(io.Discard, r)
		_ = cmd.Wait()
		close(exited)
	}()
}

func (n *node) awaitReady() {
	n.t.Helper()
	select {
	case <-n.ready:
	case <-n.exited:
		n.t.Fatalf("%s ended instead of becoming ready", n.name())
	case <-time.After(patience):
		n.t.Fatalf("%s is not ready after %s", n.name(), patience)
	}
}

// weir runs a tool against the node.
func (n *node) weir(args ...string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(insideEnv), append(args, "--bootstrap", n.kafka())...)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Logf("weir %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// kill is the end of the process, at once.
func (n *node) kill() {
	n.signal(syscall.SIGKILL)
	<-n.exited
}

// stop drains the node and wants it to exit 0.
func (n *node) stop() {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	select {
	case <-n.exited:
		if code := n.cmd.ProcessState.ExitCode(); code != 0 {
			n.t.Errorf("%s exited %d after SIGTERM", n.name(), code)
		}
	case <-time.After(patience):
		n.signal(syscall.SIGQUIT)
		<-n.exited
		n.t.Errorf("%s did not stop within %s of SIGTERM", n.name(), patience)
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
