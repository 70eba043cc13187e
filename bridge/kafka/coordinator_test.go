package kafka

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// bubble runs a test on a clock that only advances when everybody waits.
func bubble(t *testing.T, fn func(t *testing.T)) { synctest.Test(t, fn) }

func TestGroupLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		a := n.member("g").up()
		if !a.leader || a.generation != 1 || len(a.members) != 1 {
			t.Fatalf("first member: %+v", a)
		}
		b := n.member("g")
		joined := make(chan int16, 1)
		go func() { joined <- b.join() }()
		synctest.Wait()
		if code := a.heartbeat(); code != errRebalanceInProgress {
			t.Fatalf("heartbeat while another joins: code %d", code)
		}
		if code := a.commit("t", 0, 41); code != errNone {
			t.Fatalf("commit while another joins: code %d", code)
		}
		if code := a.join(); code != errNone {
			t.Fatalf("rejoin: code %d", code)
		}
		if code := <-joined; code != errNone || b.leader || b.generation != 2 {
			t.Fatalf("second member: code %d %+v", code, b)
		}
		synced := make(chan string, 1)
		go func() { s, _ := b.sync(); synced <- s }()
		synctest.Wait()
		if s, code := a.sync(); code != errNone || s != "for "+a.id {
			t.Fatalf("leader's assignment %q, code %d", s, code)
		}
		if s := <-synced; s != "for "+b.id {
			t.Fatalf("follower's assignment %q", s)
		}
		if d := n.describe("g"); d.State != "Stable" || d.Protocol != "range" || len(d.Members) != 2 || d.Members[0].ClientID != "raw" || d.Members[1].ClientHost == "" {
			t.Fatalf("described as %+v", d)
		}
		if code := n.deleteGroup("g"); code != errNonEmptyGroup {
			t.Fatalf("delete with members: code %d", code)
		}
		if c1, c2 := a.leave(), b.leave(); c1 != errNone || c2 != errNone {
			t.Fatalf("leave: codes %d %d", c1, c2)
		}
		if off := n.offset("g", "t", 0); off != 41 {
			t.Fatalf("offset %d, want 41", off)
		}
		if code := n.deleteGroup("g"); code != errNone {
			t.Fatalf("delete: code %d", code)
		}
		if code := n.deleteGroup("g"); code != errGroupIDNotFound {
			t.Fatalf("delete again: code %d", code)
		}
		if d := n.describe("g"); d.State != "Dead" {
			t.Fatalf("described as %+v", d)
		}
		if live := table.live(); len(live) != 0 {
			t.Fatalf("%d entries are left in the table", len(live))
		}
		if n.c.count.Load() != 0 || n.c.bytes.Load() != 0 || len(n.c.timers.heap) != 0 {
			t.Fatalf("%d groups, %d bytes, %d timers are left", n.c.count.Load(), n.c.bytes.Load(), len(n.c.timers.heap))
		}
	})
}

// What was answered is there after a restart: offsets, members, generation.
func TestRestartKeepsGroups(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		a := n.member("g").up()
		static := n.member("h")
		static.instance = kmsg.StringPtr("i")
		static.up()
		simple := n.member("simple")
		if c1, c2, c3 := a.commit("t", 1, 5), static.commit("u", 2, 6), simple.commit("t", 3, 7); c1|c2|c3 != errNone {
			t.Fatalf("commit: codes %d %d %d", c1, c2, c3)
		}
		time.Sleep(9 * time.Second) // of a session of 10
		n.stop()

		n = startGroups(t, table, GroupConfig{}).loaded()
		a.n, static.n = n, n
		time.Sleep(9 * time.Second) // a full session again
		if code := a.heartbeat(); code != errNone {
			t.Fatalf("heartbeat in generation %d: code %d", a.generation, code)
		}
		if s, code := static.sync(); code != errNone || s != "for "+static.id {
			t.Fatalf("assignment %q, code %d", s, code)
		}
		if code := a.commit("t", 1, 8); code != errNone {
			t.Fatalf("commit: code %d", code)
		}
		if x, y, z := n.offset("g", "t", 1), n.offset("h", "u", 2), n.offset("simple", "t", 3); x != 8 || y != 6 || z != 7 {
			t.Fatalf("offsets %d %d %d, want 8 6 7", x, y, z)
		}
		a.generation--
		if code := a.heartbeat(); code != errIllegalGeneration {
			t.Fatalf("heartbeat of a zombie: code %d", code)
		}
		time.Sleep(11 * time.Second)
		if d := n.describe("g"); d.State != "Empty" {
			t.Fatalf("a silent member's group is %s", d.State)
		}
	})
}

