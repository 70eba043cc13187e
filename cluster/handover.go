package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
)

// A broker that is about to stop has others lead what it leads (E8), in the same good order as a drain (rest.go), and while the rooms above still serve: what
// they have taken is committed and answered, and clients are told by a node that is there who leads instead. It is for this process only: the next one of the
// broker is given its leaderships back as any that was away.
//
//	stopping broker                controller                      others
//	── StopBroker ───────────────► has it rest (rest.go)
//	   out of leaderships and
//	   in-sync sets ◄───────────── applied ──────────────────────► lead
//	the quorum, if it leads it ──────────────────────────────────► a voter governs
//	rooms stop, the log closes (Close)
//	── gone ─────────────────────────────────────────────────────► is fenced at once

// HandOver is the first part of a controlled stop. It returns when others lead what they can, or its time is over, which it says in the log; at once where nobody
// is there to take over. Call it while rooms serve, and Close behind them, which calls it if nobody has.
func (b *Broker) HandOver() { b.handOverOnce.Do(b.handOver) }

// handOverWithin is how long a stop waits for others to take over: until its lease would have ended, if nobody answers.
func (b *Broker) handOverWithin() time.Duration { return restAnswer + b.timing.Stop }

func (b *Broker) handOver() {
	if b.Err() != nil || !b.heirs() {
		return
	}
	within := b.handOverWithin()
	ctx, cancel := context.WithTimeoutCause(context.Background(), within, errors.New("handing over took too long"))
	defer cancel()
	began := b.mono()
	_, err := b.quorum.Propose(ctx, &meta.StopBroker{BrokerID: b.id, BrokerEpoch: b.epoch})
	if err != nil && !errors.Is(err, meta.ErrConflict) {
		b.cfg.Logger.Warn("stopping without handing over", "within", within, "error", err)
		return
	}
	im := b.node.Image()
	if err := b.awaitTable(ctx, func(t *partitionTable) bool { return t.image.Version >= im.Version }); err != nil {
		b.cfg.Logger.Warn("stopping without knowing that others took over", "within", within, "error", err)
		return
	}
	b.governed, _ = b.node.Leads()
	b.handOverQuorum(ctx)
	b.cfg.Logger.Info("handed over", "took", b.mono()-began, "kept", b.Stats().Leaders)
}

// stopping says whether others are to lead instead.
func (b *Broker) stopping() bool {
	k := b.Image().Broker(b.id)
	return k != nil && k.Epoch == b.epoch && k.Stopping
}

// heirs says whether somebody may be there who could take over.
func (b *Broker) heirs() bool {
	if b.cfg.Peer == nil || b.id == 0 {
		return false
	}
	alive := func(string) bool { return true } // without gossip the metadata's word counts
	if g := b.port.gossip; g != nil {
		seen := map[string]bool{}
		for _, m := range g.Members() {
			seen[m.ID] = m.Status == gossip.Alive
		}
		alive = func(id string) bool { return seen[id] }
	}
	return slices.ContainsFunc(b.node.Image().Brokers(), func(k *meta.Broker) bool { return k.ID != b.id && !k.Fenced && alive(k.UUID.String()) })
}

// sayGone gives the quorum to another voter, and tells the controller, then, that this process serves nothing any more, so that nobody waits for its
// lease to end.
func (b *Broker) sayGone() {
	if !b.heirs() {
		return
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*b.timing.Renew, errors.New("no answer in time"))
	defer cancel()
	led, _ := b.node.Leads()
	b.handOverQuorum(ctx)
	for {
		call := renewCall{Broker: b.id, Epoch: b.epoch, Gone: true}
		_, err := b.callRenew(ctx, &call)
		if err == nil {
			return
		}
		if led || b.governed { // who is to govern next may not have begun yet
			select {
			case <-time.After(b.timing.Renew / 4):
				continue
			case <-ctx.Done():
			}
		}
		b.cfg.Logger.Debug("cannot say that this broker stops", "error", err)
		return
	}
}
