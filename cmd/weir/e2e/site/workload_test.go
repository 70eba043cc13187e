package site

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// ack is one line of a ledger.
type ack struct {
	number    int
	partition int32
	offset    int64 // -1: the protocol does not tell
	at        time.Time
}

// load is a running set of clients and their ledger.
type load struct {
	t      *testing.T
	name   string
	began  time.Time
	procs  []*clients
	others []*load // that a scenario began; they end with this one

	mu      sync.Mutex
	acks    map[string][]ack // by client, in the order in which they came
	sent    map[string]int
	faults  []string
	unruly  map[string]bool // clients that sent something new before what they had to send again
	changed chan struct{}   // closed and replaced with every line
}

type clients struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}
	errs  *lockedBuffer
}

// load starts devices and producers at a host, which know the given nodes.
func (c *cluster) load(name string, at *host, nodes ...*node) *load {
	c.t.Helper()
	l := c.newLoad(name)
	l.devices(at, nodes...)
	l.producers(at, nodes...)
	return l
}

func (c *cluster) newLoad(name string) *load {
	return &load{t: c.t, name: name, began: time.Now(), acks: map[string][]ack{}, sent: map[string]int{}, unruly: map[string]bool{}, changed: make(chan struct{})}
}

func (l *load) devices(at *host, nodes ...*node) {
	l.t.Helper()
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.host.addr())
	}
	l.run(at.command(python(l.t), "python/devices.py", strings.Join(addrs, ","), fmt.Sprintf("%s@%d", l.name, at.number), "6", "20"))
}

func (l *load) producers(at *host, nodes ...*node) {
	l.t.Helper()
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.kafka())
	}
	l.run(at.command(python(l.t), "python/producers.py", strings.Join(addrs, ","), kafkaTopic, fmt.Sprint(partitions), fmt.Sprintf("%s@%d", l.name, at.number), "50"))
}

func (l *load) run(cmd *exec.Cmd) {
	l.t.Helper()
	p := &clients{cmd: cmd, ended: make(chan struct{}), errs: &lockedBuffer{}}
	cmd.Stderr = p.errs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	p.stdin = stdin
	go func() {
		defer close(p.ended)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			l.line(s.Text())
		}
		_ = cmd.Wait()
	}()
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
		keepLog(fmt.Sprint("clients-", l.name, "-", cmd.Process.Pid), p.errs)
	})
	l.procs = append(l.procs, p)
}

func (l *load) line(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := strings.Fields(s)
	a, rest := ack{offset: -1, at: time.Now()}, 0
	switch {
	case f[0] == "ack" && len(f) == 3:
		_, _ = fmt.Sscan(f[2], &a.number)
		l.acks[f[1]] = append(l.acks[f[1]], a)
	case f[0] == "ack" && len(f) == 5:
		_, _ = fmt.Sscan(strings.Join(f[2:], " "), &a.number, &a.partition, &a.offset)
		l.acks[f[1]] = append(l.acks[f[1]], a)
	case f[0] == "sent":
		_, _ = fmt.Sscan(strings.Join(f[2:], " "), &a.number, &rest)
		l.sent[f[1]] = a.number
		if rest > 0 {
			l.faults = append(l.faults, fmt.Sprintf("%s: %d of %d were never acknowledged", f[1], rest, a.number))
		}
	case f[0] == "misordered":
		l.unruly[f[1]] = true
	default: // refused, fatal
		l.faults = append(l.faults, s)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// devicesAndProducers is how many clients a load begins with.
const devicesAndProducers = 6 + partitions

// awaitAcks waits until count clients each had something acknowledged that came in after the given moment.
func (l *load) awaitAcks(after time.Time, clients int, match string) {
	l.t.Helper()
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		n, changed := 0, l.changed
		var missing []string
		for name, as := range l.acks {
			if !strings.Contains(name, match) {
				continue
			}
			if as[len(as)-1].at.After(after) {
				n++
			} else {
				missing = append(missing, name)
			}
		}
		l.mu.Unlock()
		if n >= clients {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			l.t.Fatalf("%s: after %s only %d of %d clients had something acknowledged, not %v", l.name, patience, n, clients, missing)
		}
	}
}

// flow waits until every client has something acknowledged that it can have sent only after now.
func (l *load) flow(clients int) {
	l.t.Helper()
	for range 2 {
		l.awaitAcks(time.Now(), clients, "")
	}
}

// flowThrough is flow without mosquitto's clients. They wait for the first address that takes long to refuse: a stopped node's, whose kernel takes the connection, or
// one that is cut off.
func (l *load) flowThrough() {
	l.t.Helper()
	for range 2 {
		l.awaitAcks(time.Now(), devicesAndProducers, fmt.Sprintf("@%d-", hub))
	}
}

// finish ends the clients once everything they sent is acknowledged.
func (l *load) finish() {
	l.t.Helper()
	for _, p := range l.procs {
		_ = p.stdin.Close()
	}
	for _, p := range l.procs {
		select {
		case <-p.ended:
		case <-time.After(2 * patience):
			l.t.Errorf("%s: the clients do not end: %s", l.name, p.errs)
			return
		}
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			l.t.Errorf("%s: a client exited %d: %s", l.name, code, p.errs)
		}
	}
	for _, f := range l.faults {
		l.t.Errorf("%s: %s", l.name, f)
	}
}

// pauses are the longest times without an acknowledgement since a moment, by kind of client.
func (l *load) pauses(since time.Time) map[string]time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest := map[string]time.Duration{}
	for name, as := range l.acks {
		last := since
		for _, a := range as {
			if a.at.Before(since) {
				continue
			}
			longest[kind(name)] = max(longest[kind(name)], a.at.Sub(last))
			last = a.at
		}
	}
	return longest
}

// kind is q1, q2 or k (idempotent producer).
func kind(client string) string {
	f := strings.Split(client, "-")
	return f[len(f)-2]
}
