package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// demoSite is the cluster of a demo: N processes of this binary on loopback.
type demoSite struct {
	nodes  []*demoNode
	cancel context.CancelFunc // stops the nodes
	ended  sync.WaitGroup

	dials atomic.Uint64 // connections that were asked for

	mu      sync.Mutex
	stopErr error         // of nodes that had to be killed
	events  []string      // not yet taken
	news    chan struct{} // an event waits
}

// newDemoSite prepares n nodes that keep their data and logs in dir.
func newDemoSite(n int, dir string, restartAfter time.Duration) (*demoSite, error) {
	if err := checkDemoDir(n, dir); err != nil {
		return nil, err
	}
	bin, err := os.Executable()
	if err != nil {
		return nil, err
	}
	listen, err := demoPorts(n)
	if err != nil {
		return nil, err
	}
	s := &demoSite{news: make(chan struct{}, 1)}
	for i, a := range listen {
		name := demoName(i + 1)
		var join []string
		for k, peer := range listen {
			if k != i {
				join = append(join, peer.gossip)
			}
		}
		node := &demoNode{
			name: name, dir: filepath.Join(dir, name), listen: a, bin: bin, restartAfter: restartAfter, tell: s.tell, state: demoStarting,
		}
		node.args = []string{
			"serve", "--node-id", name, "--data", node.dir, "--mqtt", a.mqtt, "--mqtt-ws", "", "--kafka", a.kafka, "--http", a.http,
			"--gossip", a.gossip, "--raft", a.raft, "--join", strings.Join(join, ","), "--expect", fmt.Sprint(n), "--profile", "fast",
		}
		s.nodes = append(s.nodes, node)
	}
	return s, nil
}

func demoName(i int) string { return fmt.Sprintf("node%d", i) }

// checkDemoDir refuses a directory whose cluster has other nodes than those that would run.
func checkDemoDir(n int, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "meta.cbor")); err == nil {
		return usagef("--data %s: holds the data of a single node: leave --nodes out, or name another directory", dir)
	}
	for i := n + 1; i <= demoMaxNodes; i++ {
		if _, err := os.Stat(filepath.Join(dir, demoName(i))); err == nil {
			return usagef("--data %s: holds the data of %s too, which would be missed: say --nodes %d or more, or name another directory", dir, demoName(i), i)
		}
	}
	return nil
}

// start returns nil once every node is ready. After an error nothing runs any more.
func (s *demoSite) start(ctx context.Context) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx)) // an interrupt ends the fleet first, then the nodes
	s.cancel = cancel
	defer context.AfterFunc(ctx, cancel)() // but not while they start
	started := make([]chan error, len(s.nodes))
	for i, n := range s.nodes {
		started[i] = make(chan error, 1)
		s.ended.Go(func() {
			if err := n.run(life, started[i]); err != nil {
				s.mu.Lock()
				s.stopErr = errors.Join(s.stopErr, fmt.Errorf("stop %s: %w", n.name, err))
				s.mu.Unlock()
			}
		})
	}
	return s.awaitStarted(ctx, started)
}

// awaitStarted stops everything when a node cannot start: the others would wait for it.
func (s *demoSite) awaitStarted(ctx context.Context, started []chan error) error {
	type outcome struct {
		node string
		err  error
	}
	outcomes := make(chan outcome, len(started))
	for i, c := range started {
		s.ended.Go(func() { outcomes <- outcome{s.nodes[i].name, <-c} })
	}
	for range started {
		o := <-outcomes
		if o.err == nil {
			continue
		}
		if err := s.stop(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("start %s: %w", o.node, o.err)
	}
	return nil
}

// stop ends every process in order and waits for it.
func (s *demoSite) stop() error {
	s.cancel()
	s.ended.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopErr
}

// tell notes what the user should know; it never waits.
func (s *demoSite) tell(format string, args ...any) {
	s.mu.Lock()
	s.events = append(s.events, time.Now().Format("15:04:05")+"  "+fmt.Sprintf(format, args...))
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// told takes the events since the last call.
func (s *demoSite) told() (events []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, s.events = s.events, nil
	return events
}

// figures are how often a node was gone, and started again.
func (s *demoSite) figures() (deaths, restarts int) {
	for _, n := range s.nodes {
		n.mu.Lock()
		deaths, restarts = deaths+n.deaths, restarts+n.restarts
		n.mu.Unlock()
	}
	return deaths, restarts
}

func (s *demoSite) kafka() (addrs []string) {
	for _, n := range s.nodes {
		addrs = append(addrs, n.listen.kafka)
	}
	return addrs
}
