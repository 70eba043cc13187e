package gossip

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// joinRest is how many times less often addresses are tried that were not joined yet while others are alive.
const joinRest = 12

// joinOn joins, and goes on for ever: with every address while this node is alone, else with those that it has not reached since. Nodes that found
// each other before they reached the rest would stay apart from it otherwise.
func (g *Gossip) joinOn(ctx context.Context) {
	tick := time.NewTicker(g.cfg.JoinEvery)
	defer tick.Stop()
	joined := map[string]bool{}
	g.join(ctx, joined)
	close(g.tried)
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-g.serf.ShutdownCh():
			return
		case <-ctx.Done():
			return
		}
		alone := g.alone()
		if alone {
			clear(joined)
		}
		if alone || n%joinRest == 0 {
			g.join(ctx, joined)
		}
	}
}

func (g *Gossip) alone() bool {
	return !slices.ContainsFunc(g.Members(), func(m Member) bool { return m.ID != g.cfg.ID && m.Status == Alive })
}

// join asks the configured addresses that are not among joined.
func (g *Gossip) join(ctx context.Context, joined map[string]bool) {
	for _, addr := range g.cfg.Join {
		if joined[addr] || ctx.Err() != nil {
			continue
		}
		if _, err := g.serf.Join([]string{addr}, false); err != nil {
			g.cfg.Logger.Debug("cannot join yet", "peer", addr, "error", err)
			g.met(err)
			continue
		}
		joined[addr] = true
		g.cfg.Logger.Info("joined", "peer", addr)
		if !g.alone() { // the address was not its own
			g.met(nil)
		}
		g.announce()
	}
}

// met notes whether an attempt to join ended at another cluster. An address that does not answer says nothing.
func (g *Gossip) met(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		g.stranger = nil
	case g.refusal != nil && strings.Contains(err.Error(), g.refusal.Error()): // memberlist keeps the text only
		g.stranger = g.refusal
	}
}

// Tried is closed once the addresses to join were tried for the first time.
func (g *Gossip) Tried() <-chan struct{} { return g.tried }

// Stranger says that the nodes to join belong to another cluster than this node; nil when they do not, or none was reached.
func (g *Gossip) Stranger() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stranger == nil {
		return nil
	}
	return fmt.Errorf("join: %w: start this node with an empty data directory to join that cluster, or correct its addresses to join", g.stranger)
}
