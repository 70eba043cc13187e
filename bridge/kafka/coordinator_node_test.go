package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// fakeTable is a table in memory that commits on its own goroutine, when it is
// let, and can fail. Nodes share it, see view; each partition is led by one.
type fakeTable struct {
	mu      sync.Mutex
	changed *sync.Cond
	parts   [][]entry  // committed
	leaders []fakeTerm // by partition
	queue   []fakePut
	held    bool // commits nothing
	failing bool // commits nothing and says so
	fenced  bool // takes nothing, as if another node led
	closed  bool
	offline map[int32]bool // partitions that Load cannot read
	loading chan struct{}  // Load waits for it to be closed, if there is one
	ended   chan struct{}
}

// fakeTerm says who leads a partition, and whether what was there before is known to be committed.
type fakeTerm struct {
	node    int32
	epoch   log.Epoch
	settled bool
}

type entry struct{ key, value []byte }

type fakePut struct {
	partition int32
	entry     entry
	done      func(error)
	decided   bool // committed or not when its term ended; only done is left to be called
	err       error
}

var errFakeDisk = errors.New("fake disk")

const fakeNode = 1 // leads all partitions at first

func newFakeTable(t testing.TB, partitions int) *fakeTable {
	ft := &fakeTable{parts: make([][]entry, partitions), leaders: make([]fakeTerm, partitions), ended: make(chan struct{})}
	for p := range ft.leaders {
		ft.leaders[p] = fakeTerm{fakeNode, 1, true}
	}
	ft.changed = sync.NewCond(&ft.mu)
	go ft.commit()
	t.Cleanup(func() {
		ft.set(func() { ft.closed = true })
		<-ft.ended
	})
	return ft
}

func (ft *fakeTable) set(fn func()) {
	ft.mu.Lock()
	defer ft.mu.Unlock()
	fn()
	ft.changed.Broadcast()
}

func (ft *fakeTable) commit() {
	defer close(ft.ended)
	ft.mu.Lock()
	defer ft.mu.Unlock()
	for {
		for !ft.closed && (ft.held || len(ft.queue) == 0) {
			ft.changed.Wait()
		}
		if ft.closed {
			return
		}
		p := ft.queue[0]
		ft.queue = ft.queue[1:]
		switch {
		case p.decided:
		case ft.failing:
			p.err = errFakeDisk
		default:
			ft.parts[p.partition] = append(ft.parts[p.partition], p.entry)
		}
		ft.mu.Unlock()
		p.done(p.err)
		ft.mu.Lock()
	}
}

// fate is what becomes of a write that is under way when its term ends.
type fate int

const (
	fateLost  fate = iota // truncated, and its writer is told that it does not lead
	fateKept              // the next leader has it, but its writer is told that it does not lead
	fateTold              // it was committed before, and its writer hears of it later
	fateCount             // not a fate: how many there are
)

// move gives a partition to a node, in a new epoch.
func (ft *fakeTable) move(partition, node int32, settled bool, fateOf func() fate) {
	ft.set(func() {
		ft.leaders[partition] = fakeTerm{node, ft.leaders[partition].epoch + 1, settled}
		for i := range ft.queue {
			p := &ft.queue[i]
			if p.partition != partition || p.decided {
				continue
			}
			p.decided = true
			f := fateOf()
			if f != fateLost {
				ft.parts[partition] = append(ft.parts[partition], p.entry)
			}
			if f != fateTold {
				p.err = cluster.ErrNotLeader
			}
		}
	})
}

// fakeView is the table as one node sees it.
type fakeView struct {
	*fakeTable
	node int32
}

func (v fakeView) term(partition int32) (log.Epoch, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.leaders[partition]
	return l.epoch, l.node == v.node
}

func (v fakeView) Settle(ctx context.Context, partition int32, term log.Epoch) error {
	defer context.AfterFunc(ctx, func() { v.set(func() {}) })()
	v.mu.Lock()
	defer v.mu.Unlock()
	for {
		switch l := v.leaders[partition]; {
		case ctx.Err() != nil:
			return ctx.Err()
		case l.node != v.node || l.epoch != term:
			return cluster.ErrNotLeader
		case l.settled:
			return nil
		}
		v.changed.Wait()
	}
}

