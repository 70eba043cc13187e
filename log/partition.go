package log

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFenced: the append names an older leader epoch than the partition's newest (A1, A3). Nothing was appended.
var ErrFenced = errors.New("fenced by a newer leader epoch")

// openBatchBytes is the size at which a batch shared by many Append calls is closed and the next begun.
// Large enough to make the header cheap, small enough to be handed to a client as a whole.
const openBatchBytes = 128 * kib

// Partition is one partition's log. Its methods may be called from any goroutine; Append and AppendBatch
// copy what they are given before they return, and block for no I/O.
//
// Offsets: LogStart ≤ Durable ≤ LogEnd. What was appended can be read once the committer has taken it; what
// is below Durable survives a power cut.
type Partition struct {
	l     *Log
	id    PartitionID
	topic string
	pid   uint32 // stands for id in the journal
	dir   string

	start   atomic.Int64
	end     atomic.Int64 // written under mu
	durable atomic.Int64 // written under mu
	rests   atomic.Int64 // offset of the last batch that goes behind an entry of another partition (J8), and one; 0: there was none
	hw      atomic.Int64
	begun   atomic.Int32 // newest epoch whose EPOCH entry is durable; written under mu
	config  atomic.Pointer[PartitionConfig]
	// configured: config was set by the user since Open, and is not just the default.
	configured atomic.Bool
	segs       atomic.Pointer[[]*segment] // in order of base, immutable; replaced under mu
	damaged    atomic.Pointer[string]     // E7: why this partition is read-only
	governed   atomic.Bool                // somebody says how far it is committed
	unsettled  atomic.Bool                // producers.unstable is not empty; written under mu

	mu        sync.Mutex
	open      *chunk // batch being built, nil or not empty
	openBase  Offset
	openEpoch Epoch
	epochs    epochList
	usual     int    // size of the last shared batch
	pending   []item // sealed, waiting for the committer
	dirty     bool   // in Log.dirty
	producers *producerTable
	refuse    error // why nothing may be appended: deleted, or being truncated
	tail      chunkQueue
	hwWritten Offset // high watermark last put into the journal
	hwSecond  int64  // and when

	hints seekHints

	rewriting sync.Mutex           // held by a pass that rewrites segments
	thinned   map[Offset]time.Time // of housekeeping: segments that were thinned, and when

	w partitionWriter // segment writer only
}

// item is one journal entry on its way: appended → committer → segment writer.
type item struct {
	p       *Partition // nil: the entry concerns no partition
	typ     entryType
	flags   uint8
	epoch   Epoch
	base    Offset
	chunk   *chunk     // DATA
	payload []byte     // CHECKPOINT, PARTDEF
	millis  int64      // DATA: wall clock at append
	behind  *Partition // J8: goes into the journal behind all that was appended there before it; nil: nothing
	durable chan<- error
	applied chan<- error // answered by the segment writer after it has acted on the entry
}

func (it *item) size() int {
	if it.chunk != nil {
		return len(it.chunk.batch)
	}
	return len(it.payload)
}

// ID names the partition.
func (p *Partition) ID() PartitionID { return p.id }

// Topic is the topic's name at creation.
func (p *Partition) Topic() string { return p.topic }

// LogStart is the first offset that may be read.
func (p *Partition) LogStart() Offset { return Offset(p.start.Load()) }

// LogEnd is the offset the next record gets (LEO).
func (p *Partition) LogEnd() Offset { return Offset(p.end.Load()) }

// Durable is the offset below which every record survives a power cut here (DLEO, A5).
func (p *Partition) Durable() Offset { return Offset(p.durable.Load()) }

// HighWatermark is what SetHighWatermark was last told; after a restart a value it was told earlier.
func (p *Partition) HighWatermark() Offset { return Offset(p.hw.Load()) }

// SetHighWatermark notes how far the partition is committed cluster-wide. It is journalled lazily.
func (p *Partition) SetHighWatermark(o Offset) {
	p.hw.Store(int64(o))
	p.governed.Store(true)
}

// Config is the configuration in force.
func (p *Partition) Config() PartitionConfig { return *p.config.Load() }

// SetConfig changes the configuration from now on. It is not stored: whoever opens the log sets it again, and until
// then nothing is deleted or compacted.
func (p *Partition) SetConfig(c PartitionConfig) {
	c = c.withDefaults()
	p.config.Store(&c)
	p.configured.Store(true)
}

// Damaged is why the partition refuses appends (E7); empty when it is sound.
func (p *Partition) Damaged() string {
	if s := p.damaged.Load(); s != nil {
		return *s
	}
	return ""
}

