package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// What the demo knows of a node's process. While it runs, the cluster's own word (cluster.State…) is shown instead.
const (
	demoStarting = "starting"
	demoRunning  = "running"
	demoGone     = "gone"
)

// demoNode is one node of a demo's cluster: a process, and another one after that is gone.
type demoNode struct {
	name   string // its node.id
	dir    string
	listen demoAddrs

	bin          string
	args         []string
	restartAfter time.Duration // 0: a node that is gone stays gone
	tell         func(format string, args ...any)

	devices atomic.Int64 // of the fleet that are connected to it

	mu    sync.Mutex
	state string
	pid   int // 0 unless a process runs
	deaths,
	restarts int
}

func (n *demoNode) set(state string, pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state, n.pid = state, pid
}

// now returns the state and the process id.
func (n *demoNode) now() (state string, pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state, n.pid
}

// errKilled is a process that did not stop when it was told to.
type errKilled struct{ error }

// run keeps the node running until ctx ends, and returns when no process of it is left; the error is one that had to be
// killed. started gets the outcome of the first start. After a failure there run returns; later ones are told, and tried
// again.
func (n *demoNode) run(ctx context.Context, started chan<- error) error {
	runtime.LockOSThread() // the kernel kills the child with the thread that made it; this one outlives every child
	defer runtime.UnlockOSThread()
	p, err := n.start(ctx)
	if started <- err; err != nil {
		return onlyKilled(err)
	}
	for {
		if err == nil {
			err = n.watch(ctx, p)
		}
		if ctx.Err() != nil {
			return onlyKilled(err)
		}
		if n.restartAfter == 0 {
			n.tell("%s %v; it stays gone", n.name, err)
			<-ctx.Done()
			return nil
		}
		n.tell("%s %v; it is started again in %s", n.name, err, n.restartAfter)
		if !pauseFor(ctx, n.restartAfter) {
			return nil
		}
		if p, err = n.start(ctx); err == nil {
			n.restarted(p)
		} else {
			err = fmt.Errorf("does not start: %w", err)
		}
	}
}

func onlyKilled(err error) error {
	if killed := (errKilled{}); errors.As(err, &killed) {
		return killed
	}
	return nil
}

// start returns when the node is ready. After an error nothing runs.
func (n *demoNode) start(ctx context.Context) (*demoProcess, error) {
	p, err := startDemoProcess(n.bin, n.args, n.dir+".log")
	if err != nil {
		return nil, err
	}
	n.set(demoStarting, p.cmd.Process.Pid)
	if err := p.awaitReady(ctx); err != nil {
		defer n.set(demoGone, 0)
		return nil, errors.Join(err, p.stop())
	}
	n.set(demoRunning, p.cmd.Process.Pid)
	return p, nil
}

// watch returns when the process has ended: by itself, which the error says, or because ctx did.
func (n *demoNode) watch(ctx context.Context, p *demoProcess) error {
	defer n.set(demoGone, 0)
	select {
	case <-ctx.Done():
		return p.stop()
	case <-p.exited:
	}
	n.mu.Lock()
	n.deaths++
	n.mu.Unlock()
	return fmt.Errorf("(pid %d) is gone: %s", p.cmd.Process.Pid, p.cmd.ProcessState)
}

func (n *demoNode) restarted(p *demoProcess) {
	n.tell("%s was started again (pid %d)", n.name, p.cmd.Process.Pid)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.restarts++
}

// pauseFor waits; false if ctx ended first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