func (v fakeView) Load(partition int32, fn func(key, value []byte) error) error {
	if v.loading != nil {
		<-v.loading
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.leaders[partition].node != v.node:
		return cluster.ErrNotLeader
	case v.offline[partition]:
		return fmt.Errorf("read partition %d: %w", partition, cluster.ErrOffline)
	}
	committed := v.parts[partition]
	if !v.leaders[partition].settled { // the high watermark that a new leader knows may be an old one
		committed = committed[:len(committed)/2]
	}
	for _, e := range committed {
		key, value := bytes.Clone(e.key), bytes.Clone(e.value)
		if err := fn(key, value); err != nil {
			return err
		}
		clear(key) // views: whoever keeps them is caught
		clear(value)
	}
	return nil
}

func (v fakeView) PutIn(partition int32, term log.Epoch, key, value []byte, done func(error)) (appended bool) {
	v.set(func() {
		p := fakePut{partition: partition, entry: entry{bytes.Clone(key), bytes.Clone(value)}, done: done}
		if l := v.leaders[partition]; v.fenced || l.node != v.node || l.epoch != term {
			p.decided, p.err = true, cluster.ErrNotLeader
		}
		appended = !p.decided
		v.queue = append(v.queue, p)
	})
	return appended
}

func (v fakeView) Ahead(int32) *log.Partition { return nil }

// fakeBroker is a node's view of a cluster, as far as groups look at it.
type fakeBroker struct {
	broker
	id int32
	im *meta.Image
}

func (b *fakeBroker) NodeID() int32      { return b.id }
func (b *fakeBroker) ClusterID() string  { return b.im.ClusterID }
func (b *fakeBroker) HoldsLease() bool   { return true }
func (b *fakeBroker) Image() *meta.Image { return b.im }

func (b *fakeBroker) OfflineReason(log.TopicID, int32) error { return nil }

// apply gives the image after some commands.
func apply(t testing.TB, im *meta.Image, cmds ...meta.Command) *meta.Image {
	t.Helper()
	for _, cmd := range cmds {
		next, _, err := im.Apply(cmd)
		if err != nil {
			t.Fatal(err)
		}
		im = next
	}
	return im
}

// live is the committed value of every key that has one.
func (ft *fakeTable) live() map[string][]byte {
	ft.mu.Lock()
	defer ft.mu.Unlock()
	m := map[string][]byte{}
	for _, p := range ft.parts {
		for _, e := range p {
			if m[string(e.key)] = e.value; e.value == nil {
				delete(m, string(e.key))
			}
		}
	}
	return m
}

const fakePartitions = 6 // of each topic

// groupNode is a server reduced to its groups: handlers are called as a
// connection would, without sockets, so that tests can run on synctest's clock.
type groupNode struct {
	t      testing.TB
	s      *Server
	c      *coordinator
	conn   *conn
	cancel context.CancelFunc
	ended  chan error

	topicMu sync.Mutex
	topics  map[string]log.TopicID // each with fakePartitions
}

