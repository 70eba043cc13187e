package kafka

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupsAt starts two nodes over a table of some partitions, all led by the first, and gives a group of each partition.
func groupsAt(t *testing.T, partitions int) (table *fakeTable, one, two *groupNode, groups []string) {
	table = newFakeTable(t, partitions)
	one, two = startNode(t, 1, table).loaded(), startNode(t, 2, table)
	groups = make([]string, partitions)
	for i, left := 0, partitions; left > 0; i++ {
		id := fmt.Sprint("g", i)
		if p := one.c.partitionOf(id); groups[p] == "" {
			groups[p] = id
			left--
		}
	}
	return table, one, two, groups
}

func noFate() fate { panic("nothing is under way") }

func always(f fate) func() fate { return func() fate { return f } }

// heldCode is the code that Heartbeat, OffsetCommit, OffsetFetch, DescribeGroups, LeaveGroup and DeleteGroups share; 0 when they do not.
func (m *member) heldCode() int16 {
	n := m.n
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version, fetch.Group, fetch.Topics = 7, m.group, []kmsg.OffsetFetchRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Version, leave.Group = 5, m.group
	leave.Members = []kmsg.LeaveGroupRequestMember{{MemberID: m.id}}
	code := m.heartbeat()
	for _, other := range []int16{
		m.commit("t", 0, 1<<40), send[*kmsg.OffsetFetchResponse](n, fetch).ErrorCode, n.describe(m.group).ErrorCode,
		send[*kmsg.LeaveGroupResponse](n, leave).ErrorCode, n.deleteGroup(m.group), n.member(m.group).join(),
	} {
		if other != code {
			return 0
		}
	}
	return code
}

// A group goes on where its partition is led next, once that has all that was answered, and comes back the same way.
func TestGroupsMoveWithTheirPartition(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table, one, two, groups := groupsAt(t, 2)
		m, stays := one.member(groups[0]).up(), one.member(groups[1]).up()
		m.commit("t", 0, 41)
		joining := make(chan int16, 1)
		go func() { joining <- one.member(groups[0]).join() }() // waits for m
		synctest.Wait()
		table.move(0, 2, false, noFate)
		one.c.metadataChanged()
		if code := m.heldCode(); code != errNotCoordinator {
			t.Errorf("at the node before: code %d", code)
		}
		synctest.Wait()
		if len(joining) != 1 || <-joining != errNotCoordinator {
			t.Error("who waited to join was not sent away")
		}
		if code := stays.heartbeat(); code != errNone {
			t.Errorf("the group of another partition: code %d", code)
		}
		if groups, code := one.c.list(nil, nil); len(groups) != 1 || code != errNone {
			t.Errorf("listed at the node before: %v, code %d", groups, code)
		}
		if one.c.count.Load() != 1 || len(one.c.timers.heap) != 1 {
			t.Errorf("%d groups and %d timers are left, want those of one", one.c.count.Load(), len(one.c.timers.heap))
		}

		two.c.metadataChanged()
		synctest.Wait()
		m.n = two
		time.Sleep(5 * time.Second)
		if code := m.heldCode(); code != errCoordinatorLoadInProgress {
			t.Errorf("before all is known to be committed: code %d", code)
		}
		table.move(1, 2, true, noFate) // another partition is not held up by that
		one.c.metadataChanged()
		two.c.metadataChanged()
		synctest.Wait()
		stays.n = two
		if code := stays.heartbeat(); code != errNone {
			t.Errorf("the group of a partition that is loaded: code %d", code)
		}
		if one.c.count.Load() != 0 || one.c.bytes.Load() != 0 || len(one.c.timers.heap) != 0 {
			t.Errorf("%d groups, %d bytes, %d timers are left", one.c.count.Load(), one.c.bytes.Load(), len(one.c.timers.heap))
		}
		table.set(func() { table.leaders[0].settled = true })
		synctest.Wait()
		// The rebalance had begun, but nothing of it was answered: the member goes on in its generation.
		if code := m.heartbeat(); code != errNone {
			t.Errorf("heartbeat at the next node: code %d", code)
		}
		if s, code := m.sync(); code != errNone || s != "for "+m.id {
			t.Errorf("assignment %q, code %d", s, code)
		}
		if off := two.offset(m.group, "t", 0); off != 41 {
			t.Errorf("offset %d, want 41", off)
		}
		if code := m.commit("t", 0, 42); code != errNone {
			t.Errorf("commit: code %d", code)
		}

		table.move(0, 1, true, noFate)
		two.c.metadataChanged()
		one.c.metadataChanged()
		synctest.Wait()
		m.n = one
		if off := one.offset(m.group, "t", 0); off != 42 {
			t.Errorf("offset %d after it came back, want 42", off)
		}
		if code := m.heartbeat(); code != errNone {
			t.Errorf("heartbeat after it came back: code %d", code)
		}
	})
}

