package kafka

import (
	"sync"
	"time"
)

// faultEvery is the shortest time between two lines about failed reads: a consumer asks for a damaged batch again as
// fast as it is refused, and the log must not fill the disk with that.
const faultEvery = 10 * time.Second

// faultLimit lets one line through per faultEvery and counts the rest. The zero value is ready; it may be used
// concurrently.
type faultLimit struct {
	mu       sync.Mutex
	next     time.Time
	unlogged int64
}

// allow tells whether a line may be written now, and how many were not since the last.
func (l *faultLimit) allow(now time.Time) (unlogged int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		l.unlogged++
		return 0, false
	}
	unlogged, l.unlogged = l.unlogged, 0
	l.next = now.Add(faultEvery)
	return unlogged, true
}
