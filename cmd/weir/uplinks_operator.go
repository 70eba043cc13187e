package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/bridge/kafka"
	"github.com/weir-io/weir/bridge/uplink"
	"github.com/weir-io/weir/cluster/rpc"
)

// The node's side of `weir bridge …`.

// Operations.
const (
	opUplinks      = "uplinks"
	opUplinkPause  = "uplink-pause"
	opUplinkResume = "uplink-resume"
	opUplinkPlan   = "uplink-plan"
)

// uplinkOrder names an uplink.
type uplinkOrder struct {
	Uplink string `json:"uplink" cbor:"1,keyasint"`
	From   string `json:"from,omitempty" cbor:"2,keyasint,omitempty"` // of resume: what to do about records that the target has forgotten
}

// uplinksAnswer is what all nodes say.
type uplinksAnswer struct {
	Uplinks []uplink.Status `json:"uplinks"`
	Away    []string        `json:"away,omitempty"` // nodes that did not answer
}

// uplinkNodeWait bounds the question to all nodes.
const uplinkNodeWait = 2 * time.Second

func (u *uplinks) operation(ctx context.Context, operation string, particulars []byte) (any, error) {
	if operation == opUplinks {
		return u.all(ctx), nil
	}
	var o uplinkOrder
	if err := readOrder(particulars, &o); err != nil {
		return nil, err
	}
	all := u.list()
	i := slices.IndexFunc(all, func(c uplink.Config) bool { return c.Name == o.Uplink })
	if i < 0 {
		return nil, fmt.Errorf("this node's configuration has no uplink %.64q: `weir bridge status` lists them: %w", o.Uplink, kafka.ErrOperation)
	}
	if operation == opUplinkPlan {
		plan := planOf(&all[i], u.node.broker.ClusterID(), u.node.cfg.Node.Site)
		var err error
		plan.Confirmed, err = u.confirmed(o.Uplink)
		return plan, err
	}
	if err := u.pause(ctx, o.Uplink, operation == opUplinkPause); err != nil {
		return nil, err
	}
	if o.From == "" {
		return struct{}{}, nil
	}
	heard := u.acceptHere(o)
	for _, said := range askAll(ctx, u.others(), call[int](u, methodUplinkAccept, o)) {
		if said.err == nil {
			heard += said.answer
		}
	}
	if heard == 0 {
		return nil, fmt.Errorf("the uplink %s goes on, but --from %s is for one that has stopped, and no node that answers runs it so: `weir bridge status` shows how it does: %w", o.Uplink, o.From, kafka.ErrOperation)
	}
	return struct{}{}, nil
}

// all asks every node. An uplink that nobody runs is shown too.
func (u *uplinks) all(ctx context.Context) uplinksAnswer {
	a := uplinksAnswer{Uplinks: u.own()}
	for _, said := range askAll(ctx, u.others(), call[[]uplink.Status](u, methodUplinks, struct{}{})) {
		if said.err != nil {
			a.Away = append(a.Away, fmt.Sprintf("node %d: %v", said.node, said.err))
			continue
		}
		a.Uplinks = append(a.Uplinks, said.answer...)
	}
	for _, c := range u.list() {
		for shard := range c.Shards {
			if !slices.ContainsFunc(a.Uplinks, func(s uplink.Status) bool { return s.Uplink == c.Name && s.Shard == shard }) {
				a.Uplinks = append(a.Uplinks, uplink.Status{Uplink: c.Name, Shard: shard, To: c.To, State: "nobody", Why: "no node that answers owns it", DailyLeft: -1})
			}
		}
	}
	slices.SortStableFunc(a.Uplinks, func(a, b uplink.Status) int {
		return cmp.Or(cmp.Compare(a.Uplink, b.Uplink), cmp.Compare(a.Shard, b.Shard))
	})
	return a
}

// confirmed reads what the target has confirmed of an uplink, as it is stored in this cluster.
func (u *uplinks) confirmed(name string) ([]uplink.Confirmed, error) {
	u.mu.Lock()
	follow := u.follow
	u.mu.Unlock()
	if follow == nil { // and with it the table
		return nil, fmt.Errorf("the node has just begun to run uplinks: ask again: %w", kafka.ErrOperation)
	}
	type at struct {
		id        string
		partition int32
	}
	found := map[at]uplink.Confirmed{}
	for p := range u.table.Partitions() {
		err := u.table.Load(p, func(key, value []byte) error {
			c, is, err := uplink.ParseConfirmed(name, key, value)
			if is {
				found[at{c.ID, c.Partition}] = c
			} else {
				delete(found, at{c.ID, c.Partition})
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read what the target of %s has confirmed: %w", name, err)
		}
	}
	return slices.AppendSeq([]uplink.Confirmed{}, maps.Values(found)), nil
}

// others are the nodes that serve, but this one.
func (u *uplinks) others() (ids []int32) {
	for _, b := range u.node.broker.Image().Brokers() {
		if b.ID != u.node.broker.NodeID() && !b.Fenced && !b.Witness {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// call asks one node.
func call[A any](u *uplinks, m rpc.Method, request any) func(context.Context, int32, *A) error {
	return func(ctx context.Context, node int32, answer *A) error {
		reply, err := u.node.broker.CallNode(ctx, node, m, request, nil, answer)
		if err == nil {
			reply.Release()
		}
		return err
	}
}

// nodeSaid is what a node answers.
type nodeSaid[A any] struct {
	node   int32
	answer A
	err    error
}

// askAll asks nodes at once: those that hang hold up the answer together.
func askAll[A any](ctx context.Context, nodes []int32, ask func(context.Context, int32, *A) error) []nodeSaid[A] {
	ctx, cancel := context.WithTimeout(ctx, uplinkNodeWait)
	defer cancel()
	all := make([]nodeSaid[A], len(nodes))
	var asking sync.WaitGroup
	for i, node := range nodes {
		all[i].node = node
		asking.Go(func() { all[i].err = ask(ctx, node, &all[i].answer) })
	}
	asking.Wait()
	return all
}
