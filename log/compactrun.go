package log

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

const (
	// compactMapBytes is the memory that a pass may take for its keys: 260,000 of them. More keys take more passes (K2).
	compactMapBytes = 8 * mib
	// compactRetryAfter is how long a partition whose pass failed is left alone.
	compactRetryAfter = 10 * time.Minute
	// compactBreather: after so many bytes the pass rests as long as they took, so that it uses at most half of a
	// small board's core and disk.
	compactBreather = mib
)

// compaction is the state of compaction over all partitions.
type compaction struct {
	passes, failures         atomic.Int64
	recordsRead, recordsKept atomic.Int64
	bytesRead, bytesWritten  atomic.Int64
	mapBytes                 atomic.Int64
}

// CompactionStats are figures since Open.
type CompactionStats struct {
	Passes, Failures         int64
	RecordsRead, RecordsKept int64
	BytesRead, BytesWritten  int64
	MapBytes                 int64 // largest map of keys that a pass has taken (K2)
}

// CompactionStats returns the current figures.
func (l *Log) CompactionStats() CompactionStats {
	c := &l.compaction
	return CompactionStats{
		Passes: c.passes.Load(), Failures: c.failures.Load(), RecordsRead: c.recordsRead.Load(), RecordsKept: c.recordsKept.Load(),
		BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(), MapBytes: c.mapBytes.Load(),
	}
}

// runCompaction compacts partitions one after the other, as they become due, until ctx ends or the log does.
func (l *Log) runCompaction(ctx context.Context) {
	tick := time.NewTicker(l.cfg.HousekeepTick)
	defer tick.Stop()
	retryAt := map[PartitionID]time.Time{}
	for {
		for _, p := range l.Partitions() {
			if !p.Config().Compact || p.Damaged() != "" || time.Now().Before(retryAt[p.id]) {
				continue
			}
			delete(retryAt, p.id)
			err := l.compact(ctx, p)
			if ctx.Err() != nil || l.offline() != nil {
				return
			}
			if err != nil {
				l.compaction.failures.Add(1)
				l.cfg.Logger.Error("compaction stopped", "topic", p.topic, "partition", p.id.Index, "err", err)
				retryAt[p.id] = time.Now().Add(compactRetryAfter)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-l.failed:
			return
		case <-l.finished:
			return
		case <-tick.C:
		}
	}
}

// compact runs a pass over one partition if one is due. Readers and appends go on meanwhile. An error
// leaves the partition as it was, unless the log went offline.
func (l *Log) compact(ctx context.Context, p *Partition) error {
	cfg := p.Config()
	policy := compactPolicy{minLag: cfg.MinCompactionLag, maxLag: cfg.MaxCompactionLag, rollAge: cfg.SegmentAge, deleteRetention: cfg.DeleteRetention, minRatio: cfg.MinCleanableRatio, segmentBytes: cfg.SegmentBytes}
	trusted := l.clock.deleteByAge(time.Now())
	p.rewriting.Lock() // a segment of it may just be thinned, if the topic was not compacted until now
	defer p.rewriting.Unlock()
	segs, facts := p.closedSegments()
	plan, due := policy.plan(facts, p.readCleaned(), p.stableLimit(), l.cfg.Now(), trusted)
	if !due {
		return nil
	}
	// The last checkpoint may end in one of these segments, and recovery would hold it to its size. After this
	// one it ends in the active segment or a later one (K1).
	if err := l.checkpointPast(); err != nil {
		return err
	}
	c := l.compactorOf(ctx, p, segs)
	c.compactPolicy, c.clockTrusted = policy, trusted
	began := time.Now()
	end, err := c.readKeys(plan, compactMapBytes)
	l.compaction.mapBytes.Store(max(l.compaction.mapBytes.Load(), c.keys.bytes())) // passes come one after the other
	if err == nil {
		err = l.compactGroups(p, c, segs, plan, end)
	}
	if errors.Is(err, errSegmentGone) || err != nil && l.Partition(p.id) != p {
		return nil // retention, a truncation or a deletion was faster; look again at the next tick
	}
	if err != nil {
		return err
	}
	p.writeCleaned(end)
	l.forgetAborted(p, end)
	l.compaction.passes.Add(1)
	l.compaction.recordsRead.Add(c.stats.recordsRead)
	l.compaction.recordsKept.Add(c.stats.recordsKept)
	l.compaction.bytesRead.Add(c.stats.bytesRead)
	l.compaction.bytesWritten.Add(c.stats.bytesWritten)
	l.cfg.Logger.Info("compacted", "topic", p.topic, "partition", p.id.Index, "below", int64(end), "records", c.stats.recordsRead,
		"kept", c.stats.recordsKept, "without_key", c.stats.nullKeys, "bytes_written", c.stats.bytesWritten, "took", time.Since(began))
	return nil
}

// compactorOf is one that reads closed segments of a partition.
func (l *Log) compactorOf(ctx context.Context, p *Partition, segs []*segment) *compactor {
	return &compactor{
		now: l.cfg.Now(), pace: newPace(ctx, l), follows: p.follows, live: map[int64]bool{},
		open: func(f segmentFacts) (io.ReaderAt, func(), error) {
			s := segs[indexOfBase(segs, f.base)]
			file, err := s.open()
			return file, func() { s.done(l.cfg.MaxOpenFiles) }, err
		},
		remembers: func(b Batch) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.producers.remembers(b)
		},
		aborted: func(b Batch) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.producers.isAborted(b)
		},
	}
}

