package group

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// bench is a group of the consumer protocol whose table answers at once, unless told otherwise.
type bench struct {
	t       *testing.T
	cfg     Config
	g       *Group
	now     time.Time
	topics  *Topics
	ticket  Ticket
	held    bool
	full    bool // no member may grow
	batches []Batch
	answers map[Ticket]Answer
}

func newBench(t *testing.T, cfg Config) *bench {
	b := &bench{t: t, cfg: cfg.Defaults(), now: time.Unix(1_900_000_000, 0), answers: map[Ticket]Answer{}}
	b.g = New("g", &b.cfg, b.now)
	b.setTopics("t=4", "u=2", "_in=1")
	return b
}

// setTopics names topics and their partitions; those that begin with _ are internal.
func (b *bench) setTopics(specs ...string) {
	var topics []*Topic
	for i, spec := range specs {
		name, count, _ := strings.Cut(spec, "=")
		topic := &Topic{Name: name, Internal: name[0] == '_', Topic: assign.Topic{ID: assign.TopicID{byte(i + 1)}}}
		fmt.Sscan(count, &topic.Partitions)
		topics = append(topics, topic)
	}
	version := uint64(1)
	if b.topics != nil {
		version += b.topics.version
	}
	b.topics = NewTopics(version, topics)
}

func (b *bench) take(fx Effects) {
	b.t.Helper()
	b.batches = append(b.batches, fx.Batches...)
	for _, a := range fx.Answers {
		b.answers[a.Ticket] = a
	}
	if !b.held {
		b.stored(true)
	}
	if err := b.g.Check(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) stored(ok bool) {
	b.t.Helper()
	for len(b.batches) > 0 {
		batch := b.batches[0]
		b.batches = b.batches[1:]
		fx := b.g.Stored(batch.Seq, ok, b.now)
		b.batches = append(b.batches, fx.Batches...)
		for _, a := range fx.Answers {
			b.answers[a.Ticket] = a
		}
	}
}

func (b *bench) beat(r BeatRequest) Answer {
	b.t.Helper()
	b.ticket++
	r.Ticket, r.MayGrow = b.ticket, !b.full
	if r.Epoch != 0 && r.Rebalance == 0 {
		r.Rebalance = -1
	}
	b.take(b.g.Beat(&r, b.topics, b.now))
	return b.answers[r.Ticket]
}

// join is the request of a member that reads t, or what is given.
func join(id string, topics ...string) BeatRequest {
	if topics == nil {
		topics = []string{"t"}
	}
	return BeatRequest{MemberID: id, Topics: topics, Rebalance: 30 * time.Second, SaysOwned: true}
}

func (b *bench) want(a Answer, f Fault) Answer {
	b.t.Helper()
	if a.Fault != f || a.Ticket == 0 {
		b.t.Fatalf("%+v, want %v", a, f)
	}
	return a
}

func (b *bench) tick(d time.Duration) {
	b.t.Helper()
	b.now = b.now.Add(d)
	b.take(b.g.Tick(b.now))
}

func owned(a Answer) BeatRequest {
	return BeatRequest{MemberID: a.MemberID, Epoch: a.Generation, Owned: a.Assigned, SaysOwned: true}
}

func TestConsumersHandOver(t *testing.T) {
	b := newBench(t, Config{})
	a := b.want(b.beat(join("a")), OK)
	if a.Generation != 1 || len(a.Assigned) != 4 || a.Interval != b.cfg.ConsumerHeartbeat {
		t.Fatalf("%+v", a)
	}
	c := b.want(b.beat(join("c")), OK)
	if c.Generation != 2 || len(c.Assigned) != 0 || c.Interval >= b.cfg.ConsumerHeartbeat || b.g.State() != Reconciling {
		t.Fatalf("%+v in %v", c, b.g.State())
	}
	a2 := b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 1}), OK)
	if a2.Generation != 1 || len(a2.Assigned) != 2 || !a2.Assigns {
		t.Fatalf("told to give up by %+v", a2)
	}
	// It still has all four: nothing is free.
	if again := b.want(b.beat(owned(a)), OK); again.Assigns || again.Generation != 1 {
		t.Fatalf("%+v", again)
	}
	if c := b.want(b.beat(BeatRequest{MemberID: "c", Epoch: 2}), OK); c.Assigns {
		t.Fatalf("given what another still has: %+v", c)
	}
	r := owned(a2)
	a3 := b.want(b.beat(r), OK)
	if a3.Generation != 2 {
		t.Fatalf("%+v", a3)
	}
	c2 := b.want(b.beat(BeatRequest{MemberID: "c", Epoch: 2}), OK)
	if len(c2.Assigned) != 2 || len(c2.Assigned.And(a2.Assigned)) > 0 || b.g.State() != Stable {
		t.Fatalf("%+v in %v", c2, b.g.State())
	}
	b.want(b.beat(BeatRequest{MemberID: "c", Epoch: leaves}), OK)
	if a := b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 2}), OK); a.Generation != 3 || len(a.Assigned) != 4 {
		t.Fatalf("after the other left: %+v", a)
	}
}

