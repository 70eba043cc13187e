package deliver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/weir-io/weir/log"
	"pgregory.net/rapid"
)

// retain sets a retained message and fails unless it was committed.
func (th *testHub) retain(topic, payload string) {
	th.t.Helper()
	err := errors.New("done was not called")
	th.SetRetained(&Message{Topic: []byte(topic), Payload: []byte(payload), QoS: 1}, func(e error) { err = e })
	if err != nil {
		th.t.Fatal(err)
	}
}

// sent subscribes and returns what that sent, sorted.
func (th *testHub) sent(client string, target *fakeTarget, sub Sub) []string {
	th.t.Helper()
	th.SendRetained(client, th.FindRetained(client, sub, th.subscribe(client, sub), 0))
	synctest.Wait()
	out := []string{}
	for _, g := range target.take() {
		if !g.retain || g.offset != -1 {
			th.t.Errorf("%+v is not marked as retained", g)
		}
		out = append(out, g.topic+"="+g.payload)
	}
	slices.Sort(out)
	return out
}

func TestRetainedOnSubscribe(t *testing.T) {
	// MQTT5 [MQTT-3.3.1-5] [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]; MQTT3 [MQTT-3.3.1-6]
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, func(c *Config) { c.Retained = Alone(newFakeTable()) })
		defer th.stop()
		th.retain("a", "1")
		th.retain("a/b", "2")
		th.retain("a/b", "3")
		th.retain("a/c", "4")
		th.retain("$x", "5")
		th.retain("a/c", "")
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		for i, tt := range []struct {
			sub  Sub
			want []string
		}{
			{Sub{Filter: "a/b"}, []string{"a/b=3"}},
			{Sub{Filter: "a/#"}, []string{"a/b=3", "a=1"}},
			{Sub{Filter: "a/#"}, []string{"a/b=3", "a=1"}},
			{Sub{Filter: "a/#", RetainHandling: 1}, []string{}},
			{Sub{Filter: "+/b", RetainHandling: 1}, []string{"a/b=3"}},
			{Sub{Filter: "#", RetainHandling: 2}, []string{}},
			{Sub{Filter: "$x"}, []string{"$x=5"}},
			{Sub{Filter: "+"}, []string{"a=1"}},
			{Sub{Filter: "$share/g/a"}, []string{}},
			{Sub{Filter: "a/c"}, []string{}},
		} {
			if d := cmp.Diff(tt.want, th.sent("c", target, tt.sub)); d != "" {
				t.Errorf("%d %s: %s", i, tt.sub.Filter, d)
			}
		}
		th.SendRetained("c", th.FindRetained("c", Sub{Filter: "a", QoS: 2, ID: 3}, false, 0))
		synctest.Wait()
		if g := one(t, target); g.qos != 1 || g.ids != "[3]" {
			t.Errorf("%+v: want the lower QoS and the identifier", g)
		}
	})
}

func TestRetainedKeepsProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFakeTable()
		change := func(c *Config) { c.Retained = Alone(table) }
		th := startHub(t, 0, change)
		in := Message{
			Topic: []byte("a"), Payload: []byte("x"), QoS: 2, Timestamp: 5, Publisher: []byte("me"), ContentType: []byte("text"), ResponseTopic: []byte("r"),
			Correlation: []byte("id"), PayloadFormat: true, ExpiresAt: time.Now().Add(time.Minute).UnixMilli(),
			UserProps: []log.Header{{Key: []byte("k"), Value: []byte("v")}, {Key: []byte("k"), Value: []byte("")}},
		}
		th.SetRetained(&in, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
		th.stop()
		th.open(change) // from the table
		th.start()
		defer th.stop()
		target := newTarget(-1)
		target.seen = func(m *Message) {
			if string(m.Publisher) != "me" || string(m.ContentType) != "text" || string(m.ResponseTopic) != "r" || string(m.Correlation) != "id" ||
				!m.PayloadFormat || m.QoS != 2 || m.Timestamp != 5 || len(m.UserProps) != 2 || string(m.UserProps[0].Value) != "v" {
				t.Errorf("message %+v", m)
			}
			if s, ok := m.ExpiresIn(); !ok || s != 60 {
				t.Errorf("expires in %d %v", s, ok)
			}
		}
		th.Attach("c", target, true, Cursor{}, nil)
		if d := cmp.Diff([]string{"a=x"}, th.sent("c", target, Sub{Filter: "#"})); d != "" {
			t.Fatal(d)
		}
		time.Sleep(time.Minute) // of the bubble's clock
		if got := th.sent("c", target, Sub{Filter: "#"}); len(got) != 0 {
			t.Fatalf("expired and sent: %v", got)
		}
	})
}

