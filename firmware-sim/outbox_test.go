package firmwaresim

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestOutboxAgainstModel compares the outbox with a plain list: whatever is sent, settled and forgotten, each reading
// stays until it is settled, and the unsent ones leave in order.
func TestOutboxAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const room = 12
		o := &outbox{max: room}
		var want []int64             // unsettled, in order
		flying := map[uint16]int64{} // packet id → number
		settledAhead := 0            // settled, but an elder is not: still take room
		sent := map[int64]bool{}
		var seq int64
		var id uint16
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"put", "put", "launch", "launch", "settle", "settle", "stray", "forget"}).Draw(t, "step") {
			case "put":
				ok := o.put(seq, seq*10)
				if full := len(want)+settledAhead >= room; ok == full {
					t.Fatalf("put with %d held: %v", len(want)+settledAhead, ok)
				}
				if ok {
					want = append(want, seq)
					seq++
				}
			case "launch":
				e := o.next()
				if len(flying) == len(want) {
					if e != nil {
						t.Fatalf("next is %d, all are in flight", e.seq)
					}
					break
				}
				i := slices.IndexFunc(want, func(v int64) bool { return !slices.Contains(values(flying), v) })
				if e == nil || e.seq != want[i] || e.ts != want[i]*10 {
					t.Fatalf("next is %+v, want %d", e, want[i])
				}
				id++
				if again := o.launched(id); again != sent[want[i]] {
					t.Fatalf("%d sent again: %v", want[i], again)
				}
				sent[want[i]] = true
				flying[id] = want[i]
			case "settle":
				if len(flying) == 0 {
					break
				}
				which := rapid.SampledFrom(sortedIDs(flying)).Draw(t, "id")
				e, ok := o.settle(which)
				if !ok || e.seq != flying[which] {
					t.Fatalf("settle %d: %+v %v, want %d", which, e, ok, flying[which])
				}
				want = slices.DeleteFunc(want, func(v int64) bool { return v == flying[which] })
				delete(flying, which)
			case "stray":
				if e, ok := o.settle(id + 1); ok {
					t.Fatalf("an unknown id settled %+v", e)
				}
			case "forget":
				o.forget()
				clear(flying)
			}
			settledAhead = o.len() - len(want)
			if settledAhead < 0 || len(flying) == 0 && settledAhead != 0 {
				t.Fatalf("%d held, %d unsettled, %d in flight", o.len(), len(want), len(flying))
			}
		}
		// Nothing was lost: what is left leaves in order.
		o.forget()
		for _, v := range want {
			if e := o.next(); e == nil || e.seq != v {
				t.Fatalf("left over %+v, want %d", e, v)
			}
			id++
			o.launched(id)
		}
	})
}

func values(m map[uint16]int64) []int64 {
	var out []int64
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func sortedIDs(m map[uint16]int64) []uint16 {
	var out []uint16
	for id := range m {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}
