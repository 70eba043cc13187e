package group

import (
	"maps"
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// consumers are the members of a group of the consumer protocol, and what each
// of them is to read.
type consumers struct {
	cfg  *Config
	pace Pace // as of the last heartbeat

	// epoch is the group's, and that of the targets: they are made anew in the
	// step that raises it. stale asks the next step that knows the topics for it.
	epoch int32
	stale bool

	members  map[string]*consumer
	order    []*consumer // as they joined, so that two runs do the same
	static   map[string]*consumer
	holders  map[assign.Partition]int // how many members hold it; one, but for what a crash left behind
	assignor string                   // that made the targets

	topics  uint64              // version that the targets were last held against
	matches map[string][]*Topic // what patterns match in that version

	store consumerStore
	text  int // bytes that count towards Config.MaxGroupBytes
	bytes int // about all of it
	wake  time.Time
}

func newConsumers(cfg *Config) *consumers {
	return &consumers{
		cfg: cfg, pace: Pace{}.or(cfg), stale: true,
		members: map[string]*consumer{}, static: map[string]*consumer{}, holders: map[assign.Partition]int{},
	}
}

func (cs *consumers) arm(t time.Time) {
	if cs.wake.IsZero() || t.Before(cs.wake) {
		cs.wake = t
	}
}

func (cs *consumers) touch(m *consumer, now time.Time) {
	m.deadline = now.Add(m.session(cs.pace))
	cs.arm(m.deadline)
}

func (cs *consumers) add(c *Consumer) *consumer {
	m := &consumer{Consumer: c}
	cs.members[c.ID] = m
	cs.order = append(cs.order, m)
	if c.Instance != "" {
		cs.static[c.Instance] = m
	}
	delete(cs.store.gone, c.ID)
	cs.text += c.textSize()
	cs.count(m)
	return m
}

// set changes what a member says of itself. Its id stays.
func (cs *consumers) set(m *consumer, c *Consumer) {
	cs.text += c.textSize() - m.textSize()
	if m.Instance != c.Instance {
		delete(cs.static, m.Instance)
		cs.static[c.Instance] = m
	}
	m.Consumer = c
	cs.count(m)
}

// count brings the count of bytes up to date with m.
func (cs *consumers) count(m *consumer) {
	size := m.size()
	cs.bytes += size - m.counted
	m.counted = size
}

// remove takes m out. Its partitions are free; who gets them is for the next
// step that makes targets.
func (cs *consumers) remove(m *consumer) {
	cs.hold(m, nil, nil)
	delete(cs.members, m.ID)
	if cs.static[m.Instance] == m {
		delete(cs.static, m.Instance)
	}
	cs.order = slices.DeleteFunc(cs.order, func(o *consumer) bool { return o == m })
	cs.text -= m.textSize()
	cs.bytes -= m.counted
	cs.store.forget(m.ID)
	cs.stale = true
}

// hold sets what m is told to have and what it is to give up.
func (cs *consumers) hold(m *consumer, assigned, revoking assign.Set) {
	for _, set := range []assign.Set{m.assigned, m.revoking} {
		for _, p := range set {
			if cs.holders[p]--; cs.holders[p] == 0 {
				delete(cs.holders, p)
			}
		}
	}
	since := make([]int32, len(assigned))
	for i, p := range assigned {
		since[i] = m.epoch
		if at, had := slices.BinarySearchFunc(m.assigned, p, assign.Partition.Compare); had {
			since[i] = m.since[at]
		}
	}
	m.assigned, m.revoking, m.since = assigned, revoking, since
	for _, set := range []assign.Set{assigned, revoking} {
		for _, p := range set {
			cs.holders[p]++
		}
	}
	cs.count(m)
}

// isFree reports whether m may be told to have p: nobody else holds it.
func (cs *consumers) isFree(p assign.Partition, m *consumer) bool {
	n := cs.holders[p]
	if m.holds(p) {
		n--
	}
	return n == 0
}

// retarget makes the targets anew if anything asks for it: members came, went
// or changed their minds (force, stale), or the topics have changed. The epoch
// is raised if force is set or a target differs.
func (cs *consumers) retarget(topics *Topics, force bool) {
	force = force || cs.stale
	if !force && cs.topics == topics.version {
		return
	}
	if cs.topics != topics.version {
		cs.topics, cs.matches = topics.version, nil
	}
	members := make([]assign.Member, len(cs.order))
	for i, m := range cs.order {
		members[i] = assign.Member{Name: m.ID, Reads: cs.reads(m, topics), Had: m.target}
		if m.Instance != "" {
			members[i].Name, members[i].Static = m.Instance, true
		}
	}
	cs.prune()
	assignor := cs.preferred()
	var targets []assign.Set
	if len(members) > 0 {
		targets = assign.By(assignor, members)
	}
	for i, m := range cs.order {
		force = force || !targets[i].Equal(m.target)
	}
	if !force {
		return
	}
	cs.stale = false
	cs.epoch++
	cs.assignor = assignor
	cs.store.put(Record{Kind: EpochRecord, Epoch: cs.epoch})
	for i, m := range cs.order {
		if !targets[i].Equal(m.target) {
			m.target = targets[i]
			cs.count(m)
			cs.store.put(m.targetRecord())
		}
	}
	cs.store.put(Record{Kind: TargetEpochRecord, Epoch: cs.epoch})
}

// reads is which topics a member reads, each once.
func (cs *consumers) reads(m *consumer, topics *Topics) (reads []assign.Topic) {
	for _, name := range m.Topics {
		if t := topics.find(name); t != nil {
			reads = append(reads, t.Topic)
		}
	}
	for _, t := range cs.match(m.Pattern, topics) {
		if _, named := slices.BinarySearch(m.Topics, t.Name); !named {
			reads = append(reads, t.Topic)
		}
	}
	return reads
}

// match is which topics a pattern matches. It is found once for each version of the topics.
func (cs *consumers) match(pattern string, topics *Topics) []*Topic {
	if pattern == "" {
		return nil
	}
	if found, ok := cs.matches[pattern]; ok {
		return found
	}
	var found []*Topic
	if re, ok := compilePattern(pattern); ok { // not, if a newer version stored it
		for _, t := range topics.sorted {
			if !t.Internal && re.MatchString(t.Name) {
				found = append(found, t)
			}
		}
	}
	if cs.matches == nil {
		cs.matches = map[string][]*Topic{}
	}
	cs.matches[pattern] = found
	return found
}

// subscribed reports whether a member reads the topic.
func (cs *consumers) subscribed(topic string) bool {
	for _, m := range cs.order {
		if _, found := slices.BinarySearch(m.Topics, topic); found {
			return true
		}
		if m.Pattern == "" {
			continue
		}
		if re, ok := compilePattern(m.Pattern); !ok || re.MatchString(topic) {
			return true
		}
	}
	return false
}

// prune forgets the matches of patterns that no member has any more.
func (cs *consumers) prune() {
	if len(cs.matches) > len(cs.order) {
		maps.DeleteFunc(cs.matches, func(pattern string, _ []*Topic) bool {
			return !slices.ContainsFunc(cs.order, func(m *consumer) bool { return m.Pattern == pattern })
		})
	}
}

// preferred is the assignor that most members ask for; uniform where that does
// not tell.
func (cs *consumers) preferred() string {
	ranges, uniforms := 0, 0
	for _, m := range cs.order {
		switch m.Assignor {
		case assign.RangeName:
			ranges++
		case assign.UniformName:
			uniforms++
		}
	}
	if ranges > uniforms {
		return assign.RangeName
	}
	return assign.UniformName
}

// reconcile brings m as far towards its target as it can come now: it gives up
// first what it is not to have, then comes to the epoch, and gets what nobody
// else holds.
//
// A partition is given up when its client was told so and, at a later beat, does not have it. That it does not have one
// of which it was not told yet says nothing: it may be about to take what it was given before. Not so one of the classic
// protocol, which takes nothing between its join and the answer (exact).
func (cs *consumers) reconcile(m *consumer, exact bool, now time.Time) {
	if m.settled(cs.epoch) {
		return
	}
	keep := m.assigned.And(m.target)
	revoking := m.revoking
	if m.saidOwned {
		revoking = revoking.And(m.owned)
	}
	progress := len(m.revoking) == 0 || len(revoking) < len(m.revoking)
	dropped := m.assigned.Minus(keep)
	if exact {
		dropped = dropped.And(m.owned)
	}
	revoking = revoking.Or(dropped)
	if len(revoking) > 0 {
		if progress { // more to give up does not give more time, or it might never end
			m.revokeBy = now.Add(m.Rebalance)
			cs.arm(m.revokeBy)
		}
	} else {
		m.revokeBy = time.Time{}
		m.epoch = cs.epoch
		var free assign.Set
		for _, p := range m.target.Minus(keep) {
			if cs.isFree(p, m) {
				free = append(free, p)
			}
		}
		keep = keep.Or(free)
	}
	cs.hold(m, keep, revoking)
}

// current is m's state, to be compared with and stored.
func (m *consumer) current() Record {
	return Record{Kind: CurrentRecord, Member: m.ID, Epoch: m.epoch, Seen: m.seen, Partitions: m.assigned, Revoking: m.revoking, Waits: len(m.assigned) < len(m.target)}
}

func (m *consumer) targetRecord() Record {
	return Record{Kind: TargetRecord, Member: m.ID, Partitions: m.target}
}

func (m *consumer) memberRecord() Record {
	return Record{Kind: MemberRecord, Member: m.ID, Info: m.Consumer}
}

// tickConsumers is Tick of a group of the consumer protocol.
func (g *Group) tickConsumers(fx *Effects, now time.Time) {
	cs := g.consumers
	if cs.wake.IsZero() || now.Before(cs.wake) {
		return
	}
	if g.state == Dead {
		cs.wake = time.Time{} // see maybeRevive
		return
	}
	cs.drop(now)
	if cs.store.stuck(now) {
		cs.store.out = nil // everything will be put
	} else {
		g.flush(fx)
	}
	cs.rearm()
	g.consumersMoved(now)
}

// consumersMoved keeps the group's state up to date with its members.
func (g *Group) consumersMoved(now time.Time) {
	if g.consumers == nil || g.state == Dead {
		return
	}
	state := Stable
	switch cs := g.consumers; {
	case len(cs.order) == 0:
		state = Empty
	case !cs.settledAll():
		state = Reconciling
	}
	if state != g.state {
		g.become(state, now)
	}
}

// drop drops the members whose session ended, or that did not give up in time
// what they were told to. A member that waits for its answer cannot beat.
func (cs *consumers) drop(now time.Time) {
	for _, m := range slices.Clone(cs.order) {
		late := !m.revokeBy.IsZero() && !now.Before(m.revokeBy) || !m.syncBy.IsZero() && !now.Before(m.syncBy)
		if m.waiting == 0 && (late || !now.Before(m.deadline)) {
			cs.remove(m)
		}
	}
}

// rearm sets wake to the earliest deadline there is.
func (cs *consumers) rearm() {
	cs.wake = time.Time{}
	for _, m := range cs.order {
		if m.waiting > 0 {
			continue // touched when it is answered
		}
		cs.armFor(m)
	}
	if !cs.store.retryAt.IsZero() {
		cs.arm(cs.store.retryAt)
	}
}

// armFor arms for the deadlines of m.
func (cs *consumers) armFor(m *consumer) {
	for _, t := range []time.Time{m.deadline, m.revokeBy, m.syncBy} {
		if !t.IsZero() {
			cs.arm(t)
		}
	}
}

// settledAll reports whether every member has come to its target.
func (cs *consumers) settledAll() bool {
	return !cs.stale && !slices.ContainsFunc(cs.order, func(m *consumer) bool { return !m.settled(cs.epoch) })
}
