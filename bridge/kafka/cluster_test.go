package kafka

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// threePeers adds to an image with broker 1: broker 2 with both listeners, 3 which is fenced, and 4 with TLS only.
func threePeers(t testing.TB, im *meta.Image) *meta.Image {
	t.Helper()
	for id := byte(2); id <= 4; id++ {
		r := &meta.RegisterBroker{ClusterID: im.ClusterID, UUID: meta.UUID{id}, Nonce: meta.UUID{id}, Host: fmt.Sprint("edge-", id), KafkaPort: 9092, KafkaTLSPort: 9093, Zone: "east"}
		if id == 4 {
			r.KafkaPort = 0
		}
		im = apply(t, im, r)
	}
	return im
}

func fence(t testing.TB, im *meta.Image, id int32) *meta.Image {
	t.Helper()
	return apply(t, im, &meta.FenceBrokers{Brokers: []meta.Incarnation{{BrokerID: id, BrokerEpoch: im.Broker(id).Epoch}}})
}

// clusterServer answers as broker 1 of four, with a topic whose partitions are led by 2, 4, 1 and nobody.
func clusterServer(t testing.TB) *Server {
	im := apply(t, meta.NewImage(), &meta.RegisterBroker{ClusterID: "fake", UUID: meta.UUID{1}, Nonce: meta.UUID{1}, Host: "not told", KafkaPort: 1})
	im = threePeers(t, im)
	assignment := [][]int32{{2, 1, 3}, {4}, {1}, {3}}
	im = apply(t, im, &meta.CreateTopic{Name: "x", ID: log.TopicID{1}, Assignment: assignment},
		&meta.CreateTopic{Name: offsetsTopic, ID: log.TopicID{9}, Internal: true, Assignment: assignment})
	table := newFakeTable(t, len(assignment))
	c, err := newCoordinator(coordinatorConfig{table: fakeView{table, 1}, partitions: int32(len(assignment)), term: fakeView{table, 1}.term})
	if err != nil {
		t.Fatal(err)
	}
	return &Server{groups: c, broker: &fakeBroker{id: 1, im: fence(t, im, 3)}}
}

