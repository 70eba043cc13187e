package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
)

// Methods of calls between the MQTT rooms of nodes, and between their uplinks.
const (
	methodClaim = cluster.MethodsOfRooms + iota
	methodDrop
	methodUplinks
	methodUplinkAccept
	methodRelease
	methodCollect
	methodPart
)

type claimCall struct {
	Client string `cbor:"1,keyasint"`
	From   int32  `cbor:"2,keyasint"`
}

type claimAnswer struct {
	Claim uint64 `cbor:"1,keyasint"`
}

type dropCall struct {
	Client string `cbor:"1,keyasint"`
	Claim  uint64 `cbor:"2,keyasint"`
}

// linkCall names a connection that a front has passed on.
type linkCall struct {
	Link uint64 `cbor:"1,keyasint"`
}

// partCall names connections that a front has passed on, and is about to close.
type partCall struct {
	Links []uint64 `cbor:"1,keyasint"`
}

// linkAnswer is what Release or Collect answers.
type linkAnswer struct {
	Bytes []byte `cbor:"1,keyasint,omitempty"`
}

// owners is mqtt.Owners over the leaders of the sessions table.
type owners struct {
	broker *cluster.Broker
	table  *cluster.Table
	server *mqtt.Server // set before anybody calls
}

const (
	// settleTimeout is how long one look waits for a partition whose past is not known to be committed yet; then it looks at the others.
	settleTimeout = 50 * time.Millisecond
	// dropTimeout is when a node that does not answer is left out: it is about to be fenced.
	dropTimeout = 1500 * time.Millisecond
	// linkTimeout bounds what a front asks of a session's former owner: its client waits.
	linkTimeout = 2 * time.Second
)

// handle answers the calls of other nodes.
func (o *owners) handle() {
	o.broker.HandleCalls(methodClaim, func(ctx context.Context, r *rpc.Request) (rpc.Answer, error) {
		var c claimCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		claim, err := o.server.Claim(ctx, c.Client, c.From)
		return rpc.Answer{Control: claimAnswer{claim}}, err
	})
	o.broker.HandleCalls(methodDrop, func(_ context.Context, r *rpc.Request) (rpc.Answer, error) {
		var c dropCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		o.server.Drop(c.Client, c.Claim)
		return rpc.Answer{Control: struct{}{}}, nil
	})
	o.handleLink(methodRelease, o.server.Release)
	o.handleLink(methodCollect, o.server.Collect)
	o.broker.HandleCalls(methodPart, func(ctx context.Context, r *rpc.Request) (rpc.Answer, error) {
		var c partCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		o.server.Part(ctx, c.Links)
		return rpc.Answer{Control: struct{}{}}, nil
	})
}

func (o *owners) handleLink(m rpc.Method, do func(ctx context.Context, link uint64) ([]byte, error)) {
	o.broker.HandleCalls(m, func(ctx context.Context, r *rpc.Request) (rpc.Answer, error) {
		var c linkCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, linkTimeout)
		defer cancel()
		b, err := do(ctx, c.Link)
		return rpc.Answer{Control: linkAnswer{b}}, err
	})
}

// passed hands the server the connections that other nodes pass on, until ctx ends.
func (o *owners) passed(ctx context.Context) error {
	streams := o.broker.Streams()
	stop := context.AfterFunc(ctx, func() { streams.Close() })
	defer stop()
	for {
		c, err := streams.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept what other nodes pass on: %w", err)
		}
		o.server.Passed(c)
	}
}

// Watch implements mqtt.Owners.
func (o *owners) Watch(gained func(int, int32), lost, moved func(int)) (stop func()) {
	w := &ownership{owners: o, gained: gained, lost: lost, moved: moved, seen: make([]seenPartition, o.table.Partitions()), wake: make(chan struct{}, 1)}
	for i := range w.seen {
		w.seen[i].leader = meta.NoLeader
	}
	end := make(chan struct{})
	var running sync.WaitGroup
	stopImages := o.broker.WatchTopics(func(*meta.Image) {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	})
	o.broker.OnParted(w.parted)
	again := w.look()
	running.Go(func() { w.run(end, again) })
	return func() {
		stopImages()
		close(end)
		running.Wait()
	}
}

// ownership is one Watch: what has been told of each partition.
type ownership struct {
	*owners
	gained      func(int, int32)
	lost, moved func(int)
	seen        []seenPartition
	wake        chan struct{}

	mu  sync.Mutex
	off []int32 // leaders to whom streams bring nothing any more
}

