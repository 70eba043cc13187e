package group

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// client is what one consumer believes: a member id and a generation that it
// was told, and the request that it waits for.
type client struct {
	id, instance string
	generation   int32
	leader       bool
	told         []MemberInfo
	joining      Ticket
	syncing      Ticket
}

// world plays clients, a table that answers late or not at all, and a clock
// against one group.
type world struct {
	t       *rapid.T
	cfg     Config
	g       *Group
	now     time.Time
	ids     int
	ticket  Ticket
	clients []*client
	waiting map[Ticket]*client
	stores  []Store
	writes  []Write

	stored      *Snapshot
	storedSeq   uint64
	assigned    map[int32]map[string]string // what a generation's leader decided, and was stored
	offers      map[int32]map[string]string
	offsets     map[TopicPartition]int64 // stored, by the newest write
	newest      map[TopicPartition]uint64
	generations int32 // highest told
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, now: time.Unix(1_900_000_000, 0), waiting: map[Ticket]*client{},
		assigned: map[int32]map[string]string{}, offers: map[int32]map[string]string{},
		offsets: map[TopicPartition]int64{}, newest: map[TopicPartition]uint64{},
	}
	w.cfg = Config{MaxMembers: 5, InitialRebalanceDelay: -1}.Defaults()
	if rapid.Bool().Draw(t, "delayed") {
		w.cfg.InitialRebalanceDelay = 300 * time.Millisecond
	}
	w.g = New("g", &w.cfg, w.now)
	for i := range 4 {
		c := &client{}
		if i >= 2 {
			c.instance = fmt.Sprint("i", i%2) // the last two are the same kind of static member, so that they fence each other at times
		}
		w.clients = append(w.clients, c)
	}
	w.clients[3].instance = w.clients[2].instance
	return w
}

func (w *world) client() *client {
	return rapid.SampledFrom(w.clients).Draw(w.t, "client")
}

func (w *world) newTicket(c *client) Ticket {
	w.ticket++
	w.waiting[w.ticket] = c
	return w.ticket
}

func (w *world) join(*rapid.T) {
	c := w.client()
	w.ids++
	t := w.newTicket(c)
	c.joining, c.syncing = t, 0
	r := &JoinRequest{
		Ticket: t, MemberID: c.id, Instance: c.instance, NewMemberID: fmt.Sprint("m", w.ids),
		NeedsKnownID: rapid.Bool().Draw(w.t, "known"), CanSkip: rapid.Bool().Draw(w.t, "skip"),
		Session: 10 * time.Second, Rebalance: 20 * time.Second, ProtocolType: "consumer",
		Protocols: []Protocol{{"range", subscribe("t")}},
	}
	if rapid.IntRange(0, 9).Draw(w.t, "other") == 0 {
		r.Protocols[0].Metadata = subscribe("t", "u")
	}
	w.take(w.g.Join(r, w.now))
}

func (w *world) sync(*rapid.T) {
	c := w.client()
	t := w.newTicket(c)
	c.syncing = t
	r := &SyncRequest{Ticket: t, MemberID: c.id, Instance: c.instance, Generation: c.generation, Assignments: map[string][]byte{}}
	if c.leader {
		offer := map[string]string{}
		for _, m := range c.told {
			offer[m.ID] = fmt.Sprintf("%s@%d#%d", m.ID, c.generation, t)
			r.Assignments[m.ID] = []byte(offer[m.ID])
		}
		before := len(w.stores)
		w.take(w.g.Sync(r, w.now))
		if len(w.stores) > before {
			w.offers[c.generation] = offer
		}
		return
	}
	w.take(w.g.Sync(r, w.now))
}

func (w *world) heartbeat(*rapid.T) {
	c := w.client()
	f := w.g.Heartbeat(c.id, c.instance, c.generation, w.now)
	if f == OK && (w.g.members[c.id] == nil || c.generation != w.g.generation) {
		w.t.Fatalf("heartbeat of %q in generation %d accepted in %d", c.id, c.generation, w.g.generation)
	}
	w.obey(c, f)
}

func (w *world) leave(*rapid.T) {
	c := w.client()
	_, fx := w.g.Leave([]LeaveRequest{{c.id, c.instance}}, w.now)
	c.id, c.generation = "", -1
	w.take(fx)
}

