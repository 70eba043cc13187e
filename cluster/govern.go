package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// government is the active controller: it exists while this node leads the metadata quorum (C5). What to do is decided in
// cluster/control; this is its clock, its ears and its hands.
type government struct {
	mu   sync.Mutex
	c    *control.Controller // nil while this node does not lead, or has not passed its barrier
	poke chan struct{}       // holds a token when c has something to look at
	now  func() time.Duration

	ran   time.Duration // when this process was last known to run
	doubt time.Duration // until then it answers no renewal
	mute  bool          // it is out of the quorum's sight
}

// governStep bounds one command of the controller's.
const governStep = 10 * time.Second

// govern runs the controller whenever this node leads the quorum, until ctx ends.
func (b *Broker) govern(ctx context.Context) {
	for ctx.Err() == nil {
		leads, moved := b.node.Leads()
		if leads {
			b.rule(ctx, moved)
			continue
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// rule is one term of this node's lead.
func (b *Broker) rule(ctx context.Context, moved <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // what is proposed in a lead that is over would wait for its time limit
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := b.node.Barrier(ctx); err != nil {
		select {
		case <-time.After(proposeAgain):
		case <-ctx.Done():
		}
		return
	}
	g := &b.government
	g.mu.Lock()
	g.c = control.Begin(b.timing, b.mono(), b.node.Image())
	g.ran, g.doubt = b.mono(), 0
	g.mu.Unlock()
	go b.watchClock(ctx)
	b.cfg.Logger.Info("this node is the active controller", "node", b.cfg.NodeID)
	defer func() {
		g.mu.Lock()
		g.c = nil
		g.mu.Unlock()
	}()
	for ctx.Err() == nil {
		changed := b.imageChanged()
		g.mu.Lock()
		orders := g.c.Step(b.mono(), b.node.Image())
		wait := g.c.Next(b.mono()) - b.mono()
		g.mu.Unlock()
		b.obey(ctx, orders)
		if len(orders.Commands) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-g.poke:
		case <-time.After(max(wait, 10*time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

// watchClock notes that this process runs, until ctx ends.
func (b *Broker) watchClock(ctx context.Context) {
	for ctx.Err() == nil {
		b.government.mu.Lock()
		b.government.runs(b.mono(), b.timing)
		b.government.mu.Unlock()
		select {
		case <-time.After(b.timing.Renew / 2):
		case <-ctx.Done():
		}
	}
}

// runs notes that the process runs now, and says whether it may still answer renewals. One that has been stopped does not know yet that another one governs, and
// has fenced: it finds that out from the quorum, whose answers from before may still be unread. Who renews with it meanwhile, itself too, would
// read as a leader that has been replaced (R2). A pause of Fence-Stop does no harm: nobody is fenced before Fence, and a lease lasts for Stop. g.mu is held.
func (g *government) runs(now time.Duration, t control.Timing) bool {
	if now-g.ran > t.Fence-t.Stop {
		g.distrust(now, t)
	}
	g.ran = now
	return now >= g.doubt && !g.mute
}

// distrust has renewals wait until the quorum can have told who governs. g.mu is held.
func (g *government) distrust(now time.Duration, t control.Timing) {
	g.doubt = now + t.Quorum.Heartbeat + t.Quorum.Lease
}

// muteQuorum takes this node out of the quorum's sight while its disk hangs, or back in (E9). The others choose another controller meanwhile, so that this one
// answers no renewals before it can have heard of that (R2).
func (b *Broker) muteQuorum(mute bool) {
	n, g := b.raft.Load(), &b.government
	if n == nil {
		return
	}
	g.mu.Lock()
	was := g.mute
	g.mute = mute
	g.distrust(b.mono(), b.timing)
	g.mu.Unlock()
	if was != mute {
		b.cfg.Logger.Warn("out of the metadata quorum while the disk hangs", "out", mute)
		n.Mute(mute)
	}
}

// obey proposes and asks. The first command that fails ends it: those behind it were decided on what it would have changed.
func (b *Broker) obey(ctx context.Context, o control.Orders) {
	for _, q := range o.Ask {
		go b.ask(ctx, q) // ends with its call; an answer that comes late is for nobody
	}
	for _, cmd := range o.Commands {
		b.restLeaders(ctx, cmd)
		step, cancel := context.WithTimeoutCause(ctx, governStep, errors.New("no majority in time"))
		_, err := b.node.Propose(step, cmd)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				b.cfg.Logger.Warn("the controller cannot change the metadata, deciding again", "change", fmt.Sprintf("%T", cmd), "error", err)
				select {
				case <-time.After(proposeAgain):
				case <-ctx.Done():
				}
			}
			return
		}
		b.cfg.Logger.Info("controller", "change", describe(cmd))
	}
}

// describe is a command as a person reads it.
func describe(cmd meta.Command) string {
	switch c := cmd.(type) {
	case *meta.FenceBrokers:
		return fmt.Sprintf("fence %d brokers: %v", len(c.Brokers), c.Brokers)
	case *meta.UnfenceBroker:
		return fmt.Sprintf("broker %d is back", c.BrokerID)
	case *meta.ElectLeaders:
		return fmt.Sprintf("elect leaders of %d partitions", len(c.Elect))
	case *meta.Reassign:
		return fmt.Sprintf("give %d partitions of topic %s other replicas", len(c.Moves), c.ID)
	}
	return fmt.Sprintf("%T", cmd)
}

// ask gets the ends of a broker's logs (E6).
func (b *Broker) ask(ctx context.Context, q control.Question) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timing.Fence, errors.New("no answer in time"))
	defer cancel()
	call := logsCall{}
	for _, name := range q.Partitions {
		call.Parts = append(call.Parts, toWire(log.PartitionID{Topic: name.Topic, Index: name.Index}))
	}
	target := b.node.Image().Broker(q.BrokerID)
	if target == nil {
		return
	}
	var answer logsAnswer
	if target.UUID == b.ident.UUID {
		select {
		case <-b.registered:
			answer = b.answerLogs(&call)
		case <-ctx.Done():
			return
		}
	} else {
		reply, err := b.net.call(ctx, target.UUID, methodLogs, call, nil, &answer)
		if err != nil {
			b.cfg.Logger.Debug("a broker does not say where its logs end", "broker", q.BrokerID, "error", err)
			return
		}
		reply.Release()
	}
	states := make([]control.LogState, 0, len(answer.Logs))
	for i := range answer.Logs {
		l := &answer.Logs[i]
		if id, ok := l.id(); ok {
			states = append(states, control.LogState{
				Partition:      meta.PartitionName{Topic: id.Topic, Index: id.Index},
				PartitionEpoch: l.PartitionEpoch, EpochEntry: log.Epoch(l.Entry), End: log.Offset(l.End),
			})
		}
	}
	g := &b.government
	g.mu.Lock()
	if g.c != nil {
		g.c.Logs(b.mono(), q.BrokerID, answer.Epoch, states)
	}
	g.mu.Unlock()
	g.nudge()
}

func (g *government) nudge() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// governed is a quorum's node whose commands of others the controller holds back while it is not sure of all brokers: an election, or an ELR
// that is emptied, must not come before the fence of whoever has just died (replica/model, holes 5 and 6).
type governed struct {
	metadata
	g    *government
	rest func(ctx context.Context, cmd meta.Command) // see restLeaders
}

// Propose implements metadata.
func (n governed) Propose(ctx context.Context, cmd meta.Command) (any, error) {
	if delicate(cmd) {
		if err := n.g.settle(ctx, n.metadata); err != nil {
			return nil, err
		}
	}
	if leads, _ := n.Leads(); leads {
		n.rest(ctx, cmd)
	}
	return n.metadata.Propose(ctx, cmd)
}

// delicate: it may elect somebody, or empty an ELR.
func delicate(cmd meta.Command) bool {
	switch c := cmd.(type) {
	case *meta.StopBroker, *meta.Reassign, *meta.ElectLeaders:
		return true
	case *meta.AlterConfigs:
		return c.MinInsync != 0
	}
	return false
}

// settleEvery is how often it is looked whether the controller is sure again.
const settleEvery = 50 * time.Millisecond

// settle waits until the controller here is sure of all brokers. Where it is not active somebody else's is.
func (g *government) settle(ctx context.Context, node metadata) error {
	for {
		g.mu.Lock()
		sure := g.c == nil || g.c.Settled(g.now(), node.Image())
		g.mu.Unlock()
		if sure {
			return nil
		}
		select {
		case <-time.After(settleEvery):
		case <-ctx.Done():
			return fmt.Errorf("%w: the controller does not hear all brokers yet: %w", meta.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// answerLogs tells where this broker's logs end.
func (b *Broker) answerLogs(call *logsCall) logsAnswer {
	table := b.table.Load()
	a := logsAnswer{Epoch: b.epoch}
	for _, w := range call.Parts {
		id, ok := w.id()
		p := table.open[id]
		if !ok || p == nil || p.log.Damaged() != "" {
			continue
		}
		entry, end := p.log.DurableEpoch(), p.log.Durable()
		a.Logs = append(a.Logs, logTail{
			wirePartition: w, Entry: int32(entry), End: int64(end),
			PartitionEpoch: table.image.TopicByID(id.Topic).Partitions[id.Index].PartitionEpoch,
		})
	}
	return a
}

// answerRenew takes a renewal where this node is the active controller.
func (b *Broker) answerRenew(call *renewCall) (newest uint64, err error) {
	g := &b.government
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.c == nil {
		return 0, meta.ErrNotLeader
	}
	im := b.node.Image()
	if known := im.Broker(call.Broker); known == nil || known.Epoch != call.Epoch {
		return 0, fmt.Errorf("broker %d, process %d: %w", call.Broker, call.Epoch, errStaleProcess)
	}
	if call.Gone {
		g.c.Gone(b.mono(), call.Broker, call.Epoch)
	} else {
		g.c.Heard(b.mono(), call.Broker, call.Epoch)
	}
	g.nudge()
	if !g.runs(b.mono(), b.timing) {
		return 0, fmt.Errorf("this node was stopped, and waits for the quorum: %w", meta.ErrNotLeader)
	}
	return im.Version, nil
}
