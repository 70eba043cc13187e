package deliver

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weir-io/weir/log"
)

// fakeLog is a partition in memory whose high watermark moves with each commit.
type fakeLog struct {
	topic string
	id    log.PartitionID

	mu       sync.Mutex
	batches  []log.Batch
	hw       log.Offset
	start    log.Offset
	watchers map[int]func()
	reads    int
	fail     error

	// A segment is closed by the first commit after so many batches; 0: there is one segment.
	perSegment int
	inSegment  int
	segments   []log.Offset // where segments begin, but the first
	notes      map[log.Offset][]byte
}

func (l *fakeLog) SpanAt(o log.Offset) (log.Span, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o < l.start || o >= l.hw {
		return log.Span{}, false
	}
	span := log.Span{Next: l.hw}
	for _, at := range l.segments {
		if at > o {
			span.Next, span.Closed = at, true
			break
		}
		span.First = at
	}
	return span, true
}

func (l *fakeLog) Note(first log.Offset) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.notes[first]
}

func (l *fakeLog) SetNote(first log.Offset, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.notes == nil {
		l.notes = map[log.Offset][]byte{}
	}
	l.notes[first] = bytes.Clone(b)
	return nil
}

func newFakeLog(topic string, index int32) *fakeLog {
	id := log.PartitionID{Index: index}
	copy(id.Topic[:], topic)
	return &fakeLog{topic: topic, id: id, watchers: map[int]func(){}}
}

func (l *fakeLog) Topic() string       { return l.topic }
func (l *fakeLog) Index() int32        { return l.id.Index }
func (l *fakeLog) ID() log.PartitionID { return l.id }

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
	l.reads++
	if l.fail != nil {
		return nil, l.fail
	}
	if from < l.start || from > l.hw {
		return nil, log.ErrOutOfRange
	}
	buf = buf[:0]
	for _, b := range l.batches {
		if b.NextOffset() <= from {
			continue
		}
		if len(buf) > 0 && len(buf)+len(b) > maxBytes {
			break
		}
		buf = append(buf, b...)
	}
	return buf, nil
}

func (l *fakeLog) Watch(fn func()) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := len(l.watchers)
	l.watchers[key] = fn
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.watchers[key] = func() {}
	}
}

// setStart is retention.
func (l *fakeLog) setStart(o log.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start = o
	for len(l.batches) > 0 && l.batches[0].NextOffset() <= o {
		l.batches = l.batches[1:]
	}
}

// commit appends one batch of records.
func (l *fakeLog) commit(records ...log.Record) log.Offset {
	var bb log.BatchBuilder
	return l.commitWith(&bb, records...)
}

func (l *fakeLog) commitWith(bb *log.BatchBuilder, records ...log.Record) log.Offset {
	for i := range records {
		bb.Append(&records[i])
	}
	l.mu.Lock()
	first := l.hw
	if l.perSegment > 0 && l.inSegment >= l.perSegment {
		l.segments, l.inSegment = append(l.segments, first), 0
	}
	l.inSegment++
	b := bb.Seal(first, 0)
	l.batches = append(l.batches, b)
	l.hw = b.NextOffset()
	watchers := make([]func(), 0, len(l.watchers))
	for _, fn := range l.watchers {
		watchers = append(watchers, fn)
	}
	l.mu.Unlock()
	for _, fn := range watchers {
		fn()
	}
	return first
}

// published is a record as ingress writes it; more headers go between the topic and the QoS.
func published(topic, payload string, qos byte, more ...string) log.Record {
	h := []log.Header{{Key: []byte(HeaderTopic), Value: []byte(topic)}}
	for i := 0; i+1 < len(more); i += 2 {
		h = append(h, log.Header{Key: []byte(more[i]), Value: []byte(more[i+1])})
	}
	h = append(h, log.Header{Key: []byte(HeaderQoS), Value: []byte{'0' + qos}})
	return log.Record{Key: []byte("k"), Value: []byte(payload), Headers: h}
}

// fakeSource hands out fake logs.
type fakeSource struct {
	mu      sync.Mutex
	logs    []*fakeLog
	added   func(Log)
	removed func(log.PartitionID)
}

func (s *fakeSource) Watch(added func(Log), removed func(log.PartitionID)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added, s.removed = added, removed
	for _, l := range s.logs {
		added(l)
	}
	return func() {}
}