// Nothing is visible before its commit, a failed one never; the last committed wins.
func TestRetainedFollowsTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFakeTable()
		th := startHub(t, 0, func(c *Config) { c.Retained = Alone(table) })
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		table.held = true
		var results []error
		for _, p := range []string{"1", "2"} {
			th.SetRetained(&Message{Topic: []byte("a"), Payload: []byte(p)}, func(err error) { results = append(results, err) })
		}
		if got := th.sent("c", target, Sub{Filter: "a"}); len(got) != 0 || len(results) != 0 {
			t.Fatalf("before the commit: %v, %v", got, results)
		}
		table.queue[0]()
		table.fail = errors.New("injected")
		table.queue[1]()
		if d := cmp.Diff([]string{"a=1"}, th.sent("c", target, Sub{Filter: "a"})); d != "" || len(results) != 2 || results[0] != nil || results[1] == nil {
			t.Fatalf("%v %s", results, d)
		}
	})
}

func TestRetainedWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, func(c *Config) { c.Retained = Alone(newFakeTable()) })
		defer th.stop()
		for i := range 10 {
			th.retain(fmt.Sprint("t/", i), "x")
		}
		target := newTarget(3)
		th.Attach("c", target, true, Cursor{}, nil)
		if n := len(th.sent("c", target, Sub{Filter: "t/#", QoS: 1})); n != 3 {
			t.Fatalf("%d sent into room for 3", n)
		}
		target.allow(2)
		th.Ready("c")
		synctest.Wait()
		if n := len(target.take()); n != 2 {
			t.Fatalf("%d sent into room for 2", n)
		}
		th.Detach("c") // QoS 1: the rest stays due
		target.allow(1)
		th.Attach("c", target, true, Cursor{}, nil)
		synctest.Wait()
		if n := len(target.take()); n != 1 {
			t.Fatalf("%d sent after coming back", n)
		}
		th.Unsubscribe("c", "t/#")
		target.allow(-1)
		th.Ready("c")
		synctest.Wait()
		if got := target.take(); len(got) != 0 {
			t.Fatalf("sent after unsubscribing: %v", got)
		}
	})
}

// A client that subscribes and does not read has little noted for it, and gets each filter's messages
// once when it reads.
func TestRetainedForAClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, func(c *Config) { c.Retained = Alone(newFakeTable()) })
		defer th.stop()
		for i := range 5 {
			th.retain(fmt.Sprint("t/", i), "x")
		}
		target := newTarget(0)
		th.Attach("c", target, true, Cursor{}, nil)
		for range 3 {
			for _, f := range []string{"t/#", "#", "+/1"} {
				th.sent("c", target, Sub{Filter: f, QoS: 1})
			}
		}
		s := th.session("c")
		noted := 0
		for _, run := range s.pending {
			noted += len(run.msgs)
		}
		if len(s.pending) != 3 || noted > 5 {
			t.Fatalf("%d runs with %d messages are noted", len(s.pending), noted)
		}
		target.allow(-1)
		th.Ready("c")
		synctest.Wait()
		if n := len(target.take()); n != 5+5+1 {
			t.Fatalf("%d messages", n)
		}
	})
}

