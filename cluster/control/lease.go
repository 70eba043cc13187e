package control

import "time"

// Lease is a broker's side of its lease (E4): until when it may serve what is bound to it. It belongs to one process.
//
// A lease is counted from the time at which a renewal was SENT, so that however late the answer comes, the controller heard it after that
// time and waits longer. And it is extended only once the broker has applied the metadata that the answer names: a
// broker that is well, in touch, and late in applying would else serve on as a leader without end (replica/model, hole 7).
//
// A registration is a renewal too: it was sent before it was proposed, and its answer names a version. Only the leader of the
// quorum answers renewals, after its barrier (C5).
type Lease struct {
	timing  Timing
	until   time.Duration
	any     bool // it has been extended once
	sent    time.Duration
	sentAny bool
	applied uint64
	pending []renewal // answered, and not applied; by the time they were sent
}

// renewal is an answered renewal that waits for metadata.
type renewal struct {
	sent    time.Duration
	version uint64
}

// maxPending bounds pending, should renewals be sent much more often than the profile says.
const maxPending = 64

// NewLease is the lease of a process that has not renewed yet. It holds nothing.
func NewLease(t Timing) *Lease { return &Lease{timing: t} }

// Sent notes that a renewal leaves now.
func (l *Lease) Sent(now time.Duration) { l.sent, l.sentAny = now, true }

// Due is when the next renewal is to be sent.
func (l *Lease) Due() time.Duration {
	if !l.sentAny {
		return 0
	}
	return l.sent + l.timing.Renew
}

// Answered notes the controller's answer to the renewal that was sent at sentAt. newest is the version of the controller's
// metadata when it answered. Answers may come late, twice and in any order.
func (l *Lease) Answered(sentAt time.Duration, newest uint64) {
	if !l.sentAny || sentAt > l.sent { // nothing was sent then
		return
	}
	if newest <= l.applied {
		l.extend(sentAt)
		return
	}
	live := l.pending[:0]
	for _, r := range l.pending {
		if r.sent+l.timing.Stop > l.sent { // else it would have ended by now
			live = append(live, r)
		}
	}
	if len(live) == maxPending {
		live = append(live[:0], live[1:]...)
	}
	l.pending = append(live, renewal{sentAt, newest})
}

// Applied notes that all metadata up to version is in force here.
func (l *Lease) Applied(version uint64) {
	l.applied = max(l.applied, version)
	waiting := l.pending[:0]
	for _, r := range l.pending {
		if r.version <= l.applied {
			l.extend(r.sent)
		} else {
			waiting = append(waiting, r)
		}
	}
	l.pending = waiting
}

func (l *Lease) extend(sent time.Duration) {
	if until := sent + l.timing.Stop; !l.any || until > l.until {
		l.until, l.any = until, true
	}
}

// Holds says whether the broker may serve what its lease covers: reads as a leader (R2), and answers at its own disk alone (A1).
func (l *Lease) Holds(now time.Duration) bool { return l.any && now < l.until }

// Expires is when the lease ends, unless it is extended; false if it was never held.
func (l *Lease) Expires() (time.Duration, bool) { return l.until, l.any }
