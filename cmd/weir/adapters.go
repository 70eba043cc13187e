package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/deliver"
)

// The mqtt room declares what it needs of the log as small interfaces and knows nothing of cluster; these adapters join
// the two.

// sink is mqtt.Sink over the broker's topics.
type sink struct {
	broker   *cluster.Broker
	spec     func(topic string) cluster.TopicSpec // how a topic that a route names is made
	sessions log.TopicID                          // of the sessions table
}

// createTimeout bounds the creation of a topic that a publish needs; the publish is held meanwhile (M8).
const createTimeout = 10 * time.Second

// Topic returns the partitions of a log topic, creating it when there is none. It may be called concurrently.
func (s sink) Topic(name string) ([]mqtt.Partition, error) {
	topic := s.broker.Image().Topic(name)
	if topic == nil {
		ctx, cancel := context.WithTimeout(context.Background(), createTimeout)
		defer cancel()
		var err error
		if topic, err = s.broker.CreateTopic(ctx, s.spec(name), false); errors.Is(err, cluster.ErrTopicExists) {
			topic, err = s.broker.Image().Topic(name), nil // somebody else's publish made it
		}
		if err != nil {
			return nil, fmt.Errorf("create topic %s: %w", name, err)
		}
		if topic == nil {
			return nil, s.deleted(name)
		}
	}
	parts := make([]mqtt.Partition, len(topic.Partitions))
	ctx, cancel := context.WithTimeout(context.Background(), createTimeout)
	defer cancel()
	for i := range parts {
		id := log.PartitionID{Topic: topic.ID, Index: int32(i)}
		w, err := s.broker.Writer(ctx, id)
		switch {
		case errors.Is(err, cluster.ErrUnknownTopic):
			return nil, s.deleted(name)
		case err != nil:
			parts[i] = offlinePartition{id, err} // the others go on
		default:
			parts[i] = sinkPartition{w, s.broker, s.sessions}
		}
	}
	return parts, nil
}

// deleted is why a topic is not there that was a moment ago: the next look makes it again, so a publish that needs it is held, not refused (M8).
func (s sink) deleted(name string) error {
	return fmt.Errorf("topic %s was deleted while it was looked up: %w", name, cluster.ErrUnavailable)
}

// offlinePartition is one that cannot be written: a publish to it is refused or held, those to its neighbours are not.
type offlinePartition struct {
	id  log.PartitionID
	why error
}

func (p offlinePartition) ID() log.PartitionID                           { return p.id }
func (p offlinePartition) Append(*log.Record, mqtt.Waiter, uint64) error { return p.why }
func (p offlinePartition) AppendIn(mqtt.Ownership, *log.Record, mqtt.Waiter, uint64) error {
	return p.why
}
func (p offlinePartition) LogEnd() log.Offset                           { return 0 }
func (p offlinePartition) Settle() (log.Offset, error)                  { return 0, p.why }
func (p offlinePartition) Read(log.Offset, int, []byte) ([]byte, error) { return nil, p.why }

// Transient tells the refusals that pass by themselves from those that never will (M8). A topic that a route names asks for no number of replicas: that there
// is none means that no broker serves now.
func (s sink) Transient(err error) bool {
	return cluster.Transient(err) || errors.Is(err, cluster.ErrInvalidReplicas)
}

// sinkPartition is a partition as a publish needs it, wherever it is led.
type sinkPartition struct {
	cluster.Writer
	broker   *cluster.Broker
	sessions log.TopicID
}

func (p sinkPartition) Append(r *log.Record, w mqtt.Waiter, seq uint64) error {
	if w == nil { // a nil interface must stay nil when its type changes
		return p.Writer.Append(r, nil, 0)
	}
	return p.Writer.Append(r, w, seq)
}

// AppendIn appends in the term of the partition that the session is stored in.
func (p sinkPartition) AppendIn(o mqtt.Ownership, r *log.Record, w mqtt.Waiter, seq uint64) error {
	t := cluster.Term{Partition: log.PartitionID{Topic: p.sessions, Index: int32(o.Partition)}, Epoch: log.Epoch(o.Epoch)}
	return p.Writer.AppendIn(t, r, w, seq)
}

// LogEnd is where the search for a record begins that is about to be written: where there is no replica here, at the beginning. What lies above the
// high watermark may be cut off by another leader, which then puts the record below where the log ended here.
func (p sinkPartition) LogEnd() log.Offset {
	r, err := p.broker.Replica(p.ID())
	if err != nil {
		return 0
	}
	return r.HighWatermark()
}

// Settle asks the leader.
func (p sinkPartition) Settle() (log.Offset, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), searchTimeout, errors.New("it cannot commit what it has"))
	defer cancel()
	return p.broker.Settle(ctx, p.ID())
}

// searchTimeout is how long the search for a record waits for what it may be among.
const searchTimeout = 5 * time.Second

// Read asks the leader: what it has answered for may not have come here yet.
func (p sinkPartition) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	return p.broker.ReadLeader(p.ID(), from, maxBytes, buf)
}

// source is deliver.Source: every partition that MQTT subscribers can see, which is every topic that is not internal.
type source struct{ broker *cluster.Broker }

// Watch reports the partitions of each metadata image that were not in the one before, and those that are gone. Calls
// come one at a time.
func (s source) Watch(added func(deliver.Log), removed func(log.PartitionID)) (stop func()) {
	known := map[log.PartitionID]*deliverLog{}
	return s.broker.WatchTopics(func(image *meta.Image) {
		now := map[log.PartitionID]*deliverLog{}
		for _, topic := range image.Topics() {
			if topic.Internal {
				continue
			}
			for i := range topic.Partitions {
				id := log.PartitionID{Topic: topic.ID, Index: int32(i)}
				r, err := s.broker.Replica(id)
				l := known[id]
				switch {
				case l != nil:
					if err == nil {
						l.turn(r)
					}
					now[id] = l
				case err == nil: // else not open here yet: the image that opens it comes later
					l = newDeliverLog(r)
					now[id] = l
					added(l)
				}
			}
		}
		for id := range known {
			if now[id] == nil {
				removed(id)
			}
		}
		known = now
	})
}

