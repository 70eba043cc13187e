package group

import (
	"math"
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// ConsumersSnapshot is what the table holds of a group of the consumer protocol.
type ConsumersSnapshot struct {
	Epoch, TargetEpoch int32
	Members            map[string]*ConsumerSnapshot
}

// ConsumerSnapshot is what the table holds of one member. A nil Info or no
// Current: some of its entries are missing.
type ConsumerSnapshot struct {
	Info               *Consumer
	Target             assign.Set
	Current            bool
	Epoch, Seen        int32
	Assigned, Revoking assign.Set
}

// RestoreConsumers brings back a group of the consumer protocol. Its members go on in the
// epochs that they were told, and have a full session to show that they still live.
//
// The table may have some records of the last step and not the rest; nobody was
// answered then. A member that is not whole had not joined, or had left.
func RestoreConsumers(id string, cfg *Config, s *ConsumersSnapshot, now time.Time) *Group {
	g := New(id, cfg, now)
	g.protocolType = "consumer"
	g.storeSeq = 1 // something is stored, so this group does not vanish
	cs := newConsumers(cfg)
	g.consumers = cs
	cs.epoch = max(s.Epoch, s.TargetEpoch, 0)
	cs.stale = false                  // the first step that knows the topics finds out whether the targets are those of all members
	whole := cs.epoch < math.MaxInt32 // else it is no epoch that anybody has come to
	if !whole {
		cs.epoch = 0
	}
	ids := make([]string, 0, len(s.Members))
	for id := range s.Members {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	targets := map[assign.Partition]bool{}
	for _, id := range ids {
		sm := s.Members[id]
		if !whole || id == "" || sm.Info == nil || !sm.Current || sm.Epoch > cs.epoch || sm.Epoch < away || cs.static[sm.Info.Instance] != nil {
			cs.store.forget(id)
			cs.store.behind = true
			continue
		}
		info := *sm.Info
		info.ID, info.Rebalance = id, cfg.rebalance(info.Rebalance)
		if c := info.Classic; c != nil {
			if len(c.Protocols) == 0 {
				c.Protocols = []Protocol{{}}
			}
			c.Session = min(max(c.Session, cfg.MinSessionTimeout), cfg.MaxSessionTimeout)
		}
		slices.Sort(info.Topics)
		info.Topics = slices.Compact(info.Topics)
		m := cs.add(&info)
		m.epoch, m.seen, m.target = sm.Epoch, sm.Seen, sm.Target
		for _, p := range m.target {
			cs.stale = cs.stale || targets[p]
			targets[p] = true
		}
		cs.hold(m, sm.Assigned, sm.Revoking.Minus(sm.Assigned))
		cs.touch(m, now)
		if len(m.revoking) > 0 {
			m.revokeBy = now.Add(m.Rebalance)
			cs.arm(m.revokeBy)
		}
	}
	cs.store.out = nil
	if cs.store.behind {
		cs.store.retryAt = now
		cs.arm(now)
	}
	g.consumersMoved(now)
	return g
}
