package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/bridge/uplink"
	"github.com/weir-io/weir/log"
)

func adminOf(t *testing.T, addr string) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// A target that was wiped has records missing, whatever it says itself; a topic that was made anew here is not held to the cursors of the one before.
func TestVerifyHoldsTheTargetToWhatItHasConfirmed(t *testing.T) {
	for _, guarantee := range []string{uplink.ExactlyOnce, uplink.AtLeastOnce} {
		centre := testNode(t)
		edge, _ := edgeOf(t, t.TempDir(), centre.addrOf("kafka"), func(c *Config) { c.Uplinks[0].Guarantee = guarantee })
		at := edge.addrOf("kafka")
		here, there := adminOf(t, at), adminOf(t, centre.addrOf("kafka"))
		carried := func(n log.Offset) { // and it is stored
			t.Helper()
			limit := time.After(30 * time.Second)
			for {
				var stored log.Offset
				all, err := edge.uplinks.confirmed("central")
				for _, c := range all {
					stored += c.Next
				}
				if err == nil && stored == n {
					return
				}
				select {
				case <-time.After(50 * time.Millisecond):
				case <-limit:
					t.Fatalf("%d of %d are stored, %v: %+v", stored, n, err, edge.uplinks.own())
				}
			}
		}
		produceTo(t, at, "telemetry", 0, 500)
		carried(500)
		if out, code := bridge(t, at, "verify", "central"); code != 0 {
			t.Fatalf("%s: %d\n%s", guarantee, code, out)
		}
		if _, err := here.DeleteTopics(t.Context(), "telemetry"); err != nil {
			t.Fatal(err)
		}
		if _, err := here.CreateTopic(t.Context(), 4, 1, nil, "telemetry"); err != nil {
			t.Fatal(err)
		}
		produceTo(t, at, "telemetry", 500, 5)
		carried(5)
		if out, _ := bridge(t, at, "verify", "central"); guarantee == uplink.ExactlyOnce && !strings.Contains(out, "telemetry was made anew here") {
			t.Errorf("of a topic made anew: %s", out)
		}
		for _, topic := range []string{"plant-7.telemetry", uplink.ProgressTopic} {
			if _, err := there.DeleteTopics(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
		}
		if out, code := bridge(t, at, "verify", "central"); code == 0 || !strings.Contains(out, "5 records are missing") {
			t.Errorf("%s, of a target that was wiped: %d\n%s", guarantee, code, out)
		}
	}
}

// With live_first what is new arrives before what is old, which is not missing for that.
func TestVerifyKnowsWhatIsConfirmedOutOfOrder(t *testing.T) {
	id := log.TopicID{1}
	v := verification{ids: map[string]log.TopicID{"telemetry": id}, parts: map[origin]*carried{}, plan: &uplinkPlan{Guarantee: uplink.AtLeastOnce, Confirmed: []uplink.Confirmed{
		{Topic: "telemetry", ID: id.String(), Cursor: uplink.Cursor{Next: 10, Ahead: []uplink.Span{{From: 100, To: 120}}}},
		{Topic: "telemetry", ID: log.TopicID{2}.String(), Cursor: uplink.Cursor{Next: 1000}}, // before it was made anew
	}}}
	v.noteConfirmed()
	for offset, want := range map[int64]bool{9: true, 10: false, 99: false, 100: true, 119: true, 120: false} {
		if got := v.confirmed(origin{"telemetry", 0}, offset); got != want {
			t.Errorf("offset %d: %v", offset, got)
		}
	}
	v.plan.Confirmed, v.noted = nil, nil // as a node of an earlier version answers
	v.parts[origin{"telemetry", 0}] = newCarried()
	v.parts[origin{"telemetry", 0}].arrive(50, 1, 0)
	if v.noteConfirmed(); !v.confirmed(origin{"telemetry", 0}, 49) || v.confirmed(origin{"telemetry", 0}, 50) {
		t.Error("without what is stored, what lies before the last that has arrived counts as confirmed")
	}
}

// What a filter has left out at the end of a partition is told by the cursor only: with at_least_once by the one that is stored here.
func TestVerifyKnowsWhatIsLeftOut(t *testing.T) {
	for _, guarantee := range []string{uplink.ExactlyOnce, uplink.AtLeastOnce} {
		centre := testNode(t)
		edge, _ := edgeOf(t, t.TempDir(), centre.addrOf("kafka"), func(c *Config) {
			c.Uplinks[0].Guarantee = guarantee
			c.Uplinks[0].Lanes = []uplink.Lane{{Topics: []string{"telemetry"}, Filter: "payload.odd"}}
		})
		at := edge.addrOf("kafka")
		cl := newTestClient(t, at, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		for i := range 20 {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "telemetry", Key: []byte("d"), Value: fmt.Appendf(nil, `{"odd": %v}`, i < 5)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		awaitUplink(t, edge, func(uplink.Status) bool {
			all, err := edge.uplinks.confirmed("central")
			return err == nil && len(all) == 1 && all[0].Next == 20
		})
		out, code := bridge(t, at, "verify", "central", "--json")
		if code != 0 || !strings.Contains(out, `"left_out": 15`) || !strings.Contains(out, `"filtered": 15`) {
			t.Errorf("%s: %d\n%s", guarantee, code, out)
		}
	}
}
