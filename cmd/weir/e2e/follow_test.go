package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Clients that hold on to a leader are told by it, in their newest versions of Produce and Fetch, who leads instead (KIP-951), and go on there.
func TestClientsFollowTheLeader(t *testing.T) {
	java, javac := needCommand(t, "java"), needCommand(t, "javac")
	python := filepath.Join(cacheDir(), "venv", "bin", "python")
	_, err := os.Stat(python)
	need(t, err == nil, "confluent-kafka (Python)")
	jars := filepath.Join(cacheDir(), "java")
	found, _ := filepath.Glob(filepath.Join(jars, "kafka-clients-*.jar"))
	need(t, len(found) > 0, "the Apache Kafka Java client")
	classes := t.TempDir()
	classPath := jars + "/*:" + classes
	run(t, "", javac, "-cp", classPath, "-d", classes, "java/Follow.java")

	s := startSite(t, 3)
	all := s.members[0].kafka + "," + s.members[1].kafka + "," + s.members[2].kafka
	s.members[0].weir("topics", "create", "t", "--partitions", "1", "--replicas", "2")
	clients := []*talker{
		talk(t, java, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "Follow", all, "t"),
		talk(t, python, "python/follow.py", all, "t"),
	}
	for i, c := range clients {
		c.say(t, fmt.Sprint("before ", i))
	}
	first := func(int) int { return 0 }
	leader := s.leads("t", first)
	s.members[0].weir("cluster", "drain", fmt.Sprint("node", slices.Index(s.members, leader)+1), "--wait")
	if s.leads("t", first) == leader {
		t.Fatal("the drained node leads still")
	}
	for i, c := range clients {
		c.say(t, fmt.Sprint("after ", i))
	}
}

// talker is a client that answers line by line.
type talker struct {
	in  io.WriteCloser
	out chan string
}

func talk(t *testing.T, name string, args ...string) *talker {
	t.Helper()
	cmd := exec.Command(name, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs := &lockedBuffer{}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &talker{in: in, out: make(chan string, 16)}
	go func() {
		defer close(c.out)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.out <- s.Text()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		for range c.out {
		}
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, errs)
		}
	})
	return c
}

// say has the client write a record and read it.
func (c *talker) say(t *testing.T, line string) {
	t.Helper()
	fmt.Fprintln(c.in, line)
	select {
	case got := <-c.out:
		if got != "read "+line {
			t.Fatalf("the client said %q to %q", got, line)
		}
	case <-time.After(patience):
		t.Fatalf("the client did not read %q", line)
	}
}
