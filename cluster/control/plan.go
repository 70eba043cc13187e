package control

import (
	"fmt"
	"slices"

	"github.com/weir-io/weir/cluster/meta"
)

// PlanReassign moves partitions of a topic to replicas that an operator names. Moves that change nothing are left out; it answers nil if
// none is left (C6). Errors are meta.ErrNotFound and ErrAssignment.
func PlanReassign(im *meta.Image, topic string, wish []meta.Move) (*meta.Reassign, error) {
	t := im.Topic(topic)
	if t == nil {
		return nil, fmt.Errorf("topic %q: %w", topic, meta.ErrNotFound)
	}
	cmd := &meta.Reassign{ID: t.ID, Expect: t.Version}
	for _, m := range wish {
		if m.Index < 0 || int(m.Index) >= len(t.Partitions) {
			return nil, fmt.Errorf("topic %q: partition %d of %d: %w", topic, m.Index, len(t.Partitions), meta.ErrNotFound)
		}
		if slices.ContainsFunc(cmd.Moves, func(o meta.Move) bool { return o.Index == m.Index }) {
			return nil, fmt.Errorf("%w: partition %s/%d is named twice", ErrAssignment, topic, m.Index)
		}
		if err := holders(im, m.Replicas); err != nil {
			return nil, fmt.Errorf("%w: partition %s/%d: %w", ErrAssignment, topic, m.Index, err)
		}
		if !slices.Equal(m.Replicas, t.Partitions[m.Index].Target()) {
			cmd.Moves = append(cmd.Moves, m)
		}
	}
	return something(cmd), nil
}

// holders says why ids cannot be the replicas of a partition.
func holders(im *meta.Image, ids []int32) error {
	if len(ids) < 1 || len(ids) > meta.MaxReplicas {
		return fmt.Errorf("%d replicas, want 1 to %d", len(ids), meta.MaxReplicas)
	}
	for i, id := range ids {
		switch b := im.Broker(id); {
		case b == nil:
			return fmt.Errorf("broker %d is not registered", id)
		case b.Witness:
			return fmt.Errorf("broker %d is a witness and takes no replicas", id)
		case b.Draining:
			return fmt.Errorf("broker %d is being drained and takes no replicas", id)
		case slices.Contains(ids[:i], id):
			return fmt.Errorf("broker %d is named twice", id)
		}
	}
	return nil
}

// CheckAssignment says why partitions of a topic cannot get replicas that somebody names: each has to name as many as the others, of whom one serves. Errors are
// ErrAssignment.
func CheckAssignment(im *meta.Image, assignment [][]int32) error {
	running := serving(im)
	for i, ids := range assignment {
		err := holders(im, ids)
		switch {
		case err != nil:
		case len(ids) != len(assignment[0]):
			err = fmt.Errorf("%d replicas, where another partition has %d", len(ids), len(assignment[0]))
		case !slices.ContainsFunc(ids, func(id int32) bool { return slices.Contains(running, id) }):
			err = fmt.Errorf("none of the brokers %v serves", ids)
		}
		if err != nil {
			return fmt.Errorf("%w: partition %d: %w", ErrAssignment, i, err)
		}
	}
	return nil
}

// PlanReplicas gives each partition of a topic that many replicas, with as little copying as can be; nil if it has them. A topic that
// follows the number of brokers grows again by itself. Errors are meta.ErrNotFound and ErrReplicas.
func PlanReplicas(im *meta.Image, topic string, replicas int) (*meta.Reassign, error) {
	t := im.Topic(topic)
	if t == nil {
		return nil, fmt.Errorf("topic %q: %w", topic, meta.ErrNotFound)
	}
	if replicas < 1 || replicas > meta.MaxReplicas {
		return nil, fmt.Errorf("%w %d of topic %q: want 1 to %d", ErrReplicas, replicas, topic, meta.MaxReplicas)
	}
	l, pool, all := count(im), serving(im), data(im)
	l.of(t)
	cmd := &meta.Reassign{ID: t.ID, Expect: t.Version}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		to := l.resize(im, p, all, pool, replicas)
		if len(to) < replicas {
			return nil, fmt.Errorf("%w %d of topic %q: partition %d could have %d: start more brokers", ErrReplicas, replicas, topic, i, len(to))
		}
		if !slices.Equal(to, p.Target()) {
			l.replace(p.Target(), to)
			cmd.Moves = append(cmd.Moves, meta.Move{Index: int32(i), Replicas: to})
		}
	}
	return something(cmd), nil
}