// forgetAborted: of the transactions that were aborted and end below o a pass has left nothing but what readers still have from memory.
func (l *Log) forgetAborted(p *Partition, o Offset) {
	if inMemory, ok := p.tailStart(); ok {
		o = min(o, inMemory)
	}
	p.mu.Lock()
	p.producers.trimAborted(o)
	p.mu.Unlock()
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	_ = l.onWriter(func() error {
		p.w.producers.trimAborted(o)
		return nil
	})
}

func (l *Log) compactGroups(p *Partition, c *compactor, segs []*segment, plan compactPlan, end Offset) error {
	reach := 0
	for reach < len(plan.segments) && plan.segments[reach].base < end {
		reach++
	}
	for _, group := range c.groups(plan.segments[:reach]) {
		first := indexOfBase(segs, group[0].base)
		if err := l.compactGroup(p, c, group, segs[first:first+len(group)]); err != nil {
			return err
		}
	}
	return nil
}

// compactGroup rewrites one group and swaps it in. Up to the swap an error costs nothing but the file.
func (l *Log) compactGroup(p *Partition, c *compactor, group []segmentFacts, old []*segment) error {
	base, next := group[0].base, group[len(group)-1].next
	name := swapName(p.dir, base, next, cleanExt)
	var f vfs.File
	size, changed, err := c.writeGroup(group, func() (_ output, err error) {
		f, err = l.cfg.FS.Create(name)
		return f, err
	})
	if err != nil || !changed {
		if f != nil {
			_ = f.Close()
			_ = l.cfg.FS.Remove(name) // else recovery does
		}
		return err
	}
	last := group[len(group)-1]
	s := &segment{fs: l.cfg.FS, dir: p.dir, base: base, f: f, users: 1} // held open: until the swap is done its name is another
	openSegments.Add(1)
	defer s.done(l.cfg.MaxOpenFiles)
	s.size.Store(size)
	s.index.lastAppend, s.index.trusted = last.lastAppend, last.trusted
	swapped, err := l.swap(p, old, s, next, c.thin != nil)
	if !swapped {
		s.retire()
		_ = l.cfg.FS.Remove(name)
	}
	return err
}

