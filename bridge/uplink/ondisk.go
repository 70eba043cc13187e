package uplink

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/weir-io/weir/log"
)

// With on_full: thin the log gives up for its quota what the lane would leave out anyway: of old records all but the last of each key and interval. So the target gets what
// it would have got, and the disk has room meanwhile (log.Thinner). What is thinned once stays so when it is thinned again; that is not true of every, and a mean on the disk
// would be a record that nobody has published.

// checkThinning names what on_full: thin cannot do.
func (c *Config) checkThinning(fault func(key, format string, args ...any)) {
	if c.OnFull != onFullThin {
		return
	}
	some := false
	for i, l := range c.Lanes {
		if l.Thin == nil {
			continue
		}
		some = true
		switch {
		case l.Thin.MeanOver != 0:
			fault("on_full", "thin writes no means to the disk, as lanes[%d].thin.mean_over wants: use last_over there, or on_full: drop-oldest", i)
		case l.Thin.Every != 0:
			fault("on_full", "thin would leave out all but each n-th twice, on the disk and when it is carried, as lanes[%d].thin.every has it: use last_over there, or on_full: drop-oldest", i)
		}
	}
	if !some {
		fault("on_full", "thin wants a lane that says what may go, as in thin: {after: 1h, last_over: 1m}")
	}
}

// Thinner says what of a topic the log may give up before its segments go; nil where this uplink does not say.
func (c *Config) Thinner(topic string) log.Thinner {
	i := c.laneOf(topic).index
	if c.OnFull != onFullThin || i < 0 || c.Lanes[i].Thin == nil {
		return nil
	}
	return &onDisk{topic, c.Lanes[i].newRule(), slices.ContainsFunc(c.Down, func(d Down) bool { return d.Topic == topic })}
}

type onDisk struct {
	topic    string
	rule     *rule
	downward bool // the topic gets what comes down
}

// Group is the record's key and interval. What the lane's filter leaves out is a group of its own, or it would outdate what is to be carried.
func (o *onDisk) Group(buf []byte, r *log.Record, now time.Time) ([]byte, bool) {
	thin := o.rule.thin
	if !thin.old(r, now) || !thin.together(r) {
		return buf, false
	}
	if o.downward && broughtDown(r) { // it is not carried, and so outdates nothing that is
		return buf, false
	}
	passes := byte(1)
	if o.rule.filter != nil {
		if keep, _ := o.rule.filter.keeps(o.topic, r); !keep {
			passes = 0
		}
	}
	buf = binary.AppendVarint(append(buf, passes), floorDiv(r.Timestamp, thin.LastOver.Milliseconds()))
	return append(buf, r.Key...), true
}

// broughtDown says whether a record came down from some target.
func broughtDown(r *log.Record) bool {
	for _, h := range r.Headers {
		switch string(h.Key) {
		case headerQoS: // user properties follow
			return false
		case ViaHeader:
			return true
		}
	}
	return false
}
