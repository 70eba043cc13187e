package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// errStaleProcess: the metadata knows a newer process of this broker, or none.
var errStaleProcess = errors.New("another process has registered under this broker's identity, or it was removed from the cluster")

// duties are what a broker among others does all the time: it renews its lease (E4), proposes in-sync sets (I1), and reports
// damage (E7). A broker alone has none of them.
type duties struct {
	mu    sync.Mutex
	lease *control.Lease
	// lost are the replicas whose log, as it is there now, has lost something, and why. The metadata is to show them as damaged.
	lost      map[log.PartitionID]string
	refilling map[log.PartitionID]struct{} // begun anew since, and damaged by this disk
	stalled   bool                         // a commit takes so long that somebody else should lead (E9)
	handing   atomic.Bool                  // the quorum, to another voter
	told      atomic.Bool                  // see OnHang: the disk hangs
	proposed  map[log.PartitionID]time.Duration
}

const (
	// isrEvery is how often leaders look who keeps up.
	isrEvery = 200 * time.Millisecond
	// isrCalm is how often while all of them do: an idle gateway has nothing else to do. It is well below replica.LagTime/2, see Leader.Calm.
	isrCalm = time.Second
	// isrAgain is when a proposal is sent again whose fate is not known (I2).
	isrAgain = 2 * time.Second
)

// damaged notes that this broker's replica has lost something (E7); why is empty where it may be the others who have. It is called from any
// goroutine.
func (d *duties) damaged(id log.PartitionID, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost == nil {
		d.lost = map[log.PartitionID]string{}
	}
	d.lost[id] = why
}

// spoils says whether the log that is there has lost something: what it tells is void, whatever was put aside before (E7).
func (d *duties) spoils(id log.PartitionID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, is := d.lost[id]
	return is
}

// anew notes that a log begins from nothing. What was put aside stays if something lay there before: it may be what an operator decides about (T4).
func (d *duties) anew(id log.PartitionID, before bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	why, was := d.lost[id]
	if !was {
		return
	}
	delete(d.lost, id)
	delete(d.refilling, id)
	if why != "" && !before {
		if d.refilling == nil {
			d.refilling = map[log.PartitionID]struct{}{}
		}
		d.refilling[id] = struct{}{}
	}
}

// taken notes that a log was made the leader's as it is, on an operator's word.
func (d *duties) taken(id log.PartitionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lost, id)
}

// HoldsLease says whether this broker may answer what only a leader that nobody has replaced may answer (E4, R2).
func (b *Broker) HoldsLease() bool {
	if b.duties.lease == nil {
		return true // alone: a one-voter quorum fences nobody
	}
	b.duties.mu.Lock()
	defer b.duties.mu.Unlock()
	return b.duties.lease.Holds(b.mono())
}

// renew keeps the lease until ctx ends.
func (b *Broker) renew(ctx context.Context) {
	for ctx.Err() == nil {
		b.duties.mu.Lock()
		wait := b.duties.lease.Due() - b.mono()
		if b.duties.stalled || b.Err() != nil { // nothing counts as sent
			wait = b.timing.Renew
		}
		b.duties.mu.Unlock()
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		b.renewOnce(ctx)
	}
}

func (b *Broker) renewOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timing.Renew, errors.New("no answer in time"))
	defer cancel()
	call := renewCall{Broker: b.id, Epoch: b.epoch, Applied: b.Image().Version, Gone: b.stalls() || b.Err() != nil} // A6, E9
	if call.Gone {
		b.handOverQuorum(ctx)
		_, _ = b.callRenew(ctx, &call) // if it is not heard, the lease runs out
		return
	}
	d := &b.duties
	d.mu.Lock()
	sent := b.mono()
	d.lease.Sent(sent)
	d.mu.Unlock()
	newest, err := b.callRenew(ctx, &call)
	switch {
	case err == nil:
		d.mu.Lock()
		d.lease.Answered(sent, newest)
		d.lease.Applied(b.Image().Version)
		holds := d.lease.Holds(sent)
		d.mu.Unlock()
		if holds { // before that it might serve by metadata from before the hang
			b.tellHang(false)
		}
	case errors.Is(err, errStaleProcess):
		b.fail(err)
	default:
		b.cfg.Logger.Debug("lease not renewed", "error", err)
	}
}

// stallAfter is the age of a commit from which on a disk counts as hung (E9).
const stallAfter = 10 * time.Second

// OnHang has fn called when the disk begins to hang while others could take over, and when it answers again and the broker has its lease back; the last
// one given counts. fn runs on the goroutine that renews the lease, and must not block.
func (b *Broker) OnHang(fn func(hangs bool)) { b.hangFn.Store(&fn) }

