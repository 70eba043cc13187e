package log

import (
	"math"
	"sort"
)

// epochStart says that leader epoch epoch begins at offset start (LESO).
type epochStart struct {
	epoch Epoch
	start Offset
}

// epochList is the epoch index of a partition: epochs and starts both rise, starts strictly (A3).
type epochList []epochStart

// begin notes that e begins at start. Of epochs with the same start only the newest is kept, so that
// a storm of restarts without appends leaves one entry (A3).
func (l epochList) begin(e Epoch, start Offset) epochList {
	for len(l) > 0 && l[len(l)-1].start >= start {
		l = l[:len(l)-1]
	}
	return append(l, epochStart{e, start})
}

// truncate drops epochs that begin at or past o (T3).
func (l epochList) truncate(o Offset) epochList {
	for len(l) > 0 && l[len(l)-1].start >= o {
		l = l[:len(l)-1]
	}
	return l
}

// trim forgets what lies wholly below logStart; the epoch that contains logStart stays, beginning there.
func (l epochList) trim(logStart Offset) epochList {
	i := sort.Search(len(l), func(i int) bool { return l[i].start > logStart }) - 1
	if i < 0 {
		return l
	}
	l = append(epochList(nil), l[i:]...)
	l[0].start = max(l[0].start, logStart)
	return l
}

// last is the newest epoch, or -1.
func (l epochList) last() Epoch {
	if len(l) == 0 {
		return -1
	}
	return l[len(l)-1].epoch
}

// before is the epoch of the record before end in a log that begins at start; -1 when there is no record.
func (l epochList) before(end, start Offset) Epoch {
	if end <= start {
		return -1
	}
	i := sort.Search(len(l), func(i int) bool { return l[i].start >= end }) - 1
	if i < 0 {
		return -1
	}
	return l[i].epoch
}

// end answers KIP-320's OffsetForLeaderEpoch: the greatest epoch not above e and the offset at which
// it ends, given the log end; (-1, -1) when e is older than all that is known.
func (l epochList) end(e Epoch, logEnd Offset) (Epoch, Offset) {
	i := sort.Search(len(l), func(i int) bool { return l[i].epoch > e }) - 1
	if i < 0 {
		return -1, -1
	}
	if i+1 < len(l) {
		return l[i].epoch, l[i+1].start
	}
	return l[i].epoch, logEnd
}

// at is the epoch that o lies in and the offset where the next one begins; (-1, start of the first) below the first.
func (l epochList) at(o Offset) (e Epoch, next Offset) {
	lo, hi := 0, len(l) // l[:lo] begin at or below o, l[hi:] past it
	for lo < hi {
		if mid := (lo + hi) / 2; l[mid].start <= o {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	e, next = -1, math.MaxInt64
	if lo > 0 {
		e = l[lo-1].epoch
	}
	if lo < len(l) {
		next = l[lo].start
	}
	return e, next
}

// strays says that b cannot be of the epoch that the index has where b begins. A batch's epoch stands under no checksum,
// the index does: the batch is damaged. Exceptions are in doc.go (T6): below the first epoch nothing is known, and lost
// offsets may be covered in an epoch before theirs.
func strays(b Batch, e Epoch) bool {
	return e >= 0 && b.LeaderEpoch() != e && !(b.LeaderEpoch() < e && b.Count() == 0 && b.ProducerID() < 0 && b.MaxTimestamp() < 0)
}
