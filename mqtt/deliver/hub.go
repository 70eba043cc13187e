package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log"
)

// Log is one partition as the hub reads it. All methods may be called from any goroutine.
type Log interface {
	Topic() string
	Index() int32
	ID() log.PartitionID
	HighWatermark() log.Offset
	LogStart() log.Offset
	// Read appends whole batches below the high watermark to buf[:0], the first one containing from,
	// at least one even if it is larger than maxBytes; none at the high watermark. log.ErrOutOfRange
	// below LogStart.
	Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error)
	// Watch arranges for fn to be called after the high watermark moved. fn never blocks.
	Watch(fn func()) (stop func())
}

// Source knows the partitions of topics that MQTT clients may see, internal ones not among them.
type Source interface {
	// Watch calls added for every partition there is, before it returns, and for each new one later;
	// removed when one is gone. Calls do not overlap.
	Watch(added func(Log), removed func(log.PartitionID)) (stop func())
}

// Table is a compacted topic as key → value state (M11).
type Table interface {
	// Load calls fn for every committed record, in order per key: a later value replaces an earlier one
	// and a nil value means deleted. key and value are valid during the call.
	Load(fn func(key, value []byte) error) error
	// Put stores a value, nil to delete. done is called once it is committed, in commit order per key;
	// it never blocks.
	Put(key, value []byte, done func(error))
}

// Followed is a compacted topic that every node follows as a whole, whoever may write to it. Alone makes one of a Table.
type Followed interface {
	// Follow calls apply for every committed record, as Load does, before it returns, and then for each that follows, in
	// the order of the log per key. Calls do not overlap; key and value are valid during the call.
	Follow(apply func(key, value []byte)) (stop func(), err error)
	// Barrier calls fn once apply has had every record that was committed anywhere when Barrier was called, or with the
	// reason why that is not known, ctx having ended among them. fn never blocks; it may run inside Barrier.
	Barrier(ctx context.Context, fn func(error))
	// Load gives every committed record again; Put writes to whatever node takes writes now. key and value do not change
	// until done.
	Table
}

// alone is a table that nobody else writes to: what this node puts is all there is to follow.
type alone struct {
	Table
	apply func(key, value []byte)
}

// Alone makes a table that only this node writes to a followed one: a change is applied when it is committed, before done
// hears of it, and no barrier ever waits.
func Alone(t Table) Followed { return &alone{Table: t} }

func (a *alone) Follow(apply func(key, value []byte)) (stop func(), err error) {
	a.apply = apply
	return func() {}, a.Load(func(key, value []byte) error {
		apply(key, value)
		return nil
	})
}

func (a *alone) Put(key, value []byte, done func(error)) {
	a.Table.Put(key, value, func(err error) {
		if err == nil {
			a.apply(key, value)
		}
		done(err)
	})
}

func (a *alone) Barrier(_ context.Context, fn func(error)) { fn(nil) }

// Target takes messages for one connected session. Deliver is called by the hub's workers, one call
// at a time per partition and in its order, but for several partitions at once. It must not block
// nor call the hub, apart from Ready. false means no room: a QoS 0 message is then dropped, any other
// is offered again after Ready. subIDs is valid during the call; retain is the flag to send.
type Target interface {
	Deliver(m *Message, qos byte, retain bool, subIDs []uint32) bool
}

// Sub is one subscription as SUBSCRIBE carries it. Filter may be a shared one, "$share/GROUP/FILTER";
// with ShareGroup set it is the part after the group.
type Sub struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
	ID                uint32 // subscription identifier, 0 = none
	ShareGroup        string
	// Since is the moment of subscribing: Hub.Ends as it was just before. It is stored with the
	// subscription until the session's stored cursor has passed it. Zero is the moment of the call.
	Since Cursor
	// Term orders the sessions of one client identifier on all nodes: of two members of a shared subscription the later is
	// there still. 0 where an identifier has one session only.
	Term uint64
	// Owed: the retained messages that the subscription is due are not queued yet (see SendRetained). It is the caller's.
	Owed bool
}

// Limits bound the hub's memory and how long a worker stays with one thing.
type Limits struct {
	Workers       int // default min(GOMAXPROCS, 4)
	ReadBytes     int // read at once from a partition; default 256 KiB
	Postings      int // offsets noted for sessions that are behind, all together; default 4 Mi of 8 B
	PostingsEach  int // the same for one session and partition; default 4096
	MatchCache    int // topics remembered by each worker; default 16384
	KeptChunks    int // chunks kept for slow sessions between two Ready calls; default 32
	RetainedBytes int // of retained messages kept in memory; the rest is read from the table; default 32 MiB
	RetainedCount int // retained topics indexed in memory; default 1 Mi
}

