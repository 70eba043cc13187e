package log

import (
	"math"
	"slices"
)

// batchRewriter makes of a batch what compaction leaves of it.
type batchRewriter struct {
	reader RecordReader
	kept   []bool
	buf    []byte
	packed []byte
	mark   Attributes // of batches that lose records: AttrThinned, or nothing in a topic that is compacted, where nobody is told of what is missing
}

// batch returns the survivor of b: b itself if nothing changes, a new batch valid until the next call, or
// nothing. The last batch of a segment, and those the producer state remembers, survive at least as an empty
// header: the segment's end and the producer's sequence must be there to be read again.
func (w *batchRewriter) batch(c *compactor, b Batch, last bool) (Batch, error) {
	switch {
	case b.BaseOffset() >= c.end: // what the map does not cover is judged by a later pass
		c.stats.recordsRead += int64(b.Count())
		c.stats.recordsKept += int64(b.Count())
		return b, nil
	case b.IsControl():
		return w.marker(c, b, last)
	}
	if b.Count() == 0 {
		if last || c.remembers(b) {
			return b, nil
		}
		return nil, nil
	}
	kept, tombstones := 0, false
	if !c.aborted(b) {
		var err error
		if kept, tombstones, err = w.choose(c, b); err != nil {
			return nil, err
		}
	}
	if kept > 0 && b.IsTransactional() {
		c.live[b.ProducerID()] = true
	}
	c.stats.recordsRead += int64(b.Count())
	c.stats.recordsKept += int64(kept)
	horizon, has := b.DeleteHorizon()
	setHorizon := tombstones && !has && c.clockTrusted
	switch {
	case kept == b.Count() && !setHorizon:
		return b, nil
	case kept == 0 && (last || c.remembers(b)):
		return w.empty(b), nil
	case kept == 0:
		return nil, nil
	case setHorizon:
		horizon, has = c.now.UnixMilli()+c.deleteRetention.Milliseconds(), true
	}
	return w.some(b, kept, horizon, has)
}

// marker returns what is left of one. Readers need it as long as records of its transaction are there, and one that is reading the log may
// have seen those that are not any more: it goes when that time is over (KIP-534).
func (w *batchRewriter) marker(c *compactor, b Batch, last bool) (Batch, error) {
	c.stats.recordsRead += int64(b.Count())
	live := c.live[b.ProducerID()]
	delete(c.live, b.ProducerID())
	horizon, has := b.DeleteHorizon()
	switch {
	case !live && !last && has && c.clockTrusted && c.now.UnixMilli() >= horizon:
		return nil, nil
	case live || has || !c.clockTrusted:
		c.stats.recordsKept += int64(b.Count())
		return b, nil
	}
	c.stats.recordsKept += int64(b.Count())
	if err := w.reader.Reset(b); err != nil {
		return nil, err
	}
	w.kept = slices.Repeat([]bool{true}, b.Count())
	return w.some(b, b.Count(), c.now.UnixMilli()+c.deleteRetention.Milliseconds(), true)
}

// choose fills kept, one per record, and says how many and whether a tombstone is among them.
func (w *batchRewriter) choose(c *compactor, b Batch) (kept int, tombstones bool, err error) {
	if err := w.reader.Reset(b); err != nil {
		return 0, false, err
	}
	var horizon int64
	if h, ok := b.DeleteHorizon(); ok {
		horizon = h
	}
	w.kept = w.kept[:0]
	var rec Record
	for {
		ok, err := w.reader.Next(&rec)
		if err != nil || !ok {
			return kept, tombstones, err
		}
		keep := c.keep(&rec, horizon)
		w.kept = append(w.kept, keep)
		if keep {
			kept++
			// One that the map does not cover has not yet outlived what it deletes: its time has not begun.
			tombstones = tombstones || rec.Value == nil && rec.Key != nil && rec.Offset < c.end
		}
	}
}

// some encodes the kept records with their offsets and times, in the batch's codec.
func (w *batchRewriter) some(b Batch, kept int, horizon int64, hasHorizon bool) (Batch, error) {
	h := headerOf(b)
	h.count = int32(kept)
	h.attributes = h.attributes&^AttrThinned | w.mark
	if hasHorizon {
		h.attributes |= AttrDeleteHorizon
		h.baseTimestamp = horizon
	}
	if b.TimestampType() == CreateTime {
		h.maxTimestamp = math.MinInt64
	}
	var header [BatchHeaderSize]byte
	w.buf = append(w.buf[:0], header[:]...)
	w.reader.rewind()
	var rec Record
	for _, keep := range w.kept {
		if ok, err := w.reader.Next(&rec); err != nil || !ok {
			return nil, err
		}
		if !keep {
			continue
		}
		w.buf = appendRecord(w.buf, &rec, int32(rec.Offset-h.base), rec.Timestamp-h.baseTimestamp)
		h.maxTimestamp = max(h.maxTimestamp, rec.Timestamp)
	}
	return h.seal(w.buf, &w.packed, b.Compression()), nil
}

// empty is the batch without records: its offsets, producer and maximum timestamp stay.
func (w *batchRewriter) empty(b Batch) Batch {
	h := headerOf(b)
	h.count = 0
	h.attributes = h.attributes&^(AttrDeleteHorizon|AttrThinned) | w.mark
	h.baseTimestamp = -1
	var header [BatchHeaderSize]byte
	w.buf = append(w.buf[:0], header[:]...)
	return h.seal(w.buf, &w.packed, CompressionNone)
}

func headerOf(b Batch) batchHeader {
	return batchHeader{
		base: b.BaseOffset(), epoch: b.LeaderEpoch(), attributes: b.Attributes() &^ codecMask, lastDelta: b.i32(atLastDelta), count: b.i32(atCount),
		baseTimestamp: b.BaseTimestamp(), maxTimestamp: b.MaxTimestamp(),
		producerID: b.ProducerID(), producerEpoch: b.ProducerEpoch(), baseSequence: b.BaseSequence(),
	}
}
