package deliver

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/weir-io/weir/log"
)

// fakeAway is a cluster in which one partition has all groups. It writes down what it is told.
type fakeAway struct {
	mu   sync.Mutex
	told []string
}

func (a *fakeAway) note(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told = append(a.told, what)
}

func (a *fakeAway) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.told
	a.told = nil
	return out
}

func (a *fakeAway) PartitionOf(string) int    { return 0 }
func (a *fakeAway) Member(_ string, n uint64) { a.note(fmt.Sprint("member ", n)) }
func (a *fakeAway) Room(_ string, n uint64)   { a.note(fmt.Sprint("room ", n)) }
func (a *fakeAway) Gone(_, client string, _ uint64, how Leaving) {
	a.note(fmt.Sprint("gone ", client, " ", how))
}
func (a *fakeAway) Done(_ string, n uint64, _ log.PartitionID, o log.Offset) {
	a.note(fmt.Sprint("done ", n, " ", o))
}
func (a *fakeAway) Back(_ string, n uint64, _ log.PartitionID, o log.Offset, full bool) {
	a.note(fmt.Sprint("back ", n, " ", o, " ", full))
}

// fakeStream is another node.
type fakeStream struct {
	mu     sync.Mutex
	room   int
	given  []string
	others []bool
	passed int
}

func (s *fakeStream) Give(n uint64, qos byte, m *Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room == 0 {
		return false
	}
	s.room--
	s.given = append(s.given, fmt.Sprintf("%d:%s", n, m.Payload))
	return true
}

func (s *fakeStream) Others(_ string, others bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others = append(s.others, others)
}

func (s *fakeStream) Passed(string, Cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed++
}

func (s *fakeStream) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := slices.Clone(s.given)
	slices.Sort(got)
	if d := cmp.Diff(want, got, cmp.Transformer("", func(s []string) string { return fmt.Sprint(s) })); d != "" {
		t.Error(d)
	}
	s.given = nil
}

// startLeader starts a hub that leads all groups.
func startLeader(t *testing.T, table Table) *testHub {
	th := startHub(t, 1, func(c *Config) { c.Away, c.Groups = &fakeAway{}, table })
	th.LeadGroups(0)
	return th
}

func (th *testHub) guest(x *Guests, ms Membership) {
	th.t.Helper()
	ms.Group = "$share/g/f"
	if ms.Begin.IsZero() {
		ms.Begin = th.Ends()
	}
	if err := x.Member(ms); err != nil {
		th.t.Fatal(err)
	}
}

func TestGuestHasAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startLeader(t, newFakeTable())
		defer th.stop()
		s := &fakeStream{room: -1}
		x := th.NewGuests(s)
		th.guest(x, Membership{Number: 1, Client: "c", QoS: 1, Online: true})
		for range 2 * guestWindow {
			th.publish("x")
		}
		if len(s.given) != firstWindow {
			t.Fatalf("%d messages are on their way to one guest", len(s.given))
		}
		done := 0
		for range guestWindow { // it acknowledges one at a time
			x.Done(1, th.logs[0].id, log.Offset(done))
			done++
			synctest.Wait()
		}
		if n := len(s.given) - done; n > guestWindow || n < guestWindow/2 {
			t.Errorf("%d messages are on their way to one that acknowledges them", n)
		}
		x.Back(1, th.logs[0].id, log.Offset(done), true)
		for done++; done < len(s.given); done++ {
			x.Done(1, th.logs[0].id, log.Offset(done))
		}
		x.Room(1)
		synctest.Wait()
		for range 3 {
			x.Back(1, th.logs[0].id, log.Offset(len(s.given)-1), true)
			x.Room(1)
			synctest.Wait()
		}
		if w := x.all[1].window; w > guestWindow/4 {
			t.Errorf("a window of %d for one that refuses", w)
		}
	})
}

func TestGuestWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startLeader(t, newFakeTable())
		defer th.stop()
		s := &fakeStream{room: 1}
		x := th.NewGuests(s)
		th.guest(x, Membership{Number: 1, Client: "one", QoS: 1, Online: true})
		th.publish("a", "b")
		s.want(t, "1:a") // there is no room in the stream for more
		s.room = -1
		x.Drained()
		s.want(t, "1:b")
		x.Back(1, th.logs[0].id, 0, true)
		th.publish("c")
		s.want(t)
		th.guest(x, Membership{Number: 2, Client: "two", QoS: 1, Online: true})
		s.want(t, "2:a", "2:c")
		x.Room(1)
		th.publish("d", "e")
		s.want(t, "1:d", "2:e")
	})
}

