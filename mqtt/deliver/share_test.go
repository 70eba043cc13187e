package deliver

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/weir-io/weir/log"
)

// member attaches a session that shares filter f in group g.
func (th *testHub) member(id string, room int, qos byte) *fakeTarget {
	th.t.Helper()
	target := newTarget(room)
	th.Attach(id, target, true, Cursor{}, nil)
	th.subscribe(id, Sub{Filter: "$share/g/f", QoS: qos})
	return target
}

func (th *testHub) publish(payloads ...string) {
	for _, p := range payloads {
		th.logs[0].commit(published("f", p, 2))
	}
	synctest.Wait()
}

func TestSharedSubscriptionTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		a, b := th.member("a", -1, 1), th.member("b", -1, 0)
		own := newTarget(-1)
		th.Attach("own", own, true, Cursor{}, nil)
		th.subscribe("own", Sub{Filter: "f", QoS: 2})
		if !th.subscribe("a", Sub{Filter: "f", ShareGroup: "g", QoS: 1, ID: 5}) {
			t.Fatal("the other way to write the filter is another subscription")
		}
		th.publish("1", "2", "3", "4")
		ga, gb := a.take(), b.take()
		if len(ga) != 2 || len(gb) != 2 || ga[0].qos != 1 || ga[0].ids != "[5]" || gb[0].qos != 0 || gb[0].ids != "" {
			t.Fatalf("a %+v, b %+v", ga, gb)
		}
		wantPayloads(t, own, "1", "2", "3", "4")
		if own.group != nil || a.group == nil {
			t.Fatal("only messages of a shared subscription carry their group")
		}
		if !th.Unsubscribe("a", "$share/g/f") || th.Unsubscribe("a", "$share/g/f") || th.Unsubscribe("own", "$share/g/f") {
			t.Fatal("unsubscribe is true once, for members")
		}
		th.publish("5", "6")
		wantPayloads(t, a)
		wantPayloads(t, b, "5", "6")
		th.Forget("b")
		th.Forget("own")
		if th.Stats().Groups != 0 || th.listeners.Load() != 0 || !th.index.root.empty() {
			t.Fatalf("the group outlived its members: %+v", th.Stats())
		}
	})
}

func TestSharedSubscriptionUsesWhoHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		full, free := th.member("full", 1, 1), th.member("free", 4, 1)
		th.publish("1", "2", "3", "4", "5", "6", "7")
		all := append(full.payloads(), free.payloads()...)
		slices.Sort(all)
		if d := cmp.Diff([]string{"1", "2", "3", "4", "5"}, all); d != "" {
			t.Fatal(d)
		}
		full.allow(-1)
		th.Ready("full")
		synctest.Wait()
		wantPayloads(t, full, "6", "7")
		wantPayloads(t, free)
	})
}

// Each member gets messages as its own subscription says, whoever subscribed last.
func TestSharedSubscriptionOptionsAreTheMembers(t *testing.T) {
	// MQTT5 [MQTT-4.8.2-3]
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		a, b := newTarget(-1), newTarget(-1)
		th.Attach("a", a, true, Cursor{}, nil)
		th.Attach("b", b, true, Cursor{}, nil)
		th.subscribe("a", Sub{Filter: "$share/g/f", QoS: 2, RetainAsPublished: true})
		th.subscribe("b", Sub{Filter: "$share/g/f", QoS: 0})
		for range 4 {
			th.logs[0].commit(published("f", "x", 2, HeaderRetain, "1"))
		}
		synctest.Wait()
		ga, gb := a.take(), b.take()
		if len(ga) != 2 || len(gb) != 2 || ga[0].qos != 2 || !ga[0].retain || gb[0].qos != 0 || gb[0].retain {
			t.Fatalf("a %+v, b %+v", ga, gb)
		}
		// The group keeps messages for a, whose QoS is higher, while nobody is there.
		th.Detach("a")
		th.Detach("b")
		th.publish("kept")
		th.Attach("a", a, true, Cursor{}, nil)
		synctest.Wait()
		wantPayloads(t, a, "kept")
	})
}