func (w *world) commit(*rapid.T) {
	c := w.client()
	r := CommitRequest{MemberID: c.id, Instance: c.instance, Generation: c.generation}
	if rapid.IntRange(0, 4).Draw(w.t, "simple") == 0 {
		r = CommitRequest{Generation: -1}
	}
	f := w.g.MayCommit(r, w.now)
	if f != OK {
		return
	}
	if r.Generation >= 0 && (r.Generation != w.g.generation || w.g.members[r.MemberID] == nil) || r.Generation < 0 && len(w.g.members) > 0 {
		w.t.Fatalf("commit of %+v accepted in generation %d with %d members", r, w.g.generation, len(w.g.members))
	}
	at := TopicPartition{"t", int32(rapid.IntRange(0, 2).Draw(w.t, "partition"))}
	wr, f := w.g.Put(at, Offset{Offset: int64(w.ids)<<20 | int64(w.g.writeSeq), ExpireTime: -1}, w.now)
	if f != OK {
		w.t.Fatalf("put: %v", f)
	}
	w.writes = append(w.writes, wr)
}

func (w *world) tableAnswers(*rapid.T) {
	ok := rapid.IntRange(0, 5).Draw(w.t, "fails") > 0
	if n := len(w.writes); n > 0 && rapid.Bool().Draw(w.t, "write") {
		i := rapid.IntRange(0, n-1).Draw(w.t, "which")
		w.answerWrite(i, ok)
	} else if n := len(w.stores); n > 0 {
		w.answerStore(rapid.IntRange(0, n-1).Draw(w.t, "which"), ok)
	}
}

func (w *world) answerWrite(i int, ok bool) {
	wr := w.writes[i]
	w.writes = append(w.writes[:i:i], w.writes[i+1:]...)
	if ok && wr.Seq > w.newest[wr.At] {
		w.newest[wr.At] = wr.Seq
		w.offsets[wr.At] = wr.Offset.Offset
		if wr.Forget {
			delete(w.offsets, wr.At)
		}
	}
	w.g.Committed(wr, ok)
	w.dropIfGone()
}

func (w *world) answerStore(i int, ok bool) {
	st := w.stores[i]
	w.stores = append(w.stores[:i:i], w.stores[i+1:]...)
	if ok && st.Seq > w.storedSeq {
		w.stored, w.storedSeq = st.Snapshot, st.Seq
		if st.Snapshot != nil {
			w.assigned[st.Snapshot.Generation] = w.offers[st.Snapshot.Generation]
		}
	}
	w.take(w.g.Stored(st.Seq, ok, w.now))
}

func (w *world) tick(*rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 12_000).Draw(w.t, "ms")) * time.Millisecond)
	w.advance()
}

func (w *world) advance() {
	w.take(w.g.Tick(w.now))
	if next := w.g.Next(); !next.IsZero() && !next.After(w.now) {
		w.t.Fatalf("tick at %v wants to be called again at %v", w.now, next)
	}
}

func (w *world) expire(*rapid.T) {
	wall := w.now
	if rapid.Bool().Draw(w.t, "later") {
		wall = wall.Add(8 * 24 * time.Hour)
	}
	w.take(w.g.Expire(wall))
}

func (w *world) remove(*rapid.T) {
	f, fx := w.g.Remove(w.now)
	if f == OK && len(w.g.members) > 0 {
		w.t.Fatalf("removed with members")
	}
	w.take(fx)
}

// take does what a step asks for, and checks each answer against what the
// client and the table know.
func (w *world) take(fx Effects) {
	w.writes = append(w.writes, fx.Writes...)
	w.stores = append(w.stores, fx.Stores...)
	for i := range fx.Answers {
		a := &fx.Answers[i]
		c := w.waiting[a.Ticket]
		if c == nil {
			w.t.Fatalf("ticket %d answered twice: %+v", a.Ticket, a)
		}
		delete(w.waiting, a.Ticket)
		switch a.Ticket {
		case c.joining:
			c.joining = 0
			w.joined(c, a)
		case c.syncing:
			c.syncing = 0
			w.synced(c, a)
		}
	}
	w.dropIfGone()
}

