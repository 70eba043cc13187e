package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

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
	resters    resters

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

	closeOnce    sync.Once
	handOverOnce sync.Once
	governed     bool // when it began to hand over
	closeErr     error
	closing      chan struct{} // ends the applier
	stopped      chan struct{} // ends the completer
	stopLog      context.CancelFunc
	workers      sync.WaitGroup // applier and housekeeping
	telling      sync.WaitGroup // completer
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
	b.quorum = &proposer{metadata: governed{b.node, &b.government, b.restLeaders}, net: b.net, self: b.ident.UUID, applied: b.imageChanged}
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
	b.HandOver()
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

// ClockTrusted says whether the wall clock can be believed, so that nothing is forgotten for its age by one that cannot.
func (b *Broker) ClockTrusted() bool { return b.log.ClockTrusted() }

// LogDir is where the log is, and everything else that this node keeps.
func (b *Broker) LogDir() string { return b.cfg.DataDir }

// LogStats are the figures of the log below.
func (b *Broker) LogStats() log.Stats { return b.log.Stats() }
