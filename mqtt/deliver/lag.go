package deliver

import (
	"slices"

	"github.com/weir-io/weir/log"
)

// lag is the place of a session that is behind in one partition. There are two forms: postings, the
// offsets of its messages up to the partition's scanned position, or a scan, which knows only where
// to begin. p.mu guards it; next also needs the session's catchUp lock to change.
type lag struct {
	s    *session
	p    *partition
	next log.Offset   // nothing before it is left to give
	post []log.Offset // ascending; unused when scan
	scan bool
	// checked is the end of the segment that was last looked at whether it can be skipped. Owned by catchUp.
	checked log.Offset
	// qos0From: messages of QoS 0 before it passed while the session was absent and are not given.
	qos0From log.Offset
}

// newLag puts a session behind; the caller notes a posting or turns the lag to a scan. p.mu must be held.
func (p *partition) newLag(s *session, next log.Offset) *lag {
	l := &lag{s: s, p: p, next: next}
	p.lags[s] = l
	p.fresh[l] = struct{}{}
	s.lagging.Add(1)
	s.mu.Lock()
	s.lags = append(s.lags, l)
	s.mu.Unlock()
	return l
}

// place is the first offset that may be left to give. p.mu must be held.
func (l *lag) place() log.Offset {
	if l.scan {
		return l.next
	}
	return max(l.next, l.post[0])
}

// removeLag makes a session live again. p.mu must be held.
func (p *partition) removeLag(l *lag) {
	if p.lags[l.s] != l {
		return
	}
	delete(p.lags, l.s)
	delete(p.fresh, l)
	if l.scan {
		p.scans--
	}
	p.h.postings.Add(-int64(len(l.post)))
	l.post = nil
	l.s.mu.Lock()
	for i, other := range l.s.lags {
		if other == l {
			last := len(l.s.lags) - 1
			l.s.lags[i] = l.s.lags[last]
			l.s.lags[last] = nil
			l.s.lags = l.s.lags[:last]
			break
		}
	}
	l.s.mu.Unlock()
	l.s.lagging.Add(-1)
}

// denseFrom is how many postings it takes to judge their density.
const denseFrom = 64

// note adds a posting, or turns to a scan where postings would cost more than reading again: too many
// of them, or so dense that a scan meets little else. p.mu must be held.
func (l *lag) note(offset log.Offset) {
	if l.scan {
		return
	}
	h, n := l.p.h, len(l.post)
	dense := n >= denseFrom && offset-l.post[0] < 4*log.Offset(n)
	if dense {
		l.s.dense.Store(true)
	}
	if dense || n >= h.limits.PostingsEach || h.postings.Load() >= int64(h.limits.Postings) {
		first := offset
		if n > 0 {
			first = l.post[0]
		}
		l.toScan(max(l.next, first))
		h.counters.collapsed.Add(1)
		return
	}
	l.post = append(l.post, offset)
	h.postings.Add(1)
}

// fallBehind puts a session behind with its first message. One that gets nearly everything scans from
// there: otherwise its window, as it fills and empties, would have the tail read ahead for nothing.
// p.mu must be held.
func (p *partition) fallBehind(s *session, offset log.Offset) {
	l := p.newLag(s, offset)
	if s.dense.Load() {
		l.toScan(offset)
		return
	}
	l.note(offset)
}

// toScan turns a lag to a scan from next. p.mu must be held.
func (l *lag) toScan(next log.Offset) {
	if !l.scan {
		l.scan = true
		l.p.scans++
		l.p.h.postings.Add(-int64(len(l.post)))
		l.post = nil
	}
	l.next = next
}

// settle moves a lag's place up and ends the lag when nothing is left in it. p.mu must be held.
func (l *lag) settle(next log.Offset) {
	l.next = max(l.next, next)
	if l.scan {
		if l.next >= l.p.positionLocked(l.s) {
			l.p.removeLag(l)
		}
		return
	}
	n := 0
	for n < len(l.post) && l.post[n] < l.next {
		n++
	}
	l.p.h.postings.Add(-int64(n))
	l.post = l.post[:copy(l.post, l.post[n:])]
	if len(l.post) == 0 {
		l.p.removeLag(l)
	}
}

// lagList is a copy of the session's lags.
func (s *session) lagList() []*lag {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lags)
}

// dropLags forgets what is pending for a session that ended.
func (h *Hub) dropLags(s *session) {
	s.catchUp.Lock()
	defer s.catchUp.Unlock()
	for _, l := range s.lagList() {
		l.p.mu.Lock()
		l.p.removeLag(l)
		l.p.mu.Unlock()
	}
}
