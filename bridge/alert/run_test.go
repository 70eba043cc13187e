package alert

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a cluster with a producer and a reader of the alert topic.
type site struct {
	t    *testing.T
	seed kgo.Opt
	cl   *kgo.Client
	out  *kgo.Client
}

func newSite(t *testing.T) *site {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "telemetry"), kfake.SeedTopics(1, "alerts"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := &site{t: t, seed: kgo.SeedBrokers(c.ListenAddrs()...)}
	for cl, opts := range map[**kgo.Client][]kgo.Opt{
		&s.cl:  {s.seed, kgo.DefaultProduceTopic("telemetry")},
		&s.out: {s.seed, kgo.ConsumeTopics("alerts"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())},
	} {
		if *cl, err = kgo.NewClient(opts...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*cl).Close)
	}
	return s
}

// send produces a reading of a device; the encoding alternates.
func (s *site) send(device string, at time.Time, v float64) {
	s.t.Helper()
	m := map[string]any{"data": map[string]any{"v": v}, "ts": at.UnixMilli()}
	b, err := json.Marshal(m)
	if int(v)%2 == 0 {
		b, err = cbor.Marshal(m)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	r := &kgo.Record{Key: []byte("key-of-the-route"), Value: b, Timestamp: at, Headers: []kgo.RecordHeader{{Key: "mqtt.client", Value: []byte(device)}}}
	if err := s.cl.ProduceSync(s.t.Context(), r).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// next waits for n alerts in the topic and returns them as "rule device state".
func (s *site) next(n int) []string {
	s.t.Helper()
	var got []string
	for len(got) < n {
		fetches := s.out.PollRecords(s.t.Context(), n-len(got))
		if err := fetches.Err(); err != nil {
			s.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var a Alert
			if err := json.Unmarshal(r.Value, &a); err != nil || string(r.Key) != a.Device {
				s.t.Errorf("record %s of key %s: %v", r.Value, r.Key, err)
			}
			got = append(got, fmt.Sprintf("%s %s %s", a.Rule, a.Device, a.State))
		})
	}
	return got
}

// start runs an instance until the returned func stops it; it has partitions when start returns.
func (s *site) start(rules string) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	cfg := Config{Rules: mustParse(s.t, rules), Client: []kgo.Opt{s.seed}, Ready: func() { close(ready) }, Tick: 50 * time.Millisecond, Commit: time.Hour}
	go func() { ended <- Run(ctx, cfg) }()
	select {
	case <-ready:
	case err := <-ended:
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	}
}

func TestRunRaisesAlertsAndGoesOnAfterARestart(t *testing.T) {
	s := newSite(t)
	const rules = "{lateness: 1s, rules: [{name: hot, field: data.v, window: 10s, when: max > 30}]}"
	// The new group begins at the end: these are not seen.
	base := time.Now().Add(-time.Hour).Truncate(10 * time.Second)
	s.send("old", base, 99)
	s.send("old", base.Add(time.Minute), 99)

	stop := s.start(rules)
	at := func(sec float64) time.Time { return base.Add(2*time.Minute + time.Duration(sec*float64(time.Second))) }
	s.send("a", at(1), 40) // fires when the window [0,10) closes
	s.send("a", at(11), 50)
	expect(t, "before the restart", s.next(1), "hot a firing")
	s.send("b", at(2), 99) // too late by then
	s.send("a", at(12), 10)
	stop()

	stop = s.start(rules)
	s.send("a", at(13), 10)
	// [10,20) still holds the 50 that the first instance read: hot, and already said so. [20,30) is cool.
	s.send("a", at(25), 11)
	s.send("a", at(45), 11)
	expect(t, "after the restart", s.next(1), "hot a resolved")
	stop()
}

func TestRunNoticesSilence(t *testing.T) {
	s := newSite(t)
	stop := s.start("rules: [{name: silent, absent: 300ms}]")
	s.send("a", time.Now(), 1)
	expect(t, "silence", s.next(1), "silent a firing")
	stop()
	// A successor knows that a was called silent, and takes that back.
	stop = s.start("rules: [{name: silent, absent: 1h}]")
	s.send("a", time.Now(), 1)
	expect(t, "return", s.next(1), "silent a resolved")
	stop()
}

func TestRunTakesTimeFromThePayload(t *testing.T) {
	s := newSite(t)
	stop := s.start("{time: ts, lateness: 1s, rules: [{name: r, field: data.v, window: 10s, when: 'rate == 2'}]}")
	base := time.Date(2014, 1, 1, 0, 0, 0, 0, time.UTC)
	s.send("a", base, 1)
	s.send("a", base.Add(5*time.Second), 11)
	s.send("a", base.Add(20*time.Second), 11)
	expect(t, "alerts", s.next(1), "r a firing")
	stop()
}

func TestRunFailsWithoutTopics(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Config{Rules: mustParse(t, "rules: [{name: r, absent: 1m}]"), Client: []kgo.Opt{s.seed}}); err == nil {
		t.Error("ran with an ended context")
	}
}

func TestNumbersOfPayloads(t *testing.T) {
	for raw, want := range map[string]any{
		`{"a":{"b":2.5}}`:                2.5,
		` {"a":{"b":true}}`:              1.0,
		`{"a":{"b":"2"}}`:                nil,
		`{"a":2}`:                        nil,
		`[1]`:                            nil,
		"":                               nil,
		"\xa1\x61a\xa1\x61b\x39\x01\x00": -257.0, // CBOR {"a": {"b": -257}}
		"\xa1\x61a\xa1":                  nil,    // cut off
	} {
		p := &value{raw: []byte(raw)}
		v, ok := p.number([]string{"a", "b"})
		if (want == nil) == ok || ok && v != want {
			t.Errorf("%q: %v %v, want %v", raw, v, ok, want)
		}
	}
}
