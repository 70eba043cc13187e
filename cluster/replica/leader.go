package replica

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ErrNotEnoughReplicas: fewer replicas are in sync than the topic demands (H6).
var ErrNotEnoughReplicas = errors.New("not enough in-sync replicas")

// LagTime is replica.lag.time: how long a member may lag behind the log end before it is proposed for removal (I3), and how
// recently somebody else must have caught up to be waited for (H3).
const LagTime = 10 * time.Second

const (
	// proposeEvery damps proposals (I6).
	proposeEvery = time.Second
	// refusedFor is how long somebody whose expansion was refused is not proposed again, nor waited for.
	refusedFor = 30 * time.Second
)

// Term is what a broker knows when it begins to lead, and what the metadata changes while it does.
type Term struct {
	Self  int32 // broker id of the leader
	Epoch int32 // leader epoch
	Start int64 // log end when the term began (LESO); nothing of this term lies below
	// HighWatermark is the highest one known from before; it may be an old one (H5).
	HighWatermark int64
	State
}

// State is the part of a partition's metadata that changes within a term.
type State struct {
	PartitionEpoch int32
	Left           int32   // partition epoch in which a replica last left (I8)
	ISR            []int32 // committed in-sync set, with the leader
	MinInsync      int     // as it takes effect, at most the number of replicas (H4)
	Replicas       []Replica
}

// Replica is what the metadata says of one replica. Members of the ISR are listed too.
type Replica struct {
	ID    int32
	Epoch int64 // broker epoch of the process that is registered
	// Eligible: it may be in sync: it holds its lease, and does not shut down.
	Eligible  bool
	Restarted bool // in ISR, and has to prove that it still holds everything (E5)
	Damaged   bool // what its log held is void: only one that was begun anew since counts (E7)
}

// Member is one replica in a proposal.
type Member struct {
	ID     int32
	Epoch  int64
	Proven bool
}

// peer is what the leader knows of one other replica in this term.
type peer struct {
	epoch int64 // of the process that fetched (BE)
	// durable is what it has told to be synced, in this term and process (H1); nothing before it has told.
	told    bool
	durable int64
	// caughtUp is when it last had everything that the leader had appended by then (I3).
	everCaughtUp bool
	caughtUp     time.Duration
	lastFetch    time.Duration
	endAtFetch   int64         // the leader's log end at lastFetch
	refusedUntil time.Duration // no expansion before
}

// Leader is the leader's state in one term. It is not safe for concurrent use. Times are those of one monotonic clock.
type Leader struct {
	term    Term
	peers   map[int32]*peer
	durable int64 // own vote (H2)
	entry   int32 // newest epoch whose beginning is synced in the own journal
	end     int64 // own log end
	began   time.Duration

	// proposed is not nil from a proposal until the metadata shows a higher partition epoch (I2).
	proposed      []Member
	proposedEpoch int32
	nextProposal  time.Duration

	// hw never falls (H5), and every offset below it was durable on each member that was in sync when it moved.
	hw int64
}

// Lead begins a term. Nobody has reported yet, so the high watermark stays where it was known to be.
func Lead(t Term, now time.Duration) *Leader {
	l := &Leader{term: t, peers: map[int32]*peer{}, entry: -1, end: t.Start, hw: min(t.HighWatermark, t.Start), began: now}
	l.term.ISR, l.term.Replicas = slices.Clone(t.ISR), slices.Clone(t.Replicas)
	return l
}

// Epoch is the leader epoch of the term.
func (l *Leader) Epoch() int32 { return l.term.Epoch }

// Start is where the term begins (LESO).
func (l *Leader) Start() int64 { return l.term.Start }

// HighWatermark is the offset below which everything is committed.
func (l *Leader) HighWatermark() int64 { return l.hw }

// InSync says whether a replica is in the committed in-sync set.
func (l *Leader) InSync(id int32) bool { return slices.Contains(l.term.ISR, id) }

// Settled says whether everything from before the term is known to be committed: until then the end of what consumers may see
// is not known (R3).
func (l *Leader) Settled() bool { return l.hw >= l.term.Start }

// Appended notes the leader's own log: all below durable is synced, and so is the beginning of epoch entry; end is what the
// next record gets. It answers whether the high watermark moved.
func (l *Leader) Appended(durable, end int64, entry int32) (moved bool) {
	l.end = max(l.end, end)
	if durable <= l.durable && entry <= l.entry {
		return false
	}
	l.durable, l.entry = max(l.durable, durable), max(l.entry, entry)
	return l.advance(l.newest())
}

// Fetch is what a follower asks for (H1).
type Fetch struct {
	Node        int32
	BrokerEpoch int64
	LeaderEpoch int32
	Durable     int64 // everything below is synced there
	From        int64 // where it reads on: its log end
	LastEpoch   int32 // epoch of its record before From; -1 when it has none
	Entry       int32 // newest epoch whose beginning is synced in its journal
	Refilled    bool  // its log was begun anew after damage (E7)
	// PartitionEpoch is of the metadata in which it has this log (I8).
	PartitionEpoch int32
}