// Size is the bytes of its segments and of batches not yet in segments.
func (p *Partition) Size() int64 {
	var n int64
	for _, s := range *p.segs.Load() {
		n += s.size.Load()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	live := p.tail.live()
	for i := len(live) - 1; i >= 0 && !live[i].written.Load(); i-- {
		n += int64(len(live[i].batch))
	}
	if p.open != nil {
		n += int64(p.open.builder.Len())
	}
	return n
}

// Sound is up to where a replica may read ahead of this disk: to the end; but what goes behind an entry of another partition (J8), and all after it, is nobody's before it is durable
// with that entry, or a replica could have it alone.
func (p *Partition) Sound() Offset {
	if durable := p.Durable(); Offset(p.rests.Load()) > durable {
		return durable
	}
	return p.LogEnd()
}

// Append adds one record to the batch that all callers between two commits share, and returns its offset.
// r.Offset is ignored. An epoch newer than the last one begins here (A3). The record is durable when
// Durable is above the offset, which OnCommit announces.
//
// Errors: ErrFenced, ErrTooLarge, ErrDiskFull and ErrBusy (both pass), ErrClosed, ErrReadOnly, ErrFailed.
func (p *Partition) Append(r *Record, e Epoch) (Offset, error) {
	size := MaxRecordSize(r)
	if limit := p.maxBatch(); size > limit {
		return 0, fmt.Errorf("record of up to %d bytes, limit %d: %w", size, limit, ErrTooLarge)
	}
	if err := p.l.admit(p, false); err != nil {
		return 0, err
	}
	p.mu.Lock()
	if err := p.mayAppendLocked(e); err != nil {
		p.mu.Unlock()
		return 0, err
	}
	c := p.open
	if c != nil && (c.builder.Len()+size > p.l.openBatchBytes || p.openEpoch != e) {
		p.sealLocked()
		c = nil
	}
	offset := Offset(p.end.Load())
	if c == nil {
		c = newBuiltChunk(p.usual)
		p.open, p.openBase, p.openEpoch = c, offset, e
	}
	before := c.builder.Len()
	c.builder.Append(r)
	added := int64(c.builder.Len() - before)
	c.counted += added
	p.end.Store(int64(offset) + 1)
	p.markDirtyLocked()
	p.mu.Unlock()
	p.l.added(added)
	return offset, nil
}

// AppendBatch is the leader's append of a producer's batch, which the caller has Validated (A8). Offsets and
// epoch are set in the copy that is kept; b itself is not changed. duplicate: the producer sent this batch
// before, first is where its first copy stands, and nothing was appended (P1).
//
// Errors: as Append, and ErrOutOfOrderSequence, ErrProducerFenced, ErrTransactionState, ErrNotVerified for a batch of a transaction that has not begun here: see
// AppendVerified.
func (p *Partition) AppendBatch(b Batch, e Epoch) (first Offset, duplicate bool, err error) {
	return p.AppendVerified(b, e, Verified{Ended: NotVerified})
}

// AppendVerified is AppendBatch for a batch that may begin a transaction here, which the coordinator has been asked about after InTransaction
// had said where the last one ended. Errors: also ErrNotVerified where another marker has come since, or one has yet to come, ErrTooManyTransactions, ErrAbortedLimit; for a
// Marker's batch ErrCoordinatorFenced, and ErrTransactionState where it is for a transaction that is over.
func (p *Partition) AppendVerified(b Batch, e Epoch, v Verified) (first Offset, duplicate bool, err error) {
	if limit := p.maxBatch(); b.Size() > limit {
		return 0, false, fmt.Errorf("batch of %d bytes, limit %d: %w", b.Size(), limit, ErrTooLarge)
	}
	if err := p.l.admit(p, true); err != nil {
		return 0, false, err
	}
	c := newCopiedChunk(b)
	p.mu.Lock()
	if err := p.mayAppendLocked(e); err != nil {
		p.mu.Unlock()
		c.release()
		return 0, false, err
	}
	p.sealLocked()
	first, duplicate, err = p.producers.check(b, v)
	if duplicate || err != nil {
		p.mu.Unlock()
		c.release()
		return first, duplicate, err
	}
	first = Offset(p.end.Load())
	c.batch.SetBaseOffset(first)
	c.batch.SetLeaderEpoch(e)
	c.counted = int64(b.Size())
	p.enqueueLocked(c)
	if v.Behind != nil && v.Behind != p {
		p.pending[len(p.pending)-1].behind = v.Behind
		p.rests.Store(int64(first) + 1)
	}
	if x := p.producers.byID[b.ProducerID()]; x != nil && x.transaction >= 0 {
		if x.transaction == first {
			x.started = v.Started
		}
		x.own = x.own || v.Own
	}
	p.end.Store(int64(c.next))
	p.markDirtyLocked()
	p.mu.Unlock()
	p.l.ofBatches.Add(int64(b.Size()))
	p.l.added(int64(b.Size()))
	return first, false, nil
}

// maxBatch is the largest batch accepted: the topic's limit, and what a commit of several entries can carry.
func (p *Partition) maxBatch() int {
	return min(p.config.Load().MaxMessageBytes, p.l.maxEntryBytes)
}

// mayAppendLocked also begins an epoch that is newer than the last, in the journal before its first batch (A3).
func (p *Partition) mayAppendLocked(e Epoch) error {
	if p.refuse != nil {
		return p.refuse
	}
	switch last := p.epochs.last(); {
	case e < last:
		return ErrFenced
	case e > last:
		p.beginEpochLocked(e)
	}
	return nil
}

func (p *Partition) beginEpochLocked(e Epoch) {
	p.sealLocked()
	start := Offset(p.end.Load())
	p.epochs = p.epochs.begin(e, start)
	p.pending = append(p.pending, item{p: p, typ: entryEpoch, epoch: e, base: start})
	p.markDirtyLocked()
}

// sealLocked closes the shared batch, which readers and the committer see from then on.
func (p *Partition) sealLocked() {
	c := p.open
	if c == nil {
		return
	}
	p.open = nil
	c.batch = c.builder.Seal(p.openBase, p.openEpoch)
	if p.config.Load().LogAppendTime {
		c.batch.SetLogAppendTime(p.l.cfg.Now().UnixMilli())
	}
	p.usual = len(c.batch)
	p.enqueueLocked(c)
}

// enqueueLocked takes over the caller's hold on c for the tail, and takes one for the pipeline.
func (p *Partition) enqueueLocked(c *chunk) {
	c.base, c.next = c.batch.BaseOffset(), c.batch.NextOffset()
	c.written.Store(false)
	c.hold()
	p.tail.push(c)
	var millis int64
	if c.batch.ProducerID() >= 0 {
		millis = p.l.cfg.Now().UnixMilli()
	}
	p.producers.apply(c.batch, millis)
	if p.producers.unsettled() {
		p.unsettled.Store(true)
	}
	p.pending = append(p.pending, item{p: p, typ: entryData, epoch: c.batch.LeaderEpoch(), base: c.base, chunk: c, millis: millis})
}

func (p *Partition) markDirtyLocked() {
	if !p.dirty {
		p.dirty = true
		p.l.markDirty(p)
	}
}

// submit queues an entry behind all that was appended.
func (p *Partition) submit(it item) error {
	if err := p.l.offline(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse != nil && it.typ != entryTruncate {
		return p.refuse
	}
	p.sealLocked()
	p.pending = append(p.pending, it)
	p.markDirtyLocked()
	return nil
}

// publish makes end the durable end (A5). It never passes the log end, which a truncation has lowered while
// the commit was under way.
func (p *Partition) publish(end Offset) {
	p.mu.Lock()
	if d := min(int64(end), p.end.Load()); d > p.durable.Load() {
		p.durable.Store(d)
	}
	p.mu.Unlock()
}

// take moves what is pending into items, at least one entry and up to room bytes, and reports what is left. It stops before an entry that goes behind what another partition
// has, and names that: once all of it is taken, take goes on.
func (p *Partition) take(items []item, room int, second int64) (_ []item, left bool, behind *Partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sealLocked()
	n := 0
	for n < len(p.pending) && (n == 0 || room > 0) {
		if behind, p.pending[n].behind = p.pending[n].behind, nil; behind != nil {
			break
		}
		room -= entrySize(p.pending[n].size())
		n++
	}
	items = append(items, p.pending[:n]...)
	rest := copy(p.pending, p.pending[n:])
	clear(p.pending[rest:])
	p.pending = p.pending[:rest]
	if hw := Offset(p.hw.Load()); rest == 0 && hw != p.hwWritten && second >= p.hwSecond+hwEverySeconds {
		p.hwWritten, p.hwSecond = hw, second
		// It never promises more than was durable before this commit.
		items = append(items, item{p: p, typ: entryHighWatermark, base: min(hw, Offset(p.durable.Load()))})
	}
	p.dirty = rest > 0
	return items, rest > 0, behind
}

// waitBehind has the entry that take has stopped before wait for another commit.
func (p *Partition) waitBehind(other *Partition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) > 0 {
		p.pending[0].behind = other
	}
}

// hwEverySeconds is how often a moving high watermark rides along with a commit.
const hwEverySeconds = 5

// cloneProducers copies a table by way of its snapshot.
func cloneProducers(t *producerTable) *producerTable {
	c, err := decodeProducers(t.encode(nil), t.max)
	if err != nil {
		panic("BUG: producer snapshot cannot be read back: " + err.Error())
	}
	c.unstable, c.doubt = slices.Clone(t.unstable), t.doubt // with those that have ended, but perhaps not for good
	return c
}

// resetProducers takes the state from the segment writer, which has applied everything up to the end.
func (p *Partition) resetProducers() error {
	var t *producerTable
	err := p.l.onWriter(func() error {
		t = cloneProducers(p.w.producers)
		return nil
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.producers = t
	p.unsettled.Store(t.unsettled())
	p.mu.Unlock()
	return nil
}