// parted notes that a node is reached through another only.
func (w *ownership) parted(node int32) {
	w.mu.Lock()
	w.off = append(w.off, node)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// takeOff gives what was noted since it was asked last.
func (w *ownership) takeOff() (off []int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	off, w.off = w.off, nil
	return off
}

type seenPartition struct {
	leader int32
	epoch  log.Epoch
	owned  bool // gained was called, for epoch
}

func (w *ownership) run(end <-chan struct{}, again bool) {
	for {
		var retry <-chan time.Time
		if again {
			retry = time.After(settleTimeout)
		}
		select {
		case <-w.wake:
		case <-retry:
		case <-end:
			return
		}
		again = w.look()
	}
}

// look tells what has changed, and answers whether a partition could not be told of yet.
func (w *ownership) look() (again bool) {
	t := w.broker.Image().TopicByID(w.table.ID())
	if t == nil {
		return false
	}
	off := w.takeOff()
	for i := range w.seen {
		s, p := &w.seen[i], &t.Partitions[i]
		if slices.Contains(off, p.Leader) && s.leader == p.Leader {
			w.moved(i)
		}
		if p.Leader == w.broker.NodeID() {
			again = w.take(i, s, p.LeaderEpoch) || again
			continue
		}
		switch {
		case s.owned:
			s.owned = false
			w.lost(i)
		case s.leader != p.Leader && s.leader != meta.NoLeader:
			w.moved(i)
		}
		s.leader, s.epoch = p.Leader, p.LeaderEpoch
	}
	return again
}

// take tells of a partition that this node leads, once all that its former leaders answered for is known to be committed.
func (w *ownership) take(i int, s *seenPartition, epoch log.Epoch) (again bool) {
	if s.owned && s.epoch == epoch {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := w.table.Settle(ctx, int32(i), epoch); err != nil {
		return true
	}
	s.leader, s.epoch, s.owned = w.broker.NodeID(), epoch, true
	w.gained(i, int32(epoch))
	return false
}

// leader is who owns a partition of the sessions table, another node.
func (o *owners) leader(partition int) (int32, error) {
	t := o.broker.Image().TopicByID(o.table.ID())
	if t == nil || partition >= len(t.Partitions) {
		return 0, cluster.ErrUnknownTopic
	}
	switch l := t.Partitions[partition].Leader; l {
	case meta.NoLeader, o.broker.NodeID():
		return 0, cluster.ErrNotLeader
	default:
		return l, nil
	}
}

// Dial implements mqtt.Owners. A third node that passes the connection on may end both directions when one ends.
func (o *owners) Dial(ctx context.Context, partition int) (nc net.Conn, node int32, err error) {
	l, err := o.leader(partition)
	if err != nil {
		return nil, 0, err
	}
	direct := o.broker.Reaches(l)
	if nc, err = o.broker.DialNode(ctx, l); err == nil && direct && o.broker.Reaches(l) {
		node = l
	}
	return nc, node, err
}

// Release implements mqtt.Owners.
func (o *owners) Release(ctx context.Context, node int32, link uint64) ([]byte, error) {
	return o.askOf(ctx, node, methodRelease, link)
}

// Collect implements mqtt.Owners.
func (o *owners) Collect(ctx context.Context, node int32, link uint64) ([]byte, error) {
	return o.askOf(ctx, node, methodCollect, link)
}

// Part implements mqtt.Owners.
func (o *owners) Part(ctx context.Context, node int32, links []uint64) error {
	reply, err := o.broker.CallNode(ctx, node, methodPart, partCall{links}, nil, nil)
	if err == nil {
		reply.Release()
	}
	return err
}

func (o *owners) askOf(ctx context.Context, node int32, m rpc.Method, link uint64) ([]byte, error) {
	var a linkAnswer
	reply, err := o.broker.CallNode(ctx, node, m, linkCall{link}, nil, &a)
	if err != nil {
		return nil, err
	}
	reply.Release()
	return a.Bytes, nil
}

// Claim implements mqtt.Owners.
func (o *owners) Claim(ctx context.Context, partition int, clientID string) (uint64, error) {
	l, err := o.leader(partition)
	if err != nil {
		return 0, err
	}
	var a claimAnswer
	reply, err := o.broker.CallNode(ctx, l, methodClaim, claimCall{clientID, o.broker.NodeID()}, nil, &a)
	if err != nil {
		return 0, err
	}
	reply.Release()
	return a.Claim, nil
}

// Drop implements mqtt.Owners.
func (o *owners) Drop(ctx context.Context, clientID string, claim uint64, except int32) error {
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for _, b := range o.broker.Image().Brokers() {
		if b.ID == o.broker.NodeID() || b.ID == except || b.Fenced || b.Witness {
			continue
		}
		asking.Go(func() {
			if reply, err := o.broker.CallNode(ctx, b.ID, methodDrop, dropCall{clientID, claim}, nil, nil); err == nil {
				reply.Release()
			}
		})
	}
	asking.Wait()
	return nil
}

var _ mqtt.Owners = (*owners)(nil)
