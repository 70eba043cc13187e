package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/deliver"
)

// followed is deliver.Followed over a table whose partitions other nodes may lead: one goroutine reads what is committed, from replicas here
// where there are some, and one asks the leaders how far that should be.
type followed struct {
	broker *cluster.Broker
	table  *stateTable
	apply  func(key, value []byte)
	wake   chan struct{} // holds a token while a partition may have something new
	end    chan struct{}
	work   sync.WaitGroup

	readers []*deliverLog
	records log.RecordReader // of read
	buf     []byte

	mu      sync.Mutex
	next    []log.Offset  // of each partition, the first offset that was not applied
	moved   chan struct{} // closed and replaced when next moves
	waiting []barrier
	asking  bool
}

type barrier struct {
	ctx context.Context
	fn  func(error)
}

const (
	// followTimeout is how long a start waits for what was committed before; what is late is applied when it comes.
	followTimeout = 5 * time.Second
	// barrierTimeout bounds a barrier whatever its caller says.
	barrierTimeout = 10 * time.Second
	followBytes    = 256 << 10
)

func newFollowed(b *cluster.Broker, t *stateTable) *followed {
	return &followed{
		broker: b, table: t, wake: make(chan struct{}, 1), end: make(chan struct{}),
		next: make([]log.Offset, t.Partitions()), moved: make(chan struct{}),
	}
}

func (f *followed) id(partition int) log.PartitionID {
	return log.PartitionID{Topic: f.table.t.ID(), Index: int32(partition)}
}

// Follow implements deliver.Followed.
func (f *followed) Follow(apply func(key, value []byte)) (stop func(), err error) {
	f.apply = apply
	f.readers = make([]*deliverLog, f.table.Partitions())
	var stops []func()
	for i := range f.readers {
		r, err := f.broker.Replica(f.id(i))
		if err != nil {
			return nil, err
		}
		f.readers[i] = newDeliverLog(r)
		stops = append(stops, f.readers[i].Watch(f.poke))
	}
	stops = append(stops, f.turning())
	f.work.Go(f.run)
	starting := f.table.starting
	if starting == nil {
		starting = context.Background()
	}
	ctx, cancel := context.WithTimeout(starting, followTimeout)
	defer cancel()
	_ = f.reach(ctx) // what is late comes later
	stop = func() {
		for _, stop := range stops {
			stop()
		}
		close(f.end)
		f.work.Wait()
	}
	if err := starting.Err(); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// turning has the readers read from where the partitions are with each change of metadata.
func (f *followed) turning() (stop func()) {
	return f.broker.WatchTopics(func(*meta.Image) {
		for i, l := range f.readers {
			if r, err := f.broker.Replica(f.id(i)); err == nil {
				l.turn(r)
			}
		}
	})
}

func (f *followed) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *followed) run() {
	f.poke()
	var again <-chan time.Time
	for {
		select {
		case <-f.wake:
		case <-again:
		case <-f.end:
			return
		}
		again = nil
		for i := range f.readers {
			if !f.read(i) {
				again = time.After(time.Second) // the leader may be away
			}
		}
	}
}

// read applies what is committed of a partition; false when it could not be read.
func (f *followed) read(i int) bool {
	r := f.readers[i].now() // one for all that follows: what another knows does not tell what this one can read
	for at := f.next[i]; at < r.HighWatermark() && !f.ended(); at = f.next[i] {
		end := r.HighWatermark()
		got, err := r.Read(at, followBytes, f.buf)
		if errors.Is(err, log.ErrOutOfRange) && at < r.LogStart() {
			f.advance(i, r.LogStart())
			continue
		}
		if err != nil {
			return false
		}
		f.buf = got
		if len(got) == 0 { // compaction has removed the last of them
			f.advance(i, end)
			continue
		}
		for rest := got; len(rest) > 0; {
			b, err := log.NextBatch(rest, 0)
			if err != nil {
				return false
			}
			rest = rest[b.Size():]
			if !b.IsControl() && !f.applyBatch(b, at) {
				return false
			}
			f.advance(i, b.NextOffset())
		}
	}
	return true
}

func (f *followed) ended() bool {
	select {
	case <-f.end:
		return true
	default:
		return false
	}
}

func (f *followed) applyBatch(b log.Batch, from log.Offset) bool {
	if err := f.records.Reset(b); err != nil {
		return false
	}
	for {
		var rec log.Record
		more, err := f.records.Next(&rec)
		if err != nil || !more {
			return err == nil
		}
		if rec.Offset >= from {
			f.apply(rec.Key, rec.Value)
		}
	}
}

func (f *followed) advance(i int, next log.Offset) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next[i] = max(f.next[i], next)
	close(f.moved)
	f.moved = make(chan struct{})
}

// Barrier implements deliver.Followed. Those that come while the leaders are asked share the next round.
func (f *followed) Barrier(ctx context.Context, fn func(error)) {
	f.mu.Lock()
	f.waiting = append(f.waiting, barrier{ctx, fn})
	start := !f.asking
	f.asking = true
	f.mu.Unlock()
	if start {
		go f.ask()
	}
}

// ask answers barriers until nobody waits.
func (f *followed) ask() {
	for {
		f.mu.Lock()
		round := f.waiting
		f.waiting = nil
		f.asking = len(round) > 0
		f.mu.Unlock()
		if len(round) == 0 {
			return
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), barrierTimeout, errors.New("the leaders do not say in time what is retained"))
		err := f.reach(ctx)
		cancel()
		for _, b := range round {
			if err == nil && b.ctx.Err() != nil {
				b.fn(context.Cause(b.ctx))
				continue
			}
			b.fn(err)
		}
	}
}

// reach returns when everything is applied that was committed anywhere at the call.
func (f *followed) reach(ctx context.Context) error {
	ends := make([]log.Offset, len(f.next))
	for i := range ends {
		for {
			end, err := f.broker.Ends(ctx, f.id(i))
			if ends[i] = end; err == nil {
				break
			}
			select {
			case <-time.After(settleTimeout): // an election takes a moment
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-f.end:
				return cluster.ErrClosed
			}
		}
	}
	for {
		f.mu.Lock()
		moved, there := f.moved, true
		for i, end := range ends {
			there = there && f.next[i] >= end
		}
		f.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.end:
			return cluster.ErrClosed
		}
	}
}

// Load implements deliver.Table.
func (f *followed) Load(fn func(key, value []byte) error) error {
	for p := range f.table.Partitions() {
		if err := f.table.Load(p, fn); err != nil {
			return err
		}
	}
	return nil
}

// Put implements deliver.Table: it writes wherever the leader is.
func (f *followed) Put(key, value []byte, done func(error)) {
	id := f.id(mqtt.PartitionFor(key, f.table.Partitions()))
	ctx, cancel := context.WithTimeout(context.Background(), followTimeout)
	defer cancel()
	w, err := f.broker.Writer(ctx, id)
	if err == nil {
		err = w.Append(&log.Record{Timestamp: time.Now().UnixMilli(), Key: key, Value: value}, &putWaiter{done}, 0)
	}
	if err != nil {
		go done(err) // never inside Put
	}
}

type putWaiter struct{ done func(error) }

// Committed implements cluster.Waiter.
func (w *putWaiter) Committed(_ uint64, _ int, err error) { w.done(err) }

var _ deliver.Followed = (*followed)(nil)
