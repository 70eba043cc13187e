package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Appends to partitions that other brokers lead (M10). Records for one partition gather in a batch; a batch has this process's producer id and
// the partition's next sequence, and is sent to whoever leads until it is answered, so that however often it is sent it is stored once.

// Writer appends to one partition, wherever it is led. Safe for concurrent use.
type Writer interface {
	// ID names the partition.
	ID() log.PartitionID
	// Append is Partition.Append.
	Append(r *log.Record, w Waiter, seq uint64) error
	// AppendIn is Partition.AppendIn.
	AppendIn(t Term, r *log.Record, w Waiter, seq uint64) error
}

const (
	forwardBatchBytes = 128 << 10 // of records in one batch
	forwardCallBytes  = 2 << 20   // of batches in one call
	// forwardWindow is how many batches of one partition a call has at most: a leader remembers as many of a producer (P1).
	forwardWindow = 5
	// forwardLanes is how many calls are under way to one leader: partitions are spread over them, so that one that cannot commit holds up
	// few others.
	forwardLanes = 4
	// forwardBytes bounds what waits for all partitions together; beyond, appends get log.ErrBusy.
	forwardBytes = 32 << 20
	// forwardPartBytes bounds it for one: those for a partition without a leader wait for forwardTimeout, and others' must go on.
	forwardPartBytes = forwardBytes / 4
	// forwardTimeout is when a batch that nobody takes is given up; who waits is told that it is not known what became of it.
	forwardTimeout = 30 * time.Second
	forwardRetry   = 50 * time.Millisecond
	// forwardAnswer is how long a leader waits for a commit before it answers for the others.
	forwardAnswer = time.Second
	forwardCall   = forwardAnswer + 4*time.Second
)

// errUndecided: the batch is in the leader's log, and not committed yet. It is sent again, and found to be there.
var errUndecided = errors.New("not committed yet")

// forwarding is what a broker appends to partitions of others. One goroutine gathers and sends; each call has one more.
type forwarding struct {
	b     *Broker
	wake  chan struct{}   // holds a token while there is something to do
	ctx   context.Context // until stop
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	id      int64 // producer id of this process's batches; -1 until it is needed
	parts   map[log.PartitionID]*forwarder
	bytes   int  // of all records that are not answered
	refused bool // somebody was told log.ErrBusy
	closed  bool

	records, sent, retries atomic.Int64 // see ForwardStats
}

// forwarder is one partition of it.
type forwarder struct {
	f     *forwarding
	id    log.PartitionID
	topic string
	limit atomic.Int64 // bytes of one batch

	mu       sync.Mutex
	open     *forwarded   // under construction; nil: none
	held     int          // bytes of everything that is not answered
	crowded  bool         // somebody was told log.ErrBusy for it
	queue    []*forwarded // sealed, in the order of their sequences
	producer int64        // -1: it gave up, and needs a new one
	next     int32        // sequence of the next batch
	calling  bool         // a call has the head of queue
	retired  uint64       // the metadata in which this broker led it, and its replica took over; 0: it has not
	pause    time.Time    // nothing is sent before
}

// forwarded is one batch.
type forwarded struct {
	builder log.BatchBuilder
	batch   log.Batch // the builder's, once it is sealed
	waiters []waiting // their offsets count from 0
	terms   []Term    // in which there are records
	bytes   int       // as admitted
	since   time.Time // when it was sealed
}

// forwardedPool keeps their memory: a node that devices connect to forwards most of what it takes.
var forwardedPool = sync.Pool{New: func() any { return new(forwarded) }}

// free gives its memory back; nobody may use it any more.
func (b *forwarded) free() {
	if len(b.batch) > 2*forwardBatchBytes { // of one large record
		return
	}
	b.builder.Reset()
	clear(b.waiters)
	b.batch, b.waiters, b.terms, b.bytes = nil, b.waiters[:0], b.terms[:0], 0
	forwardedPool.Put(b)
}

// Writer gives a way to append to a partition from here: its replica if this broker leads it, else one that forwards. It may have to draw a
// producer id from the controller, within ctx.
func (b *Broker) Writer(ctx context.Context, id log.PartitionID) (Writer, error) {
	table := b.table.Load()
	t := table.image.TopicByID(id.Topic)
	if t == nil || id.Index < 0 || int(id.Index) >= len(t.Partitions) {
		return nil, fmt.Errorf("partition %s: %w", id, ErrUnknownTopic)
	}
	p, err := table.led(id)
	if err == nil {
		if w := b.forwards.retire(id, table.image.Version); w != nil {
			return w, nil // what was forwarded before comes first
		}
		return p, nil
	}
	if b.port != nil && errors.Is(err, ErrNotLeader) {
		var w *forwarder
		if w, err = b.forwards.to(ctx, id, t, table.image.Version); err == nil {
			return w, nil
		}
	}
	return nil, fmt.Errorf("partition %s/%d: %w", t.Name, id.Index, err)
}

func (f *forwarding) open(b *Broker) {
	f.b, f.wake, f.id, f.parts = b, make(chan struct{}, 1), -1, map[log.PartitionID]*forwarder{}
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.tasks.Go(f.run)
}

