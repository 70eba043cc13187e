package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weir-io/weir/mqtt/deliver"
)

// fakeCluster is servers that share a log and tables. Partitions of the sessions table have a leader that can be moved.
type fakeCluster struct {
	t        testing.TB
	log      *fakeLog
	sessions []*fakeTable // by partition
	retained *fakeTable
	nodes    []*fakeNode
	tcp      bool

	mu     sync.Mutex
	leader []int // index of a node, -1 for none
	epoch  []int32
}

// fakeNode is one of them: the cluster as its server sees it.
type fakeNode struct {
	*rig
	fc *fakeCluster
	id int32

	gained func(int, int32) // owned by fc.mu, as what follows
	lost   func(int)
	moved  func(int)
	down   bool          // answers nobody
	deaf   bool          // does not answer claims
	mute   bool          // reaches nobody
	hold   chan struct{} // answers no question before it is closed
	drops  int

	follow sync.Mutex
	apply  func(key, value []byte)
	behind bool // changes of retained messages are queued
	queue  []fakePut
	wait   []func(error)
}

const fakePartitions = 4

func newFakeCluster(t testing.TB, nodes int, tcp bool, tweak func(node int, c *Config)) *fakeCluster {
	t.Helper()
	fc := &fakeCluster{t: t, log: newFakeLog(t, 2), retained: newFakeTable(), tcp: tcp}
	for p := range fakePartitions {
		fc.sessions = append(fc.sessions, newFakeTable())
		fc.leader = append(fc.leader, p%nodes)
		fc.epoch = append(fc.epoch, 1)
	}
	for i := range nodes {
		fc.nodes = append(fc.nodes, &fakeNode{fc: fc, id: int32(i + 1)})
	}
	for i := range nodes {
		fc.start(i, tweak)
	}
	return fc
}

func (fc *fakeCluster) start(i int, tweak func(node int, c *Config)) {
	n := fc.nodes[i]
	var ln net.Listener = newPipeListener()
	if fc.tcp {
		ln = mustListen(fc.t)
	}
	r := startAt(fc.t, ln, fc.log, newFakeTable(), newFakeTable(), func(c *Config) {
		c.Owners, c.Sessions, c.Retained = n, fakeSessions{n}, fakeRetained{fc.retained, n}
		if tweak != nil {
			tweak(i, c)
		}
	})
	fc.mu.Lock()
	defer fc.mu.Unlock()
	n.rig = r
}

func (fc *fakeCluster) stop() {
	for _, n := range fc.nodes {
		n.stop()
	}
}

// inCluster runs f with servers in a bubble.
func inCluster(t *testing.T, nodes int, tweak func(node int, c *Config), f func(t *testing.T, fc *fakeCluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fc := newFakeCluster(t, nodes, false, tweak)
		synctest.Wait()
		f(t, fc)
		fc.stop()
	})
}

// idAt is a client identifier whose session belongs to a node.
func (fc *fakeCluster) idAt(node int) string {
	for i := 0; ; i++ {
		id := fmt.Sprintf("dev%d", i)
		fc.mu.Lock()
		leader := fc.leader[PartitionFor([]byte(id), fakePartitions)]
		fc.mu.Unlock()
		if leader == node {
			return id
		}
	}
}

// move makes a node the leader of a client's partition, -1 for none.
func (fc *fakeCluster) move(id string, node int) {
	fc.moveTo(PartitionFor([]byte(id), fakePartitions), node)
}

func (fc *fakeCluster) moveTo(p, node int) {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	old := fc.leader[p]
	for i, n := range fc.nodes {
		switch {
		case i == old && !n.down:
			n.lost(p)
		case i != node:
			n.moved(p)
		}
	}
	fc.leader[p] = node
	fc.epoch[p]++
	fc.log.mu.Lock()
	fc.log.owners[p] = fc.epoch[p]
	fc.log.mu.Unlock()
	if node >= 0 {
		fc.nodes[node].gained(p, fc.epoch[p])
	}
}

func (fc *fakeCluster) leaderOf(partition int) *fakeNode {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	if l := fc.leader[partition]; l >= 0 && !fc.nodes[l].down {
		return fc.nodes[l]
	}
	return nil
}

func (fc *fakeCluster) stored(id string) (string, bool) {
	return fc.sessions[PartitionFor([]byte(id), fakePartitions)].get(id)
}

var errFakeLeader = errors.New("not the leader")

func (n *fakeNode) Watch(gained func(int, int32), lost, moved func(int)) func() {
	n.fc.mu.Lock()
	defer n.fc.mu.Unlock()
	n.gained, n.lost, n.moved = gained, lost, moved
	for p, l := range n.fc.leader {
		if n.fc.nodes[l] == n {
			gained(p, n.fc.epoch[p])
		}
	}
	return func() {}
}

func (n *fakeNode) Dial(ctx context.Context, partition int) (net.Conn, int32, error) {
	to := n.fc.leaderOf(partition)
	nc, err := n.dialTo(to)
	if err != nil {
		return nil, 0, err
	}
	return nc, to.id, nil
}

