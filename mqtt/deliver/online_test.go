package deliver

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/weir-io/weir/log"
)

func wantPayloads(t testing.TB, target *fakeTarget, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if d := cmp.Diff(want, target.payloads()); d != "" {
		t.Fatalf("delivered (-want +got):\n%s", d)
	}
}

func TestOnlineDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 2, nil)
		defer th.stop()
		th.logs[0].commit(published("a/b", "before", 1))
		target := newTarget(-1)
		th.Attach("c", target, false, Cursor{}, nil)
		if th.subscribe("c", Sub{Filter: "a/+", QoS: 1}) {
			t.Fatal("a new subscription existed")
		}
		th.logs[0].commit(published("a/b", "one", 1), published("x", "not this", 1), published("a/c", "two", 2))
		synctest.Wait()
		th.logs[1].commit(published("a/b", "three", 0))
		synctest.Wait()
		want := []got{
			{topic: "a/b", payload: "one", qos: 1, offset: 1},
			{topic: "a/c", payload: "two", qos: 1, offset: 3},
			{topic: "a/b", payload: "three", qos: 0, part: 1},
		}
		if d := cmp.Diff(want, target.take(), cmp.AllowUnexported(got{})); d != "" {
			t.Fatal(d)
		}
		if !th.subscribe("c", Sub{Filter: "a/+", QoS: 0}) {
			t.Fatal("the subscription did not exist")
		}
		th.logs[0].commit(published("a/b", "four", 1))
		synctest.Wait()
		if g := target.take(); len(g) != 1 || g[0].qos != 0 {
			t.Fatalf("after lowering the QoS: %+v", g)
		}
		if !th.Unsubscribe("c", "a/+") || th.Unsubscribe("c", "a/+") {
			t.Fatal("unsubscribe is true once")
		}
		th.logs[0].commit(published("a/b", "five", 1))
		synctest.Wait()
		wantPayloads(t, target)
	})
}

func TestSlowTargetGetsEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(2)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 1})
		for _, p := range []string{"1", "2", "3", "4", "5"} {
			th.logs[0].commit(published("t", p, 1))
		}
		synctest.Wait()
		wantPayloads(t, target, "1", "2")
		target.allow(2)
		th.Ready("c")
		synctest.Wait()
		wantPayloads(t, target, "3", "4")
		target.allow(-1)
		th.Ready("c")
		synctest.Wait()
		th.logs[0].commit(published("t", "6", 1))
		synctest.Wait()
		wantPayloads(t, target, "5", "6")
	})
}

// QoS 0 without room is dropped and counted; it puts nobody behind.
func TestQoS0IsDroppedWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 0})
		for _, p := range []string{"1", "2", "3"} {
			th.logs[0].commit(published("t", p, 1))
		}
		synctest.Wait()
		if st := th.Stats(); st.Dropped != 2 || st.Lagging != 0 {
			t.Fatalf("stats %+v", st)
		}
		target.allow(-1)
		th.Ready("c")
		th.logs[0].commit(published("t", "4", 1))
		synctest.Wait()
		wantPayloads(t, target, "1", "4")
	})
}

func TestAbsentDurableSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 2, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "a", QoS: 1})
		th.logs[0].commit(published("a", "seen", 1))
		synctest.Wait()
		cur := th.Detach("c")
		if next, ok := cur.Next(th.logs[0].id); !ok || next != 1 {
			t.Fatalf("cursor %v", cur)
		}
		th.logs[0].commit(published("a", "p0", 1), published("a", "qos 0 is not kept", 0), published("b", "other", 1))
		th.logs[1].commit(published("a", "p1", 2))
		synctest.Wait()
		wantPayloads(t, target, "seen")
		back := newTarget(-1)
		th.Attach("c", back, true, Cursor{}, nil)
		synctest.Wait()
		seen := map[string]bool{}
		for _, p := range back.payloads() {
			seen[p] = true
		}
		if d := cmp.Diff(map[string]bool{"p0": true, "p1": true}, seen); d != "" {
			t.Fatal(d)
		}
		th.logs[0].commit(published("a", "live", 1))
		synctest.Wait()
		wantPayloads(t, back, "live")
		wantPayloads(t, target)
	})
}

func TestReadAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		th.logs[0].commit(published("a", "0", 1), published("b", "1", 2, HeaderContentType, "text"))
		var topic, payload, contentType string
		err := th.ReadAt(th.logs[0].id, 1, func(m *Message) {
			topic, payload, contentType = string(m.Topic), string(m.Payload), string(m.ContentType)
		})
		if err != nil || topic != "b" || payload != "1" || contentType != "text" {
			t.Fatalf("%q %q %q %v", topic, payload, contentType, err)
		}
		if err := th.ReadAt(th.logs[0].id, 2, func(*Message) { t.Fatal("no such record") }); err == nil {
			t.Fatal("offset 2 was read")
		}
		if err := th.ReadAt(log.PartitionID{Index: 9}, 0, func(*Message) { t.Fatal("no such partition") }); err == nil {
			t.Fatal("partition 9 was read")
		}
	})
}

// overtaken refuses once, and has room again, and says so, before its answer is out.
type overtaken struct {
	h *Hub
	fakeTarget
	refused bool
}

func (o *overtaken) Deliver(m *Message, qos byte, retain bool, ids []uint32) bool {
	if !o.refused {
		o.refused = true
		o.h.Ready("c")
		return false
	}
	return o.fakeTarget.Deliver(m, qos, retain, ids)
}

func TestReadyThatOvertakesItsRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := &overtaken{h: th.Hub, fakeTarget: fakeTarget{room: -1}}
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 1})
		th.logs[0].commit(published("a", "1", 1), published("a", "2", 1))
		synctest.Wait()
		wantPayloads(t, &target.fakeTarget, "1", "2")
	})
}