// D11: neither a commit nor an assignment is answered before it is stored.
func TestAnswersWaitForTheTable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		a := n.member("g")
		a.join()
		table.set(func() { table.held = true })
		answered := make(chan int16, 2)
		go func() { _, code := a.sync(); answered <- code }()
		go func() { answered <- n.member("simple").commit("t", 0, 1) }()
		time.Sleep(5 * time.Second)
		if len(answered) > 0 {
			t.Fatalf("answered with code %d before the table was", <-answered)
		}
		if off := n.offset("simple", "t", 0); off != -1 {
			t.Fatalf("offset %d is seen before it is stored", off)
		}
		table.set(func() { table.held = false })
		if c1, c2 := <-answered, <-answered; c1|c2 != errNone {
			t.Fatalf("codes %d %d", c1, c2)
		}
		if off := n.offset("simple", "t", 0); off != 1 {
			t.Fatalf("offset %d, want 1", off)
		}

		table.set(func() { table.failing = true })
		if code := a.commit("t", 0, 2); code != errCoordinatorNotAvailable {
			t.Fatalf("commit that cannot be stored: code %d", code)
		}
		if code := n.deleteGroup("simple"); code != errCoordinatorNotAvailable {
			t.Fatalf("delete that cannot be stored: code %d", code)
		}
		if off := n.offset("simple", "t", 0); off != 1 {
			t.Fatalf("offset %d after a failed removal, want 1", off)
		}
		a.join()
		if _, code := a.sync(); code != errCoordinatorNotAvailable {
			t.Fatalf("sync that cannot be stored: code %d", code)
		}
		table.set(func() { table.failing = false })
		a.up()
		if code := n.deleteGroup("simple"); code != errNone {
			t.Fatalf("delete: code %d", code)
		}
	})
}

// A member that dies is dropped by the timer and its partitions go to the rest.
func TestSilentMemberIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		a, b := n.member("g").up(), n.member("g")
		joined := make(chan int16, 1)
		go func() { joined <- b.join() }()
		synctest.Wait()
		a.join()
		<-joined
		a.sync()
		b.sync()
		for range 3 {
			time.Sleep(4 * time.Second)
			a.heartbeat()
		}
		if code := a.heartbeat(); code != errRebalanceInProgress {
			t.Fatalf("heartbeat after the other's session: code %d", code)
		}
		if code := b.heartbeat(); code != errUnknownMemberID {
			t.Fatalf("heartbeat of the dropped one: code %d", code)
		}
		if code := b.commit("t", 0, 9); code != errUnknownMemberID {
			t.Fatalf("commit of the dropped one: code %d", code)
		}
		a.up()
		if len(a.members) != 1 {
			t.Fatalf("%d members are left", len(a.members))
		}
	})
}

// The rebalance timeout bounds how long one member that does not come back
// holds up the others, and the timer is the only thing that moves here.
func TestRebalanceTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		a, b := n.member("g").up(), n.member("g")
		a.session, b.session = 60_000, 60_000
		a.up()
		start := time.Now()
		if code := b.join(); code != errNone {
			t.Fatalf("join: code %d", code)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Fatalf("join took %v, want the rebalance timeout", took)
		}
		if code := a.heartbeat(); code != errUnknownMemberID {
			t.Fatalf("heartbeat of the one that did not come: code %d", code)
		}
	})
}