func startGroups(t testing.TB, table *fakeTable, cfg GroupConfig) *groupNode {
	t.Helper()
	return startGroupsLog(t, table, cfg, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
}

func startGroupsLog(t testing.TB, table *fakeTable, cfg GroupConfig, logger *slog.Logger) *groupNode {
	t.Helper()
	return startGroupsOn(t, fakeNode, fakeView{table, fakeNode}, len(table.parts), fakeView{table, fakeNode}.term, cfg, logger)
}

// startNode starts one of several nodes that share a table.
func startNode(t testing.TB, node int32, table *fakeTable) *groupNode {
	t.Helper()
	v := fakeView{table, node}
	return startGroupsOn(t, node, v, len(table.parts), v.term, GroupConfig{}, discardLogs)
}

func startGroupsOn(t testing.TB, node int32, table offsetsTable, partitions int, term func(int32) (log.Epoch, bool), cfg GroupConfig, logger *slog.Logger) *groupNode {
	t.Helper()
	n := &groupNode{t: t, ended: make(chan error, 1), topics: map[string]log.TopicID{"t": {1}, "u": {2}}}
	c, err := newCoordinator(coordinatorConfig{
		GroupConfig: cfg, table: table, partitions: int32(partitions), term: term,
		partitionsOf: func(topic string) (int32, bool) {
			n.topicMu.Lock()
			defer n.topicMu.Unlock()
			_, ok := n.topics[topic]
			return fakePartitions, ok
		},
		paceOf: func(string) group.Pace { return group.Pace{} },
		listTopics: func() (topics []*group.Topic) {
			n.topicMu.Lock()
			defer n.topicMu.Unlock()
			for name, id := range n.topics {
				topics = append(topics, &group.Topic{Name: name, Topic: assign.Topic{ID: assign.TopicID(id), Partitions: fakePartitions}})
			}
			return topics
		},
		log: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.c = c
	im := apply(t, meta.NewImage(), &meta.RegisterBroker{ClusterID: "fake", UUID: meta.UUID{1}, Host: "edge-1", KafkaPort: 9092})
	im = apply(t, im, &meta.CreateTopic{Name: offsetsTopic, ID: log.TopicID{9}, Internal: true, Assignment: slices.Repeat([][]int32{{1}}, partitions)})
	n.s = &Server{groups: c, draining: make(chan struct{}), broker: &fakeBroker{id: node, im: im}}
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	n.conn = &conn{s: n.s, nc: a, clientID: "raw", listener: boundListener{host: "edge-1", port: 9092}}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.ended <- c.run(ctx) }()
	t.Cleanup(n.stop)
	return n
}

// stop ends the coordinator; its table goes on.
func (n *groupNode) stop() {
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	if err := <-n.ended; err != nil {
		n.t.Errorf("run: %v", err)
	}
}

// loaded waits until every partition is served.
func (n *groupNode) loaded() *groupNode {
	for {
		if _, code := n.c.list(nil, nil); code == errNone {
			return n
		}
	}
}

// send runs one request through the bytes of its highest served version, or of
// req's own if that is set, and the handler.
func send[R kmsg.Response](n *groupNode, req kmsg.Request) R {
	return sendContext[R](context.Background(), n, req)
}

func sendContext[R kmsg.Response](ctx context.Context, n *groupNode, req kmsg.Request) R {
	var row *api
	for _, a := range groupAPIs() {
		if a.key == req.Key() {
			row = &a
		}
	}
	if req.GetVersion() < row.min || req.GetVersion() > row.max {
		n.t.Fatalf("key %d version %d is not served", req.Key(), req.GetVersion())
	}
	in := kmsg.RequestForKey(req.Key())
	in.SetVersion(req.GetVersion())
	if err := in.ReadFrom(req.AppendTo(nil)); err != nil {
		n.t.Fatalf("key %d version %d: decode request: %v", req.Key(), req.GetVersion(), err)
	}
	resp, err := row.handle(n.s, ctx, n.conn, in)
	if err != nil {
		n.t.Fatalf("key %d version %d: %v", req.Key(), req.GetVersion(), err)
	}
	resp.SetVersion(req.GetVersion())
	b := resp.AppendTo(nil)
	out := req.ResponseKind()
	if err := out.ReadFrom(b); err != nil {
		n.t.Fatalf("key %d version %d: decode answer: %v", req.Key(), req.GetVersion(), err)
	}
	return out.(R)
}

// member is a consumer that speaks the protocol by hand.
type member struct {
	n            *groupNode
	group, id    string
	instance     *string
	generation   int32
	version      int16 // of JoinGroup
	session      int32
	rebalance    int32
	leader       bool
	members      []kmsg.JoinGroupResponseMember
	subscription []byte
}

func (n *groupNode) member(groupID string) *member {
	sub := kmsg.NewConsumerMemberMetadata()
	sub.Topics = []string{"t"}
	return &member{n: n, group: groupID, version: 9, session: 10_000, rebalance: 30_000, subscription: sub.AppendTo(nil)}
}

func (m *member) joinRequest() *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version = m.version
	req.Group, req.MemberID, req.InstanceID = m.group, m.id, m.instance
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = m.session, m.rebalance
	req.ProtocolType = "consumer"
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: m.subscription}}
	return req
}