// What is under way when the partition moves is answered as not done, whatever becomes of it, and the next coordinator says what did.
func TestCommitsUnderWayAtAMove(t *testing.T) {
	for f, want := range map[fate]int64{fateLost: 1, fateKept: 2, fateTold: 2} {
		bubble(t, func(t *testing.T) {
			table, one, two, groups := groupsAt(t, 1)
			m := one.member(groups[0]).up()
			m.commit("t", 0, 1)
			one.member("y").commit("t", 0, 1)
			table.set(func() { table.held = true })
			syncing := one.member("x")
			syncing.join()
			codes, synced, deleted := make(chan int16, 1), make(chan int16, 1), make(chan int16, 2)
			go func() { codes <- m.commit("t", 0, 2) }()
			go func() { _, code := syncing.sync(); synced <- code }()
			go func() { deleted <- one.deleteGroup("y") }()
			synctest.Wait()
			table.move(0, 2, true, always(f))
			one.c.metadataChanged()
			two.c.metadataChanged()
			go func() { deleted <- one.deleteGroup("x") }()
			synctest.Wait()
			if len(synced) != 1 || <-synced != errNotCoordinator {
				t.Errorf("fate %d: who waited for an assignment was not sent away", f)
			}
			if len(deleted) != 2 || <-deleted != errNotCoordinator || <-deleted != errNotCoordinator {
				t.Errorf("fate %d: who waited for the end of a group was not sent away", f)
			}
			if off := two.offset(m.group, "t", 0); off != want {
				t.Errorf("fate %d: offset %d at the next node, want %d", f, off, want)
			}
			if state := two.describe("x").State; (state == "Stable") != (f != fateLost) {
				t.Errorf("fate %d: the other group is %s", f, state)
			}
			table.set(func() { table.held = false })
			if code := <-codes; code != errNotCoordinator {
				t.Errorf("fate %d: the commit was answered with code %d", f, code)
			}
			synctest.Wait()
			if one.c.count.Load() != 0 || one.c.bytes.Load() != 0 {
				t.Errorf("fate %d: %d groups, %d bytes are left", f, one.c.count.Load(), one.c.bytes.Load())
			}
		})
	}
}

// A node that leads again after others did, and hears of all of it at once, does not go on with what it had.
func TestTermThatCameBackIsLoadedAnew(t *testing.T) {
	for _, underWay := range []bool{false, true} { // a write that is refused tells it, too
		bubble(t, func(t *testing.T) {
			table, one, two, groups := groupsAt(t, 1)
			m := one.member(groups[0])
			m.commit("t", 0, 1)
			late := make(chan int16, 1)
			late <- errNotCoordinator
			if underWay {
				<-late
				table.set(func() { table.held = true })
				go func() { late <- m.commit("t", 0, 9) }()
				synctest.Wait()
			}
			table.move(0, 2, true, always(fateLost))
			table.set(func() { table.held = false })
			two.c.metadataChanged()
			synctest.Wait()
			if code := two.member(groups[0]).commit("t", 0, 2); code != errNone {
				t.Fatalf("commit at the other node: code %d", code)
			}
			table.move(0, 1, true, noFate)
			one.c.metadataChanged() // it hears only now, and that it leads
			synctest.Wait()
			if off := one.offset(groups[0], "t", 0); off != 2 {
				t.Errorf("offset %d, want 2 of the term between", off)
			}
			if code := <-late; code != errNotCoordinator {
				t.Errorf("the commit of the earlier term: code %d", code)
			}
			if code := two.member(groups[0]).commit("t", 0, 3); code == errNone {
				t.Error("the node between still writes")
			}
		})
	}
}

// What was read while the partition was another's for a moment is of two terms, and is not served.
func TestReadOverTheEndOfItsTermIsNotServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table, one, two, groups := groupsAt(t, 1)
		if code := one.member(groups[0]).commit("t", 0, 1); code != errNone {
			t.Fatalf("commit: code %d", code)
		}
		read := make(chan struct{})
		table.set(func() { table.loading = read })
		table.move(0, 2, true, noFate)
		one.c.metadataChanged()
		two.c.metadataChanged()
		synctest.Wait() // two reads
		table.move(0, 1, true, noFate)
		table.move(0, 2, true, noFate)
		close(read) // and it has not heard of that
		synctest.Wait()
		if code := two.member(groups[0]).commit("t", 0, 2); code != errCoordinatorLoadInProgress {
			t.Errorf("commit: code %d", code)
		}
		two.c.metadataChanged()
		synctest.Wait()
		if off := two.offset(groups[0], "t", 0); off != 1 {
			t.Errorf("offset %d, want 1", off)
		}
	})
}

// The table knows first: a write that it refuses ends the term, and the partition is loaded again when the metadata stays as it is.
func TestRefusedWriteEndsTheTerm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table, one, _, groups := groupsAt(t, 2)
		m, other := one.member(groups[0]).up(), one.member(groups[1]).up()
		m.commit("t", 0, 1)
		table.set(func() { table.fenced = true })
		joining := make(chan int16, 1)
		go func() { joining <- one.member(groups[0]).join() }()
		synctest.Wait()
		if code := m.commit("t", 0, 2); code != errNotCoordinator {
			t.Errorf("commit: code %d", code)
		}
		if code := <-joining; code != errNotCoordinator {
			t.Errorf("join: code %d", code)
		}
		if code := m.heartbeat(); code != errCoordinatorLoadInProgress {
			t.Errorf("heartbeat: code %d", code)
		}
		if code := other.heartbeat(); code != errNone {
			t.Errorf("heartbeat in another partition: code %d", code)
		}
		table.set(func() { table.fenced = false })
		time.Sleep(loadAgain)
		synctest.Wait()
		if code := m.heartbeat(); code != errNone {
			t.Errorf("heartbeat after it was loaded again: code %d", code)
		}
		if off := one.offset(m.group, "t", 0); off != 1 {
			t.Errorf("offset %d, want 1", off)
		}
	})
}

