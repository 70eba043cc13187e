package cluster

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// CommitWatcher is told that a partition's high watermark moved. It must be comparable; use a pointer.
type CommitWatcher interface {
	// Advanced runs on the broker's completer goroutine after the waiters were told: it must not block, and
	// gets no report of moves that follow each other closely; ask HighWatermark.
	Advanced(p *Partition)
}

// Partition is this broker's replica of one partition: its log, how far it is committed, and, while the broker leads it, who waits for
// that. It leads or follows as the metadata says (role.go). All methods may be called concurrently.
type Partition struct {
	b     *Broker
	id    log.PartitionID
	topic string
	log   *log.Partition
	done  *completer
	// begunAnew: the log began from nothing after its predecessor was damaged (E7).
	begunAnew bool

	nowMS func() int64         // wall clock, for stamps
	mono  func() time.Duration // for lags

	hw     atomic.Int64                // what leader or follower says, for readers; changed under mu
	stable atomic.Int64                // below it every transaction has ended (P2), as of the last change of hw
	queued atomic.Bool                 // in the completer's list
	feeds  atomic.Pointer[[]*feedSlot] // followers that ask for news of it; changed under mu
	fetch  atomic.Pointer[fetcher]     // through which it follows; nil while it does not
	lag    atomic.Int64                // records that its leader had more when it answered last

	// role is held while the replica begins to lead or to follow, and while what a leader sent is taken, a truncation's I/O
	// included: nothing else changes a follower's log. It is taken before mu.
	role ioLock

	// mu makes append and enqueue one step, so that waiters stand in the order of offsets. It is never held over I/O:
	// log appends copy into memory or fail.
	mu        sync.Mutex
	refusal   error         // why this broker takes no appends (any more); nil while it leads
	resting   time.Duration // until then it takes none, since its term is about to end (rest.go)
	epoch     log.Epoch
	inForce   int32             // partition epoch of the metadata (I8)
	leader    *replica.Leader   // nil unless it leads
	follower  *replica.Follower // nil unless it follows
	told      replica.Fetch     // what the leader was told last
	moved     bool              // hw has moved, and watchers were not told
	watchers  []CommitWatcher   // in no order
	aside     bool              // its log is not the partition's any more
	settings  settings
	durable   ring // wait for the leader's own disk (acks=1, A9)
	committed ring // wait for the high watermark (H6)
}

// Topic is the topic's name.
func (p *Partition) Topic() string { return p.topic }

// Index is the partition's number in its topic.
func (p *Partition) Index() int32 { return p.id.Index }

// ID names the partition for ever; Topic and Index may come again after the topic was deleted.
func (p *Partition) ID() log.PartitionID { return p.id }

// Size is the bytes that the partition takes on disk and in memory.
func (p *Partition) Size() int64 { return p.log.Size() }

// LogStart is the lowest offset that can be read.
func (p *Partition) LogStart() log.Offset { return p.log.LogStart() }

// LogEnd is the offset of the next record. Records from HighWatermark on may still vanish.
func (p *Partition) LogEnd() log.Offset { return p.log.LogEnd() }

// HighWatermark is the offset below which everything is committed; it does not fall while the broker leads (H5).
func (p *Partition) HighWatermark() log.Offset { return log.Offset(p.hw.Load()) }

// LeaderEpoch is the epoch in which this broker leads.
func (p *Partition) LeaderEpoch() log.Epoch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

// Settled says whether everything from before this broker's term is known to be committed, and lies below HighWatermark (R3); before that,
// the end of what consumers may see is not known.
func (p *Partition) Settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader != nil && p.hw.Load() >= p.leader.Start() || errors.Is(p.refusal, ErrOffline)
}

// leads says why this broker does not lead in that term.
func (p *Partition) leads(term log.Epoch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.refusal != nil:
		return p.wrap("lead", p.refusal)
	case p.epoch != term:
		return p.wrap("lead", ErrNotLeader)
	}
	return nil
}

