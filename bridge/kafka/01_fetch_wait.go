package kafka

import (
	"context"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

const (
	// maxFetchWait bounds a wait that a client asks for; it asks again.
	maxFetchWait = 5 * time.Minute
	// minFetchPause keeps a fetch that waits for many bytes from counting them anew at
	// each small commit.
	minFetchPause = 10 * time.Millisecond
	// damagedFetchPause slows down a consumer that asks again and again for what the disk has lost.
	damagedFetchPause = 500 * time.Millisecond
)

// damaged tells whether a partition's records could not be read.
func (f *fetch) damaged() bool {
	for i := range f.parts {
		if c := f.parts[i].code; c == errCorruptMessage || c == errKafkaStorageError {
			return true
		}
	}
	return false
}

// pause holds an answer back for damagedFetchPause, or as long as the client lets us.
func (f *fetch) pause(ctx context.Context, deadline time.Time) {
	timer := time.NewTimer(min(damagedFetchPause, time.Until(deadline)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-f.s.draining:
	}
}

// ready: an error, or a committed record, is there.
func (f *fetch) ready() bool {
	if f.minBytes <= 0 || len(f.parts) == 0 {
		return true
	}
	for i := range f.parts {
		if p := &f.parts[i]; p.code != errNone || f.end(p) > p.offset {
			return true
		}
	}
	return false
}

// end is the offset up to which the client may read.
func (f *fetch) end(p *fetchPart) log.Offset {
	if f.committed {
		return p.partition.LastStable()
	}
	return p.partition.HighWatermark()
}

// refused says whether a partition has an error, or is to be read elsewhere.
func (f *fetch) refused() bool {
	for i := range f.parts {
		if f.parts[i].code != errNone || f.parts[i].preferred != noReplica {
			return true
		}
	}
	return false
}

func (f *fetch) canWait(ctx context.Context, deadline time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-f.s.draining:
		return false
	default:
		return f.maxWait > 0 && time.Now().Before(deadline)
	}
}

// Advanced wakes the wait (cluster.CommitWatcher). A late call is a spurious wake, perhaps
// of the next request that uses this struct: it looks, and waits again.
func (f *fetch) Advanced(*cluster.Partition) {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// wait returns after a commit in one of the partitions, when one is led elsewhere, or when nothing
// more is waited for.
func (f *fetch) wait(ctx context.Context, deadline time.Time) {
	select {
	case <-f.wake: // stale
	default:
	}
	f.s.n.fetchWaiting.Add(1)
	for i := range f.parts {
		f.parts[i].partition.Watch(f) // not nil: a refused part is not waited with
	}
	defer func() {
		for i := range f.parts {
			f.parts[i].partition.Unwatch(f)
		}
		f.s.n.fetchWaiting.Add(-1)
	}()
	started := time.Now()
	if f.minBytes <= 1 && f.ready() { // it came before the watch
		return
	}
	timeout := time.NewTimer(deadline.Sub(started))
	defer timeout.Stop()
	select {
	case <-f.wake:
	case <-f.lost:
		return
	case <-timeout.C:
		return
	case <-ctx.Done():
		return
	case <-f.s.draining:
		return
	}
	if pause := minFetchPause - time.Since(started); f.minBytes > 1 && pause > 0 {
		timeout.Reset(min(pause, time.Until(deadline)))
		select {
		case <-timeout.C:
		case <-f.lost:
		case <-ctx.Done():
		case <-f.s.draining:
		}
	}
}
