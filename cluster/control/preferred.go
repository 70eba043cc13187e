package control

import (
	"errors"
	"fmt"
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

// Elections that are asked for and cannot be had.
var (
	// ErrLeads: the preferred leader leads.
	ErrLeads = errors.New("the preferred leader leads already")
	// ErrPreferred: the preferred leader may not lead now.
	ErrPreferred = errors.New("the preferred leader is not available")
)

// Prefer gives one partition back to its first replica. ErrLeads, or ErrPreferred with the reason.
func Prefer(im *meta.Image, t *meta.Topic, index int32) (meta.Choice, error) {
	p := &t.Partitions[index]
	id, wanted := prefers(im, p)
	var why string
	switch {
	case wanted:
		return meta.Choice{Topic: t.ID, Index: index, PartitionEpoch: p.PartitionEpoch, Leader: id}, nil
	case p.Leader == id:
		return meta.Choice{}, ErrLeads
	case p.Leader == meta.NoLeader:
		why = "nobody leads, and who may is elected without being asked for"
	case p.Moves():
		why = "the partition is on the way to other replicas"
	case !slices.Contains(p.ISR, id):
		why = fmt.Sprintf("broker %d is not in sync", id)
	case slices.Contains(p.Restarted, id):
		why = fmt.Sprintf("broker %d has not shown since its restart that it has everything", id)
	default:
		why = fmt.Sprintf("broker %d does not serve", id)
	}
	return meta.Choice{}, fmt.Errorf("%w: %s", ErrPreferred, why)
}

// prefers is the preferred leader of p, if it does not lead and may. One that moves is left until it has arrived.
func prefers(im *meta.Image, p *meta.Partition) (int32, bool) {
	id := p.Replicas[0]
	if p.Leader == meta.NoLeader || p.Leader == id || p.Moves() || !slices.Contains(p.ISR, id) || slices.Contains(p.Restarted, id) {
		return id, false
	}
	b := im.Broker(id)
	return id, !b.Fenced && !b.Stopping
}