func ask[R kmsg.Response](t testing.TB, s *Server, h handler, secure bool, req kmsg.Request) R {
	t.Helper()
	c := &conn{s: s, listener: boundListener{host: "listener", port: 7, secure: secure}}
	resp, err := h(s, context.Background(), c, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.(R)
}

// Clients are told of brokers by a listener like their own, and of none that is fenced.
func TestMetadataOfACluster(t *testing.T) {
	s := clusterServer(t)
	type broker struct {
		id   int32
		addr string
	}
	type partition struct {
		leader  int32
		code    int16
		offline string
	}
	for name, test := range map[string]struct {
		secure     bool
		version    int16
		brokers    []broker
		partitions []partition
	}{
		"plain": {false, 12, []broker{{1, "listener:7"}, {2, "edge-2:9092"}}, []partition{
			{2, errNone, "[3]"}, {-1, errListenerNotFound, "[4]"}, {1, errNone, "[]"}, {-1, errLeaderNotAvailable, "[3]"},
		}},
		"plain, old": {false, 5, []broker{{1, "listener:7"}, {2, "edge-2:9092"}}, []partition{
			{2, errNone, "[3]"}, {-1, errLeaderNotAvailable, "[4]"}, {1, errNone, "[]"}, {-1, errLeaderNotAvailable, "[3]"},
		}},
		"tls": {true, 12, []broker{{1, "listener:7"}, {2, "edge-2:9093"}, {4, "edge-4:9093"}}, []partition{
			{2, errNone, "[3]"}, {4, errNone, "[]"}, {1, errNone, "[]"}, {-1, errLeaderNotAvailable, "[3]"},
		}},
	} {
		resp := ask[*kmsg.MetadataResponse](t, s, (*Server).metadata, test.secure, metadataRequest(test.version, "x"))
		var brokers []broker
		for _, b := range resp.Brokers {
			brokers = append(brokers, broker{b.NodeID, hostPort(b.Host, b.Port)})
			if (b.Rack != nil && *b.Rack == "east") != (b.NodeID != 1) {
				t.Errorf("%s: broker %d is in rack %v", name, b.NodeID, b.Rack)
			}
		}
		if !slices.Equal(brokers, test.brokers) || resp.ControllerID != 1 {
			t.Errorf("%s: brokers %v, controller %d, want %v", name, brokers, resp.ControllerID, test.brokers)
		}
		var partitions []partition
		for _, p := range resp.Topics[0].Partitions {
			partitions = append(partitions, partition{p.Leader, p.ErrorCode, fmt.Sprint(p.OfflineReplicas)})
			if want := s.broker.Image().Topic("x").Partitions[p.Partition]; p.LeaderEpoch != int32(want.LeaderEpoch) || !slices.Equal(p.Replicas, want.Replicas) || !slices.Equal(p.ISR, want.ISR) {
				t.Errorf("%s: %+v, want %+v", name, p, want)
			}
		}
		if !slices.Equal(partitions, test.partitions) {
			t.Errorf("%s: partitions %v, want %v", name, partitions, test.partitions)
		}
		described := ask[*kmsg.DescribeClusterResponse](t, s, (*Server).describeCluster, test.secure, kmsg.NewPtrDescribeClusterRequest())
		brokers = nil
		for _, b := range described.Brokers {
			if b.IsFenced {
				t.Errorf("%s: broker %d is fenced, and was not asked for", name, b.NodeID)
			}
			brokers = append(brokers, broker{b.NodeID, hostPort(b.Host, b.Port)})
		}
		if !slices.Equal(brokers, test.brokers) || described.ControllerID != 1 {
			t.Errorf("%s: described as %v, controller %d", name, brokers, described.ControllerID)
		}
		all := kmsg.NewPtrDescribeClusterRequest()
		all.Version, all.IncludeFencedBrokers = 2, true
		described = ask[*kmsg.DescribeClusterResponse](t, s, (*Server).describeCluster, test.secure, all)
		if last := described.Brokers[len(described.Brokers)-1]; len(described.Brokers) != len(brokers)+1 || last.NodeID != 3 || !last.IsFenced || last.Host != "edge-3" {
			t.Errorf("%s: with those that are fenced described as %+v", name, described.Brokers)
		}
	}
}

// A broker that is fenced itself sends its clients away.
func TestFencedBrokerNamesOthers(t *testing.T) {
	s := clusterServer(t)
	s.broker = &fakeBroker{id: 1, im: fence(t, s.broker.Image(), 1)}
	resp := ask[*kmsg.MetadataResponse](t, s, (*Server).metadata, false, metadataRequest(12))
	if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 || resp.ControllerID != 2 {
		t.Errorf("brokers %+v, controller %d", resp.Brokers, resp.ControllerID)
	}
}

// The coordinator of a group is who leads its partition, where the client can reach that.
func TestFindCoordinatorInACluster(t *testing.T) {
	s := clusterServer(t)
	want := []map[bool]string{
		{false: "2 edge-2:9092", true: "2 edge-2:9093"},
		{false: "", true: "4 edge-4:9093"},
		{false: "1 listener:7", true: "1 listener:7"},
		{false: "", true: ""},
	}
	seen := map[int32]bool{}
	for i := 0; len(seen) < len(want); i++ {
		group := fmt.Sprint("g", i)
		p := s.groups.partitionOf(group)
		seen[p] = true
		for _, secure := range []bool{false, true} {
			req := kmsg.NewPtrFindCoordinatorRequest()
			req.Version, req.CoordinatorKeys = 4, []string{group}
			got := ask[*kmsg.FindCoordinatorResponse](t, s, (*Server).findCoordinator, secure, req).Coordinators[0]
			if want := want[p][secure]; want == "" {
				if got.ErrorCode != errCoordinatorNotAvailable || got.NodeID != -1 {
					t.Errorf("group of partition %d, tls %t: %+v", p, secure, got)
				}
			} else if at := fmt.Sprint(got.NodeID, " ", hostPort(got.Host, got.Port)); got.ErrorCode != errNone || at != want {
				t.Errorf("group of partition %d, tls %t: %s, code %d, want %s", p, secure, at, got.ErrorCode, want)
			}
		}
	}
}

// site is a real broker that believes in a cluster: what it leads moves by an image of ours.
type site struct {
	*cluster.Broker
	confirm  func() error // nil: the broker's own
	lapsed   atomic.Bool  // its lease
	mu       sync.Mutex
	im       *meta.Image // nil: the broker's own
	watchers []func(*meta.Image)
}

func (s *site) Confirm(ctx context.Context) error {
	if s.confirm != nil {
		return s.confirm()
	}
	return s.Broker.Confirm(ctx)
}

func (s *site) Image() *meta.Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.im != nil {
		return s.im
	}
	return s.Broker.Image()
}

