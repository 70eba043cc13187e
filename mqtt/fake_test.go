package mqtt

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
)

// fakeLog is a log in memory: Sink and Source in one. Appends wait until commit, which Auto does at once on a
// goroutine of its own, as a committer would.
type fakeLog struct {
	mu       sync.Mutex
	topics   map[string][]*fakePartition
	watchers []func(deliver.Log)
	perTopic int
	down     error         // Append and Topic fail with it
	manual   bool          // commit only on demand
	owners   map[int]int32 // epoch of the newest owner, for each partition of the sessions table
	far      bool          // appends are on their way until arrive
	behind   atomic.Bool   // it is not known here that anything is committed
	late     []func()
	settle   chan error // where not nil, what Settle waits for
	kick     chan struct{}
	stop     chan struct{}
	ended    sync.WaitGroup
}

var errFakeDown = errors.New("no leader for now")

func newFakeLog(t testing.TB, partitions int) *fakeLog {
	f := &fakeLog{topics: map[string][]*fakePartition{}, owners: map[int]int32{}, perTopic: partitions, kick: make(chan struct{}, 1), stop: make(chan struct{})}
	f.ended.Go(f.committer)
	t.Cleanup(func() { close(f.stop); f.ended.Wait() })
	return f
}

func (f *fakeLog) committer() {
	for {
		select {
		case <-f.stop:
			return
		case <-f.kick:
			f.mu.Lock()
			manual := f.manual
			f.mu.Unlock()
			if !manual {
				f.commit(nil)
			}
		}
	}
}

func (f *fakeLog) set(down error, manual bool) {
	f.mu.Lock()
	f.down, f.manual = down, manual
	f.mu.Unlock()
	f.wake()
}

func (f *fakeLog) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// commit settles everything appended so far.
func (f *fakeLog) commit(err error) {
	f.mu.Lock()
	var all []*fakePartition
	for _, ps := range f.topics {
		all = append(all, ps...)
	}
	f.mu.Unlock()
	for _, p := range all {
		p.commit(err)
	}
}

func (f *fakeLog) Topic(name string) ([]Partition, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, f.down
	}
	ps := f.topics[name]
	if ps == nil {
		for i := range f.perTopic {
			p := &fakePartition{f: f, topic: name}
			copy(p.id.Topic[:], name)
			p.id.Index = int32(i)
			ps = append(ps, p)
			for _, w := range f.watchers {
				w(p)
			}
		}
		f.topics[name] = ps
	}
	out := make([]Partition, len(ps))
	for i, p := range ps {
		out[i] = p
	}
	return out, nil
}

func (f *fakeLog) Transient(err error) bool {
	return errors.Is(err, errFakeDown) || errors.Is(err, log.ErrDiskFull)
}

func (f *fakeLog) Watch(added func(deliver.Log), _ func(log.PartitionID)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ps := range f.topics {
		for _, p := range ps {
			added(p)
		}
	}
	f.watchers = append(f.watchers, added)
	return func() {}
}

// records returns the committed records of a topic, partition by partition.
func (f *fakeLog) records(t testing.TB, topic string) (out []log.Record) {
	t.Helper()
	f.mu.Lock()
	ps := f.topics[topic]
	f.mu.Unlock()
	for _, p := range ps {
		b, err := p.Read(0, 1<<30, nil)
		if err != nil {
			t.Fatal(err)
		}
		var rd log.RecordReader
		for len(b) > 0 {
			batch, err := log.NextBatch(b, len(b))
			if err != nil {
				t.Fatal(err)
			}
			if err := rd.Reset(batch); err != nil {
				t.Fatal(err)
			}
			var r log.Record
			for {
				more, err := rd.Next(&r)
				if err != nil {
					t.Fatal(err)
				}
				if !more {
					break
				}
				out = append(out, *cloneRecord(&r))
			}
			b = b[batch.Size():]
		}
	}
	return out
}