// Memory is bounded: over the limit values come from the table, in pieces, and topics are refused.
func TestRetainedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newFakeTable()
		th := startHub(t, 1, func(c *Config) {
			c.Retained, c.Limits.RetainedBytes, c.Limits.RetainedCount = Alone(table), 300, 20
		})
		defer th.stop()
		big := strings.Repeat("y", 80)
		want := []string{}
		for i := range 20 {
			topic := fmt.Sprintf("t/%02d", i)
			th.retain(topic, big)
			want = append(want, topic+"="+big)
		}
		var full error
		th.SetRetained(&Message{Topic: []byte("one/more"), Payload: []byte("x")}, func(err error) { full = err })
		if !errors.Is(full, ErrRetainedFull) {
			t.Fatalf("one more: %v", full)
		}
		th.retain("t/19", "old")
		th.retain("t/19", big) // replacing is not one more
		if st := th.Stats(); st.Retained != 20 || st.RetainedBytes > 300 || st.RetainedBytes == 0 {
			t.Fatalf("stats %+v", st)
		}
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		loads := table.loads
		if d := cmp.Diff(want, th.sent("c", target, Sub{Filter: "#"})); d != "" || table.loads != loads+1 {
			t.Fatalf("%d loads: %s", table.loads-loads, d)
		}
		// A target with little room makes no pass per message.
		target.allow(1)
		n := len(th.sent("c", target, Sub{Filter: "#"}))
		for n < 20 {
			target.allow(3)
			th.Ready("c")
			synctest.Wait()
			got := len(target.take())
			if got == 0 {
				t.Fatalf("stuck after %d", n)
			}
			n += got
		}
		if table.loads > loads+2 {
			t.Fatalf("%d passes over the table", table.loads-loads)
		}
		th.retained.coldBytes = 1 // one message per pass, and still each exactly once
		target.allow(-1)
		if d := cmp.Diff(want, th.sent("c", target, Sub{Filter: "#"})); d != "" {
			t.Fatal(d)
		}
		for i := range 20 {
			th.retain(fmt.Sprintf("t/%02d", i), "")
		}
		if st := th.Stats(); st.Retained != 0 || st.RetainedBytes != 0 || len(th.retained.root.children) != 0 || len(table.m) != 0 {
			t.Fatalf("after removing all: %+v", st)
		}
	})
}

func TestRetainedIndexMatchesLikeNaive(t *testing.T) {
	level := rapid.SampledFrom([]string{"a", "b", "", "$x"})
	rapid.Check(t, func(t *rapid.T) {
		r := &retainedStore{limits: &Limits{RetainedBytes: 1 << 20, RetainedCount: 1 << 20}}
		model := map[string]bool{}
		deep := strings.Repeat("a/", rapid.SampledFrom([]int{0, 0, retainedDepth - 1, retainedDepth, 3 * retainedDepth}).Draw(t, "depth"))
		for range rapid.IntRange(1, 15).Draw(t, "changes") {
			topic := deep + strings.Join(rapid.SliceOfN(level, 1, 4).Draw(t, "topic"), "/")
			if topic == "" {
				continue
			}
			if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
				r.apply(topic, nil)
				delete(model, topic)
			} else {
				r.apply(topic, []byte("x"))
				model[topic] = true
			}
			if (r.root.find([]byte(topic)) != nil) != model[topic] {
				t.Fatalf("find %q", topic)
			}
		}
		if r.count != len(model) || r.bytes != len(model) {
			t.Fatalf("%d messages, %d bytes, want %d of each", r.count, r.bytes, len(model))
		}
		f := rapid.SliceOfN(rapid.OneOf(level, rapid.Just("+")), 0, 4).Draw(t, "filter")
		if len(f) == 0 || rapid.Bool().Draw(t, "rest") {
			f = append(f, "#")
		}
		filter := strings.Join(f, "/")
		if rapid.Bool().Draw(t, "deep filter") {
			filter = deep + filter
		}
		if filter == "" {
			return
		}
		want, got := []string{}, []string{}
		for topic := range model {
			if naiveMatch(filter, topic) {
				want = append(want, topic)
			}
		}
		for _, m := range r.collect(filter) {
			got = append(got, m.topic)
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%q (-naive +index):\n%s", filter, d)
		}
	})
}