func (s *site) Partition(topic string, index int32) (*cluster.Partition, error) {
	if p := assignment(s.Image(), topic, index); p != nil && p.Leader != s.NodeID() {
		return nil, fmt.Errorf("partition %s/%d: %w", topic, index, cluster.ErrNotLeader)
	}
	return s.Broker.Partition(topic, index)
}

func (s *site) WatchTopics(fn func(*meta.Image)) (stop func()) {
	s.mu.Lock()
	s.watchers = append(s.watchers, fn)
	s.mu.Unlock()
	return s.Broker.WatchTopics(func(*meta.Image) { fn(s.Image()) })
}

// set puts another image in force.
func (s *site) set(im *meta.Image) {
	s.mu.Lock()
	s.im = im
	watchers := s.watchers
	s.mu.Unlock()
	for _, fn := range watchers {
		fn(im)
	}
}

// joinedBy2 has broker 2 keep in sync with partition 0 of a topic that broker 1 leads.
func joinedBy2(t testing.TB, im *meta.Image, topic string) *meta.Image {
	t.Helper()
	one, two := im.Broker(1), im.Broker(2)
	im = apply(t, im, &meta.Reassign{ID: im.Topic(topic).ID, Expect: im.Topic(topic).Version, Moves: []meta.Move{{Replicas: []int32{1, 2}}}})
	p := im.Topic(topic).Partitions[0]
	return apply(t, im, &meta.AlterPartitions{BrokerID: 1, BrokerEpoch: one.Epoch, Changes: []meta.ISRChange{{
		Topic: im.Topic(topic).ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
		ISR: []meta.ISRMember{{ID: 1, Epoch: one.Epoch, Proven: true}, {ID: 2, Epoch: two.Epoch, Proven: true}},
	}}})
}

// moveTo2 has broker 2 lead it.
func moveTo2(t testing.TB, im *meta.Image, topic string) *meta.Image {
	t.Helper()
	im = joinedBy2(t, im, topic)
	p := im.Topic(topic).Partitions[0]
	im = apply(t, im, &meta.ElectLeaders{Kind: meta.ElectPreferred, Elect: []meta.Choice{{Topic: im.Topic(topic).ID, PartitionEpoch: p.PartitionEpoch, Leader: 2}}})
	if p := im.Topic(topic).Partitions[0]; p.Leader != 2 || p.LeaderEpoch == 0 {
		t.Fatalf("partition is %+v", p)
	}
	return im
}

// HoldsLease as the test wants it.
func (b *site) HoldsLease() bool { return !b.lapsed.Load() }

// startSite serves a site.
func startSite(t *testing.T) (*site, *Server, string) {
	t.Helper()
	b := &site{Broker: openBroker(t)}
	s, err := newServer(Config{Listeners: []Listener{{Addr: "127.0.0.1:0"}}, Logger: testLogger(t)}, b)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return b, s, s.Addrs()[0].String()
}

// R4: a broker that was replaced in good order, and has not heard of it, does not tell a consumer who has read on at the new leader that its offset lies
// behind the end: it asks first.
func TestOffsetsBehindTheEndAreConfirmed(t *testing.T) {
	b, _, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a")
	asked := 0
	b.confirm = func() error { asked++; return nil }
	fetch := func(offset int64) int16 { return fetchOne(c, fetchRequest(12, "t", 0, offset)).ErrorCode }
	for offset, want := range map[int64]int16{0: errNone, 1: errNone, -1: errOffsetOutOfRange} {
		if got := fetch(offset); got != want || asked != 0 {
			t.Errorf("offset %d: error %d, asked %d times", offset, got, asked)
		}
	}
	if got := fetch(2); got != errOffsetOutOfRange || asked != 1 {
		t.Errorf("behind the end: error %d, asked %d times", got, asked)
	}
	b.confirm = func() error { fill(t, dialRaw(t, addr), "t", "b", "c"); return nil }
	if got := fetch(2); got != errNone {
		t.Errorf("behind an end that has moved meanwhile: error %d", got)
	}
	b.confirm = func() error { return cluster.ErrUnavailable }
	if got := fetch(4); got != errNotLeaderOrFollower {
		t.Errorf("while nobody can say: error %d", got)
	}
	b.confirm = func() error { b.set(moveTo2(t, threePeers(t, b.Image()), "t")); return nil }
	if got := fetchOne(c, fetchRequest(12, "t", 0, 4)); got.ErrorCode != errNotLeaderOrFollower || got.CurrentLeader.LeaderID != 2 {
		t.Errorf("where another broker has taken over: %+v", got)
	}
}