func (w *world) dropIfGone() {
	if w.g.Gone() { // the shell drops it; the next request makes a new one
		w.g = New("g", &w.cfg, w.now)
		if len(w.writes) > 0 || len(w.stores) > 0 || len(w.waiting) > 0 {
			w.t.Fatalf("gone with %d writes, %d stores, %d requests", len(w.writes), len(w.stores), len(w.waiting))
		}
		w.generations, w.storedSeq = 0, 0
		clear(w.newest)
		clear(w.assigned)
	}
}

func (w *world) joined(c *client, a *Answer) {
	if a.Fault == MemberIDRequired {
		c.id = a.MemberID
	}
	if a.Fault != OK {
		w.obey(c, a.Fault)
		return
	}
	if a.Generation < w.generations {
		w.t.Fatalf("generation %d told after %d", a.Generation, w.generations)
	}
	w.generations = a.Generation
	c.id, c.generation = a.MemberID, a.Generation
	c.leader = a.Leader == a.MemberID && !a.SkipAssignment
	c.told = a.Members
	if leads := a.Leader == a.MemberID; leads != (len(a.Members) > 0) {
		w.t.Fatalf("leader %v is told of %d members", leads, len(a.Members))
	}
}

// synced checks D11: what a member is told to read is what was stored.
func (w *world) synced(c *client, a *Answer) {
	if a.Fault != OK {
		w.obey(c, a.Fault)
		return
	}
	if w.stored == nil || w.stored.Generation != a.Generation {
		w.t.Fatalf("assignment of generation %d answered, stored is %+v", a.Generation, w.stored)
	}
	found := false
	for _, m := range w.stored.Members {
		if m.ID == c.id || c.instance != "" && m.Instance == c.instance {
			found = true
			if string(m.Assignment) != string(a.Assignment) {
				w.t.Fatalf("%q is told %q, stored is %q", c.id, a.Assignment, m.Assignment)
			}
		}
	}
	if !found {
		w.t.Fatalf("%q is told %q and is not in what is stored", c.id, a.Assignment)
	}
}

// obey does what a well-behaved client does about a fault.
func (w *world) obey(c *client, f Fault) {
	switch f {
	case UnknownMember, FencedInstance:
		c.id, c.generation = "", -1
	case IllegalGeneration:
		c.generation = -1
	}
}

func (w *world) check(*rapid.T) {
	if err := w.g.Check(); err != nil {
		w.t.Fatal(err)
	}
	for at, want := range w.offsets {
		if o, ok := w.g.Offset(at); !ok || o.Offset != want {
			w.t.Fatalf("offset of %v is %v %v, stored %v", at, o.Offset, ok, want)
		}
	}
	if n := len(w.g.Offsets()); n != len(w.offsets) {
		w.t.Fatalf("%d offsets, %d stored", n, len(w.offsets))
	}
	if w.g.state == Stable && len(w.stores) == 0 && (w.stored == nil || w.stored.Generation != w.g.generation) {
		w.t.Fatalf("stable in generation %d, stored is %+v", w.g.generation, w.stored)
	}
}

// settle lets the table answer and all clients fall silent: nothing may wait
// any more, and nobody may be left.
func (w *world) settle() {
	for range 1000 {
		switch {
		case len(w.writes) > 0:
			w.answerWrite(0, true)
		case len(w.stores) > 0:
			w.answerStore(0, true)
		case !w.g.Next().IsZero():
			w.now = w.g.Next()
			w.advance()
		default:
			if len(w.waiting) > 0 || w.g.Members() > 0 || w.g.state != Empty {
				w.t.Fatalf("quiet with %d requests waiting, %v, %d members", len(w.waiting), w.g.state, w.g.Members())
			}
			return
		}
		w.check(nil)
	}
	w.t.Fatalf("never quiet: %v %d members, next %v", w.g.state, w.g.Members(), w.g.Next())
}

// TestModel plays random clients, of which some are old or share an instance
// id, against a table that answers late, out of order or with failures. After
// every step the group passes Check; every request is answered once; nobody is
// told an assignment that is not stored; and silence always ends in an empty
// group.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"join": w.join, "join again": w.join, "sync": w.sync, "sync again": w.sync,
			"heartbeat": w.heartbeat, "leave": w.leave, "commit": w.commit,
			"table": w.tableAnswers, "table again": w.tableAnswers,
			"tick": w.tick, "expire": w.expire, "remove": w.remove,
			"": w.check,
		})
		w.settle()
	})
}
