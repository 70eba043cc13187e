package uplink

import (
	"errors"
	"fmt"
	"time"

	"github.com/weir-io/weir/log"
)

// figures is what a forwarder counts, under its mutex.
type figures struct {
	up          bool
	err         error // why it had to begin anew last; nil once it is connected again
	failures    int64
	records     int64
	bytes       int64
	wire        int64
	commits     int64
	deadLetters int64
	gaps        int64
	left        leftOut // counts only
	unjudged    int64
	opening     string // what the connection that is being opened waits for
	waits       string
	until       time.Time
	confirmedAt time.Time
	savedAt     time.Time
	warning     string
	sentAt      time.Time // since when something is on its way; zero while nothing is
	reached     noticing  // the connection that carries it, where it can tell that it broke
}

// Status is one shard of an uplink as its owner sees it. Fields are only ever added.
type Status struct {
	Uplink      string     `json:"uplink"`
	Shard       int        `json:"shard"`
	To          string     `json:"to"`
	State       string     `json:"state"` // idle, sending, waiting, paused, connecting, failing, stopped; nobody: without an owner
	Why         string     `json:"why,omitempty"`
	Up          bool       `json:"up"`             // the target is reached
	Node        string     `json:"node,omitempty"` // its owner
	Partitions  int        `json:"partitions"`
	LagRecords  int64      `json:"lag_records"`
	LagBytes    int64      `json:"lag_bytes"` // by the mean size of what was carried, and what rules left out of it
	LagSeconds  float64    `json:"lag_seconds"`
	Records     int64      `json:"records"`
	Bytes       int64      `json:"bytes"`
	SentBytes   int64      `json:"sent_bytes"`
	Commits     int64      `json:"commits"`
	Failures    int64      `json:"failures"`
	DeadLetters int64      `json:"dead_letters"`
	GapRecords  int64      `json:"gap_records"`
	Filtered    int64      `json:"filtered"`   // left out by the filter of their lane
	Thinned     int64      `json:"thinned"`    // and those that others stand for
	Full        int64      `json:"full"`       // given up for room before they were carried, with on_full: thin
	Unjudged    int64      `json:"unjudged"`   // carried as they are, since a rule could not read them
	DailyLeft   int64      `json:"daily_left"` // bytes, -1 without a daily budget
	Until       *time.Time `json:"until,omitempty"`
	Confirmed   *time.Time `json:"confirmed,omitempty"` // last commit
	LastError   string     `json:"last_error,omitempty"`
	Warning     string     `json:"warning,omitempty"`      // what an operator has to look at although it carries
	Link        string     `json:"link,omitempty"`         // class in use, and what it allows
	LinkError   string     `json:"link_error,omitempty"`   // why nobody can tell: the most careful holds
	LinkClosed  bool       `json:"link_closed,omitempty"`  // nothing may go over it: that the target is not reached is meant so
	DownRecords int64      `json:"down_records,omitempty"` // that came down
	DownSkipped int64      `json:"down_skipped,omitempty"` // that had begun here
	DownError   string     `json:"down_error,omitempty"`
}

// told changes the figures.
func (f *Forwarder) told(change func(*figures)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.state)
}

// failed notes why the connection was given up.
func (f *Forwarder) failed(err error) {
	f.mu.Lock()
	f.state.up, f.state.err, f.state.opening = false, err, ""
	f.state.failures++
	f.mu.Unlock()
	f.Logger.Warn("an uplink begins anew", "to", f.Config.To, "error", err)
}

// warned notes what an operator has to look at; it is shown as long as this node owns the shard.
func (f *Forwarder) warned(warning string) {
	f.told(func(s *figures) { s.warning = warning })
	f.Logger.Warn(warning)
}