// Who comes to a broker that leads no longer is sent away, and who waits there is told.
func TestLeadershipMoves(t *testing.T) {
	b, s, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	createTopic(t, addr, "stays", 1, nil)
	c, waiter, other := dialRaw(t, addr), dialRaw(t, addr), dialRaw(t, addr)
	fill(t, c, "t", "a")
	waiting := func(topic string, c *rawConn) *kmsg.FetchRequest {
		req := fetchRequest(12, topic, 0, 0)
		if topic == "t" {
			req = fetchRequest(12, topic, 0, 1)
		}
		req.MaxWaitMillis = 1 << 30
		c.sendFrame(frameOf(req, 1))
		return req
	}
	req := waiting("t", waiter)
	waiting("stays", other)
	eventually(t, "both wait", func() bool { return s.Stats().FetchWaiting == 2 })

	im := moveTo2(t, threePeers(t, b.Image()), "t")
	epoch := int32(im.Topic("t").Partitions[0].LeaderEpoch)
	b.set(im)

	wantHint := func(name string, p kmsg.FetchResponseTopicPartition, code int16, hint bool) {
		t.Helper()
		leader, at := int32(-1), int32(-1)
		if hint {
			leader, at = 2, epoch
		}
		if p.ErrorCode != code || p.CurrentLeader.LeaderID != leader || p.CurrentLeader.LeaderEpoch != at || len(p.RecordBatches) > 0 || p.HighWatermark != -1 {
			t.Errorf("%s: %+v, want code %d, leader %d in epoch %d", name, p, code, leader, at)
		}
	}
	_, body := waiter.readFrame()
	wantHint("waiting fetch", parseResponse[*kmsg.FetchResponse](waiter, req, body).Topics[0].Partitions[0], errNotLeaderOrFollower, true)
	wantHint("fetch", fetchOne(c, fetchRequest(12, "t", 0, 0)), errNotLeaderOrFollower, true)
	wantHint("fetch v11", fetchOne(c, fetchRequest(11, "t", 0, 0)), errNotLeaderOrFollower, false)
	for seen, want := range map[int32]int16{epoch - 1: errFencedLeaderEpoch, epoch: errNotLeaderOrFollower, epoch + 1: errUnknownLeaderEpoch} {
		fetch := fetchRequest(12, "t", 0, 0)
		fetch.Topics[0].Partitions[0].CurrentLeaderEpoch = seen
		wantHint(fmt.Sprint("fetch in epoch ", seen), fetchOne(c, fetch), want, want != errUnknownLeaderEpoch)
		list := listRequest(7, "t", timeLatest)
		list.Topics[0].Partitions[0].CurrentLeaderEpoch = seen
		if got := roundTrip[*kmsg.ListOffsetsResponse](c, list).Topics[0].Partitions[0]; got.ErrorCode != want || got.Offset != -1 {
			t.Errorf("list offsets in epoch %d: %+v, want code %d", seen, got, want)
		}
		ends := kmsg.NewPtrOffsetForLeaderEpochRequest()
		ends.Version = 4
		ends.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{{CurrentLeaderEpoch: seen}}}}
		if got := roundTrip[*kmsg.OffsetForLeaderEpochResponse](c, ends).Topics[0].Partitions[0]; got.ErrorCode != want || got.EndOffset != -1 {
			t.Errorf("end of an epoch, in epoch %d: %+v, want code %d", seen, got, want)
		}
	}
	if p := produceOne(c, "t", batchOf(1, "b")); p.ErrorCode != errNotLeaderOrFollower || p.BaseOffset != -1 {
		t.Errorf("produce: %+v", p)
	}
	del := kmsg.NewPtrDeleteRecordsRequest()
	del.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "t", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: -1}}}}
	if got := roundTrip[*kmsg.DeleteRecordsResponse](c, del).Topics[0].Partitions[0]; got.ErrorCode != errNotLeaderOrFollower {
		t.Errorf("delete records: %+v", got)
	}
	eventually(t, "the fetch of the topic that stays waits on", func() bool { return s.Stats().FetchWaiting == 1 })
	fill(t, c, "stays", "x")
	if _, body := other.readFrame(); len(parseResponse[*kmsg.FetchResponse](other, req, body).Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Error("the other fetch got nothing")
	}
}