func (l *Limits) defaults() {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.Workers, min(runtime.GOMAXPROCS(0), 4))
	set(&l.ReadBytes, 256<<10)
	set(&l.Postings, 4<<20)
	set(&l.PostingsEach, 4096)
	set(&l.MatchCache, 16384)
	set(&l.KeptChunks, 32)
	set(&l.RetainedBytes, 32<<20)
	set(&l.RetainedCount, 1<<20)
}

// Config is what a hub needs. Source must be set.
type Config struct {
	Source   Source
	Retained Followed // retained messages by MQTT topic; nil = none are kept over a restart
	Groups   Table    // shared subscriptions under GroupKeyPrefix; nil = not kept over a restart
	Away     Away     // other nodes that lead shared subscriptions; nil = the hub is alone and leads all
	Limits   Limits
	// Lost hears what retention took from a client's session. It may take what Deliver takes.
	Lost   func(clientID string, l Loss)
	Logger *slog.Logger
	// Now is the clock of message expiry. The default starts at the wall clock and then runs on the
	// monotonic one, so that a step of the wall clock expires nothing.
	Now func() time.Time
}

// Hub hands committed records to MQTT subscribers. Its methods are safe for concurrent use; those of
// one session are called one after the other.
type Hub struct {
	cfg    Config
	limits Limits
	index  index
	queue  *queue
	parts  atomic.Pointer[map[log.PartitionID]*partition] // copied on change
	// listeners counts sessions and groups with at least one subscription. While it is 0 nobody reads.
	listeners atomic.Int64
	postings  atomic.Int64 // offsets held by lags
	kept      atomic.Int64 // chunks kept for sessions
	chunks    sync.Pool    // of *keptChunk
	// collectors counts those there ever were, collected the topics they hold.
	collectors atomic.Uint64
	collected  atomic.Int64
	retained   retainedStore
	counters   counters

	mu       sync.Mutex // changes of listeners, groups and parts; before any partition's lock
	groups   map[string]*Group
	stored   map[string]groupRecord // groups of the last run, until a member comes back
	leads    map[int]bool           // partitions whose groups this node leads, with Away
	ended    map[string]endedGroup  // with Away
	nextSeq  uint64
	running  bool          // the source's partitions are known; written with starting held too
	started  chan struct{} // closed by Run when running is set
	starting sync.RWMutex  // held while Run takes up the source's partitions; before all other locks
	sessions sync.Map      // client id → *session
	shares   sync.Map      // name → *Group, the same as groups
	// held is what stored sessions have of shared subscriptions that nobody has joined yet, see HoldShared.
	held map[string]map[delivery]string
	// With Away: number of a membership of a session here → seat.
	away    sync.Map
	numbers atomic.Uint64
}

// NewHub loads the retained messages and group cursors. Nothing is delivered before Run.
func NewHub(cfg Config) (*Hub, error) {
	if cfg.Source == nil {
		return nil, errors.New("deliver: no source")
	}
	cfg.Limits.defaults()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		start := time.Now()
		cfg.Now = func() time.Time { return start.Add(time.Since(start)) }
	}
	h := &Hub{
		cfg: cfg, limits: cfg.Limits, queue: newQueue(), groups: map[string]*Group{}, held: map[string]map[delivery]string{}, leads: map[int]bool{}, ended: map[string]endedGroup{},
		started: make(chan struct{}),
	}
	h.chunks.New = func() any { return new(keptChunk) }
	h.parts.Store(&map[log.PartitionID]*partition{})
	if err := h.retained.open(cfg.Retained, &h.limits, cfg.Now); err != nil {
		return nil, fmt.Errorf("load retained messages: %w", err)
	}
	if err := h.loadGroups(); err != nil {
		return nil, fmt.Errorf("load cursors of shared subscriptions: %w", err)
	}
	return h, nil
}

// groupFlushEvery is how often changed group cursors are written (M9).
const groupFlushEvery = time.Second

// Run watches the source and delivers until ctx ends; then it writes the group cursors and returns
// when every worker has ended. Sessions stay attached but get nothing more. It is called once.
func (h *Hub) Run(ctx context.Context) error {
	h.queue.open()
	var workers sync.WaitGroup
	for range h.limits.Workers {
		workers.Go(func() { newWorker(h).loop() })
	}
	h.starting.Lock()
	stop := h.cfg.Source.Watch(h.addPartition, h.removePartition)
	h.mu.Lock()
	h.running = true
	h.mu.Unlock()
	h.starting.Unlock()
	close(h.started)
	tick := time.NewTicker(groupFlushEvery)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
			h.retryStalled()
			h.flushGroups()
		case <-ctx.Done():
			done = true
		}
	}
	stop()
	h.queue.close()
	workers.Wait()
	for _, p := range *h.parts.Load() {
		p.unwatch()
	}
	h.flushGroups()
	h.retained.close()
	return nil
}

