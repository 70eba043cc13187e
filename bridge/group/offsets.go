package group

import (
	"cmp"
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// TopicPartition names what an offset belongs to.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Offset is a committed position: the next record to read.
type Offset struct {
	Offset      int64
	LeaderEpoch int32 // of the last record read; -1 unknown
	Metadata    string
	CommitTime  int64 // ms, wall clock
	ExpireTime  int64 // ms, wall clock, asked for by the client (OffsetCommit v2–v4); -1: Config decides
}

// slot is one partition's offset and the writes on their way. A slot with
// neither does not stay.
type slot struct {
	offset  Offset
	at      time.Time // of the commit; by the monotonic clock if it was in this process
	present bool
	applied uint64 // Seq of the write that offset came from
	newest  uint64 // Seq of the last write asked for
	writes  int    // not answered yet
}

// size is about how much memory a slot takes, its place in the map included.
func (s *slot) size(at TopicPartition) int {
	return 184 + len(at.Topic) + len(s.offset.Metadata)
}

// Write asks to keep an offset, or to forget it. The shell reports the outcome
// by Committed.
type Write struct {
	Seq    uint64
	At     TopicPartition
	Offset Offset
	Forget bool
	now    time.Time
}

// CommitRequest says who commits. A consumer that assigns partitions to itself
// has no member id and generation -1.
type CommitRequest struct {
	MemberID, Instance string
	Generation         int32 // or the member's epoch
	KnowsEpochs        bool  // the request can be told of a stale epoch
}

// MayCommit reports whether the request's sender may commit now, and counts as
// its heartbeat. Members of the current generation may, except while an
// assignment is being made; a sender that is no member may only while the group
// is empty.
func (g *Group) MayCommit(r CommitRequest, now time.Time) Fault {
	switch {
	case g.state == Dead:
		return NotAvailable
	case r.Generation < 0 && g.state == Empty:
		return OK
	case r.Generation < 0 && r.MemberID == "" && r.Instance == "":
		return UnknownMember
	case g.consumers != nil:
		return g.consumers.mayCommit(&r)
	}
	m, f := g.find(r.MemberID, r.Instance)
	switch {
	case f != OK:
		return f
	case r.Generation != g.generation:
		return IllegalGeneration
	}
	g.touch(m, now)
	if g.state == CompletingRebalance {
		return RebalanceInProgress
	}
	return OK
}

// mayCommit is MayCommit for members of the consumer protocol. It is no heartbeat
// there. In an older epoch than the member's MayCommitAt has to be asked too.
func (cs *consumers) mayCommit(r *CommitRequest) Fault {
	m := cs.members[r.MemberID]
	switch {
	case m == nil:
		return UnknownMember
	case m.Classic != nil && r.Generation != m.epoch:
		return IllegalGeneration
	case m.Classic != nil:
		return OK
	case !r.KnowsEpochs:
		return NotForMembers
	case r.Generation > m.epoch || r.Generation < 0:
		return StaleEpoch
	}
	return OK
}

// MayCommitAt reports whether a sender that MayCommit may do so for one partition. A member of the consumer
// protocol may in an older epoch than its own only what it has had since then: another one may have been read
// on by somebody else (KIP-1251).
func (g *Group) MayCommitAt(r CommitRequest, p assign.Partition) Fault {
	if g.consumers == nil || r.Generation < 0 {
		return OK
	}
	m := g.consumers.members[r.MemberID]
	if m == nil {
		return UnknownMember
	}
	at, has := slices.BinarySearchFunc(m.assigned, p, assign.Partition.Compare)
	if r.Generation == m.epoch || r.Generation < m.epoch && has && m.since[at] <= r.Generation {
		return OK
	}
	return StaleEpoch
}

// MayFetch reports whether a member may fetch offsets in that epoch. No member id and no
// epoch is somebody who looks on.
func (g *Group) MayFetch(memberID string, epoch int32) Fault {
	switch {
	case g.consumers == nil, memberID == "" && epoch < 0:
		return OK
	case g.consumers.members[memberID] == nil:
		return UnknownMember
	case g.consumers.members[memberID].epoch != epoch:
		return StaleEpoch
	}
	return OK
}

// Put begins the commit of one offset, which MayCommit allowed. It can be
// fetched once Committed says that it is stored. Its CommitTime is set to now.
func (g *Group) Put(at TopicPartition, o Offset, now time.Time) (Write, Fault) {
	if len(o.Metadata) > g.cfg.MaxOffsetMetadataBytes {
		return Write{}, OffsetMetadataTooLarge
	}
	o.CommitTime = now.UnixMilli()
	return g.write(Write{At: at, Offset: o, now: now}), OK
}

func (g *Group) write(w Write) Write {
	g.writeSeq++
	w.Seq = g.writeSeq
	s := g.slots[w.At]
	if s == nil {
		s = &slot{}
		g.slots[w.At] = s
		g.slotBytes += s.size(w.At)
	}
	s.newest = w.Seq
	s.writes++
	g.inflight++
	return w
}

// Committed reports the outcome of a write. Writes may be reported in any
// order, each once; the one asked for last wins, as it does in the table.
func (g *Group) Committed(w Write, ok bool) {
	s := g.slots[w.At]
	if s == nil || s.writes == 0 {
		return
	}
	s.writes--
	g.inflight--
	g.slotBytes -= s.size(w.At)
	if ok && w.Seq > s.applied {
		s.applied = w.Seq
		s.offset, s.at, s.present = w.Offset, w.now, !w.Forget
	}
	if s.writes == 0 && !s.present {
		delete(g.slots, w.At)
	} else {
		g.slotBytes += s.size(w.At)
	}
	g.maybeRevive()
}

// maybeRevive takes back a removal of which not all could be stored: the group
// is Empty again, with what is left, and may be removed again.
func (g *Group) maybeRevive() {
	if g.state == Dead && g.unstored == 0 && g.inflight == 0 && (len(g.slots) > 0 || !g.recordGone) {
		g.become(Empty, g.since)
		if cs := g.consumers; cs != nil { // some of it may be removed
			cs.store.behind, cs.store.retryAt = true, g.since
			cs.arm(g.since)
		}
	}
}

// RestoreOffset sets an offset that was read from the table; once for each
// partition of a group that is made anew.
func (g *Group) RestoreOffset(at TopicPartition, o Offset) {
	s := &slot{offset: o, at: time.UnixMilli(o.CommitTime), present: true}
	g.slots[at] = s
	g.slotBytes += s.size(at)
}

// Offset is the committed offset of one partition.
func (g *Group) Offset(at TopicPartition) (Offset, bool) {
	if s := g.slots[at]; s != nil && s.present {
		return s.offset, true
	}
	return Offset{}, false
}

// Offsets lists the partitions with a committed offset, by topic and number.
func (g *Group) Offsets() []TopicPartition {
	return g.partitions(func(s *slot) bool { return s.present })
}

func (g *Group) partitions(which func(*slot) bool) []TopicPartition {
	ats := make([]TopicPartition, 0, len(g.slots))
	for at, s := range g.slots {
		if which(s) {
			ats = append(ats, at)
		}
	}
	slices.SortFunc(ats, func(a, b TopicPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return ats
}

// Forget begins the removal of one committed offset (OffsetDelete, or the topic
// is gone). An offset that does not exist is NotFound.
func (g *Group) Forget(at TopicPartition) (Write, Fault) {
	if g.state == Dead {
		return Write{}, NotAvailable
	}
	if _, ok := g.Offset(at); !ok {
		return Write{}, NotFound
	}
	return g.write(Write{At: at, Forget: true}), OK
}

// MayForget reports whether the topic's offsets may be removed on request:
// never under the eyes of members that read it.
func (g *Group) MayForget(topic string) Fault {
	switch {
	case g.state == Dead:
		return NotAvailable
	case g.Members() == 0:
		return OK
	case g.protocolType != "consumer":
		return NotEmpty
	case g.subscribed()(topic):
		return Subscribed
	}
	return OK
}

// subscribed tells which topics the members read. A member whose subscription
// cannot be read, reads all.
func (g *Group) subscribed() func(topic string) bool {
	if g.consumers != nil {
		return g.consumers.subscribed
	}
	topics := map[string]bool{}
	for _, m := range g.order {
		for i := range m.protocols {
			names, ok := subscription(m.protocols[i].Metadata)
			if !ok {
				return func(string) bool { return true }
			}
			for _, t := range names {
				topics[t] = true
			}
		}
	}
	return func(topic string) bool { return topics[topic] }
}

// Expire forgets the offsets that nobody needs any more (KIP-211) and, when
// none is left and there are no members, the group. An offset's age counts
// from when the group became empty; if it never had members, or its members do
// not read the topic, from the commit.
//
// Within one process ages are counted by the monotonic clock, so a step of the
// wall clock makes nothing old. A time of before 2025 was stamped by a clock
// that had not been set: nothing is known of that age, and the offset is kept.
func (g *Group) Expire(now time.Time) (fx Effects) {
	if g.state == Dead || g.Gone() {
		return fx
	}
	var reads func(string) bool
	if g.Members() > 0 {
		if g.protocolType != "consumer" || g.state != Stable {
			return fx
		}
		reads = g.subscribed()
	}
	for _, at := range g.Offsets() {
		s := g.slots[at]
		if s.writes == 0 && (reads == nil || !reads(at.Topic)) && g.old(s, now) {
			fx.Writes = append(fx.Writes, g.write(Write{At: at, Forget: true}))
		}
	}
	if g.idle() && len(g.slots) == 0 {
		g.removeRecord(&fx, now)
	}
	return fx
}

// notSet is later than what a clock shows that was never set.
var notSet = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// old reports whether an offset that nobody reads has had its time.
func (g *Group) old(s *slot, now time.Time) bool {
	from := s.at
	if g.state == Empty && g.protocolType != "" && g.since.After(from) {
		from = g.since
	}
	switch {
	case from.Before(notSet):
		return false
	case s.offset.ExpireTime >= 0:
		return now.UnixMilli() >= s.offset.ExpireTime
	}
	return g.cfg.OffsetsRetention >= 0 && now.Sub(from) >= g.cfg.OffsetsRetention
}

// idle: nobody is here and nobody was promised a place.
func (g *Group) idle() bool {
	return g.state == Empty && len(g.pending) == 0 && g.inflight == 0
}

// Remove deletes a group without members: its offsets and its record. The
// group is Dead from now on; Gone reports when that is stored, and if it cannot
// be, the group is Empty again.
func (g *Group) Remove(now time.Time) (Fault, Effects) {
	var fx Effects
	switch {
	case g.state == Dead:
		return NotAvailable, fx
	case g.state != Empty:
		return NotEmpty, fx
	}
	clear(g.pending)
	for _, at := range g.partitions(func(*slot) bool { return true }) { // also those whose first commit is on its way
		fx.Writes = append(fx.Writes, g.write(Write{At: at, Forget: true}))
	}
	g.removeRecord(&fx, now)
	return OK, fx
}

func (g *Group) removeRecord(fx *Effects, now time.Time) {
	g.become(Dead, now)
	g.recordGone = false
	if g.consumers != nil {
		g.consumers.none()
		g.consumers.store.behind = false
		g.flush(fx)
		return
	}
	g.store(fx, nil)
}

// Gone reports that the shell may drop the group, and should: it was removed
// and nothing is left to be stored, or it never came to anything (no member got
// in, nothing was committed or stored).
func (g *Group) Gone() bool {
	if g.state == Dead {
		return g.unstored == 0 && g.inflight == 0 // else maybeRevive had made it Empty
	}
	return g.idle() && g.generation == 0 && g.storeSeq == 0 && len(g.slots) == 0
}
