package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/log/vfs"
)

// Config says where a broker lives. Zero fields take the default in brackets.
type Config struct {
	// NodeID is the operator's name for the node; it is logged. The broker's identity is in the data directory (C2).
	NodeID  string
	DataDir string
	FS      vfs.FS // for everything but raft.db, which bbolt maps into memory [the operating system's]
	// Log paces the log. Dir, FS, OnCommit, OnRoom, OnFail, Now, Rand and Logger are set by Open.
	Log log.Config

	AdvertiseHost string // what clients are told
	KafkaPort     int32
	KafkaTLSPort  int32 // 0: no such listener
	// Peer is where this node meets others; with nil it is alone, and nobody can join it.
	Peer *PeerConfig

	DefaultPartitions int // of topics made without a number [4]
	// DefaultConfigs are given to new topics, but for internal ones, where their makers say nothing else.
	DefaultConfigs map[string]string
	StartTimeout   time.Duration // to form the quorum and register [30 s]

	Logger *slog.Logger     // [discard]
	Now    func() time.Time // [time.Now]
	Rand   io.Reader        // ids [crypto/rand]
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	if c.DefaultPartitions == 0 {
		c.DefaultPartitions = 4
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c
}

// Validate returns every fault at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("data directory is not set"))
	}
	for _, port := range []int32{c.KafkaPort, c.KafkaTLSPort} {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("kafka port %d: want 0 to 65535", port))
		}
	}
	if c.DefaultPartitions < 1 || c.DefaultPartitions > meta.MaxPartitions {
		errs = append(errs, fmt.Errorf("default partitions %d: want 1 to %d", c.DefaultPartitions, meta.MaxPartitions))
	}
	if err := ValidateConfigs(c.DefaultConfigs, c.maxBatch()); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.logConfig(nil).Validate())...)
}

// maxBatch is the largest batch that a topic may promise to take, in bytes.
func (c Config) maxBatch() int {
	if c.Peer != nil {
		return min(c.Log.MaxBatchBytes(), maxCarried)
	}
	return c.Log.MaxBatchBytes()
}

func (c Config) logConfig(b *Broker) log.Config {
	l := c.Log
	l.Dir, l.FS, l.Now, l.Rand, l.Logger = c.DataDir, c.FS, c.Now, c.Rand, c.Logger
	if b != nil {
		l.OnCommit, l.OnRoom, l.OnFail = b.onCommit, b.onRoom, b.fail
		if c.Peer != nil {
			l.OnTake = b.onTake
		}
	}
	return l
}

// Broker is one node's data side. All its methods may be called concurrently.
type Broker struct {
	cfg        Config
	timing     control.Timing
	log        *log.Log
	node       member
	quorum     *proposer
	net        network
	port       *port // nil when alone
	controller *controller
	completer  *completer
	id         int32
	epoch      int64
	clusterID  string
	cluster    atomic.Pointer[string]    // as soon as it is known, for greetings
	raft       atomic.Pointer[meta.Node] // node, for those who ask while it is being opened
	opened     time.Time                 // of the monotonic clock

	feeds      feeds      // what this broker's followers have told
	follows    following  // whom it follows
	forwards   forwarding // what it appends to partitions of others
	duties     duties
	government government
	confirming confirming
	detours    detours
	relays     relays

	table atomic.Pointer[partitionTable] // what is open, and the Image it was opened from

	news chan struct{} // holds a token while the node has an Image that the applier has not seen
	// images is closed and replaced with each Image, before it is in force here.
	images struct {
		sync.Mutex
		changed chan struct{}
	}
	stats  struct{ truncations, scrubbed, scrubDamage atomic.Int64 }
	counts changeCounts

	// Of Open, then of the applier.
	ident   *identity
	unsaved bool // ident has something to save, not urgently

	// changes makes telling topic watchers one step with joining them.
	changes  sync.Mutex
	watchers map[*topicWatcher]struct{}
	applied  chan struct{} // closed and replaced when table changes

	ids struct {
		ioLock
		next, end int64
	}

	metadataChanges atomic.Int64
	roomFn          atomic.Pointer[func()]
	hangFn          atomic.Pointer[func(bool)]  // see OnHang
	partedFn        atomic.Pointer[func(int32)] // see OnParted

	failure struct {
		sync.Mutex
		err error
	}
	failed chan struct{}

	registered   chan struct{} // closed when id and epoch are known
	registeredAt time.Time

	closeOnce sync.Once
	closeErr  error
	closing   chan struct{} // ends the applier
	stopped   chan struct{} // ends the completer
	stopLog   context.CancelFunc
	workers   sync.WaitGroup // applier and housekeeping
	telling   sync.WaitGroup // completer
}

