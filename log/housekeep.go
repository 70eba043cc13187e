package log

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// producerExpiry is how long an idempotent producer is remembered after its last batch, as Kafka's
// producer.id.expiration.ms.
const producerExpiry = 24 * time.Hour

// Run looks after age and room until ctx ends or the log fails or closes: it watches the disk and the clock,
// deletes by retention and quota, rolls silent segments, compacts. Checkpoints need no Run. Call it once.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(l.cfg.HousekeepTick)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(ctx)
	var compacting sync.WaitGroup
	compacting.Go(func() { l.runCompaction(ctx) })
	defer func() {
		cancel()
		compacting.Wait()
	}()
	for {
		if err := l.housekeep(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.failed:
			return l.Err()
		case <-l.finished:
			return nil
		case <-l.tight:
		case <-tick.C:
		}
	}
}

// housekeep is one round.
func (l *Log) housekeep(ctx context.Context) error {
	now := time.Now()
	l.clock.judge(now)
	l.clock.store(false)
	need := l.checkDisk()
	byAge := l.clock.deleteByAge(now)
	for _, p := range l.Partitions() {
		if ctx.Err() != nil {
			return nil
		}
		if err := l.retain(p, byAge); err != nil && l.offline() == nil {
			return fmt.Errorf("retention of %s, partition %d: %w", p.topic, p.id.Index, err)
		}
	}
	if err := l.reclaimRoom(ctx, need); err != nil && l.offline() == nil {
		return err
	}
	l.closeIdle()
	return l.Err()
}

// facts describes the partition's segments as retention sees them.
func (p *Partition) facts() (closed []segmentFacts, active segmentFacts) {
	segs := *p.segs.Load()
	for i, s := range segs {
		at, trusted, ok := s.appended()
		f := segmentFacts{base: s.base, next: p.LogEnd(), size: s.size.Load()}
		if ok {
			f.lastAppend, f.trusted = at, trusted
		}
		if i+1 == len(segs) {
			return closed, f
		}
		f.next = segs[i+1].base
		closed = append(closed, f)
	}
	return closed, active
}

// limit is the offset past which nothing may be deleted.
func (p *Partition) deleteLimit() Offset {
	if hw := p.HighWatermark(); hw > 0 || p.governed.Load() { // 0 of a replica that knows of nothing committed yet is no leave to take all
		return min(hw, p.Durable())
	}
	return p.Durable()
}

// held is deleteLimit, and what Config.Hold holds: against retention, or against a want of room too, where it does not yield.
func (p *Partition) held(room bool) Offset {
	limit := p.deleteLimit()
	if p.l.cfg.Hold == nil {
		return limit
	}
	from, yield := p.l.cfg.Hold(p.id)
	if room && yield {
		return limit
	}
	return min(limit, from)
}

// heldBack says whether room could be made of the partition but for what Config.Hold holds.
func (p *Partition) heldBack() bool {
	if cfg := p.Config(); cfg.Compact || cfg.Internal || p.Damaged() != "" || !p.configured.Load() {
		return false
	}
	closed, _ := p.facts()
	limit, held := p.deleteLimit(), p.held(true)
	return slices.ContainsFunc(closed, func(s segmentFacts) bool { return s.next <= limit && s.next > held })
}

// retain applies the topic's retention to one partition.
func (l *Log) retain(p *Partition, byAge bool) error {
	if p.Damaged() != "" {
		return nil // its files stay as they are until somebody has looked (E7)
	}
	if !p.configured.Load() {
		return nil // what it may delete is not known yet
	}
	cfg := p.Config()
	now := l.cfg.Now()
	policy := retention{age: cfg.Retention, bytes: cfg.RetentionBytes}
	if !cfg.Delete {
		policy = retention{age: -1}
	}
	if _, active := p.facts(); policy.rollExpired(active, now, byAge) || byAge && p.lags(cfg, now) {
		if err := l.rollNow(p); err != nil {
			return err
		}
	}
	l.expireProducers(p, byAge, now)
	closed, active := p.facts()
	n, why := policy.expired(closed, active.size, p.LogStart(), p.held(false), now, byAge)
	if n == 0 {
		return nil
	}
	l.cfg.Logger.Debug("segments expired", "topic", p.topic, "partition", p.id.Index, "segments", n, "reason", string(why))
	return p.SetLogStart(closed[n-1].next)
}