// Nothing of QoS 2 goes to a member before a committed record names it: the next leader would not ask it.
func TestMemberOfQoS2IsRecordedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFakeTable()
		th := startLeader(t, table)
		defer th.stop()
		table.mu.Lock()
		table.held = true
		table.mu.Unlock()
		s := &fakeStream{room: -1}
		x := th.NewGuests(s)
		th.guest(x, Membership{Number: 1, Client: "one", QoS: 2, Online: true})
		th.logs[0].commit(published("f", "q1", 1))
		th.publish("q2")
		s.want(t, "1:q1")
		table.mu.Lock()
		queue := table.queue
		table.held, table.queue = false, nil
		table.mu.Unlock()
		for _, commit := range queue {
			commit()
		}
		s.want(t, "1:q2")
		if s.passed == 0 {
			t.Error("the guest's node was not told of the stored cursor")
		}
	})
}

// Of two nodes that name one client the one counts that has its session later, whichever is heard of first.
func TestLaterTermIsTheMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startLeader(t, newFakeTable())
		defer th.stop()
		id := th.logs[0].id
		s, late := &fakeStream{room: -1}, &fakeStream{room: -1}
		x, y := th.NewGuests(s), th.NewGuests(late)
		th.guest(x, Membership{Number: 1, Client: "c", Term: 2, QoS: 1, Online: true})
		th.guest(y, Membership{Number: 1, Client: "c", Term: 1, QoS: 1, Online: true})
		th.publish("a", "b")
		s.want(t, "1:a", "1:b")
		late.want(t)
		y.Gone("$share/g/f", "c", 1, Moves)
		z := th.NewGuests(late)
		th.guest(z, Membership{Number: 5, Client: "c", Term: 3, QoS: 1, Online: true, Open1: []Held{{ID: id, Offsets: []log.Offset{1}}}})
		late.want(t, "5:a") // of b it said that it has it
		x.End()
		th.publish("c")
		s.want(t)
		late.want(t, "5:c")
	})
}

// What members hold tells a new leader what is nobody else's, and what is to be given once more.
func TestNewLeaderHearsWhatMembersHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFakeTable()
		th := startLeader(t, table)
		defer th.stop()
		id := th.logs[0].id
		rec := groupRecord{Format: groupFormat, Members: []storedMember{{ID: "one", Stays: true}, {ID: "gone", Stays: true}}}
		rec.Cursor.Set(id, 0)
		th.publish("0", "1", "2", "3")
		th.StoredGroup(GroupKeyPrefix+"$share/g/f", rec.encode())
		s := &fakeStream{room: -1}
		x := th.NewGuests(s)
		th.guest(x, Membership{Number: 2, Client: "two", QoS: 2, Online: true})
		th.logs[0].commit(published("f", "q1", 1))
		s.want(t)
		th.guest(x, Membership{Number: 1, Client: "one", QoS: 2, Stays: true, Open2: []Held{{ID: id, Offsets: []log.Offset{1}}}, Held: []Held{{ID: id, Offsets: []log.Offset{2}}}})
		s.want(t) // one more is missing
		time.Sleep(missingTime + 3*time.Second)
		s.want(t, "2:0", "2:3", "2:q1")
		x.End() // two's session is on its node still, and one's open message stays with it
		other := &fakeStream{room: -1}
		y := th.NewGuests(other)
		th.guest(y, Membership{Number: 9, Client: "two", QoS: 2, Online: true, Held: []Held{{ID: id, Offsets: []log.Offset{3}}}})
		other.want(t, "9:0", "9:q1")
		th.guest(y, Membership{Number: 8, Client: "one", QoS: 2, Stays: true}) // it never began 1
		other.want(t, "9:1")
	})
}

// A leader that is one again soon, with a cursor that is behind, gives nobody what a guest is done with, though the guest's node cannot say so any more.
func TestLeaderAgainKnowsWhatGuestsAreDoneWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFakeTable()
		th := startLeader(t, table)
		defer th.stop()
		id, local := th.logs[0].id, th.member("local", 0, 2)
		s := &fakeStream{room: -1}
		x := th.NewGuests(s)
		th.guest(x, Membership{Number: 1, Client: "one", QoS: 2, Online: true})
		synctest.Wait()
		record := table.get(GroupKeyPrefix + "$share/g/f")
		table.mu.Lock()
		table.held = true // who leads no more puts nothing
		table.mu.Unlock()
		th.publish("done", "open")
		s.want(t, "1:done", "1:open")
		x.Done(1, id, 0)
		th.FollowGroups(0)
		x.End()
		th.StoredGroup(GroupKeyPrefix+"$share/g/f", record)
		th.LeadGroups(0)
		local.mu.Lock()
		local.room = -1
		local.mu.Unlock()
		time.Sleep(missingTime + 3*time.Second)
		th.Ready("local")
		synctest.Wait()
		wantPayloads(t, local, "open")
	})
}

