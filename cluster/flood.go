package cluster

import (
	"time"

	"github.com/weir-io/weir/log"
)

// Under load two of three calls of a follower carry no records: one tells what is synced here, the other's answer only how far the partition is committed by now; each wakes half a
// dozen goroutines on both sides. So that one call and its answer carry a whole round, both sides then wait a little for what comes anyway. The leader sends how far a partition is
// committed with the next records, the follower asks for those when it can tell what it has synced of the last. No acknowledgement waits for the first; and what a follower has
// synced it still tells at once, so that of the second an acknowledgement feels feedPause at most.

const (
	// floodBytes of records in one answer, and the next within floodGap, are load; where less comes nobody waits.
	floodBytes = 16 << 10
	floodGap   = 10 * time.Millisecond
	// feedHold is how long a leader keeps to itself at most what is committed by now.
	feedHold = 10 * time.Millisecond
	// feedPause is how long a follower with records to sync waits at most before it asks for more.
	feedPause = 3 * time.Millisecond
)

// flood says whether answers with many records follow each other closely.
type flood struct {
	on   bool
	last time.Time // when there was one
}

// answer notes one.
func (f *flood) answer(bytes int, now time.Time) {
	many := bytes >= floodBytes
	f.on = many && now.Sub(f.last) <= floodGap
	if many {
		f.last = now
	}
}

// leaves says whether the leader has more records behind those that it has sent than these are: who has to catch up does not pause.
func (n *feedNews) leaves(raw []byte) bool {
	if len(raw) == 0 {
		return false
	}
	next := log.Offset(n.AskedFrom)
	for len(raw) > 0 {
		b, err := log.NextBatch(raw, 0)
		if err != nil {
			return false // nothing is taken behind it
		}
		next, raw = b.NextOffset(), raw[b.Size():]
	}
	return log.Offset(n.LogEnd)-next > next-log.Offset(n.AskedFrom)
}

// pause is a follower's wait before it asks for more.
type pause struct {
	timer *time.Timer
	over  <-chan time.Time // nil unless it is on
}

func (p *pause) on() bool { return p.over != nil }

func (p *pause) begin() {
	if p.timer == nil {
		p.timer = time.NewTimer(feedPause)
	} else {
		p.timer.Reset(feedPause)
	}
	p.over = p.timer.C
}

func (p *pause) end() {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.over = nil
}