func TestConsumersAreFenced(t *testing.T) {
	b := newBench(t, Config{})
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 3}), UnknownMember)
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: leaves}), UnknownMember)
	if !b.g.Gone() {
		t.Fatal("refused requests leave a group")
	}
	a := b.want(b.beat(join("a")), OK)
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 2}), FencedEpoch)
	b.want(b.beat(BeatRequest{MemberID: "nobody", Epoch: 1}), UnknownMember)
	b.want(b.beat(BeatRequest{MemberID: "nobody", Epoch: leaves}), UnknownMember)
	b.setTopics("t=5")
	a2 := b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 1}), OK)
	if a2.Generation != 2 || len(a2.Assigned) != 5 {
		t.Fatalf("%+v", a2)
	}
	// That answer was lost: the client comes with what it had.
	if again := b.want(b.beat(owned(a)), OK); again.Generation != 2 || !again.Assigns {
		t.Fatalf("%+v", again)
	}
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 2}), OK)
	b.want(b.beat(owned(a)), FencedEpoch) // an old request, after it has shown to be further
	tooMuch := owned(a2)
	tooMuch.Epoch = 1
	tooMuch.Owned = assign.NewSet([]assign.Partition{{Topic: assign.TopicID{9}}})
	b.want(b.beat(tooMuch), FencedEpoch)
	if a := b.want(b.beat(join("a")), OK); a.Generation != 2 || len(a.Assigned) != 5 {
		t.Fatalf("joins again: %+v", a)
	}
}

func TestStaticConsumers(t *testing.T) {
	b := newBench(t, Config{})
	static := func(id, instance string) BeatRequest {
		r := join(id)
		r.Instance = instance
		return r
	}
	one := b.want(b.beat(static("one", "i")), OK)
	b.want(b.beat(static("two", "i")), UnreleasedInstance)
	b.want(b.beat(BeatRequest{MemberID: "two", Instance: "i", Epoch: 1}), FencedInstance)
	b.want(b.beat(BeatRequest{MemberID: "two", Instance: "j", Epoch: 1}), UnknownMember)
	b.want(b.beat(BeatRequest{MemberID: "two", Instance: "i", Epoch: leaves}), FencedInstance)
	b.want(b.beat(BeatRequest{MemberID: "two", Instance: "j", Epoch: leaves}), UnknownMember)
	other := b.want(b.beat(join("other")), OK)
	b.want(b.beat(BeatRequest{MemberID: "one", Instance: "i", Epoch: stepsAway}), OK)
	b.want(b.beat(BeatRequest{MemberID: "one", Epoch: one.Generation}), FencedEpoch)
	two := b.want(b.beat(static("two", "i")), OK)
	if two.Generation != other.Generation || len(two.Assigned) != 2 {
		t.Fatalf("the one that takes the place: %+v, epoch before %d", two, other.Generation)
	}
	b.want(b.beat(BeatRequest{MemberID: "one", Instance: "i", Epoch: 1}), FencedInstance)
	if o := b.want(b.beat(BeatRequest{MemberID: "other", Epoch: other.Generation}), OK); o.Generation != other.Generation || len(o.Assigned) != 2 {
		t.Fatalf("the other: %+v", o)
	}
	again := b.want(b.beat(static("two", "i")), OK) // the process did not end, but was fenced
	if len(again.Assigned) != 2 {
		t.Fatalf("%+v", again)
	}
	b.want(b.beat(BeatRequest{MemberID: "two", Instance: "i", Epoch: stepsAway}), OK)
	for range 20 { // its place is kept for one session
		b.tick(2 * time.Second)
		b.want(b.beat(BeatRequest{MemberID: "other", Epoch: other.Generation}), OK)
	}
	b.tick(6 * time.Second)
	if o := b.want(b.beat(BeatRequest{MemberID: "other", Epoch: other.Generation}), OK); len(o.Assigned) != 4 {
		t.Fatalf("after the session of the one away: %+v", o)
	}
}

func TestConsumerThatGivesUpNothingIsDropped(t *testing.T) {
	b := newBench(t, Config{})
	a := b.want(b.beat(join("a")), OK)
	b.want(b.beat(join("c")), OK)
	for range 30 {
		b.want(b.beat(owned(a)), OK)
		b.want(b.beat(BeatRequest{MemberID: "c", Epoch: 2}), OK)
		b.tick(time.Second)
	}
	b.want(b.beat(owned(a)), UnknownMember)
	if c := b.want(b.beat(BeatRequest{MemberID: "c", Epoch: 2}), OK); len(c.Assigned) != 4 {
		t.Fatalf("%+v", c)
	}
	b.tick(b.cfg.ConsumerSession)
	if b.g.State() != Empty || b.g.Members() != 0 {
		t.Fatalf("%v after silence", b.g.State())
	}
}