func TestLoadInProgress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		table.loading = make(chan struct{})
		n := startGroups(t, table, GroupConfig{})
		m := n.member("g")
		if code := m.join(); code != errCoordinatorLoadInProgress {
			t.Fatalf("join: code %d", code)
		}
		if code := m.commit("t", 0, 1); code != errCoordinatorLoadInProgress {
			t.Fatalf("commit: code %d", code)
		}
		if _, code := n.c.list(nil, nil); code != errCoordinatorLoadInProgress {
			t.Fatalf("list: code %d", code)
		}
		if d := n.describe("g"); d.ErrorCode != errCoordinatorLoadInProgress {
			t.Fatalf("describe: %+v", d)
		}
		close(table.loading)
		synctest.Wait()
		m.up()
	})
}

// A server that stops answers those that wait, and commits in flight.
func TestStopAnswersWaitingMembers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		n.member("g").up()
		codes := make(chan int16, 2)
		go func() { codes <- n.member("g").join() }()
		table.set(func() { table.held = true })
		go func() { codes <- n.member("simple").commit("t", 0, 1) }()
		synctest.Wait()
		close(n.s.draining)
		if code := <-codes; code != errCoordinatorNotAvailable {
			t.Fatalf("join: code %d", code)
		}
		table.set(func() { table.held = false })
		if code := <-codes; code != errNone {
			t.Fatalf("commit: code %d", code)
		}
	})
}

// A peer that is gone does not keep a handler.
func TestPeerGoneWhileCommitting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroups(t, table, GroupConfig{}).loaded()
		table.set(func() { table.held = true })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation = 8, "simple", -1
		req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: make([]kmsg.OffsetCommitRequestTopicPartition, 1)}}
		if resp := sendContext[*kmsg.OffsetCommitResponse](ctx, n, req); resp.Topics[0].Partitions[0].ErrorCode != errCoordinatorNotAvailable {
			t.Fatalf("commit without a peer: %+v", resp)
		}
	})
}

// A topic of the same name does not inherit the offsets of a deleted one.
func TestDeletedTopicsOffsets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		m := n.member("g")
		m.commit("t", 0, 5)
		m.commit("u", 0, 6)
		n.topicMu.Lock()
		n.topics["t"] = log.TopicID{9}
		n.topicMu.Unlock()
		n.c.metadataChanged()
		synctest.Wait()
		if x, y := n.offset("g", "t", 0), n.offset("g", "u", 0); x != -1 || y != 6 {
			t.Fatalf("offsets %d %d, want -1 6", x, y)
		}
		n.topicMu.Lock()
		delete(n.topics, "u")
		n.topicMu.Unlock()
		n.c.metadataChanged()
		synctest.Wait()
		if n.offset("g", "u", 0) != -1 || n.c.count.Load() != 0 {
			t.Fatal("offsets of a deleted topic are left")
		}
		if code := m.commit("u", 0, 7); code != errUnknownTopicOrPartition {
			t.Fatalf("commit for a deleted topic: code %d", code)
		}
		if code := m.commit("t", fakePartitions, 7); code != errUnknownTopicOrPartition {
			t.Fatalf("commit beyond the last partition: code %d", code)
		}
		if n.c.count.Load() != 0 {
			t.Fatal("a refused commit left a group behind")
		}
	})
}

func TestOffsetsExpire(t *testing.T) {
	bubble(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour) // a bubble begins in 2000, like a board whose clock was never set
		table := newFakeTable(t, 4)
		var trusted atomic.Bool
		n := startGroups(t, table, GroupConfig{ClockTrusted: trusted.Load}).loaded()
		n.member("g").commit("t", 0, 5)
		m := n.member("h").up()
		m.commit("t", 0, 6)
		m.leave()
		time.Sleep(8 * 24 * time.Hour)
		if n.offset("g", "t", 0) != 5 {
			t.Fatal("an offset expired by a clock that is not trusted")
		}
		trusted.Store(true)
		time.Sleep(25 * time.Minute) // one check for the offsets, one for what is left of their groups
		if n.offset("g", "t", 0) != -1 || n.offset("h", "t", 0) != -1 || n.c.count.Load() != 0 || len(table.live()) != 0 {
			t.Fatalf("%d groups, %d entries are left", n.c.count.Load(), len(table.live()))
		}
	})
}

