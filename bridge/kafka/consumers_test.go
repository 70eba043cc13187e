package kafka

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
	"github.com/weir-io/weir/log"
)

// consumer is a member that speaks the consumer protocol by hand.
type consumer struct {
	n         *groupNode
	group, id string
	instance  *string
	epoch     int32
	owned     []kmsg.ConsumerGroupHeartbeatRequestTopic
	last      *kmsg.ConsumerGroupHeartbeatResponse
}

func (n *groupNode) consumer(groupID, id string) *consumer {
	return &consumer{n: n, group: groupID, id: id, owned: []kmsg.ConsumerGroupHeartbeatRequestTopic{}}
}

func (m *consumer) request() *kmsg.ConsumerGroupHeartbeatRequest {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version = 1
	req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = m.group, m.id, m.epoch, m.instance
	return req
}

// beat says all, and does at once what the answer says.
func (m *consumer) beat() int16 {
	req := m.request()
	req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 30_000, []string{"t"}, m.owned
	return m.take(req)
}

func (m *consumer) take(req *kmsg.ConsumerGroupHeartbeatRequest) int16 {
	m.last = send[*kmsg.ConsumerGroupHeartbeatResponse](m.n, req)
	if m.last.ErrorCode != errNone {
		return m.last.ErrorCode
	}
	m.epoch = m.last.MemberEpoch
	if a := m.last.Assignment; a != nil {
		m.owned = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for _, t := range a.Topics {
			m.owned = append(m.owned, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: t.TopicID, Partitions: t.Partitions})
		}
	}
	return errNone
}

func (m *consumer) leave(epoch int32) int16 {
	req := m.request()
	req.MemberEpoch = epoch
	return send[*kmsg.ConsumerGroupHeartbeatResponse](m.n, req).ErrorCode
}

func (m *consumer) partitions() (n int) {
	for _, t := range m.owned {
		n += len(t.Partitions)
	}
	return n
}

func (m *consumer) commit(version int16, offset int64) int16 {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version = version
	req.Group, req.MemberID, req.Generation = m.group, m.id, m.epoch
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset = offset
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	return send[*kmsg.OffsetCommitResponse](m.n, req).Topics[0].Partitions[0].ErrorCode
}

func (m *consumer) fetch() (int64, int16) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 9
	req.Groups = []kmsg.OffsetFetchRequestGroup{{
		Group: m.group, MemberID: &m.id, MemberEpoch: m.epoch, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0}}},
	}}
	g := send[*kmsg.OffsetFetchResponse](m.n, req).Groups[0]
	return g.Topics[0].Partitions[0].Offset, g.ErrorCode
}

func (n *groupNode) describeConsumers(id string) kmsg.ConsumerGroupDescribeResponseGroup {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Version, req.Groups = 1, []string{id}
	return send[*kmsg.ConsumerGroupDescribeResponse](n, req).Groups[0]
}

func TestConsumerGroupLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		a, b := n.consumer("g", "a"), n.consumer("g", "b")
		if code := a.beat(); code != errNone || a.epoch != 1 || a.partitions() != fakePartitions || a.last.HeartbeatIntervalMillis != 3000 || *a.last.MemberID != "a" {
			t.Fatalf("first member: code %d, %+v", code, a.last)
		}
		if code := b.beat(); code != errNone || b.epoch != 2 || b.partitions() != 0 || b.last.HeartbeatIntervalMillis >= 3000 {
			t.Fatalf("second member: code %d, %+v", code, b.last)
		}
		if d := n.describeConsumers("g"); d.State != "Reconciling" {
			t.Fatalf("%+v", d)
		}
		for range 2 {
			if c1, c2 := a.beat(), b.beat(); c1|c2 != errNone {
				t.Fatalf("codes %d %d", c1, c2)
			}
		}
		if a.partitions() != 3 || b.partitions() != 3 || a.epoch != 2 {
			t.Fatalf("%d and %d partitions, epoch %d", a.partitions(), b.partitions(), a.epoch)
		}
		d := n.describeConsumers("g")
		if d.ErrorCode != errNone || d.State != "Stable" || d.Epoch != 2 || d.AssignmentEpoch != 2 || d.AssignorName != "uniform" || len(d.Members) != 2 {
			t.Fatalf("%+v", d)
		}
		if m := d.Members[0]; m.MemberID != "a" || m.ClientID != "raw" || m.MemberEpoch != 2 || m.MemberType != 1 || m.SubscribedTopics[0] != "t" ||
			m.Assignment.TopicPartitions[0].Topic != "t" || len(m.TargetAssignment.TopicPartitions[0].Partitions) != 3 {
			t.Fatalf("%+v", m)
		}
		if c1, c2 := a.commit(9, 41), a.commit(8, 42); c1 != errNone || c2 != errUnsupportedVersion {
			t.Fatalf("commit: codes %d %d", c1, c2)
		}
		if off, code := a.fetch(); off != 41 || code != errNone {
			t.Fatalf("fetch: offset %d, code %d", off, code)
		}
		a.epoch--
		_, code := a.fetch()
		if c := a.commit(9, 42); code != errStaleMemberEpoch || c != errNone {
			t.Fatalf("in an old epoch: codes %d %d, of a partition that it has had since", code, c)
		}
		b.epoch--
		if c := b.commit(9, 40); c != errStaleMemberEpoch {
			t.Fatalf("in an old epoch: code %d", c)
		}
		a.epoch++
		b.epoch++
		if code := n.consumer("nobody", "x").commit(9, 1); code != errGroupIDNotFound {
			t.Fatalf("commit into no group: code %d", code)
		}
		if code := n.deleteGroup("g"); code != errNonEmptyGroup {
			t.Fatalf("delete with members: code %d", code)
		}
		if c1, c2 := a.leave(-1), b.leave(-1); c1|c2 != errNone {
			t.Fatalf("leave: codes %d %d", c1, c2)
		}
		if code := n.deleteGroup("g"); code != errNone || len(table.live()) != 0 || n.c.count.Load() != 0 || n.c.bytes.Load() != 0 {
			t.Fatalf("delete: code %d, %d entries, %d groups, %d bytes are left", code, len(table.live()), n.c.count.Load(), n.c.bytes.Load())
		}
	})
}

func TestListAndDescribeByType(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		n.member("old").up()
		n.consumer("new", "a").beat()
		list := func(types ...string) (found []string) {
			req := kmsg.NewPtrListGroupsRequest()
			req.Version, req.TypesFilter = 5, types
			for _, g := range send[*kmsg.ListGroupsResponse](n, req).Groups {
				found = append(found, g.Group+" "+g.GroupType+" "+g.GroupState+" "+g.ProtocolType)
			}
			return found
		}
		both := []string{"new Consumer Stable consumer", "old Classic Stable consumer"}
		if diff := cmp.Diff([][]string{both, both[:1], both[1:], nil}, [][]string{list(), list("consumer"), list("classic"), list("share")}); diff != "" {
			t.Error(diff)
		}
		for version, want := range map[int16]int16{5: errNone, 6: errGroupIDNotFound} {
			req := kmsg.NewPtrDescribeGroupsRequest()
			req.Version, req.Groups = version, []string{"new", "nobody"}
			for _, g := range send[*kmsg.DescribeGroupsResponse](n, req).Groups {
				if g.State != "Dead" || g.ErrorCode != want || (g.ErrorMessage != nil) != (want != errNone) {
					t.Errorf("v%d: %+v", version, g)
				}
			}
		}
		for _, id := range []string{"old", "nobody"} {
			if d := n.describeConsumers(id); d.ErrorCode != errGroupIDNotFound || d.ErrorMessage == nil {
				t.Errorf("%+v", d)
			}
		}
	})
}

// D11: a member that was answered goes on with its epoch, at the same coordinator after a restart.
func TestRestartKeepsConsumers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		a, b := n.consumer("g", "a"), n.consumer("g", "b")
		b.instance = kmsg.StringPtr("i")
		for range 3 {
			a.beat()
			b.beat()
		}
		a.commit(9, 7)
		before := n.describeConsumers("g")
		time.Sleep(44 * time.Second) // of a session of 45
		n.stop()
		entries := len(table.live())

		n = startGroups(t, table, GroupConfig{}).loaded()
		a.n, b.n = n, n
		if after := n.describeConsumers("g"); !reflect.DeepEqual(before, after) {
			t.Fatalf("%+v\nwas %+v", after, before)
		}
		time.Sleep(44 * time.Second) // a full session again
		epoch := a.epoch
		if c1, c2, c3 := a.beat(), b.beat(), a.commit(9, 8); c1|c2|c3 != errNone || a.epoch != epoch || a.partitions() != 3 || b.partitions() != 3 {
			t.Fatalf("codes %d %d %d, epoch %d after %d, %d and %d partitions", c1, c2, c3, a.epoch, epoch, a.partitions(), b.partitions())
		}
		if got := len(table.live()); got != entries {
			t.Fatalf("%d entries were %d", got, entries)
		}
		time.Sleep(46 * time.Second)
		if d := n.describeConsumers("g"); d.State != "Empty" {
			t.Fatalf("silent members' group is %s", d.State)
		}
		if got := len(table.live()); got != 3 { // two epochs and an offset
			t.Fatalf("%d entries are left", got)
		}
	})
}