// Fetched takes a fetch that named this term and was not told to truncate (H3, H8). It answers whether the high watermark moved.
func (l *Leader) Fetched(f Fetch, now time.Duration) (moved bool) {
	if f.LeaderEpoch != l.term.Epoch || f.Node == l.term.Self {
		return false
	}
	if r := l.replica(f.Node); r == nil || r.Epoch != f.BrokerEpoch || r.Damaged && !f.Refilled {
		return false // not the process that the metadata knows, or the log that it was damaged in
	}
	if f.PartitionEpoch < l.term.Left && !slices.Contains(l.term.ISR, f.Node) { // I8
		return false
	}
	p := l.peers[f.Node]
	if p == nil || p.epoch != f.BrokerEpoch {
		p = &peer{epoch: f.BrokerEpoch}
		l.peers[f.Node] = p
	}
	switch {
	case f.Durable >= l.end:
		p.everCaughtUp, p.caughtUp = true, now
	case p.lastFetch > 0 && f.Durable >= p.endAtFetch:
		p.everCaughtUp, p.caughtUp = true, max(p.caughtUp, p.lastFetch)
	}
	if f.Entry == l.term.Epoch { // else its log could be taken for one of an older epoch, and lose to one that has less (E6)
		p.told, p.durable = true, max(p.durable, f.Durable)
	}
	p.lastFetch, p.endAtFetch = now, l.end
	return l.advance(now)
}

// Changed takes newer metadata of the same term.
func (l *Leader) Changed(s State, now time.Duration) (moved bool) {
	if s.PartitionEpoch < l.term.PartitionEpoch {
		return false
	}
	if l.proposed != nil && s.PartitionEpoch > l.proposedEpoch { // I2: spent, one way or the other
		for _, m := range l.proposed {
			if p := l.peers[m.ID]; p != nil && !slices.Contains(s.ISR, m.ID) && !slices.Contains(l.term.ISR, m.ID) {
				p.refusedUntil = now + refusedFor
			}
		}
		l.proposed = nil
	}
	if s.Left > l.term.Left { // I8
		maps.DeleteFunc(l.peers, func(id int32, _ *peer) bool { return !slices.Contains(s.ISR, id) })
	}
	for _, r := range s.Replicas {
		if old := l.replica(r.ID); r.Damaged && (old == nil || !old.Damaged) {
			delete(l.peers, r.ID) // E7: what it has told is void
		}
	}
	l.term.State = s
	l.term.ISR, l.term.Replicas = slices.Clone(s.ISR), slices.Clone(s.Replicas)
	return l.advance(now)
}

// Tick lets time have its effects: who has not kept up is no longer waited for.
func (l *Leader) Tick(now time.Duration) (moved bool) { return l.advance(now) }

// Calm says whether every replica is in sync and has caught up within the last half of LagTime: Propose has nothing to say before the other half is over, unless
// the metadata changes.
func (l *Leader) Calm(now time.Duration) bool {
	for i := range l.term.Replicas {
		r := &l.term.Replicas[i]
		if !slices.Contains(l.term.ISR, r.ID) || r.Restarted {
			return false
		}
		if r.ID == l.term.Self {
			continue
		}
		if p := l.peers[r.ID]; p == nil || p.epoch != r.Epoch || !p.everCaughtUp || now-p.caughtUp > LagTime/2 {
			return false
		}
	}
	return l.proposed == nil
}

func (l *Leader) replica(id int32) *Replica {
	for i := range l.term.Replicas {
		if l.term.Replicas[i].ID == id {
			return &l.term.Replicas[i]
		}
	}
	return nil
}

// vote is what a replica counts for in the high watermark.
func (l *Leader) vote(id int32) int64 {
	if id == l.term.Self {
		if l.entry < l.term.Epoch && len(l.term.Replicas) > 1 { // alone, it is compared with nobody
			return 0
		}
		return l.durable
	}
	p, r := l.peers[id], l.replica(id)
	if p == nil || r == nil || p.epoch != r.Epoch || !p.told { // a process that has not fetched in this term has nothing
		return 0
	}
	return p.durable
}

// newest is the latest time known without a clock: enough where only votes have moved.
func (l *Leader) newest() time.Duration {
	at := l.began
	for _, p := range l.peers {
		at = max(at, p.lastFetch)
	}
	return at
}

// keepsUp says whether a replica outside the in-sync set is waited for: without that it could not join under load (H3). One without a vote would hold up everything.
func (l *Leader) keepsUp(r *Replica, now time.Duration) bool {
	p := l.peers[r.ID]
	return r.Eligible && p != nil && p.epoch == r.Epoch && p.told && p.everCaughtUp && now-p.caughtUp < LagTime && now >= p.refusedUntil
}