// deliverLog is deliver.Log over a partition, from whatever place it can be read from at the time.
type deliverLog struct {
	reader atomic.Pointer[cluster.Reader]

	mu       sync.Mutex
	watchers []*commitWatcher
}

func newDeliverLog(r cluster.Reader) *deliverLog {
	l := &deliverLog{}
	l.reader.Store(&r)
	return l
}

// turn reads from r from now on, and has the watchers look: it may know more.
func (l *deliverLog) turn(r cluster.Reader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := *l.reader.Load()
	if old == r {
		return
	}
	l.reader.Store(&r)
	for _, w := range l.watchers {
		old.Unwatch(w)
		r.Watch(w)
		w.fn()
	}
}

func (l *deliverLog) now() cluster.Reader { return *l.reader.Load() }
func (l *deliverLog) Topic() string       { return l.now().Topic() }
func (l *deliverLog) Index() int32        { return l.now().Index() }
func (l *deliverLog) ID() log.PartitionID { return l.now().ID() }

// HighWatermark and Read are those of committed records: subscribers see a transaction's records when it is committed, and none that were aborted.
func (l *deliverLog) HighWatermark() log.Offset { return l.now().LastStable() }
func (l *deliverLog) LogStart() log.Offset      { return l.now().LogStart() }
func (l *deliverLog) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	return l.now().ReadStable(from, maxBytes, buf)
}

func (l *deliverLog) Watch(fn func()) (stop func()) {
	w := &commitWatcher{fn}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers = append(l.watchers, w)
	l.now().Watch(w)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.watchers = slices.DeleteFunc(l.watchers, func(o *commitWatcher) bool { return o == w })
		l.now().Unwatch(w)
	}
}

// SpanAt, Note and SetNote are of segments, which only a replica here has.
func (l *deliverLog) SpanAt(o log.Offset) (log.Span, bool) {
	if p, ok := l.now().(*cluster.Partition); ok {
		return p.SpanAt(o)
	}
	return log.Span{}, false
}

func (l *deliverLog) Note(first log.Offset) []byte {
	if p, ok := l.now().(*cluster.Partition); ok {
		return p.Note(first)
	}
	return nil
}

func (l *deliverLog) SetNote(first log.Offset, b []byte) error {
	if p, ok := l.now().(*cluster.Partition); ok {
		return p.SetNote(first, b)
	}
	return nil
}

type commitWatcher struct{ fn func() }

func (w *commitWatcher) Advanced(*cluster.Partition) { w.fn() }

// stateTable adapts a compacted topic to the key → value state that mqtt keeps in it (M11).
type stateTable struct {
	t        *cluster.Table
	owned    bool            // who puts is the owner of the partition in one term, see mqtt.Ownership
	starting context.Context // of the start, which loads the table; nil once that is over
}

// Tables are small on purpose: each partition costs a directory and its files, and only closed segments are compacted,
// so that their size is what a start reads at the least.
const (
	tablePartitions   = 4
	tableSegmentBytes = "4194304"
)

func openTable(ctx context.Context, b *cluster.Broker, name string) (*stateTable, error) {
	t, err := b.OpenTable(ctx, cluster.TopicSpec{
		Name: name, Partitions: tablePartitions, Internal: true,
		Configs: map[string]string{"cleanup.policy": "compact", "segment.bytes": tableSegmentBytes},
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return &stateTable{t: t, starting: ctx}, nil
}

// Partitions, Load and Put are mqtt.Table: mqtt knows where the records of a session stand.
func (t *stateTable) Partitions() int { return t.t.Partitions() }

const (
	// startLoadTimeout is how long a start waits for somebody to lead a partition: longer than an election waits for members that are not there (E6).
	startLoadTimeout = 2 * time.Minute
	loadTimeout      = 5 * time.Second
)

// Load is stopped with the start: it does not read a partition to the end then.
func (t *stateTable) Load(partition int, fn func(key, value []byte) error) error {
	each, parent, limit := fn, context.Background(), loadTimeout
	if ctx := t.starting; ctx != nil {
		parent, limit = ctx, startLoadTimeout
		each = func(key, value []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return fn(key, value)
		}
	}
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	return t.t.LoadAnywhere(ctx, int32(partition), each)
}

// Put writes in the term of the owner, and in any where the node is alone.
func (t *stateTable) Put(o mqtt.Ownership, key, value []byte, done func(error)) {
	if t.owned {
		t.t.PutIn(int32(o.Partition), log.Epoch(o.Epoch), key, value, done)
		return
	}
	t.t.Put(int32(o.Partition), key, value, done)
}

// wholeTable is deliver.Table: a table without regard to its partitions.
type wholeTable struct{ *stateTable }

// Load reads all partitions; order holds per key, since a key lives in one partition.
func (t wholeTable) Load(fn func(key, value []byte) error) error {
	for p := range t.Partitions() {
		if err := t.stateTable.Load(p, fn); err != nil {
			return err
		}
	}
	return nil
}

// Put spreads the keys.
func (t wholeTable) Put(key, value []byte, done func(error)) {
	t.t.Put(int32(mqtt.PartitionFor(key, t.Partitions())), key, value, done)
}

var (
	_ mqtt.Sink      = sink{}
	_ mqtt.Table     = (*stateTable)(nil)
	_ deliver.Table  = wholeTable{}
	_ deliver.Source = source{}
)
