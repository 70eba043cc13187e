package cluster

import (
	"maps"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

// Stats are the figures of doc.go's metrics.
type Stats struct {
	Topics, Partitions, Offline int
	WaitingEntries              int
	MetadataVersion             uint64
	MetadataChanges             int64

	Brokers, BrokersFenced int
	Leaders                int             // partitions that this broker leads
	Led                    PartitionCounts // of those
	All                    PartitionCounts // of the cluster
	Elections              [reasons]int64  // that made this broker lead, by Reason
	Shrinks, Expands       int64           // of in-sync sets of partitions that it leads
	Truncations            int64
	Scrubbed, ScrubDamage  int64
	Following              []FollowStats
	Forwarded              ForwardStats
	Relay                  RelayStats
	LeaseHeld, Fenced      bool
	ControllerActive       bool
}

// FollowStats are the figures of following one broker.
type FollowStats struct {
	Broker     int32
	Replicas   int   // that follow it
	LagRecords int64 // that it had more, when it answered last
	Bytes      int64 // of records received
	Answers    int64
	Failures   int64
	// Silence is the time since its last answer. It answers twice a second, also where nothing is new.
	Silence time.Duration
}

// ForwardStats are the figures of appends to partitions that others lead (M10).
type ForwardStats struct {
	Records, Bytes int64 // committed
	Retries        int64 // batches that had to be sent again
	Waiting        int64 // bytes that are not answered
}

// RelayStats are the figures of calls between nodes that do not reach each other (relay.go).
type RelayStats struct {
	Unreached       int   // brokers that this one does not reach directly
	Through, Passed int64 // calls of this broker that a third brought an answer to, and calls that this one passed on
}

// Stats looks at every partition for a moment; for a metrics page, not for each record.
func (b *Broker) Stats() Stats {
	table := b.table.Load()
	s := Stats{
		Topics: len(table.image.Topics()), Partitions: len(table.open), Offline: len(b.Offline()),
		MetadataVersion: table.image.Version, MetadataChanges: b.metadataChanges.Load(),
		Brokers: len(table.image.Brokers()), LeaseHeld: b.HoldsLease(), Fenced: b.Fenced(), ControllerActive: b.governs(),
		Shrinks: b.counts.shrinks.Load(), Expands: b.counts.expands.Load(), Truncations: b.stats.truncations.Load(),
		Scrubbed: b.stats.scrubbed.Load(), ScrubDamage: b.stats.scrubDamage.Load(),
		Following: b.followStats(table), Forwarded: b.forwards.stats(),
		Relay: RelayStats{b.detours.count(), b.detours.calls.Load(), b.relays.calls.Load()},
	}
	for _, k := range table.image.Brokers() {
		if k.Fenced {
			s.BrokersFenced++
		}
		b.detour(k) // whether it is reached by now somebody may have to ask
	}
	for _, t := range table.image.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			s.All.count(t, p)
			if p.Leader == b.id {
				s.Leaders++
				s.Led.count(t, p)
			}
		}
	}
	for r := range s.Elections {
		s.Elections[r] = b.counts.elections[r].Load()
	}
	for _, p := range table.open {
		s.WaitingEntries += p.waitingEntries()
	}
	return s
}

// governs says whether this node is the active controller.
func (b *Broker) governs() bool {
	if b.port == nil {
		return true
	}
	b.government.mu.Lock()
	defer b.government.mu.Unlock()
	return b.government.c != nil
}

// Fenced says whether the cluster has given this broker up for now (E4), as far as it knows itself.
func (b *Broker) Fenced() bool {
	k := b.Image().Broker(b.id)
	return k == nil || k.Fenced || k.Epoch != b.epoch
}

func (b *Broker) followStats(table *partitionTable) []FollowStats {
	b.follows.mu.Lock()
	fetchers := maps.Clone(b.follows.fetchers)
	b.follows.mu.Unlock()
	var all []FollowStats
	for _, node := range slices.Sorted(maps.Keys(fetchers)) {
		f := fetchers[node].fetcher
		s := FollowStats{Broker: node, Bytes: f.stats.bytes.Load(), Answers: f.stats.answers.Load(), Failures: f.stats.failures.Load()}
		s.Silence = max(0, b.mono()-time.Duration(f.stats.last.Load()))
		for _, p := range table.open {
			if p.fetch.Load() == f {
				s.Replicas++
				s.LagRecords += p.lag.Load()
			}
		}
		all = append(all, s)
	}
	return all
}

func (f *forwarding) stats() (s ForwardStats) {
	if f.b == nil {
		return s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return ForwardStats{f.records.Load(), f.sent.Load(), f.retries.Load(), int64(f.bytes)}
}

// CallStats are the figures of cluster/rpc; all zero where this node is alone.
func (b *Broker) CallStats() *rpc.Stats {
	if b.port == nil {
		return new(rpc.Stats)
	}
	return &b.port.stats
}

// GossipStats are the figures of cluster/gossip; where this node is alone it knows itself.
func (b *Broker) GossipStats() gossip.Stats {
	if b.port == nil {
		return gossip.Stats{Members: map[gossip.Status]int{gossip.Alive: 1, gossip.Failed: 0, gossip.Left: 0}}
	}
	return b.port.gossip.Stats()
}

// replicasOn counts what a broker has and leads, and what of it is not in sync.
func replicasOn(im *meta.Image, id int32) (replicas, leaders, outOfSync int) {
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if !slices.Contains(p.Replicas, id) {
				continue
			}
			replicas++
			if p.Leader == id {
				leaders++
			}
			if !slices.Contains(p.ISR, id) {
				outOfSync++
			}
		}
	}
	return replicas, leaders, outOfSync
}
