package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-io/weir/log"
)

// What is fake here: a log of record batches with holes and aborted transactions, whose high watermark may seem to fall; a centre that fails at any point of a commit,
// before or after it counts, refuses some records for ever and some topics for a while; a store that loses what was not written in time. What is real: everything between.

// fakeLog is one partition.
type fakeLog struct {
	id    log.PartitionID
	topic string

	mu      sync.Mutex
	batches []log.Batch
	values  map[log.Offset]string // of the records that are to be carried
	hw, end log.Offset
	start   log.Offset
	blind   time.Time // until then it does not know how far it is committed
	watch   []func()
	make    func(log.Offset, *rand.Rand) log.Record // [a value that names the place]
}

func (l *fakeLog) ID() log.PartitionID { return l.id }
func (l *fakeLog) Topic() string       { return l.topic }
func (l *fakeLog) Index() int32        { return l.id.Index }

func (l *fakeLog) HighWatermark() log.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hw
}

func (l *fakeLog) LogStart() log.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start
}

func (l *fakeLog) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	buf = buf[:0]
	if from < l.start || from > l.end {
		return buf, log.ErrOutOfRange
	}
	if time.Now().Before(l.blind) {
		return buf, nil
	}
	for _, b := range l.batches {
		if b.NextOffset() <= from || b.LastOffset() >= l.hw {
			continue
		}
		if len(buf) > 0 && len(buf)+b.Size() > maxBytes {
			break
		}
		buf = append(buf, b...)
	}
	return buf, nil
}

func (l *fakeLog) Watch(fn func()) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watch = append(l.watch, fn)
	return func() {}
}

// grow appends a batch: records, a hole, or an aborted transaction.
func (l *fakeLog) grow(rng *rand.Rand) {
	l.mu.Lock()
	var bb log.BatchBuilder
	n := 1 + rng.IntN(20)
	aborted := rng.IntN(8) == 0
	if rng.IntN(4) == 0 {
		bb.SetCompression(log.CompressionGzip)
	}
	for i := range n {
		v := fmt.Sprintf("%s-%d-%d", l.topic, l.id.Index, l.end+log.Offset(i))
		r := log.Record{Timestamp: time.Now().UnixMilli(), Key: []byte("k"), Value: []byte(v), Headers: []log.Header{{Key: []byte("h"), Value: []byte(v)}}}
		if l.make != nil {
			r = l.make(l.end+log.Offset(i), rng)
			v = string(r.Value)
		}
		bb.Append(&r)
		if !aborted {
			l.values[l.end+log.Offset(i)] = v
		}
	}
	b := slices.Clone(bb.Seal(l.end, 1))
	if aborted {
		b.MarkControl()
	}
	if rng.IntN(10) == 0 { // compacted away
		for i := range n {
			delete(l.values, l.end+log.Offset(i))
		}
	} else {
		l.batches = append(l.batches, b)
	}
	l.end += log.Offset(n)
	l.hw = l.end
	watch := slices.Clone(l.watch)
	l.mu.Unlock()
	for _, fn := range watch {
		fn()
	}
}

// centre is the target's server side.
type centre struct {
	mu      sync.Mutex
	rng     *rand.Rand
	calm    bool // nothing fails any more
	epoch   int
	cursors map[log.PartitionID]progress
	got     map[log.PartitionID][]log.Offset // as committed, in order
	values  map[log.PartitionID]map[log.Offset]string
	gaps    map[log.PartitionID][]Span
	poison  map[string]bool // values
	exactly bool
	early   bool                 // what is refused is refused while it is sent, not with the commit
	refuse  func(*outgoing) bool // [what poison names]
	all     []arrived
}

// arrived is a record as it was committed.
type arrived struct {
	*outgoing
	at time.Time
}

func (c *centre) refuses(r *outgoing) bool {
	if c.refuse != nil {
		return c.refuse(r)
	}
	return c.poison[string(r.Value)]
}

var errLink = errors.New("the link is down")

func (c *centre) fails(one int) bool { return !c.calm && c.rng.IntN(one) == 0 }

// fakeTarget is one connection to it.
type fakeTarget struct {
	c       *centre
	epoch   int
	records []*outgoing
	gaps    map[log.PartitionID][]Span
	bytes   int64
}

