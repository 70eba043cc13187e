package cluster

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/weir-io/weir/log"
)

// oneBatch is a producer's batch; id -1 is none.
func oneBatch(producer int64, seq int32, values ...string) log.Batch {
	var bb log.BatchBuilder
	if producer >= 0 {
		bb.SetProducer(producer, 0, seq)
	}
	for i, v := range values {
		bb.Append(&log.Record{Timestamp: int64(1000 + i), Value: []byte(v)})
	}
	return bb.Seal(0, 0)
}

// produce waits for the answer.
func produce(t testing.TB, p *Partition, b log.Batch, acks int16) (log.Offset, error) {
	t.Helper()
	type answer struct {
		first log.Offset
		err   error
	}
	ch := make(chan answer, 2)
	p.Produce(b, acks, func(first log.Offset, _ int64, err error) { ch <- answer{first, err} })
	select {
	case a := <-ch:
		return a.first, a.err
	case <-within(t).Done():
		t.Fatal("no answer")
		return 0, nil
	}
}

func onePartition(t testing.TB, configs map[string]string) (*Broker, *Partition) {
	t.Helper()
	b := openBroker(t, testConfig(t.TempDir()))
	return b, mustCreate(t, b, TopicSpec{Name: "a", Partitions: 1, Configs: configs})[0]
}

func TestProduce(t *testing.T) {
	_, p := onePartition(t, nil)
	for i, acks := range []int16{-1, 0, 1, -1} {
		first, err := produce(t, p, oneBatch(-1, -1, "x", "y"), acks)
		if err != nil || first != log.Offset(2*i) {
			t.Errorf("acks %d: offset %d, %v", acks, first, err)
		}
	}
	if hw := p.HighWatermark(); hw != 8 {
		t.Errorf("high watermark %d when the last was answered", hw)
	}
	if _, err := produce(t, p, oneBatch(-1, -1, "x"), 2); !errors.Is(err, ErrInvalidAcks) {
		t.Errorf("acks 2: %v", err)
	}
}

// P1: a batch that a producer sends again gets the first offsets, and no second copy.
func TestProduceAgain(t *testing.T) {
	_, p := onePartition(t, nil)
	for i, c := range []struct {
		seq  int32
		want log.Offset
	}{{0, 0}, {2, 2}, {0, 0}, {2, 2}, {4, 4}} {
		first, err := produce(t, p, oneBatch(7, c.seq, "x", "y"), -1)
		if err != nil || first != c.want {
			t.Errorf("step %d: offset %d, want %d, %v", i, first, c.want, err)
		}
	}
	if got := p.LogEnd(); got != 6 {
		t.Errorf("log end %d", got)
	}
}