// TestOffsetsExpireByTheLogsClock: the coordinator of a node asks the log whether the clock can be believed.
func TestOffsetsExpireByTheLogsClock(t *testing.T) {
	for year, want := range map[int]bool{1971: false, 2030: true} {
		b, err := cluster.Open(testContext(t), cluster.Config{DataDir: t.TempDir(), AdvertiseHost: "127.0.0.1", Log: smallLog,
			Now: func() time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }})
		if err != nil {
			t.Fatal(err)
		}
		s, stop := runServer(t, Config{Broker: b})
		if got := s.groups.cfg.ClockTrusted(); got != want {
			t.Errorf("in %d the clock is trusted: %t", year, got)
		}
		stop()
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func TestClockSteps(t *testing.T) {
	var c clockSteps
	wall, mono := time.Unix(0, 0), time.Unix(1000, 0) // a board that came up in 1970
	for i, step := range []struct {
		wall, mono time.Duration
		calm       bool
	}{
		{0, 0, true},
		{10 * time.Minute, 10 * time.Minute, true},
		{56 * 365 * 24 * time.Hour, 10 * time.Minute, false}, // the network is there
		{50 * time.Minute, 50 * time.Minute, false},
		{10 * time.Minute, 10 * time.Minute, true},
		{40 * time.Minute, 10 * time.Minute, true},  // not much
		{-30 * time.Minute, 10 * time.Minute, true}, // backward: things look younger
	} {
		wall, mono = wall.Add(step.wall), mono.Add(step.mono)
		if got := c.calm(wall, mono); got != step.calm {
			t.Errorf("step %d: calm %v", i, got)
		}
	}
}

func TestOffsetDelete(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		m := n.member("g").up()
		m.commit("t", 0, 5)
		m.commit("u", 1, 6)
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = "g"
		for _, topic := range []string{"t", "u"} {
			req.Topics = append(req.Topics, kmsg.OffsetDeleteRequestTopic{Topic: topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}, {Partition: 1}}})
		}
		resp := send[*kmsg.OffsetDeleteResponse](n, req)
		if resp.ErrorCode != errNone || resp.Topics[0].Partitions[0].ErrorCode != errGroupSubscribedToTopic || resp.Topics[1].Partitions[1].ErrorCode != errNone {
			t.Fatalf("%+v", resp)
		}
		if x, y := n.offset("g", "t", 0), n.offset("g", "u", 1); x != 5 || y != -1 {
			t.Fatalf("offsets %d %d, want 5 -1", x, y)
		}
		req.Group = "nobody"
		if resp := send[*kmsg.OffsetDeleteResponse](n, req); resp.ErrorCode != errGroupIDNotFound {
			t.Fatalf("%+v", resp)
		}
	})
}

