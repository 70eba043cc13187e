package group

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
	"pgregory.net/rapid"
)

// consumerClient is what one consumer believes and has.
type consumerClient struct {
	id, instance string
	pattern      bool
	epoch        int32
	joined       bool
	told, owned  assign.Set
	said         assign.Set // in the last request that was answered
	full         bool       // the last request failed
	beating      Ticket
	sent         assign.Set
	saw          int32

	// Of one that speaks the classic protocol.
	classic, eager  bool
	joining, synced bool         // a join waits; the generation's sync was answered
	again           bool         // has to join again
	leads           []MemberInfo // whom it has to assign to
}

// put is a batch on its way. What the table makes of it is decided in order,
// and reported in any.
type putBatch struct {
	Batch
	decided, ok bool

	store    bool // of the classic protocol
	snapshot *Snapshot
}

type recordKey struct {
	kind   RecordKind
	member string
}

// consumerWorld plays clients of the consumer protocol, a table that answers
// late, in part or not at all, topics that come and grow, and restarts.
type consumerWorld struct {
	t       *rapid.T
	cfg     Config
	g       *Group
	now     time.Time
	ids     int
	ticket  Ticket
	version uint64
	parts   []int32 // of topics t0, t1, ..
	topics  *Topics
	clients []*consumerClient
	waiting map[Ticket]*consumerClient
	zombies []consumerClient
	batches []*putBatch
	table   map[recordKey]Record
	classic *Snapshot // the group in the table as one of the classic protocol
}

func newConsumerWorld(t *rapid.T) *consumerWorld {
	w := &consumerWorld{
		t: t, now: time.Unix(1_900_000_000, 0), waiting: map[Ticket]*consumerClient{}, table: map[recordKey]Record{},
		parts: []int32{3, 2},
	}
	w.cfg = Config{MaxMembers: 6, InitialRebalanceDelay: -1}.Defaults()
	w.g = New("g", &w.cfg, w.now)
	w.moveTopics()
	for i := range 4 {
		c := &consumerClient{id: fmt.Sprint("c", i), pattern: i == 1}
		if i >= 2 {
			c.instance = "i"
		}
		w.clients = append(w.clients, c)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "classic") {
		w.clients = append(w.clients, &consumerClient{classic: true, eager: i == 0})
	}
	return w
}

func (w *consumerWorld) moveTopics() {
	w.version++
	var topics []*Topic
	for i, n := range w.parts {
		topics = append(topics, &Topic{Name: fmt.Sprint("t", i), Topic: assign.Topic{ID: assign.TopicID{byte(i + 1)}, Partitions: n}})
	}
	w.topics = NewTopics(w.version, topics)
}

func (w *consumerWorld) client() *consumerClient {
	return rapid.SampledFrom(w.clients).Draw(w.t, "client")
}

func (w *consumerWorld) beat(*rapid.T) { w.beatOf(w.client()) }

func (w *consumerWorld) beatOf(c *consumerClient) {
	if c.beating != 0 {
		return
	}
	if c.classic {
		w.classicStep(c)
		return
	}
	w.ticket++
	r := &BeatRequest{Ticket: w.ticket, MemberID: c.id, Epoch: c.epoch, Instance: c.instance, ClientID: "c", Host: "h", Rebalance: -1, MayGrow: true}
	if c.full {
		c.owned = c.told // a client that does not know is not about to take anything
	}
	if !c.joined || c.full {
		r.Rebalance = 20 * time.Second
		if c.pattern {
			r.Topics, r.Pattern = []string{}, new("t.*")
		} else {
			r.Topics = []string{"t0", "t1", "no such topic"}
		}
		r.Owned, r.SaysOwned = c.owned, true
	} else if !c.owned.Equal(c.said) {
		r.Owned, r.SaysOwned = c.owned, true
	}
	c.beating, c.sent, c.saw = w.ticket, c.owned, c.epoch
	w.waiting[w.ticket] = c
	w.take(w.g.Beat(r, w.topics, w.now))
}

// settle lets a client do what it was told: give up first, then take.
func (w *consumerWorld) settleOne(*rapid.T) {
	if c := w.client(); !c.classic {
		c.owned = c.told
	}
}