// A group's own pace holds from the next heartbeat on, and what it leaves out is as for all groups.
func TestConsumersOfAnotherPace(t *testing.T) {
	b := newBench(t, Config{})
	r := join("a")
	r.Pace = Pace{Session: 10 * time.Second}
	a := b.want(b.beat(r), OK)
	if a.Interval != b.cfg.ConsumerHeartbeat {
		t.Errorf("interval %v", a.Interval)
	}
	b.tick(10 * time.Second)
	if b.g.State() != Empty {
		t.Errorf("%v after a silence of the group's own session", b.g.State())
	}
	r.Pace = Pace{Heartbeat: 20 * time.Second}
	if a := b.want(b.beat(r), OK); a.Interval != 20*time.Second {
		t.Errorf("interval %v", a.Interval)
	}
	b.tick(b.cfg.ConsumerSession - time.Second)
	if b.g.State() == Empty {
		t.Error("out before the session of all groups is over")
	}
}

func TestConsumersOfPatterns(t *testing.T) {
	b := newBench(t, Config{})
	pattern := func(id, pattern string) BeatRequest {
		r := join(id)
		r.Topics, r.Pattern = []string{}, &pattern
		return r
	}
	for _, bad := range []string{"(", strings.Repeat("x", maxPatternBytes+1), "(?:(?:x{40}){40}){2}", "a{900}b{900}c{900}"} {
		b.want(b.beat(pattern("a", bad)), InvalidPattern)
	}
	if !b.g.Gone() {
		t.Fatal("refused requests leave a group")
	}
	if a := b.want(b.beat(pattern("a", "t|u|_in")), OK); len(a.Assigned) != 6 {
		t.Fatalf("%+v", a)
	}
	b.setTopics("t=4", "u=2", "_in=1", "tt=3", "v=3")
	if a := b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 1}), OK); a.Generation != 1 {
		t.Fatalf("a part of the name is enough: %+v", a)
	}
	wider := pattern("a", "t+|u")
	wider.Epoch = 1
	if a := b.want(b.beat(wider), OK); a.Generation != 2 || len(a.Assigned) != 9 {
		t.Fatalf("%+v", a)
	}
	if f := b.g.MayForget("tt"); f != Subscribed {
		t.Fatalf("forget a topic that a pattern matches: %v", f)
	}
	if f := b.g.MayForget("v"); f != OK {
		t.Fatalf("forget another: %v", f)
	}
	none := pattern("a", "")
	none.Epoch = 2
	if a := b.want(b.beat(none), OK); a.Generation != 2 || len(a.Assigned) != 0 { // it has them all to give up
		t.Fatalf("%+v", a)
	}
}

func TestConsumerLimits(t *testing.T) {
	b := newBench(t, Config{MaxMembers: 2, MaxGroupBytes: 500})
	r := join("a")
	r.Assignor = "made up"
	b.want(b.beat(r), UnsupportedAssignor)
	b.want(b.beat(join("a", strings.Repeat("x", 500))), TooLarge)
	if !b.g.Gone() {
		t.Fatal("refused requests leave a group")
	}
	b.want(b.beat(join("a")), OK)
	big := join("a", strings.Repeat("x", 500))
	big.Epoch = 1
	b.want(b.beat(big), TooLarge)
	b.want(b.beat(join("b")), OK)
	b.want(b.beat(join("c")), TooManyMembers)
	b.full = true
	b.want(b.beat(join("b")), OK)
	b.want(b.beat(join("a", "t", "u")), TooLarge)
	b.want(b.beat(BeatRequest{MemberID: "b", Epoch: leaves}), OK)
	b.want(b.beat(join("c")), TooLarge)
}

func TestConsumersChooseTheAssignor(t *testing.T) {
	b := newBench(t, Config{})
	by := func(id, name string) BeatRequest {
		r := join(id, "t", "u")
		r.Assignor = name
		return r
	}
	b.want(b.beat(by("a", assign.RangeName)), OK)
	b.want(b.beat(by("c", "")), OK)
	if d := b.g.DescribeConsumers(); d.Assignor != assign.RangeName {
		t.Fatalf("%s, one asks for range and one for none", d.Assignor)
	}
	b.want(b.beat(by("d", assign.UniformName)), OK)
	if d := b.g.DescribeConsumers(); d.Assignor != assign.UniformName {
		t.Fatalf("%s, one asks for each", d.Assignor)
	}
}