// stalls says whether the disk hangs: a broker that cannot commit must not keep its lease, and with it its leaderships.
func (b *Broker) stalls() bool {
	age := b.log.Stats().CommitAge
	if n := b.raft.Load(); n != nil {
		age = max(age, n.WriteAge())
	}
	return b.commits(age)
}

// commits takes the age of the commit under way.
func (b *Broker) commits(age time.Duration) (stalled bool) {
	d := &b.duties
	d.mu.Lock()
	was := d.stalled
	d.stalled = age > stallAfter
	stalled = d.stalled
	d.mu.Unlock()
	if stalled != was {
		b.cfg.Logger.Warn("the disk hangs: handing over until it answers", "hangs", stalled, "commit age", age)
		if !stalled {
			b.muteQuorum(false)
		} else if b.othersServe() {
			b.tellHang(true)
		}
	}
	return stalled
}

// tellHang tells who serves clients, once.
func (b *Broker) tellHang(hangs bool) {
	if fn := b.hangFn.Load(); fn != nil && b.duties.told.Swap(hangs) != hangs {
		(*fn)(hangs)
	}
}

// othersServe says whether another broker could serve clients.
func (b *Broker) othersServe() bool {
	return slices.ContainsFunc(b.Image().Brokers(), func(k *meta.Broker) bool { return k.ID != b.id && !k.Fenced && !k.Stopping && !k.Witness })
}

// handOverQuorum has another voter lead the quorum, if this node does: its metadata lies on the same disk, and what it has to order may never be
// written, while raft's heartbeats go on. It returns when that is done, or with ctx: then raft itself waits for the disk, and the others are to hear no more of it.
func (b *Broker) handOverQuorum(ctx context.Context) {
	if leads, _ := b.node.Leads(); !leads || !b.duties.handing.CompareAndSwap(false, true) {
		return
	}
	done := make(chan struct{})
	go func() { // ends with raft at the latest
		_ = b.node.HandOver() // nobody may be there to take it
		b.duties.handing.Store(false)
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		b.muteQuorum(true)
	}
}

// callRenew asks the active controller, here or elsewhere.
func (b *Broker) callRenew(ctx context.Context, call *renewCall) (newest uint64, err error) {
	leader, err := parseUUID(b.node.Leader())
	if err != nil {
		return 0, meta.ErrNotLeader
	}
	if leader == b.ident.UUID {
		return b.answerRenew(call)
	}
	var answer renewAnswer
	reply, err := b.net.call(ctx, leader, methodRenew, call, nil, &answer)
	if err != nil {
		return 0, err
	}
	reply.Release()
	return answer.Newest, nil
}

// applied has the lease count what was answered for metadata that is in force now.
func (d *duties) applied(version uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lease != nil {
		d.lease.Applied(version)
	}
}

// attend proposes in-sync sets and reports damage until ctx ends. All partitions share an entry (I6).
func (b *Broker) attend(ctx context.Context) {
	tick := time.NewTimer(isrEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		changes, calm := b.proposals()
		if calm {
			tick.Reset(isrCalm)
		} else {
			tick.Reset(isrEvery)
		}
		if len(changes) > 0 {
			b.submit(ctx, "propose in-sync replicas", &meta.AlterPartitions{BrokerID: b.id, BrokerEpoch: b.epoch, Changes: changes})
		}
		if lost := b.unreported(); len(lost) > 0 {
			b.submit(ctx, "report damaged replicas", &meta.ReportDamage{BrokerID: b.id, BrokerEpoch: b.epoch, Partitions: lost})
		}
	}
}

func (b *Broker) submit(ctx context.Context, doing string, cmd meta.Command) {
	ctx, cancel := context.WithTimeoutCause(ctx, isrAgain, errors.New("no answer in time"))
	defer cancel()
	if _, err := b.quorum.Propose(ctx, cmd); err != nil && !errors.Is(err, meta.ErrConflict) {
		b.cfg.Logger.Debug("cannot "+doing+" yet", "error", err)
	}
}

// proposals are the in-sync sets that should be, and those whose fate is not known for a while; calm where everybody is in sync and none will fall out soon.
func (b *Broker) proposals() (changes []meta.ISRChange, calm bool) {
	table, now := b.table.Load(), b.mono()
	if b.duties.proposed == nil {
		b.duties.proposed = map[log.PartitionID]time.Duration{}
	}
	pending := map[log.PartitionID]time.Duration{}
	calm = true
	for id, p := range table.open {
		ch, is, quiet := p.proposal(now)
		calm = calm && quiet
		if !is {
			continue
		}
		if at, sent := b.duties.proposed[id]; sent && now-at < isrAgain {
			pending[id] = at
			continue
		}
		changes = append(changes, ch)
	}
	slices.SortFunc(changes, byPartition)
	changes = changes[:min(len(changes), meta.MaxAlterations)]
	for i := range changes { // those that have no room come next
		pending[log.PartitionID{Topic: changes[i].Topic, Index: changes[i].Index}] = now
	}
	b.duties.proposed = pending
	return changes, calm
}