// join joins, twice if the coordinator wants that (KIP-394).
func (m *member) join() int16 {
	for {
		resp := send[*kmsg.JoinGroupResponse](m.n, m.joinRequest())
		switch resp.ErrorCode {
		case errMemberIDRequired:
			m.id = resp.MemberID
			continue
		case errNone:
			m.id, m.generation = resp.MemberID, resp.Generation
			m.leader = resp.LeaderID == resp.MemberID
			m.members = resp.Members
		}
		return resp.ErrorCode
	}
}

// sync gives, if it leads, each member its own id as assignment.
func (m *member) sync() (string, int16) {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version = 5
	req.Group, req.MemberID, req.InstanceID, req.Generation = m.group, m.id, m.instance, m.generation
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	if m.leader {
		for _, o := range m.members {
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: o.MemberID, MemberAssignment: []byte("for " + o.MemberID)})
		}
	}
	resp := send[*kmsg.SyncGroupResponse](m.n, req)
	return string(resp.MemberAssignment), resp.ErrorCode
}

// up joins a group that is its own, and syncs.
func (m *member) up() *member {
	m.n.t.Helper()
	if code := m.join(); code != errNone {
		m.n.t.Fatalf("join: code %d", code)
	}
	if a, code := m.sync(); code != errNone || a != "for "+m.id {
		m.n.t.Fatalf("sync: %q code %d", a, code)
	}
	return m
}

func (m *member) heartbeat() int16 {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version = 4
	req.Group, req.MemberID, req.InstanceID, req.Generation = m.group, m.id, m.instance, m.generation
	return send[*kmsg.HeartbeatResponse](m.n, req).ErrorCode
}

func (m *member) leave() int16 {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version = 5
	req.Group = m.group
	req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: m.id, InstanceID: m.instance}}
	return send[*kmsg.LeaveGroupResponse](m.n, req).Members[0].ErrorCode
}

// commit commits one offset as a member, or, with no id, as a consumer that
// assigns partitions to itself.
func (m *member) commit(topic string, partition int32, offset int64) int16 {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version = 8
	req.Group, req.MemberID, req.InstanceID, req.Generation = m.group, m.id, m.instance, m.generation
	if m.id == "" {
		req.Generation = -1
	}
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch = partition, offset, 3
	p.Metadata = kmsg.StringPtr("note")
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	return send[*kmsg.OffsetCommitResponse](m.n, req).Topics[0].Partitions[0].ErrorCode
}

// offset is the committed offset, -1 for none.
func (n *groupNode) offset(groupID, topic string, partition int32) int64 {
	n.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 8
	req.Groups = []kmsg.OffsetFetchRequestGroup{{Group: groupID, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, Partitions: []int32{partition}}}}}
	g := send[*kmsg.OffsetFetchResponse](n, req).Groups[0]
	if g.ErrorCode != errNone || g.Topics[0].Partitions[0].ErrorCode != errNone {
		n.t.Fatalf("fetch offset: %+v", g)
	}
	return g.Topics[0].Partitions[0].Offset
}

func (n *groupNode) describe(groupID string) kmsg.DescribeGroupsResponseGroup {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version = 5
	req.Groups = []string{groupID}
	return send[*kmsg.DescribeGroupsResponse](n, req).Groups[0]
}

func (n *groupNode) deleteGroup(groupID string) int16 {
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Version = 2
	req.Groups = []string{groupID}
	return send[*kmsg.DeleteGroupsResponse](n, req).Groups[0].ErrorCode
}