func (n *fakeNode) dialTo(to *fakeNode) (net.Conn, error) {
	n.fc.mu.Lock()
	mute := n.mute
	n.fc.mu.Unlock()
	if to == nil || to == n || mute {
		return nil, errFakeLeader
	}
	if !n.fc.tcp {
		near, far := net.Pipe()
		to.srv.Passed(far)
		return near, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	to.srv.Passed(far)
	return near, nil
}

// byID is another node, if it answers.
func (n *fakeNode) byID(id int32) (*fakeNode, error) {
	n.fc.mu.Lock()
	defer n.fc.mu.Unlock()
	to := n.fc.nodes[id-1]
	if to.down || n.mute {
		return nil, errFakeLeader
	}
	return to, nil
}

func (n *fakeNode) Release(ctx context.Context, node int32, link uint64) ([]byte, error) {
	to, err := n.byID(node)
	if err != nil {
		return nil, err
	}
	return to.srv.Release(ctx, link)
}

func (n *fakeNode) Part(ctx context.Context, node int32, links []uint64) error {
	to := n.fc.nodes[node-1]
	n.fc.mu.Lock()
	down := to.down
	n.fc.mu.Unlock()
	if down {
		return errors.New("it does not answer")
	}
	to.srv.Part(ctx, links)
	return nil
}

func (n *fakeNode) Collect(ctx context.Context, node int32, link uint64) ([]byte, error) {
	to, err := n.byID(node)
	if err != nil {
		return nil, err
	}
	return to.srv.Collect(ctx, link)
}

func (n *fakeNode) Claim(ctx context.Context, partition int, clientID string) (uint64, error) {
	to := n.fc.leaderOf(partition)
	if to == nil {
		return 0, errFakeLeader
	}
	n.fc.mu.Lock()
	deaf, hold := to.deaf, to.hold
	n.fc.mu.Unlock()
	if hold != nil {
		<-hold
	}
	if deaf {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return to.srv.Claim(ctx, clientID, n.id)
}

func (n *fakeNode) Drop(_ context.Context, clientID string, claim uint64, except int32) error {
	n.fc.mu.Lock()
	others := append([]*fakeNode(nil), n.fc.nodes...)
	n.fc.mu.Unlock()
	for _, to := range others {
		if to != n && to.id != except {
			n.fc.mu.Lock()
			to.drops++
			down, hold := to.down, to.hold
			n.fc.mu.Unlock()
			if hold != nil {
				<-hold
			}
			if !down {
				to.srv.Drop(clientID, claim)
			}
		}
	}
	return nil
}

// fakeSessions is the sessions table on one node.
type fakeSessions struct{ n *fakeNode }

func (t fakeSessions) Partitions() int { return fakePartitions }

func (t fakeSessions) Load(p int, fn func(key, value []byte) error) error {
	return t.n.fc.sessions[p].Load(fn)
}

func (t fakeSessions) Put(o Ownership, key, value []byte, done func(error)) {
	err, p := errFakeLeader, o.Partition
	fc := t.n.fc
	fc.mu.Lock() // nothing of a former leader comes behind what the next one loads
	if l := fc.leader[p]; l >= 0 && fc.nodes[l] == t.n && !t.n.down && fc.epoch[p] == o.Epoch {
		fc.sessions[p].Put(key, value, func(e error) { err = e })
	}
	fc.mu.Unlock()
	done(err)
}

// fakeRetained is the table of retained messages on one node, which may be behind.
type fakeRetained struct {
	*fakeTable
	n *fakeNode
}

func (t fakeRetained) Follow(apply func(key, value []byte)) (func(), error) {
	t.n.follow.Lock()
	defer t.n.follow.Unlock()
	t.n.apply = apply
	return func() {}, t.Load(func(key, value []byte) error {
		apply(key, value)
		return nil
	})
}

func (t fakeRetained) Put(key, value []byte, done func(error)) {
	t.fakeTable.Put(key, value, func(err error) {
		if err == nil {
			for _, n := range t.n.fc.nodes {
				n.changed(fakePut{string(key), string(value), value == nil})
			}
		}
		done(err)
	})
}

func (t fakeRetained) Barrier(ctx context.Context, fn func(error)) {
	t.n.follow.Lock()
	defer t.n.follow.Unlock()
	if len(t.n.queue) == 0 {
		fn(nil)
		return
	}
	answer := sync.OnceFunc(func() { fn(context.Cause(ctx)) })
	t.n.wait = append(t.n.wait, func(error) { answer() })
	context.AfterFunc(ctx, answer)
}

func (n *fakeNode) changed(p fakePut) {
	n.follow.Lock()
	defer n.follow.Unlock()
	if n.queue = append(n.queue, p); !n.behind {
		n.catchUpLocked()
	}
}

func (n *fakeNode) fallBehind() {
	n.follow.Lock()
	defer n.follow.Unlock()
	n.behind = true
}

func (n *fakeNode) catchUp() {
	n.follow.Lock()
	defer n.follow.Unlock()
	n.behind = false
	n.catchUpLocked()
}

func (n *fakeNode) catchUpLocked() {
	for _, p := range n.queue {
		value := []byte(p.value)
		if p.del {
			value = nil
		}
		n.apply([]byte(p.key), value)
	}
	n.queue = nil
	for _, fn := range n.wait {
		fn(nil)
	}
	n.wait = nil
}

var (
	_ Owners           = (*fakeNode)(nil)
	_ deliver.Followed = fakeRetained{}
)

// newPipe is a connection as another node would open it.
func newPipe(t *testing.T, r *rig) (*peer, net.Conn) {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close() })
	return &peer{t: t, c: near, version: 5, bubble: r.pipes != nil}, far
}