func TestConsumersCommitInTheirEpoch(t *testing.T) {
	b := newBench(t, Config{})
	b.want(b.beat(join("a")), OK)
	for _, c := range []struct {
		r    CommitRequest
		want Fault
	}{
		{CommitRequest{MemberID: "a", Generation: 1, KnowsEpochs: true}, OK},
		{CommitRequest{MemberID: "a", Generation: 1}, NotForMembers},
		{CommitRequest{MemberID: "a", Generation: 0, KnowsEpochs: true}, OK}, // but see MayCommitAt
		{CommitRequest{MemberID: "a", Generation: 2, KnowsEpochs: true}, StaleEpoch},
		{CommitRequest{MemberID: "b", Generation: 1, KnowsEpochs: true}, UnknownMember},
		{CommitRequest{Generation: -1}, UnknownMember},
	} {
		if f := b.g.MayCommit(c.r, b.now); f != c.want {
			t.Errorf("commit %+v: %v", c.r, f)
		}
	}
	for _, c := range []struct {
		id    string
		epoch int32
		want  Fault
	}{{"a", 1, OK}, {"", -1, OK}, {"a", 0, StaleEpoch}, {"b", 1, UnknownMember}} {
		if f := b.g.MayFetch(c.id, c.epoch); f != c.want {
			t.Errorf("fetch as %q in %d: %v", c.id, c.epoch, f)
		}
	}
	b.setTopics("t=5")
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 1}), OK)
	at := func(epoch, index int32) Fault {
		return b.g.MayCommitAt(CommitRequest{MemberID: "a", Generation: epoch}, assign.Partition{Topic: assign.TopicID{1}, Index: index})
	}
	for _, c := range []struct {
		epoch, index int32
		want         Fault
	}{{2, 0, OK}, {2, 4, OK}, {1, 0, OK}, {1, 4, StaleEpoch}, {0, 0, StaleEpoch}, {3, 0, StaleEpoch}, {1, 9, StaleEpoch}} {
		if f := at(c.epoch, c.index); f != c.want {
			t.Errorf("commit of %d in epoch %d: %v", c.index, c.epoch, f)
		}
	}
	b.tick(b.cfg.ConsumerSession)
	if f := b.g.MayCommit(CommitRequest{Generation: -1}, b.now); f != OK {
		t.Errorf("commit into an empty group: %v", f)
	}
}

// Whatever could not be stored is put again as a whole, and until then nobody is answered.
func TestConsumersThatCannotBeStored(t *testing.T) {
	b := newBench(t, Config{})
	b.want(b.beat(join("a")), OK)
	b.held = true
	if c := b.beat(join("c")); c.Ticket != 0 {
		t.Fatalf("answered before the table was: %+v", c)
	}
	joined := b.ticket
	if a := b.beat(BeatRequest{MemberID: "a", Epoch: 1}); a.Ticket != 0 {
		t.Fatalf("answered of what is not stored: %+v", a)
	}
	b.stored(false)
	b.want(b.answers[joined], NotAvailable)
	b.want(b.answers[b.ticket], NotAvailable)
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: 1}), NotAvailable)
	if len(b.batches) > 0 {
		t.Fatalf("%d batches at once", len(b.batches))
	}
	b.tick(retryStore)
	kinds := map[RecordKind]int{}
	for _, r := range b.batches[0].Records {
		kinds[r.Kind]++
	}
	if len(b.batches) != 1 || kinds[MemberRecord] != 2 || kinds[TargetRecord] != 2 || kinds[CurrentRecord] != 2 || kinds[EpochRecord] != 1 || kinds[TargetEpochRecord] != 1 {
		t.Fatalf("put again: %v", kinds)
	}
	b.held = false
	b.take(Effects{})
	full := join("a")
	full.Epoch = 1
	b.want(b.beat(full), OK)

	// A table that is slow does not end a session.
	b.held = true
	b.setTopics("t=5")
	b.beat(BeatRequest{MemberID: "a", Epoch: 2})
	b.tick(2 * b.cfg.ConsumerSession)
	if b.g.consumers.members["a"] == nil || b.g.consumers.members["c"] != nil {
		t.Fatal("the one that waits is dropped, or the one that does not is not")
	}
	b.stored(true)
	b.want(b.answers[b.ticket], OK)
}

