package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/cluster"
	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

const (
	demoMaxNodes    = 5
	demoDrain       = 10 * time.Second // for the last acknowledgements: a takeover may be under way
	demoReadWithin  = 15 * time.Second // for the group to read what was acknowledged last
	demoRetry       = 200 * time.Millisecond
	demoEventsShown = 4
)

// runCluster is Run with several nodes: they start, then the group and the fleet, and all stop in reverse.
func (d *demoCmd) runCluster(ctx context.Context, g *Globals) (err error) {
	dir, remove, err := d.dataDir()
	if err != nil {
		return err
	}
	defer remove()
	site, err := newDemoSite(d.Nodes, dir, d.RestartAfter)
	if err != nil {
		return fail("prepare the nodes", err)
	}
	fmt.Fprintf(g.Out, "%d nodes start and form a cluster …\n", d.Nodes)
	if err := site.start(ctx); err != nil {
		advice := "with --data DIR the logs of the nodes are kept in DIR"
		if d.Data != "" {
			advice = "the logs of the nodes are " + filepath.Join(dir, "node*.log")
		}
		return interruptedOr(ctx, failure{err, advice})
	}
	defer func() { err = errors.Join(err, site.stop()) }()
	return d.showCluster(ctx, g, site)
}

// showCluster runs the fleet and the group against all nodes until ctx ends, then lets both come to their end and prints
// the closing figures.
func (d *demoCmd) showCluster(ctx context.Context, g *Globals, site *demoSite) error {
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx)) // of what goes on after an interrupt
	defer cancel()
	ctx, stop := context.WithCancel(ctx) // the fleet's, which also ends when nobody reads the board
	defer stop()
	client, err := newDemoClient(site.kafka(), kgo.KeepControlRecords(), kgo.MetadataMinAge(500*time.Millisecond)) // a takeover is noticed within that
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	from, err := endOffsets(ctx, client, defaultTopic)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	tally := newDemoTally(defaultTopic, from)
	screen := &demoScreen{demoCmd: d, g: g, site: site, board: &demoBoard{devices: map[string]*demoDevice{}, tally: tally}}
	screen.fleets, err = d.newFleets(firmwaresim.Config{
		Dial: site.dial, Drain: demoDrain, BackoffMax: 2 * time.Second, KeepAlive: 5 * time.Second, // so soon they leave a node that hangs
	})
	if err != nil {
		return err
	}

	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	helpers.Go(func() {
		for whole.Err() == nil {
			client.PollFetches(whole).EachRecord(func(r *kgo.Record) {
				if tally.add(r) {
					screen.board.add(time.Now(), r.Key, r.Value)
				}
			})
		}
	})
	helpers.Go(func() {
		for whole.Err() == nil {
			screen.view.Store(site.look(whole))
			pauseFor(whole, time.Second)
		}
	})
	ledger := runFleets(ctx, screen.fleets)
	err = screen.run(ctx)
	stop()
	return errors.Join(err, d.closeCluster(whole, g, client, tally, ledger, site))
}

// closeCluster waits for the last acknowledgements and for the group to have read the topic to its end.
func (d *demoCmd) closeCluster(ctx context.Context, g *Globals, client *kgo.Client, tally *demoTally, ledger <-chan *firmwaresim.Ledger, site *demoSite) error {
	fmt.Fprintln(g.Out, "\nThe fleet stops, the group reads to the end, then the nodes stop …")
	led := <-ledger
	ctx, cancel := context.WithTimeout(ctx, demoReadWithin)
	defer cancel()
	ends, err := endOffsets(ctx, client, tally.topic)
	if err == nil {
		err = tally.reach(ctx, ends)
	}
	deaths, restarts := site.figures()
	return errors.Join(err, tally.close(g.Out, led, deaths, restarts, err == nil))
}

// interruptedOr is nil once ctx has ended: what failed then, failed because of that.
func interruptedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// runFleets runs them until ctx ends; the ledger of all comes when every device has stopped.
func runFleets(ctx context.Context, fleets []*firmwaresim.Fleet) <-chan *firmwaresim.Ledger {
	ledgers := make(chan *firmwaresim.Ledger, len(fleets))
	for _, f := range fleets {
		go func() { ledgers <- f.Run(ctx) }()
	}
	whole := make(chan *firmwaresim.Ledger, 1)
	go func() {
		all := &firmwaresim.Ledger{}
		for range fleets {
			all.Devices = append(all.Devices, (<-ledgers).Devices...)
		}
		whole <- all
	}()
	return whole
}

