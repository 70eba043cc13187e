package replica

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// epochs is a log as far as comparing goes: the epoch of each record from start on.
type epochs struct {
	start int64
	recs  []int32
}

func (e *epochs) end() int64 { return e.start + int64(len(e.recs)) }

func (e *epochs) last() int32 {
	if len(e.recs) == 0 {
		return -1
	}
	return e.recs[len(e.recs)-1]
}

func (e *epochs) ends(epoch int32) Point {
	best := Point{-1, -1}
	for i, r := range e.recs {
		if r <= epoch {
			best = Point{r, e.start + int64(i) + 1}
		}
	}
	return best
}

func (e *epochs) log() Log {
	return Log{Start: e.start, End: e.end(), Durable: e.end(), LastEpoch: e.last(), Ends: e.ends}
}

// Two logs that were equal once and went on in different epochs. However they part, the follower ends with the leader's log; it cuts
// nothing that both have, and nothing below its high watermark unless that is damage (T1, T4, T5).
func TestFollowerEndsLikeItsLeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		grow := func(recs []int32, name string, from int32) []int32 {
			for range rapid.IntRange(0, 4).Draw(t, name+" epochs") {
				from += rapid.Int32Range(1, 3).Draw(t, name+" epoch")
				for range rapid.IntRange(1, 3).Draw(t, name+" records") {
					recs = append(recs, from)
				}
			}
			return recs
		}
		common := grow(nil, "common", 0)
		from := int32(0)
		if len(common) > 0 {
			from = common[len(common)-1]
		}
		// An epoch has one leader, so that the same epoch in both logs holds the same records: one side has the odd ones.
		odd := func(recs []int32, keep int, bit int32) []int32 {
			for i := keep; i < len(recs); i++ {
				recs[i] = recs[i]*2 + bit
			}
			return recs
		}
		// Either may have got less of the last epochs that they share.
		half := func(name string) []int32 { return common[:rapid.IntRange(0, len(common)).Draw(t, name+" has")] }
		lc, fc := half("leader"), half("follower")
		l := &epochs{recs: odd(grow(slices.Clone(lc), "leader", from), len(lc), 0)}
		f := &epochs{recs: odd(grow(slices.Clone(fc), "follower", from), len(fc), 1)}
		for i := range lc { // epochs of the common part are doubled as well, to stay in order
			l.recs[i] = common[i] * 2
		}
		for i := range fc {
			f.recs[i] = common[i] * 2
		}
		shared := int64(min(len(lc), len(fc)))
		whole := l.recs
		cut := rapid.IntRange(0, len(l.recs)).Draw(t, "deleted by the leader")
		l.start, l.recs = int64(cut), l.recs[cut:]
		if n := rapid.IntRange(0, len(fc)).Draw(t, "deleted by the follower"); n > 0 {
			f.start, f.recs = int64(n), f.recs[n:]
		}
		hw := rapid.Int64Range(0, f.end()).Draw(t, "hw")
		unclean := rapid.Bool().Draw(t, "unclean")
		const epoch = 99
		fo := Follow(2, 1, epoch, hw, unclean)
		for range 20 {
			for o := max(f.start, hw); o < min(fo.HighWatermark(), f.end()); o++ { // T5, H7
				if f.recs[o-f.start] != whole[o] {
					t.Fatalf("%d counts as committed, and the leader's was another: follower %+v leader %v", o, f, whole)
				}
			}
			asked := fo.Fetch(f.log())
			diverges, at, err := Compare(asked, Leading{epoch, l.start, l.end(), l.ends})
			if err != nil {
				t.Fatal(err)
			}
			o := fo.Answered(asked, Answer{LeaderEpoch: epoch, EpochStart: l.end(), HighWatermark: l.end(), LogStart: l.start, LogEnd: l.end(), Diverges: diverges, At: at}, f.log())
			switch o.Act {
			case Append:
				if !fo.Agreed() {
					t.Fatal("appends in an epoch in which nothing was compared (T2)")
				}
				f.recs = append(f.recs, l.recs[f.end()-l.start:]...)
				fo.Appended(l.end(), f.end())
				from := max(f.start, l.start)
				if f.end() != l.end() || !slices.Equal(f.recs[from-f.start:], l.recs[from-l.start:]) {
					t.Fatalf("follower %+v, leader %+v", f, l)
				}
				if fo.HighWatermark() != l.end() {
					t.Fatalf("high watermark %d of %d", fo.HighWatermark(), l.end())
				}
				return
			case Truncate:
				if o.To < f.start || o.To >= f.end() {
					t.Fatalf("cut to %d: %+v", o.To, f)
				}
				if o.To < min(shared, f.end(), l.end()) && o.To < l.start {
					t.Fatalf("cut to %d what both have: follower %+v leader %+v", o.To, f, l)
				}
				if o.To < hw && !unclean {
					t.Fatalf("cut to %d, committed to %d (T4)", o.To, hw)
				}
				f.recs = f.recs[:o.To-f.start]
			case Reset:
				if l.start < f.end() || o.To < f.end() {
					t.Fatalf("begins anew at %d: follower %+v leader %+v", o.To, f, l)
				}
				if fo.HighWatermark() > max(hw, f.end()) {
					t.Fatalf("high watermark %d before it has begun anew: %+v", fo.HighWatermark(), f)
				}
				*f = epochs{start: o.To}
				if fo.Began(o.To); fo.HighWatermark() < f.start {
					t.Fatalf("high watermark %d in a log that starts at %d", fo.HighWatermark(), f.start)
				}
			case Damage:
				if unclean && f.start <= l.end() {
					t.Fatal("damage after an unclean election (T4)")
				}
				if hw <= shared && f.start <= l.end() {
					t.Fatalf("damage where nothing committed is cut: %s; follower %+v leader %+v", o.Why, f, l)
				}
				return
			case Drop:
				t.Fatal("dropped an answer to what it asked")
			}
		}
		t.Fatalf("goes on for ever: follower %+v leader %+v", f, l)
	})
}