// classic joins as a member of the classic protocol that has what is given.
func (b *bench) classic(id, instance string, owned assign.Set) Answer {
	b.t.Helper()
	b.ticket++
	fx := b.g.Join(&JoinRequest{
		Ticket: b.ticket, MemberID: id, Instance: instance, NewMemberID: fmt.Sprint("k", b.ticket), Session: 10 * time.Second, Rebalance: 30 * time.Second,
		ProtocolType: "consumer", Protocols: []Protocol{{"range", subscribeOwning(owned, b.topics, "t")}}, Topics: b.topics,
	}, b.now)
	ticket := b.ticket
	b.take(fx)
	for _, st := range fx.Stores {
		b.take(b.g.Stored(st.Seq, true, b.now))
	}
	return b.answers[ticket]
}

// sync gives, if anything is assigned, that to the member itself, and returns what it got.
func (b *bench) sync(a Answer, assigned assign.Set) (assign.Set, Answer) {
	b.t.Helper()
	b.ticket++
	r := &SyncRequest{Ticket: b.ticket, MemberID: a.MemberID, Generation: a.Generation, ProtocolType: "consumer", Protocol: "range", Topics: b.topics}
	if assigned != nil {
		r.Assignments = map[string][]byte{a.MemberID: writeAssignment([]byte{0, 1}, assigned, b.topics)}
	}
	fx := b.g.Sync(r, b.now)
	b.take(fx)
	for _, st := range fx.Stores {
		b.take(b.g.Stored(st.Seq, true, b.now))
	}
	got := b.answers[r.Ticket]
	set, _ := readAssignment(got.Assignment, b.topics)
	return set, got
}

func (b *bench) heartbeat(a Answer) Fault {
	b.t.Helper()
	b.ticket++
	b.take(b.g.HeartbeatConsumers(b.ticket, a.MemberID, "", a.Generation, b.topics, b.now))
	return b.answers[b.ticket].Fault
}

func all(n int32) assign.Set {
	var ps []assign.Partition
	for i := range n {
		ps = append(ps, assign.Partition{Topic: assign.TopicID{1}, Index: i})
	}
	return ps
}

func TestGroupsWithoutMembersChangeTheirProtocol(t *testing.T) {
	b := newBench(t, Config{InitialRebalanceDelay: -1})
	k := b.want(b.classic("", "", nil), OK)
	_, fx := b.g.Leave([]LeaveRequest{{MemberID: k.MemberID}}, b.now)
	for _, st := range fx.Stores {
		b.g.Stored(st.Seq, true, b.now)
	}
	a := b.want(b.beat(join("a")), OK)
	if a.Generation <= k.Generation || !b.g.OfConsumers() {
		t.Fatalf("epoch %d after generation %d", a.Generation, k.Generation)
	}
	b.held = true
	b.beat(BeatRequest{MemberID: "a", Epoch: leaves})
	b.want(b.classic("", "", nil), NotAvailable) // the table does not know yet that it is empty
	b.held = false
	b.stored(true)
	again := b.want(b.classic("", "", nil), OK)
	if again.Generation <= a.Generation || b.g.OfConsumers() {
		t.Fatalf("generation %d after epoch %d", again.Generation, a.Generation)
	}
}

