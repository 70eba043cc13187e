package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demo is a running `weir demo` whose output is no terminal: a board every five seconds, and events at once.
type demo struct {
	t      *testing.T
	cmd    *exec.Cmd
	tmp    string // where its temporary directory is made
	dir    string // in every node's command line: tmp, or --data
	lines  chan string
	stderr *lockedBuffer
	exited chan struct{}
}

func startDemo(t *testing.T, args ...string) *demo {
	t.Helper()
	d := &demo{t: t, tmp: t.TempDir(), lines: make(chan string, 1<<16), stderr: &lockedBuffer{}, exited: make(chan struct{})}
	d.dir = d.tmp
	if at := slices.Index(args, "--data"); at >= 0 {
		d.dir = args[at+1]
	}
	d.cmd = exec.Command(bins.weir, append([]string{"demo"}, args...)...)
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.tmp)
	d.cmd.Stderr = d.stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell starts it
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		defer close(d.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			d.lines <- s.Text()
		}
		_ = d.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill() // and its nodes with it
		<-d.exited
		for _, pid := range processesOf(t, d.dir) { // the test has failed: the next one is to have the machine for itself
			kill9(t, pid)
		}
	})
	return d
}

// board is one drawing of the cluster.
type board struct {
	nodes      map[string]boardNode
	acked      int
	partitions string // what is said of them
	hint       string // the process that the user is told to kill, "" while none should be
}

type boardNode struct {
	pid, state, role          string
	leaders, inSync, replicas int
	devices                   int
}

var ackedPattern = regexp.MustCompile(`(\d+) sent, (\d+) acknowledged`)

// awaitBoard returns the first board that is as wanted.
func (d *demo) awaitBoard(what string, is func(board) bool) board {
	d.t.Helper()
	timeout := time.After(2 * patience)
	var b board
	var seen []string
	for {
		select {
		case <-timeout:
			d.t.Fatalf("no board in time: %s; last seen:\n%s\n%s", what, strings.Join(seen[max(0, len(seen)-60):], "\n"), d.stderr)
		case line, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("the demo ended before: %s\n%s\n%s", what, strings.Join(seen, "\n"), d.stderr)
			}
			seen = append(seen, line)
			f := strings.Fields(line)
			switch {
			case ackedPattern.MatchString(line):
				b = board{nodes: map[string]boardNode{}}
				b.acked, _ = strconv.Atoi(ackedPattern.FindStringSubmatch(line)[2])
			case len(f) > 9 && strings.HasPrefix(f[0], "node") && f[7] == "of":
				n := boardNode{pid: f[2], state: f[3], role: f[4]}
				for _, v := range []struct {
					to *int
					at int
				}{{&n.leaders, 5}, {&n.inSync, 6}, {&n.replicas, 8}, {&n.devices, 9}} {
					var err error
					if *v.to, err = strconv.Atoi(f[v.at]); err != nil {
						d.t.Fatalf("%q: %v", line, err)
					}
				}
				b.nodes[f[0]] = n
			case strings.HasPrefix(line, "partitions: "):
				b.partitions = line
			case len(f) > 2 && f[0] == "kill":
				b.hint = f[2]
			case strings.HasPrefix(line, "Ctrl-C ends it"):
				if is(b) {
					return b
				}
			}
		}
	}
}

// end interrupts the demo as Ctrl-C does, with its whole process group, and returns its closing words. It must exit 0 and
// leave neither a process nor a file.
func (d *demo) end() string {
	d.t.Helper()
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.exited:
	case <-time.After(2 * patience):
		d.t.Fatalf("the demo does not end after an interrupt\n%s", d.stderr)
	}
	var out []string
	for line := range d.lines {
		out = append(out, line)
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Errorf("the demo exited %d\n%s", code, d.stderr)
	}
	if left := processesOf(d.t, d.dir); len(left) > 0 {
		d.t.Errorf("processes linger: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(d.tmp, "*")); len(left) > 0 {
		d.t.Errorf("the temporary directory was not removed: %v", left)
	}
	return strings.Join(out, "\n")
}

// processesOf lists the processes whose command line names the directory.
func processesOf(t *testing.T, dir string) (pids []string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return nil
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		line, err := os.ReadFile(name) // an error: it has ended meanwhile
		if err == nil && strings.Contains(string(line), "serve\x00") && strings.Contains(string(line), dir) {
			pids = append(pids, filepath.Base(filepath.Dir(name)))
		}
	}
	return pids
}