// EpochEnd answers KIP-320's OffsetForLeaderEpoch: the largest epoch not above e, and the offset at which it ends.
func (p *Partition) EpochEnd(e log.Epoch) (log.Epoch, log.Offset) { return p.log.EpochEnd(e) }

// Producers are the idempotent producers that the partition remembers (P1), silent for longest first, at most limit of them; more says that there are others.
func (p *Partition) Producers(limit int) (all []log.ProducerState, more bool) {
	return p.log.Producers(limit)
}

// Append adds one record; its bytes are copied before it returns. When it returns nil, w is told under the number seq
// once the record is committed, and not before it returned; with w nil nobody is. After an error nothing was appended; Transient tells
// whether to try again. The offset of the record is not known here. It allocates nothing.
func (p *Partition) Append(r *log.Record, w Waiter, seq uint64) error {
	return p.append(r, w, seq, anyTerm)
}

// anyTerm is no term of a leader.
const anyTerm log.Epoch = -1 << 31

// append is Append; with a term, only in that one, and only in those of others.
func (p *Partition) append(r *log.Record, w Waiter, seq uint64, term log.Epoch, others ...Term) error {
	p.mu.Lock()
	err := p.writable()
	if err == nil && term != anyTerm && term != p.epoch {
		err = ErrNotLeader
	}
	if err == nil {
		err = p.current(others)
	}
	if err == nil {
		var at log.Offset
		if at, err = p.log.Append(r, p.epoch); err == nil && w != nil {
			p.committed.push(waiting{first: at, n: 1, seq: seq, w: w})
		}
	}
	p.mu.Unlock()
	if err != nil && err != log.ErrBusy { // a flood's most frequent answer costs no allocation
		return p.wrap("append to", err)
	}
	return err
}

// Writable says why an append that all in-sync replicas must have would be refused now (A1, H6); nil when it would not.
func (p *Partition) Writable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writable()
}

func (p *Partition) writable() error {
	if err := p.refuses(); err != nil {
		return err
	}
	return p.leader.Writable()
}

func (p *Partition) wrap(doing string, err error) error {
	return fmt.Errorf("%s %s/%d: %w", doing, p.topic, p.id.Index, err)
}

// Produce adds one batch of a Kafka producer. The caller has validated it (A8); its bytes are changed in place (offsets, leader
// epoch, time) and copied before Produce returns. done is called once:
//
//   - acks -1: when the batch is committed. A batch sent again is answered with its first offsets, when those are committed (P1).
//   - acks 1: when it is on this broker's disk (A9).
//   - acks 0: before Produce returns.
//   - refused: before Produce returns, with the reason; nothing was appended.
//
// Otherwise it runs on the completer goroutine and must not block. appendTime is in milliseconds, -1 unless the topic
// stamps records with it. An error there means that the batch was appended and may or may not be committed later.
func (p *Partition) Produce(b log.Batch, acks int16, done func(first log.Offset, appendTime int64, err error)) {
	p.tell(acks, done)(p.produce(b, acks, notVerified, nil, done))
}

// tell takes what produce returns, and calls done where nobody else will.
func (p *Partition) tell(acks int16, done func(log.Offset, int64, error)) func(log.Offset, int64, error) {
	return func(first log.Offset, at int64, err error) {
		if err != nil {
			done(-1, -1, p.wrap("produce to", err))
		} else if acks == 0 {
			done(first, at, nil)
		}
	}
}