// A partition that is offline costs its groups, until it can be read.
func TestOfflinePartitionIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 1)
		table.offline = map[int32]bool{0: true}
		n := startGroupsLog(t, table, GroupConfig{}, discardLogs)
		synctest.Wait()
		if code := n.member("g").join(); code != errCoordinatorNotAvailable {
			t.Errorf("join: code %d", code)
		}
		table.set(func() { table.offline = nil })
		time.Sleep(loadDamaged)
		synctest.Wait()
		n.member("g").up()
	})
}

// A commit that no replica comes to confirm is answered in the end.
func TestCommitTimesOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table := newFakeTable(t, 1)
		n := startGroups(t, table, GroupConfig{}).loaded()
		n.member("g").commit("t", 0, 1)
		table.set(func() { table.held = true })
		start := time.Now()
		if code := n.member("g").commit("t", 0, 2); code != errCoordinatorNotAvailable {
			t.Errorf("commit: code %d", code)
		}
		if code := n.deleteGroup("g"); code != errCoordinatorNotAvailable {
			t.Errorf("delete: code %d", code)
		}
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("both took %v", took)
		}
		table.set(func() { table.held = false })
	})
}

// Offsets of a topic that was deleted while nobody coordinated the group are forgotten by who does next.
func TestOffsetsOfTopicsDeletedBeforeTheTerm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		table, one, two, groups := groupsAt(t, 1)
		m := one.member(groups[0])
		m.commit("t", 0, 1)
		m.commit("u", 0, 2)
		two.topicMu.Lock()
		delete(two.topics, "u")
		two.topicMu.Unlock()
		table.move(0, 2, true, noFate)
		one.c.metadataChanged()
		two.c.metadataChanged()
		synctest.Wait()
		if x, y := two.offset(groups[0], "t", 0), two.offset(groups[0], "u", 0); x != 1 || y != -1 || len(table.live()) != 1 {
			t.Errorf("offsets %d %d, %d entries, want 1 -1, 1", x, y, len(table.live()))
		}
	})
}

// Partitions that move all the time under consumers that commit: at each moment the coordinator in charge knows at least what was
// answered, and nothing that was not asked for.
func TestMovesLoseNothing(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, func(t *testing.T) { movesLoseNothing(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func movesLoseNothing(t *testing.T, rnd *rand.Rand) {
	const partitions, rounds = 3, 40
	table, one, two, groups := groupsAt(t, partitions)
	nodes := map[int32]*groupNode{1: one, 2: two}
	var asked, answered [partitions]atomic.Int64
	var stop atomic.Bool
	var clients sync.WaitGroup
	for g := range groups {
		clients.Go(func() {
			for i := int64(1); !stop.Load(); i++ {
				asked[g].Store(i)
				done := false
				for node := int32(1); node <= 2 && !done; node++ {
					if done = nodes[node].member(groups[g]).commit("t", 0, i) == errNone; done {
						answered[g].Store(i)
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range rounds {
		time.Sleep(time.Duration(rnd.IntN(5)) * time.Millisecond)
		p, node := int32(rnd.IntN(partitions)), int32(1+rnd.IntN(2))
		table.set(func() { table.held = true })
		time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond)
		table.move(p, node, rnd.IntN(2) == 0, func() fate { return fate(rnd.IntN(int(fateCount))) })
		if rnd.IntN(2) == 0 {
			table.set(func() { table.held = false }) // outcomes come before the metadata
			time.Sleep(time.Duration(rnd.IntN(2)) * time.Millisecond)
		}
		for _, n := range []int32{node, 3 - node} {
			nodes[n].c.metadataChanged()
			time.Sleep(time.Duration(rnd.IntN(2)) * time.Millisecond)
		}
		table.set(func() { table.held, table.leaders[p].settled = false, true })
		least := answered[p].Load()
		synctest.Wait()
		off := nodes[node].offset(groups[p], "t", 0)
		if most := asked[p].Load(); off < least && least > 0 || off > most {
			t.Fatalf("offset %d: %d was answered, %d asked for", off, least, most)
		}
	}
	stop.Store(true)
	clients.Wait()
	synctest.Wait()
	for p := range groups {
		node := table.leaders[p].node
		if off := nodes[node].offset(groups[p], "t", 0); off < answered[p].Load() {
			t.Errorf("offset %d in the end: %d was answered", off, answered[p].Load())
		}
		if answered[p].Load() < 3 {
			t.Errorf("%d commits of group %d were answered: the test tests nothing", answered[p].Load(), p)
		}
	}
}