// to is the partition's forwarder, by the metadata of a version in which another broker leads.
func (f *forwarding) to(ctx context.Context, id log.PartitionID, t *meta.Topic, version uint64) (*forwarder, error) {
	f.mu.Lock()
	producer := f.id
	f.mu.Unlock()
	if producer < 0 {
		var err error
		if producer, err = f.b.NextProducerID(ctx); err != nil {
			return nil, err
		}
	}
	w, err := f.find(id, t.Name, producer)
	if err != nil {
		return nil, err
	}
	w.limit.Store(int64(min(settingsOf(t).log.MaxMessageBytes, f.b.cfg.maxBatch())))
	w.takeUp(version)
	return w, nil
}

// find finds or makes the forwarder of a partition; producer is the id of this process's batches, unless there is one.
func (f *forwarding) find(id log.PartitionID, topic string, producer int64) (*forwarder, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	if f.id < 0 {
		f.id = producer
	}
	w := f.parts[id]
	if w == nil {
		w = &forwarder{f: f, id: id, topic: topic, producer: f.id}
		f.parts[id] = w
	}
	return w, nil
}

// takeUp ends a retirement, unless that is by newer metadata.
func (w *forwarder) takeUp(version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if version > w.retired {
		w.retired = 0
	}
}

// retire has the partition's forwarder take nothing more, since the replica here takes it from the metadata of that version on: of two ways in, one would
// overtake the other (M3). It is the way in as long as it has records that are not answered yet: then it is returned.
func (f *forwarding) retire(id log.PartitionID, version uint64) *forwarder {
	f.mu.Lock()
	w := f.parts[id]
	f.mu.Unlock()
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) > 0 || w.open != nil {
		return w
	}
	w.retired = max(w.retired, version)
	return nil
}

// ID implements Writer.
func (w *forwarder) ID() log.PartitionID { return w.id }

// Append implements Writer.
func (w *forwarder) Append(r *log.Record, wt Waiter, seq uint64) error { return w.append(r, wt, seq) }

// AppendIn implements Writer. Whether the term is over only the leader can say.
func (w *forwarder) AppendIn(t Term, r *log.Record, wt Waiter, seq uint64) error {
	return w.append(r, wt, seq, t)
}

func (w *forwarder) append(r *log.Record, wt Waiter, seq uint64, in ...Term) error {
	size, limit := log.MaxRecordSize(r), int(w.limit.Load())
	if size+log.BatchHeaderSize > limit {
		return fmt.Errorf("append to %s/%d: record of up to %d bytes, limit %d: %w", w.topic, w.id.Index, size, limit, log.ErrTooLarge)
	}
	if err := w.f.admit(size); err != nil {
		return err
	}
	w.mu.Lock()
	if err := w.refuses(); err != nil {
		w.mu.Unlock()
		w.f.release(size)
		if err == log.ErrBusy { // a flood's most frequent answer costs no allocation
			return err
		}
		return fmt.Errorf("append to %s/%d: %w", w.topic, w.id.Index, err)
	}
	if w.open != nil && w.open.builder.Len()+size > min(forwardBatchBytes, limit) {
		w.seal()
	}
	first := w.open == nil
	if first {
		w.open = forwardedPool.Get().(*forwarded)
		w.open.builder.SetProducer(w.producer, 0, w.next)
	}
	w.open.take(r, wt, seq, in)
	w.open.bytes, w.held = w.open.bytes+size, w.held+size
	w.mu.Unlock()
	if first { // what joins an open batch goes with it: gather has been told of that, and looks again when its lane is free
		w.f.poke()
	}
	return nil
}

// refuses says why nothing can be taken. w.mu is held.
func (w *forwarder) refuses() error {
	switch {
	case w.retired > 0:
		return fmt.Errorf("this broker leads it by now, and takes records itself: %w", ErrNotLeader)
	case w.producer < 0:
		return fmt.Errorf("waiting for a producer id: %w", ErrUnavailable)
	case w.held > forwardPartBytes:
		w.crowded = true
		return log.ErrBusy
	}
	return nil
}

// take appends a record; wt, unless nil, waits for it under the number seq.
func (b *forwarded) take(r *log.Record, wt Waiter, seq uint64, in []Term) {
	if wt != nil {
		b.wait(waiting{first: log.Offset(b.builder.Count()), n: 1, seq: seq, w: wt})
	}
	b.builder.Append(r)
	for _, t := range in {
		if !slices.Contains(b.terms, t) {
			b.terms = append(b.terms, t)
		}
	}
}

// wait joins records that follow each other under consecutive numbers.
func (b *forwarded) wait(e waiting) {
	if n := len(b.waiters); n > 0 {
		if last := &b.waiters[n-1]; last.w == e.w && last.seq+uint64(last.n) == e.seq && last.next() == e.first {
			last.n++
			return
		}
	}
	b.waiters = append(b.waiters, e)
}

// seal closes the batch under construction. w.mu is held.
func (w *forwarder) seal() {
	b := w.open
	w.open = nil
	w.next = (w.next + int32(b.builder.Count())) & math.MaxInt32
	b.batch, b.since = b.builder.Seal(0, 0), time.Now()
	w.queue = append(w.queue, b)
}

// admit takes size bytes into account.
func (f *forwarding) admit(size int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return ErrClosed
	case f.bytes > forwardBytes:
		f.refused = true
		return log.ErrBusy
	}
	f.bytes += size
	return nil
}

func (f *forwarding) release(size int) {
	f.mu.Lock()
	f.bytes -= size
	room := f.refused && f.bytes < forwardBytes/2
	if room {
		f.refused = false
	}
	f.mu.Unlock()
	if room {
		f.b.onRoom()
	}
}

func (f *forwarding) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
