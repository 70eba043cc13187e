package log

import "time"

// What retention deletes is decided here, from facts alone; doing it is the partition's.

// segmentFacts is what the decisions need to know of one segment.
type segmentFacts struct {
	base, next Offset // half-open
	size       int64  // bytes
	// lastAppend is the wall time of the last append, not of the records: a device clock of 1970 must not
	// delete a fresh record. Zero = not known, which counts as now.
	lastAppend time.Time
	trusted    bool // the clock was trusted then, or the stamp was put right later
}

// retention is the policy of one partition.
type retention struct {
	age   time.Duration // delete what was last appended to longer ago; < 0 = for ever
	bytes int64         // keep about so many bytes; <= 0 = no limit
}

// retentionReason says why segments go, for the log line and the metric.
type retentionReason string

const (
	retainAll       retentionReason = ""
	belowLogStart   retentionReason = "below log start"
	retentionByAge  retentionReason = "retention.ms"
	retentionBySize retentionReason = "retention.bytes"
	retentionByDisk retentionReason = "disk quota"
)

// expired says how many of the closed segments, oldest first, are to go, and why the last of them.
//
// Segments go only from the front. What lies below logStart goes anyway, others only if they end at or below
// limit: the high watermark, or a consumer that must not be overtaken. By size, a segment goes only if the
// partition still holds policy.bytes without it, as in Kafka; activeSize counts but stays. By age,
// both clocks must be trusted, that of the append and today's.
func (r retention) expired(closed []segmentFacts, activeSize int64, logStart, limit Offset, now time.Time, clockTrusted bool) (n int, why retentionReason) {
	total := activeSize
	for i := range closed {
		total += closed[i].size
	}
	for ; n < len(closed); n++ {
		s := &closed[n]
		switch {
		case s.next <= logStart:
			why = belowLogStart
		case s.next > limit:
			return n, why
		case r.tooOld(s, now, clockTrusted):
			why = retentionByAge
		case r.bytes > 0 && total-s.size >= r.bytes:
			why = retentionBySize
		default:
			return n, why
		}
		total -= s.size
	}
	return n, why
}

func (r retention) tooOld(s *segmentFacts, now time.Time, clockTrusted bool) bool {
	return r.age >= 0 && clockTrusted && s.trusted && !s.lastAppend.IsZero() && now.Sub(s.lastAppend) > r.age
}

// rollExpired says whether the active segment holds only records past retention and must be closed so
// that they can go: a partition that fell silent keeps nothing beyond its time.
func (r retention) rollExpired(active segmentFacts, now time.Time, clockTrusted bool) bool {
	return active.size > 0 && r.tooOld(&active, now, clockTrusted)
}

// reclaimable is what one partition offers when the node runs out of room.
type reclaimable struct {
	closed []segmentFacts // oldest first
	limit  Offset         // nothing past it may go
	keep   bool           // nothing may go: compacted and internal topics
	thin   int            // how many at the end of closed are thinned where others go
}

// reclaim chooses segments to delete until need bytes are freed: over all partitions the one silent
// for longest first, within a partition from the front. It returns for each partition how many of its
// segments go, and the bytes freed, which may be less than needed.
func reclaim(parts []reclaimable, need int64) (goes []int, freed int64) {
	goes = make([]int, len(parts))
	for freed < need {
		best := -1
		for i := range parts {
			p := &parts[i]
			if p.keep || goes[i] == len(p.closed) || p.closed[goes[i]].next > p.limit {
				continue
			}
			if best < 0 || olderThan(&p.closed[goes[i]], &parts[best].closed[goes[best]]) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		freed += parts[best].closed[goes[best]].size
		goes[best]++
	}
	return goes, freed
}

// olderThan orders by last append. A stamp that is missing, or was taken with a clock not trusted, counts as
// now; among those the larger goes first, since it frees more.
func olderThan(a, b *segmentFacts) bool {
	aKnown, bKnown := a.trusted && !a.lastAppend.IsZero(), b.trusted && !b.lastAppend.IsZero()
	switch {
	case aKnown && bKnown:
		return a.lastAppend.Before(b.lastAppend)
	case aKnown != bKnown:
		return aKnown
	}
	return a.size > b.size
}
