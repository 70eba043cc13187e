package control

import (
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// prefer gives partitions back to their first replica, while all are heard. It is damped: each change of a leader stops its partition for a moment, and
// a broker that has just come back may fall again.
func (c *Controller) prefer(now time.Duration, d *draft) {
	cmd := &meta.ElectLeaders{Kind: meta.ElectPreferred}
	ready := never // when something that is wanted now may be done
	for _, t := range d.im.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			id, wanted := prefers(d.im, p)
			if !wanted {
				continue
			}
			at := max(c.preferred+preferEvery, c.peers[id].up+backFor)
			if at > now {
				ready = min(ready, at)
				continue
			}
			if len(cmd.Elect) == maxPreferred {
				ready = min(ready, now+preferEvery)
				continue
			}
			cmd.Elect = append(cmd.Elect, meta.Choice{Topic: t.ID, Index: int32(i), PartitionEpoch: p.PartitionEpoch, Leader: id})
		}
	}
	if len(cmd.Elect) > 0 && d.add(cmd) {
		c.preferred = now
	}
	c.wakeAt(ready)
}

// PlanPreferred gives all partitions back to their first replica where that is possible at once; nil where none is to be given back.
func PlanPreferred(im *meta.Image) *meta.ElectLeaders {
	cmd := &meta.ElectLeaders{Kind: meta.ElectPreferred}
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if id, wanted := prefers(im, p); wanted && len(cmd.Elect) < meta.MaxAlterations {
				cmd.Elect = append(cmd.Elect, meta.Choice{Topic: t.ID, Index: int32(i), PartitionEpoch: p.PartitionEpoch, Leader: id})
			}
		}
	}
	if len(cmd.Elect) == 0 {
		return nil
	}
	return cmd
}

// prefers is the preferred leader of p, if it does not lead and may. One that moves is left until it has arrived.
func prefers(im *meta.Image, p *meta.Partition) (int32, bool) {
	id := p.Replicas[0]
	if p.Leader == meta.NoLeader || p.Leader == id || moves(p) || !slices.Contains(p.ISR, id) || slices.Contains(p.Restarted, id) {
		return id, false
	}
	b := im.Broker(id)
	return id, !b.Fenced && !b.Stopping
}

// moves says whether p is under way to other replicas.
func moves(p *meta.Partition) bool { return len(p.Adding) > 0 || len(p.Removing) > 0 }
