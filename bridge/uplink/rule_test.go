package uplink

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-io/weir/internal/payload"
	"github.com/weir-io/weir/log"
)

func inCBOR(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Only false leaves out. What cannot be judged is carried, and known to be.
func TestFilter(t *testing.T) {
	r := log.Record{Key: []byte("plant/m1"), Timestamp: 5000, Value: []byte(`{"level":4,"pos":{"lat":1.5},"tag":"x"}`), Headers: []log.Header{{Key: []byte("mqtt.topic"), Value: []byte("a/b")}}}
	for text, want := range map[string]string{
		`payload.level > 3`:                                    "true",
		`payload.level > 4`:                                    "false",
		`payload.level == 4 and payload.pos.lat < 2`:           "true",
		`payload.none > 3`:                                     "vague",
		`(payload.none ?? 0) > 3`:                              "false",
		`payload.none == nil`:                                  "true",
		`payload.tag > 3`:                                      "vague",
		`payload.tag`:                                          "vague",
		`key startsWith "plant/" && topic == "telemetry"`:      "true",
		`headers["mqtt.topic"] matches "^a/"`:                  "true",
		`headers["none"] == "x"`:                               "false",
		`timestamp < 6000`:                                     "true",
		`len(payload.tag) == 1 and upper(payload.tag) == "X"`:  "true",
		`abs(payload.level - 10) == 6`:                         "true",
		`payload.level in [1, 2, 3]`:                           "false",
		`1/(payload.level - 4) > 0 and payload.pos.lat.deep>0`: "vague",
	} {
		f, err := newFilter(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for range 2 { // nothing of the first is left
			keep, err := f.keeps("telemetry", &r)
			if got := map[bool]string{true: "vague", false: fmt.Sprint(keep)}[err != nil]; got != want || err != nil && !keep {
				t.Errorf("%s is %s, %v", text, got, err)
			}
		}
	}
	f, err := newFilter("payload.level > 3")
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range [][]byte{nil, []byte("text"), []byte("[4]"), {0xff}} {
		if keep, err := f.keeps("t", &log.Record{Value: value}); !keep || err == nil {
			t.Errorf("%q: %v, %v", value, keep, err)
		}
	}
	if keep, err := f.keeps("t", &log.Record{Value: inCBOR(t, map[string]any{"level": 3})}); keep || err != nil {
		t.Errorf("CBOR: %v, %v", keep, err)
	}
}

func TestFilterFaults(t *testing.T) {
	for _, text := range []string{"payload.level >", "level > 3", `key + 1`, `"yes"`, `all(payload, true)`, `now() > 1`, strings.Repeat("1==1 or ", 600) + "true"} {
		if _, err := newFilter(text); err == nil || !strings.Contains(err.Error(), "payload") && !strings.Contains(err.Error(), "at most") {
			t.Errorf("%.40s: %v", text, err)
		}
	}
}

func TestProject(t *testing.T) {
	r := (&Lane{Fields: []string{"ts", "temp", "none"}}).newRule()
	if got, err := r.project([]byte(`{ "temp" : 1.50, "x":[1], "ts": {"a": 1} }`)); err != nil || string(got) != `{"ts":{"a": 1},"temp":1.50}` {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := r.project([]byte(`{"x":1}`)); err != nil || string(got) != `{}` {
		t.Errorf("%s, %v", got, err)
	}
	got, err := r.project(inCBOR(t, map[string]any{"temp": 1.5, "x": 1, "ts": uint64(1 << 40)}))
	if format, m, perr := payload.Members(got); err != nil || perr != nil || format != payload.CBOR || len(m) != 2 || string(m["ts"]) != string(inCBOR(t, uint64(1<<40))) {
		t.Errorf("%x, %v", got, err)
	}
	for _, value := range []string{"", "text", "[1]", `{"ts":1`} {
		if got, err := r.project([]byte(value)); err == nil {
			t.Errorf("%q became %q", value, got)
		}
	}
}

// What a mean does with members that are no numbers, come and go, or are larger than what adds up.
func TestAverage(t *testing.T) {
	s := stretch{thin: &Thin{MeanOver: time.Minute}}
	for i, v := range []string{
		`{"a":1,"w":"x","m":1,"big":1e308,"id":9007199254740993}`, `{"a":2.5,"w":"y","m":"no","big":1e308,"id":9007199254740995,"gone":"z"}`, `{"a":-1,"w":"z","m":3,"big":1,"id":9007199254740994,"<>":1}`,
	} {
		if _, err := s.join(&outgoing{Record: log.Record{Offset: log.Offset(i), Key: []byte("k"), Value: []byte(v)}}); err != nil {
			t.Fatal(err)
		}
	}
	var got *outgoing
	left := 0
	if err := s.end(nil, func(Span, reason) { left++ }, func(r *outgoing) error { got = r; return nil }); err != nil || left != 3 || got == nil {
		t.Fatal(err, left, got)
	}
	want := `{"<>":{"mean":1,"min":1,"max":1},"a":{"mean":0.8333333333333334,"min":-1,"max":2.5},"big":1,` +
		`"id":{"mean":9007199254740994,"min":9007199254740993,"max":9007199254740995},"m":3,"w":"z"}`
	var a, b any
	if string(got.Value) != want || json.Unmarshal(got.Value, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
		t.Errorf("%s", got.Value)
	}
	if got.first != 0 || got.Offset != 2 || got.count != 3 {
		t.Errorf("%+v", got)
	}
}

func FuzzAverage(f *testing.F) {
	f.Add([]byte(`{"a":1}`), []byte(`{"a":2,"b":"x"}`))
	f.Add(inCBOR(f, map[string]any{"a": 1.5}), inCBOR(f, map[string]any{"a": -1, "b": []int{1}}))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		s := stretch{thin: &Thin{MeanOver: time.Minute}}
		for i, v := range [][]byte{one, two, one} {
			_, _ = s.join(&outgoing{Record: log.Record{Offset: log.Offset(i), Key: []byte("k"), Value: v}})
		}
		if err := s.end(nil, func(Span, reason) {}, func(r *outgoing) error {
			if _, _, err := payload.Members(r.Value); err != nil {
				t.Errorf("%q and %q became %q", one, two, r.Value)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTally(t *testing.T) {
	var y tally
	count := func(keys string, every int) (got string) {
		for _, k := range keys {
			got += map[bool]string{true: "c", false: "."}[y.carries([]byte(string(k)), every)]
		}
		return got
	}
	y.from(0)
	if got := count("aabaabbb", 3); got != "c.c.c..c" {
		t.Errorf("each third: %s", got)
	}
	y.next = 8
	y.from(8)
	if got := count("ab", 3); got != ".." {
		t.Errorf("it goes on: %s", got)
	}
	y.from(10) // nobody has said that it goes on here
	if got := count("ab", 3); got != "cc" {
		t.Errorf("it begins anew: %s", got)
	}
	for i := range 3 * maxTally {
		y.carries(fmt.Append(nil, i), 3)
	}
	if len(y.seen) > maxTally {
		t.Errorf("%d keys are counted", len(y.seen))
	}
	long := bytes.Repeat([]byte("k"), 1<<20)
	y.from(0)
	for _, last := range []byte("ab") {
		if long[len(long)-1] = last; !y.carries(long, 3) || y.carries(long, 3) {
			t.Errorf("a key that ends in %c is taken for another", last)
		}
	}
	for k := range y.seen {
		if size := len(fmt.Append(nil, k)); size > 100 {
			t.Errorf("%d bytes are kept of a key", size)
		}
	}
}

// What a group is said to take is what is sent of it at the least, however its records grow and shrink.
func TestRoomOfAGroupIsThatOfWhatIsSent(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, thin := range []*Thin{{LastOver: time.Minute}, {MeanOver: time.Minute}} {
		for range 200 {
			s := stretch{thin: thin}
			room := 0
			for i := range 1 + rng.IntN(40) {
				r := log.Record{Offset: log.Offset(i), Key: fmt.Appendf(nil, "k%d", rng.IntN(5)), Value: []byte(`{"w":"x"`), Headers: []log.Header{{Key: []byte("h"), Value: make([]byte, rng.IntN(9))}}}
				for range rng.IntN(30) {
					r.Value = fmt.Appendf(r.Value, `,"%d-%s":%v`, rng.IntN(40), strings.Repeat("n", rng.IntN(2)*20), rng.NormFloat64())
				}
				r.Value = append(r.Value, '}')
				more, err := s.join(&outgoing{Record: r})
				if err != nil {
					continue // the same name twice
				}
				room += more
			}
			sent := 0
			if err := s.end(nil, func(Span, reason) {}, func(r *outgoing) error {
				sent += r.size() + perRecord
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if room < sent || thin.LastOver > 0 && room != sent {
				t.Fatalf("%+v: %d bytes are sent, and %d were reserved", thin, sent, room)
			}
		}
	}
}

// Spans that meet become one; what is passed over belongs to a span that ends before it.
func TestAccount(t *testing.T) {
	var a account
	a.pass(Span{0, 5})
	a.leave(5, filtered)
	a.pass(Span{6, 9})
	a.leave(9, thinned)
	a.leave(20, averaged) // out of order
	a.pass(Span{10, 20})
	a.leave(30, filtered)
	if got := string(a.text()); got != "5-19 filtered=1 thinned=1, 20-20 averaged=1, 30-30 filtered=1" {
		t.Error(got)
	}
	a = account{{Span: Span{5, 20}, Filtered: 1}, {Span: Span{21, 30}, Thinned: 2}}
	if a.leave(20, filtered); len(a) != 1 || string(a.text()) != "5-29 filtered=2 thinned=2" {
		t.Errorf("%s", a.text())
	}
	if err := a.check(); err != nil {
		t.Error(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	a = nil
	for _, i := range rng.Perm(250) { // none next to another
		a.leave(log.Offset(500+2*i), filtered)
	}
	for i := 249; i >= 0; i-- {
		a.leave(log.Offset(2*i), filtered)
	}
	var sum int64
	for _, l := range a {
		sum += l.Filtered
	}
	if err := a.check(); err != nil || len(a) != maxAccount || sum != 500 {
		t.Errorf("%v: %d in %s", err, sum, a.text())
	}
	for i := range log.Offset(500) {
		if !slices.ContainsFunc(a, func(l leftOut) bool { return l.From <= 2*i && 2*i < l.To }) {
			t.Errorf("offset %d is in none of %s", 2*i, a.text())
		}
	}
	for _, bad := range []account{{{Span: Span{5, 5}}}, {{Span: Span{-1, 5}}}, {{Span: Span{0, 1}, Thinned: 2}}, {{Span: Span{0, 9}, Thinned: -2}}, make(account, maxAccount+1)} {
		if bad.check() == nil {
			t.Errorf("%.100v was taken", bad)
		}
		if _, err := parseProgress(progress{Left: bad}.encode()); err == nil {
			t.Error("as a cursor")
		}
	}
}

// The origin is the border: behind it stands only what the uplink says.
func TestHeadersOfTheUplinkStandBehindTheOrigin(t *testing.T) {
	l := &fakeLog{topic: "telemetry"}
	cfg := Config{To: "kafka://h:1", Rename: "{topic}"}
	r := &outgoing{
		Record: log.Record{Offset: 9, Headers: []log.Header{{Key: []byte(LeftOutHeader), Value: []byte("a device's")}}}, from: &part{f: &Forwarder{Options: Options{Cluster: "c"}}, log: l},
		own: []log.Header{{Key: []byte(AveragedHeader), Value: []byte("3")}}, first: 4, count: 3,
	}
	var names []string
	for _, h := range newKafkaTarget(&cfg, "c", "", 0, &seenProgress{}).record(r).Headers {
		names = append(names, h.Key+"="+string(h.Value))
	}
	if got := strings.Join(names, " "); got != "weir.left-out=a device's weir.origin=c/telemetry/0/4-9 weir.averaged=3" {
		t.Error(got)
	}
}

// What a broker did not take after all is not counted.
func TestUndo(t *testing.T) {
	p := &part{}
	c := chunk{count: 2, bytes: 30, vague: 1, sums: leftOut{Filtered: 1, Full: 7}, moved: map[*part][]Span{p: {{0, 10}}}, fates: map[*part][]fate{p: {
		{at: 1, why: filtered, count: 1}, {at: 2, why: carried, bytes: 10}, {at: 5, why: noRoom, count: 7}, {at: 6, why: carried, bytes: 20, vague: true},
	}}}
	c.cut(p, 5)
	if c.count != 1 || c.bytes != 10 || c.vague != 0 || c.sums != (leftOut{Filtered: 1}) || c.moved[p][0].To != 5 {
		t.Errorf("%+v", c)
	}
}

// Of a batch that cannot be read to its end nothing is decided: it is looked at again later, and would count twice.
func TestRulesAndABatchThatCannotBeRead(t *testing.T) {
	l := newRuledLog("telemetry", 0)
	rng := rand.New(rand.NewPCG(1, 1))
	var bb log.BatchBuilder
	for at := range log.Offset(8) {
		r := l.make(at, rng)
		r.Value = []byte(`{"level":0}`)
		bb.Append(&r)
	}
	b := slices.Clone(bb.Seal(0, 1))
	b[len(b)-1] ^= 1                                                                              // says that there is a header
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli))) // as its producer had sealed it
	l.batches, l.end, l.hw = append(l.batches, b), 8, 8
	cfg := []Config{{Name: "central", To: "kafka://h:1", Topics: []string{"*"}, Lanes: []Lane{{Topics: []string{"*"}, Filter: "payload.level > 1"}}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	f := New(Options{Config: cfg[0], Logger: slog.New(slog.DiscardHandler)})
	f.added(l.fakeLog)
	c := chunk{f: f, began: time.Now(), room: maxChunk, moved: map[*part][]Span{}}
	p := f.parts[l.id]
	if err := c.read(t.Context(), p, Span{0, 8}); err != nil || len(c.moved) > 0 || c.sums != (leftOut{}) || len(c.untold(p)) > 0 || p.why == nil {
		t.Errorf("%v: %+v, told %s, blocked for %v", err, c.sums, c.untold(p).text(), p.why)
	}
}

// A stream of which everything is left out costs a commit now and then, and the cursor follows.
func TestNothingToCarryCommitsSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 1))
		l := newRuledLog("telemetry", 0)
		plain := l.make
		l.make = func(at log.Offset, rng *rand.Rand) log.Record {
			r := plain(at, rng)
			r.Value = []byte(`{"level":0}`)
			return r
		}
		c := &centre{rng: rng, calm: true, exactly: true, cursors: map[log.PartitionID]progress{}, got: map[log.PartitionID][]log.Offset{}, values: map[log.PartitionID]map[log.Offset]string{}}
		cfg := []Config{{Name: "central", To: "kafka://h:1", Topics: []string{"*"}, Lanes: []Lane{{Topics: []string{"*"}, Filter: "payload.level > 1"}}}}
		if err := Check(cfg, ""); err != nil {
			t.Fatal(err)
		}
		f := New(Options{
			Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{l.fakeLog}}, Store: fakeStore{&storeState{rng: rng, kept: map[string][]byte{}, term: 1}, 1}, Logger: slog.New(slog.DiscardHandler),
			target: func() target { return &fakeTarget{c: c, gaps: map[log.PartitionID][]Span{}} },
		})
		ctx, cancel := context.WithCancel(t.Context())
		for range 30 { // at once, with places between where there is nothing
			l.grow(rng)
		}
		ended := endingOf(func() { _ = f.Run(ctx) })
		for range 200 {
			l.grow(rng)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		s := f.Status()
		if s.Commits > 6 || s.LagRecords != 0 || s.State != "idle" || s.Records != 0 || s.Filtered != int64(len(l.values)) {
			t.Errorf("%+v of %d records", s, len(l.values))
		}
		if left := c.cursors[l.id].Left; len(left) != 1 || left[0].Filtered != s.Filtered {
			t.Errorf("the cursor says %s", left.text())
		}
		cancel()
		<-ended
	})
}

// ending runs fn and says when it has ended.
func endingOf(fn func()) <-chan struct{} {
	ended := make(chan struct{})
	go func() { defer close(ended); fn() }()
	return ended
}