// A live group changes its protocol: the member that is there keeps what it has until it has given it up.
func TestLiveGroupChangesItsProtocol(t *testing.T) {
	b := newBench(t, Config{InitialRebalanceDelay: -1})
	k := b.want(b.classic("", "", nil), OK)
	if got, _ := b.sync(k, all(4)); len(got) != 4 {
		t.Fatalf("assigned %v", got)
	}
	b.held = true
	a := join("a")
	b.beat(a)
	if last := b.batches[0].Records[len(b.batches[0].Records)-1]; last.Kind != ClassicRecord || !last.Gone {
		t.Fatalf("put last: %+v", last)
	}
	b.held = false
	b.stored(true)
	first := b.want(b.answers[b.ticket], OK)
	if first.Generation != k.Generation+1 || len(first.Assigned) != 0 {
		t.Fatalf("%+v", first)
	}
	if f := b.g.MayCommit(CommitRequest{MemberID: k.MemberID, Generation: k.Generation}, b.now); f != OK {
		t.Fatalf("commit before it joins again: %v", f)
	}
	if f := b.heartbeat(k); f != RebalanceInProgress {
		t.Fatalf("heartbeat: %v", f)
	}
	if _, answer := b.sync(k, nil); answer.Fault != RebalanceInProgress {
		t.Fatalf("sync: %v", answer.Fault)
	}
	k2 := b.want(b.classic(k.MemberID, "", all(4)), OK) // a cooperative one: it keeps what it has
	if k2.Generation != k.Generation || k2.Leader != "" {
		t.Fatalf("%+v", k2)
	}
	kept, _ := b.sync(k2, nil)
	if len(kept) != 2 {
		t.Fatalf("keeps %v", kept)
	}
	if a := b.want(b.beat(BeatRequest{MemberID: "a", Epoch: first.Generation}), OK); len(a.Assigned) != 0 {
		t.Fatalf("given what another has: %+v", a)
	}
	if f := b.heartbeat(k2); f != RebalanceInProgress {
		t.Fatalf("heartbeat of one that has to give up: %v", f)
	}
	k3 := b.want(b.classic(k.MemberID, "", kept), OK)
	if k3.Generation != first.Generation {
		t.Fatalf("%+v", k3)
	}
	if got, _ := b.sync(k3, nil); !got.Equal(kept) {
		t.Fatalf("%v after %v", got, kept)
	}
	if a := b.want(b.beat(BeatRequest{MemberID: "a", Epoch: first.Generation}), OK); len(a.Assigned) != 2 || b.g.State() != Stable {
		t.Fatalf("%+v in %v", a, b.g.State())
	}
	if f := b.heartbeat(k3); f != OK {
		t.Fatalf("heartbeat: %v", f)
	}
	old := k3
	old.Generation--
	if f := b.heartbeat(old); f != IllegalGeneration {
		t.Fatalf("heartbeat in an old generation: %v", f)
	}
	if f := b.g.MayCommit(CommitRequest{MemberID: k3.MemberID, Generation: old.Generation}, b.now); f != IllegalGeneration {
		t.Fatalf("commit in an old generation: %v", f)
	}
	b.want(b.beat(BeatRequest{MemberID: k3.MemberID, Epoch: k3.Generation}), UnknownMember)
	b.want(b.classic("", "", all(1)), UnknownMember) // not new: it was dropped
	b.want(b.classic("a", "", nil), UnknownMember)
	b.ticket++
	wrong := b.g.Sync(&SyncRequest{Ticket: b.ticket, MemberID: k3.MemberID, Generation: k3.Generation, Protocol: "sticky", Topics: b.topics}, b.now)
	if wrong.Answers[0].Fault != InconsistentProtocol {
		t.Fatalf("sync of another protocol: %v", wrong.Answers[0].Fault)
	}
	d := b.g.DescribeConsumers()
	if d.Members[0].Classic == nil || d.Members[1].Classic != nil {
		t.Fatalf("%+v", d)
	}
	b.tick(10 * time.Second) // the session that it asked for
	if b.g.consumers.members[k3.MemberID] != nil || b.g.Members() != 1 {
		t.Fatal("the silent member is still there")
	}
}

// When the last member of the consumer protocol has left, the others are a classic group again: they join for their own assignor.
func TestGroupGoesBackToTheClassicProtocol(t *testing.T) {
	b := newBench(t, Config{})
	a := b.want(b.beat(join("a")), OK)
	k := b.want(b.classic("", "", nil), OK)
	b.sync(k, nil)
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: leaves}), OK)
	if f := b.heartbeat(k); f != RebalanceInProgress || !b.g.OfConsumers() {
		t.Fatalf("heartbeat before it has what the other had: %v", f)
	}
	k = b.want(b.classic(k.MemberID, "", nil), OK)
	has, _ := b.sync(k, nil)
	if len(has) != 4 {
		t.Fatalf("has %v", has)
	}
	b.held = true
	b.ticket++
	fx := b.g.HeartbeatConsumers(b.ticket, k.MemberID, "", k.Generation, b.topics, b.now)
	if len(fx.Answers) != 1 || fx.Answers[0].Fault != RebalanceInProgress || b.g.OfConsumers() || b.g.State() != PreparingRebalance || b.g.Generation() != k.Generation {
		t.Fatalf("%+v, %v in generation %d", fx.Answers, b.g.State(), b.g.Generation())
	}
	if len(fx.Stores) != 1 || string(fx.Stores[0].Snapshot.Members[0].Assignment) == "" || len(fx.Batches) != 1 {
		t.Fatalf("%+v", fx)
	}
	for _, r := range fx.Batches[0].Records {
		if !r.Gone || r.Kind == ClassicRecord {
			t.Fatalf("%+v", r)
		}
	}
	b.take(b.g.Stored(fx.Stores[0].Seq, true, b.now))
	b.take(b.g.Stored(fx.Batches[0].Seq, true, b.now))
	b.held = false
	k2 := b.want(b.classic(k.MemberID, "", has), OK)
	if k2.Generation != k.Generation+1 || k2.Leader != k.MemberID || a.Generation >= k2.Generation {
		t.Fatalf("%+v", k2)
	}
}