// demoScreen draws the live board of a cluster.
type demoScreen struct {
	*demoCmd
	g      *Globals
	site   *demoSite
	board  *demoBoard
	fleets []*firmwaresim.Fleet
	view   atomic.Pointer[demoView]

	events []string // the last few
	grown  bool     // every topic has its replicas
}

// run draws until ctx ends: on a terminal every second and at every event, elsewhere every five seconds, and each event as
// a line of its own at once.
func (s *demoScreen) run(ctx context.Context) error {
	live, every := isTerminal(s.g.Out), 5*time.Second
	if live {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var b strings.Builder
		select {
		case <-ctx.Done():
			return nil
		case <-s.site.news:
			told := s.site.told()
			s.events = append(s.events, told...)
			s.events = s.events[max(0, len(s.events)-demoEventsShown):]
			if !live {
				b.WriteString(strings.Join(told, "\n") + "\n")
				break
			}
			s.draw(&b, time.Now(), true)
		case now := <-tick.C:
			s.draw(&b, now, live)
		}
		if _, err := s.g.Out.Write([]byte(b.String())); err != nil {
			return err
		}
	}
}

// draw fits everything into the screen's height, at the cost of devices.
func (s *demoScreen) draw(b *strings.Builder, now time.Time, live bool) {
	view := s.view.Load()
	if view == nil {
		view = &demoView{}
	}
	sent, acked := fleetStats(s.fleets)
	var top, bottom strings.Builder
	fmt.Fprintf(&top, "%d devices publish over MQTT to %d nodes (QoS 1): %d sent, %d acknowledged, each on disk at every in-sync replica first.\n\n", s.Devices, len(s.site.nodes), sent, acked)
	view.write(&top, s.site)
	for _, e := range s.events {
		fmt.Fprintln(&top, e)
	}
	fmt.Fprintf(&top, "\nConsumer group %q reads them over the Kafka protocol from all nodes:\n\n", demoGroup)
	s.hints(&bottom, view)
	columns, lines := screenSize(s.g.Out)
	rows := 0
	if live && lines > 0 {
		b.WriteString("\033[H\033[2J")
		rows = max(1, lines-2-strings.Count(top.String(), "\n")-strings.Count(bottom.String(), "\n")) // the table's head, the cursor's line
	}
	b.WriteString(fitted(top.String(), columns))
	s.board.write(b, now, columns, rows)
	b.WriteString(bottom.String()) // to be copied: not cut
}

// hints tell what to try, with the names of this moment.
func (s *demoScreen) hints(b *strings.Builder, view *demoView) {
	whole := view.whole()
	s.grown = s.grown || whole && view.replicas() >= view.status.Partitions.Total*min(len(s.site.nodes), demoReplicas)
	b.WriteString("\nLook for yourself, in another terminal:\n")
	n, pid := s.victim(view)
	switch {
	case n == nil || !whole:
		b.WriteString("  (kill a node once all that run are in sync again)\n")
	case !s.grown:
		b.WriteString("  (kill a node once partitions have their copies: some seconds)\n")
	default:
		fmt.Fprintf(b, "  kill -9 %d    # %s: others take over, nothing acknowledged is lost\n", pid, n.name)
	}
	at := s.site.nodes[0].listen.kafka
	for _, other := range s.site.nodes {
		if state, _ := other.now(); state == demoRunning && other != n {
			at = other.listen.kafka // one that is there after the kill, too
			break
		}
	}
	fmt.Fprintf(b, "  weir --bootstrap %s cluster status\n  kcat -b %s -C -t %s -o -5 -f '%%k  %%s\\n'\nCtrl-C ends it.\n", at, at, defaultTopic)
}

// victim is the node whose death shows the most and is survived: the controller, if another can follow it.
func (s *demoScreen) victim(view *demoView) (*demoNode, int) {
	var best *demoNode
	var bestPID int
	for _, n := range s.site.nodes {
		state, pid := n.now()
		k := view.broker(n.name)
		if state != demoRunning || k == nil || k.State != cluster.StateRunning {
			continue
		}
		only := k.ID == view.status.Controller && view.status.Quorum.Voters < 3
		if best == nil && !only || k.ID == view.status.Controller && !only {
			best, bestPID = n, pid
		}
	}
	return best, bestPID
}
