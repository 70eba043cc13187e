package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
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
	wake  chan struct{} // holds a token while there is something to do
	end   chan struct{}
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
	builder  log.BatchBuilder
	waiters  []waiting    // of the batch under construction; their offsets count from 0
	terms    []Term       // likewise
	bytes    int          // likewise, as admitted
	held     int          // of everything that is not answered
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
	batch   log.Batch
	waiters []waiting
	terms   []Term // in which there are records
	bytes   int    // as admitted
	since   time.Time
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
	f.b, f.wake, f.end, f.id, f.parts = b, make(chan struct{}, 1), make(chan struct{}), -1, map[log.PartitionID]*forwarder{}
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
	if len(w.queue) > 0 || w.builder.Count() > 0 {
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
	if w.builder.Count() > 0 && w.builder.Len()+size > min(forwardBatchBytes, limit) {
		w.seal()
	}
	if w.builder.Count() == 0 {
		w.builder.SetProducer(w.producer, 0, w.next)
	}
	if wt != nil {
		w.wait(waiting{first: log.Offset(w.builder.Count()), n: 1, seq: seq, w: wt})
	}
	w.builder.Append(r)
	for _, t := range in {
		if !slices.Contains(w.terms, t) {
			w.terms = append(w.terms, t)
		}
	}
	w.bytes, w.held = w.bytes+size, w.held+size
	w.mu.Unlock()
	w.f.poke()
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

// wait joins records that follow each other under consecutive numbers.
func (w *forwarder) wait(e waiting) {
	if n := len(w.waiters); n > 0 {
		if last := &w.waiters[n-1]; last.w == e.w && last.seq+uint64(last.n) == e.seq && last.next() == e.first {
			last.n++
			return
		}
	}
	w.waiters = append(w.waiters, e)
}

// seal closes the batch under construction. w.mu is held.
func (w *forwarder) seal() {
	w.next = (w.next + int32(w.builder.Count())) & math.MaxInt32
	b := log.Batch(slices.Clone(w.builder.Seal(0, 0)))
	w.queue = append(w.queue, &forwarded{batch: b, waiters: w.waiters, terms: w.terms, bytes: w.bytes, since: time.Now()})
	w.builder.Reset()
	w.waiters, w.terms, w.bytes = nil, nil, 0
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

// lane is one call at a time to one leader.
type lane struct {
	leader int32
	n      int32
}

// load is what a call carries.
type load struct {
	lane  lane
	parts []*forwarder
	count []int // of batches, for each of parts
	call  appendCall
	raw   []byte
}

// run sends what waits whenever its lane is free.
func (f *forwarding) run() {
	busy := map[lane]bool{}
	ended := make(chan lane)
	var retry *time.Timer
	for {
		loads, again := f.gather(busy)
		for _, l := range loads {
			busy[l.lane] = true
			f.tasks.Go(func() {
				f.send(l)
				select {
				case ended <- l.lane:
				case <-f.end:
				}
			})
		}
		var later <-chan time.Time
		if again > 0 {
			if retry == nil {
				retry = time.NewTimer(again)
			} else {
				retry.Reset(again)
			}
			later = retry.C
		}
		select {
		case <-f.wake:
		case l := <-ended:
			delete(busy, l)
		case <-later:
		case <-f.end:
			return
		}
	}
}

// gather takes what can be sent now, and says when something else can; 0 is not before it is told.
func (f *forwarding) gather(busy map[lane]bool) (loads map[lane]*load, again time.Duration) {
	f.mu.Lock()
	parts := make([]*forwarder, 0, len(f.parts))
	for _, w := range f.parts {
		parts = append(parts, w)
	}
	f.mu.Unlock()
	table, now := f.b.table.Load(), time.Now()
	loads = map[lane]*load{}
	for _, w := range parts {
		if table.image.TopicByID(w.id.Topic) == nil {
			w.gone()
			continue
		}
		to := lane{table.leader(w.id), w.id.Index % forwardLanes}
		if busy[to] {
			continue
		}
		if wait := w.into(loads, to, now); wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	return loads, again
}

// into adds what the partition has to its lane's load.
func (w *forwarder) into(loads map[lane]*load, to lane, now time.Time) (wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.builder.Count() > 0 && len(w.queue) < forwardWindow {
		w.seal()
	}
	if len(w.queue) == 0 || w.calling {
		return 0
	}
	if now.Sub(w.queue[0].since) > forwardTimeout {
		w.giveUp(fmt.Errorf("no leader took the records within %s: %w", forwardTimeout, ErrUnavailable))
		return 0
	}
	if wait := w.pause.Sub(now); wait > 0 {
		return wait
	}
	if to.leader == meta.NoLeader {
		return forwardRetry
	}
	l := loads[to]
	if l == nil {
		l = &load{lane: to}
		loads[to] = l
	}
	if len(l.raw) >= forwardCallBytes {
		return time.Millisecond
	}
	n := 0
	for _, b := range w.queue[:min(len(w.queue), forwardWindow)] {
		if len(l.raw) > 0 && len(l.raw)+len(b.batch) > maxCarried {
			break
		}
		n++
		l.call.Parts = append(l.call.Parts, appendPart{toWire(w.id), len(b.batch), toWireTerms(b.terms)})
		l.raw = append(l.raw, b.batch...)
	}
	if n == 0 {
		return time.Millisecond
	}
	l.parts, l.count = append(l.parts, w), append(l.count, n)
	w.calling = true
	return 0
}

// send makes a call, and acts on its answer.
func (f *forwarding) send(l *load) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), forwardCall, errors.New("no answer in time"))
	defer cancel()
	go func() {
		select {
		case <-f.end:
			cancel()
		case <-ctx.Done():
		}
	}()
	var answer appendAnswer
	err := f.deliver(ctx, l, &answer)
	if err == nil && len(answer.Parts) != len(l.call.Parts) {
		err = fmt.Errorf("%d answers for %d batches: %w", len(answer.Parts), len(l.call.Parts), rpc.ErrFrame)
	}
	at := 0
	for i, w := range l.parts {
		outcomes := make([]error, l.count[i])
		for j := range outcomes {
			if outcomes[j] = err; err == nil {
				outcomes[j] = answer.Parts[at].err()
			}
			at++
		}
		w.settle(outcomes)
	}
}