// appended counts records, committed or not.
func (f *fakeLog) appended(topic string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.topics[topic] {
		p.mu.Lock()
		n += int(p.end)
		p.mu.Unlock()
	}
	return n
}

// settling counts who waits for commits.
func (f *fakeLog) settling(topic string) (n int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.topics[topic] {
		n += p.settling.Load()
	}
	return n
}

type fakeWait struct {
	w   Waiter
	seq uint64
}

type fakePartition struct {
	f     *fakeLog
	id    log.PartitionID
	topic string

	mu      sync.Mutex
	bb      log.BatchBuilder
	open    int // records in bb
	batches []log.Batch
	end, hw log.Offset
	waits   []fakeWait
	watch   map[int]func()
	next    int

	settling atomic.Int32 // who waits for commits
}

func (p *fakePartition) ID() log.PartitionID  { return p.id }
func (p *fakePartition) Topic() string        { return p.topic }
func (p *fakePartition) Index() int32         { return p.id.Index }
func (p *fakePartition) LogStart() log.Offset { return 0 }

func (p *fakePartition) LogEnd() log.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

func (p *fakePartition) HighWatermark() log.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hw
}

func (p *fakePartition) Append(r *log.Record, w Waiter, seq uint64) error {
	return p.append(Ownership{-1, 0}, r, w, seq)
}

func (p *fakePartition) append(o Ownership, r *log.Record, w Waiter, seq uint64) error {
	p.f.mu.Lock()
	down := p.f.down
	if o.Epoch < p.f.owners[o.Partition] {
		down = errFakeDown
	}
	if p.f.far && down == nil {
		c := cloneRecord(r)
		p.f.late = append(p.f.late, func() {
			if err := p.append(o, c, w, seq); err != nil && w != nil {
				w.Committed(seq, 1, err)
			}
		})
		p.f.mu.Unlock()
		return nil
	}
	p.f.mu.Unlock()
	if down != nil {
		return down
	}
	p.mu.Lock()
	if p.open == 0 {
		p.bb.Reset()
	}
	p.bb.Append(r)
	p.open++
	p.end++
	if w != nil {
		p.waits = append(p.waits, fakeWait{w, seq})
	}
	p.mu.Unlock()
	p.f.wake()
	return nil
}

// AppendIn implements Partition.
func (p *fakePartition) AppendIn(o Ownership, r *log.Record, w Waiter, seq uint64) error {
	return p.append(o, r, w, seq)
}

// arrive has what is on its way arrive.
func (f *fakeLog) arrive() {
	f.mu.Lock()
	late := f.late
	f.far, f.late = false, nil
	f.mu.Unlock()
	for _, arrive := range late {
		arrive()
	}
}

func (p *fakePartition) commit(err error) {
	p.mu.Lock()
	if p.open > 0 {
		if err == nil {
			b := p.bb.Seal(p.hw, 1)
			p.batches = append(p.batches, append(log.Batch(nil), b...))
		} else {
			p.end = p.hw
		}
		p.hw, p.open = p.end, 0
	}
	waits := p.waits
	p.waits = nil
	var fns []func()
	for _, fn := range p.watch {
		fns = append(fns, fn)
	}
	p.mu.Unlock()
	for _, w := range waits {
		w.w.Committed(w.seq, 1, err)
	}
	for _, fn := range fns {
		fn()
	}
}

func (p *fakePartition) Settle() (log.Offset, error) {
	p.settling.Add(1)
	defer p.settling.Add(-1)
	p.f.mu.Lock()
	settle := p.f.settle
	p.f.mu.Unlock()
	if settle != nil {
		if err := <-settle; err != nil {
			return 0, err
		}
	}
	for {
		p.mu.Lock()
		open, end := p.open, p.end
		p.mu.Unlock()
		if open == 0 {
			return end, nil
		}
		select {
		case <-p.f.stop:
			return 0, errFakeDown
		case <-time.After(time.Millisecond):
		}
	}
}