// Every version of every request goes through its own encoding and comes back
// with what it can say.
func TestGroupVersions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		for v := range int16(10) {
			m := n.member(fmt.Sprint("join", v))
			m.version = v
			if code := m.join(); code != errNone {
				t.Fatalf("JoinGroup v%d: code %d", v, code)
			}
			sync := kmsg.NewPtrSyncGroupRequest()
			sync.Version = min(v, 5)
			sync.Group, sync.MemberID, sync.Generation = m.group, m.id, m.generation
			sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: m.id, MemberAssignment: []byte("x")}}
			if resp := send[*kmsg.SyncGroupResponse](n, sync); resp.ErrorCode != errNone || string(resp.MemberAssignment) != "x" {
				t.Fatalf("SyncGroup v%d: %+v", sync.Version, resp)
			}
			beat := kmsg.NewPtrHeartbeatRequest()
			beat.Version = min(v, 4)
			beat.Group, beat.MemberID, beat.Generation = m.group, m.id, m.generation
			if resp := send[*kmsg.HeartbeatResponse](n, beat); resp.ErrorCode != errNone {
				t.Fatalf("Heartbeat v%d: %+v", beat.Version, resp)
			}
			commit := kmsg.NewPtrOffsetCommitRequest()
			commit.Version = max(v, 2)
			commit.Group, commit.MemberID, commit.Generation = m.group, m.id, m.generation
			p := kmsg.NewOffsetCommitRequestTopicPartition()
			p.Offset = int64(100 + v)
			commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
			if resp := send[*kmsg.OffsetCommitResponse](n, commit); resp.Topics[0].Partitions[0].ErrorCode != errNone {
				t.Fatalf("OffsetCommit v%d: %+v", commit.Version, resp)
			}
			fetch := kmsg.NewPtrOffsetFetchRequest()
			fetch.Version = min(max(v, 1), 7)
			fetch.Group = m.group
			fetch.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0, 1}}}
			if resp := send[*kmsg.OffsetFetchResponse](n, fetch); resp.Topics[0].Partitions[0].Offset != int64(100+v) || resp.Topics[0].Partitions[1].Offset != -1 {
				t.Fatalf("OffsetFetch v%d: %+v", fetch.Version, resp)
			}
			if fetch.Version >= 2 {
				fetch.Topics = nil
				if resp := send[*kmsg.OffsetFetchResponse](n, fetch); len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
					t.Fatalf("OffsetFetch v%d of all: %+v", fetch.Version, resp)
				}
				fetch.Topics = []kmsg.OffsetFetchRequestTopic{}
				if resp := send[*kmsg.OffsetFetchResponse](n, fetch); len(resp.Topics) != 0 {
					t.Fatalf("OffsetFetch v%d of none: %+v", fetch.Version, resp)
				}
			}
			describe := kmsg.NewPtrDescribeGroupsRequest()
			describe.Version = min(v, 5)
			describe.Groups = []string{m.group, "nobody"}
			if resp := send[*kmsg.DescribeGroupsResponse](n, describe); resp.Groups[0].State != "Stable" || string(resp.Groups[0].Members[0].MemberAssignment) != "x" || resp.Groups[1].State != "Dead" {
				t.Fatalf("DescribeGroups v%d: %+v", describe.Version, resp)
			}
			list := kmsg.NewPtrListGroupsRequest()
			list.Version = min(v, 5)
			list.StatesFilter = []string{"stable"}
			if resp := send[*kmsg.ListGroupsResponse](n, list); !slices.ContainsFunc(resp.Groups, func(g kmsg.ListGroupsResponseGroup) bool { return g.Group == m.group }) {
				t.Fatalf("ListGroups v%d: %+v", list.Version, resp)
			}
			find := kmsg.NewPtrFindCoordinatorRequest()
			find.Version = min(v, 3)
			find.CoordinatorKey = m.group
			if resp := send[*kmsg.FindCoordinatorResponse](n, find); resp.NodeID != fakeNode || resp.Host != "edge-1" || resp.Port != 9092 {
				t.Fatalf("FindCoordinator v%d: %+v", find.Version, resp)
			}
			leave := kmsg.NewPtrLeaveGroupRequest()
			leave.Version = min(v, 5)
			leave.Group, leave.MemberID = m.group, m.id
			leave.Members = []kmsg.LeaveGroupRequestMember{{MemberID: m.id}}
			if resp := send[*kmsg.LeaveGroupResponse](n, leave); resp.ErrorCode != errNone || leave.Version >= 3 && resp.Members[0].ErrorCode != errNone {
				t.Fatalf("LeaveGroup v%d: %+v", leave.Version, resp)
			}
			if resp := send[*kmsg.LeaveGroupResponse](n, leave); leave.Version < 3 && resp.ErrorCode != errUnknownMemberID {
				t.Fatalf("LeaveGroup v%d again: %+v", leave.Version, resp)
			}
			del := kmsg.NewPtrDeleteGroupsRequest()
			del.Version = min(v, 3)
			del.Groups = []string{m.group, "nobody"}
			if resp := send[*kmsg.DeleteGroupsResponse](n, del); resp.Groups[0].ErrorCode != errNone || resp.Groups[1].ErrorCode != errGroupIDNotFound || (resp.Groups[1].ErrorMessage != nil) != (v >= 3) {
				t.Fatalf("DeleteGroups v%d: %+v", del.Version, resp)
			}
		}
		find := kmsg.NewPtrFindCoordinatorRequest()
		find.Version, find.CoordinatorKeys = 4, []string{"a", "b"}
		if resp := send[*kmsg.FindCoordinatorResponse](n, find); len(resp.Coordinators) != 2 || resp.Coordinators[1].Key != "b" || resp.Coordinators[1].NodeID != fakeNode {
			t.Fatalf("FindCoordinator v4: %+v", resp)
		}
		find.CoordinatorType = 2
		if resp := send[*kmsg.FindCoordinatorResponse](n, find); resp.Coordinators[0].ErrorCode != errInvalidRequest {
			t.Fatalf("FindCoordinator of a share group: %+v", resp)
		}
	})
}