func byPartition(x, y meta.ISRChange) int {
	return cmp.Or(bytes.Compare(x.Topic[:], y.Topic[:]), cmp.Compare(x.Index, y.Index))
}

// proposal is what this leader wants its in-sync set to be, while that is another than it is; calm where there will be no other soon.
func (p *Partition) proposal(now time.Duration) (ch meta.ISRChange, is, calm bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == nil || p.refusal != nil {
		return ch, false, true
	}
	if p.leader.Tick(now) || p.durable.n > 0 { // the lease may hold again
		p.done.add(p)
	}
	calm = p.durable.n == 0 && p.leader.Calm(now)
	isr, epoch, ok := p.leader.Propose(now)
	if !ok {
		if isr, epoch = p.leader.Pending(); isr == nil {
			return ch, false, calm
		}
	}
	ch = meta.ISRChange{Topic: p.id.Topic, Index: p.id.Index, LeaderEpoch: p.epoch, PartitionEpoch: epoch}
	for _, m := range isr {
		ch.ISR = append(ch.ISR, meta.ISRMember{ID: m.ID, Epoch: m.Epoch, Proven: m.Proven})
	}
	return ch, true, calm
}

// unreported are the damaged replicas that the metadata does not show as such.
func (b *Broker) unreported() (names []meta.PartitionName) {
	im := b.Image()
	d := &b.duties
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range maps.Clone(d.lost) {
		t := im.TopicByID(id.Topic)
		switch {
		case t == nil || int(id.Index) >= len(t.Partitions) || !slices.Contains(t.Partitions[id.Index].Replicas, b.id): // nobody wants to know (C6)
			delete(d.lost, id)
			continue
		case slices.Contains(t.Partitions[id.Index].Damaged, b.id):
			continue
		}
		names = append(names, meta.PartitionName{Topic: id.Topic, Index: id.Index})
	}
	return names[:min(len(names), meta.MaxAlterations)] // the others come next
}

// damaged takes a replica that has lost something committed out of service (E7, T4). What it has stays where it is.
func (p *Partition) damaged(why string) {
	p.mu.Lock()
	p.step(fmt.Errorf("%w: %s", ErrOffline, why))
	p.mu.Unlock()
	p.fetch.Store(nil)
	p.b.cfg.Logger.Error("a replica is damaged: it takes no part until it is filled again", "topic", p.topic, "partition", p.id.Index, "error", why)
	p.lost("") // what the disk has may be right: it stays (T4)
}

// lost is duties.damaged, unless another log has taken the place of this one: who read it may be late.
func (p *Partition) lost(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.aside {
		p.b.duties.damaged(p.id, why)
	}
}

// unreadable notes that a replica cannot read what others need (E7): somebody else has to lead, and it is filled again.
func (p *Partition) unreadable(err error) {
	if errors.Is(err, log.ErrCorrupt) && len(p.b.replicasOf(p.id)) > 1 {
		p.b.cfg.Logger.Error("a replica's log is damaged", "topic", p.topic, "partition", p.id.Index, "error", err)
		p.lost(err.Error())
	}
}

// spoilt is unreadable for a reader, who goes on at another replica: where one is in sync it has what he wants. Where none is, he is told of the damage, and
// what is sound can still be read and written here.
func (p *Partition) spoilt(err error) error {
	if !errors.Is(err, log.ErrCorrupt) || !p.b.othersInSync(p.id) {
		return err
	}
	p.unreadable(err)
	return fmt.Errorf("%w: its log is damaged here, and another replica takes over: %s", ErrOffline, err)
}

func (b *Broker) othersInSync(id log.PartitionID) bool {
	t := b.Image().TopicByID(id.Topic)
	return t != nil && int(id.Index) < len(t.Partitions) && slices.ContainsFunc(t.Partitions[id.Index].ISR, func(other int32) bool { return other != b.id })
}

func (b *Broker) replicasOf(id log.PartitionID) []int32 {
	t := b.Image().TopicByID(id.Topic)
	if t == nil || int(id.Index) >= len(t.Partitions) {
		return nil
	}
	return t.Partitions[id.Index].Replicas
}
