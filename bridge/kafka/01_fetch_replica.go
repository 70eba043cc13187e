package kafka

import (
	"slices"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Reading from a replica nearby (KIP-392), for consumers that name their rack (client.rack) and do not read read_committed: how far
// transactions are decided, only the leader knows.
//
// The leader sends such a consumer to an in-sync replica in the zone of that name, if it is not in that zone itself. The replica
// has all below the leader's high watermark, and serves what lies below its own (R1), as long as it is in sync and holds its lease: one
// that is cut off, or falls behind, sends its consumers back. So what they read is no older than the lease and the lag that a
// replica in sync may have.
//
// Whoever comes back is served by the leader for a while: the replica may not be reachable from where the
// consumer is, or may have deleted by its retention what the leader still has.

// noReplica is the preferred read replica of who shall stay.
const noReplica int32 = -1

const (
	// sentAwayFor is how long a consumer that was sent to a replica, and comes back, is served here.
	sentAwayFor = time.Minute
	// maxSentAway bounds what is noted of one connection; whoever has more partitions is sent away again earlier.
	maxSentAway = 4096
	// maxReplicaWait bounds the wait of a fetch at a replica, which is not told when it ceases to be in sync.
	maxReplicaWait = 2 * time.Second
)

// nearby says whether the consumer may be served by replicas.
func (f *fetch) nearby() bool { return len(f.rack) > 0 && !f.committed }

// sendAway finds, for partitions that are led here, replicas nearer to the consumer.
func (f *fetch) sendAway() {
	if !f.nearby() {
		return
	}
	im, now, i := f.s.broker.Image(), time.Now(), 0
	for j := range f.topics {
		t := &f.topics[j]
		for range t.parts {
			p := &f.parts[i]
			i++
			if p.code != errNone || p.atReplica || p.offset < p.partition.LogStart() || p.offset > p.partition.HighWatermark() {
				continue
			}
			id := p.partition.ID()
			if at, was := f.c.sentAway[id]; was && now.Sub(at) < sentAwayFor {
				continue
			}
			if p.preferred = f.replicaFor(im, t.view.name, p.index); p.preferred != noReplica {
				f.c.noteSentAway(id, now)
			}
		}
	}
}

// replicaFor chooses an in-sync replica in the consumer's zone that it can reach; of several, different ones for different partitions.
func (f *fetch) replicaFor(im *meta.Image, topic string, index int32) int32 {
	mp := assignment(im, topic, index)
	if mp == nil || mp.Leader != f.s.broker.NodeID() {
		return noReplica
	}
	if self := im.Broker(mp.Leader); self == nil || self.Zone == string(f.rack) {
		return noReplica
	}
	var near []int32
	for _, id := range mp.ISR {
		b := im.Broker(id)
		if b == nil || id == mp.Leader || b.Zone != string(f.rack) {
			continue
		}
		if _, code := f.s.endpoint(f.c, im, id); code == errNone {
			near = append(near, id)
		}
	}
	if len(near) == 0 {
		return noReplica
	}
	return near[int(index)%len(near)]
}

func (c *conn) noteSentAway(id log.PartitionID, now time.Time) {
	if c.sentAway == nil || len(c.sentAway) >= maxSentAway {
		c.sentAway = make(map[log.PartitionID]time.Time)
	}
	c.sentAway[id] = now
}

// replica is this broker's replica of a partition that another one leads, if consumers may read it.
func (s *Server) replica(t *topicView, index int32) *cluster.Partition {
	mp, self := assignment(s.broker.Image(), t.name, index), s.broker.NodeID()
	if mp == nil || mp.Leader == self || mp.Leader == meta.NoLeader || !slices.Contains(mp.ISR, self) || !s.broker.HoldsLease() {
		return nil
	}
	r, err := s.broker.Replica(log.PartitionID{Topic: t.id, Index: index})
	if err != nil {
		return nil
	}
	p, _ := r.(*cluster.Partition) // else there is none here
	return p
}
