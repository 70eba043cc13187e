package log

import (
	"fmt"

	"github.com/weir-io/weir/log/vfs"
)

// sequence checks of batches that are read one after the other what their checksums do not cover: that each begins where
// the one before it ends, and that it is of the epoch that the index has there (A2, A3). Where compaction may have been it
// may begin later.
type sequence struct {
	p     *Partition
	due   Offset
	epoch Epoch  // of batches that begin below until
	until Offset // 0 = not looked up yet
	gap   bool   // offsets are missing before the last batch
	holey bool   // and may be: the partition is sparse
	// of wholeBatches
	seen int // bytes up to the end of the last batch
	sure int // bytes before the last gap
}

func (q *sequence) next(b Batch) error {
	base, next := b.BaseOffset(), b.NextOffset()
	gap := base > q.due
	q.holey = q.holey || gap && q.p.sparse()
	if base < q.due || next <= base || gap && !q.holey {
		return fmt.Errorf("batch of offsets %d to %d where %d is due: %w", base, next-1, q.due, ErrCorrupt)
	}
	if base >= q.until {
		q.epoch, q.until = q.p.epochAt(base)
	}
	if strays(b, q.epoch) {
		return fmt.Errorf("batch at offset %d is of epoch %d, and the offset of epoch %d: %w", base, b.LeaderEpoch(), q.epoch, ErrCorrupt)
	}
	q.due, q.gap = next, gap
	return nil
}

// wholeBatches is the length of the whole, sound batches at the start of b that begin below limit, and the
// offset after them.
func (q *sequence) wholeBatches(b []byte, limit Offset) (end int, next Offset, err error) {
	next = q.due
	for end < len(b) {
		batch, err := NextBatch(b[end:], maxJournalFileBytes)
		if err != nil {
			return end, next, err
		}
		if err := q.next(batch); err != nil {
			return end, next, err
		}
		if q.seen = end + len(batch); q.gap {
			q.sure = end
		}
		if batch.BaseOffset() >= limit {
			return end, next, errBeyond
		}
		if err := batch.CheckCRC(); err != nil {
			return end, next, err
		}
		end, next = q.seen, q.due
	}
	return end, next, nil
}

// confirmed looks at what follows the last batch, which ends at position and comes after a gap: nothing else shows an
// offset that is too high.
func (q *sequence) confirmed(f vfs.File, s *segment, position, size int64) bool {
	h := newHeaderScanner(f, position, size)
	defer h.free()
	if err := h.next(); err == nil {
		return q.due <= h.header.BaseOffset()
	}
	for _, next := range *q.p.segs.Load() {
		if next.base > s.base {
			return q.due <= next.base
		}
	}
	return q.due <= q.p.LogEnd()
}

// follows is the same check for one batch.
func (p *Partition) follows(due Offset, b Batch) error {
	q := sequence{p: p, due: due}
	return q.next(b)
}

// epochAt is the epoch that o lies in according to the index, and where the next one begins.
func (p *Partition) epochAt(o Offset) (Epoch, Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epochs.at(o)
}
