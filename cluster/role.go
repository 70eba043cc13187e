package cluster

import (
	"fmt"
	"slices"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// How a replica comes to lead, to follow, and to do neither. The applier calls these, in the order of the metadata.

// lead begins a term on an open log (A3, A7).
func (p *Partition) lead(t replica.Term) error {
	p.role.Lock()
	defer p.role.Unlock()
	p.fetch.Store(nil)
	if err := p.log.BeginEpoch(log.Epoch(t.Epoch)); err != nil {
		return fmt.Errorf("begin epoch %d: %w", t.Epoch, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Start, t.HighWatermark = int64(p.log.LogEnd()), max(p.knownHW(), int64(p.log.HighWatermark()))
	p.epoch, p.leader, p.follower, p.refusal, p.resting = log.Epoch(t.Epoch), replica.Lead(t, p.mono()), nil, nil, 0
	p.leader.Appended(int64(p.log.Durable()), int64(p.log.LogEnd()), int32(p.log.DurableEpoch()))
	p.showHW()
	return nil
}

// follow begins a term of another broker's, or of nobody's: then nobody is asked. unclean says that a leader was chosen uncleanly since the
// replica last agreed with one (T4).
func (p *Partition) follow(node int32, process int64, epoch log.Epoch, unclean bool) {
	p.role.Lock()
	defer p.role.Unlock()
	p.fetch.Store(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	hw := max(p.knownHW(), int64(p.log.HighWatermark()))
	p.step(ErrNotLeader)
	p.epoch = epoch
	p.follower = replica.Follow(node, process, int32(epoch), hw, unclean)
}

// step ends a term: nothing is appended any more, and who waits is told why, on the completer. What waited may be committed later or not.
// p.mu is held.
func (p *Partition) step(reason error) {
	p.refusal, p.leader, p.follower = reason, nil, nil
	left := p.committed.takeAll(p.durable.takeAll(nil))
	if len(left) == 0 {
		return
	}
	why := p.wrap("commit in", reason)
	p.done.call(func() {
		for i := range left {
			left[i].w.Committed(left[i].seq, left[i].n, why)
		}
	})
}

// close refuses appends from now on; those before it are still committed and answered.
func (p *Partition) close(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusal == nil {
		p.refusal = reason
	}
}

// stop is close, and has everybody who waits told the reason.
func (p *Partition) stop(reason error) {
	p.mu.Lock()
	if p.refusal != nil && p.leader != nil {
		reason = p.refusal // what close said
	}
	p.step(reason)
	p.mu.Unlock()
	p.feed() // followers that wait for news hear of it
}

// was says whether the replica has the role already.
func (p *Partition) was(epoch log.Epoch, leads bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return false
	}
	if leads {
		return p.leader != nil
	}
	return p.follower != nil
}

// Leads says whether this broker leads the partition now.
func (p *Partition) Leads() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader != nil && p.refusal == nil
}

// addFeed has slot told of news from now on.
func (p *Partition) addFeed(slot *feedSlot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := append(slices.Clone(p.feeding()), slot)
	p.feeds.Store(&list)
}

func (p *Partition) dropFeed(slot *feedSlot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(p.feeding()), func(s *feedSlot) bool { return s == slot })
	p.feeds.Store(&list)
}

func (p *Partition) feeding() []*feedSlot {
	if l := p.feeds.Load(); l != nil {
		return *l
	}
	return nil
}

// feed tells followers that there may be news. It never blocks; the log's committer calls it before it writes (H2).
func (p *Partition) feed() {
	for _, slot := range p.feeding() {
		slot.mark()
	}
}
