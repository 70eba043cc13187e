package cluster

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
)

// ClusterStatus is the cluster as one of its nodes sees it, with what the others say of themselves.
type ClusterStatus struct {
	ClusterID  string `json:"cluster_id"`
	Generation uint32 `json:"generation"`
	Version    uint64 `json:"metadata_version"`
	Broker     int32  `json:"broker"`     // whose view it is
	Controller int32  `json:"controller"` // who leads the quorum, 0 if this node knows of nobody

	Quorum     QuorumStatus    `json:"quorum"`
	Brokers    []BrokerStatus  `json:"brokers"`
	Partitions PartitionCounts `json:"partitions"`
	// Attention lists partitions that are not as they should be; at most MaxAttention.
	Attention []PartitionState `json:"attention"`
}

// MaxAttention bounds ClusterStatus.Attention.
const MaxAttention = 1000

// QuorumStatus is who votes on metadata.
type QuorumStatus struct {
	Voters    int            `json:"voters"`
	Reachable int            `json:"reachable"` // voters that answer; fewer than half of them and one can change nothing
	Members   []QuorumMember `json:"members"`
}

// QuorumMember is one node of the quorum.
type QuorumMember struct {
	UUID      string `json:"uuid"`
	Broker    int32  `json:"broker,omitempty"`
	Address   string `json:"address"`
	Voter     bool   `json:"voter"`
	Leader    bool   `json:"leader,omitempty"`
	Reachable bool   `json:"reachable"`
	Applied   uint64 `json:"applied,omitempty"` // newest entry applied there
}

// States of a broker.
const (
	StateRunning  = "running"
	StateStopping = "stopping" // it hands over and will be gone
	StateSilent   = "silent"   // it counts as running, and does not answer
	StateFenced   = "fenced"   // it runs, and the controller does not hear it
	StateGone     = "gone"     // it does not run, as far as anybody can see
)

// BrokerStatus is one registered broker.
type BrokerStatus struct {
	ID       int32  `json:"id"`
	UUID     string `json:"uuid"`
	Name     string `json:"name,omitempty"` // node.id, where gossip knows it
	Zone     string `json:"zone,omitempty"`
	Version  string `json:"version,omitempty"` // of weir
	Kafka    string `json:"kafka,omitempty"`
	MQTT     string `json:"mqtt,omitempty"` // as gossip says
	Peer     string `json:"peer,omitempty"`
	State    string `json:"state"`
	Witness  bool   `json:"witness,omitempty"`
	Draining bool   `json:"draining,omitempty"`
	Voter    bool   `json:"voter,omitempty"`

	Leaders   int `json:"leaders"`
	Replicas  int `json:"replicas"`
	OutOfSync int `json:"out_of_sync"`

	// Said is what it says of itself; nil when it does not answer.
	Said *BrokerReport `json:"said,omitempty"`
}

// BrokerReport is what a broker says of itself. It travels as it is.
type BrokerReport struct {
	LeaseHeld  bool   `cbor:"1,keyasint,omitempty" json:"lease_held"`
	LeaseMS    int64  `cbor:"2,keyasint,omitempty" json:"lease_ms"`         // that are left of it
	Metadata   uint64 `cbor:"3,keyasint,omitempty" json:"metadata_version"` // in force there
	LagRecords int64  `cbor:"4,keyasint,omitempty" json:"lag_records"`      // that its leaders have more than its replicas
	Fault      string `cbor:"5,keyasint,omitempty" json:"fault,omitempty"`  // why it serves nothing
}

// statusWithin bounds how long others are waited for.
const statusWithin = time.Second

// ClusterStatus asks all nodes how they are; who does not answer within a second is shown as not reached.
func (b *Broker) ClusterStatus(ctx context.Context) (*ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	ms, _, err := b.raft.Load().Members()
	if err != nil {
		return nil, err
	}
	im := b.node.Image()
	s := &ClusterStatus{
		ClusterID: b.clusterID, Generation: im.Generation, Version: im.Version, Broker: b.id, Attention: []PartitionState{},
	}
	s.Partitions = healthOf(im, func(p PartitionState) {
		if len(s.Attention) < MaxAttention {
			s.Attention = append(s.Attention, p)
		}
	})
	seen := map[string]gossip.Member{}
	if b.port != nil {
		for _, m := range b.port.gossip.Members() {
			seen[m.ID] = m
		}
	}
	leader := b.node.Leader()
	for _, k := range im.Brokers() {
		s.Brokers = append(s.Brokers, b.brokerStatus(im, k, seen, ms))
		if k.UUID.String() == leader {
			s.Controller = k.ID
		}
	}
	for _, m := range ms {
		q := QuorumMember{UUID: m.ID, Address: m.Addr, Voter: m.Voter, Leader: m.ID == leader}
		if k := brokerOf(im, m.ID); k != nil {
			q.Broker = k.ID
		}
		s.Quorum.Members = append(s.Quorum.Members, q)
	}
	b.askAll(ctx, s)
	for _, q := range s.Quorum.Members {
		if q.Voter {
			s.Quorum.Voters++
			if q.Reachable {
				s.Quorum.Reachable++
			}
		}
	}
	return s, nil
}