// On a member's node: what its leader gives is answered once.
func TestMemberElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &fakeAway{}
		th := startHub(t, 1, func(c *Config) { c.Away = away })
		defer th.stop()
		id := th.logs[0].id
		a := th.member("a", 2, 2)
		if got := fmt.Sprint(away.take()); got != "[member 1]" {
			t.Fatal(got)
		}
		give := func(o log.Offset, qos byte) Given {
			r := published("f", "x", 2)
			var m Message
			m.Topic, m.Payload, m.ID, m.Offset, m.topicHeader = []byte("f"), r.Value, id, o, -1
			var got Message
			if err := th.LoadRecord(&got, m.AppendRecord(nil)); err != nil {
				t.Fatal(err)
			}
			return th.Give(1, qos, &got)
		}
		first, again := give(0, 2), give(0, 2)
		if first != Taken || again != Taken || give(1, 1) != Taken || len(a.take()) != 2 {
			t.Error("a message was not taken once")
		}
		a.group.Ack("a", id, 0)
		if give(0, 2) != Had {
			t.Error("a message of QoS 2 was given twice")
		}
		if give(2, 1) != Taken {
			t.Error("a refusal is answered twice")
		}
		th.Ready("a")
		th.Ready("a")
		if a.group.Reclaim("a", id, 1) {
			t.Error("reclaimed for nobody")
		}
		th.ToldOthers("$share/g/f", true)
		if !a.group.Reclaim("a", id, 1) || give(3, 1) != Taken {
			t.Error("not reclaimed")
		}
		var ms Membership
		th.Membership(1, func(m *Membership) { ms = *m })
		if fmt.Sprint(ms.Held, ms.Open1, ms.Open2) != fmt.Sprint([]Held{{id, []log.Offset{0}}}, []Held(nil), []Held(nil)) {
			t.Errorf("%+v", ms)
		}
		var cur Cursor
		cur.Set(id, 1)
		th.ToldPassed("$share/g/f", cur)
		if th.Membership(1, func(m *Membership) { ms = *m }); ms.Held != nil || !th.SharedPassed("$share/g/f", id, 0) {
			t.Errorf("%+v after the cursor has passed it", ms)
		}
		th.Detach("a")
		if give(4, 1) != Refused {
			t.Error("taken for nobody")
		}
		th.Release("a")
		want := "[done 1 0 back 1 2 true room 1 back 1 1 false back 1 3 true member 1 member 1 gone a 2]"
		if got := fmt.Sprint(away.take()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if th.Stats().Groups != 0 {
			t.Error("the group is still there")
		}
	})
}

// A member that leaves and comes back while it has messages answers for them as the member that it is then.
func TestMemberElsewhereComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &fakeAway{}
		th := startHub(t, 1, func(c *Config) { c.Away = away })
		defer th.stop()
		id := th.logs[0].id
		a := th.member("a", -1, 1)
		th.member("b", -1, 1)
		m := Message{Topic: []byte("f"), Payload: []byte("x"), QoS: 1, ID: id, topicHeader: -1}
		if th.Give(1, 1, &m) != Taken {
			t.Fatal("not taken")
		}
		th.Unsubscribe("a", "$share/g/f")
		th.subscribe("a", Sub{Filter: "$share/g/f", QoS: 1})
		var ms Membership
		th.Membership(3, func(m *Membership) { ms = *m })
		if fmt.Sprint(ms.Open1) != fmt.Sprint([]Held{{id, []log.Offset{0}}}) {
			t.Errorf("%+v", ms)
		}
		a.group.Ack("a", id, 0)
		if got := fmt.Sprint(away.take()); got != "[member 1 member 2 gone a 0 member 3 done 3 0]" {
			t.Error(got)
		}
	})
}

func FuzzLoadRecord(f *testing.F) {
	m := Message{Topic: []byte("a/b"), Payload: []byte("x"), topicHeader: -1}
	f.Add(m.AppendRecord(nil))
	h, err := NewHub(Config{Source: &fakeSource{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again Message
		if h.LoadRecord(&m, b) != nil {
			return
		}
		if c := m.AppendRecord(nil); h.LoadRecord(&again, c) != nil || string(again.Payload) != string(m.Payload) || again.Offset != m.Offset {
			t.Errorf("% x is % x", b, c)
		}
	})
}