// R2: who waits at a broker whose lease lapses meanwhile does not hear from it that there is nothing new.
func TestFetchWaitsWhileTheLeaseLapses(t *testing.T) {
	b, s, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	req := fetchRequest(12, "t", 0, 0)
	req.MaxWaitMillis = 300
	c.sendFrame(frameOf(req, 1))
	eventually(t, "it waits", func() bool { return s.Stats().FetchWaiting == 1 })
	b.lapsed.Store(true)
	_, body := c.readFrame()
	if got := parseResponse[*kmsg.FetchResponse](c, req, body).Topics[0].Partitions[0]; got.ErrorCode != errNotLeaderOrFollower || got.HighWatermark != -1 {
		t.Errorf("%+v", got)
	}
}

func TestLosses(t *testing.T) {
	im := threePeers(t, apply(t, meta.NewImage(), &meta.RegisterBroker{ClusterID: "fake", UUID: meta.UUID{1}, Nonce: meta.UUID{1}}))
	im = apply(t, im, &meta.CreateTopic{Name: "t", ID: log.TopicID{1}, Assignment: [][]int32{{1}}}, &meta.CreateTopic{Name: "u", ID: log.TopicID{2}, Assignment: [][]int32{{2}}})
	for name, test := range map[string]struct {
		next *meta.Image
		want bool
	}{
		"nothing":            {im, false},
		"another broker":     {fence(t, im, 2), false},
		"a new topic":        {apply(t, im, &meta.CreateTopic{Name: "v", ID: log.TopicID{3}, Assignment: [][]int32{{1}}}), false},
		"a config":           {apply(t, im, &meta.AlterConfigs{ID: log.TopicID{1}, Expect: im.Topic("t").Version, Set: map[string]string{"a": "b"}}), false},
		"led elsewhere":      {moveTo2(t, im, "t"), true},
		"led in a new term":  {apply(t, im, &meta.RegisterBroker{ClusterID: "fake", UUID: meta.UUID{1}, Nonce: meta.UUID{7}, Held: []meta.UUID{{1}}}), true},
		"fenced":             {fence(t, im, 1), true},
		"deleted":            {apply(t, im, &meta.DeleteTopic{ID: log.TopicID{1}, Expect: im.Topic("t").Version}), true},
		"another is deleted": {apply(t, im, &meta.DeleteTopic{ID: log.TopicID{2}, Expect: im.Topic("u").Version}), false},
	} {
		var l losses
		l.changed(im, 1)
		lost := l.wait()
		l.changed(test.next, 1)
		select {
		case <-lost:
			if !test.want {
				t.Errorf("%s: is a loss", name)
			}
		default:
			if test.want {
				t.Errorf("%s: is no loss", name)
			}
		}
	}
}

// unsettled is a partition whose term began at 9, and of which less is known to be committed.
type unsettled struct{ hw, found log.Offset }

func (p unsettled) LogStart() log.Offset      { return 2 }
func (p unsettled) HighWatermark() log.Offset { return p.hw }
func (p unsettled) LastStable() log.Offset    { return p.hw - 1 }
func (p unsettled) Settled() bool             { return p.hw >= 9 }
func (p unsettled) LeaderEpoch() log.Epoch    { return 3 }
func (p unsettled) OffsetForTime(int64) (log.Offset, int64, error) {
	return p.found, int64(p.found), nil
}