// Not where they have no assignor in common.
func TestGroupThatCannotGoBack(t *testing.T) {
	b := newBench(t, Config{})
	b.want(b.beat(join("a")), OK)
	k := b.want(b.classic("", "", nil), OK)
	b.sync(k, nil)
	b.ticket++
	b.take(b.g.Join(&JoinRequest{
		Ticket: b.ticket, NewMemberID: "l", Session: 10 * time.Second, Rebalance: 30 * time.Second,
		ProtocolType: "consumer", Protocols: []Protocol{{"other", subscribeOwning(nil, b.topics, "t")}}, Topics: b.topics, Instance: "l",
	}, b.now))
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: leaves}), OK)
	for range 3 {
		k = b.want(b.classic(k.MemberID, "", nil), OK)
		b.sync(k, nil)
		b.heartbeat(k)
	}
	if !b.g.OfConsumers() {
		t.Fatal("it has gone back")
	}
}

// One whose members are no consumers, say what cannot be read, or are assigned to with more than partitions (as Kafka Streams does)
// stays as it is.
func TestOtherGroupsKeepTheirProtocol(t *testing.T) {
	reads := func(b *bench) []byte { return subscribeOwning(nil, b.topics, "t") }
	given := func(b *bench) []byte { return writeAssignment([]byte{0, 1}, all(4), b.topics) }
	for name, c := range map[string]struct {
		protocolType         string
		metadata, assignment func(b *bench) []byte
		want                 Fault
	}{
		"consumers":      {"consumer", reads, given, OK},
		"connect":        {"connect", reads, given, NotFound},
		"not read":       {"consumer", func(*bench) []byte { return []byte{0, 1} }, given, NotFound},
		"not assigned":   {"consumer", reads, func(*bench) []byte { return nil }, OK},
		"with user data": {"consumer", reads, func(b *bench) []byte { g := given(b); return append(g[:len(g)-4], 0, 0, 0, 1, 7) }, NotFound},
		"other bytes":    {"consumer", reads, func(b *bench) []byte { return []byte("for k") }, NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{InitialRebalanceDelay: -1})
			b.ticket += 2
			b.g.Join(&JoinRequest{
				Ticket: 1, NewMemberID: "k", Session: 10 * time.Second, Rebalance: 30 * time.Second,
				ProtocolType: c.protocolType, Protocols: []Protocol{{"p", c.metadata(b)}},
			}, b.now)
			fx := b.g.Sync(&SyncRequest{Ticket: 2, MemberID: "k", Generation: 1, Assignments: map[string][]byte{"k": c.assignment(b)}}, b.now)
			b.g.Stored(fx.Stores[0].Seq, true, b.now)
			b.want(b.beat(join("a")), c.want)
			if b.g.OfConsumers() != (c.want == OK) {
				t.Fatalf("of consumers: %v", b.g.OfConsumers())
			}
		})
	}
}

// A member of the classic protocol that does not join again, or sync, in time is dropped.
func TestClassicMemberThatDoesNotJoinAgain(t *testing.T) {
	for name, syncs := range map[string]bool{"does not sync": false, "does not join": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{})
			a := b.want(b.beat(join("a")), OK)
			k := b.want(b.classic("", "", nil), OK)
			if syncs {
				b.sync(k, nil)
				b.want(b.beat(join("c")), OK)
			}
			for range 6 {
				b.heartbeat(k)
				b.want(b.beat(join("a")), OK)
				b.tick(5 * time.Second)
			}
			if f := b.heartbeat(k); f != UnknownMember || a.Fault != OK {
				t.Fatalf("heartbeat after the rebalance timeout: %v", f)
			}
		})
	}
}

// A static member's place goes over between the protocols.
func TestStaticMembersChangeTheirProtocol(t *testing.T) {
	b := newBench(t, Config{InitialRebalanceDelay: -1})
	k := b.want(b.classic("", "i", nil), OK)
	b.ticket++
	fx := b.g.Sync(&SyncRequest{
		Ticket: b.ticket, MemberID: k.MemberID, Instance: "i", Generation: k.Generation, Topics: b.topics,
		Assignments: map[string][]byte{k.MemberID: writeAssignment([]byte{0, 1}, all(4), b.topics)},
	}, b.now)
	b.g.Stored(fx.Stores[0].Seq, true, b.now)
	r := join("a")
	r.Instance = "i"
	a := b.want(b.beat(r), OK)
	if len(a.Assigned) != 4 || b.g.Members() != 1 {
		t.Fatalf("%+v, %d members", a, b.g.Members())
	}
	b.want(b.beat(BeatRequest{MemberID: "a", Instance: "i", Epoch: stepsAway}), OK)
	b.want(b.classic(k.MemberID, "i", nil), FencedInstance)
	k2 := b.want(b.classic("", "i", nil), OK)
	if got, _ := b.sync(k2, nil); len(got) != 4 || k2.Generation != a.Generation {
		t.Fatalf("%v in %d", got, k2.Generation)
	}
	b.want(b.beat(BeatRequest{MemberID: "a", Instance: "i", Epoch: a.Generation}), FencedInstance)
}