// D11: nothing is answered before it is stored, and what could not be stored is asked for again.
func TestConsumersWaitForTheTable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		a, b := n.consumer("g", "a"), n.consumer("g", "b")
		a.beat()
		table.set(func() { table.held = true })
		answered := make(chan int16, 2)
		go func() { answered <- b.beat() }()
		time.Sleep(time.Second)
		go func() { answered <- a.beat() }()
		time.Sleep(2 * time.Minute) // longer than their sessions
		if len(answered) > 0 {
			t.Fatalf("answered with code %d before the table was", <-answered)
		}
		table.set(func() { table.held = false })
		if c1, c2 := <-answered, <-answered; c1|c2 != errNone {
			t.Fatalf("codes %d %d", c1, c2)
		}
		table.set(func() { table.failing = true })
		if code := n.consumer("g", "c").beat(); code != errCoordinatorNotAvailable {
			t.Fatalf("a join that cannot be stored: code %d", code)
		}
		table.set(func() { table.failing = false })
		time.Sleep(2 * time.Second)
		if c1, c2 := a.beat(), b.beat(); c1|c2 != errNone {
			t.Fatalf("codes %d %d", c1, c2)
		}
	})
}

func TestConsumersFollowTheTopics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		a := n.consumer("g", "a")
		req := a.request()
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.SubscribedTopicRegex = 30_000, []string{}, kmsg.StringPtr("t|v.*")
		req.Topics = a.owned
		if code := a.take(req); code != errNone || a.partitions() != fakePartitions {
			t.Fatalf("code %d, %d partitions", code, a.partitions())
		}
		move := func(change func()) {
			n.topicMu.Lock()
			change()
			n.topicMu.Unlock()
			n.c.metadataChanged()
			time.Sleep(time.Second)
		}
		move(func() { n.topics["vv"] = log.TopicID{7} })
		if code := a.take(a.request()); code != errNone || a.partitions() != 2*fakePartitions || a.epoch != 2 {
			t.Fatalf("code %d, %d partitions in epoch %d", code, a.partitions(), a.epoch)
		}
		move(func() { delete(n.topics, "t") })
		if code := a.take(a.request()); code != errNone || a.partitions() != fakePartitions {
			t.Fatalf("code %d, %d partitions", code, a.partitions())
		}
	})
}

func TestBadBeats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		long := strings.Repeat("x", 250)
		for name, c := range map[string]struct {
			change func(r *kmsg.ConsumerGroupHeartbeatRequest)
			code   int16
		}{
			"no group":       {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = "" }, errInvalidRequest},
			"long group":     {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = strings.Repeat("g", 1025) }, errInvalidGroupID},
			"no member":      {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID = "" }, errInvalidRequest},
			"long member":    {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID = long }, errInvalidRequest},
			"no epoch":       {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = -3 }, errInvalidRequest},
			"empty instance": {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = new("") }, errInvalidRequest},
			"long instance":  {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = &long }, errInvalidRequest},
			"empty rack":     {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RackID = new("") }, errInvalidRequest},
			"steps away":     {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = -2 }, errInvalidRequest},
			"no timeout":     {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RebalanceTimeoutMillis = -1 }, errInvalidRequest},
			"owns not said":  {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Topics = nil }, errInvalidRequest},
			"owns something": {func(r *kmsg.ConsumerGroupHeartbeatRequest) {
				r.Topics = make([]kmsg.ConsumerGroupHeartbeatRequestTopic, 1)
			}, errInvalidRequest},
			"no subscription":    {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = nil }, errInvalidRequest},
			"no such member":     {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = 1 }, errUnknownMemberID},
			"bad pattern":        {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicRegex = new("(") }, errInvalidRegularExpression},
			"made-up assignor":   {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.ServerAssignor = new("sticky") }, errUnsupportedAssignor},
			"leaves what is not": {func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = -1 }, errUnknownMemberID},
		} {
			req := n.consumer("g", "a").request()
			req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 30_000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
			c.change(req)
			resp := send[*kmsg.ConsumerGroupHeartbeatResponse](n, req)
			if resp.ErrorCode != c.code || c.code == errInvalidRequest && resp.ErrorMessage == nil {
				t.Errorf("%s: %+v", name, resp)
			}
		}
		if n.c.count.Load() != 0 {
			t.Errorf("%d groups are left behind", n.c.count.Load())
		}
		req := n.consumer("g", "").request()
		req.Version = 0
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 30_000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		if resp := send[*kmsg.ConsumerGroupHeartbeatResponse](n, req); resp.ErrorCode != errNone || len(*resp.MemberID) < 16 {
			t.Errorf("v0 gets its id from the broker: %+v", resp)
		}
	})
}