// swap puts s in the place of old segments, by the steps in swap.go. It is false, and nothing was done, when the
// segments have changed since they were read. A failure on the way takes the log offline. A dense one lacks no offset.
func (l *Log) swap(p *Partition, old []*segment, s *segment, next Offset, dense bool) (bool, error) {
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	if err := l.offline(); err != nil {
		return false, err
	}
	current := *p.segs.Load()
	at := slices.Index(current, old[0])
	if at < 0 || at+len(old) >= len(current) || !slices.Equal(current[at:at+len(old)], old) || current[at+len(old)].base != next || p.LogEnd() < next {
		return false, errSegmentGone
	}
	if !dense && p.readCleaned() == 0 {
		p.writeCleaned(0) // from here on offsets are missing, also after the topic is no longer compacted
	}
	if committed, err := commitSwap(l.cfg.FS, p.dir, s.base, next); !committed {
		return false, err
	} else if err != nil {
		l.fail(err)
		return true, l.Err()
	}
	p.replaceSegments(func(segs []*segment) []*segment {
		at := slices.Index(segs, old[0])
		return slices.Replace(segs, at, at+len(old), s)
	})
	if err := finishSwap(l.cfg.FS, p.dir, s.base, next); err != nil {
		l.fail(err)
		return true, l.Err()
	}
	if err := s.rebuildIndex(s.f, s.size.Load(), p.Config().IndexIntervalBytes); err != nil {
		l.cfg.Logger.Warn("index not rebuilt, it will be when needed", "err", err)
	}
	l.stats.segmentsRemoved.Add(int64(len(old) - 1))
	return true, nil
}

// checkpointPast writes a checkpoint even if nothing is new but the segments' names.
func (l *Log) checkpointPast() error {
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	if err := l.offline(); err != nil {
		return err
	}
	return l.checkpointNow(true, func(it item) error {
		done := make(chan error, 1)
		it.durable = done
		l.c.submit(it)
		return l.await(done)
	})
}

// closedSegments returns all segments but the last, and what compaction needs to know of each.
func (p *Partition) closedSegments() ([]*segment, []segmentFacts) {
	segs := *p.segs.Load()
	if len(segs) < 2 {
		return nil, nil
	}
	facts := make([]segmentFacts, len(segs)-1)
	for i := range facts {
		facts[i] = segmentFacts{base: segs[i].base, next: segs[i+1].base, size: segs[i].size.Load()}
		if at, trusted, ok := segs[i].appended(); ok {
			facts[i].lastAppend, facts[i].trusted = at, trusted
		}
	}
	return segs[:len(facts)], facts
}

func indexOfBase(segs []*segment, base Offset) int {
	return slices.IndexFunc(segs, func(s *segment) bool { return s.base == base })
}

// newPace returns a function that stops a pass when ctx or the log ends, and lets it rest now and then.
func newPace(ctx context.Context, l *Log) func(int) error {
	bytes, since := 0, time.Now()
	return func(n int) error {
		if err := l.offline(); err != nil {
			return err
		}
		if bytes += n; bytes < compactBreather {
			return ctx.Err()
		}
		rest := time.NewTimer(time.Since(since))
		defer rest.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.failed:
			return l.Err()
		case <-rest.C:
		}
		bytes, since = 0, time.Now()
		return nil
	}
}

// The offset up to which a partition is compacted is kept in a small file, a hint that is not synced: without
// it, or with an older one, the next pass only looks at more than it needs to.
const (
	cleanedName = "compacted"
	cleanedSize = 12
)

func (p *Partition) readCleaned() Offset {
	b, err := vfs.ReadFile(p.l.cfg.FS, filepath.Join(p.dir, cleanedName), 64)
	if err != nil || len(b) != cleanedSize || crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return 0
	}
	o := Offset(binary.LittleEndian.Uint64(b))
	if o < 0 || o > p.LogEnd() {
		return 0 // of a log that was longer
	}
	return o
}

func (p *Partition) writeCleaned(o Offset) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(o))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	f, err := p.l.cfg.FS.Create(filepath.Join(p.dir, cleanedName))
	if err == nil {
		_, err = f.WriteAt(b, 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.l.cfg.Logger.Warn("compaction mark not written", "err", fmt.Errorf("partition %s: %w", p.id, err))
	}
}
