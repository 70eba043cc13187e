package cluster

import (
	"context"
	"fmt"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
)

// Orders of Kafka's administrative requests. Other than those of weir's own tools (operate.go) they name many partitions of which each stands for itself:
// what is wrong with one does not keep the others.

// PartitionRef names a partition as clients do.
type PartitionRef struct {
	Topic string
	Index int32
}

// findIn is the topic of a partition, or an ErrUnknownTopic.
func (r PartitionRef) findIn(im *meta.Image) (*meta.Topic, error) {
	t := im.Topic(r.Topic)
	if t == nil || r.Index < 0 || int(r.Index) >= len(t.Partitions) {
		return nil, fmt.Errorf("partition %.300s/%d: %w", r.Topic, r.Index, ErrUnknownTopic)
	}
	return t, nil
}

// ElectPreferred gives partitions back to their preferred leaders. It returns once that is in force here, with what became of each, in their order: nil,
// ErrLeads, ErrPreferred with the reason, or ErrUnknownTopic.
func (b *Broker) ElectPreferred(ctx context.Context, refs []PartitionRef) ([]error, error) {
	outcomes := make([]error, len(refs))
	chosen := make([]bool, len(refs))
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		cmd := &meta.ElectLeaders{Kind: meta.ElectPreferred}
		for i, ref := range refs {
			if len(cmd.Elect) == meta.MaxAlterations {
				break
			}
			t, err := ref.findIn(im)
			var c meta.Choice
			if err == nil {
				c, err = control.Prefer(im, t, ref.Index)
			}
			switch {
			case err == nil:
				chosen[i] = true
				cmd.Elect = append(cmd.Elect, c)
			case err == control.ErrLeads && chosen[i]:
				err = nil // it does now
			}
			outcomes[i] = err
		}
		if len(cmd.Elect) == 0 {
			return nil, nil
		}
		if _, err := b.quorum.Propose(ctx, cmd); err != nil {
			return nil, err
		}
		return nil, meta.ErrConflict // something may have come before one of them: look again
	})
	if err != nil {
		return nil, fmt.Errorf("elect preferred leaders: %w", err)
	}
	return outcomes, b.awaitMetadata(ctx)
}

// Move gives partitions other replicas; a wish with nil ends the move that is under way. Unless mayResize, none may get more or fewer replicas than it has.
// It returns once that is in force here, with what became of each wish, in their order: nil, ErrUnknownTopic, ErrInvalidAssignment,
// ErrInvalidReplicas for another number of them, or ErrNoMove.
func (b *Broker) Move(ctx context.Context, wishes []Wish, mayResize bool) ([]error, error) {
	outcomes := make([]error, len(wishes))
	ended := make([]bool, len(wishes)) // by an earlier round
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		seen := make(map[PartitionRef]bool, len(wishes))
		byTopic, cmds := map[string]*meta.Reassign{}, []*meta.Reassign{}
		for i, w := range wishes {
			ref := PartitionRef{w.Topic, w.Partition}
			cmd, err := planMove(im, ref, w.Replicas, mayResize)
			switch {
			case seen[ref]:
				cmd, err = nil, fmt.Errorf("%w: partition %.300s/%d is named twice", ErrInvalidAssignment, w.Topic, w.Partition)
			case err == ErrNoMove && ended[i]:
				err = nil
			}
			seen[ref], outcomes[i] = true, err
			if err != nil || cmd == nil {
				continue
			}
			ended[i] = true
			if of := byTopic[w.Topic]; of != nil {
				of.Moves = append(of.Moves, cmd.Moves...)
			} else {
				byTopic[w.Topic], cmds = cmd, append(cmds, cmd)
			}
		}
		return nil, b.carry(ctx, cmds, false)
	})
	if err != nil {
		return nil, fmt.Errorf("move partitions: %w", err)
	}
	return outcomes, b.awaitMetadata(ctx)
}

// planMove is what has to be proposed for one wish; nil where nothing has.
func planMove(im *meta.Image, ref PartitionRef, to []int32, mayResize bool) (*meta.Reassign, error) {
	t, err := ref.findIn(im)
	if err != nil {
		return nil, err
	}
	p := &t.Partitions[ref.Index]
	switch before := p.Before(); {
	case to == nil && !p.Moves():
		return nil, ErrNoMove
	case to == nil:
		to = before
	case !mayResize && len(to) != len(before):
		return nil, fmt.Errorf("%w: partition %s/%d has %d replicas, and would have %d", ErrInvalidReplicas, ref.Topic, ref.Index, len(before), len(to))
	}
	return control.PlanReassign(im, ref.Topic, []meta.Move{{Index: ref.Index, Replicas: to}})
}

// awaitMetadata returns when all that the quorum has told this node is in force here.
func (b *Broker) awaitMetadata(ctx context.Context) error {
	version := b.node.Image().Version
	return b.awaitTable(ctx, func(table *partitionTable) bool { return table.image.Version >= version })
}
