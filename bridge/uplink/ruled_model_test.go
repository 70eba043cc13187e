package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// The model of model_test.go with rules: what is left out is told, once, and nothing else is missing. // U10

// ruledRecord is what the test knows of a record.
type ruledRecord struct {
	log.Record
	level    int
	temp     float64
	readable bool
}

// ruledLog is a partition whose records can be judged.
type ruledLog struct {
	*fakeLog
	records map[log.Offset]*ruledRecord
}

func newRuledLog(topic string, index int32) *ruledLog {
	l := &ruledLog{&fakeLog{id: log.PartitionID{Topic: log.TopicID{byte(len(topic))}, Index: index}, topic: topic, values: map[log.Offset]string{}}, map[log.Offset]*ruledRecord{}}
	l.make = func(at log.Offset, rng *rand.Rand) log.Record {
		r := &ruledRecord{level: rng.IntN(6), temp: float64(rng.IntN(1000)) / 8, readable: rng.IntN(20) > 0}
		r.Timestamp = time.Now().Add(-time.Duration(rng.IntN(40)) * time.Second).UnixMilli()
		r.Value = fmt.Appendf(nil, `{"level": %d, "temp":%v, "n":%d, "word":"w%d"}`, r.level, r.temp, at, at)
		if !r.readable {
			r.Value = fmt.Appendf(nil, "no JSON %d", at)
		}
		if k := rng.IntN(6); k > 0 {
			r.Key = fmt.Appendf(nil, "k%d", k)
		}
		l.records[at] = r
		return r.Record
	}
	return l
}

const modelAfter, modelOver, modelEvery = 15 * time.Second, 10 * time.Second, 4

func ruledLane(seed uint64) Lane {
	lane := Lane{Topics: []string{"*"}, Order: []string{orderStrict, orderLiveFirst}[seed/2%2]}
	if seed%2 == 0 {
		lane.Filter = "payload.level > 1"
	}
	switch seed % 5 {
	case 0:
		lane.Thin = &Thin{After: modelAfter, LastOver: modelOver}
	case 1:
		lane.Thin = &Thin{After: modelAfter, Every: modelEvery}
	case 2, 3:
		lane.Thin = &Thin{After: modelAfter, MeanOver: modelOver}
	}
	if seed%3 == 0 {
		lane.Fields = []string{"n", "temp", "none"}
	}
	return lane
}

func TestRuledForwarderModel(t *testing.T) {
	seeds := uint64(10)
	if os.Getenv("WEIR_SOAK") != "" {
		seeds = 3000
	}
	for seed := range seeds {
		for _, exactly := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) { runRuledModel(t, seed, exactly) })
			if t.Failed() {
				t.Fatalf("seed %d, exactly once: %v", seed, exactly)
			}
		}
	}
}

