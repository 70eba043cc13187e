package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/weir-io/weir/bridge/kafka"
	"github.com/weir-io/weir/cluster"
)

// The node's side of `weir cluster …` and `weir bridge …`: what an operator asks comes as a word and particulars in JSON. Fields are only ever added.

// Operations.
const (
	opStatus    = "status"
	opDrain     = "drain"
	opRemove    = "remove"
	opReassign  = "reassign"
	opRebalance = "rebalance"
	opElect     = "elect"
	opRotateKey = "rotate-key"
)

// nodeOrder names a node, by its id, name or uuid.
type nodeOrder struct {
	Node   string `json:"node"`
	Cancel bool   `json:"cancel,omitempty"` // of drain: it is to stay after all
}

// nodeAnswer says which node it was.
type nodeAnswer struct {
	Node int32         `json:"node"`
	Plan *cluster.Plan `json:"plan,omitempty"`
}

// moveOrder is a reassignment, or a rebalance when it names no move.
type moveOrder struct {
	Moves  []moveWish `json:"moves,omitempty"`
	Topic  string     `json:"topic,omitempty"` // is given Factor replicas of each partition
	Factor int        `json:"factor,omitempty"`
	DryRun bool       `json:"dry_run,omitempty"`
}

type moveWish struct {
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	Replicas  []string `json:"replicas"` // nodes, as in nodeOrder
}

// electOrder chooses a leader for a partition that has none.
type electOrder struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Leader    string `json:"leader"`
}

// operate is kafka.Operate.
func (n *node) operate(ctx context.Context, operation string, particulars []byte) ([]byte, error) {
	answer, err := n.operation(ctx, operation, particulars)
	if err != nil {
		return nil, err
	}
	if operation != opStatus && operation != opUplinks && operation != opUplinkPlan {
		n.logger.Info("an operator asked", "operation", operation, "particulars", string(particulars[:min(len(particulars), 1000)]))
	}
	return json.Marshal(answer)
}

func (n *node) operation(ctx context.Context, operation string, particulars []byte) (any, error) {
	switch operation {
	case opStatus:
		return n.broker.ClusterStatus(ctx)
	case opUplinks, opUplinkPause, opUplinkResume, opUplinkPlan:
		return n.uplinks.operation(ctx, operation, particulars)
	case opDrain, opRemove:
		var order nodeOrder
		if err := readOrder(particulars, &order); err != nil {
			return nil, err
		}
		return n.orderNode(ctx, operation, order)
	case opReassign, opRebalance:
		var order moveOrder
		if err := readOrder(particulars, &order); err != nil {
			return nil, err
		}
		if operation == opRebalance {
			return n.broker.Rebalance(ctx, order.DryRun)
		}
		if order.Factor != 0 {
			return n.broker.SetReplicas(ctx, order.Topic, order.Factor, order.DryRun)
		}
		wishes, err := n.wishes(order.Moves)
		if err != nil {
			return nil, err
		}
		return n.broker.Reassign(ctx, wishes, order.DryRun)
	case opElect:
		var order electOrder
		if err := readOrder(particulars, &order); err != nil {
			return nil, err
		}
		id, err := n.broker.FindNode(order.Leader)
		if err != nil {
			return nil, err
		}
		return nodeAnswer{Node: id}, n.broker.ElectUnclean(ctx, order.Topic, order.Partition, id)
	case opRotateKey:
		return struct{}{}, n.broker.RotateKey(ctx)
	}
	return nil, fmt.Errorf("operation %.40q: %w: ask a node that runs the same version", operation, kafka.ErrOperation)
}

func readOrder(particulars []byte, into any) error {
	if err := json.Unmarshal(particulars, into); err != nil {
		return fmt.Errorf("particulars %.100q: %w: %w", particulars, err, kafka.ErrOperation)
	}
	return nil
}

func (n *node) orderNode(ctx context.Context, operation string, order nodeOrder) (a nodeAnswer, err error) {
	if a.Node, err = n.broker.FindNode(order.Node); err != nil {
		return a, err
	}
	switch {
	case operation == opRemove:
		err = n.broker.RemoveNode(ctx, a.Node)
	case order.Cancel:
		err = n.broker.Undrain(ctx, a.Node)
	default:
		a.Plan, err = n.broker.Drain(ctx, a.Node)
	}
	return a, err
}

func (n *node) wishes(moves []moveWish) ([]cluster.Wish, error) {
	wishes := make([]cluster.Wish, 0, len(moves))
	for _, m := range moves {
		w := cluster.Wish{Topic: m.Topic, Partition: m.Partition}
		for _, name := range m.Replicas {
			id, err := n.broker.FindNode(name)
			if err != nil {
				return nil, fmt.Errorf("partition %s/%d: %w", m.Topic, m.Partition, err)
			}
			w.Replicas = append(w.Replicas, id)
		}
		wishes = append(wishes, w)
	}
	return wishes, nil
}