// Groups cost a bounded amount each and no goroutine, and there are only so many.
func TestManyGroups(t *testing.T) {
	const groups = 10_000
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 8)
		n := startGroupsLog(t, table, GroupConfig{}, discardLogs).loaded()
		before := runtime.NumGoroutine()
		members := make([]*member, groups)
		var wg sync.WaitGroup
		for first := 0; first < groups; first += 500 {
			for i := first; i < first+500; i++ {
				m := n.member(fmt.Sprint("g", i))
				members[i] = m
				wg.Go(func() { m.up().commit("t", int32(i%4), int64(i)) })
			}
			wg.Wait()
		}
		synctest.Wait()
		if got := runtime.NumGoroutine(); got > before+10 { // the runtime and other tests may have begun some
			t.Errorf("%d goroutines for %d groups", got-before, groups)
		}
		if per := n.c.bytes.Load() / groups; per > 1000 {
			t.Errorf("%d bytes are counted for each group", per)
		}
		one := n.member("one too many")
		if c1, c2 := one.join(), one.commit("t", 0, 1); c1 != errGroupMaxSizeReached || c2 != errGroupMaxSizeReached {
			t.Errorf("beyond the limit: codes %d %d", c1, c2)
		}
		n.stop()
		start := time.Now()
		n = startGroupsLog(t, table, GroupConfig{}, discardLogs).loaded()
		if n.c.count.Load() != groups {
			t.Errorf("%d groups after a restart", n.c.count.Load())
		}
		for _, i := range []int{0, groups / 2, groups - 1} {
			members[i].n = n
			if code := members[i].heartbeat(); code != errNone {
				t.Errorf("heartbeat after a restart: code %d", code)
			}
		}
		// All fall silent: every timer fires.
		time.Sleep(20*time.Second - time.Since(start))
		states, _ := n.c.list([]string{"Empty"}, nil)
		if len(states) != groups {
			t.Errorf("%d of %d silent groups are empty", len(states), groups)
		}
	})
}

// A request that found a group just before it ended must not act on what is
// left of it.
func TestLockSkipsEndedGroups(t *testing.T) {
	n := startGroupsLog(t, newFakeTable(t, 1), GroupConfig{}, discardLogs).loaded()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				e, _ := n.c.lock("g", true)
				if e.gone {
					t.Error("locked a group that has ended")
				}
				n.c.unlock(e, e.g.State(), group.Effects{}) // ends it: nothing happened
			}
		})
	}
	wg.Wait()
	if n.c.count.Load() != 0 {
		t.Errorf("%d groups are left", n.c.count.Load())
	}
}

// Bytes of subscriptions and offsets are bounded over all groups.
func TestGroupBytesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{MaxBytes: 10_000}).loaded()
		codes := map[int16]int{}
		for i := range 20 {
			m := n.member(fmt.Sprint("g", i))
			m.subscription = append(m.subscription, make([]byte, 1000)...)
			codes[m.join()]++
			codes[n.consumer(fmt.Sprint("c", i), "m").beat()]++
			codes[n.member(fmt.Sprint("s", i)).commit("t", 0, 1)]++
		}
		if codes[errNone] == 0 || codes[errGroupMaxSizeReached] == 0 || codes[errInvalidCommitOffsetSize] == 0 || len(codes) != 3 {
			t.Fatalf("codes %v", codes)
		}
		if b := n.c.bytes.Load(); b > 12_000 {
			t.Fatalf("%d bytes", b)
		}
	})
}

