package log

import "fmt"

// BeginEpoch notes that this node leads in epoch e from the log end on (A3). It returns at once; the entry
// reaches the journal before the first batch of the epoch does. ErrFenced if a newer epoch has begun.
func (p *Partition) BeginEpoch(e Epoch) error {
	if err := p.l.offline(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse != nil {
		return p.refuse
	}
	switch last := p.epochs.last(); {
	case e < last:
		return fmt.Errorf("begin epoch %d after %d: %w", e, last, ErrFenced)
	case e > last:
		p.beginEpochLocked(e)
	}
	return nil
}

// EpochEnd answers KIP-320: the greatest epoch not above e that this log has, and the offset at which it
// ends; (-1, -1) when all it has is newer.
func (p *Partition) EpochEnd(e Epoch) (Epoch, Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epochs.end(e, Offset(p.end.Load()))
}

// LastEpoch is the newest epoch that has begun, -1 if none.
func (p *Partition) LastEpoch() Epoch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epochs.last()
}

// SetLogStart makes o the first readable offset; it is durable when it returns, and whole segments below
// are removed some time later (J4). Moving backwards does nothing. ErrOutOfRange above Durable.
func (p *Partition) SetLogStart(o Offset) error {
	if o <= p.LogStart() {
		return nil
	}
	if d := p.Durable(); o > d {
		return fmt.Errorf("log start %d past the durable end %d: %w", o, d, ErrOutOfRange)
	}
	done := make(chan error, 1)
	if err := p.submit(item{p: p, typ: entryLogStart, base: o, durable: done}); err != nil {
		return err
	}
	if err := p.l.await(done); err != nil {
		return err
	}
	p.mu.Lock()
	p.start.Store(max(p.start.Load(), int64(o)))
	p.epochs = p.epochs.trim(o)
	p.producers.trim(o)
	p.mu.Unlock()
	p.l.keeper.poke()
	return nil
}

// Truncate removes every batch that holds o or a later offset, and epochs that begin there (T1, T3); only a
// follower calls it. It is journalled and applied to the segments when it returns. Appends meanwhile are
// refused. A batch that begins below o and contains it goes as a whole: see LogEnd.
func (p *Partition) Truncate(o Offset) error {
	if o < p.LogStart() {
		return fmt.Errorf("truncate to %d below log start %d: %w", o, p.LogStart(), ErrOutOfRange)
	}
	// No checkpoint or retention while segments are cut.
	p.l.lockMaintenance()
	defer p.l.maintenance.Unlock()
	p.mu.Lock()
	if p.refuse != nil {
		p.mu.Unlock()
		return p.refuse
	}
	p.refuse = errTruncating
	p.sealLocked()
	p.mu.Unlock()
	err := p.truncate(o)
	p.mu.Lock()
	if p.refuse == errTruncating {
		p.refuse = nil
	}
	p.mu.Unlock()
	return err
}

var errTruncating = fmt.Errorf("partition is being truncated: %w", ErrReadOnly)

func (p *Partition) truncate(o Offset) error {
	if o < p.LogEnd() {
		base, err := p.batchStart(o)
		if err != nil {
			return err
		}
		o = base
	}
	applied := make(chan error, 1)
	p.mu.Lock()
	if err := p.l.offline(); err != nil {
		p.mu.Unlock()
		return err
	}
	o = min(o, Offset(p.end.Load()))
	p.end.Store(int64(o))
	// Commits under way may still publish what is void now: publish never goes past the end.
	p.durable.Store(min(p.durable.Load(), int64(o)))
	p.hw.Store(min(p.hw.Load(), int64(o)))
	for _, c := range p.tail.cut(o) {
		c.release()
	}
	p.epochs = p.epochs.truncate(o)
	p.begun.Store(min(p.begun.Load(), int32(p.epochs.last())))
	p.pending = append(p.pending, item{p: p, typ: entryTruncate, base: o, applied: applied})
	p.markDirtyLocked()
	p.mu.Unlock()
	p.hints.forget()
	if err := p.l.awaitHolding(applied); err != nil {
		return err
	}
	// The table may have forgotten what came before the cut; the segment writer's copy was brought to o.
	return p.resetProducers()
}

// publishEpoch notes that the beginning of an epoch is durable, unless a truncation has undone it meanwhile.
func (p *Partition) publishEpoch(e Epoch) {
	p.mu.Lock()
	if e = min(e, p.epochs.last()); int32(e) > p.begun.Load() {
		p.begun.Store(int32(e))
	}
	p.mu.Unlock()
}