func (w *consumerWorld) giveUp(*rapid.T) {
	if c := w.client(); !c.classic {
		c.owned = c.owned.And(c.told)
	}
}

func (w *consumerWorld) leave(*rapid.T) {
	c := w.client()
	if c.beating != 0 || !c.joined {
		return
	}
	if c.classic {
		w.ticket++
		rs := []LeaveRequest{{MemberID: c.id}}
		c.reset()
		if w.g.consumers == nil {
			_, fx := w.g.Leave(rs, w.now)
			w.take(fx)
		} else {
			_, fx := w.g.LeaveConsumers(w.ticket, rs, w.now)
			w.take(fx)
		}
		return
	}
	c.reset()
	w.ticket++
	r := &BeatRequest{Ticket: w.ticket, MemberID: c.id, Epoch: leaves, Instance: c.instance, Rebalance: -1}
	if c.instance != "" && rapid.Bool().Draw(w.t, "for later") {
		r.Epoch = stepsAway
	}
	c.beating = w.ticket
	w.waiting[w.ticket] = c
	w.take(w.g.Beat(r, w.topics, w.now))
}

// reset is a client that has nothing any more and joins again; a process that
// starts anew has a new id.
func (c *consumerClient) reset() {
	c.epoch, c.joined, c.full = 0, false, false
	c.told, c.owned, c.said = nil, nil, nil
	c.joining, c.synced, c.again, c.leads = false, false, false, nil
	if c.classic {
		c.id = ""
	}
}

// classicStep is the next request of a client of the classic protocol.
func (w *consumerWorld) classicStep(c *consumerClient) {
	w.ticket++
	switch {
	case !c.joined || c.again:
		if c.eager {
			c.owned = nil
		}
		w.ids++
		c.joining, c.synced, c.again = true, false, false
		r := &JoinRequest{
			Ticket: w.ticket, MemberID: c.id, NewMemberID: fmt.Sprint("k", w.ids), Session: 10 * time.Second, Rebalance: 20 * time.Second,
			ProtocolType: "consumer", Protocols: []Protocol{{"p", subscribeOwning(c.owned, w.topics, "t0", "t1")}}, Topics: w.topics,
		}
		c.beating = w.ticket
		w.waiting[w.ticket] = c
		w.take(w.g.Join(r, w.now))
	case !c.synced:
		r := &SyncRequest{Ticket: w.ticket, MemberID: c.id, Generation: c.epoch, Assignments: w.assignments(c), Topics: w.topics}
		c.beating = w.ticket
		w.waiting[w.ticket] = c
		w.take(w.g.Sync(r, w.now))
	case w.g.consumers == nil:
		w.refused(c, w.g.Heartbeat(c.id, "", c.epoch, w.now))
	default:
		c.beating = w.ticket
		w.waiting[w.ticket] = c
		w.take(w.g.HeartbeatConsumers(w.ticket, c.id, "", c.epoch, w.topics, w.now))
	}
}

// assignments are a leader's: who has a partition keeps it, the rest goes to the leader.
func (w *consumerWorld) assignments(c *consumerClient) map[string][]byte {
	if len(c.leads) == 0 {
		return nil
	}
	sets, taken := map[string]assign.Set{}, assign.Set{}
	for _, m := range c.leads {
		_, owned, _ := readSubscription(m.Metadata, w.topics)
		sets[m.ID] = owned.Minus(taken)
		taken = taken.Or(owned)
	}
	var all []assign.Partition
	for i := range 2 {
		for index := range int32(w.parts[i]) {
			all = append(all, assign.Partition{Topic: assign.TopicID{byte(i + 1)}, Index: index})
		}
	}
	sets[c.id] = sets[c.id].Or(assign.NewSet(all).Minus(taken))
	as := map[string][]byte{}
	for id, set := range sets {
		as[id] = writeAssignment([]byte{0, 1}, set, w.topics)
	}
	return as
}

// subscribeOwning is a subscription of version 1.
func subscribeOwning(owned assign.Set, topics *Topics, names ...string) []byte {
	return append(subscribe(names...), writeAssignment(nil, owned, topics)[2:]...)
}