// Open brings a node's data side up: it verifies the log (J7), forms or joins the metadata quorum, registers (A7) and opens the
// partitions. When it returns the broker serves. The directory is locked until Close.
func Open(ctx context.Context, cfg Config) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open broker: %w", err)
	}
	b := newBroker(cfg.withDefaults())
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open broker in %s: %w", cfg.DataDir, err), b.abandon())
	}
	return b, nil
}

// newBroker is a broker before open.
func newBroker(cfg Config) *Broker {
	b := &Broker{
		cfg: cfg, opened: cfg.Now(), completer: newCompleter(), news: make(chan struct{}, 1), watchers: map[*topicWatcher]struct{}{},
		applied: make(chan struct{}), failed: make(chan struct{}), registered: make(chan struct{}), closing: make(chan struct{}), stopped: make(chan struct{}),
		net: alone{}, feeds: feeds{sessions: map[int32]*feedSession{}}, government: government{poke: make(chan struct{}, 1)},
	}
	b.ids.ioLock, b.confirming.turn = newIOLock(), newIOLock()
	b.images.changed = make(chan struct{})
	b.government.now = b.mono
	if p := cfg.Peer; p != nil {
		if b.timing = p.Timing; b.timing == (control.Timing{}) {
			b.timing = control.LANTiming
		}
		b.duties.lease = control.NewLease(b.timing)
		b.forwards.open(b)
	}
	b.table.Store(newPartitionTable(-1, meta.NewImage()))
	return b
}

func (b *Broker) open(ctx context.Context) error {
	var logCtx context.Context
	logCtx, b.stopLog = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if b.log, err = log.OpenContext(ctx, b.cfg.logConfig(b)); err != nil { // locks the directory
		return err
	}
	b.telling.Go(func() { b.completer.run(b.stopped) })
	nonce, err := b.identify()
	if err != nil {
		return err
	}
	options := meta.Options{
		Dir: filepath.Join(b.cfg.DataDir, "raft"), ID: b.ident.UUID.String(), Bootstrap: b.cfg.Peer == nil && !b.ident.Confirmed, Member: b.ident.Confirmed,
		Logger: b.cfg.Logger, OnApply: b.onImage, OnFail: b.fail,
	}
	if b.cfg.Peer != nil {
		if err := b.openPort(&options); err != nil {
			return err
		}
	}
	if err := b.openNode(options); err != nil {
		return err
	}
	if b.ident.ClusterID != "" {
		b.setCluster(b.ident.ClusterID) // with the generation, now that it is known
	}
	b.quorum = &proposer{metadata: governed{b.node, &b.government}, net: b.net, self: b.ident.UUID, applied: b.imageChanged}
	b.controller = &controller{node: b.quorum, rand: b.cfg.Rand, defaultPartitions: b.cfg.DefaultPartitions, defaultConfigs: b.cfg.DefaultConfigs, maxBatch: b.cfg.maxBatch()}
	if b.cfg.Peer != nil {
		if err := b.serveNodes(logCtx); err != nil {
			return err
		}
	}
	if err := b.register(ctx, nonce); err != nil {
		return err
	}
	if err := b.removeStrays(b.node.Image()); err != nil {
		return err
	}
	again := b.apply(false)
	b.registeredAt = time.Now()
	close(b.registered)
	b.workers.Go(func() { b.applier(again) })
	b.workers.Go(func() { b.scrub(logCtx, scrubPeriod) })
	b.workers.Go(func() { b.housekeep(logCtx) }) // not before each partition has its own retention
	if b.cfg.Peer != nil {
		b.workers.Go(func() { b.renew(logCtx) })
		b.workers.Go(func() { b.attend(logCtx) })
	}
	return nil
}