// What was given back and has no taker yet stays behind the group's cursor.
func TestGroupCursorIsBehindWhatWasGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		lost := th.member("lost", 2, 1)
		th.publish("0", "1")
		th.member("full", 0, 1)
		th.Detach("lost")
		if !lost.group.Reclaim("lost", th.logs[0].id, 0) {
			t.Fatal("not reclaimed")
		}
		lost.group.Ack("lost", th.logs[0].id, 1)
		synctest.Wait()
		if next, _ := lost.group.cursor().Next(th.logs[0].id); next != 0 {
			t.Fatalf("the group stands at %d", next)
		}
	})
}

func TestNewMemberTakesWhatOthersHaveNoRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		full := th.member("full", 1, 1)
		th.publish("1", "2", "3")
		fresh := th.member("fresh", -1, 1)
		synctest.Wait()
		wantPayloads(t, full, "1")
		wantPayloads(t, fresh, "2", "3")
	})
}

func TestSharedSubscriptionWaitsForMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		a := th.member("a", -1, 1)
		th.member("b", -1, 1)
		th.Detach("a")
		th.Detach("b")
		th.publish("1", "2", "3")
		th.Attach("a", a, true, Cursor{}, nil)
		synctest.Wait()
		wantPayloads(t, a, "1", "2", "3")
	})
}

// Unacked messages of a member that is lost go to another; of QoS 2 never.
func TestRedispatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		id := th.logs[0].id
		lost := th.member("lost", -1, 1)
		th.publish("0", "1", "2", "3")
		if len(lost.take()) != 4 {
			t.Fatal("the only member gets everything")
		}
		g := lost.group
		g.Ack("lost", id, 1)
		g.Ack("other", id, 2) // not its message: no effect
		if g.Reclaim("lost", id, 0) {
			t.Fatal("reclaimed with nobody to give it to")
		}
		other := th.member("other", 1, 1)
		th.Detach("lost")
		for o, want := range map[log.Offset]bool{0: true, 1: false, 2: true, 9: false} {
			if got := g.Reclaim("lost", id, o); got != want {
				t.Errorf("reclaim of %d: %v", o, got)
			}
		}
		synctest.Wait()
		other.allow(-1)
		th.Ready("other")
		synctest.Wait()
		got := other.payloads()
		slices.Sort(got)
		if d := cmp.Diff([]string{"0", "2"}, got); d != "" {
			t.Fatal(d)
		}
		th.Forget("lost") // still had 3
		synctest.Wait()
		wantPayloads(t, other, "3")
		if n := th.Stats().Redispatched; n != 3 {
			t.Fatalf("%d redispatched", n)
		}
		if len(g.out) != 3 {
			t.Fatalf("outstanding: %v", g.out)
		}
	})
}

func TestRedispatchNeverOfQoS2(t *testing.T) {
	// MQTT5 [MQTT-4.8.2-5]
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		lost := th.member("lost", 2, 2)
		other := th.member("other", 0, 2)
		th.publish("0", "1")
		if len(lost.take()) != 2 {
			t.Fatal("both went to the member with room")
		}
		other.allow(-1)
		th.Ready("other")
		if lost.group.Reclaim("lost", th.logs[0].id, 0) {
			t.Fatal("a QoS 2 message was reclaimed")
		}
		th.Forget("lost")
		synctest.Wait()
		wantPayloads(t, other)
		if len(lost.group.out) != 0 {
			t.Fatalf("outstanding: %v", lost.group.out)
		}
	})
}

// What retention took before it could be given to another member is counted, and blocks nothing.
func TestRedispatchOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		lost := th.member("lost", -1, 1)
		th.publish("0", "1")
		other := th.member("other", -1, 1)
		th.logs[0].setStart(1)
		th.Detach("lost")
		for o := range log.Offset(2) {
			if !lost.group.Reclaim("lost", th.logs[0].id, o) {
				t.Fatalf("offset %d stays with the lost member", o)
			}
		}
		synctest.Wait()
		wantPayloads(t, other, "1")
		if n := th.Stats().LostRecords; n != 1 {
			t.Fatalf("%d lost", n)
		}
	})
}