// First joins that never come back are many and small; they are counted too.
func TestHandedOutIDsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroupsLog(t, newFakeTable(t, 4), GroupConfig{MaxBytes: 100_000}, discardLogs).loaded()
		codes := map[int16]int{}
		for i := range 2000 {
			codes[send[*kmsg.JoinGroupResponse](n, n.member(fmt.Sprint("g", i%10)).joinRequest()).ErrorCode]++
		}
		if codes[errMemberIDRequired] > 500 || codes[errGroupMaxSizeReached] < 1500 {
			t.Errorf("codes %v", codes)
		}
		time.Sleep(11 * time.Second)
		if n.c.count.Load() != 0 || n.c.bytes.Load() != 0 {
			t.Errorf("%d groups, %d bytes are left", n.c.count.Load(), n.c.bytes.Load())
		}
	})
}

func TestBadGroupInput(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startGroups(t, newFakeTable(t, 4), GroupConfig{}).loaded()
		if code := n.member("").join(); code != errInvalidGroupID {
			t.Errorf("join without a group: code %d", code)
		}
		long := string(make([]byte, maxGroupIDBytes+1))
		if code := n.member(long).join(); code != errInvalidGroupID {
			t.Errorf("join with a long group id: code %d", code)
		}
		m := n.member("g")
		m.instance = kmsg.StringPtr(long)
		if code := m.join(); code != errInvalidRequest {
			t.Errorf("join with a long instance id: code %d", code)
		}
		m = n.member("g")
		m.id = "made up"
		if c1, c2, c3 := m.join(), m.heartbeat(), m.leave(); c1 != errUnknownMemberID || c2 != errUnknownMemberID || c3 != errUnknownMemberID {
			t.Errorf("made-up member: codes %d %d %d", c1, c2, c3)
		}
		if _, code := m.sync(); code != errUnknownMemberID {
			t.Errorf("sync of a made-up member: code %d", code)
		}
		m.generation = 4
		if code := m.commit("t", 0, 1); code != errIllegalGeneration {
			t.Errorf("commit of a made-up member: code %d", code)
		}
		if n.c.count.Load() != 0 {
			t.Errorf("%d groups are left behind", n.c.count.Load())
		}
	})
}

// Consumers that come, go and die in a hurry, for the race detector; at the end
// all is as if nobody had been there.
func TestGroupChurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 4)
		n := startGroupsLog(t, table, GroupConfig{}, discardLogs).loaded()
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for round := range 8 {
					m := n.member(fmt.Sprint("g", i%3))
					m.session, m.rebalance = 6000, 10_000
					if m.join() != errNone {
						continue
					}
					m.sync()
					m.commit("t", int32(i%4), int64(round))
					m.heartbeat()
					if (i+round)%3 > 0 {
						m.leave()
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		n.c.each(func(e *groupEntry) {
			e.mu.Lock()
			defer e.mu.Unlock()
			if err := e.g.Check(); err != nil {
				t.Error(err)
			}
			if len(e.calls) > 0 || e.g.Members() > 0 {
				t.Errorf("group %s has %d members and %d requests that wait", e.id, e.g.Members(), len(e.calls))
			}
		})
		for i := range 3 {
			if code := n.deleteGroup(fmt.Sprint("g", i)); code != errNone {
				t.Errorf("delete: code %d", code)
			}
		}
		if n.c.bytes.Load() != 0 || len(table.live()) != 0 {
			t.Errorf("%d bytes, %d entries are left", n.c.bytes.Load(), len(table.live()))
		}
	})
}

func TestGroupCodes(t *testing.T) {
	seen := map[int16]group.Fault{}
	for f := group.OK + 1; f < group.NumFaults; f++ {
		code := groupCode[f]
		if code == errNone {
			t.Errorf("%v has no code", f)
		}
		if other, ok := seen[code]; ok && code != errGroupMaxSizeReached {
			t.Errorf("%v and %v share code %d", f, other, code)
		}
		seen[code] = f
	}
}
