package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	demoReadyWithin = 60 * time.Second // from a node's start to its ready line; a slow board reads its journal first
	demoStopWithin  = 30 * time.Second // from SIGTERM to the end; then SIGKILL
	demoLastLines   = 3                // of a node's stderr that an error quotes
	demoTailBytes   = 16 << 10         // of a node's stderr that they are looked for in
)

// demoProcess is one run of `weir serve` as a child.
type demoProcess struct {
	cmd    *exec.Cmd
	ready  chan struct{} // closed with the first line on stdout, which is the ready line
	exited chan struct{} // closed when the process has ended and was waited for
	log    string        // file that its stderr is appended to
	from   int64         // where this run's part of it begins
}

// startDemoProcess runs the command; whoever calls it waits for exited. The calling goroutine must stay on its thread
// until then (childAttr).
func startDemoProcess(bin string, args []string, log string) (*demoProcess, error) {
	stderr, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer stderr.Close() // the child has its own descriptor
	from, err := stderr.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	p := &demoProcess{cmd: exec.Command(bin, args...), ready: make(chan struct{}), exited: make(chan struct{}), log: log, from: from}
	p.cmd.Env = demoEnv(os.Environ())
	p.cmd.Stdout, p.cmd.Stderr = &firstLine{seen: p.ready}, stderr
	p.cmd.SysProcAttr = childAttr()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has what there is to know
		close(p.exited)
	}()
	return p, nil
}

// demoEnv is the environment without WEIR_*: what a shell sets for other nodes must not change these.
func demoEnv(environ []string) (env []string) {
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "WEIR_") {
			env = append(env, kv)
		}
	}
	return env
}

// awaitReady returns nil once the node serves, and otherwise why it does not; ctx's error if that ends first. The process
// may still run then.
func (p *demoProcess) awaitReady(ctx context.Context) error {
	patience := time.NewTimer(demoReadyWithin)
	defer patience.Stop()
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.exited:
		return fmt.Errorf("it ended before it was ready (%s); %s", p.cmd.ProcessState, p.lastWords())
	case <-patience.C:
		return fmt.Errorf("it was not ready within %s; %s", demoReadyWithin, p.lastWords())
	}
}

// stop ends the process as an operator would, and returns when it has ended; the error is an errKilled.
func (p *demoProcess) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error: it has ended
	patience := time.NewTimer(demoStopWithin)
	defer patience.Stop()
	select {
	case <-p.exited:
		return nil
	case <-patience.C:
		err := errKilled{fmt.Errorf("it did not stop within %s of SIGTERM and was killed; %s", demoStopWithin, p.lastWords())}
		_ = p.cmd.Process.Kill()
		<-p.exited
		return err
	}
}

// lastWords quotes the end of what this run wrote to stderr.
func (p *demoProcess) lastWords() string {
	text, err := tail(p.log, p.from)
	if err != nil {
		return "its log cannot be read: " + err.Error()
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, printable(line))
		}
	}
	if len(lines) == 0 {
		return "it wrote nothing to stderr"
	}
	return "the last it wrote to stderr: " + strings.Join(lines[max(0, len(lines)-demoLastLines):], " | ")
}

// tail reads the end of a file, from an offset on at the earliest.
func tail(name string, from int64) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	buf := make([]byte, min(max(0, end-from), demoTailBytes))
	if _, err := f.ReadAt(buf, end-int64(len(buf))); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(buf), nil
}

// firstLine is a writer that tells when the first line is complete and drops everything.
type firstLine struct {
	once sync.Once
	seen chan struct{}
}

func (w *firstLine) Write(b []byte) (int, error) {
	if bytes.IndexByte(b, '\n') >= 0 {
		w.once.Do(func() { close(w.seen) })
	}
	return len(b), nil
}