func (t *fakeTarget) open(context.Context) (map[log.PartitionID]progress, error) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	if t.c.fails(3) {
		return nil, errLink
	}
	t.c.epoch++
	t.epoch = t.c.epoch
	if !t.c.exactly {
		return nil, nil
	}
	return maps.Clone(t.c.cursors), nil
}

func (t *fakeTarget) add(_ context.Context, r *outgoing) error {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	if t.c.fails(200) {
		return errLink
	}
	if t.c.fails(200) {
		return &topicError{r.from.remote, errors.New("not now")}
	}
	if t.c.early && t.c.refuses(r) {
		return &refusedError{errors.New("too large")}
	}
	t.records = append(t.records, r.clone())
	t.bytes += int64(len(r.Value))
	return nil
}

func (t *fakeTarget) announce(_ context.Context, p *part, s Span) error {
	t.gaps[p.log.ID()] = append(t.gaps[p.log.ID()], s)
	return nil
}

func (t *fakeTarget) commit(ctx context.Context, cursors map[log.PartitionID]progress) error {
	t.c.mu.Lock()
	pause := time.Duration(t.c.rng.IntN(50)) * time.Millisecond
	t.c.mu.Unlock()
	time.Sleep(pause)
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	records := t.records
	t.records = nil
	for i, r := range records {
		if t.c.refuses(r) {
			if !t.c.exactly { // those before it have arrived
				t.arrive(records[:i])
			}
			return &refusedError{errors.New("too large")}
		}
	}
	if t.c.fails(6) || t.c.exactly && t.epoch != t.c.epoch { // U3: fenced
		return errLink
	}
	t.arrive(records)
	for id, g := range t.gaps {
		t.c.gaps[id] = append(t.c.gaps[id], g...)
	}
	clear(t.gaps)
	for id, p := range cursors {
		t.c.cursors[id] = p
	}
	if t.c.fails(8) {
		return errLink // and nobody knows
	}
	return nil
}

func (t *fakeTarget) arrive(records []*outgoing) {
	for _, r := range records {
		id := r.from.log.ID()
		t.c.all = append(t.c.all, arrived{r, time.Now()})
		t.c.got[id] = append(t.c.got[id], r.Offset)
		if t.c.values[id] == nil {
			t.c.values[id] = map[log.Offset]string{}
		}
		t.c.values[id][r.Offset] = string(r.Value)
	}
}

func (t *fakeTarget) wire() int64         { return t.bytes }
func (t *fakeTarget) trip() time.Duration { return 0 }
func (t *fakeTarget) close()              {}

// fakeStore is the table of cursors; each term has its own.
type fakeStore struct {
	s    *storeState
	term int
}

type storeState struct {
	mu     sync.Mutex
	rng    *rand.Rand
	term   int
	kept   map[string][]byte
	steady bool // nothing fails
}

func (s fakeStore) Load(fn func(key, value []byte) error) error {
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	for k, v := range s.s.kept {
		if err := fn([]byte(k), v); err != nil {
			return err
		}
	}
	return nil
}

func (s fakeStore) Put(key, value []byte, done func(error)) {
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	var err error
	switch {
	case s.term != s.s.term || !s.s.steady && s.s.rng.IntN(4) == 0:
		err = errors.New("not the leader")
	case value == nil:
		delete(s.s.kept, string(key))
	default:
		s.s.kept[string(key)] = slices.Clone(value)
	}
	go done(err)
}

type fakeSource struct{ logs []*fakeLog }

func (s fakeSource) Watch(added func(Log), _ func(log.PartitionID)) (stop func()) {
	for _, l := range s.logs {
		added(l)
	}
	return func() {}
}

// Everything that is committed arrives; exactly once and in order where that was promised; what is refused for ever is in the dead-letter topic.
func TestForwarderModel(t *testing.T) {
	seeds := uint64(15)
	if os.Getenv("WEIR_SOAK") != "" {
		seeds = 3000
	}
	for seed := range seeds {
		for _, exactly := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) { runModel(t, seed, exactly) })
			if t.Failed() {
				t.Fatalf("seed %d, exactly once: %v", seed, exactly)
			}
		}
	}
}