func (p *Partition) produce(b log.Batch, acks int16, v log.Verified, in []Term, done func(log.Offset, int64, error)) (log.Offset, int64, error) {
	if acks < -1 || acks > 1 {
		return -1, -1, fmt.Errorf("%w %d: want -1 (all), 0 or 1", ErrInvalidAcks, acks)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.refuses()
	if err == nil && acks == -1 {
		err = p.leader.Writable()
	}
	if err == nil {
		err = p.current(in)
	}
	if err != nil {
		return -1, -1, err
	}
	if limit := p.settings.log.MaxMessageBytes; b.Size() > limit {
		return -1, -1, fmt.Errorf("batch of %d bytes, limit %d (%s): %w", b.Size(), limit, maxMessageBytes, log.ErrTooLarge)
	}
	at := int64(-1)
	if p.settings.logAppendTime {
		at = p.nowMS()
		b.SetLogAppendTime(at)
	}
	taken := b.LastOffset() - b.BaseOffset() + 1
	first, duplicate, err := p.log.AppendVerified(b, p.epoch, v)
	if err != nil || acks == 0 {
		return first, at, err
	}
	e := waiting{first: first, n: int(taken), w: newProduced(first, int(taken), at, done)}
	to := &p.committed
	if acks == 1 {
		to = &p.durable
	}
	if duplicate {
		to.place(e)
		p.done.add(p) // it may be committed already
	} else {
		to.push(e)
	}
	return first, at, nil
}

// Read appends to buf[:0] whole committed batches (R1), the first of which contains from; more than maxBytes only if that is
// one batch. A reader of a log that is damaged here is sent to the replica that takes over, with ErrOffline, if there is one. Nothing when from is at the high watermark or between it and the log end (R4); log.ErrOutOfRange beyond, ErrOffline
// where the log is damaged. A batch may begin below from.
func (p *Partition) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	return p.read(from, maxBytes, false, buf)
}

// ReadWithin is Read, or with committed ReadCommitted, for who has no use for a first batch larger than maxBytes, and gets nothing then.
func (p *Partition) ReadWithin(from log.Offset, maxBytes int, committed bool, buf []byte) ([]byte, []log.AbortedTransaction, error) {
	if committed {
		return p.readCommitted(from, maxBytes, true, buf)
	}
	b, err := p.read(from, maxBytes, true, buf)
	return b, nil, err
}

func (p *Partition) read(from log.Offset, maxBytes int, within bool, buf []byte) ([]byte, error) {
	hw := p.HighWatermark()
	if from >= hw {
		if end := max(hw, p.log.LogEnd()); from > end {
			return buf[:0], p.wrap("read", p.or(fmt.Errorf("offset %d, log end %d: %w", from, end, log.ErrOutOfRange)))
		}
		return buf[:0], nil
	}
	b, err := p.readLog(from, hw, maxBytes, within, buf)
	if len(b) == 0 {
		err = p.or(err) // compaction may have removed all behind from; damage may have as well
	}
	if err != nil {
		return b, p.wrap("read", p.spoilt(err))
	}
	return b, nil
}

func (p *Partition) readLog(from, limit log.Offset, maxBytes int, within bool, buf []byte) ([]byte, error) {
	if within {
		return p.log.ReadWithin(from, limit, maxBytes, buf)
	}
	return p.log.Read(from, limit, maxBytes, buf)
}

// or is why the partition is offline, else err. Where damage took committed records a reader must not be told that there are
// none, or it starts over.
func (p *Partition) or(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(p.refusal, ErrOffline) {
		return p.refusal
	}
	return err
}

// OffsetForTime finds the first committed record stamped at or after ts (milliseconds), and its stamp; (-1, -1) when there is none.
func (p *Partition) OffsetForTime(ts int64) (log.Offset, int64, error) {
	o, at, err := p.log.OffsetForTime(ts, p.HighWatermark())
	if err != nil {
		return -1, -1, p.wrap("find a time in", err)
	}
	return o, at, nil
}

// DeleteRecords raises the log start to before; -1 means the high watermark. Durable when it returns the new log start.
// log.ErrOutOfRange above the high watermark, ErrPolicy where the topic is only compacted.
func (p *Partition) DeleteRecords(before log.Offset) (log.Offset, error) {
	hw := p.HighWatermark()
	if before == -1 {
		before = hw
	}
	p.mu.Lock()
	err, deletable := p.refusal, p.settings.deletable
	p.mu.Unlock()
	switch {
	case err != nil:
	case !deletable:
		err = ErrPolicy
	case before < 0 || before > hw:
		err = fmt.Errorf("offset %d, high watermark %d: %w", before, hw, log.ErrOutOfRange)
	case before > p.LogStart():
		err = p.log.SetLogStart(before)
	}
	if err != nil {
		return -1, p.wrap("delete records of", err)
	}
	return p.LogStart(), nil
}

