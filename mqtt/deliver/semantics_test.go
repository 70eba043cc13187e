package deliver

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/weir-io/weir/log"
)

// one returns the only delivery since the last look.
func one(t *testing.T, target *fakeTarget) got {
	t.Helper()
	g := target.take()
	if len(g) != 1 {
		t.Fatalf("%d deliveries, want 1: %+v", len(g), g)
	}
	return g[0]
}

func TestOverlappingSubscriptionsGiveOneCopy(t *testing.T) {
	// MQTT5 [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.8.4-8]; MQTT3 [MQTT-3.3.5-1] [MQTT-3.8.4-6]
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "a/#", QoS: 0, ID: 7})
		th.subscribe("c", Sub{Filter: "a/b", QoS: 2, ID: 9})
		th.subscribe("c", Sub{Filter: "+/b", QoS: 1})
		th.logs[0].commit(published("a/b", "x", 2))
		synctest.Wait()
		g := one(t, target)
		if g.qos != 2 || g.ids != "[7 9]" && g.ids != "[9 7]" {
			t.Fatalf("got %+v, want QoS 2 and both identifiers", g)
		}
		th.logs[0].commit(published("a/c", "x", 2))
		synctest.Wait()
		if g := one(t, target); g.qos != 0 || g.ids != "[7]" {
			t.Fatalf("got %+v", g)
		}
		th.logs[0].commit(published("a/b", "x", 1)) // never more than it was published with
		synctest.Wait()
		if g := one(t, target); g.qos != 1 {
			t.Fatalf("got %+v", g)
		}
	})
}

// No-local holds for the subscription that asked for it, not for others of the same client.
func TestNoLocal(t *testing.T) {
	// MQTT5 [MQTT-3.8.3-3]
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("me", target, true, Cursor{}, nil)
		th.subscribe("me", Sub{Filter: "a/#", QoS: 2, NoLocal: true, ID: 1})
		th.logs[0].commit(published("a/b", "mine", 2, HeaderClient, "me"), published("a/b", "yours", 2, HeaderClient, "you"), published("a/b", "nobody's", 1))
		synctest.Wait()
		wantPayloads(t, target, "yours", "nobody's")
		th.subscribe("me", Sub{Filter: "a/b", QoS: 1, ID: 2})
		th.logs[0].commit(published("a/b", "mine", 2, HeaderClient, "me"))
		synctest.Wait()
		if g := one(t, target); g.qos != 1 || g.ids != "[2]" {
			t.Fatalf("got %+v, want it through the other subscription alone", g)
		}
		th.Detach("me")
		th.logs[0].commit(published("a/x", "mine", 2, HeaderClient, "me"), published("a/x", "yours", 2, HeaderClient, "you"))
		synctest.Wait()
		th.Attach("me", target, true, Cursor{}, nil)
		synctest.Wait()
		wantPayloads(t, target, "yours")
	})
}

func TestRetainAsPublished(t *testing.T) {
	// MQTT5 [MQTT-3.3.1-12] [MQTT-3.3.1-13]; MQTT3 [MQTT-3.3.1-9]
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		plain, kept := newTarget(-1), newTarget(-1)
		th.Attach("plain", plain, true, Cursor{}, nil)
		th.Attach("kept", kept, true, Cursor{}, nil)
		th.subscribe("plain", Sub{Filter: "a", QoS: 1})
		th.subscribe("kept", Sub{Filter: "a", QoS: 1, RetainAsPublished: true})
		th.logs[0].commit(published("a", "x", 1, HeaderRetain, "1"), published("a", "y", 1))
		synctest.Wait()
		flags := func(target *fakeTarget) (out []bool) {
			for _, g := range target.take() {
				out = append(out, g.retain)
			}
			return out
		}
		if got := flags(plain); !slices.Equal(got, []bool{false, false}) {
			t.Errorf("without the option: %v", got)
		}
		if got := flags(kept); !slices.Equal(got, []bool{true, false}) {
			t.Errorf("with the option: %v", got)
		}
	})
}

func TestMessageCarriesItsHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		var m Message
		target.seen = func(got *Message) {
			m = *got
			m.UserProps = slices.Clone(got.UserProps)
		}
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 2})
		r := published("a", "x", 2, HeaderClient, "me", HeaderContentType, "text", HeaderResponseTopic, "r", HeaderCorrelation, "id",
			HeaderPayloadFormat, "1", HeaderQoS2, "token", HeaderClock, "coarse")
		// What follows mqtt.qos is the client's, whatever it calls it.
		for _, p := range [][2]string{{"k", "v"}, {HeaderTopic, "spoof"}, {HeaderRetain, "1"}, {"k", "w"}} {
			r.Headers = append(r.Headers, log.Header{Key: []byte(p[0]), Value: []byte(p[1])})
		}
		r.Timestamp = 1234
		th.logs[0].commit(r)
		synctest.Wait()
		props := ""
		for _, p := range m.UserProps {
			props += fmt.Sprintf("%s=%s ", p.Key, p.Value)
		}
		if string(m.Topic) != "a" || string(m.Publisher) != "me" || string(m.ContentType) != "text" || string(m.ResponseTopic) != "r" ||
			string(m.Correlation) != "id" || !m.PayloadFormat || m.Retain || m.QoS != 2 || m.Timestamp != 1234 ||
			props != "k=v mqtt.topic=spoof mqtt.retain=1 k=w " {
			t.Fatalf("message %+v, properties %s", m, props)
		}
	})
}

func TestKafkaProducedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "telemetry/#", QoS: 2})
		header := []log.Header{{Key: []byte("h"), Value: []byte("v")}}
		th.logs[0].commit(
			log.Record{Key: []byte("plant/1"), Value: []byte("1"), Headers: header},
			log.Record{Value: []byte("2")},
			log.Record{Key: []byte{}, Value: []byte("3")},
			log.Record{Key: []byte("a+b#c\x00\xff%"), Value: []byte("4")},
			log.Record{Key: []byte("50%"), Value: nil},
		)
		synctest.Wait()
		var topics []string
		for _, g := range target.take() {
			topics = append(topics, g.topic)
			if g.qos != 1 {
				t.Errorf("%+v: want QoS 1", g)
			}
		}
		want := []string{"telemetry/plant/1", "telemetry", "telemetry/", "telemetry/a%2Bb%23c%00%FF%25", "telemetry/50%"}
		if d := cmp.Diff(want, topics); d != "" {
			t.Fatal(d)
		}
	})
}

func TestControlBatchesAndBadTopicsAreNotGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 2})
		var bb log.BatchBuilder
		bb.SetFlags(log.AttrControl)
		th.logs[0].commitWith(&bb, log.Record{Key: []byte("marker")})
		th.logs[0].commit(published("a/#", "wildcard", 1), published("", "empty", 1), published("\xff", "bytes", 1), published("ok", "ok", 1))
		synctest.Wait()
		wantPayloads(t, target, "ok")
	})
}

func TestExpiry(t *testing.T) {
	// MQTT5 [MQTT-3.3.2-6]
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		var left []uint32
		target.seen = func(m *Message) {
			s, ok := m.ExpiresIn()
			if !ok {
				s = 999
			}
			left = append(left, s)
		}
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 1})
		in := func(d time.Duration) string { return fmt.Sprint(time.Now().Add(d).UnixMilli()) }
		records := []log.Record{published("a", "2s", 1, HeaderExpiry, in(2*time.Second)), published("a", "past", 1, HeaderExpiry, in(-1)),
			published("a", "never", 1), published("a", "9.5s", 1, HeaderExpiry, in(9500*time.Millisecond)), published("a", "odd", 1, HeaderExpiry, "soon")}
		th.logs[0].commit(records...)
		synctest.Wait()
		wantPayloads(t, target, "2s", "never", "9.5s", "odd")
		if !slices.Equal(left, []uint32{2, 999, 10, 999}) {
			t.Fatalf("seconds left: %v", left)
		}
		th.Detach("c")
		th.logs[0].commit(records...)
		time.Sleep(5 * time.Second) // of the bubble's clock
		left = nil
		th.Attach("c", target, true, Cursor{}, nil)
		synctest.Wait()
		wantPayloads(t, target, "never", "9.5s", "odd")
		if !slices.Equal(left, []uint32{999, 5, 999}) {
			t.Fatalf("seconds left on return: %v", left)
		}
	})
}

func TestRetentionPassesACursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		th := startHub(t, 1, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&out, nil)) })
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "a", QoS: 1})
		for round := range 2 {
			th.Detach("c")
			for i := range 4 {
				th.logs[0].commit(published("a", fmt.Sprint(i), 1))
			}
			synctest.Wait()
			th.logs[0].setStart(th.logs[0].HighWatermark() - 1)
			th.Attach("c", target, true, Cursor{}, nil)
			synctest.Wait()
			wantPayloads(t, target, "3")
			if n := th.Stats().LostRecords; n != int64(3*(round+1)) {
				t.Fatalf("%d lost records counted", n)
			}
		}
		if n := strings.Count(out.String(), "retention passed"); n != 1 || !strings.Contains(out.String(), "client=c") {
			t.Fatalf("logged %d times:\n%s", n, out.String())
		}
	})
}

func TestPostingsCollapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, func(c *Config) { c.Limits.PostingsEach = 100 })
		defer th.stop()
		for _, id := range []string{"dense", "sparse", "many"} {
			th.Attach(id, newTarget(-1), true, Cursor{}, nil)
		}
		th.subscribe("dense", Sub{Filter: "#", QoS: 1})
		th.subscribe("sparse", Sub{Filter: "one", QoS: 1})
		th.subscribe("many", Sub{Filter: "tenth", QoS: 1})
		for _, id := range []string{"dense", "sparse", "many"} {
			th.Detach(id)
		}
		want := map[string][]string{"dense": {}, "sparse": {}, "many": {}}
		for i := range 2000 {
			topic, p := "x", fmt.Sprint(i)
			if i%10 == 0 {
				topic = "tenth"
				want["many"] = append(want["many"], p)
			}
			if i%500 == 77 {
				topic = "one"
				want["sparse"] = append(want["sparse"], p)
			}
			want["dense"] = append(want["dense"], p)
			th.logs[0].commit(published(topic, p, 1))
		}
		synctest.Wait()
		forms := map[string]string{}
		for _, p := range *th.parts.Load() {
			for s, l := range p.lags {
				forms[s.id] = fmt.Sprintf("scan %v, %d postings", l.scan, len(l.post))
			}
		}
		if d := cmp.Diff(map[string]string{"dense": "scan true, 0 postings", "sparse": "scan false, 4 postings", "many": "scan true, 0 postings"}, forms); d != "" {
			t.Fatal(d)
		}
		if st := th.Stats(); st.Postings != 4 || st.Collapsed != 2 || st.Lagging != 3 {
			t.Fatalf("stats %+v", st)
		}
		for id, payloads := range want {
			target := newTarget(-1)
			reads := th.logs[0].reads
			th.Attach(id, target, true, Cursor{}, nil)
			synctest.Wait()
			if d := cmp.Diff(payloads, target.payloads()); d != "" {
				t.Errorf("%s:\n%s", id, d)
			}
			if reads = th.logs[0].reads - reads; id == "sparse" && reads > 4 {
				t.Errorf("4 postings took %d reads", reads)
			}
		}
	})
}

// Who reads everything again anyway must not make the hub read it twice.
func TestNobodyReadsForScansAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		for range 10 {
			th.logs[0].commit(published("a", "nobody listens", 1))
		}
		synctest.Wait()
		if th.logs[0].reads != 0 {
			t.Fatalf("%d reads for nobody", th.logs[0].reads)
		}
		th.Attach("c", newTarget(-1), true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 1})
		th.Detach("c")
		for range 200 {
			th.logs[0].commit(published("a", "x", 1))
			synctest.Wait()
		}
		reads := th.logs[0].reads
		for range 100 {
			th.logs[0].commit(published("a", "x", 1))
			synctest.Wait()
		}
		if th.logs[0].reads != reads {
			t.Fatalf("%d reads for a session that will scan", th.logs[0].reads-reads)
		}
		back := newTarget(-1)
		th.Attach("c", back, true, Cursor{}, nil)
		synctest.Wait()
		if n := len(back.take()); n != 300 {
			t.Fatalf("%d messages of 300", n)
		}
	})
}