func brokerOf(im *meta.Image, uuid string) *meta.Broker {
	u, err := parseUUID(uuid)
	if err != nil {
		return nil
	}
	return im.BrokerByUUID(u)
}

func (b *Broker) brokerStatus(im *meta.Image, k *meta.Broker, seen map[string]gossip.Member, ms []meta.Member) BrokerStatus {
	id := k.UUID.String()
	g, known := seen[id]
	s := BrokerStatus{
		ID: k.ID, UUID: id, Name: g.Tags.Name, Zone: k.Zone, Version: g.Tags.Version, Kafka: kafkaAddress(k), MQTT: g.Tags.MQTT, Peer: k.Peer,
		State: StateRunning, Witness: k.Witness, Draining: k.Draining,
		Voter: slices.ContainsFunc(ms, func(m meta.Member) bool { return m.ID == id && m.Voter }),
	}
	if k.ID == b.id {
		known, s.Name = true, b.cfg.NodeID
	}
	switch {
	case k.Fenced && k.ID != b.id && (!known || g.Status != gossip.Alive):
		s.State = StateGone
	case k.Fenced:
		s.State = StateFenced
	case k.Stopping:
		s.State = StateStopping
	}
	s.Replicas, s.Leaders, s.OutOfSync = replicasOn(im, k.ID)
	return s
}

// kafkaAddress is what Kafka clients are told.
func kafkaAddress(k *meta.Broker) string {
	port := k.KafkaPort
	if port == 0 {
		port = k.KafkaTLSPort
	}
	if port == 0 {
		return ""
	}
	return net.JoinHostPort(k.Host, strconv.Itoa(int(port)))
}

// askAll asks all nodes at once.
func (b *Broker) askAll(ctx context.Context, s *ClusterStatus) {
	var asking sync.WaitGroup
	for i := range s.Quorum.Members {
		m := &s.Quorum.Members[i]
		if m.UUID == b.ident.UUID.String() {
			m.Reachable, m.Applied = true, b.node.Applied()
			continue
		}
		asking.Go(func() {
			if answer, err := b.port.ask(ctx, meta.Member{ID: m.UUID, Addr: m.Address}); err == nil {
				m.Reachable, m.Applied = true, answer.Applied
			}
		})
	}
	for i := range s.Brokers {
		k := &s.Brokers[i]
		switch {
		case k.ID == b.id:
			r := b.report()
			k.Said = &r
			continue
		case k.State == StateGone:
			continue
		}
		asking.Go(func() {
			var r BrokerReport
			if reply, err := b.CallNode(ctx, k.ID, methodReport, struct{}{}, nil, &r); err == nil {
				reply.Release()
				r.Fault = strings.ToValidUTF8(r.Fault, "?")
				k.Said = &r
			}
		})
	}
	asking.Wait()
	for i := range s.Brokers {
		if k := &s.Brokers[i]; k.Said == nil && k.State == StateRunning {
			k.State = StateSilent
		}
	}
}

// report is what this broker says of itself.
func (b *Broker) report() BrokerReport {
	r := BrokerReport{LeaseHeld: b.HoldsLease(), Metadata: b.Image().Version}
	if b.duties.lease != nil {
		b.duties.mu.Lock()
		if until, any := b.duties.lease.Expires(); any {
			r.LeaseMS = max(0, (until - b.mono()).Milliseconds())
		}
		b.duties.mu.Unlock()
	}
	for _, f := range b.followStats(b.table.Load()) {
		r.LagRecords += f.LagRecords
	}
	if err := b.Err(); err != nil {
		r.Fault = err.Error()
	}
	return r
}

// Unready is why this broker does not serve as it should: the cluster does not hear it, or is told that it stops. "" when it does.
func (b *Broker) Unready() string {
	switch {
	case b.stopping():
		return "this node is about to stop: others lead what it led"
	case b.Fenced():
		return "the cluster has fenced this node: its lease ran out, and others lead what it led; it is let back once the controller hears it"
	case !b.HoldsLease():
		return "this node's lease has lapsed: it does not reach the controller, or lags behind in applying metadata; reads wait until it does"
	}
	return ""
}
