package meta

import (
	"fmt"

	"github.com/weir-io/weir/log"
)

// A generation is the time between two recoveries of the quorum (E2). What a recovery starts from may lack the newest of what the lost
// majority had committed, so nothing that was counted then may be counted again: each generation has a range of its own for
// every number that is given out.
const (
	MaxGeneration = 1<<11 - 1 // leader epochs have 31 bits

	leaderEpochBits = 20
	versionBits     = 32
	producerIDBits  = 48
	brokerIDs       = 1000

	noBroker int32 = -2 // nobody, and not NoLeader: whoever leads next does so in a new epoch
)

// firstEpoch is the lowest leader epoch of this generation: that of a new partition, which the lost entries may have had as well.
func (im *Image) firstEpoch() log.Epoch { return log.Epoch(im.Generation) << leaderEpochBits }

// BeginGeneration is im as a recovery leaves it: every partition in a new leader epoch, under the leader that it had if it may go on.
// That one may lack records that others have, as far as anybody can know now, so it counts as an unclean election (E1).
func (im *Image) BeginGeneration(g uint32) (*Image, error) {
	if g <= im.Generation || g > MaxGeneration {
		return nil, fmt.Errorf("generation %d: want %d to %d: %w", g, im.Generation+1, MaxGeneration, ErrRefused)
	}
	next := *im
	next.Generation = g
	next.Version = max(im.Version+1, uint64(g)<<versionBits)
	next.NextBrokerID = max(im.NextBrokerID, int32(g)*brokerIDs+1)
	next.NextProducerID = max(im.NextProducerID, int64(g)<<producerIDBits)
	next.ownTopics()
	for i, t := range next.topics {
		t = next.changed(t)
		for j := range t.Partitions {
			p := &t.Partitions[j]
			m := next.machine(t, p)
			m.led, m.epoch = noBroker, max(p.LeaderEpoch, next.firstEpoch())
			m.settle()
			p.PartitionEpoch = max(p.PartitionEpoch, int32(p.LeaderEpoch))
			p.LastUnclean = p.LeaderEpoch
		}
		next.topics[i], next.byID[t.ID] = t, t
	}
	return &next, nil
}
