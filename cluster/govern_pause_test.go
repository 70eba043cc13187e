package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
)

// R2: a controller that was stopped for long enough to be replaced, and to have others fenced, answers no renewal until the quorum has told it.
func TestAControllerThatWasStoppedAnswersNoRenewal(t *testing.T) {
	for _, timing := range []control.Timing{control.FastTiming, control.LANTiming, control.EdgeTiming} {
		g := government{ran: time.Minute}
		now := time.Minute + timing.Fence - timing.Stop
		if !g.runs(now, timing) {
			t.Errorf("a pause of %s, after which nobody can have been fenced, keeps it from answering", now-time.Minute)
		}
		now += timing.Fence - timing.Stop + 1
		end := now + timing.Quorum.Heartbeat + timing.Quorum.Lease
		if g.runs(now, timing) {
			t.Error("it answers right after a long pause")
		}
		for ; now < end; now += timing.Renew / 2 {
			if g.runs(now, timing) {
				t.Errorf("it answers %s before its doubt ends", end-now)
			}
		}
		if !g.runs(end, timing) {
			t.Error("it answers no more")
		}
	}
}

// R2, E9: a controller whose disk hangs answers no renewal while the others choose another, nor before it can have heard of that.
func TestAControllerOutOfTheQuorumAnswersNoRenewal(t *testing.T) {
	timing := control.FastTiming
	g := government{ran: time.Minute}
	if !g.runs(time.Minute, timing) {
		t.Fatal("it answers no renewal to begin with")
	}
	g.mute = true
	if g.runs(time.Minute+timing.Renew, timing) {
		t.Error("it answers while it is out")
	}
	g.mute = false
	back := time.Minute + 2*timing.Renew
	g.distrust(back, timing)
	end := back + timing.Quorum.Heartbeat + timing.Quorum.Lease
	for now := back; now < end; now += timing.Renew / 2 {
		if g.runs(now, timing) {
			t.Error("it does not wait, back in, for what the quorum says")
		}
	}
	if !g.runs(end, timing) {
		t.Error("it answers no more")
	}
}

// R2: that holds for its own renewals too, which reach it without a call.
func TestAControllerInDoubtRefusesRenewals(t *testing.T) {
	g := openGroup(t, 1)
	b := g.brokers[0]
	call := &renewCall{Broker: b.id, Epoch: b.epoch}
	g.await("it governs", func() bool {
		_, err := b.answerRenew(call)
		return err == nil
	})
	b.government.mu.Lock()
	b.government.doubt = b.mono() + time.Hour
	b.government.mu.Unlock()
	if _, err := b.answerRenew(call); !errors.Is(err, meta.ErrNotLeader) {
		t.Errorf("in doubt: %v", err)
	}
	if _, err := b.callRenew(within(t), call); !errors.Is(err, meta.ErrNotLeader) {
		t.Errorf("in doubt, its own: %v", err)
	}
}
