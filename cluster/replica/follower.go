package replica

import "fmt"

// Follower is a replica's state in one term of another's. It is not safe for concurrent use.
type Follower struct {
	node        int32
	brokerEpoch int64
	epoch       int32
	// unclean: this epoch, or one since the follower last agreed with a leader, began with a leader that may lack something (T4).
	unclean bool
	// agreed: the leader of this epoch has not found the logs to part at where this one ends (T2).
	agreed bool
	start  int64 // where the leader's epoch begins (LESO), once agreed
	hw     int64
}

// Follow begins a term. hw is the high watermark known before; unclean says that a leader was chosen uncleanly since then.
func Follow(node int32, brokerEpoch int64, epoch int32, hw int64, unclean bool) *Follower {
	return &Follower{node: node, brokerEpoch: brokerEpoch, epoch: epoch, hw: hw, unclean: unclean}
}

// Log is where a follower's log stands.
type Log struct {
	Start   int64
	End     int64
	Durable int64
	// LastEpoch is that of the record before End; -1 when there is none.
	LastEpoch int32
	// Entry is the newest epoch whose beginning is synced in the journal, with or without records.
	Entry int32
	Ends  EpochEnd
}

// Fetch is what to ask the leader for.
func (f *Follower) Fetch(l Log) Fetch {
	return Fetch{
		Node: f.node, BrokerEpoch: f.brokerEpoch, LeaderEpoch: f.epoch,
		Durable: l.Durable, From: l.End, LastEpoch: l.LastEpoch, Entry: l.Entry,
	}
}

// Answer is what the leader said to a fetch, besides records.
type Answer struct {
	LeaderEpoch   int32
	EpochStart    int64 // where it begins (LESO)
	HighWatermark int64
	LogStart      int64
	LogEnd        int64
	Diverges      bool
	At            Point
}

// Act is what an answer asks of the follower.
type Act uint8

// Acts.
const (
	Drop     Act = iota // the answer is of another epoch, or to a question that is no longer asked: nothing is done (H7)
	Append              // the records that came follow at the log end
	Truncate            // everything at or past To is void (T1, T3)
	Reset               // the log begins anew at To (T5)
	Damage              // what would have to be cut was committed (T4)
)

// Order is an act with its operands.
type Order struct {
	Act Act
	To  int64
	Why string // Damage
}

// Answered says what an answer to fetch asked means. The caller carries it out, then asks again.
func (f *Follower) Answered(asked Fetch, a Answer, l Log) Order {
	switch {
	case a.LeaderEpoch != f.epoch || asked.LeaderEpoch != f.epoch || asked.From != l.End || asked.LastEpoch != l.LastEpoch: // H7
		return Order{Act: Drop}
	// T5: nothing here has been compared with anything there. A cut may have left the end below the start.
	case l.End < a.LogStart || l.End == a.LogStart && l.Start < a.LogStart:
		return Order{Act: Reset, To: a.LogStart}
	case a.Diverges:
		return f.truncate(a, l)
	}
	f.agreed, f.start = true, a.EpochStart
	f.unclean = false
	f.hw = max(f.hw, min(a.HighWatermark, l.End))
	return Order{Act: Append, To: l.End}
}

// truncate finds where the logs part: at the lower of both ends of the epoch that the leader names (T1), or at its log start when
// all that it has is newer.
func (f *Follower) truncate(a Answer, l Log) Order {
	to := a.LogStart
	if a.At.Epoch >= 0 {
		to = min(l.Ends(a.At.Epoch).End, a.At.End)
	}
	to = min(max(to, l.Start), l.End)
	if to < f.hw && !f.unclean || l.Start > a.LogEnd || to >= l.End || to < l.Start { // T4; what cannot be cut to where they part is of no use in any case
		return Order{Act: Damage, To: to, Why: fmt.Sprintf("the leader's log ends at %d, in epoch %d at %d, and everything below %d was committed here", a.LogEnd, a.At.Epoch, a.At.End, f.hw)}
	}
	f.hw = min(f.hw, to)
	return Order{Act: Truncate, To: to}
}

// Began notes that the log has begun anew at start: only now does nothing stand below that would count as committed with it (T5).
func (f *Follower) Began(start int64) { f.hw = max(f.hw, start) }

// Cut notes where the log ends after a truncation, which takes whole batches.
func (f *Follower) Cut(end int64) { f.hw = min(f.hw, end) }

// Appended notes that the records of an answer are in the log, which now ends at end.
func (f *Follower) Appended(leaderHW, end int64) { f.hw = max(f.hw, min(leaderHW, end)) }

// Begins says whether the beginning of the epoch, and where, is to be put into the journal now: once everything that came before it is there.
// What the follower tells to be durable counts only from then on (H3).
func (f *Follower) Begins(l Log) (start int64, now bool) {
	return f.start, f.agreed && l.Entry < f.epoch && l.End >= f.start
}

// Epoch is the leader epoch that is followed.
func (f *Follower) Epoch() int32 { return f.epoch }

// HighWatermark is how far this replica knows the partition to be committed (H7).
func (f *Follower) HighWatermark() int64 { return f.hw }

// Agreed says whether the leader has compared the logs in this epoch (T2).
func (f *Follower) Agreed() bool { return f.agreed }
