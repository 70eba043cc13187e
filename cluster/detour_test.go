package cluster

import (
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// A line that is slow, so that a question is answered and a batch is not, is left alone for longer each time, and what it did is forgotten once it has been
// good for a while.
func TestSlowLineDoesNotFlap(t *testing.T) {
	d, id, now := &detours{}, meta.UUID{1}, time.Unix(1000, 0)
	// round is one detour: how long it lasts if every question is answered.
	round := func() time.Duration {
		if !d.begin(id, now) || d.begin(id, now) {
			t.Fatal("a detour begins once")
		}
		for began := now; ; now = now.Add(100 * time.Millisecond) {
			if _, look := d.needed(id, now); look {
				if _, again := d.needed(id, now.Add(time.Hour)); again {
					t.Fatal("two look at once")
				}
				d.looked(id)
				d.end(id, now)
				return now.Sub(began)
			}
		}
	}
	last := time.Duration(0)
	for range 10 {
		took := round()
		if took < min(2*last, detourHoldMost) {
			t.Fatalf("away for %v after %v", took, last)
		}
		last = took
		now = now.Add(5 * time.Second)
	}
	if last != detourHoldMost {
		t.Errorf("at last it is away for %v", last)
	}
	now = now.Add(detourCalm)
	if took := round(); took != detourHold {
		t.Errorf("after a good while it is away for %v", took)
	}
}

// A third is sought by one, and known until it fails or the line is there again.
func TestOneThirdIsKept(t *testing.T) {
	d, id, third, now := &detours{}, meta.UUID{1}, meta.UUID{2}, time.Unix(1000, 0)
	through := func() meta.UUID { got, _ := d.needed(id, now); return got }
	if d.seek(id) {
		t.Error("a third is sought for a node that is reached")
	}
	d.begin(id, now)
	if !d.seek(id) || d.seek(id) || through() != (meta.UUID{}) {
		t.Error("two seek, or one is known that nobody has found")
	}
	d.found(id, third)
	if d.seek(id) || through() != third {
		t.Error("it is not kept")
	}
	if d.fell(id, meta.UUID{3}, now); through() != third {
		t.Error("another has failed, and it is forgotten")
	}
	if d.fell(id, third, now); through() != (meta.UUID{}) || !d.seek(id) {
		t.Error("it has failed, and is kept")
	}
	d.end(id, now)
	if d.found(id, third); through() != (meta.UUID{}) {
		t.Error("the line is there again, and it is used")
	}
}

// A third that did not get through is passed over for a while, and so is one that is not reached either.
func TestThirdsTakeTurns(t *testing.T) {
	d, id, now := &detours{}, meta.UUID{1}, time.Unix(1000, 0)
	may := func(third byte) bool { return d.may(id, meta.UUID{third}, now) }
	d.begin(id, now)
	d.fell(id, meta.UUID{2}, now)
	d.begin(meta.UUID{3}, now)
	if may(2) || may(3) || !may(4) {
		t.Errorf("2: %t, 3: %t, 4: %t", may(2), may(3), may(4))
	}
	now = now.Add(poorFor + time.Millisecond)
	if !may(2) {
		t.Error("one that failed is passed over for good")
	}
	if d.end(meta.UUID{3}, now); !may(3) {
		t.Error("one that is reached again is passed over")
	}
	if n := d.count(); n != 1 {
		t.Errorf("%d are away", n)
	}
	if d.keep(meta.NewImage()); len(d.nodes) != 0 {
		t.Errorf("%d nodes are remembered that the cluster does not have", len(d.nodes))
	}
}