// PlanDrain moves all replicas off a broker that is to be removed. Topics that follow the number of brokers are left with fewer replicas where no broker
// is free to take one; others must find one, else it answers ErrReplicas. What follows the number of brokers would grow back onto a broker that is not
// marked (DrainBroker). It answers nothing once the broker has no replica, or loses what it has.
func PlanDrain(im *meta.Image, broker int32) ([]*meta.Reassign, error) {
	if im.Broker(broker) == nil {
		return nil, fmt.Errorf("broker %d: %w", broker, meta.ErrNotFound)
	}
	stays := func(ids []int32) []int32 { return slices.DeleteFunc(ids, func(id int32) bool { return id == broker }) }
	others, pool := stays(data(im)), stays(serving(im))
	l := count(im)
	var cmds []*meta.Reassign
	for _, t := range im.Topics() {
		cmd, err := drain(im, l, t, broker, others, pool)
		if err != nil {
			return nil, err
		}
		if cmd != nil {
			cmds = append(cmds, cmd)
		}
	}
	return cmds, nil
}

// drainAll moves what is left off brokers that are to go. What nobody else can take stays, until somebody can.
func drainAll(d *draft) {
	for _, b := range d.im.Brokers() {
		if !b.Draining {
			continue
		}
		if cmds, err := PlanDrain(d.im, b.ID); err == nil {
			for _, cmd := range cmds {
				d.add(cmd)
			}
		}
	}
}

func drain(im *meta.Image, l *load, t *meta.Topic, broker int32, others, pool []int32) (*meta.Reassign, error) {
	cmd := &meta.Reassign{ID: t.ID, Expect: t.Version}
	fewest := meta.MaxReplicas // replicas of any partition afterwards
	l.of(t)
	for i := range t.Partitions {
		p := &t.Partitions[i]
		has := p.Target()
		if !slices.Contains(has, broker) {
			fewest = min(fewest, len(has))
			continue
		}
		to := l.resize(im, p, others, pool, len(has))
		if len(to) < len(has) && !follows(t) { // one that is fenced may come back
			to = l.resize(im, p, others, others, len(has))
		}
		if len(to) == 0 || len(to) < len(has) && !follows(t) {
			return nil, fmt.Errorf("%w: partition %s/%d has %d replicas and could keep %d without broker %d: start another broker, "+
				"or give the topic fewer replicas with `weir cluster reassign %s --factor %d`", ErrReplicas, t.Name, i, len(has), len(to), broker, t.Name, max(len(to), 1))
		}
		fewest = min(fewest, len(to))
		l.replace(has, to)
		cmd.Moves = append(cmd.Moves, meta.Move{Index: int32(i), Replicas: to})
	}
	if len(cmd.Moves) == 0 {
		return nil, nil
	}
	_, fixed := t.Configs[minInsyncConfig]
	if _, minInsync := auto(fewest); follows(t) && !fixed && minInsync < t.MinInsync { // in one entry (I7)
		cmd.MinInsync = minInsync
	}
	return cmd, nil
}

// something is cmd, or nil if it changes nothing.
func something(cmd *meta.Reassign) *meta.Reassign {
	if len(cmd.Moves) == 0 && cmd.MinInsync == 0 {
		return nil
	}
	return cmd
}