func (f *forwarding) deliver(ctx context.Context, l *load, answer *appendAnswer) error {
	if l.lane.leader == f.b.id { // this broker has come to lead it
		*answer = f.b.answerAppend(ctx, &l.call, l.raw)
		return nil
	}
	reply, err := f.b.CallNode(ctx, l.lane.leader, methodAppend, &l.call, l.raw, answer)
	if err == nil {
		reply.Release()
	}
	return err
}

// settle takes the outcomes of the first batches in the queue.
func (w *forwarder) settle(outcomes []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calling = false
	var done []*forwarded
	for _, err := range outcomes {
		if err != nil {
			if final(err) {
				w.tell(done, nil)
				w.giveUp(err)
				return
			}
			w.f.retries.Add(1)
			if !errors.Is(err, errUndecided) {
				w.pause = time.Now().Add(forwardRetry)
			}
			break // what is behind it is sent again as well, in order
		}
		w.f.records.Add(int64(w.queue[0].batch.Count()))
		w.f.sent.Add(int64(len(w.queue[0].batch)))
		done = append(done, w.queue[0])
		w.queue = w.queue[1:]
	}
	w.tell(done, nil)
}

// final: sending it again cannot help.
func final(err error) bool {
	return errors.Is(err, log.ErrTooLarge) || errors.Is(err, log.ErrProducerFenced) || errors.Is(err, log.ErrCorrupt) || errors.Is(err, ErrTermOver)
}

// giveUp tells everybody who waits that it is not known what became of their records. What follows needs another producer id: the sequence
// is broken. w.mu is held.
func (w *forwarder) giveUp(err error) {
	if w.builder.Count() > 0 {
		w.seal()
	}
	all := w.queue
	w.queue, w.producer, w.next = nil, -1, 0
	w.tell(all, fmt.Errorf("append to %s/%d: %w", w.topic, w.id.Index, err))
	if errors.Is(err, ErrUnknownTopic) || errors.Is(err, ErrClosed) {
		w.f.forget(w)
		return
	}
	w.f.tasks.Go(w.renew)
}

// gone gives up because the topic was deleted. Only the metadata here can say so: whoever is asked may have started a moment ago, and know no topic yet.
func (w *forwarder) gone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.calling {
		w.giveUp(ErrUnknownTopic)
	}
}

// renew gets a producer id of the partition's own.
func (w *forwarder) renew() {
	for {
		ctx, cancel := context.WithTimeoutCause(context.Background(), proposeOnce, errors.New("no answer in time"))
		id, err := w.f.b.NextProducerID(ctx)
		cancel()
		if err == nil {
			w.mu.Lock()
			w.producer = id
			w.mu.Unlock()
			w.f.b.onRoom()
			return
		}
		select {
		case <-time.After(time.Second):
		case <-w.f.end:
			return
		}
	}
}