// lowest is the lowest vote that the high watermark needs: of the maximal in-sync set, and of whoever keeps up (H3).
func (l *Leader) lowest(now time.Duration) int64 {
	lowest := l.vote(l.term.Self)
	for _, id := range l.term.ISR {
		lowest = min(lowest, l.vote(id))
	}
	for _, m := range l.proposed {
		lowest = min(lowest, l.vote(m.ID))
	}
	for i := range l.term.Replicas {
		if r := &l.term.Replicas[i]; r.ID != l.term.Self && l.keepsUp(r, now) {
			lowest = min(lowest, l.vote(r.ID))
		}
	}
	return lowest
}

// Writable says whether an append that waits for all in-sync replicas may be accepted (H6).
func (l *Leader) Writable() error {
	if len(l.term.ISR) < l.term.MinInsync {
		return fmt.Errorf("%d of %d replicas are in sync, want %d: %w", len(l.term.ISR), max(len(l.term.Replicas), len(l.term.ISR)), l.term.MinInsync, ErrNotEnoughReplicas)
	}
	return nil
}

func (l *Leader) advance(now time.Duration) bool {
	if len(l.term.ISR) < l.term.MinInsync { // H4
		return false
	}
	lowest := l.lowest(now)
	if lowest <= l.hw { // H5
		return false
	}
	l.hw = lowest
	return true
}

// Propose answers the in-sync set that should be, when it is another than there is, and none is under way (I2, I6). The caller
// sends it with PartitionEpoch, as often as it likes, until Changed brings a higher one.
func (l *Leader) Propose(now time.Duration) (isr []Member, partitionEpoch int32, ok bool) {
	if l.proposed != nil || now < l.nextProposal {
		return nil, 0, false
	}
	want := []Member{}
	differs := false
	for i := range l.term.Replicas {
		r := &l.term.Replicas[i]
		in := slices.Contains(l.term.ISR, r.ID)
		stays := l.stays(r, in, now)
		proven := stays && r.ID != l.term.Self && l.proven(r)
		if stays {
			want = append(want, Member{r.ID, r.Epoch, proven})
		}
		differs = differs || stays != in || in && r.Restarted && proven
	}
	if !differs {
		return nil, 0, false
	}
	l.proposed, l.proposedEpoch, l.nextProposal = want, l.term.PartitionEpoch, now+proposeEvery
	return slices.Clone(want), l.proposedEpoch, true
}

// Pending is the proposal under way, to be sent again; nil when there is none.
func (l *Leader) Pending() (isr []Member, partitionEpoch int32) {
	return slices.Clone(l.proposed), l.proposedEpoch
}

// stays says whether a replica should be in sync from now on.
func (l *Leader) stays(r *Replica, in bool, now time.Duration) bool {
	p := l.peers[r.ID]
	switch {
	case r.ID == l.term.Self:
		return true
	case !in:
		return l.keepsUp(r, now) && l.proven(r) // I4
	case p != nil && p.epoch == r.Epoch && p.told && p.durable < l.hw:
		return false // it started anew and has lost something that was committed: at once (H3)
	case p != nil && p.everCaughtUp:
		return now-p.caughtUp < LagTime // I3
	}
	return now-l.began < LagTime
}

// proven is I4 and E5: this very process has fetched in this term, and has synced all that counts.
func (l *Leader) proven(r *Replica) bool {
	p := l.peers[r.ID]
	return p != nil && p.epoch == r.Epoch && p.told && p.durable >= max(l.hw, l.term.Start)
}

// Check tests what the fields promise.
func (l *Leader) Check() error {
	switch {
	case !slices.Contains(l.term.ISR, l.term.Self):
		return fmt.Errorf("leader %d is outside its in-sync set %v", l.term.Self, l.term.ISR)
	case l.proposed != nil && !slices.ContainsFunc(l.proposed, func(m Member) bool { return m.ID == l.term.Self }):
		return fmt.Errorf("leader %d is outside its proposal %v", l.term.Self, l.proposed)
	case l.durable > l.end:
		return fmt.Errorf("durable %d above the log end %d", l.durable, l.end)
	}
	return nil
}

// String is one line: the same that scenarios in testdata compare with.
func (l *Leader) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch=%d/%d start=%d hw=%d min=%d isr=", l.term.Epoch, l.term.PartitionEpoch, l.term.Start, l.hw, l.term.MinInsync)
	vote := func(i int, id int32) {
		if i > 0 {
			b.WriteByte(',')
		}
		if p := l.peers[id]; id != l.term.Self && (p == nil || !p.told) {
			fmt.Fprintf(&b, "%d:-", id)
		} else {
			fmt.Fprintf(&b, "%d:%d", id, l.vote(id))
		}
	}
	for i, id := range l.term.ISR {
		vote(i, id)
	}
	for _, r := range l.term.Replicas {
		if !slices.Contains(l.term.ISR, r.ID) {
			b.WriteByte(' ')
			vote(0, r.ID)
		}
	}
	for i, m := range l.proposed {
		if i == 0 {
			b.WriteString(" proposed=")
		} else {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, m.ID)
		if m.Proven {
			b.WriteByte('!')
		}
	}
	return b.String()
}
