package main

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/twmb/franz-go/pkg/kfake"
)

// mortal is a node of a cluster whose metadata do not hear of its death.
type mortal struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	dead  bool
}

func (m *mortal) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.dead { // it came while the node died
			c.Close()
			return nil, net.ErrClosed
		}
		m.conns = append(m.conns, c)
	}
	return c, err
}

// die refuses and ends all connections.
func (m *mortal) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
	m.Close()
	for _, c := range m.conns {
		c.Close()
	}
}

// mortals is a cluster of n nodes that can die, and a tool that is told of all of them.
func mortals(t *testing.T, n int) (c *kfake.Cluster, nodes []*mortal, tl *tool) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(n), kfake.SeedTopics(1, "t"), kfake.ListenFn(func(network, addr string) (net.Listener, error) {
		ln, err := net.Listen(network, addr)
		if err != nil {
			return nil, err
		}
		m := &mortal{Listener: ln}
		nodes = append(nodes, m)
		return m, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, nodes, &tool{t, strings.Join(c.ListenAddrs(), ",")}
}

// lines gives what is written to it, line by line.
type lines struct{ *io.PipeWriter }

func linesTo(out chan<- string) lines {
	r, w := io.Pipe()
	go func() {
		var rest string
		for b := make([]byte, 4096); ; {
			n, err := r.Read(b)
			rest += string(b[:n])
			for line, more, ok := strings.Cut(rest, "\n"); ok; line, more, ok = strings.Cut(rest, "\n") {
				out <- line
				rest = more
			}
			if err != nil {
				return
			}
		}
	}()
	return lines{w}
}

// consuming runs a consumer, and gives what it prints, what it says, and how it ends.
func (tl *tool) consuming(args ...string) (out, said chan string, ended chan error) {
	tl.t.Helper()
	out, said, ended = make(chan string, 100), make(chan string, 100), make(chan error, 1)
	ctx, cancel := context.WithTimeout(tl.t.Context(), time.Minute)
	tl.t.Cleanup(cancel)
	stdout, stderr := linesTo(out), linesTo(said)
	c := struct {
		Globals
		Tools
	}{Globals: Globals{In: strings.NewReader(""), Out: stdout, Err: stderr, Ctx: ctx}}
	k, err := kong.Must(&c).Parse(append(args, "--bootstrap", tl.addr))
	if err != nil {
		tl.t.Fatal(err)
	}
	go func() {
		err := k.Run(&c.Globals)
		stdout.Close()
		stderr.Close()
		ended <- err
	}()
	return out, said, ended
}

func (tl *tool) next(from chan string, what string) string {
	tl.t.Helper()
	select {
	case line := <-from:
		return line
	case <-time.After(time.Minute):
		tl.t.Fatalf("%s: not within a minute", what)
		return ""
	}
}

// A leader that dies is waited for, and that is said once, while other nodes are there: another one takes its place. This holds for a consumer that reads on and
// for one that asks where to begin.
func TestConsumeOutlivesALeader(t *testing.T) {
	c, nodes, tl := mortals(t, 3)
	if err := c.MoveTopicPartition("t", 0, 0); err != nil {
		t.Fatal(err)
	}
	tl.ok("a\nb\n", "produce", "t")
	out, said, ended := tl.consuming("consume", "t", "--count", "3")
	if a, b := tl.next(out, "a"), tl.next(out, "b"); a != "a" || b != "b" {
		t.Fatalf("%q, %q", a, b)
	}
	nodes[0].die()
	if line := tl.next(said, "a word of the death"); !strings.Contains(line, "consume t: waiting: ") {
		t.Errorf("said %q", line)
	}
	second, saidToo, endedToo := tl.consuming("consume", "t", "--count", "3")
	if err := c.MoveTopicPartition("t", 0, 1); err != nil {
		t.Fatal(err)
	}
	tl.ok("c\n", "produce", "t")
	if line := tl.next(out, "c"); line != "c" {
		t.Errorf("%q", line)
	}
	for _, ended := range []chan error{ended, endedToo} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if tl.next(second, "a") != "a" || len(said) > 0 || len(saidToo) > 1 {
		t.Errorf("said again: %d, %d", len(said), len(saidToo)) // the second may have come to the dead one before it heard of the other
	}
}

// Where no node is there any more a consumer ends and says so, as it does where none was there to begin with.
func TestConsumeEndsWithTheLastNode(t *testing.T) {
	_, nodes, tl := mortals(t, 2)
	tl.ok("a\n", "produce", "t")
	out, said, ended := tl.consuming("consume", "t", "--count", "2")
	tl.next(out, "a")
	for _, n := range nodes {
		n.die()
	}
	var network *net.OpError
	if err := <-ended; exitCode(err) != exitFailed || !errors.As(err, &network) && !hungUp(err) { // refused, or reset while it was made
		t.Errorf("%v, said %d lines", err, len(said))
	}
	tl.fails(exitFailed, "connection refused", "consume", "t")
}