// An operator takes a static member out, which is stored before it is answered.
func TestLeaveGroupOfConsumers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		a := n.consumer("g", "a")
		a.instance = kmsg.StringPtr("i")
		a.beat()
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group = 5, "g"
		req.Members = []kmsg.LeaveGroupRequestMember{{InstanceID: kmsg.StringPtr("i")}, {MemberID: "nobody"}}
		table.set(func() { table.failing = true })
		if resp := send[*kmsg.LeaveGroupResponse](n, req); resp.ErrorCode != errCoordinatorNotAvailable {
			t.Fatalf("not stored: %+v", resp)
		}
		table.set(func() { table.failing = false })
		time.Sleep(2 * time.Second)
		if resp := send[*kmsg.LeaveGroupResponse](n, req); resp.ErrorCode != errNone || resp.Members[0].ErrorCode != errUnknownMemberID || resp.Members[1].ErrorCode != errUnknownMemberID {
			t.Fatalf("again: %+v", resp)
		}
		if live := table.live(); len(live) != 2 {
			t.Fatalf("%d entries are left", len(live))
		}
	})
}

// The bytes are those that Apache Kafka writes: schemas ConsumerGroup…Key 3 and 5 to 8 and their values of version 0.
func TestConsumerRecordFormat(t *testing.T) {
	id := assign.TopicID{0xab}
	uuid := "ab" + strings.Repeat("00", 15)
	set := assign.NewSet([]assign.Partition{{Topic: id, Index: 1}, {Topic: id, Index: 0}})
	partitions := "02" + uuid + "03" + "00000000" + "00000001" + "00"
	str := func(s string) string { return fmt.Sprintf("%02x", len(s)+1) + hex.EncodeToString([]byte(s)) }
	full := &group.Consumer{ID: "m", Instance: "i", Rack: "r", ClientID: "c", Host: "/h", Rebalance: 30 * time.Second, Topics: []string{"t", "u"}, Pattern: "v.*", Assignor: "range"}
	for name, c := range map[string]struct {
		r          group.Record
		key, value string
	}{
		"epoch":        {group.Record{Kind: group.EpochRecord, Epoch: 5}, "0003" + "000167", "0000" + "00000005" + "00"},
		"target epoch": {group.Record{Kind: group.TargetEpochRecord, Epoch: 6}, "0006" + "000167", "0000" + "00000006" + "00"},
		"member": {group.Record{Kind: group.MemberRecord, Member: "m", Info: full}, "0005" + "000167" + "00016d",
			"0000" + str("i") + str("r") + str("c") + str("/h") + "03" + str("t") + str("u") + str("v.*") + "00007530" + str("range") + "00"},
		"classic member": {group.Record{Kind: group.MemberRecord, Member: "m", Info: &group.Consumer{ID: "m", Classic: &group.ClassicSide{
			Session: 10 * time.Second, Protocols: []group.Protocol{{Name: "range", Metadata: []byte{1, 2}}},
		}}}, "0005" + "000167" + "00016d", "0000" + "00" + "00" + "01" + "01" + "01" + "00" + "00000000" + "00" +
			"01" + "00" + "11" + "01" + "00002710" + "02" + str("range") + "03" + "0102" + "00" + "00"},
		"plain member": {group.Record{Kind: group.MemberRecord, Member: "m", Info: &group.Consumer{ID: "m"}}, "0005" + "000167" + "00016d",
			"0000" + "00" + "00" + "01" + "01" + "01" + "00" + "00000000" + "00" + "00"},
		"target":  {group.Record{Kind: group.TargetRecord, Member: "m", Partitions: set}, "0007" + "000167" + "00016d", "0000" + partitions + "00"},
		"current": {group.Record{Kind: group.CurrentRecord, Member: "m", Epoch: 6, Seen: 5, Partitions: set}, "0008" + "000167" + "00016d", "0000" + "00000006" + "00000005" + "01" + partitions + "01" + "00"},
		"revoking": {group.Record{Kind: group.CurrentRecord, Member: "m", Epoch: 5, Seen: 5, Revoking: set, Waits: true}, "0008" + "000167" + "00016d",
			"0000" + "00000005" + "00000005" + "02" + "01" + partitions + "00"},
		"waiting": {group.Record{Kind: group.CurrentRecord, Member: "m", Epoch: 5, Seen: 5, Waits: true}, "0008" + "000167" + "00016d",
			"0000" + "00000005" + "00000005" + "03" + "01" + "01" + "00"},
		"gone":    {group.Record{Kind: group.TargetRecord, Member: "m", Gone: true}, "0007" + "000167" + "00016d", ""},
		"classic": {group.Record{Kind: group.ClassicRecord, Gone: true}, "0002" + "000167", ""},
	} {
		key, value := encodeConsumerRecord("g", &c.r)
		if hex.EncodeToString(key) != c.key || hex.EncodeToString(value) != c.value || (value == nil) != c.r.Gone {
			t.Errorf("%s:\n got %x %x\nwant %s %s", name, key, value, c.key, c.value)
		}
	}
	classic := &group.Consumer{ID: "k", Classic: &group.ClassicSide{Session: time.Second, Protocols: []group.Protocol{{Name: "a", Metadata: []byte{1}}, {Name: "b", Metadata: []byte{2}}}}}
	gs := storedGroups{}
	for _, r := range []group.Record{
		{Kind: group.EpochRecord, Epoch: 6}, {Kind: group.TargetEpochRecord, Epoch: 6}, {Kind: group.MemberRecord, Member: "m", Info: full},
		{Kind: group.MemberRecord, Member: "k", Info: classic},
		{Kind: group.TargetRecord, Member: "m", Partitions: set}, {Kind: group.CurrentRecord, Member: "m", Epoch: 6, Seen: 5, Partitions: set[:1], Revoking: set[1:]},
	} {
		key, value := encodeConsumerRecord("g", &r)
		if err := gs.add(string(key), value); err != nil {
			t.Fatal(err)
		}
	}
	want := &group.ConsumersSnapshot{Epoch: 6, TargetEpoch: 6, Members: map[string]*group.ConsumerSnapshot{
		"k": {Info: classic},
		"m": {Info: full, Target: set, Current: true, Epoch: 6, Seen: 5, Assigned: set[:1], Revoking: set[1:]},
	}}
	if diff := cmp.Diff(want, gs["g"].consumers); diff != "" {
		t.Error(diff)
	}
}