// What cannot be read on this node yet is given to another member once it can be.
func TestRedispatchWaitsForWhatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		lost := th.member("lost", -1, 1)
		th.publish("0", "1")
		other := th.member("other", -1, 1)
		fail := func(err error) {
			th.logs[0].mu.Lock()
			defer th.logs[0].mu.Unlock()
			th.logs[0].fail = err
		}
		fail(log.ErrClosed)
		th.Detach("lost")
		for o := range log.Offset(2) {
			lost.group.Reclaim("lost", th.logs[0].id, o)
		}
		time.Sleep(3 * time.Second)
		wantPayloads(t, other)
		fail(nil)
		time.Sleep(3 * time.Second)
		wantPayloads(t, other, "0", "1")
		if n := th.Stats().LostRecords; n != 0 {
			t.Fatalf("%d lost", n)
		}
	})
}

// The group's stored place is behind what was not acked: a crash gives it again, and nothing else.
func TestGroupCursorSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFakeTable()
		table.Put([]byte("a client"), []byte("not ours"), func(error) {})
		table.Put([]byte(GroupKeyPrefix+"$share/ended/f"), []byte{0xa0}, func(error) {})
		table.Put([]byte(GroupKeyPrefix+"$share/ended/f"), nil, func(error) {})
		table.Put([]byte(GroupKeyPrefix+"$share/odd/f"), []byte("no cursor"), func(error) {})
		change := func(c *Config) { c.Groups = table }
		th := startHub(t, 1, change)
		a := th.member("a", -1, 1)
		th.publish("0", "1", "2", "3")
		for _, o := range []log.Offset{0, 1, 3} {
			a.group.Ack("a", th.logs[0].id, o)
		}
		time.Sleep(2 * groupFlushEvery) // of the bubble's clock
		stored := table.get(GroupKeyPrefix + "$share/g/f")
		cur := th.Cursor("a")
		th.stop()
		if stored == nil {
			t.Fatal("no cursor was stored")
		}
		th.open(change)
		if len(th.stored) != 1 {
			t.Fatalf("stored: %v", th.stored)
		}
		th.Restore("a", cur, []Sub{{Filter: "$share/g/f", QoS: 1}})
		th.logs[0].commit(published("f", "4", 1))
		th.start()
		defer th.stop()
		back := newTarget(-1)
		th.Attach("a", back, true, Cursor{}, nil)
		synctest.Wait()
		wantPayloads(t, back, "2", "3", "4")
		th.Forget("a")
		if v := table.get(GroupKeyPrefix + "$share/g/f"); v != nil {
			t.Fatalf("the cursor of a group that ended is still stored: %x", v)
		}
	})
}

// Every message of a shared subscription is acked by some member in the end, while members come, go,
// stall and are forgotten; without a loss of a member none is given twice.
func TestSharedSubscriptionUnderChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 2, nil)
		defer th.stop()
		id := func(g got) log.PartitionID { p := th.logs[0].id; p.Index = g.part; return p }
		acked := map[string]int{}
		targets := map[string]*fakeTarget{}
		for i := range 3 {
			name := fmt.Sprint("m", i)
			targets[name] = th.member(name, 2, 1)
		}
		n := 0
		for round := range 60 {
			for range 3 {
				th.logs[n%2].commit(published("f", fmt.Sprint(n), 1))
				n++
			}
			synctest.Wait()
			name := fmt.Sprint("m", round%3)
			target := targets[name]
			deliveries := target.take()
			if round%5 == 4 { // lost with everything it has; it comes back empty-handed
				th.Detach(name)
				for _, g := range deliveries {
					if !target.group.Reclaim(name, id(g), g.offset) {
						t.Fatalf("%s keeps %+v though others are online", name, g)
					}
				}
				th.Attach(name, target, true, Cursor{}, nil)
				deliveries = nil
			}
			for _, g := range deliveries {
				acked[g.payload]++
				target.group.Ack(name, id(g), g.offset)
			}
			target.allow(3)
			th.Ready(name)
		}
		for _, target := range targets {
			target.allow(-1)
		}
		for name := range targets {
			th.Ready(name)
		}
		synctest.Wait()
		for _, target := range targets {
			for _, g := range target.take() {
				acked[g.payload]++
			}
		}
		for i := range n {
			if acked[fmt.Sprint(i)] != 1 {
				t.Errorf("message %d was acked %d times", i, acked[fmt.Sprint(i)])
			}
		}
	})
}
