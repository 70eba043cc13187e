package log

import (
	"fmt"
	"io"
)

// Check verifies what must hold between the parts of a log. It is for tests and debugging: it reads
// every batch header of every segment.
func (l *Log) Check() error {
	for _, p := range l.Partitions() {
		if err := p.check(); err != nil {
			return fmt.Errorf("partition %s of %s: %w", p.id, p.topic, err)
		}
	}
	return nil
}

func (p *Partition) check() error {
	if err := p.checkBounds(); err != nil {
		return err
	}
	segs := *p.segs.Load()
	next := Offset(-1)
	for _, s := range segs {
		if s.base < next {
			return fmt.Errorf("segment %d begins below %d, where the one before ends", s.base, next)
		}
		end, err := p.checkSegment(s)
		if err == errSegmentGone {
			continue
		}
		if err != nil {
			return fmt.Errorf("segment %s: %w", s.path(), err)
		}
		next = end
	}
	return nil
}

func (p *Partition) checkBounds() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	start, durable, end := p.LogStart(), p.Durable(), p.LogEnd()
	if start > durable || durable > end {
		return fmt.Errorf("log start %d, durable %d, end %d", start, durable, end)
	}
	for i, e := range p.epochs {
		if e.start > end || i > 0 && (e.epoch <= p.epochs[i-1].epoch || e.start <= p.epochs[i-1].start) {
			return fmt.Errorf("epochs %v, log end %d", p.epochs, end)
		}
	}
	live := p.tail.live()
	for i, c := range live {
		if c.next > end || i > 0 && c.base != live[i-1].next {
			return fmt.Errorf("batch in memory from %d to %d, log end %d", c.base, c.next, end)
		}
	}
	return nil
}

// checkSegment walks the batches, compares their epochs with the epoch index, and returns the end offset.
func (p *Partition) checkSegment(s *segment) (Offset, error) {
	f, err := s.open()
	if err != nil {
		return 0, err
	}
	defer s.done(p.l.cfg.MaxOpenFiles)
	h := newHeaderScanner(f, 0, s.size.Load())
	defer h.free()
	end := s.base
	for {
		if err := h.next(); err == io.EOF {
			return end, nil
		} else if err != nil {
			return 0, err
		}
		if h.header.BaseOffset() < end {
			return 0, fmt.Errorf("batch at %d begins at offset %d after %d", h.start, h.header.BaseOffset(), end)
		}
		end = h.header.NextOffset()
		if h.header.BaseOffset() < p.LogStart() {
			continue
		}
		if e, o := p.EpochEnd(h.header.LeaderEpoch()); e != h.header.LeaderEpoch() || o < end {
			return 0, fmt.Errorf("batch at %d has epoch %d, which ends at %d according to the index, not at %d", h.start, h.header.LeaderEpoch(), o, end)
		}
	}
}