// identify reads who this directory belongs to, or makes it a new broker's, and makes a fresh nonce durable (E5).
func (b *Broker) identify() (nonce meta.UUID, err error) {
	if b.ident, err = loadIdentity(b.cfg.FS, b.cfg.DataDir); err != nil {
		return nonce, err
	}
	noMetadata := !b.metadataKept()
	switch {
	case b.ident == nil && (!noMetadata || len(b.log.Partitions()) > 0):
		return nonce, fmt.Errorf("the directory is in use, but %s is missing: %s", identityFile, identityIsOther)
	case b.ident != nil && b.ident.Confirmed && noMetadata:
		// Going on with no topics would remove the logs of all that were.
		return nonce, errors.New("the directory is in use, but its metadata, raft/raft.db, is missing: restore it from a backup, or start with an empty directory")
	case b.ident == nil:
		if b.ident, err = newIdentity(b.cfg.Rand); err != nil {
			return nonce, err
		}
		if b.cfg.Peer != nil {
			b.ident.ClusterID = "" // that of the cluster which it will be part of
		}
	}
	if b.cfg.Peer == nil {
		if err := b.ident.mayJoin(""); err != nil {
			return nonce, err
		}
	}
	if !b.log.Recovery().Clean {
		b.ident.Epoch = 0 // E5: the marker that this process may leave, whether it registers or not, makes no clean end of the one before
	}
	b.setCluster(b.ident.ClusterID)
	if nonce, err = b.ident.present(b.cfg.Rand); err != nil {
		return nonce, err
	}
	return nonce, b.ident.save(b.cfg.FS, b.cfg.DataDir)
}

// abandonWithin bounds the clean-up of a broker that could not be opened: bbolt may go round in circles over a damaged
// free list, and the reason for the failure must reach the operator all the same.
const abandonWithin = 5 * time.Second

// abandon closes what open got hold of.
func (b *Broker) abandon() error {
	closed := make(chan error, 1)
	go func() { closed <- b.Close(context.Background()) }()
	select {
	case err := <-closed:
		return err
	case <-time.After(abandonWithin):
		return fmt.Errorf("its files are still busy after %s: if this happens again, raft/raft.db is damaged: restore raft/ from a backup", abandonWithin)
	}
}

func (b *Broker) housekeep(ctx context.Context) {
	if err := b.log.Run(ctx); err != nil && ctx.Err() == nil {
		b.fail(fmt.Errorf("log housekeeping: %w", err))
	}
}

// Close stops serving: what was appended is committed and answered, then the log writes its clean marker (E8). It may be called more
// than once. ctx bounds nothing yet that can wait for a peer; local disks are waited for.
func (b *Broker) Close(context.Context) error {
	b.closeOnce.Do(func() { b.closeErr = b.close() })
	return b.closeErr
}

func (b *Broker) close() error {
	b.handOver()
	close(b.closing)
	b.stopLog()
	b.workers.Wait() // no partition is opened, removed or compacted any more
	var errs []error
	for _, p := range b.table.Load().open {
		p.close(ErrClosed)
	}
	b.forwards.close()
	if b.log != nil {
		errs = append(errs, b.log.Close()) // commits what was appended
		b.sayGone()
		close(b.stopped)
		b.telling.Wait() // and that is answered
	}
	if b.port != nil {
		b.port.end()
	}
	if b.node != nil {
		errs = append(errs, b.node.Close())
	}
	if b.port != nil {
		b.port.close()
	}
	b.table.Load().stop(ErrClosed) // only after a failure, or where replicas are missing, does somebody still wait
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close broker: %w", err)
	}
	return nil
}