func (w *consumerWorld) refused(c *consumerClient, f Fault) {
	c.joining = false
	switch f {
	case OK:
	case UnknownMember, FencedInstance:
		c.reset()
	case IllegalGeneration:
		id := c.id
		c.reset() // it has lost what it had
		c.id = id
	case RebalanceInProgress:
		c.again = true
	case NotAvailable:
	case TooManyMembers, MemberIDRequired:
	default:
		w.t.Fatalf("refused: %v", f)
	}
}

// classicTold is an answer to a client of the classic protocol.
func (w *consumerWorld) classicTold(c *consumerClient, a *Answer) {
	switch {
	case a.Fault != OK:
		w.refused(c, a.Fault)
	case c.joining:
		c.joining, c.joined = false, true
		c.id, c.epoch, c.leads = a.MemberID, a.Generation, a.Members
	case !c.synced:
		c.synced = true
		c.told, _ = readAssignment(a.Assignment, w.topics)
		if w.g.consumers != nil && w.g.consumers.members[c.id] != nil {
			if r := w.table[recordKey{CurrentRecord, c.id}]; r.Epoch != a.Generation || !c.told.Within(r.Partitions) {
				w.t.Fatalf("%s syncs in epoch %d and gets %v, stored is %+v", c.id, a.Generation, c.told, r)
			}
		}
		c.again = !c.owned.Within(c.told) // gives up, and joins again
		c.owned = c.told
	}
}

func (w *consumerWorld) dies(*rapid.T) {
	c := w.client()
	if c.beating != 0 {
		delete(w.waiting, c.beating)
		c.beating = 0
	}
	w.zombies = append(w.zombies, *c)
	c.reset()
	w.ids++
	c.id = fmt.Sprint("c", len(w.clients)+w.ids)
}

// lost is an answer that does not arrive.
func (w *consumerWorld) lost(*rapid.T) {
	if c := w.client(); c.beating != 0 {
		delete(w.waiting, c.beating)
		c.beating, c.full = 0, true
		if c.joining {
			c.joining, c.again = false, c.joined
		}
	}
}

func (w *consumerWorld) grow(*rapid.T) {
	if i := rapid.IntRange(0, 2).Draw(w.t, "topic"); i < len(w.parts) {
		w.parts[i] = min(w.parts[i]+1, 5)
	} else {
		w.parts = append(w.parts, 1)
	}
	w.moveTopics()
}

func (w *consumerWorld) tick(*rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 12_000).Draw(w.t, "ms")) * time.Millisecond)
	w.advance()
}

func (w *consumerWorld) advance() {
	w.take(w.g.Tick(w.now))
	if next := w.g.Next(); !next.IsZero() && !next.After(w.now) {
		w.t.Fatalf("tick at %v wants to be called again at %v", w.now, next)
	}
}

func (w *consumerWorld) decides(*rapid.T) { w.decide(rapid.IntRange(0, 5).Draw(w.t, "fails") > 0) }

func (w *consumerWorld) decide(ok bool) {
	for _, b := range w.batches {
		if b.decided {
			continue
		}
		b.decided, b.ok = true, ok
		for _, r := range b.Records {
			if ok || rapid.Bool().Draw(w.t, "part") {
				w.keep(b, r)
			}
		}
		return
	}
}

func (w *consumerWorld) keep(b *putBatch, r Record) {
	if b.store {
		w.classic = b.snapshot
	} else if r.Kind == ClassicRecord {
		w.classic = nil
	}
	key := recordKey{r.Kind, r.Member}
	if r.Gone {
		delete(w.table, key)
	} else {
		w.table[key] = r
	}
}

func (w *consumerWorld) reports(*rapid.T) {
	if n := len(w.batches); n > 0 {
		w.report(rapid.IntRange(0, n-1).Draw(w.t, "which"))
	}
}

func (w *consumerWorld) report(i int) {
	b := w.batches[i]
	if !b.decided {
		return
	}
	w.batches = slices.Delete(w.batches, i, i+1)
	w.take(w.g.Stored(b.Seq, b.ok, w.now))
}

