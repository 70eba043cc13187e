package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/weir-io/weir/log"
)

// Flash forgets, and nobody notices before the record is read. So every broker reads its logs from one end to the other, again and again, so
// slowly that nobody feels it: reads check CRCs (A8). What cannot be read is damage (E7): where there are other replicas, this one is filled again
// from them.

const (
	scrubBytes  = 256 << 10           // read at once
	scrubPeriod = 30 * 24 * time.Hour // for a whole round
	// scrubLeast is the slowest rate in bytes per second: a small log is read sooner than it has to be.
	scrubLeast = 16 << 10
	// scrubRest is how long a round waits for something to read.
	scrubRest = time.Minute
)

// scrub reads until ctx ends. period is how long a round takes at most.
func (b *Broker) scrub(ctx context.Context, period time.Duration) {
	var buf []byte
	for {
		parts := b.Partitions()
		var total int64
		for _, p := range parts {
			total += p.Size()
		}
		pause := pauseFor(total, period)
		read := false
		for _, p := range parts {
			var more bool
			if buf, more = b.scrubOne(ctx, p, pause, buf); ctx.Err() != nil {
				return
			}
			read = read || more
		}
		if !read && !rest(ctx, min(scrubRest, period)) {
			return
		}
	}
}

// pauseFor is how long to wait after each read, so that total bytes take period, or less.
func pauseFor(total int64, period time.Duration) time.Duration {
	rate := max(float64(total)/period.Seconds(), scrubLeast)
	return time.Duration(scrubBytes / rate * float64(time.Second))
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// scrubOne reads what a partition has at the beginning of the round, and answers whether it read something.
func (b *Broker) scrubOne(ctx context.Context, p *Partition, pause time.Duration, buf []byte) (_ []byte, read bool) {
	end := min(p.log.Durable(), p.HighWatermark())
	for at := p.LogStart(); at < end; {
		got, err := p.log.Read(at, end, scrubBytes, buf)
		switch {
		case errors.Is(err, log.ErrOutOfRange): // retention was faster
			at = max(at+1, p.LogStart())
			continue
		case errors.Is(err, log.ErrCorrupt):
			b.found(p, err)
			return buf, true
		case err != nil: // passes by itself
			if ctx.Err() == nil && !errors.Is(err, log.ErrClosed) {
				b.cfg.Logger.Warn("cannot look for damage now, going on with the next round", "topic", p.topic, "partition", p.id.Index, "at", at, "error", err)
			}
			return buf, read
		case len(got) == 0:
			return buf, read
		}
		buf, read = got, true
		b.stats.scrubbed.Add(int64(len(got)))
		for left := got; len(left) > 0; {
			batch, err := log.NextBatch(left, 0)
			if err != nil {
				return buf, true
			}
			left, at = left[batch.Size():], batch.NextOffset()
		}
		if !rest(ctx, pause) {
			return buf, true
		}
	}
	return buf, read
}

// found deals with damage: of a replica among others it is the end (E7). A partition's only replica goes on with what can be read.
func (b *Broker) found(p *Partition, err error) {
	b.stats.scrubDamage.Add(1)
	if len(b.replicasOf(p.id)) > 1 {
		b.cfg.Logger.Error("a replica is damaged on this disk: it is filled again from the others", "topic", p.topic, "partition", p.id.Index, "error", err)
		p.lost(err.Error())
		return
	}
	b.cfg.Logger.Error("a partition without other replicas is damaged on this disk: stop the node and see `weir repair`", "topic", p.topic, "partition", p.id.Index, "error", err)
}