// R3: nobody is told of an end that may lie below what it has read.
func TestListOffsetsBeforeTheTermIsSettled(t *testing.T) {
	for _, test := range []struct {
		p       unsettled
		ts      int64
		version int16
		offset  int64
		code    int16
	}{
		{unsettled{8, -1}, timeLatest, 7, -1, errOffsetNotAvailable},
		{unsettled{8, -1}, timeLatest, 5, -1, errOffsetNotAvailable},
		{unsettled{8, -1}, timeLatest, 4, -1, errLeaderNotAvailable}, // what clients knew then
		{unsettled{8, -1}, timeEarliest, 7, 2, errNone},
		{unsettled{8, 5}, 1000, 7, 5, errNone},
		{unsettled{8, -1}, 1000, 7, -1, errOffsetNotAvailable},
		{unsettled{8, -1}, timeMax, 7, -1, errOffsetNotAvailable},
		{unsettled{8, 5}, timeMax, 7, -1, errOffsetNotAvailable}, // a later record may be committed
		{unsettled{9, 5}, timeMax, 7, 5, errNone},
		{unsettled{9, -1}, timeLatest, 7, 9, errNone},
		{unsettled{9, -1}, 1000, 7, -1, errNone},
		{unsettled{9, -1}, timeMax, 7, -1, errNone},
	} {
		resp := kmsg.NewListOffsetsResponseTopicPartition()
		resp.Offset = -1
		answerOffset(test.p, test.ts, false, test.version, &resp)
		if resp.Offset != test.offset || resp.ErrorCode != test.code || (resp.LeaderEpoch == 3) != (test.offset >= 0) {
			t.Errorf("%+v, time %d, v%d: offset %d, code %d, epoch %d; want %d, %d", test.p, test.ts, test.version, resp.Offset, resp.ErrorCode, resp.LeaderEpoch, test.offset, test.code)
		}
	}
}

// laggards is a partition whose commits wait for replicas.
type laggards struct {
	writable error
	done     []func(log.Offset, int64, error)
}

func (p *laggards) ID() log.PartitionID                                 { return log.PartitionID{} }
func (p *laggards) InTransaction(int64, int16, bool) (bool, log.Offset) { return false, -1 }
func (p *laggards) ProduceVerified(b log.Batch, acks int16, _ log.Verified, done func(log.Offset, int64, error)) {
	p.Produce(b, acks, done)
}

func (p *laggards) Produce(_ log.Batch, _ int16, done func(log.Offset, int64, error)) {
	p.done = append(p.done, done)
}
func (p *laggards) Writable() error      { return p.writable }
func (p *laggards) LogStart() log.Offset { return 0 }