// fail notes the first error that only a restart can mend (A6). It is called from the log's and raft's goroutines.
func (b *Broker) fail(err error) {
	b.failure.Lock()
	first := b.failure.err == nil
	if first {
		b.failure.err = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	b.failure.Unlock()
	if !first {
		return
	}
	b.cfg.Logger.Error("the node stops serving: restart it once the cause is mended", "error", err)
	close(b.failed)
	b.completer.call(func() { b.table.Load().stop(b.Err()) })
}

// Failed is closed when the broker can no longer keep its promises (A6); Err says why.
func (b *Broker) Failed() <-chan struct{} { return b.failed }

// Err is the reason for Failed, nil before.
func (b *Broker) Err() error {
	b.failure.Lock()
	defer b.failure.Unlock()
	return b.failure.err
}

// NodeID is the broker id that Kafka clients see (C2).
func (b *Broker) NodeID() int32 { return b.id }

// ClusterID is the same on all nodes of a cluster, for ever (C3).
func (b *Broker) ClusterID() string { return b.clusterID }

// Epoch is the broker epoch of this process (A7).
func (b *Broker) Epoch() int64 { return b.epoch }

// Image is the metadata in force here: the partitions it gives this broker are open, or known to be offline.
func (b *Broker) Image() *meta.Image { return b.table.Load().image }

// Partition finds a partition that this broker leads. ErrUnknownTopic, ErrNotLeader, or ErrOffline with the reason.
func (b *Broker) Partition(topic string, index int32) (*Partition, error) {
	return b.table.Load().find(topic, index)
}

// PartitionByID is Partition for the id of a topic.
func (b *Broker) PartitionByID(id log.TopicID, index int32) (*Partition, error) {
	table := b.table.Load()
	t := table.image.TopicByID(id)
	if t == nil {
		return nil, fmt.Errorf("topic id %s: %w", id, ErrUnknownTopic)
	}
	return table.find(t.Name, index)
}

// CreateTopic makes a topic; when it returns its partitions can be used on this broker, also with ErrTopicExists. With validateOnly it only says what it would
// do. ErrTopicExists, ErrInvalidTopic, ErrInvalidPartitions, ErrInvalidReplicas, ErrInvalidConfig, ErrUnavailable; ErrOffline when
// the topic was made but a partition could not be opened.
func (b *Broker) CreateTopic(ctx context.Context, spec TopicSpec, validateOnly bool) (*meta.Topic, error) {
	if spec.Replicas <= 0 && !validateOnly {
		if err := b.awaitExpected(ctx, spec.Name); err != nil {
			return nil, fmt.Errorf("create topic %.300q: %w", spec.Name, err)
		}
	}
	t, err := b.controller.createTopic(ctx, spec, validateOnly)
	switch {
	case err == nil && !validateOnly:
		err = b.await(ctx, t)
	case errors.Is(err, ErrTopicExists) && b.Image().Topic(spec.Name) == nil: // another broker was faster, and that has not come here yet
		if unsure := b.Confirm(ctx); unsure != nil {
			err = unsure
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create topic %.300q: %w", spec.Name, err)
	}
	return t, nil
}

// DeleteTopic removes a topic and, on this broker, its logs. Who waits for its records is told ErrUnknownTopic. ErrProtected for internal topics.
func (b *Broker) DeleteTopic(ctx context.Context, name string) error {
	t, err := b.controller.deleteTopic(ctx, name)
	if err == nil {
		err = b.awaitTable(ctx, func(table *partitionTable) bool { return table.image.TopicByID(t.ID) == nil })
	}
	if err != nil {
		return fmt.Errorf("delete topic %.300q: %w", name, err)
	}
	return nil
}

// CreatePartitions raises the number of partitions to total. Records with keys go to other partitions from then on. ErrProtected
// for internal topics, whose keys must stay where they are.
func (b *Broker) CreatePartitions(ctx context.Context, name string, total int) error {
	t, err := b.controller.createPartitions(ctx, name, total)
	if err == nil {
		err = b.await(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("create partitions of topic %.300q: %w", name, err)
	}
	return nil
}

// AlterConfigs sets and removes configs of a topic; they are in force here when it returns. A change that says nothing new
// writes nothing.
func (b *Broker) AlterConfigs(ctx context.Context, name string, set map[string]string, del []string, validateOnly bool) error {
	t, err := b.controller.alterConfigs(ctx, name, set, del, validateOnly)
	if err == nil && !validateOnly {
		err = b.await(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("alter configs of topic %.300q: %w", name, err)
	}
	return nil
}

// await returns when this broker has applied t, with ErrOffline if a partition of it did not open.
func (b *Broker) await(ctx context.Context, t *meta.Topic) error {
	err := b.awaitTable(ctx, func(table *partitionTable) bool { return table.image.Version >= t.Version })
	if err != nil {
		return err
	}
	return b.table.Load().offlineIn(t)
}

func (b *Broker) awaitTable(ctx context.Context, reached func(*partitionTable) bool) error {
	for {
		b.changes.Lock()
		changed := b.applied
		b.changes.Unlock()
		if reached(b.table.Load()) {
			return nil
		}
		select {
		case <-changed:
		case <-b.closing:
			return ErrClosed
		case <-b.failed:
			return b.Err()
		case <-ctx.Done():
			return fmt.Errorf("%w: done, but not yet in force here: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
}

// NextProducerID gives an id that no producer has had before.
func (b *Broker) NextProducerID(ctx context.Context) (int64, error) {
	b.ids.Lock()
	defer b.ids.Unlock()
	if b.ids.next == b.ids.end {
		block, err := b.controller.allocProducerIDs(ctx, b.id, b.epoch)
		if err != nil {
			return -1, fmt.Errorf("next producer id: %w", err)
		}
		b.ids.next, b.ids.end = block.First, block.First+block.Count
	}
	id := b.ids.next
	b.ids.next++
	return id, nil
}

// mono is a time that never goes back, and goes on while the machine sleeps where the system can tell.
func (b *Broker) mono() time.Duration {
	if s := b.seams(); s != nil {
		return s.Clock()
	}
	if at, ok := sinceBoot(); ok && b.cfg.Peer != nil {
		return at
	}
	return b.cfg.Now().Sub(b.opened)
}

func (b *Broker) nowMS() int64 { return b.cfg.Now().UnixMilli() }

// OfflinePartition is one that this broker leads and cannot serve, or serves only for reading.
type OfflinePartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Reason    string `json:"reason"`
}

// Offline lists the partitions that take no records here because their log is missing or damaged, and why.
func (b *Broker) Offline() (all []OfflinePartition) {
	table := b.table.Load()
	for _, t := range table.image.Topics() {
		for i := range t.Partitions {
			if err := table.offlineReason(log.PartitionID{Topic: t.ID, Index: int32(i)}); err != nil {
				all = append(all, OfflinePartition{t.Name, int32(i), err.Error()})
			}
		}
	}
	return all
}

// OfflineReason is why a partition that this broker leads takes no records; nil when it does.
func (b *Broker) OfflineReason(topic log.TopicID, index int32) error {
	return b.table.Load().offlineReason(log.PartitionID{Topic: topic, Index: index})
}

func (t *partitionTable) offlineReason(id log.PartitionID) error {
	if p := t.open[id]; p != nil {
		return p.or(nil)
	}
	return t.offline[id]
}

// ClockTrusted says whether the wall clock can be believed, so that nothing is forgotten for its age by one that cannot.
func (b *Broker) ClockTrusted() bool { return b.log.ClockTrusted() }

// LogStats are the figures of the log below.
func (b *Broker) LogStats() log.Stats { return b.log.Stats() }
