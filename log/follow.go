package log

import (
	"fmt"
	"math"
)

// What only a follower's log does. Truncate stands with the rest of Partition.

// DurableEpoch is the newest epoch whose beginning survives a power cut here, with or without records of it; -1 if none. What a
// replica has synced counts for the high watermark only together with the epoch in which it is asked (H3).
func (p *Partition) DurableEpoch() Epoch { return Epoch(p.begun.Load()) }

// Ends are where the log ends, and the epoch of the record before, -1 where the log has none: what a follower asks with (H1).
func (p *Partition) Ends() (start, end Offset, last Epoch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	start, end = Offset(p.start.Load()), Offset(p.end.Load())
	return start, end, p.epochs.before(end, start)
}

// AppendReplica adds a batch as its leader sent it: offsets and epoch stay, and so do the producer's fields, which the leader has
// checked (A2, A8). It has to begin at or behind the log end. Where compaction has left a gap at the leader a batch without
// records takes its place, so that what is missing can be told from what was lost. b is copied. An epoch newer than the last one begins
// with it (A3).
//
// Errors: ErrCorrupt, ErrFenced for an epoch older than the last, ErrOutOfRange below the log end, and those of Append.
func (p *Partition) AppendReplica(b Batch) error {
	if err := b.CheckCRC(); err != nil {
		return fmt.Errorf("batch of the leader at %d: %w", b.BaseOffset(), err)
	}
	if b.LastOffset() < b.BaseOffset() || b.LeaderEpoch() < 0 {
		return fmt.Errorf("batch of the leader at %d: last offset %d, epoch %d: %w", b.BaseOffset(), b.LastOffset(), b.LeaderEpoch(), ErrCorrupt)
	}
	if err := p.l.admit(p, true); err != nil {
		return err
	}
	p.mu.Lock()
	if end := Offset(p.end.Load()); b.BaseOffset() < end {
		p.mu.Unlock()
		return fmt.Errorf("batch of the leader at %d, the log ends at %d: %w", b.BaseOffset(), end, ErrOutOfRange)
	}
	if err := p.refuse; err != nil {
		p.mu.Unlock()
		return err
	}
	if e := p.epochs.last(); b.LeaderEpoch() < e {
		p.mu.Unlock()
		return fmt.Errorf("batch of the leader at %d of epoch %d after %d: %w", b.BaseOffset(), b.LeaderEpoch(), e, ErrFenced)
	}
	// A gap belongs to the epoch of what stands behind it: where in it the leader's own log has that epoch begin is gone
	// there too, and a log that ends with the gap must not look as if it parted from the leader's inside.
	if b.LeaderEpoch() > p.epochs.last() {
		p.beginEpochLocked(b.LeaderEpoch())
	}
	added := p.fillLocked(b.BaseOffset()) + p.copyLocked(b)
	p.mu.Unlock()
	p.addedBatches(added)
	return nil
}

// Begin makes o, which is not below the log end, the start of an empty log: the leader has deleted what comes next here (T5). o is where
// the leader's first batch begins; its log start may lie inside of it, and is set once that batch is durable here. It is durable when it
// returns.
func (p *Partition) Begin(o Offset) error {
	if err := p.l.admit(p, true); err != nil {
		return err
	}
	p.mu.Lock()
	err := p.refuse
	if end := Offset(p.end.Load()); err == nil && o < end {
		err = fmt.Errorf("begin anew at %d, the log ends at %d: %w", o, end, ErrOutOfRange)
	}
	if err != nil {
		p.mu.Unlock()
		return err
	}
	added := p.fillLocked(o)
	p.mu.Unlock()
	p.addedBatches(added)
	if added > 0 || p.Durable() < o { // the log may end there, and not be durable so far
		done := make(chan error, 1)
		if err := p.submit(item{p: p, typ: entryHighWatermark, base: min(p.HighWatermark(), p.Durable()), durable: done}); err != nil {
			return err
		}
		if err := p.l.await(done); err != nil {
			return err
		}
	}
	return p.SetLogStart(o)
}

// fillLocked covers the offsets up to o with batches that have no records.
func (p *Partition) fillLocked(o Offset) (added int64) {
	p.sealLocked()
	for end := Offset(p.end.Load()); end < o; end = Offset(p.end.Load()) {
		added += p.copyLocked(emptyBatch(end, min(o, end+math.MaxInt32), max(p.epochs.last(), 0)))
	}
	return added
}

// copyLocked enqueues a copy of b at the log end.
func (p *Partition) copyLocked(b Batch) int64 {
	p.sealLocked()
	c := newCopiedChunk(b)
	c.counted = int64(b.Size())
	p.enqueueLocked(c)
	p.end.Store(int64(c.next))
	p.markDirtyLocked()
	return c.counted
}

func (p *Partition) addedBatches(n int64) {
	p.l.ofBatches.Add(n)
	p.l.added(n)
}