func TestRemoveConsumers(t *testing.T) {
	b := newBench(t, Config{})
	b.want(b.beat(join("a")), OK)
	if f, _ := b.g.Remove(b.now); f != NotEmpty {
		t.Fatalf("removed with a member: %v", f)
	}
	b.want(b.beat(BeatRequest{MemberID: "a", Epoch: leaves}), OK)
	b.held = true
	f, fx := b.g.Remove(b.now)
	b.take(fx)
	b.want(b.beat(join("a")), NotAvailable)
	b.stored(false)
	if f != OK || b.g.State() != Empty || b.g.Gone() {
		t.Fatalf("%v after a removal that is not stored", b.g.State())
	}
	b.held = false
	b.tick(0)
	if _, fx = b.g.Remove(b.now); len(fx.Batches) != 1 || slices.ContainsFunc(fx.Batches[0].Records, func(r Record) bool { return !r.Gone }) {
		t.Fatalf("%+v", fx)
	}
	b.take(fx)
	if !b.g.Gone() {
		t.Fatalf("%v after its removal", b.g.State())
	}
}

// Members are taken out by an operator.
func TestLeaveConsumers(t *testing.T) {
	b := newBench(t, Config{})
	r := join("a")
	r.Instance = "i"
	b.want(b.beat(r), OK)
	b.want(b.beat(join("c")), OK)
	b.ticket++
	faults, fx := b.g.LeaveConsumers(b.ticket, []LeaveRequest{{Instance: "none"}, {MemberID: "c", Instance: "i"}, {Instance: "i"}, {MemberID: "c"}, {MemberID: "c"}}, b.now)
	b.take(fx)
	b.want(b.answers[b.ticket], OK)
	if want := []Fault{UnknownMember, FencedInstance, OK, OK, UnknownMember}; !slices.Equal(faults, want) {
		t.Fatalf("%v, want %v", faults, want)
	}
	if b.g.State() != Empty {
		t.Fatal(b.g.State())
	}
}

func TestRestoreDropsWhatIsNotWhole(t *testing.T) {
	cfg := Config{}.Defaults()
	now := time.Unix(1_900_000_000, 0)
	set := assign.NewSet([]assign.Partition{{Topic: assign.TopicID{1}, Index: 0}})
	info := func(id string) *Consumer { return &Consumer{ID: id, Topics: []string{"t"}} }
	s := &ConsumersSnapshot{Epoch: 7, TargetEpoch: 6, Members: map[string]*ConsumerSnapshot{
		"good":    {Info: info("good"), Target: set, Current: true, Epoch: 6, Seen: 5, Assigned: set, Revoking: set},
		"joining": {Info: info("joining"), Target: set},
		"left":    {Current: true, Epoch: 6, Assigned: set},
		"ahead":   {Info: info("ahead"), Current: true, Epoch: 8},
	}}
	g := RestoreConsumers("g", &cfg, s, now)
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	if g.Members() != 1 || g.consumers.members["good"] == nil || g.Generation() != 7 {
		t.Fatalf("%d members in epoch %d", g.Members(), g.Generation())
	}
	fx := g.Tick(now)
	gone := map[string]bool{}
	for _, r := range fx.Batches[0].Records {
		if r.Gone {
			gone[r.Member] = true
		}
	}
	if !gone["joining"] || !gone["left"] || !gone["ahead"] || gone["good"] {
		t.Fatalf("removed: %v", gone)
	}
	s.Epoch = 1<<31 - 1
	if g := RestoreConsumers("g", &cfg, s, now); g.Members() != 0 || g.Generation() != 0 {
		t.Fatalf("%d members in epoch %d: none is left to raise", g.Members(), g.Generation())
	}
}

func TestConsumersOffsetsExpire(t *testing.T) {
	b := newBench(t, Config{})
	b.want(b.beat(join("a")), OK)
	for _, topic := range []string{"t", "u"} {
		w, _ := b.g.Put(TopicPartition{topic, 0}, Offset{ExpireTime: -1}, b.now)
		b.g.Committed(w, true)
	}
	later := b.now.Add(8 * 24 * time.Hour)
	fx := b.g.Expire(later)
	if len(fx.Writes) != 1 || fx.Writes[0].At.Topic != "u" {
		t.Fatalf("while t is read: %+v", fx.Writes)
	}
	b.g.Committed(fx.Writes[0], true)
	b.tick(8 * 24 * time.Hour) // its session has ended
	if fx = b.g.Expire(b.now); len(fx.Writes) > 0 {
		t.Fatalf("the group has only now become empty: %+v", fx.Writes)
	}
	if fx = b.g.Expire(b.now.Add(8 * 24 * time.Hour)); len(fx.Writes) != 1 {
		t.Fatalf("%+v", fx.Writes)
	}
}
