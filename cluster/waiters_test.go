package cluster

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-io/weir/log"
)

// recorder is a Waiter that remembers, by number, what it was told.
type recorder struct{ told []uint64 }

func (r *recorder) Committed(first uint64, n int, _ error) {
	for i := range n {
		r.told = append(r.told, first+uint64(i))
	}
}

func TestRingCoalescesOneWaiter(t *testing.T) {
	var r ring
	a, b := &recorder{}, &recorder{}
	for i := range 100 {
		r.push(waiting{first: log.Offset(i), n: 1, seq: uint64(i), w: a})
	}
	if r.n != 1 {
		t.Errorf("100 pipelined records take %d entries", r.n)
	}
	r.push(waiting{first: 100, n: 1, seq: 0, w: b})   // another waiter
	r.push(waiting{first: 101, n: 1, seq: 100, w: a}) // back to the first
	r.push(waiting{first: 102, n: 1, seq: 102, w: a}) // a number is missing
	r.push(waiting{first: 104, n: 1, seq: 103, w: a}) // an offset is missing
	if r.n != 5 {
		t.Errorf("got %d entries, want 5", r.n)
	}
}

func TestRingSplitsAnEntry(t *testing.T) {
	var r ring
	w := &recorder{}
	r.push(waiting{first: 10, n: 1, seq: 5, w: w})
	r.push(waiting{first: 11, n: 1, seq: 6, w: w})
	r.push(waiting{first: 12, n: 1, seq: 7, w: w})
	if got := r.take(12, nil); !slices.Equal(got, []waiting{{first: 10, n: 2, seq: 5, w: w}}) {
		t.Errorf("below 12: %+v", got)
	}
	if got := r.take(12, nil); len(got) != 0 {
		t.Errorf("told twice: %+v", got)
	}
	if got := r.take(13, nil); !slices.Equal(got, []waiting{{first: 12, n: 1, seq: 7, w: w}}) {
		t.Errorf("below 13: %+v", got)
	}
}

// Against a plain list: whatever is pushed, placed and taken, everybody is told once, in the order of offsets, and never early.
func TestRingModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ring
		waiters := []*recorder{{}, {}, {}}
		seqs := make([]uint64, len(waiters))
		type one struct {
			at  log.Offset
			seq uint64
			w   Waiter
		}
		var model []one
		var batches []waiting
		var end, taken log.Offset
		note := func(e waiting) {
			for i := range e.n {
				model = append(model, one{e.first + log.Offset(i), e.seq + uint64(i), e.w})
			}
		}
		check := func(got []waiting, below log.Offset) {
			var want []one
			want, model = split(model, func(o one) bool { return o.at < below })
			var flat []one
			for _, e := range got {
				for i := range e.n {
					flat = append(flat, one{e.first + log.Offset(i), e.seq + uint64(i), e.w})
				}
			}
			byOffset := func(x, y one) int { return int(x.at - y.at) }
			// Records of a batch sent again share offsets with others: any order among those is fine.
			slices.SortStableFunc(flat, byOffset)
			slices.SortStableFunc(want, byOffset)
			for _, o := range flat {
				if !slices.Contains(want, o) {
					t.Fatalf("told %+v below %d, want %+v", o, below, want)
				}
			}
			if len(flat) != len(want) {
				t.Fatalf("told %d below %d, want %d", len(flat), below, len(want))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				i := rapid.IntRange(0, len(waiters)-1).Draw(t, "waiter")
				end += log.Offset(rapid.IntRange(0, 1).Draw(t, "gap"))
				n := rapid.IntRange(1, 3).Draw(t, "n")
				e := waiting{first: end, n: n, seq: seqs[i], w: waiters[i]}
				r.push(e)
				note(e)
				end = e.next()
				seqs[i] += uint64(n)
			},
			"produce": func(t *rapid.T) {
				e := waiting{first: end, n: rapid.IntRange(1, 3).Draw(t, "n"), w: &recorder{}}
				r.push(e)
				batches = append(batches, e)
				end = e.next()
				note(e)
			},
			"produce again": func(t *rapid.T) {
				if len(batches) == 0 {
					t.Skip("no batch yet")
				}
				e := rapid.SampledFrom(batches).Draw(t, "batch")
				e.w = &recorder{}
				r.place(e)
				note(e)
			},
			"take": func(t *rapid.T) {
				taken = log.Offset(rapid.Int64Range(int64(taken), int64(end)).Draw(t, "below"))
				for _, e := range batches { // a batch is committed as a whole
					if e.first < taken && taken < e.next() {
						taken = e.next()
					}
				}
				check(r.take(taken, nil), taken)
			},
			"take all": func(t *rapid.T) {
				check(r.takeAll(nil), end)
			},
		})
	})
}

func split[T any](s []T, in func(T) bool) (yes, no []T) {
	for _, v := range s {
		if in(v) {
			yes = append(yes, v)
		} else {
			no = append(no, v)
		}
	}
	return yes, no
}

func TestRingKeepsNothingAlive(t *testing.T) {
	var r ring
	for i := range 40 {
		r.push(waiting{first: log.Offset(i), n: 1, seq: 0, w: &recorder{}})
	}
	r.take(40, nil)
	for i := range r.buf {
		if r.buf[i].w != nil {
			t.Fatalf("slot %d still holds a waiter", i)
		}
	}
}

// A batch is answered once, when the last part of it is committed, or with the error of the part that is not.
func TestProducedAnswersOnce(t *testing.T) {
	lost := errors.New("lost")
	for _, last := range []error{nil, lost} {
		calls := 0
		p := &produced{first: 7, left: 5, at: -1, done: func(first log.Offset, _ int64, err error) {
			calls++
			if first != 7 || !errors.Is(err, last) {
				t.Errorf("answered %d %v", first, err)
			}
		}}
		p.Committed(0, 3, nil)
		if calls != 0 {
			t.Error("answered before its last record")
		}
		p.Committed(3, 2, last)
		if calls != 1 {
			t.Errorf("answered %d times", calls)
		}
	}
}

func BenchmarkRing(b *testing.B) {
	var r ring
	w := &recorder{}
	var out []waiting
	b.ReportAllocs()
	for i := range b.N {
		r.push(waiting{first: log.Offset(i), n: 1, seq: uint64(i), w: w})
		if i%64 == 63 {
			out = r.take(log.Offset(i+1), out[:0])
		}
	}
}