// Of a group that was about to change its protocol both may be stored: it is still of the classic one, and what is
// there of the other goes.
func TestBothProtocolsAreStored(t *testing.T) {
	table := newFakeTable(t, 1)
	put := func(key, value []byte) { table.parts[0] = append(table.parts[0], entry{key, value}) }
	put(encodeGroup("g", &group.Snapshot{Generation: 3, ProtocolType: "consumer", Protocol: "range", Leader: "a", Members: []group.SnapshotMember{{ID: "a", Metadata: []byte{0, 0}}}}))
	for _, r := range []group.Record{
		{Kind: group.MemberRecord, Member: "a", Info: &group.Consumer{ID: "a"}}, {Kind: group.EpochRecord, Epoch: 4}, {Kind: group.TargetRecord, Member: "a"},
	} {
		put(encodeConsumerRecord("g", &r))
	}
	n := startGroups(t, table, GroupConfig{}).loaded()
	if d := n.describe("g"); d.State != "Stable" || len(d.Members) != 1 {
		t.Fatalf("%+v", d)
	}
	for len(table.live()) > 1 {
		runtime.Gosched()
	}
}

// Silent consumers of many groups cost no goroutine each and are dropped by the one timer.
func TestManyGroupsOfConsumers(t *testing.T) {
	const groups = 2_000
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 8)
		n := startGroupsLog(t, table, GroupConfig{}, discardLogs).loaded()
		for i := range groups {
			if code := n.consumer(fmt.Sprint("g", i), "a").beat(); code != errNone {
				t.Fatalf("code %d", code)
			}
		}
		if per := n.c.bytes.Load() / groups; per > 1200 {
			t.Errorf("%d bytes are counted for each group", per)
		}
		time.Sleep(50 * time.Second)
		states, _ := n.c.list([]string{"Empty"}, nil)
		if len(states) != groups || len(table.live()) != 2*groups {
			t.Errorf("%d of %d silent groups are empty, %d entries are left", len(states), groups, len(table.live()))
		}
	})
}

