package cluster

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/weir-io/weir/cluster/meta"
)

// What the metadata says of how partitions are, and what has become of them.

// PartitionCounts is how many partitions need somebody's attention.
type PartitionCounts struct {
	Total int `json:"total"`
	// Leaderless partitions take and give no records.
	Leaderless int `json:"leaderless"`
	// SingleOffline are those of them that were given one replica by choice, on a broker that is away (C7): only that broker brings them back.
	SingleOffline   int `json:"single_replica_offline"`
	UnderReplicated int `json:"under_replicated"` // fewer replicas in sync than the partition is to have
	UnderMinISR     int `json:"under_min_isr"`    // fewer in sync than min.insync.replicas: nothing is committed (H4)
	Moving          int `json:"moving"`
	Unclean         int `json:"unclean"` // once led by a replica that may have lacked records (E1, E6)
}

// PartitionState is one partition that is not as it should be.
type PartitionState struct {
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	Leader    int32    `json:"leader"`
	Replicas  []int32  `json:"replicas"`
	ISR       []int32  `json:"isr"`
	Adding    []int32  `json:"adding,omitempty"`
	Removing  []int32  `json:"removing,omitempty"`
	State     []string `json:"state"` // leaderless, single-replica-offline, under-replicated, under-min-isr, moving, unclean
}

// count notes one partition, and answers the words for what it lacks.
func (c *PartitionCounts) count(t *meta.Topic, p *meta.Partition) (state []string) {
	note := func(n *int, is bool, word string) {
		if is {
			*n++
			state = append(state, word)
		}
	}
	c.Total++
	leaderless := p.Leader == meta.NoLeader
	note(&c.Leaderless, leaderless, "leaderless")
	note(&c.SingleOffline, leaderless && len(p.Replicas) == 1 && !t.AutoReplicas && !t.Internal, "single-replica-offline")
	note(&c.UnderReplicated, lacks(p), "under-replicated")
	note(&c.UnderMinISR, !leaderless && len(p.ISR) < p.MinInsync(t.MinInsync), "under-min-isr")
	note(&c.Moving, p.Moves(), "moving")
	note(&c.Unclean, p.LastUnclean > 0, "unclean")
	return state
}

// lacks says whether a replica that p is to keep is not in sync.
func lacks(p *meta.Partition) bool {
	return slices.ContainsFunc(p.Target(), func(id int32) bool { return !slices.Contains(p.ISR, id) })
}

// healthOf counts all partitions; each is told those that are not as they should be. That one was led uncleanly stays on record for ever, and is no such state.
func healthOf(im *meta.Image, each func(PartitionState)) (c PartitionCounts) {
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if state := c.count(t, p); len(state) > 1 || len(state) == 1 && state[0] != "unclean" {
				each(PartitionState{t.Name, int32(i), p.Leader, p.Replicas, p.ISR, p.Adding, p.Removing, state})
			}
		}
	}
	return c
}

// Reason is why a partition has got another leader, or another epoch of the one it had.
type Reason uint8

// Reasons.
const (
	ByFence     Reason = iota // who led was fenced
	ByRestart                 // who led started anew (A7)
	ByStop                    // who led hands over (E8)
	ByMove                    // who led has no replica any more
	ByDamage                  // who led lost records (E7)
	ByPreferred               // the first replica leads again
	ByRecovery                // nobody led
	ByUnclean                 // the new leader may lack records (E1, E6)
	ByOther
	reasons
)

func (r Reason) String() string {
	names := [reasons]string{"fenced", "restarted", "stopped", "moved", "damaged", "preferred", "recovered", "unclean", "other"}
	if r >= reasons {
		return fmt.Sprintf("reason %d", r)
	}
	return names[r]
}

// changeCounts are what has happened to partitions that this broker leads, so that the sum over brokers is that of the cluster.
type changeCounts struct {
	elections        [reasons]atomic.Int64
	shrinks, expands atomic.Int64
}

// changed compares two Images. Some between them may have been skipped: what was undone in those does not count.
func (c *changeCounts) changed(self int32, old, now *meta.Image) {
	for _, t := range now.Topics() {
		before := old.TopicByID(t.ID)
		if before == nil || before == t {
			continue
		}
		for i := range t.Partitions[:min(len(t.Partitions), len(before.Partitions))] {
			was, is := &before.Partitions[i], &t.Partitions[i]
			if is.Leader != self {
				continue
			}
			if is.LeaderEpoch != was.LeaderEpoch {
				c.elections[reasonOf(old, now, was, is)].Add(1)
			}
			if leaves(was.ISR, is.ISR) {
				c.shrinks.Add(1)
			}
			if leaves(is.ISR, was.ISR) {
				c.expands.Add(1)
			}
		}
	}
}

// leaves says whether one of before is not in after.
func leaves(before, after []int32) bool {
	return slices.ContainsFunc(before, func(id int32) bool { return !slices.Contains(after, id) })
}

func reasonOf(old, now *meta.Image, was, is *meta.Partition) Reason {
	before, led := old.Broker(was.Leader), now.Broker(was.Leader)
	switch {
	case is.LastUnclean == is.LeaderEpoch:
		return ByUnclean
	case was.Leader == meta.NoLeader:
		return ByRecovery
	case before == nil || led == nil || led.Fenced:
		return ByFence
	case before.Epoch != led.Epoch:
		return ByRestart
	case !slices.Contains(is.Replicas, was.Leader):
		return ByMove
	case slices.Contains(is.Damaged, was.Leader):
		return ByDamage
	case led.Stopping:
		return ByStop
	case is.Leader == is.Replicas[0]:
		return ByPreferred
	}
	return ByOther
}