// restart: some of what was on its way is stored, nobody who waits is answered.
func (w *consumerWorld) restart(*rapid.T) {
	n := rapid.IntRange(0, len(w.batches)).Draw(w.t, "stored")
	for i, b := range w.batches {
		if !b.decided && i < n {
			w.decide(true)
		} else if i == n && !b.decided {
			for _, r := range b.Records[:rapid.IntRange(0, len(b.Records)).Draw(w.t, "records")] {
				w.keep(b, r)
			}
		}
	}
	w.batches = nil
	for _, c := range w.waiting {
		c.beating, c.full = 0, true
		if c.joining {
			c.joining, c.again = false, c.joined
		}
	}
	clear(w.waiting)
	w.version++
	w.moveTopics()
	if w.classic != nil {
		classic := w.table[recordKey{ClassicRecord, ""}]
		clear(w.table) // as the shell does with what is left of the other protocol
		w.table[recordKey{ClassicRecord, ""}] = classic
		w.g = Restore("g", &w.cfg, w.classic, w.now)
		return
	}
	if len(w.table) == 0 {
		w.g = New("g", &w.cfg, w.now)
		return
	}
	w.g = RestoreConsumers("g", &w.cfg, w.snapshot(), w.now)
}

func (w *consumerWorld) snapshot() *ConsumersSnapshot {
	s := &ConsumersSnapshot{Members: map[string]*ConsumerSnapshot{}}
	for key, r := range w.table {
		m := s.Members[key.member]
		if m == nil && key.member != "" {
			m = &ConsumerSnapshot{}
			s.Members[key.member] = m
		}
		switch key.kind {
		case EpochRecord:
			s.Epoch = r.Epoch
		case TargetEpochRecord:
			s.TargetEpoch = r.Epoch
		case MemberRecord:
			m.Info = r.Info
		case TargetRecord:
			m.Target = r.Partitions
		case CurrentRecord:
			m.Current, m.Epoch, m.Seen, m.Assigned, m.Revoking = true, r.Epoch, r.Seen, r.Partitions, r.Revoking
		}
	}
	return s
}

func (w *consumerWorld) take(fx Effects) {
	for _, st := range fx.Stores {
		b := &putBatch{Batch: Batch{Seq: st.Seq}, snapshot: st.Snapshot, store: true}
		b.Records = []Record{{Kind: ClassicRecord, Gone: st.Snapshot == nil}}
		w.batches = append(w.batches, b)
	}
	for _, b := range fx.Batches {
		w.batches = append(w.batches, &putBatch{Batch: b})
	}
	for i := range fx.Answers {
		a := &fx.Answers[i]
		c := w.waiting[a.Ticket]
		if c == nil {
			continue // nobody listens any more
		}
		delete(w.waiting, a.Ticket)
		c.beating = 0
		if c.classic {
			w.classicTold(c, a)
			continue
		}
		switch a.Fault {
		case OK:
			w.told(c, a)
		case UnknownMember, FencedEpoch, FencedInstance:
			c.reset()
		case NotAvailable:
			c.full = c.joined
		case UnreleasedInstance, TooManyMembers:
		default:
			w.t.Fatalf("refused: %v", a.Fault)
		}
	}
	if w.g.Gone() {
		w.g = New("g", &w.cfg, w.now)
	}
}

// told checks D11: what a member is told is what the table has.
func (w *consumerWorld) told(c *consumerClient, a *Answer) {
	if a.Generation <= 0 {
		return
	}
	if w.classic != nil {
		w.t.Fatalf("%s is told epoch %d, and the table has a group of the classic protocol", c.id, a.Generation)
	}
	if m := w.g.consumers.members[c.id]; m != nil {
		r, ok := w.table[recordKey{CurrentRecord, c.id}]
		if !ok || r.Epoch != a.Generation || a.Assigns && !r.Partitions.Equal(a.Assigned) || w.table[recordKey{MemberRecord, c.id}].Info == nil {
			w.t.Fatalf("%s is told epoch %d and %v, stored is %+v", c.id, a.Generation, a.Assigned, r)
		}
	}
	c.epoch, c.joined, c.full, c.said = a.Generation, true, false, c.sent
	if a.Assigns {
		c.told = a.Assigned
	} else if a.Generation != c.saw && !a.Assigned.Equal(nil) {
		w.t.Fatalf("%s comes to epoch %d and hears of no partitions", c.id, a.Generation)
	}
}