// lags says whether MaxCompactionLag is over for the first record of the active segment, which compaction does not come to: in a partition that fell silent no
// append would close it. What follows is empty, and stays so until there is something to compact again.
func (p *Partition) lags(cfg PartitionConfig, now time.Time) bool {
	if !cfg.Compact || cfg.MaxCompactionLag <= 0 {
		return false
	}
	segs := *p.segs.Load()
	return len(segs) > 0 && segs[len(segs)-1].age(now) >= cfg.MaxCompactionLag
}

// rollNow closes the active segment and starts an empty successor, so that retention or compaction can take the old one.
func (l *Log) rollNow(p *Partition) error {
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	return l.onWriter(func() error {
		if p.w.gone {
			return nil
		}
		if err := l.w.flush(p); err != nil {
			return err
		}
		if s := p.w.active; s == nil || s.size.Load() == 0 {
			return nil
		}
		return l.w.rollTo(p, p.w.end)
	})
}

func (l *Log) expireProducers(p *Partition, trusted bool, now time.Time) {
	if !trusted {
		return
	}
	before := now.Add(-producerExpiry).UnixMilli()
	p.mu.Lock()
	n := p.producers.expire(before)
	p.mu.Unlock()
	if n == 0 {
		return
	}
	l.lockMaintenance()
	defer l.maintenance.Unlock()
	_ = l.onWriter(func() error {
		p.w.producers.expire(before)
		p.w.producersOld = true
		return nil
	})
}

// reclaimRoom deletes the oldest segments of the node until its quota is kept, and under disk pressure those
// of topics that chose drop-oldest. need is what the disk asks for. What the quota cannot get because somebody holds it
// makes the node refuse appends until there is room again. What yields may be thinned before (thin.go).
func (l *Log) reclaimRoom(ctx context.Context, need int64) error {
	parts := l.Partitions()
	defer func() { l.dead.judge(parts, l.pressure.Load() != diskOK || l.overQuota.Load()) }()
	if l.cfg.DiskQuota > 0 {
		var total int64
		for _, p := range parts {
			total += p.Size()
		}
		missing, err := max(total-l.cfg.DiskQuota, 0), error(nil)
		if missing > 0 {
			var freed int64
			freed, err = l.keepQuota(ctx, parts, missing)
			missing -= freed
		}
		if err != nil {
			return err
		}
		held := missing > 0 && slices.ContainsFunc(parts, (*Partition).heldBack)
		if was := l.overQuota.Swap(held); was != held {
			l.cfg.Logger.Warn("log.disk_quota and records that an uplink has not carried yet", "over by", missing, "appends", map[bool]string{true: "refused", false: "accepted"}[held])
		}
	}
	if need <= 0 {
		return nil
	}
	_, err := l.reclaim(parts, need, func(c PartitionConfig) bool { return c.DiskFull != dropOldest })
	return err
}

// reclaim frees need bytes where keep, internal and compacted topics do not forbid it, and says how many it freed.
func (l *Log) reclaim(parts []*Partition, need int64, keep func(PartitionConfig) bool) (int64, error) {
	offers := make([]reclaimable, len(parts))
	for i, p := range parts {
		offers[i] = p.offer()
		offers[i].keep = offers[i].keep || keep(p.Config())
	}
	goes, freed := reclaim(offers, need)
	return freed, l.deleteChosen(parts, offers, goes, need)
}

// offer is what the partition has for who needs room.
func (p *Partition) offer() reclaimable {
	cfg := p.Config()
	closed, _ := p.facts()
	return reclaimable{closed: closed, limit: p.held(true), keep: cfg.Compact || cfg.Internal || p.Damaged() != "" || !p.configured.Load()}
}

// deleteChosen deletes what reclaim has chosen.
func (l *Log) deleteChosen(parts []*Partition, offers []reclaimable, goes []int, need int64) error {
	var errs []error
	var freed int64
	for i, n := range goes {
		for _, s := range offers[i].closed[:n] {
			freed += s.size
		}
		if n > 0 {
			errs = append(errs, parts[i].SetLogStart(offers[i].closed[n-1].next))
		}
	}
	if freed > 0 {
		l.cfg.Logger.Warn("deleting the oldest segments for room", "bytes", freed, "wanted", need)
	}
	return errors.Join(errs...)
}

// closeIdle closes files of closed segments that nobody reads, oldest partitions first, while more than half
// of the allowed number are open.
func (l *Log) closeIdle() {
	parts := l.Partitions()
	sort.SliceStable(parts, func(i, j int) bool { return parts[i].pid < parts[j].pid })
	for _, p := range parts {
		for _, s := range *p.segs.Load() {
			if openSegments.Load() <= int64(l.cfg.MaxOpenFiles/2) {
				return
			}
			s.closeIfIdle()
		}
	}
}