// fakeTable is a compacted topic in memory that was never compacted: Load gives every value there ever
// was. Commits are at once, or when released.
type fakeTable struct {
	mu    sync.Mutex
	m     map[string][]byte
	log   []log.Record
	held  bool
	queue []func()
	fail  error
	loads int
}

func newFakeTable() *fakeTable { return &fakeTable{m: map[string][]byte{}} }

func (t *fakeTable) Load(fn func(key, value []byte) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loads++
	for _, r := range t.log {
		if err := fn(r.Key, r.Value); err != nil {
			return err
		}
	}
	return nil
}

// get is a copy of a committed value, nil if there is none.
func (t *fakeTable) get(key string) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.m[key])
}

func (t *fakeTable) Put(key, value []byte, done func(error)) {
	commit := func() {
		t.mu.Lock()
		err := t.fail
		if err == nil {
			t.log = append(t.log, log.Record{Key: key, Value: value})
		}
		if err == nil && value == nil {
			delete(t.m, string(key))
		} else if err == nil {
			t.m[string(key)] = value
		}
		t.mu.Unlock()
		done(err)
	}
	t.mu.Lock()
	held := t.held
	if held {
		t.queue = append(t.queue, commit)
	}
	t.mu.Unlock()
	if !held {
		commit()
	}
}

// got is one delivery as a client would see it.
type got struct {
	topic, payload string
	qos            byte
	retain         bool
	ids            string
	offset         log.Offset
	part           int32
}

// fakeTarget collects deliveries. room < 0 is without limit.
type fakeTarget struct {
	mu    sync.Mutex
	got   []got
	room  int
	group *Group
	seen  func(*Message)
}

func newTarget(room int) *fakeTarget { return &fakeTarget{room: room} }

func (t *fakeTarget) Deliver(m *Message, qos byte, retain bool, ids []uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.room == 0 {
		return false
	}
	t.room--
	g := got{topic: string(m.Topic), payload: string(m.Payload), qos: qos, retain: retain, offset: m.Offset, part: m.ID.Index}
	if len(ids) > 0 {
		g.ids = fmt.Sprint(ids)
	}
	t.got = append(t.got, g)
	t.group = m.Group
	if t.seen != nil {
		t.seen(m)
	}
	return true
}

// take returns what was delivered since the last call.
func (t *fakeTarget) take() []got {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.got
	t.got = nil
	return out
}

func (t *fakeTarget) payloads() []string {
	out := []string{}
	for _, g := range t.take() {
		out = append(out, g.payload)
	}
	return out
}

func (t *fakeTarget) allow(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room = n
}

// testHub is a hub over fake logs inside a synctest bubble: synctest.Wait returns when every worker
// idles, which makes delivery deterministic without polling.
type testHub struct {
	*Hub
	t      testing.TB
	src    *fakeSource
	logs   []*fakeLog
	cancel context.CancelFunc
	done   chan error
}

// startHub makes a hub with n partitions of topic "telemetry" and runs it.
func startHub(t testing.TB, n int, change func(*Config)) *testHub {
	th := newTestHub(t, n, change)
	th.start()
	return th
}

func newTestHub(t testing.TB, n int, change func(*Config)) *testHub {
	t.Helper()
	th := &testHub{t: t, src: &fakeSource{}}
	for i := range n {
		l := newFakeLog("telemetry", int32(i))
		th.logs = append(th.logs, l)
		th.src.logs = append(th.src.logs, l)
	}
	th.open(change)
	return th
}

func (th *testHub) open(change func(*Config)) {
	cfg := Config{Source: th.src}
	if change != nil {
		change(&cfg)
	}
	h, err := NewHub(cfg)
	if err != nil {
		th.t.Fatal(err)
	}
	th.Hub = h
}

func (th *testHub) start() {
	ctx, cancel := context.WithCancel(context.Background())
	th.cancel, th.done = cancel, make(chan error, 1)
	go func() { th.done <- th.Run(ctx) }()
	synctest.Wait()
}

func (th *testHub) stop() {
	th.cancel()
	if err := <-th.done; err != nil {
		th.t.Error(err)
	}
}

func (th *testHub) subscribe(client string, sub Sub) bool {
	th.t.Helper()
	existed, err := th.Subscribe(client, sub)
	if err != nil {
		th.t.Fatal(err)
	}
	return existed
}
