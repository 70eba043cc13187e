package cluster

import (
	"slices"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// How a replica that has lost something is filled again (E7): once the metadata shows it as damaged, and somebody else leads, its files are put
// aside, and it begins anew from nothing, as a follower that nobody counts on. The files that were put aside are removed when it is in
// sync again and the damage was one of its own disk; where the leader's log and its own did not agree on what was committed (T4) they stay, and
// an operator decides.

// refillable says whether a replica is to begin from nothing, and has not yet.
func (b *Broker) refillable(w *wanted) bool {
	if !slices.Contains(w.Damaged, b.id) || w.Leader == b.id || w.Leader == meta.NoLeader {
		return false
	}
	// What was put aside is there until it is in sync again, or for good (T4): then this log is the new one, unless it has lost something as well.
	return b.log.Partition(w.id) != nil && (b.duties.spoils(w.id) || !b.log.HasAside(w.id, w.topic.Name))
}

// putAside ends the replica, if it is open, and keeps its files under another name.
func (b *Broker) putAside(w *wanted, p *Partition) error {
	if p != nil {
		p.fetch.Store(nil)
		p.role.Lock() // nothing of a leader's is being taken
		defer p.role.Unlock()
		p.stop(ErrNotLeader)
		p.mu.Lock()
		p.aside = true
		p.mu.Unlock()
	}
	b.cfg.Logger.Warn("putting a damaged replica aside, to be filled again from its leader", "topic", w.topic.Name, "partition", w.id.Index, "leader", w.Leader)
	before := b.log.HasAside(w.id, w.topic.Name)
	if err := b.log.PutAside(w.id); err != nil {
		return err
	}
	b.duties.anew(w.id, before)
	return nil
}

// refilled removes what was put aside of replicas that are in sync again.
func (b *Broker) refilled(all []wanted) {
	for i := range all {
		w := &all[i]
		if !slices.Contains(w.ISR, b.id) || !b.duties.mended(w.id) {
			continue
		}
		b.cfg.Logger.Info("a replica is whole again", "topic", w.topic.Name, "partition", w.id.Index)
		if err := b.log.RemoveAside(w.id, w.topic.Name); err != nil {
			b.cfg.Logger.Warn("cannot remove what was put aside of a replica", "topic", w.topic.Name, "partition", w.id.Index, "error", err)
		}
	}
}

// mended says whether a replica was damaged by its own disk in this process, and forgets that.
func (d *duties) mended(id log.PartitionID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, was := d.refilling[id]
	delete(d.refilling, id)
	return was
}