// P1: the repeat of a batch that is not committed yet is answered with it, not before, and in the order of offsets.
func TestProduceAgainBeforeCommit(t *testing.T) {
	p := &Partition{done: newCompleter()}
	var order []string
	wait := func(name string, first log.Offset) waiting {
		return waiting{first: first, n: 2, w: &produced{left: 2, done: func(log.Offset, int64, error) { order = append(order, name) }}}
	}
	p.committed.push(wait("first", 0))
	p.committed.push(wait("second", 2))
	p.committed.place(wait("first again", 0))
	tell := func(hw log.Offset) {
		for _, e := range p.committed.take(hw, nil) {
			e.w.Committed(e.seq, e.n, nil)
		}
	}
	tell(0)
	if len(order) != 0 {
		t.Errorf("answered before the commit: %v", order)
	}
	tell(2)
	tell(4)
	if want := []string{"first", "first again", "second"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestLogAppendTime(t *testing.T) {
	b, p := onePartition(t, map[string]string{"message.timestamp.type": "LogAppendTime"})
	at := make(chan int64, 1)
	p.Produce(oneBatch(-1, -1, "x"), -1, func(_ log.Offset, appendTime int64, _ error) { at <- appendTime })
	got := <-at
	if now := b.nowMS(); got <= 0 || got > now || now-got > 60_000 {
		t.Fatalf("append time %d, now %d", got, now)
	}
	raw, err := p.Read(0, 1<<16, nil)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := log.NextBatch(raw, 0)
	if err != nil || batch.TimestampType() != log.LogAppendTime || batch.MaxTimestamp() != got || batch.CheckCRC() != nil {
		t.Errorf("stored type %v time %d: %v %v", batch.TimestampType(), batch.MaxTimestamp(), err, batch.CheckCRC())
	}
}

func TestReadBounds(t *testing.T) {
	_, p := onePartition(t, nil)
	appendAll(t, p, "a", "b", "c")
	if got, err := p.Read(3, 1<<16, nil); err != nil || len(got) != 0 {
		t.Errorf("at the end: %d bytes, %v (R4)", len(got), err)
	}
	for _, from := range []log.Offset{4, -1} {
		if _, err := p.Read(from, 1<<16, nil); !errors.Is(err, log.ErrOutOfRange) {
			t.Errorf("at %d: %v", from, err)
		}
	}
	if start, err := p.DeleteRecords(2); err != nil || start != 2 {
		t.Errorf("delete records: %d %v", start, err)
	}
	if _, err := p.Read(1, 1<<16, nil); !errors.Is(err, log.ErrOutOfRange) {
		t.Errorf("below the log start: %v", err)
	}
	if got := readAll(t, p); !slices.Equal(got, []string{"c"}) {
		t.Errorf("left %q", got)
	}
	if _, err := p.DeleteRecords(4); !errors.Is(err, log.ErrOutOfRange) {
		t.Errorf("above the high watermark: %v", err)
	}
	if start, err := p.DeleteRecords(-1); err != nil || start != 3 {
		t.Errorf("delete all: %d %v", start, err)
	}
}

func TestDeleteRecordsOfACompactedTopic(t *testing.T) {
	_, p := onePartition(t, map[string]string{"cleanup.policy": "compact"})
	if _, err := p.DeleteRecords(-1); !errors.Is(err, ErrPolicy) {
		t.Errorf("got %v", err)
	}
}

// Many appenders with waiters of their own: everybody is told every number once and in order, and what was told is there.
func TestAppendFromMany(t *testing.T) {
	_, p := onePartition(t, nil)
	const appenders, each = 8, 500
	all := make([]*acks, appenders)
	var wg sync.WaitGroup
	for i := range all {
		all[i] = newAcks()
		wg.Go(func() {
			for seq := range uint64(each) {
				r := log.Record{Timestamp: 1, Value: fmt.Appendf(nil, "%d/%d", i, seq)}
				if err := p.Append(&r, all[i], seq); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i, a := range all {
		a.await(t, each)
		for j, seq := range a.seqs {
			if seq != uint64(j) || a.errs[j] != nil {
				t.Fatalf("appender %d: answer %d is number %d, %v", i, j, seq, a.errs[j])
			}
		}
	}
	next := make([]int, appenders)
	for _, v := range readAll(t, p) {
		var i, seq int
		if _, err := fmt.Sscanf(v, "%d/%d", &i, &seq); err != nil || seq != next[i] {
			t.Fatalf("record %q, want number %d of appender %d", v, next[i], i)
		}
		next[i]++
	}
	for i, n := range next {
		if n != each {
			t.Errorf("%d records of appender %d", n, i)
		}
	}
}

// M1: an answer is never given inside Append, whose caller may hold the lock that Committed takes.
func TestAnswersNeverComeInsideAppend(t *testing.T) {
	_, p := onePartition(t, nil)
	w := &locking{told: make(chan struct{}, 100)}
	for i := range uint64(100) {
		w.mu.Lock()
		err := p.Append(&log.Record{Value: []byte("x")}, w, i)
		w.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		<-w.told
	}
}

type locking struct {
	mu   sync.Mutex
	told chan struct{}
}

func (w *locking) Committed(_ uint64, n int, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		w.told <- struct{}{}
	}
}

type watcher chan log.Offset

func (w watcher) Advanced(p *Partition) {
	select {
	case w <- p.HighWatermark():
	default:
	}
}

func TestWatch(t *testing.T) {
	_, p := onePartition(t, nil)
	w, other := make(watcher, 10), make(watcher, 10)
	p.Watch(w)
	p.Watch(other)
	p.Unwatch(other)
	appendAll(t, p, "x")
	appendAll(t, p, "y")
	for hw := range (chan log.Offset)(w) {
		if hw == 2 {
			break
		}
	}
	p.Unwatch(w)
	appendAll(t, p, "z")
	if len(w)+len(other) != 0 {
		t.Errorf("told after Unwatch: %d, %d", len(w), len(other))
	}
}

// Who waits for a topic that is deleted is told.
func TestDeleteTellsWhoWaits(t *testing.T) {
	b, p := onePartition(t, nil)
	a := newAcks()
	p.mu.Lock() // nothing of it will be synced
	p.committed.push(waiting{first: 1000, n: 3, seq: 5, w: a})
	p.mu.Unlock()
	if err := b.DeleteTopic(within(t), "a"); err != nil {
		t.Fatal(err)
	}
	a.await(t, 3)
	for _, err := range a.errs {
		if !errors.Is(err, ErrUnknownTopic) {
			t.Errorf("told %v", err)
		}
	}
}

// One record from append to answer, pipelined by one waiter.
func BenchmarkAppendToCommitted(b *testing.B) {
	_, p := onePartition(b, nil)
	r := log.Record{Timestamp: 1, Key: []byte("device-17"), Value: make([]byte, 256)}
	w := &window{room: make(chan struct{}, 4096)}
	b.ReportAllocs()
	b.SetBytes(256)
	b.ResetTimer()
	for i := range uint64(b.N) {
		w.room <- struct{}{}
		for {
			err := p.Append(&r, w, i)
			if err == nil {
				break
			}
			if !errors.Is(err, log.ErrBusy) {
				b.Fatal(err)
			}
		}
	}
	for range cap(w.room) {
		w.room <- struct{}{}
	}
}

// window lets a bounded number of records wait.
type window struct{ room chan struct{} }

func (w *window) Committed(_ uint64, n int, _ error) {
	for range n {
		<-w.room
	}
}