func kill9(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil || n < 2 {
		t.Fatalf("%q is no process", pid)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}

// figures takes the closing figures apart.
func figures(t *testing.T, end string) (acked, consumed, missing, duplicates int) {
	t.Helper()
	at := strings.Index(end, "At the end: ")
	if at < 0 {
		t.Fatalf("no closing figures:\n%s", end)
	}
	if _, err := fmt.Sscanf(end[at:], "At the end: %d records acknowledged, %d consumed, %d acknowledged and missing, %d duplicates.",
		&acked, &consumed, &missing, &duplicates); err != nil {
		t.Fatalf("closing figures: %v:\n%s", err, end)
	}
	return acked, consumed, missing, duplicates
}

// The demo's promise: the controller is killed with -9, the board says so, the others lead all that it led, its devices are
// at other nodes, records go on being acknowledged, and in the end none of them is missing.
func TestDemoShowsATakeover(t *testing.T) {
	const devices = 9
	d := startDemo(t, "--nodes", "3", "--devices", fmt.Sprint(devices), "--every", "50ms", "--restart-after", "0")
	before := d.awaitBoard("a node may be killed", func(b board) bool { return b.hint != "" })
	victim, total := "", 0
	for name, n := range before.nodes {
		if n.pid == before.hint {
			victim = name
		}
		if total += n.leaders; n.state != "running" || n.inSync != n.replicas || n.devices != devices/3 {
			t.Errorf("%s while all is well: %+v", name, n)
		}
	}
	if before.nodes[victim].role != "controller" || len(before.nodes) != 3 || len(processesOf(t, d.dir)) != 3 && runtime.GOOS == "linux" {
		t.Fatalf("%q of %+v", victim, before.nodes)
	}
	kill9(t, before.hint)
	if line := await(t, d.lines, "is gone"); !strings.Contains(line, victim+" (pid "+before.hint+") is gone: signal: killed; it stays gone") {
		t.Errorf("the death is told as: %s", line)
	}
	after := d.awaitBoard("the others have taken over", func(b board) bool {
		led, connected, controllers := 0, 0, 0
		for name, n := range b.nodes {
			if led, connected = led+n.leaders, connected+n.devices; n.role == "controller" && name != victim {
				controllers++
			}
		}
		gone := b.nodes[victim]
		return gone.state == "gone" && gone.pid == "-" && gone.leaders == 0 && gone.inSync == 0 && gone.devices == 0 &&
			led == total && connected == devices && controllers == 1
	})
	if !strings.Contains(after.partitions, "under-replicated") || strings.Contains(after.partitions, "without a leader") {
		t.Errorf("after the takeover: %s", after.partitions)
	}
	later := d.awaitBoard("records go on", func(b board) bool { return b.acked > after.acked+devices*20 })
	end := d.end()
	acked, consumed, missing, duplicates := figures(t, end)
	if missing != 0 || acked < later.acked || consumed-duplicates < acked {
		t.Errorf("figures:\n%s", end)
	}
	if !strings.Contains(end, "Nodes were gone 1 time, and were started again 0 times.") {
		t.Errorf("the death is not counted:\n%s", end)
	}
}

// A node that is gone is started again on its data and addresses, and catches up. All are stopped in order at the end.
func TestDemoStartsANodeAgain(t *testing.T) {
	dir := t.TempDir()
	d := startDemo(t, "--nodes", "2", "--every", "100ms", "--restart-after", "1s", "--data", dir)
	allWell := func(b board) bool {
		for _, n := range b.nodes {
			if n.state != "running" || n.replicas == 0 || n.inSync != n.replicas {
				return false
			}
		}
		return len(b.nodes) == 2 && b.hint != ""
	}
	before := d.awaitBoard("both nodes run", allWell)
	kill9(t, before.hint)
	await(t, d.lines, "is gone: signal: killed; it is started again in 1s")
	await(t, d.lines, "was started again (pid ")
	d.awaitBoard("both nodes run again", func(b board) bool { return allWell(b) && b.hint != before.hint })
	end := d.end()
	if acked, _, missing, _ := figures(t, end); missing != 0 || acked == 0 || !strings.Contains(end, "gone 1 time, and were started again 1 time") {
		t.Errorf("figures:\n%s", end)
	}
	for _, name := range []string{"node1", "node2"} {
		text, err := os.ReadFile(filepath.Join(dir, name+".log"))
		if lines := strings.Split(strings.TrimSpace(string(text)), "\n"); err != nil || !strings.Contains(lines[len(lines)-1], "stopped cleanly") {
			t.Errorf("%s was not stopped in order: %v\n%s", name, err, text)
		}
	}
}

// Nobody is left to stop the nodes when the demo itself is killed.
func TestDemoKilledLeavesNoProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	d := startDemo(t, "--nodes", "2")
	d.awaitBoard("both nodes run", func(b board) bool { return len(b.nodes) == 2 })
	if n := len(processesOf(t, d.dir)); n != 2 {
		t.Fatalf("%d nodes run", n)
	}
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); len(processesOf(t, d.dir)) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("processes linger: %v", processesOf(t, d.dir))
		}
	}
}

// A node that cannot start ends the demo with the reason that the node gave, and the others with it.
func TestDemoSaysWhyANodeDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "node2"), []byte("in the way"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := tryRun(t, "", bins.weir, "demo", "--nodes", "3", "--data", dir)
	if err == nil {
		t.Fatalf("it started:\n%s", out)
	}
	for _, want := range []string{"weir: start node2: it ended before it was ready (exit status 1)", filepath.Join(dir, "node2") + ": not a directory", filepath.Join(dir, "node*.log")} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("processes linger: %v", left)
	}
	if out, err := tryRun(t, "", bins.weir, "demo", "--nodes", "1", "--data", dir, "--devices", "0"); err == nil || !strings.Contains(out, "--devices") {
		t.Errorf("no devices: %v %s", err, out)
	}
	if err := os.Mkdir(filepath.Join(dir, "node4"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := tryRun(t, "", bins.weir, "demo", "--nodes", "3", "--data", dir); err == nil || !slices.Contains(strings.Fields(out), "node4") {
		t.Errorf("a directory of more nodes: %v %s", err, out)
	}
}