// tell has the completer tell the waiters of batches. w.mu is held.
func (w *forwarder) tell(batches []*forwarded, err error) {
	if len(batches) == 0 {
		return
	}
	bytes := 0
	for _, b := range batches {
		bytes += b.bytes
	}
	w.f.b.completer.call(func() {
		for _, b := range batches {
			for i := range b.waiters {
				b.waiters[i].w.Committed(b.waiters[i].seq, b.waiters[i].n, err)
			}
		}
	})
	w.f.release(bytes)
	if w.held -= bytes; w.crowded && w.held < forwardPartBytes/2 {
		w.crowded = false
		w.f.b.onRoom()
	}
}

func (f *forwarding) forget(w *forwarder) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parts[w.id] == w {
		delete(f.parts, w.id)
	}
}

// close gives up what waits.
func (f *forwarding) close() {
	if f.b == nil {
		return
	}
	f.mu.Lock()
	f.closed = true
	parts := slices.Collect(maps.Values(f.parts)) // each is forgotten as it gives up
	f.mu.Unlock()
	close(f.end)
	f.tasks.Wait()
	for _, w := range parts {
		w.mu.Lock()
		w.giveUp(ErrClosed)
		w.mu.Unlock()
	}
}

// answerAppend appends what another broker forwards (M10). It answers when everything is committed, or refused, or forwardAnswer has passed.
func (b *Broker) answerAppend(ctx context.Context, c *appendCall, raw []byte) appendAnswer {
	type outcome struct {
		i   int
		err error
	}
	outcomes := make(chan outcome, len(c.Parts))
	errs := make([]error, len(c.Parts))
	refused := map[log.PartitionID]struct{}{}
	for i, part := range c.Parts {
		errs[i] = errUndecided
		var own []byte
		if part.Bytes < 0 || part.Bytes > len(raw) {
			outcomes <- outcome{i, fmt.Errorf("batch of %d bytes in %d: %w", part.Bytes, len(raw), log.ErrCorrupt)}
			continue
		}
		own, raw = raw[:part.Bytes], raw[part.Bytes:]
		id, ok := part.id()
		if _, behind := refused[id]; ok && behind {
			// It comes again, behind the one that was refused. A leader that does not know the producer yet would take it first, and that one never.
			outcomes <- outcome{i, errUndecided}
			continue
		}
		if err := b.produceFor(&part, own, func(_ log.Offset, _ int64, err error) { outcomes <- outcome{i, err} }); err != nil {
			refused[id] = struct{}{}
			outcomes <- outcome{i, err}
		}
	}
	timer := time.NewTimer(forwardAnswer)
	defer timer.Stop()
	a := appendAnswer{Parts: make([]appendOutcome, len(c.Parts))}
	for range c.Parts {
		select {
		case o := <-outcomes:
			errs[o.i] = o.err
			continue
		case <-timer.C:
		case <-ctx.Done():
		case <-b.closing:
		}
		break
	}
	for i, err := range errs {
		a.Parts[i] = outcomeOf(err)
	}
	return a
}

// produceFor is Partition.Produce; what is refused it answers itself, and done hears nothing.
func (b *Broker) produceFor(w *appendPart, raw []byte, done func(log.Offset, int64, error)) error {
	id, ok := w.id()
	table := b.table.Load()
	var p *Partition
	var err error
	if t := table.image.TopicByID(id.Topic); !ok || t == nil || id.Index < 0 || int(id.Index) >= len(t.Partitions) {
		err = ErrNotLeader // not ErrUnknownTopic: the metadata may not have come here yet
	} else {
		p, err = table.led(id)
	}
	var batch log.Batch
	if err == nil {
		if batch, err = log.NextBatch(raw, len(raw)); err == nil {
			err = batch.Validate(log.DefaultMaxDecompressed) // A8
		}
	}
	if err == nil && batch.IsControl() {
		err = fmt.Errorf("a control batch is not forwarded: %w", log.ErrCorrupt)
	}
	var in []Term
	if err == nil {
		in, err = fromWireTerms(w.Terms)
	}
	if err != nil {
		return err
	}
	if _, _, err = p.produce(batch, -1, in, done); err != nil {
		return p.wrap("produce to", err)
	}
	return nil
}

func outcomeOf(err error) appendOutcome {
	if err == nil {
		return appendOutcome{}
	}
	for i, e := range remoteErrors {
		if errors.Is(err, e) {
			return appendOutcome{i + 1, err.Error()}
		}
	}
	return appendOutcome{len(remoteErrors) + 1, err.Error()}
}

func (o *appendOutcome) err() error {
	switch {
	case o.Code == 0:
		return nil
	case o.Code > 0 && o.Code <= len(remoteErrors):
		return fmt.Errorf("%w: %s", remoteErrors[o.Code-1], o.Text)
	}
	return errors.New(o.Text)
}
