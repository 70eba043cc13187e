package group

import (
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// Snapshot is the state of a group that outlives the process: enough to let its
// members go on after a restart without a rebalance.
type Snapshot struct {
	Generation   int32
	ProtocolType string
	Protocol     string
	Leader       string
	Since        time.Time // of the state; wall clock
	Members      []SnapshotMember
}

// SnapshotMember is one member. Slices are shared with the group.
type SnapshotMember struct {
	ID, Instance       string
	ClientID, Host     string
	Session, Rebalance time.Duration
	Metadata           []byte // for the chosen protocol
	Assignment         []byte
}

// Snapshot is the group as it would be stored now.
func (g *Group) Snapshot() *Snapshot {
	s := &Snapshot{
		Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol,
		Since: g.since, Members: make([]SnapshotMember, len(g.order)),
	}
	if len(g.order) > 0 {
		s.Leader = g.leader
	}
	for i, m := range g.order {
		s.Members[i] = SnapshotMember{
			ID: m.id, Instance: m.instance, ClientID: m.clientID, Host: m.clientHost,
			Session: m.session, Rebalance: m.rebalance,
			Metadata: m.metadata(g.protocol), Assignment: m.assignment,
		}
	}
	return s
}

// Restore brings back a stored group. Its members have a full session to show
// that they still live. A snapshot that contradicts itself (it comes from a
// file) gives the part that makes sense: at worst an empty group of that
// generation, whose members join again.
func Restore(id string, cfg *Config, s *Snapshot, now time.Time) *Group {
	g := New(id, cfg, now)
	g.generation = max(s.Generation, 0)
	g.protocolType = s.ProtocolType
	g.since = s.Since
	g.storeSeq = 1 // something is stored, so this group does not vanish
	for _, sm := range s.Members {
		if sm.ID == "" || g.members[sm.ID] != nil || g.static[sm.Instance] != nil || s.Protocol == "" {
			continue
		}
		m := &member{
			id: sm.ID, instance: sm.Instance, clientID: sm.ClientID, clientHost: sm.Host,
			session:    min(max(sm.Session, cfg.MinSessionTimeout), cfg.MaxSessionTimeout),
			rebalance:  cfg.rebalance(sm.Rebalance),
			protocols:  []Protocol{{Name: s.Protocol, Metadata: sm.Metadata}},
			assignment: sm.Assignment,
		}
		g.add(m)
		g.touch(m, now)
	}
	if len(g.order) == 0 {
		return g
	}
	if g.members[s.Leader] != nil {
		g.leader = s.Leader
	}
	g.protocol = s.Protocol
	g.state = Stable
	return g
}

// Description is a group as tools show it.
type Description struct {
	State        State
	ProtocolType string
	Protocol     string
	Members      []SnapshotMember
}

// Describe shows the group. Metadata and assignments are given while the
// group is stable, when they belong together.
func (g *Group) Describe() Description {
	s := g.Snapshot()
	d := Description{State: g.state, ProtocolType: g.protocolType, Members: s.Members}
	if g.state == Stable {
		d.Protocol = g.protocol
		return d
	}
	for i := range d.Members {
		d.Members[i].Metadata, d.Members[i].Assignment = nil, nil
	}
	return d
}

// ConsumersDescription is a group of the consumer protocol as tools show it.
type ConsumersDescription struct {
	State    State
	Epoch    int32
	Assignor string
	Members  []ConsumerDescription
}

// ConsumerDescription is one member. Sets are shared with the group.
type ConsumerDescription struct {
	*Consumer
	Epoch            int32
	Assigned, Target assign.Set
}

// DescribeConsumers shows a group OfConsumers.
func (g *Group) DescribeConsumers() ConsumersDescription {
	cs := g.consumers
	d := ConsumersDescription{State: g.state, Epoch: cs.epoch, Assignor: cs.assignor}
	if d.Assignor == "" {
		d.Assignor = cs.preferred()
	}
	for _, m := range cs.order {
		d.Members = append(d.Members, ConsumerDescription{m.Consumer, m.epoch, m.assigned, m.target})
	}
	return d
}
