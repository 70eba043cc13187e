package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/bridge/uplink"
)

// A shard that takes long to end holds up the one that follows it, and no other.
func TestEndingShardHoldsUpItself(t *testing.T) {
	n, _ := edgeOf(t, t.TempDir(), "", func(c *Config) {
		c.Uplinks = []uplink.Config{{Name: "first", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}, {Name: "second", To: "kafka://127.0.0.1:1", Topics: []string{"telemetry"}}}
	})
	limit := time.After(30 * time.Second)
	running := func(name string) *runningShard {
		for {
			n.uplinks.mu.Lock()
			r := n.uplinks.running[shardName{name, 0}]
			n.uplinks.mu.Unlock()
			if r != nil {
				return r
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-limit:
				t.Fatalf("nobody runs %s", name)
			}
		}
	}
	// One of `+"`first`"+` that does not end.
	running("second")
	old := running("first")
	stuck := &runningShard{name: old.name, done: make(chan struct{})}
	n.uplinks.mu.Lock()
	n.uplinks.ending = append(n.uplinks.ending, stuck)
	n.uplinks.mu.Unlock()
	changed := append([]uplink.Config(nil), n.uplinks.list()...)
	for i := range changed {
		changed[i].OnFull = "drop-oldest"
	}
	n.uplinks.reload(changed)
	state := func(name string) string { return running(name).forwarder.Status().State }
	for running("first") == old || state("second") != "failing" { // there is no target: it has tried
		select {
		case <-time.After(10 * time.Millisecond):
		case <-limit:
			t.Fatalf("first: %s, second: %s", state("first"), state("second"))
		}
	}
	if got := state("first"); got != "connecting" {
		t.Errorf("the one that has to wait is %s", got)
	}
	close(stuck.done)
	for state("first") != "failing" {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-limit:
			t.Fatal("it waits for ever")
		}
	}
}

// Nodes that do not answer hold up an answer together, not one after the other.
func TestNodesAreAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		all := askAll(t.Context(), []int32{1, 2, 3, 4}, func(ctx context.Context, node int32, answer *int) error {
			if node == 3 {
				*answer = 7
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if took := time.Since(began); took > uplinkNodeWait || len(all) != 4 || all[2].answer != 7 || all[2].err != nil || all[0].err == nil || all[3].node != 4 {
			t.Errorf("%s: %+v", took, all)
		}
	})
}