func (p *fakePartition) Read(from log.Offset, _ int, buf []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	buf = buf[:0]
	if p.f.behind.Load() {
		return buf, nil
	}
	for _, b := range p.batches {
		if b.NextOffset() > from {
			buf = append(buf, b...)
		}
	}
	return buf, nil
}

func (p *fakePartition) Watch(fn func()) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch == nil {
		p.watch = map[int]func(){}
	}
	p.next++
	n := p.next
	p.watch[n] = fn
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watch, n)
	}
}

// fakeTable is a compacted topic in memory. With held set, puts wait for release.
type fakeTable struct {
	mu     sync.Mutex
	m      map[string]string
	past   []fakePut // every put, as a topic that was never compacted has them
	held   bool
	heldOf string // held is for keys that begin so
	queued []func()
	mute   bool   // puts take effect and their callbacks never come
	muted  string // the same for keys that begin so; "" for none
	puts   int
	fail   error
	failed string // fail is for keys that begin so
}

// onePart makes it the only partition of a sessions table.
type onePart struct{ *fakeTable }

func (t onePart) Partitions() int { return 1 }

func (t onePart) Load(_ int, fn func(key, value []byte) error) error { return t.fakeTable.Load(fn) }

func (t onePart) Put(_ Ownership, key, value []byte, done func(error)) {
	t.fakeTable.Put(key, value, done)
}

type fakePut struct {
	key, value string
	del        bool
}

func newFakeTable() *fakeTable { return &fakeTable{m: map[string]string{}} }

func (t *fakeTable) Load(fn func(key, value []byte) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.past {
		value := []byte(p.value)
		if p.del {
			value = nil
		}
		if err := fn([]byte(p.key), value); err != nil {
			return err
		}
	}
	return nil
}

func (t *fakeTable) Put(key, value []byte, done func(error)) {
	k, v, del := string(key), string(value), value == nil
	apply := func() {
		t.mu.Lock()
		err := t.fail
		if !strings.HasPrefix(k, t.failed) {
			err = nil
		}
		if err == nil {
			t.past = append(t.past, fakePut{k, v, del})
			if del {
				delete(t.m, k)
			} else {
				t.m[k] = v
			}
		}
		mute := t.mute || t.muted != "" && strings.HasPrefix(k, t.muted)
		t.mu.Unlock()
		if !mute {
			done(err)
		}
	}
	t.mu.Lock()
	t.puts++
	if t.held && strings.HasPrefix(k, t.heldOf) {
		t.queued = append(t.queued, apply)
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	apply()
}

func (t *fakeTable) hold() { t.holdOf("") }

// holdOf holds puts of keys that begin with prefix.
func (t *fakeTable) holdOf(prefix string) {
	t.mu.Lock()
	t.held, t.heldOf = true, prefix
	t.mu.Unlock()
}

func (t *fakeTable) release() {
	t.mu.Lock()
	q := t.queued
	t.queued, t.held = nil, false
	t.mu.Unlock()
	for _, f := range q {
		f()
	}
}

// holdDone lets puts take effect without telling anyone: what is seen of a node that dies right behind a commit.
func (t *fakeTable) holdDone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mute = true
}

// holdDoneOf is holdDone for some keys.
func (t *fakeTable) holdDoneOf(prefix string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.muted = prefix
}

func (t *fakeTable) refuse(err error) { t.refuseOf("", err) }

// refuseOf refuses keys that begin with prefix.
func (t *fakeTable) refuseOf(prefix string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail, t.failed = err, prefix
}

// putCount counts puts when they begin.
func (t *fakeTable) putCount() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.puts
}

func (t *fakeTable) get(key string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.m[key]
	return v, ok
}

func (t *fakeTable) clone() *fakeTable {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := newFakeTable()
	for k, v := range t.m {
		c.m[k] = v
	}
	c.past = append(c.past, t.past...)
	return c
}

func (t *fakeTable) has(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.m[key]
	return ok
}
