package throttle

import "time"

// Table has a meter for each client that was active lately. It is used by one goroutine at a time.
type Table[K comparable] struct {
	max    int
	meters map[K]*entry
	swept  time.Duration
}

type entry struct {
	Meter
	limit float64 // as of the last look, by which it drains until the next
}

const (
	sweepEvery = Window          // where there is room
	sweepFull  = 1 * time.Second // where there is none: a sweep looks at all meters
)

// NewTable makes a table of at most so many meters of clients; once there are as many, those of rules come on top, one for each (T3).
func NewTable[K comparable](max int) Table[K] {
	return Table[K]{max: max, meters: make(map[K]*entry)}
}

// Meter is the client's, or where there is no room for one the rule's. The caller uses it before anything else is asked of the table.
func (t *Table[K]) Meter(client, rule K, now time.Duration, limit float64) *Meter {
	e := t.meters[client]
	if e == nil {
		if idle := now - t.swept; idle >= sweepEvery || idle >= sweepFull && len(t.meters) >= t.max {
			t.sweep(now)
		}
		if len(t.meters) >= t.max {
			client = rule
			e = t.meters[client]
		}
		if e == nil {
			e = &entry{Meter: Meter{at: now}}
			t.meters[client] = e
		}
	}
	e.limit = limit
	return &e.Meter
}

// Len is how many meters there are.
func (t *Table[K]) Len() int { return len(t.meters) }

func (t *Table[K]) sweep(now time.Duration) {
	t.swept = now
	for k, e := range t.meters {
		if e.empty(now, e.limit) {
			delete(t.meters, k)
		}
	}
}