func runModel(t *testing.T, seed uint64, exactly bool) {
	rng := rand.New(rand.NewPCG(seed, 1))
	c := &centre{
		rng: rand.New(rand.NewPCG(seed, 2)), exactly: exactly, cursors: map[log.PartitionID]progress{}, got: map[log.PartitionID][]log.Offset{},
		values: map[log.PartitionID]map[log.Offset]string{}, gaps: map[log.PartitionID][]Span{}, poison: map[string]bool{}, early: seed%3 == 1,
	}
	st := &storeState{rng: rand.New(rand.NewPCG(seed, 3)), kept: map[string][]byte{}}
	var src fakeSource
	for i, topic := range []string{"alerts", "telemetry", "telemetry"} {
		src.logs = append(src.logs, &fakeLog{id: log.PartitionID{Topic: log.TopicID{byte(len(topic))}, Index: int32(i / 2)}, topic: topic, values: map[log.Offset]string{}})
	}
	cfg := []Config{{
		Name: "central", To: "kafka://127.0.0.1:1", Topics: []string{"*"}, Guarantee: map[bool]string{true: ExactlyOnce, false: AtLeastOnce}[exactly],
		Lanes: []Lane{{Topics: []string{"alerts"}}, {Topics: []string{"*"}, Priority: 5, Order: []string{orderStrict, orderLiveFirst}[seed%2]}},
	}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	buried := map[string]bool{}
	bury := func(_ context.Context, topic string, r *log.Record) error {
		mu.Lock()
		defer mu.Unlock()
		c.mu.Lock()
		fails := c.fails(3)
		c.mu.Unlock()
		if fails {
			return errors.New("no leader")
		}
		if len(r.Headers) != 4 || topic != string(r.Value[:len(topic)-4])+dlqSuffix {
			t.Errorf("a record of %s with %d headers went to %s", r.Value, len(r.Headers), topic)
		}
		buried[string(r.Value)] = true
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
		l := src.logs[rng.IntN(len(src.logs))]
		switch rng.IntN(12) {
		case 0: // a new owner; the old one goes on for a while, as a zombie
			zombies = append(zombies, stop)
			stop = begin()
		case 1:
			l.mu.Lock()
			l.blind = time.Now().Add(time.Duration(rng.IntN(5000)) * time.Millisecond)
			l.mu.Unlock()
		case 2: // a burst, more than what counts as live
			for range 120 {
				l.grow(rng)
			}
		default:
			l.grow(rng)
			if rng.IntN(5) == 0 {
				l.mu.Lock()
				v := fmt.Sprintf("%s-%d-%d", l.topic, l.id.Index, l.end-1)
				l.mu.Unlock()
				c.mu.Lock()
				c.poison[v] = true
				c.mu.Unlock()
			}
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
	for _, l := range src.logs {
		checkArrived(t, c, l, buried, exactly, l.topic == "alerts" || seed%2 == 0)
	}
}

func checkArrived(t *testing.T, c *centre, l *fakeLog, buried map[string]bool, exactly, strict bool) {
	t.Helper()
	if len(c.gaps[l.id]) > 0 {
		t.Errorf("%s/%d: gaps %v, and nothing was deleted", l.topic, l.id.Index, c.gaps[l.id])
	}
	seen := map[log.Offset]int{}
	last := log.Offset(-1)
	for _, o := range c.got[l.id] {
		seen[o]++
		if exactly && strict && o <= last {
			t.Errorf("%s/%d: offset %d came after %d", l.topic, l.id.Index, o, last)
		}
		last = o
	}
	for o, v := range l.values {
		switch n := seen[o]; {
		case c.poison[v]:
			if n > 0 || !buried[v] {
				t.Errorf("%s/%d: offset %d is refused for ever; arrived %d times, in the dead-letter topic: %v", l.topic, l.id.Index, o, n, buried[v])
			}
		case n == 0:
			t.Errorf("%s/%d: offset %d of %d never arrived", l.topic, l.id.Index, o, l.end)
		case n > 1 && exactly:
			t.Errorf("%s/%d: offset %d arrived %d times", l.topic, l.id.Index, o, n)
		case c.values[l.id][o] != v:
			t.Errorf("%s/%d: offset %d arrived as %q", l.topic, l.id.Index, o, c.values[l.id][o])
		}
		delete(seen, o)
	}
	if len(seen) > 0 {
		t.Errorf("%s/%d: %d records arrived that were not to be carried", l.topic, l.id.Index, len(seen))
	}
}
