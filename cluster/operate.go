package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/quorum"
)

// What an operator has a cluster do. Any broker may be asked: it decides on the metadata that the quorum has by then, and a command that something else
// came before is refused there and decided again (C1). All return once the change is committed; ClusterStatus shows what comes of it.

// Wish is one partition and the replicas that an operator wants it to have.
type Wish struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Replicas  []int32 `json:"replicas"` // preferred leader first
}

// PlannedMove is one partition that is given other replicas, or only another order of them.
type PlannedMove struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	From      []int32 `json:"from"`
	To        []int32 `json:"to"`
}

// PlannedLead is a partition that its preferred leader is given back.
type PlannedLead struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int32  `json:"from"`
	To        int32  `json:"to"`
}

// Plan is what an operation does.
type Plan struct {
	Moves []PlannedMove `json:"moves"`
	Leads []PlannedLead `json:"leaders,omitempty"`
}

// add notes commands that were decided on im.
func (p *Plan) add(im *meta.Image, cmds ...*meta.Reassign) {
	for _, cmd := range cmds {
		t := im.TopicByID(cmd.ID)
		for _, m := range cmd.Moves {
			p.Moves = append(p.Moves, PlannedMove{t.Name, m.Index, t.Partitions[m.Index].Target(), m.Replicas})
		}
	}
}

// refusal is a meta.ErrRefused in words of its own, for a person.
type refusal struct{ error }

func (refusal) Is(target error) bool { return target == meta.ErrRefused }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// FindNode finds a broker by its id, its node name or its uuid.
func (b *Broker) FindNode(name string) (int32, error) {
	im := b.node.Image()
	if id, err := strconv.ParseInt(name, 10, 32); err == nil && im.Broker(int32(id)) != nil {
		return int32(id), nil
	}
	names := map[string]string{b.ident.UUID.String(): b.cfg.NodeID}
	if b.port != nil {
		for _, m := range b.port.gossip.Members() {
			names[m.ID] = m.Tags.Name
		}
	}
	var found, all []string
	id := int32(0)
	for _, k := range im.Brokers() {
		uuid := k.UUID.String()
		text := strconv.Itoa(int(k.ID))
		if names[uuid] != "" {
			text += " (" + names[uuid] + ")"
		}
		if all = append(all, text); name != "" && (names[uuid] == name || uuid == name) {
			id, found = k.ID, append(found, text)
		}
	}
	switch len(found) {
	case 1:
		return id, nil
	case 0:
		return 0, fmt.Errorf("node %.100q: %w: the cluster has %s", name, meta.ErrNotFound, strings.Join(all, ", "))
	}
	return 0, refuse("node %.100q: several have that name, %s: use the number", name, strings.Join(found, ", "))
}

// Drain has a broker give everything it has to others: replicas, leaderships, and its vote. It serves on, and what it has stays in sync, until others have it.
// ErrInvalidReplicas names a partition that nobody else could take.
func (b *Broker) Drain(ctx context.Context, id int32) (*Plan, error) {
	return decide(ctx, b.quorum, func(im *meta.Image) (*Plan, error) {
		k := im.Broker(id)
		switch {
		case k == nil:
			return nil, fmt.Errorf("broker %d: %w", id, meta.ErrNotFound)
		case len(im.Brokers()) == 1:
			return nil, refuse("broker %d is the only one: start another that joins it first", id)
		}
		marked := im
		if !k.Draining {
			var err error
			if marked, _, err = im.Apply(&meta.DrainBroker{BrokerID: id}); err != nil {
				return nil, err
			}
		}
		cmds, err := control.PlanDrain(marked, id)
		if err != nil {
			return nil, err
		}
		plan := &Plan{Moves: []PlannedMove{}}
		plan.add(marked, cmds...)
		if !k.Draining {
			_, err = b.quorum.Propose(ctx, &meta.DrainBroker{BrokerID: id}) // the controller does the rest
		}
		return plan, err
	})
}

// Undrain has a broker that is being drained stay. What others have taken over stays there.
func (b *Broker) Undrain(ctx context.Context, id int32) error {
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		switch k := im.Broker(id); {
		case k == nil:
			return nil, fmt.Errorf("broker %d: %w", id, meta.ErrNotFound)
		case !k.Draining:
			return nil, nil
		}
		return b.quorum.Propose(ctx, &meta.DrainBroker{BrokerID: id, Stays: true})
	})
	return err
}

// RemoveNode has the cluster forget a broker that is stopped and has nothing any more. The quorum then drops it as a member by itself.
func (b *Broker) RemoveNode(ctx context.Context, id int32) error {
	im, err := b.quorum.current(ctx)
	if err != nil {
		return err
	}
	k := im.Broker(id)
	if k == nil {
		return fmt.Errorf("broker %d: %w", id, meta.ErrNotFound)
	}
	replicas, _, _ := replicasOn(im, id)
	switch {
	case replicas > 0:
		return refuse("broker %d has %d replicas: move them off with `weir cluster drain %d --wait` first", id, replicas, id)
	case !k.Fenced:
		return refuse("broker %d is running: `weir cluster drain %d --wait`, then stop it, then remove it", id, id)
	}
	_, err = b.quorum.Propose(ctx, &meta.RemoveBroker{BrokerID: id, BrokerEpoch: k.Epoch})
	return err
}

