package uplink

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/weir-io/weir/log"
)

// Lanes say what goes next, the budget whether anything may go now, the pace how much at once. All three are pure.

// lane is a Lane as the forwarder uses it.
type lane struct {
	priority  int
	liveFirst bool
	index     int // in Config.Lanes, -1 when none names the topic
}

// laneOf is the first lane that names the topic, else the last in order.
func (c *Config) laneOf(topic string) lane {
	for i, l := range c.Lanes {
		if slices.ContainsFunc(l.Topics, func(g string) bool { ok, _ := path.Match(g, topic); return ok }) {
			return lane{l.Priority, l.Order == orderLiveFirst, i}
		}
	}
	return lane{lastPriority, false, -1}
}

// view is what decides about a partition: its cursor, where the log begins and ends, and from where on it is carried live.
type view struct {
	lane
	cursor     Cursor
	start, end log.Offset
	live       log.Offset // in a lane with liveFirst: what is at or past it goes before what is below
}

// pick is what is to be read of one partition.
type pick struct {
	index int // in the views
	span  Span
	live  bool
}

// order lists all that waits: by priority; within one, what is live before what is old; within that, partitions in turn, beginning at another with each call.
func order(views []view, turn int) []pick {
	var picks []pick
	for i := range views {
		v := &views[(i+turn)%len(views)]
		index := (i + turn) % len(views)
		if !v.liveFirst {
			if s := v.cursor.Missing(v.start, v.end); s.From < s.To {
				picks = append(picks, pick{index, s, false})
			}
			continue
		}
		if s := v.cursor.Missing(max(v.live, v.start), v.end); s.From < s.To {
			picks = append(picks, pick{index, s, true})
		}
		if s := v.cursor.Missing(v.start, min(v.live, v.end)); s.From < s.To {
			picks = append(picks, pick{index, s, false})
		}
	}
	slices.SortStableFunc(picks, func(a, b pick) int {
		if c := cmp.Compare(views[a.index].priority, views[b.index].priority); c != 0 {
			return c
		}
		switch {
		case a.live == b.live:
			return 0
		case a.live:
			return -1
		}
		return 1
	})
	return picks
}

// liveBacklog is how many offsets must wait before a lane with live_first carries the newest first: fewer are carried at once in order.
const liveBacklog = 1000

// goLive says from where on a partition is carried live when the forwarder begins, or begins again after a failure: past a backlog if there is one.
func (v *view) goLive() log.Offset {
	if !v.liveFirst || len(v.cursor.Ahead) >= maxAhead {
		return 0
	}
	last := v.cursor.Next
	if n := len(v.cursor.Ahead); n > 0 {
		last = v.cursor.Ahead[n-1].To
	}
	last = max(last, v.start)
	if v.end-last > liveBacklog {
		return v.end
	}
	return last
}

// budget says when the link may be used. The zero value always allows.
type budget struct {
	limits Limits
	tokens float64   // bytes that may be sent; below 0 they are owed
	filled time.Time // as of when

	day   string           // local date that spent counts for
	spent int64            // bytes
	past  map[string]int64 // of other days: a clock that jumps comes back to them
}

const pastDays = 8

// dayOf names a local day.
func dayOf(t time.Time) string { return t.Format(time.DateOnly) }

// wait is how long nothing may be sent, and why; 0 when something may.
func (b *budget) wait(now time.Time) (time.Duration, string) {
	b.fill(now)
	if next := b.limits.nextWindow(now); next.After(now) {
		return next.Sub(now), "waits for its window"
	}
	if b.limits.Daily > 0 && b.spent >= int64(b.limits.Daily) {
		midnight := time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, now.Location())
		return midnight.Sub(now), "has used up its daily budget"
	}
	if b.limits.Rate > 0 && b.tokens < 0 {
		return time.Duration(-b.tokens / float64(b.limits.Rate) * float64(time.Second)), ""
	}
	return 0, ""
}

// charge notes what was sent.
func (b *budget) charge(now time.Time, bytes int64) {
	b.fill(now)
	b.tokens -= float64(bytes)
	b.spent += bytes
}

func (b *budget) fill(now time.Time) {
	if d := dayOf(now); d != b.day {
		b.turn(d)
	}
	burst := float64(b.limits.Rate) / 4 // a quarter of a second
	if b.filled.IsZero() {
		b.tokens = burst
	} else if past := now.Sub(b.filled); past > 0 {
		b.tokens = min(b.tokens+past.Seconds()*float64(b.limits.Rate), burst)
	}
	b.filled = now
}

// turn goes to another day. A later one begins with nothing spent; an earlier one, since the clock was wrong, with what was spent then, or by now if nobody knows: a clock
// that jumps to and fro gives nothing away, nor takes anything for good.
func (b *budget) turn(day string) {
	if b.past == nil {
		b.past = map[string]int64{}
	}
	b.past[b.day] = b.spent
	if spent, known := b.past[day]; known {
		b.spent = spent
	} else if day > b.day {
		b.spent = 0
	}
	b.day = day
	if len(b.past) > pastDays {
		delete(b.past, slices.Min(slices.Collect(maps.Keys(b.past))))
	}
}

// left is what of the daily budget is left, -1 when there is none.
func (b *budget) left(now time.Time) int64 {
	if b.limits.Daily == 0 {
		return -1
	}
	b.fill(now)
	return max(int64(b.limits.Daily)-b.spent, 0)
}

// pace sizes what is sent at once, in bytes on the link, so that the target confirms it in about pacedCommit: a fast link gets megabytes at a time, and on a slow one what is
// urgent waits for little.
type pace struct{ bytes int }

const (
	minChunk    = 16 << 10
	firstChunk  = 64 << 10
	maxChunk    = 2 << 20
	pacedCommit = 200 * time.Millisecond
)

// chunk is how many bytes to send next.
func (p *pace) chunk(l Limits) int {
	if p.bytes == 0 {
		p.bytes = firstChunk
	}
	if l.Rate > 0 {
		return max(min(p.bytes, int(l.Rate/4)), minChunk/4)
	}
	return p.bytes
}

// took notes how long a chunk took from its first byte to its confirmation, how much of that went into a round trip, and whether more was waiting. Two trips are in it, the answer to what
// was sent and that to the commit: they are no reason to send less at once, up to a second, as over a satellite.
func (p *pace) took(d, trip time.Duration, full bool) {
	d -= min(2*trip, 5*pacedCommit)
	share := float64(pacedCommit) / float64(max(d, pacedCommit/2))
	switch {
	case d > pacedCommit*5/4:
		p.bytes = max(int(float64(p.bytes)*share), minChunk)
	case d < pacedCommit && full:
		p.bytes = min(int(float64(p.bytes)*share), maxChunk)
	}
}

// failed notes that nothing came of a chunk: a link on which it takes too long gets smaller ones.
func (p *pace) failed() { p.bytes = max(p.bytes/4, minChunk) }