// H6: who has appended and waits is told when too few replicas are in sync, before its time is over; and what is committed all the
// same later touches nothing. A1: who waits for the leader's disk alone is told that it may not lead any more, and not kept for ever.
func TestProduceWhileReplicasAreMissing(t *testing.T) {
	b, s, addr := startSite(t)
	createTopic(t, addr, "t", 3, nil)
	for name, test := range map[string]struct {
		acks     int16
		timeout  time.Duration
		writable error
		lapsed   bool
		want     int16 // 0: goes on waiting
	}{
		"in sync":             {-1, time.Hour, nil, false, 0},
		"too few":             {-1, time.Hour, cluster.ErrNotEnoughReplicas, false, errNotEnoughReplicasAfter},
		"no time left":        {-1, 0, nil, false, errRequestTimedOut},
		"neither":             {-1, 0, cluster.ErrNotEnoughReplicas, false, errNotEnoughReplicasAfter},
		"led elsewhere":       {-1, time.Hour, cluster.ErrNotLeader, false, 0}, // the partition says so itself
		"no time, not leader": {-1, 0, cluster.ErrNotLeader, false, errRequestTimedOut},

		"the leader's disk":          {1, time.Hour, nil, false, 0},
		"the leader's disk, too few": {1, time.Hour, cluster.ErrNotEnoughReplicas, false, 0}, // it asks for none
		"the leader's disk hangs":    {1, 0, nil, false, errRequestTimedOut},
		"no lease":                   {1, time.Hour, nil, true, 0}, // it may come back
		"no lease, and no time left": {1, 0, nil, true, errNotLeaderOrFollower},
		"no lease, all must have it": {-1, time.Hour, nil, true, 0}, // the high watermark protects it
	} {
		b.lapsed.Store(test.lapsed)
		near, far := net.Pipe()
		rep := newReply(1)
		p := newProducing(s, &conn{s: s, nc: near}, 9, rep)
		req := produceRequest(9, "t", test.acks, batchOf(1, "a"), batchOf(1, "b"), batchOf(1, "c"))
		req.TimeoutMillis = int32(test.timeout.Milliseconds())
		if err := p.decode(req.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
		p.checkAll(t.Context())
		p.layout(1)
		parts := []*laggards{{}, {writable: test.writable}, {writable: test.writable}}
		for i, pp := range p.parts[:p.n] {
			pp.partition = parts[i]
		}
		p.append()
		parts[0].done[0](7, -1, nil) // committed
		p.done()
		rep.expire(time.Now())
		if waits := len(rep.ready) == 0; waits != (test.want == 0) {
			t.Errorf("%s: waits %t", name, waits)
		}
		for _, part := range parts[1:] { // ends all that goes on, and comes late for the rest
			part.done[0](8, -1, nil)
		}
		<-rep.ready
		resp := kmsg.NewPtrProduceResponse()
		resp.Version = 9
		if err := resp.ReadFrom(rep.out.b[9:]); err != nil {
			t.Fatal(err)
		}
		for i, rp := range resp.Topics[0].Partitions {
			want, offset := test.want, int64(8)
			if i == 0 {
				want, offset = errNone, 7
			} else if want != errNone {
				offset = -1
			}
			if rp.ErrorCode != want || rp.BaseOffset != offset {
				t.Errorf("%s: partition %d has code %d and offset %d, want %d and %d", name, i, rp.ErrorCode, rp.BaseOffset, want, offset)
			}
		}
		if rep.producing.Load() != nil {
			t.Errorf("%s: the reply holds on to the request", name)
		}
		near.Close()
		far.Close()
	}
}

// remote is a broker whose controller is another node, and may not answer.
type remote struct {
	*fakeBroker
	specs    []cluster.TopicSpec
	assigned string // partitions asked for
	err      error
}

func (b *remote) CreatePartitions(_ context.Context, name string, total int, assignment [][]int32, _ bool) error {
	b.assigned = fmt.Sprint(name, " ", total, " ", assignment)
	return nil
}

func (b *remote) CreateTopic(ctx context.Context, spec cluster.TopicSpec, _ bool) (*meta.Topic, error) {
	b.specs = append(b.specs, spec)
	if b.err != nil {
		<-ctx.Done() // it is waited for, but not for ever
		return nil, fmt.Errorf("%w: %w", b.err, context.Cause(ctx))
	}
	return &meta.Topic{Name: spec.Name, Partitions: []meta.Partition{{Replicas: []int32{1, 2, 3}}}}, nil
}

// Changes of the metadata are asked of any broker; what they say of replicas goes to the controller as it is.
func TestCreateTopicsByAnotherNode(t *testing.T) {
	s := clusterServer(t)
	b := &remote{fakeBroker: s.broker.(*fakeBroker)}
	s.broker = b
	got := ask[*kmsg.CreateTopicsResponse](t, s, (*Server).createTopics, false, createRequest(7, "new", 1, 3)).Topics[0]
	if got.ErrorCode != errNone || got.ReplicationFactor != 3 || b.specs[0].Replicas != 3 {
		t.Errorf("answered %+v, asked for %+v", got, b.specs)
	}
	b.err = cluster.ErrUnavailable
	req := createRequest(7, "new", 1, -1)
	req.TimeoutMillis = 1
	if got := ask[*kmsg.CreateTopicsResponse](t, s, (*Server).createTopics, false, req).Topics[0]; got.ErrorCode != errRequestTimedOut || b.specs[1].Replicas > 0 {
		t.Errorf("answered %+v, asked for %+v", got, b.specs[1])
	}
}

// E9: a node whose disk hangs ends its connections, and new ones, so that clients go on at others.
func TestConnectionsAreTurnedAway(t *testing.T) {
	_, s, addr := startSite(t)
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a")
	s.TurnAway(true)
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if nc, err := net.Dial("tcp", addr); err == nil {
		nc.Close()
		t.Error("a new connection is taken")
	}
	s.TurnAway(false)
	eventually(t, "connections are taken again", func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	fill(t, dialRaw(t, addr), "t", "b")
}