// Close ends a hub that is not run.
func (h *Hub) Close() { h.retained.close() }

// Started is closed when Run knows the partitions: until then ReadAt finds nothing.
func (h *Hub) Started() <-chan struct{} { return h.started }

// session finds a session.
func (h *Hub) session(clientID string) *session {
	if s, ok := h.sessions.Load(clientID); ok {
		return s.(*session)
	}
	return nil
}

// Attach connects a session: from now on t gets its messages. The hub keeps subscriptions and place
// of a durable session it already knows, and cur and subs are ignored then; they are those of an
// unknown session, taken up from the sessions table. A zero cur stands at the end of the log. With a
// nil t the session is known but absent, as all stored ones are after a restart: those attached
// before Run share one pass over the log to find what they missed. With a target Attach waits until Run
// has taken up the partitions, so that nothing committed after a SUBACK is missed. A target that is attached already
// is replaced, and gets nothing more once Attach returns. Subscriptions that are no valid filter are
// left out, with a warning.
func (h *Hub) Attach(clientID string, t Target, durable bool, cur Cursor, subs []Sub) {
	if t != nil {
		<-h.started
	}
	s := h.session(clientID)
	if s == nil {
		s = h.newSession(clientID)
		h.sessions.Store(clientID, s)
		h.takeUp(s, cur, subs)
	}
	s.durable.Store(durable)
	if t == nil {
		h.absent(s)
		return
	}
	h.present(s, t)
}

// Restore is Attach without a target: a durable session that is not connected.
func (h *Hub) Restore(clientID string, cur Cursor, subs []Sub) {
	h.Attach(clientID, nil, true, cur, subs)
}

// Detach disconnects a session and returns its place: everything before it was given to the target.
// When it returns the target gets nothing more. A durable session stays known and its messages are
// noted; any other is forgotten. An unknown session has a zero place.
func (h *Hub) Detach(clientID string) Cursor {
	s := h.session(clientID)
	if s == nil {
		return Cursor{}
	}
	cur := h.absent(s)
	if !s.durable.Load() {
		h.Forget(clientID)
	}
	return cur
}

// Cursor is the place of a session as Detach gives it, while it stays connected.
func (h *Hub) Cursor(clientID string) Cursor {
	s := h.session(clientID)
	if s == nil {
		return Cursor{}
	}
	s.catchUp.Lock()
	defer s.catchUp.Unlock()
	return h.placeOf(s)
}

// Forget ends a session: its subscriptions, place and pending messages are gone, and QoS 1 messages
// that it had from shared subscriptions and did not ack go to other members.
func (h *Hub) Forget(clientID string) { h.forget(clientID, Ends) }

// Release is Forget for a session that another node has from now on, with what it has of QoS 2.
func (h *Hub) Release(clientID string) { h.forget(clientID, Moves) }

func (h *Hub) forget(clientID string, how Leaving) {
	s := h.session(clientID)
	if s == nil {
		return
	}
	h.absent(s)
	h.leaveAllGroups(s, how)
	s.mu.Lock()
	subs := s.subs
	s.subs = map[string]*subscription{}
	s.mu.Unlock()
	for _, sub := range subs {
		h.drop(s, sub)
	}
	h.sessions.Delete(clientID)
}

// Ready says that a target which refused a message has room again. It never blocks and may be called
// under any lock.
func (h *Hub) Ready(clientID string) {
	if s := h.session(clientID); s != nil {
		h.ready(s)
	}
}

func (h *Hub) ready(s *session) {
	s.room()
	if s.grouped.Load() {
		s.mu.Lock()
		groups := s.groups
		s.mu.Unlock()
		refused := s.refused.Swap(false)
		for _, g := range groups {
			g.room(s, refused)
		}
	}
}

// room clears a refusal and has the session catch up if there is anything to catch up with. A lag
// that is being made now sees that full was cleared.
func (s *session) room() {
	s.readySeq.Add(1)
	s.full.Store(false)
	if s.lagging.Load() > 0 || s.waiting.Load() {
		s.h.schedule(s)
	}
}

func (h *Hub) partition(id log.PartitionID) *partition { return (*h.parts.Load())[id] }