func TestShareGroupsAreRefused(t *testing.T) {
	n := startGroups(t, newFakeTable(t, 1), GroupConfig{}).loaded()
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorType, find.CoordinatorKeys = 6, 2, []string{"g"}
	if r := send[*kmsg.FindCoordinatorResponse](n, find).Coordinators[0]; r.ErrorCode != errInvalidRequest || !strings.Contains(text(r.ErrorMessage), "share groups") {
		t.Errorf("%+v", r)
	}
	_, listed := table()
	if slices.ContainsFunc(listed, func(k kmsg.ApiVersionsResponseApiKey) bool { return k.ApiKey >= 76 && k.ApiKey <= 79 }) {
		t.Error("requests of share groups are advertised")
	}
}

// Consumers go on while their partition of the table moves between two nodes and writes under way are lost or kept: what one was
// answered it is not fenced for, no two have the same partition, and in the end all are read.
func TestMovesFenceNoConsumer(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T) { movesFenceNoConsumer(t, rand.New(rand.NewPCG(seed, 2))) })
	}
}

func movesFenceNoConsumer(t *testing.T, rnd *rand.Rand) {
	table, one, two, groups := groupsAt(t, 1)
	nodes := []*groupNode{one, two}
	members := make([]*consumer, 4)
	for i := range members {
		members[i] = one.consumer(groups[0], fmt.Sprint("m", i))
	}
	var mu sync.Mutex // of the members
	codes := map[int16]int{}
	beat := func(m *consumer) {
		req := m.request()
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 30_000, []string{"t"}, m.owned
		for _, n := range nodes {
			resp := send[*kmsg.ConsumerGroupHeartbeatResponse](n, req)
			if resp.ErrorCode == errNotCoordinator || resp.ErrorCode == errCoordinatorLoadInProgress || resp.ErrorCode == errCoordinatorNotAvailable {
				continue
			}
			mu.Lock()
			defer mu.Unlock()
			codes[resp.ErrorCode]++
			if resp.ErrorCode != errNone {
				m.epoch, m.owned = 0, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
				return
			}
			m.epoch = resp.MemberEpoch
			if resp.Assignment != nil {
				m.owned = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
				for _, t := range resp.Assignment.Topics {
					m.owned = append(m.owned, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: t.TopicID, Partitions: t.Partitions})
				}
			}
			owner := map[int32]string{}
			for _, o := range members {
				for _, topic := range o.owned {
					for _, p := range topic.Partitions {
						if owner[p] != "" {
							t.Errorf("%s and %s both have %d", owner[p], o.id, p)
						}
						owner[p] = o.id
					}
				}
			}
			return
		}
	}
	var stop atomic.Bool
	var clients sync.WaitGroup
	for i, m := range members {
		clients.Go(func() {
			time.Sleep(time.Duration(i*20) * time.Millisecond) // they come one after the other, so that there is something to hand over
			for !stop.Load() {
				beat(m)
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range 40 {
		time.Sleep(time.Duration(rnd.IntN(5)) * time.Millisecond)
		node := int32(1 + rnd.IntN(2))
		table.set(func() { table.held = true })
		time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
		kept := rnd.IntN(2) == 0 // of what is under way some, from some record on, is lost
		table.move(0, node, true, func() fate {
			if kept = kept && rnd.IntN(8) > 0; !kept {
				return fateLost
			}
			return fate(1 + rnd.IntN(int(fateCount)-1))
		})
		if rnd.IntN(2) == 0 {
			table.set(func() { table.held = false })
			time.Sleep(time.Duration(rnd.IntN(2)) * time.Millisecond)
		}
		for _, n := range []int32{3 - node, node} { // where it was first: its lease has run out when another leads (R2)
			nodes[n-1].c.metadataChanged()
		}
		table.set(func() { table.held = false })
	}
	time.Sleep(time.Second)
	stop.Store(true)
	clients.Wait()
	total := 0
	for _, m := range members {
		total += m.partitions()
	}
	if total != fakePartitions {
		t.Errorf("%d of %d partitions are read in the end", total, fakePartitions)
	}
	if codes[errNone] < 50 || len(codes) > 1 {
		t.Errorf("answered with %v: nobody is to be fenced, and the test is to test something", codes)
	}
}