// Watch has w told about moves of the high watermark from now on. Look at HighWatermark after it, not before.
func (p *Partition) Watch(w CommitWatcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = append(p.watchers, w)
}

// Unwatch ends one Watch of w. A call of Advanced may still be under way when it returns.
func (p *Partition) Unwatch(w CommitWatcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.watchers, w); i >= 0 {
		last := len(p.watchers) - 1
		p.watchers[i], p.watchers[last] = p.watchers[last], nil
		p.watchers = p.watchers[:last]
	}
}

// configure takes new settings and what else the metadata says (I7: in the order of the metadata log).
func (p *Partition) configure(s settings, st replica.State) {
	p.mu.Lock()
	p.settings = s
	tell := p.inForce < st.Left // what was told so far may not count (I8)
	p.inForce = st.PartitionEpoch
	if p.leader != nil {
		p.leader.Changed(st, p.mono())
	}
	p.log.SetConfig(s.of(p.leader != nil))
	p.mu.Unlock()
	if f := p.fetch.Load(); f != nil && tell {
		f.mark(p)
	}
	p.done.add(p) // a lower minimum may commit what waits
}

// waitingEntries is how many entries wait for this partition.
func (p *Partition) waitingEntries() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.durable.n + p.committed.n
}

// audience is whom complete tells, in room of the completer's that is used again and again.
type audience struct {
	waiting  []waiting
	watchers []CommitWatcher
}

// complete runs on the completer: it takes over how far the disk and the followers got, and tells who waited for that.
func (p *Partition) complete(a *audience) {
	out := a.waiting[:0]
	a.watchers = a.watchers[:0]
	durable, epoch := p.log.Durable(), p.log.DurableEpoch()
	p.mu.Lock()
	if p.leader != nil { // A1: again before acking
		p.leader.Appended(int64(durable), int64(p.log.LogEnd()), int32(epoch))
		if p.durable.n > 0 && p.b.HoldsLease() { // else they wait: somebody may lead by now that has none of it, and drops it
			out = p.durable.take(durable, out)
		}
		out = p.committed.take(log.Offset(p.leader.HighWatermark()), out)
	}
	p.showHW()
	if p.moved {
		p.moved = false
		a.watchers = append(a.watchers, p.watchers...)
	}
	p.mu.Unlock()
	if f := p.fetch.Load(); f != nil && p.untold(durable, epoch) {
		f.mark(p) // the leader waits to hear what is synced here
	}
	for i := range out {
		out[i].w.Committed(out[i].seq, out[i].n, nil)
	}
	p.feed() // what is synced here may be what they wait for as well
	for _, w := range a.watchers {
		w.Advanced(p)
	}
	clear(out) // holds on to nobody
	clear(a.watchers)
	a.waiting = out
}

// showHW has readers see how far leader or follower know the partition to be committed; watchers hear of it from the completer. p.mu is held.
func (p *Partition) showHW() {
	hw := p.knownHW()
	if p.hw.Swap(hw) != hw {
		p.moved = true
		p.stable.Store(int64(p.log.LastStable(log.Offset(hw))))
		p.log.SetHighWatermark(log.Offset(hw))
	}
}

// knownHW is how far the partition is known here to be committed, which readers may not have been shown yet. p.mu is held.
func (p *Partition) knownHW() int64 {
	switch {
	case p.leader != nil:
		return p.leader.HighWatermark()
	case p.follower != nil:
		return p.follower.HighWatermark()
	}
	return p.hw.Load()
}

// SpanAt is the segment that o lies in; false when there is none.
func (p *Partition) SpanAt(o log.Offset) (log.Span, bool) { return p.log.SpanAt(o) }

// Note returns what SetNote put beside the closed segment that begins at first, or nil: it is a hint that may get lost.
func (p *Partition) Note(first log.Offset) []byte { return p.log.Note(first) }

// SetNote puts a note beside a closed segment, as long as the segment is there.
func (p *Partition) SetNote(first log.Offset, b []byte) error { return p.log.SetNote(first, b) }
