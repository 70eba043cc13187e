package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// observer finds or makes the one of a partition: all who read it here share it, and with it what the leader tells.
func (f *following) observer(b *Broker, id log.PartitionID, topic string) *observer {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.observers[id]
	if o == nil {
		o = &observer{b: b, id: id, topic: topic}
		if f.observers == nil {
			f.observers = map[log.PartitionID]*observer{}
		}
		f.observers[id] = o
	}
	return o
}

// observer reads a partition of which there is no replica here.
type observer struct {
	b       *Broker
	id      log.PartitionID
	topic   string
	through atomic.Pointer[fetcher] // nil unless somebody watches, and somebody leads

	hw, start atomic.Int64

	mu       sync.Mutex
	watchers []CommitWatcher
}

const readTimeout = 5 * time.Second

// ID implements Reader.
func (o *observer) ID() log.PartitionID { return o.id }

// Topic implements Reader.
func (o *observer) Topic() string { return o.topic }

// Index implements Reader.
func (o *observer) Index() int32 { return o.id.Index }

// HighWatermark implements Reader.
func (o *observer) HighWatermark() log.Offset { return log.Offset(o.hw.Load()) }

// LastStable implements Reader: what a leader tells those who have no replica is just that.
func (o *observer) LastStable() log.Offset { return o.HighWatermark() }

// ReadStable implements Reader. The leader reads up to its high watermark: who looks for a record of his own has to see that far.
func (o *observer) ReadStable(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	stable := o.LastStable()
	b, err := o.Read(from, maxBytes, buf)
	for at := 0; at < len(b); {
		batch, err := log.NextBatch(b[at:], 0)
		if err != nil {
			return b[:at], err
		}
		if batch.BaseOffset() >= stable {
			return b[:at], nil
		}
		at += batch.Size()
	}
	return b, err
}

// LogStart implements Reader.
func (o *observer) LogStart() log.Offset { return log.Offset(o.start.Load()) }

// Read implements Reader.
func (o *observer) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	if from >= o.HighWatermark() {
		return buf[:0], nil
	}
	return o.b.ReadLeader(o.id, from, maxBytes, buf)
}

// Watch implements Reader.
func (o *observer) Watch(w CommitWatcher) {
	o.mu.Lock()
	o.watchers = append(o.watchers, w)
	o.mu.Unlock()
	f := &o.b.follows
	f.mu.Lock()
	defer f.mu.Unlock()
	table := o.b.table.Load()
	if leader := table.leader(o.id); leader != meta.NoLeader && leader != o.b.id && table.open[o.id] == nil {
		if r := f.fetcher(o.b, leader, table.image); r != nil && o.through.Swap(r.fetcher) != r.fetcher {
			r.mark(o)
		}
	}
}

// Unwatch implements Reader.
func (o *observer) Unwatch(w CommitWatcher) {
	o.mu.Lock()
	for i := range o.watchers {
		if o.watchers[i] == w {
			o.watchers = append(o.watchers[:i:i], o.watchers[i+1:]...)
			break
		}
	}
	o.mu.Unlock()
	f := &o.b.follows
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.watched() {
		return
	}
	if through := o.through.Swap(nil); through != nil {
		through.mark(o) // tells the leader that nobody observes
	}
}

func (o *observer) watched() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.watchers) > 0
}

// tells implements followed.
func (o *observer) tells(f *fetcher) (feedPart, bool) {
	return feedPart{wirePartition: toWire(o.id), LastEpoch: -1, Observe: true}, o.through.Load() == f
}

// takes implements followed.
func (o *observer) takes(f *fetcher, n *feedNews, _ []byte) time.Duration {
	switch {
	case o.through.Load() != f:
		return 0
	case n.Code != feedOK:
		return takeRetry
	}
	o.start.Store(max(n.LogStart, o.start.Load())) // first: who sees how far it is committed sees where it begins
	moved := o.hw.Swap(max(n.HW, o.hw.Load())) < n.HW
	if moved {
		o.mu.Lock()
		watchers := append([]CommitWatcher(nil), o.watchers...)
		o.mu.Unlock()
		o.b.completer.call(func() {
			for _, w := range watchers {
				w.Advanced(nil)
			}
		})
	}
	return -1 // nothing has changed that the leader should be told
}
