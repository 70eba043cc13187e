package replica

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNotEnoughReplicas: fewer replicas are in sync than the topic demands (H6).
var ErrNotEnoughReplicas = errors.New("not enough in-sync replicas")

// Term is what a broker knows when it begins to lead.
type Term struct {
	Self  int32 // broker id of the leader
	Epoch int32 // leader epoch
	Start int64 // log end when the term began; nothing of this term lies below
	// HighWatermark is the highest one known from before; it may be an old one (H5).
	HighWatermark int64
	Replicas      int     // how many the partition has, in sync or not
	ISR           []int32 // committed in-sync set, with Self
	MinInsync     int     // min.insync.replicas
}

// Leader is the leader's state in one term. It is not safe for concurrent use.
type Leader struct {
	term Term
	// durable is the offset up to which each member of the ISR has told, in this term, that all is synced.
	// Members that have not told are absent. (H3)
	durable map[int32]int64
	// hw never falls (H5), and every offset below it was durable on each member that was in sync when it moved.
	hw int64
}

// Lead begins a term. Nobody has reported yet, so the high watermark stays where it was known to be.
func Lead(t Term) *Leader {
	t.ISR = slices.Clone(t.ISR)
	return &Leader{term: t, durable: make(map[int32]int64, len(t.ISR)), hw: min(t.HighWatermark, t.Start)}
}

// Epoch is the leader epoch of the term.
func (l *Leader) Epoch() int32 { return l.term.Epoch }

// HighWatermark is the offset below which everything is committed.
func (l *Leader) HighWatermark() int64 { return l.hw }

// Durable notes that node has synced everything below next. The report of a node outside the in-sync set counts for
// nothing. It answers whether the high watermark moved.
func (l *Leader) Durable(node int32, next int64) (moved bool) {
	if !slices.Contains(l.term.ISR, node) || next <= l.durable[node] {
		return false
	}
	l.durable[node] = next
	return l.advance()
}

// SetMinInsync takes a new min.insync.replicas. Lowering it may let the high watermark move.
func (l *Leader) SetMinInsync(n int) (moved bool) {
	l.term.MinInsync = n
	return l.advance()
}

func (l *Leader) minInsync() int { return min(l.term.MinInsync, l.term.Replicas) }

// Writable says whether an append that waits for all in-sync replicas may be accepted (H6).
func (l *Leader) Writable() error {
	if len(l.term.ISR) < l.minInsync() {
		return fmt.Errorf("%d of %d replicas are in sync, want %d: %w", len(l.term.ISR), l.term.Replicas, l.minInsync(), ErrNotEnoughReplicas)
	}
	return nil
}

func (l *Leader) advance() bool {
	if len(l.term.ISR) < l.minInsync() { // H4
		return false
	}
	lowest := l.durable[l.term.ISR[0]]
	for _, node := range l.term.ISR[1:] {
		lowest = min(lowest, l.durable[node])
	}
	if lowest <= l.hw { // H5
		return false
	}
	l.hw = lowest
	return true
}

// Check tests what the fields promise.
func (l *Leader) Check() error {
	switch {
	case !slices.Contains(l.term.ISR, l.term.Self):
		return fmt.Errorf("leader %d is outside its in-sync set %v", l.term.Self, l.term.ISR)
	case len(l.term.ISR) > l.term.Replicas:
		return fmt.Errorf("%d in sync of %d replicas", len(l.term.ISR), l.term.Replicas)
	}
	for node := range l.durable {
		if !slices.Contains(l.term.ISR, node) {
			return fmt.Errorf("node %d counts and is not in sync (H3)", node)
		}
	}
	for _, node := range l.term.ISR {
		if l.hw > min(l.term.HighWatermark, l.term.Start) && l.hw > l.durable[node] {
			return fmt.Errorf("high watermark %d above what node %d has synced, %d (H3)", l.hw, node, l.durable[node])
		}
	}
	return nil
}

// String is one line: the same that scenarios in testdata compare with.
func (l *Leader) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch=%d start=%d hw=%d min=%d isr=", l.term.Epoch, l.term.Start, l.hw, l.minInsync())
	for i, node := range l.term.ISR {
		if i > 0 {
			b.WriteByte(',')
		}
		if next, told := l.durable[node]; told {
			fmt.Fprintf(&b, "%d:%d", node, next)
		} else {
			fmt.Fprintf(&b, "%d:-", node)
		}
	}
	return b.String()
}