func runRuledModel(t *testing.T, seed uint64, exactly bool) {
	rng := rand.New(rand.NewPCG(seed, 4))
	c := &centre{
		rng: rand.New(rand.NewPCG(seed, 5)), exactly: exactly, cursors: map[log.PartitionID]progress{}, got: map[log.PartitionID][]log.Offset{},
		values: map[log.PartitionID]map[log.Offset]string{}, gaps: map[log.PartitionID][]Span{}, early: seed%3 == 1,
	}
	refused := func(at log.Offset) bool { return at%101 == 17 }
	c.refuse = func(r *outgoing) bool { // records, and means that their records are not
		return r.count == 0 && refused(r.Offset) || r.count > 0 && r.first%13 == 5
	}
	st := &storeState{rng: rand.New(rand.NewPCG(seed, 6)), kept: map[string][]byte{}}
	logs := []*ruledLog{newRuledLog("alerts", 0), newRuledLog("telemetry", 0), newRuledLog("telemetry", 1)}
	var src fakeSource
	for _, l := range logs {
		src.logs = append(src.logs, l.fakeLog)
	}
	lane := ruledLane(seed)
	cfg := []Config{{Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"*"}, Guarantee: map[bool]string{true: ExactlyOnce, false: AtLeastOnce}[exactly], Lanes: []Lane{lane}}}
	if seed%5 == 0 {
		cfg[0].OnFull = onFullThin
	}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	buried := map[string]bool{} // by origin
	bury := func(_ context.Context, _ string, r *log.Record) error {
		mu.Lock()
		defer mu.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.fails(3) {
			return errors.New("no leader")
		}
		for _, h := range r.Headers {
			if string(h.Key) == OriginHeader {
				buried[string(h.Value)] = true
			}
		}
		return nil
	}
	var running sync.WaitGroup
	var current *Forwarder
	begin := func() (stop func()) {
		st.mu.Lock()
		st.term++
		term := st.term
		st.mu.Unlock()
		f := New(Options{
			Config: cfg[0], Cluster: "edge", Source: src, Store: fakeStore{st, term}, DeadLetter: bury, Logger: slog.New(slog.DiscardHandler),
			target: func() target { return &fakeTarget{c: c, gaps: map[log.PartitionID][]Span{}} },
		})
		current = f
		ctx, cancel := context.WithCancel(t.Context())
		running.Go(func() {
			if err := f.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		return cancel
	}
	stop := begin()
	var zombies []func()
	for range 60 {
		l := logs[rng.IntN(len(logs))]
		switch rng.IntN(12) {
		case 0: // a new owner; the old one goes on for a while
			zombies = append(zombies, stop)
			stop = begin()
		case 1: // a burst, more than what counts as live
			for range 120 {
				l.grow(rng)
			}
		case 2, 3: // its disk is full
			if rule := cfg[0].Thinner(l.topic); rule != nil {
				l.thin(t, rule)
			}
		default:
			l.grow(rng)
		}
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
		if len(zombies) > 0 && rng.IntN(3) == 0 {
			zombies[0]()
			zombies = zombies[1:]
		}
	}
	c.mu.Lock()
	c.calm = true
	c.mu.Unlock()
	for _, z := range zombies {
		z()
	}
	time.Sleep(20 * time.Minute)
	if s := current.Status(); s.State != "idle" || s.LagRecords != 0 {
		t.Errorf("at the end: %+v", s)
	}
	stop()
	running.Wait()
	for _, l := range logs {
		m := &ruledCheck{t: t, l: l, lane: &lane, exactly: exactly, arrived: map[log.Offset]int{}, told: map[log.Offset]int{}, dead: map[log.Offset]bool{}}
		for at := range l.values {
			r := &outgoing{Record: log.Record{Offset: at}, from: &part{f: current, log: l.fakeLog}}
			m.dead[at] = buried[string(r.origin(nil))]
		}
		m.check(c)
	}
}

// ruledCheck is what is found of one partition.
type ruledCheck struct {
	t       *testing.T
	l       *ruledLog
	lane    *Lane
	exactly bool
	arrived map[log.Offset]int
	told    map[log.Offset]int // to be left out: how often
	dead    map[log.Offset]bool
	sums    [4]int64 // that the accounts say: filtered, thinned, averaged, full
	means   []arrived
	stands  int64
}

func (m *ruledCheck) check(c *centre) {
	t, l := m.t, m.l
	last := log.Offset(-1)
	for _, r := range c.all {
		if r.from.log.ID() != l.id {
			continue
		}
		if m.exactly && m.lane.Order == orderStrict && r.Offset <= last { // U4
			t.Errorf("%s: offset %d came after %d", l.topic, r.Offset, last)
		}
		last = r.Offset
		if r.count > 0 {
			m.means, m.stands = append(m.means, r), m.stands+r.count
		} else {
			m.arrived[r.Offset]++
			m.value(r)
		}
		for _, h := range r.own {
			if string(h.Key) == LeftOutHeader {
				m.tell(string(h.Value), r.at)
			}
		}
	}
	m.tell(string(c.cursors[l.id].Left.text()), time.Now())
	var counts [3]int64
	both := int64(0) // put into the dead-letter topic by an owner that did not come to say so, and left out by the next
	for at := range l.values {
		r := l.records[at]
		told, arrived := m.told[at], m.arrived[at]
		if m.dead[at] { // it may lie in what is told: nothing was carried there
			both, told = both+min(int64(told), 1), 0
		}
		switch n := told + arrived; {
		case m.dead[at]:
			if arrived > 0 {
				t.Errorf("%s: offset %d is in the dead-letter topic and has arrived", l.topic, at)
			}
		case n == 0:
			t.Errorf("%s: offset %d has not arrived, and nobody says why", l.topic, at)
		case n > 1 && m.exactly:
			t.Errorf("%s: offset %d has arrived %d times, and was told %d times to be left out", l.topic, at, arrived, told)
		}
		if told == 0 {
			continue
		}
		switch {
		case m.unwanted(r):
			counts[0]++
		case m.lane.Thin != nil && m.lane.Thin.MeanOver > 0:
			counts[2]++
		default:
			counts[1]++
		}
	}
	if m.lane.Thin != nil && m.lane.Thin.LastOver > 0 { // with its disk full: whether it was the log or the lane depends on who came first
		all := m.sums[0] + m.sums[1] + m.sums[3]
		if m.exactly && m.sums[3] > 0 {
			t.Logf("%s: %d of %d records that were told were given up by the log", l.topic, m.sums[3], all)
		}
		m.sums, counts = [4]int64{all}, [3]int64{counts[0] + counts[1] + counts[2]}
	}
	differ := int64(0)
	for i := range counts {
		if differ += m.sums[i] - counts[i]; m.sums[i] < counts[i] {
			differ = math.MaxInt32
		}
	}
	if m.exactly && (differ > both || m.stands != m.sums[2]) {
		t.Errorf("%s: filtered, thinned, averaged %v, and told were %v; %d are in means", l.topic, counts, m.sums, m.stands)
	}
	if th := m.lane.Thin; th != nil && th.LastOver > 0 {
		m.lasts()
	} else if th != nil && th.Every > 0 {
		m.runs()
	}
	if m.exactly {
		m.averages()
	}
}

// unwanted is the filter, in other words. What cannot be read is wanted.
func (m *ruledCheck) unwanted(r *ruledRecord) bool {
	return m.lane.Filter != "" && r.readable && r.level <= 1
}

// value compares a record that was carried as itself.
func (m *ruledCheck) value(r arrived) {
	of := m.l.records[r.Offset]
	want := string(of.Value)
	if len(m.lane.Fields) > 0 && of.readable {
		want = fmt.Sprintf(`{"n":%d,"temp":%v}`, r.Offset, of.temp)
	}
	if m.unwanted(of) || string(r.Value) != want {
		m.t.Errorf("%s: offset %d arrived as %s instead of %s", m.l.topic, r.Offset, r.Value, want)
	}
}

// tell takes an account as the header has it.
func (m *ruledCheck) tell(text string, when time.Time) {
	for one := range strings.SplitSeq(text, ", ") {
		if one == "" {
			continue
		}
		var from, to log.Offset
		span, rest, _ := strings.Cut(one, " ")
		if n, err := fmt.Sscanf(span, "%d-%d", &from, &to); n != 2 || err != nil {
			m.t.Fatalf("an account %q: %v", text, err)
		}
		for _, w := range strings.Fields(rest) {
			var n int64
			for i, name := range []string{"filtered", "thinned", "averaged", "full"} {
				if k, _ := fmt.Sscanf(w, name+"=%d", &n); k == 1 {
					m.sums[i] += n
				}
			}
		}
		for at := from; at <= to; at++ {
			r := m.l.records[at]
			if _, there := m.l.values[at]; !there {
				continue
			}
			m.told[at]++
			if !m.dead[at] && !m.unwanted(r) && when.UnixMilli()-r.Timestamp < modelAfter.Milliseconds() {
				m.t.Errorf("%s: offset %d is not old, and was left out", m.l.topic, at)
			}
		}
	}
}

// lasts: of each key and interval the last wanted record is there, and nothing without a key is left out.
func (m *ruledCheck) lasts() {
	type group struct {
		key      string
		interval int64
	}
	last := map[group]log.Offset{}
	for at := range m.l.values {
		r := m.l.records[at]
		if m.unwanted(r) {
			continue
		}
		if r.Key == nil && m.told[at] > 0 && !m.dead[at] && m.exactly {
			m.t.Errorf("%s: offset %d has no key, and was left out", m.l.topic, at)
		}
		g := group{string(r.Key), r.Timestamp / modelOver.Milliseconds()}
		last[g] = max(last[g], at)
	}
	for g, at := range last {
		if m.arrived[at] == 0 && !m.dead[at] {
			m.t.Errorf("%s: offset %d is the last of %v, and was left out", m.l.topic, at, g)
		}
	}
}

// runs: of each key never more than every-1 wanted ones in a row are left out.
func (m *ruledCheck) runs() {
	row := map[string]int{}
	for at := range m.l.end {
		if _, there := m.l.values[at]; !there || m.unwanted(m.l.records[at]) {
			continue
		}
		key := string(m.l.records[at].Key)
		row[key]++
		if m.arrived[at] > 0 || m.dead[at] {
			row[key] = 0
		}
		if row[key] >= modelEvery {
			m.t.Errorf("%s: %d records of %q in a row are left out, up to offset %d", m.l.topic, row[key], key, at)
		}
	}
}

// averages: each mean is that of the records it says to stand for, and each of those is left out.
func (m *ruledCheck) averages() {
	for _, a := range m.means {
		var got struct {
			Temp struct{ Mean, Min, Max float64 }
			N    struct{ Min, Max log.Offset }
			Word *string
		}
		if err := json.Unmarshal(a.Value, &got); err != nil {
			m.t.Fatalf("%s: %v", a.Value, err)
		}
		n, sum, least, most := int64(0), 0.0, math.Inf(1), math.Inf(-1)
		both := false
		for at := a.first; at <= a.Offset; at++ {
			r := m.l.records[at]
			if _, there := m.l.values[at]; !there || m.unwanted(r) || !r.readable || string(r.Key) != string(a.Key) || m.told[at] == 0 ||
				r.Timestamp/modelOver.Milliseconds() != a.Timestamp/modelOver.Milliseconds() {
				continue
			}
			both = both || m.dead[at] // whether the mean has it too depends on when its owner died
			n, sum, least, most = n+1, sum+r.temp, min(least, r.temp), max(most, r.temp)
		}
		if both {
			continue
		}
		if n != a.count || n < 2 || math.Abs(got.Temp.Mean-sum/float64(n)) > 1e-9 || got.Temp.Min != least || got.Temp.Max != most || got.N.Min != a.first || got.N.Max != a.Offset ||
			(got.Word == nil) != (len(m.lane.Fields) > 0) {
			m.t.Errorf("%s: %d to %d are %d records with mean %v, least %v, greatest %v; it says %d: %s", m.l.topic, a.first, a.Offset, n, sum/float64(n), least, most, a.count, a.Value)
		}
	}
}
