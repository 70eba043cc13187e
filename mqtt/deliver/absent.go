package deliver

import "github.com/weir-io/weir/log"

// absentPerRound bounds how many sessions one Absence asks to have stored.
const absentPerRound = 4096

// Absence is what can be stored about all sessions that are away, together: without it the stored
// cursor of each would stay where the session left, and a restart would read from there on.
//
// Floor says how far the partitions were scanned. A session that is away and has no message waiting in
// a partition stands there, whatever its own stored cursor says. One that has must not be raised: its
// cursor says so (Cursor.Behind), for good, since the place of the first message that waits does not
// move while the session is away. So each session is written when it gets its first message in a
// partition, and all others cost one record together. Behind names those to be written before Floor is.
type Absence struct {
	Floor  Cursor
	Behind []string
	noted  []*lag
}

// Absent collects what to store now; ok is false when nobody is away. Floor may be stored once the
// cursors of Behind, read after this call, are: Noted says that they are.
func (h *Hub) Absent() (a Absence, ok bool) {
	if h.listeners.Load() == 0 || !h.anyoneAway() {
		return Absence{}, false
	}
	named := map[*session]bool{}
	for _, p := range *h.parts.Load() {
		p.mu.Lock()
		p.trimLags(named)
		floor := p.tail
		if p.rebuild != nil {
			floor = min(floor, p.rebuild.pos)
		}
		for l := range p.fresh {
			if l.s.online() != nil || l.s.group != nil {
				continue // stored by its connection, or under the group's own key
			}
			if len(named) >= absentPerRound && !named[l.s] {
				floor = min(floor, l.place())
				continue
			}
			named[l.s] = true
			a.noted = append(a.noted, l)
		}
		p.mu.Unlock()
		a.Floor.Set(p.id, floor)
	}
	for s := range named {
		a.Behind = append(a.Behind, s.id)
	}
	return a, !a.Floor.IsZero()
}

// Noted says that the cursors of a.Behind are committed.
func (h *Hub) Noted(a Absence) {
	for _, l := range a.noted {
		l.p.mu.Lock()
		delete(l.p.fresh, l)
		l.p.mu.Unlock()
	}
}

// Rebuilding says whether a shared pass after a restart is under way.
func (h *Hub) Rebuilding() bool {
	for _, p := range *h.parts.Load() {
		if p.rebuildAt.Load() >= 0 {
			return true
		}
	}
	return false
}

func (h *Hub) anyoneAway() (away bool) {
	h.sessions.Range(func(_, v any) bool {
		s := v.(*session)
		away = s.durable.Load() && s.online() == nil
		return !away
	})
	return away
}

// trimLags takes out of the lags of absent sessions what retention took from the log; those that come
// back find out by themselves. Sessions that lost something are named. p.mu must be held.
func (p *partition) trimLags(named map[*session]bool) {
	start := p.log.LogStart()
	if start <= p.trimmed {
		return
	}
	p.trimmed = start
	for s, l := range p.lags {
		from := l.place()
		if from >= start || s.online() != nil {
			continue
		}
		messages := int64(start - from)
		if !l.scan {
			messages = 0
			for _, o := range l.post {
				if o < start {
					messages++
				}
			}
		}
		p.h.lostMessages(s, p, Loss{Partition: p.id, First: from, Next: start, Messages: messages})
		if s.group == nil {
			named[s] = true
		}
		p.fresh[l] = struct{}{}
		l.settle(start)
	}
}

// Loss is what retention took from one partition before a session was given it.
type Loss struct {
	Partition   log.PartitionID
	First, Next log.Offset // half open
	Messages    int64      // at most so many were the session's
}