// H8: a fetch of another epoch is refused, and tells which side is behind.
func TestFetchOfAnotherEpoch(t *testing.T) {
	none := Leading{Epoch: 5, Ends: (&epochs{}).ends}
	if _, _, err := Compare(Fetch{LeaderEpoch: 4, LastEpoch: -1}, none); !errors.Is(err, ErrFencedEpoch) {
		t.Errorf("older: %v", err)
	}
	if _, _, err := Compare(Fetch{LeaderEpoch: 6, LastEpoch: -1}, none); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("newer: %v", err)
	}
}

// H7: an answer of another epoch, or to what was asked before the log changed, does nothing.
func TestLateAnswersAreDropped(t *testing.T) {
	f := &epochs{recs: []int32{1, 1}}
	fo := Follow(2, 1, 5, 1, false)
	asked := fo.Fetch(f.log())
	if o := fo.Answered(asked, Answer{LeaderEpoch: 4, Diverges: true}, f.log()); o.Act != Drop {
		t.Errorf("another epoch: %+v", o)
	}
	f.recs = append(f.recs, 2)
	if o := fo.Answered(asked, Answer{LeaderEpoch: 5, Diverges: true}, f.log()); o.Act != Drop {
		t.Errorf("asked before: %+v", o)
	}
	// The log was cut and has grown to the same length with another record: the answer would cut that (package model, hole 2).
	f.recs = []int32{1, 4}
	if o := fo.Answered(asked, Answer{LeaderEpoch: 5, Diverges: true, At: Point{-1, -1}}, f.log()); o.Act != Drop {
		t.Errorf("asked about another record: %+v", o)
	}
	if fo.Agreed() {
		t.Error("agreed by what was dropped")
	}
}

// H3: the beginning of an epoch goes into the follower's journal when everything before it is there, and once.
func TestFollowerBeginsTheEpoch(t *testing.T) {
	f := &epochs{recs: []int32{1, 1}}
	fo := Follow(2, 1, 5, 0, false)
	l := f.log()
	l.Entry = 1
	if _, now := fo.Begins(l); now {
		t.Error("begins before the logs were compared")
	}
	fo.Answered(fo.Fetch(l), Answer{LeaderEpoch: 5, EpochStart: 3, LogEnd: 3}, l)
	if _, now := fo.Begins(l); now {
		t.Error("begins before everything that came before is there")
	}
	f.recs = append(f.recs, 1)
	l = f.log()
	l.Entry = 1
	if start, now := fo.Begins(l); !now || start != 3 {
		t.Errorf("begins at %d: %t", start, now)
	}
	l.Entry = 5
	if _, now := fo.Begins(l); now {
		t.Error("begins twice")
	}
}

// H1: what counts for divergence is where the follower reads, with the record before it; the same synced offset may stand behind another log.
func TestDivergenceIsTestedAtTheLogEnd(t *testing.T) {
	leader := &epochs{recs: []int32{1, 1, 3}}
	follower := &epochs{recs: []int32{1, 1, 2}}
	asked := Follow(2, 1, 3, 0, false).Fetch(Log{End: follower.end(), Durable: 2, LastEpoch: follower.last(), Ends: follower.ends})
	diverges, at, err := Compare(asked, Leading{3, 0, leader.end(), leader.ends})
	if err != nil || !diverges || at != (Point{1, 2}) {
		t.Errorf("got %t %v %v", diverges, at, err)
	}
	if s := fmt.Sprint(asked); !strings.Contains(s, "2 3 2") { // durable 2, from 3, last epoch 2
		t.Errorf("asked %s", s)
	}
}

// T5: a cut may have left a log that ends below its start. It still begins anew at a leader's log start that lies between, and agrees to nothing.
func TestLogThatEndsBelowItsStart(t *testing.T) {
	f := Follow(2, 1, 9, 0, true)
	l := Log{Start: 105, End: 100, Durable: 100, LastEpoch: -1, Entry: 4, Ends: (&epochs{}).ends}
	if o := f.Answered(f.Fetch(l), Answer{LeaderEpoch: 9, HighWatermark: 108, LogStart: 103, LogEnd: 108}, l); o.Act != Reset || o.To != 103 || f.Agreed() {
		t.Errorf("%+v, agreed %t", o, f.Agreed())
	}
}