// Status says how the shard does. It reads the record that has waited longest, to tell its age.
func (f *Forwarder) Status() Status {
	f.mu.Lock()
	now, st := time.Now(), &f.state
	s := Status{
		Uplink: f.Config.Name, Shard: f.Shard, To: f.Config.To, Records: st.records, Bytes: st.bytes, SentBytes: st.wire, Commits: st.commits, Failures: st.failures,
		DeadLetters: st.deadLetters, GapRecords: st.gaps,
		Filtered: st.left.Filtered, Thinned: st.left.Thinned + st.left.Averaged, Full: st.left.Full, Unjudged: st.unjudged, Up: st.up, DailyLeft: f.budget.left(now),
	}
	s.Warning = st.warning
	if f.link >= 0 {
		s.LinkClosed = f.closed()
		if s.Link = f.Config.linkText(f.link); f.linkErr != nil {
			s.LinkError = f.linkErr.Error()
		}
	}
	var waiting []*part
	var why error
	var held int64 // of LagRecords, by the link
	for _, p := range f.parts {
		if p.log == nil {
			continue
		}
		s.Partitions++
		p.settle()
		if lag := p.cursor.Lag(p.log.HighWatermark()); lag > 0 {
			s.LagRecords += lag
			if p.lane.priority > f.Config.maxPriority(f.link) {
				held += lag
			}
			if node, is := p.leader(); !is || f.away[node] == nil {
				waiting = append(waiting, p)
			}
		}
		if now.Before(p.until) {
			why = p.why
		}
	}
	if n := st.records + s.Filtered + s.Thinned + s.Full; n > 0 {
		s.LagBytes = int64(float64(s.LagRecords) * float64(st.bytes) / float64(n))
	}
	if !st.confirmedAt.IsZero() {
		at := st.confirmedAt
		s.Confirmed = &at
	}
	switch {
	case f.paused:
		s.State = "paused"
	case f.closed():
		s.State, s.Why = "waiting", "nothing goes over this link"
	case errors.Is(st.err, errWentBack):
		s.State, s.Why = "stopped", st.err.Error()
	case !st.up && st.opening != "":
		s.State, s.Why = "connecting", st.opening
	case st.err != nil:
		s.State, s.Why = "failing", st.err.Error()
	case !st.up:
		s.State = "connecting"
	case st.waits != "" && s.LagRecords > 0:
		s.State, s.Why = "waiting", st.waits
		until := st.until
		s.Until = &until
	case why != nil:
		s.State, s.Why = "failing", why.Error()
	case held > 0 && held == s.LagRecords:
		s.State, s.Why = "waiting", "what waits is for another link"
	case s.LagRecords > 0:
		s.State, s.Why = "sending", st.silence(now)
	default:
		s.State = "idle"
	}
	if st.err != nil {
		s.LastError = st.err.Error()
	}
	for _, d := range f.downs {
		d.mu.Lock()
		s.DownRecords, s.DownSkipped = s.DownRecords+d.taken, s.DownSkipped+d.skipped
		if d.err != nil {
			s.DownError = fmt.Sprintf("%s: %v", d.cfg.From, d.err)
		}
		d.mu.Unlock()
	}
	ats := make([]Span, len(waiting))
	for i, p := range waiting {
		ats[i] = p.cursor.Missing(0, p.log.HighWatermark())
	}
	f.mu.Unlock()
	for i, p := range waiting {
		if time.Since(now) > agesWithin {
			break
		}
		if age, ok := ageAt(p.log, ats[i], now); ok {
			s.LagSeconds = max(s.LagSeconds, age.Seconds())
		}
	}
	return s
}

// quietFor is how long a commit may take until somebody wonders: what the pace sizes takes a second at the most.
const quietFor = 5 * time.Second

// silence says for how long nothing was confirmed of what is on its way, which is waited for almost a minute. Under Forwarder.mu.
func (s *figures) silence(now time.Time) string {
	quiet := now.Sub(s.sentAt)
	if s.sentAt.IsZero() || quiet < quietFor {
		return ""
	}
	why := fmt.Sprintf("nothing of what is on its way was confirmed for %s", quiet.Round(time.Second))
	if s.reached != nil {
		if err := s.reached.ended(); err != nil {
			why += ": " + err.Error()
		}
	}
	return why
}

// agesWithin is how long Status looks for the oldest: a read from a leader elsewhere may take until it is given up.
const agesWithin = time.Second

// ageAt is how long ago the first record of a span was stamped.
func ageAt(l Log, s Span, now time.Time) (time.Duration, bool) {
	got, err := l.Read(max(s.From, l.LogStart()), 1, nil)
	if err != nil || len(got) == 0 {
		return 0, false
	}
	b, err := log.NextBatch(got, 0)
	if err != nil {
		return 0, false
	}
	return max(now.Sub(time.UnixMilli(b.BaseTimestamp())), 0), true
}