// check: no partition is in the hands of two that the group knows.
func (w *consumerWorld) check(*rapid.T) {
	if err := w.g.Check(); err != nil {
		w.t.Fatal(err)
	}
	if w.g.consumers == nil {
		return
	}
	has := map[assign.Partition]string{}
	for _, c := range w.clients {
		if w.g.consumers.members[c.id] == nil || !c.joined || c.id == "" {
			continue
		}
		for _, p := range c.owned {
			if has[p] != "" {
				w.t.Fatalf("%s and %s both have %v", has[p], c.id, p)
			}
			has[p] = c.id
		}
	}
	for _, c := range w.zombies {
		w.checkCommits(&c, has)
	}
	for _, c := range w.clients {
		w.checkCommits(c, has)
	}
}

// checkCommits: what a client may commit, however late, nobody else has read on in.
func (w *consumerWorld) checkCommits(c *consumerClient, has map[assign.Partition]string) {
	if !c.joined {
		return
	}
	for _, p := range c.owned {
		r := CommitRequest{MemberID: c.id, Generation: c.epoch, KnowsEpochs: true}
		if w.g.MayCommit(r, w.now) == OK && w.g.MayCommitAt(r, p) == OK && has[p] != "" && has[p] != c.id {
			w.t.Fatalf("%s may commit %v in epoch %d, which %s has", c.id, p, c.epoch, has[p])
		}
	}
}

func (w *consumerWorld) flushTable() {
	for len(w.batches) > 0 {
		w.decide(true)
		w.report(0)
	}
}

// settle: clients that go on beating share all partitions in the end.
func (w *consumerWorld) settle() {
	w.clients = slices.Delete(w.clients, 3, 4) // of two under one instance id one may be refused for ever
	classic := len(w.clients) > 3 && rapid.Bool().Draw(w.t, "classic alone")
	if classic {
		w.clients = w.clients[3:]
	}
	for range 60 {
		w.now = w.now.Add(2 * time.Second)
		w.advance()
		w.flushTable()
		for _, c := range w.clients {
			w.beatOf(c)
			w.flushTable()
			if !c.classic {
				c.owned = c.told
			}
		}
		w.check(nil)
	}
	if w.g.State() != Stable || w.g.Members() != len(w.clients) || w.g.OfConsumers() == classic {
		w.t.Fatalf("%v with %d members, of consumers: %v", w.g.State(), w.g.Members(), w.g.OfConsumers())
	}
	total := 0
	for _, n := range w.parts {
		total += int(n)
	}
	for _, c := range w.clients {
		total -= len(c.owned)
	}
	if total > 0 && !classic { // a classic group hears of new partitions from its clients
		w.t.Fatalf("%d partitions are not read", total)
	}
	epoch := w.g.Generation()
	w.beatOf(w.clients[0])
	if len(w.batches) > 0 || w.g.Generation() != epoch {
		w.t.Fatalf("a beat of a settled group stores %+v", w.batches)
	}
	w.now = w.now.Add(w.cfg.ConsumerSession)
	w.advance()
	w.flushTable()
	if w.g.State() != Empty || !w.g.Next().IsZero() {
		w.t.Fatalf("silence leaves %v, next %v", w.g.State(), w.g.Next())
	}
	for key := range w.table {
		if key.member != "" {
			w.t.Fatalf("an entry of %q is left", key.member)
		}
	}
}

// TestConsumerModel plays random clients of the consumer protocol, of which some die, lose answers or share an instance
// id, and some of the classic protocol beside them. After every step the group passes Check; nobody is told what is not stored; no two members have the
// same partition, whatever of the steps a restart brings back; and clients that go on come to share all of them.
func TestConsumerModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newConsumerWorld(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"beat": w.beat, "beat again": w.beat, "and again": w.beat, "settle": w.settleOne, "settle again": w.settleOne,
			"give up": w.giveUp, "leave": w.leave, "die": w.dies, "lose": w.lost, "grow": w.grow,
			"decide": w.decides, "decide again": w.decides, "report": w.reports, "report again": w.reports, "and more": w.reports,
			"tick": w.tick, "restart": w.restart, "": w.check,
		})
		w.settle()
	})
}