// Reassign gives partitions other replicas. All wishes are looked at before the first takes effect; with dryRun none does.
func (b *Broker) Reassign(ctx context.Context, wishes []Wish, dryRun bool) (*Plan, error) {
	return decide(ctx, b.quorum, func(im *meta.Image) (*Plan, error) {
		plan := &Plan{Moves: []PlannedMove{}}
		byTopic, order := map[string][]meta.Move{}, []string{}
		for _, w := range wishes {
			if byTopic[w.Topic] == nil {
				order = append(order, w.Topic)
			}
			byTopic[w.Topic] = append(byTopic[w.Topic], meta.Move{Index: w.Partition, Replicas: w.Replicas})
		}
		var cmds []*meta.Reassign
		for _, topic := range order {
			cmd, err := control.PlanReassign(im, topic, byTopic[topic])
			if err != nil {
				return nil, err
			}
			if cmd != nil {
				cmds = append(cmds, cmd)
			}
		}
		plan.add(im, cmds...)
		return plan, b.carry(ctx, cmds, dryRun)
	})
}

// SetReplicas gives each partition of a topic so many replicas, with as little copying as can be.
func (b *Broker) SetReplicas(ctx context.Context, topic string, replicas int, dryRun bool) (*Plan, error) {
	return decide(ctx, b.quorum, func(im *meta.Image) (*Plan, error) {
		plan := &Plan{Moves: []PlannedMove{}}
		cmd, err := control.PlanReplicas(im, topic, replicas)
		if err != nil || cmd == nil {
			return plan, err
		}
		plan.add(im, cmd)
		return plan, b.carry(ctx, []*meta.Reassign{cmd}, dryRun)
	})
}

// ElectUnclean has a partition that nobody leads led by a replica that may lack records: what it does not have is lost (E1).
func (b *Broker) ElectUnclean(ctx context.Context, topic string, partition, leader int32) error {
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		t := im.Topic(topic)
		if t == nil || partition < 0 || int(partition) >= len(t.Partitions) {
			return nil, fmt.Errorf("partition %.300s/%d: %w", topic, partition, ErrUnknownTopic)
		}
		p, k := &t.Partitions[partition], im.Broker(leader)
		switch {
		case p.Leader != meta.NoLeader:
			return nil, refuse("partition %s/%d is led by broker %d: nothing is to be given up", topic, partition, p.Leader)
		case !slices.Contains(p.Replicas, leader):
			return nil, refuse("partition %s/%d has no replica on broker %d, only on %v", topic, partition, leader, p.Replicas)
		case k == nil || k.Fenced || k.Stopping:
			return nil, refuse("partition %s/%d: broker %d does not serve: start it first", topic, partition, leader)
		}
		return b.quorum.Propose(ctx, &meta.ElectLeaders{Kind: meta.ElectUnclean, Elect: []meta.Choice{
			{Topic: t.ID, Index: partition, PartitionEpoch: p.PartitionEpoch, Leader: leader},
		}})
	})
	return err
}

// Rebalance evens out replicas and leaderships over the brokers that serve, and gives leaderships back to preferred leaders.
func (b *Broker) Rebalance(ctx context.Context, dryRun bool) (*Plan, error) {
	return decide(ctx, b.quorum, func(im *meta.Image) (*Plan, error) {
		plan := &Plan{Moves: []PlannedMove{}}
		cmds := control.PlanRebalance(im)
		plan.add(im, cmds...)
		lead := control.PlanPreferred(im)
		if lead != nil {
			for _, c := range lead.Elect {
				t := im.TopicByID(c.Topic)
				plan.Leads = append(plan.Leads, PlannedLead{t.Name, c.Index, t.Partitions[c.Index].Leader, c.Leader})
			}
			if !dryRun { // before the moves, which give partitions new epochs
				if _, err := b.quorum.Propose(ctx, lead); err != nil && !errors.Is(err, meta.ErrConflict) {
					return nil, err
				}
				cmds = control.PlanRebalance(b.node.Image())
			}
		}
		return plan, b.carry(ctx, cmds, dryRun)
	})
}

// carry proposes moves, one entry for each topic.
func (b *Broker) carry(ctx context.Context, cmds []*meta.Reassign, dryRun bool) error {
	for _, cmd := range cmds {
		if dryRun {
			break
		}
		if _, err := b.quorum.Propose(ctx, cmd); err != nil {
			return err
		}
	}
	return nil
}

// RotateKey replaces the key of the cluster by a new one on all nodes: it is given to everybody, then used, then the old ones go. Each node keeps it in its
// keyring file. Calling it again goes on where it was stopped.
func (b *Broker) RotateKey(context.Context) error {
	if b.port == nil || len(b.port.gossip.Keys()) == 0 {
		return refuse("this cluster has no keys: make a file with `weir cluster keygen FILE`, copy it to all nodes, and start them with --keyring FILE")
	}
	alive := map[string]bool{}
	for _, m := range b.port.gossip.Members() {
		alive[m.ID] = m.Status == gossip.Alive
	}
	for _, k := range b.node.Image().Brokers() {
		if !alive[k.UUID.String()] {
			return refuse("broker %d is away, and would be locked out with the old key: start it, or drain and remove it first", k.ID)
		}
	}
	key, err := quorum.NewKey()
	if err != nil {
		return err
	}
	return b.port.gossip.Rotate(key)
}