// One shared pass finds the messages of all absent sessions: reading takes as often as for one.
func TestRestartSharesOnePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sessions = 500
		th := newTestHub(t, 1, nil)
		for i := range 5000 {
			th.logs[0].commit(published(fmt.Sprintf("d/%d", i%1000), fmt.Sprint(i), 1))
		}
		for i := range sessions {
			var cur Cursor
			cur.Set(th.logs[0].id, log.Offset(i))
			th.Restore(fmt.Sprint("c", i), cur, []Sub{{Filter: fmt.Sprintf("d/%d", i), QoS: 1}})
		}
		th.start()
		defer th.stop()
		if perPass := th.logs[0].reads; perPass > 50 {
			t.Fatalf("%d reads to rebuild 500 sessions", perPass)
		}
		if n := th.Stats().Postings; n != sessions*5 {
			t.Fatalf("%d postings", n)
		}
		for i := range sessions {
			target := newTarget(-1)
			th.Attach(fmt.Sprint("c", i), target, true, Cursor{}, nil)
			synctest.Wait()
			wantPayloads(t, target, fmt.Sprint(i), fmt.Sprint(i+1000), fmt.Sprint(i+2000), fmt.Sprint(i+3000), fmt.Sprint(i+4000))
		}
	})
}

func TestPartitionsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 1})
		late := newFakeLog("later", 0)
		late.commit(published("a", "first of a new topic", 1))
		th.src.added(late)
		synctest.Wait()
		wantPayloads(t, target, "first of a new topic")
		th.Detach("c")
		late.commit(published("a", "gone with its topic", 1))
		th.logs[0].commit(published("a", "stays", 1))
		synctest.Wait()
		th.src.removed(late.id)
		late.commit(published("a", "nobody hears", 1))
		synctest.Wait()
		th.Attach("c", target, true, Cursor{}, nil)
		synctest.Wait()
		wantPayloads(t, target, "stays")
		if n := th.Stats().Postings; n != 0 {
			t.Fatalf("%d postings left", n)
		}
		if cur := th.Cursor("c"); cur.Len() != 1 {
			t.Fatalf("cursor of %d partitions", cur.Len())
		}
	})
}

// A partition that opens late is not taken for a new one by sessions that know it.
func TestPartitionOpensLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newTestHub(t, 0, nil)
		late := newFakeLog("telemetry", 0)
		for i := range 6 {
			late.commit(published("a", fmt.Sprint(i), 1))
		}
		var cur Cursor
		cur.Set(late.id, 4)
		th.Restore("stored", cur, []Sub{{Filter: "a", QoS: 1}})
		th.start()
		defer th.stop()
		stored, fresh := newTarget(-1), newTarget(-1)
		th.Attach("stored", stored, true, Cursor{}, nil)
		th.Attach("fresh", fresh, true, Cursor{}, nil)
		th.subscribe("fresh", Sub{Filter: "a", QoS: 1})
		th.src.added(late)
		synctest.Wait()
		late.commit(published("a", "new", 1))
		synctest.Wait()
		wantPayloads(t, stored, "4", "5", "new")
		wantPayloads(t, fresh, "new")
	})
}

func TestForgetAndCleanSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("clean", target, false, Cursor{}, nil)
		th.Attach("durable", target, true, Cursor{}, nil)
		th.subscribe("clean", Sub{Filter: "#", QoS: 1})
		th.subscribe("durable", Sub{Filter: "#", QoS: 1})
		th.Detach("clean")
		th.Detach("durable")
		th.logs[0].commit(published("a", "x", 1))
		synctest.Wait()
		if st := th.Stats(); st.Sessions != 1 || st.Postings != 1 {
			t.Fatalf("stats %+v", st)
		}
		th.Forget("durable")
		if st := th.Stats(); st.Sessions != 0 || st.Postings != 0 || th.listeners.Load() != 0 || !th.index.root.empty() {
			t.Fatalf("after Forget: %+v, %d listeners", st, th.listeners.Load())
		}
		th.Forget("durable")
		th.Ready("durable")
		if cur := th.Detach("durable"); !cur.IsZero() {
			t.Fatalf("an unknown session stands at %v", cur)
		}
		if _, err := th.Subscribe("durable", Sub{Filter: "a"}); err == nil {
			t.Fatal("an unknown session subscribed")
		}
		if th.Unsubscribe("durable", "a") {
			t.Fatal("an unknown session unsubscribed")
		}
	})
}

// A log that cannot be read now is tried again; nothing is skipped meanwhile.
func TestReadErrorsAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		live, slow := newTarget(-1), newTarget(0)
		th.Attach("live", live, true, Cursor{}, nil)
		th.Attach("slow", slow, true, Cursor{}, nil)
		th.subscribe("live", Sub{Filter: "#", QoS: 1})
		th.subscribe("slow", Sub{Filter: "#", QoS: 1})
		th.logs[0].commit(published("a", "1", 1))
		synctest.Wait()
		th.logs[0].mu.Lock()
		th.logs[0].fail = fmt.Errorf("injected")
		th.logs[0].mu.Unlock()
		th.logs[0].commit(published("a", "2", 1))
		slow.allow(-1)
		th.Ready("slow")
		synctest.Wait()
		wantPayloads(t, slow)
		wantPayloads(t, live, "1")
		th.logs[0].mu.Lock()
		th.logs[0].fail = nil
		th.logs[0].mu.Unlock()
		time.Sleep(2 * groupFlushEvery) // of the bubble's clock
		synctest.Wait()
		wantPayloads(t, live, "2")
		wantPayloads(t, slow, "1", "2")
		if th.Stats().ReadErrors == 0 {
			t.Fatal("no read error was counted")
		}
	})
}

// A record that is no record costs itself and what follows in its batch, not the session.
func TestDamagedBatchIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		target := newTarget(-1)
		th.Attach("c", target, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 1})
		var bb log.BatchBuilder
		bad := published("a", "damaged", 1)
		bb.Append(&bad)
		l := th.logs[0]
		l.mu.Lock()
		b := bb.Seal(0, 0)
		for i := log.BatchHeaderSize; i < len(b); i++ {
			b[i] = 0xff
		}
		l.batches, l.hw = append(l.batches, b), 1
		l.mu.Unlock()
		l.commit(published("a", "sound", 1))
		synctest.Wait()
		wantPayloads(t, target, "sound")
		if th.Stats().ReadErrors != 1 {
			t.Fatalf("stats %+v", th.Stats())
		}
	})
}

func TestSharedBufferIsPerMessage(t *testing.T) {
	var m Message
	m.reset()
	*m.Shared(3) = append(*m.Shared(3), "first"...)
	if string(*m.Shared(3)) != "first" || len(*m.Shared(4)) != 0 {
		t.Fatal("the buffer of slot 3 is not shared")
	}
	m.reset()
	if b := m.Shared(3); len(*b) != 0 || cap(*b) == 0 {
		t.Fatal("the next message must find an empty buffer with the old memory")
	}
}

func TestTakeoverReplacesTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := startHub(t, 1, nil)
		defer th.stop()
		first, second := newTarget(0), newTarget(-1)
		th.Attach("c", first, true, Cursor{}, nil)
		th.subscribe("c", Sub{Filter: "#", QoS: 1})
		th.logs[0].commit(published("a", "1", 1))
		synctest.Wait()
		th.Attach("c", second, true, Cursor{}, nil)
		th.logs[0].commit(published("a", "2", 1))
		synctest.Wait()
		first.allow(-1)
		th.Ready("c")
		synctest.Wait()
		wantPayloads(t, second, "1", "2")
		wantPayloads(t, first)
	})
}
