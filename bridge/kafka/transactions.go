package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// transactionsTopic keeps transactional ids. The name and the formats of its records are Kafka's.
const transactionsTopic = "__transaction_state"

// transactionAPIs are the requests of the transaction coordinator, and those that only transactions have.
func transactionAPIs() []api {
	return []api{
		{key: 24, min: 0, max: 3, flexible: 3, request: fresh[kmsg.AddPartitionsToTxnRequest], handle: (*Server).addPartitionsToTxn},
		{key: 25, min: 0, max: 3, flexible: 3, request: fresh[kmsg.AddOffsetsToTxnRequest], handle: (*Server).addOffsetsToTxn},
		{key: 26, min: 0, max: 3, flexible: 3, request: fresh[kmsg.EndTxnRequest], handle: (*Server).endTxn},
		{key: 27, min: 1, max: 1, flexible: 1, request: fresh[kmsg.WriteTxnMarkersRequest], handle: (*Server).writeTxnMarkers},
		{key: 28, min: 0, max: 3, flexible: 3, request: fresh[kmsg.TxnOffsetCommitRequest], handle: (*Server).txnOffsetCommit},
		{key: 65, min: 0, max: 0, flexible: 0, request: fresh[kmsg.DescribeTransactionsRequest], handle: (*Server).describeTransactions},
		{key: 66, min: 0, max: 1, flexible: 0, request: fresh[kmsg.ListTransactionsRequest], handle: (*Server).listTransactions},
	}
}

// TransactionConfig bounds transactions. Zero fields mean the default in brackets.
type TransactionConfig struct {
	MaxTimeout time.Duration // transaction.max.timeout.ms [15 min]
	Expiration time.Duration // transactional.id.expiration.ms: an id without a transaction for so long is forgotten [7 days]
	MaxIDs     int           // further transactional ids are refused [10,000]
	MaxBytes   int64         // of all ids and the partitions of their transactions [16 MiB]
	Partitions int           // __transaction_state is made with [8; Kafka's 50 would cost a small node 150 open files]
}

func (c *TransactionConfig) setDefaults() {
	def(&c.MaxTimeout, 15*time.Minute)
	def(&c.Expiration, 7*24*time.Hour)
	def(&c.MaxIDs, 10_000)
	def(&c.MaxBytes, 16<<20)
	def(&c.Partitions, 8)
}

// transactionsConfig is what transactions are made of.
type transactionsConfig struct {
	TransactionConfig
	// open opens the table of transactional ids, and makes it first where it may.
	open func(ctx context.Context, create bool) (table offsetsTable, partitions int32, err error)
	// term is the leader epoch in which this broker leads a partition of the table; false if it does not.
	term         func(partition int32) (log.Epoch, bool)
	lapsed       func() bool
	clockTrusted func() bool
	producerID   func(ctx context.Context) (int64, error)
	// end has all partitions end the transaction, and tells for each whether it has: see cluster.Broker.EndTransaction.
	end func(ctx context.Context, parts []txn.Partition, m log.Marker) []error
	log *slog.Logger
}

// transactions is the transaction coordinator: the shell around txn.Transaction, as coordinator is around groups. A transactional id lives in the
// partition of __transaction_state that Kafka's hash gives, and the partition's leader coordinates it for as long as it leads in one leader epoch,
// which is also the coordinator epoch of its markers.
//
//	requests   any goroutine: lock the id, take the step, put its record into the table, wait without the lock
//	table      calls stored on its own goroutine
//	run        one goroutine: terms, timeouts, expiry
//	complete   one goroutine for each transaction that is decided, until its markers are committed
//
// The table is made when somebody asks for a coordinator, not before: most sites have no transactions.
// Locks: txnEntry.mu, then transactions.mu, then txnTerm.mu.
type transactions struct {
	cfg      transactionsConfig
	log      *slog.Logger
	wakeup   chan struct{}
	complete chan struct{} // a token for each transaction whose markers are on their way
	running  sync.WaitGroup

	mu    sync.Mutex
	ctx   context.Context // of run; nil before
	table offsetsTable    // nil until it is open
	terms []*txnTerm      // by partition; nil where another broker leads

	ids, bytes atomic.Int64
	n          struct{ begun, committed, aborted, timedOut, bad atomic.Int64 }
}

// TransactionStats are the coordinator's numbers since the start, but for what is now; read at one moment but not atomically together.
type TransactionStats struct {
	IDs, Bytes int64 // now
	Begun      int64 // transactions
	Committed  int64 // transactions that have ended, with all their markers
	Aborted    int64
	TimedOut   int64 // of those aborted
	BadRecords int64 // entries of __transaction_state left out when loading
}

// TransactionStats may be called at any time.
func (s *Server) TransactionStats() TransactionStats {
	c := s.transactions
	return TransactionStats{
		IDs: c.ids.Load(), Bytes: c.bytes.Load(), Begun: c.n.begun.Load(), Committed: c.n.committed.Load(), Aborted: c.n.aborted.Load(),
		TimedOut: c.n.timedOut.Load(), BadRecords: c.n.bad.Load(),
	}
}

// txnTerm is one spell in which this broker coordinates the ids of one partition.
type txnTerm struct {
	partition int32
	epoch     log.Epoch
	ctx       context.Context // ends with the term
	stop      context.CancelFunc
	state     atomic.Int32 // termLoading, termServing, termEnded

	mu      sync.Mutex
	entries map[string]*txnEntry
}

// txnEntry is one transactional id with its lock.
type txnEntry struct {
	id string
	t  *txnTerm

	mu    sync.Mutex
	x     *txn.Transaction
	bytes int64         // counted in transactions.bytes
	gone  bool          // no longer in its term
	ended chan struct{} // closed when the markers of what was decided are committed; nil if nothing is
}

const (
	// markersAtOnce bounds the transactions of which markers are on their way.
	markersAtOnce = 64
	// markerPause, doubled up to markerPauseMax, is between two attempts to end a transaction in a partition.
	markerPause    = 20 * time.Millisecond
	markerPauseMax = time.Second
	// markersOverdue is when a transaction that cannot be ended everywhere is worth a line.
	markersOverdue = 30 * time.Second
	// transactionTick is how exact a transaction's timeout is.
	transactionTick = 500 * time.Millisecond
	// maxTransactionalID bounds what a name can cost.
	maxTransactionalID = 1024
)

func newTransactions(cfg transactionsConfig) *transactions {
	cfg.setDefaults()
	if cfg.log == nil {
		cfg.log = slog.New(slog.DiscardHandler)
	}
	return &transactions{cfg: cfg, log: cfg.log, wakeup: make(chan struct{}, 1), complete: make(chan struct{}, markersAtOnce)}
}

func (t *txnTerm) serving() bool { return t.state.Load() == termServing }

func (t *txnTerm) end() {
	t.state.Store(termEnded)
	t.stop()
}

// metadataChanged ends the terms that are over, and leaves the rest to run. It does not block.
func (c *transactions) metadataChanged() {
	c.mu.Lock()
	for _, t := range c.terms {
		if t != nil && !c.current(t) {
			t.end()
		}
	}
	c.mu.Unlock()
	c.wake()
}

func (c *transactions) current(t *txnTerm) bool {
	epoch, leads := c.cfg.term(t.partition)
	return leads && epoch == t.epoch
}

func (c *transactions) wake() {
	select {
	case c.wakeup <- struct{}{}:
	default:
	}
}

// run serves until ctx ends.
func (c *transactions) run(ctx context.Context) {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	defer c.running.Wait()
	tick := time.NewTicker(transactionTick)
	defer tick.Stop()
	expireAt := time.Now().Add(expireIDsEvery)
	for {
		c.openTable(ctx, false)
		c.moveTerms()
		select {
		case <-ctx.Done():
			c.mu.Lock()
			for _, t := range c.terms {
				if t != nil {
					t.end()
				}
			}
			c.mu.Unlock()
			return
		case <-c.wakeup:
		case <-tick.C:
			now := time.Now()
			c.each(func(e *txnEntry) { c.due(e, now) })
			if now.After(expireAt) {
				expireAt = now.Add(expireIDsEvery)
				c.expire(now)
			}
		}
	}
}

// expireIDsEvery is how often ids are looked for that nobody uses any more.
const expireIDsEvery = time.Hour

// openTable opens the table once there is one, or makes it.
func (c *transactions) openTable(ctx context.Context, create bool) error {
	c.mu.Lock()
	open := c.table != nil
	c.mu.Unlock()
	if open {
		return nil
	}
	table, partitions, err := c.cfg.open(ctx, create)
	if err != nil || table == nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table == nil {
		c.table, c.terms = table, make([]*txnTerm, partitions)
	}
	c.wake()
	return nil
}

// moveTerms drops what has ended, and begins to load what this broker leads. Only run calls it.
func (c *transactions) moveTerms() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, old := range c.terms {
		pause := time.Duration(0)
		if old != nil {
			if old.state.Load() != termEnded && c.current(old) {
				continue
			}
			old.end()
			c.terms[p] = nil
			c.dropAll(old)
		}
		epoch, leads := c.cfg.term(int32(p))
		if !leads {
			continue
		}
		if old != nil && old.epoch == epoch {
			pause = loadAgain
		}
		ctx, stop := context.WithCancel(c.ctx)
		t := &txnTerm{partition: int32(p), epoch: epoch, ctx: ctx, stop: stop}
		c.terms[p] = t
		c.running.Go(func() { c.load(t, c.table, pause) })
	}
}

func (c *transactions) dropAll(t *txnTerm) {
	t.mu.Lock()
	entries := t.entries
	t.entries = nil
	t.mu.Unlock()
	for range entries {
		c.ids.Add(-1)
	}
	for _, e := range entries {
		c.running.Go(func() { // not under transactions.mu
			e.mu.Lock()
			defer e.mu.Unlock()
			e.gone = true
			c.bytes.Add(-e.bytes)
			e.bytes = 0
		})
	}
}

// load reads what a partition holds, once all that earlier coordinators answered for is known to be committed, and serves it. What had been decided goes on.
func (c *transactions) load(t *txnTerm, table offsetsTable, pause time.Duration) {
	for {
		select {
		case <-time.After(pause):
		case <-t.ctx.Done():
			return
		}
		stored, err := c.read(t, table)
		switch {
		case t.ctx.Err() != nil:
			return
		case err == nil:
			c.install(t, stored)
			return
		case errors.Is(err, cluster.ErrClosed), errors.Is(err, log.ErrClosed):
			return
		case errors.Is(err, cluster.ErrNotLeader):
			pause = loadAgain
		default:
			if pause != loadDamaged {
				c.log.Error("kafka: transactions are not coordinated, their partition cannot be read", "topic", transactionsTopic, "partition", t.partition, "err", err)
			}
			pause = loadDamaged
		}
	}
}

func (c *transactions) read(t *txnTerm, table offsetsTable) (map[string]txn.Record, error) {
	if err := table.Settle(t.ctx, t.partition, t.epoch); err != nil {
		return nil, err
	}
	live := liveEntries{}
	err := table.Load(t.partition, func(key, value []byte) error {
		live.put(key, value)
		return t.ctx.Err()
	})
	if over := table.Settle(t.ctx, t.partition, t.epoch); over != nil { // as for groups
		return nil, over
	}
	if err != nil {
		return nil, err
	}
	stored := map[string]txn.Record{}
	for key, value := range live {
		id, r, err := decodeTransaction([]byte(key), *value)
		switch {
		case errors.Is(err, errNewerFormat):
			return nil, err
		case err != nil:
			c.n.bad.Add(1)
			c.log.Warn("kafka: entry of "+transactionsTopic+" is left out", "partition", t.partition, "err", err)
		case id != "":
			stored[id] = r
		}
	}
	return stored, nil
}

// install serves what was loaded.
func (c *transactions) install(t *txnTerm, stored map[string]txn.Record) {
	now := time.Now()
	entries := make(map[string]*txnEntry, len(stored))
	for id, r := range stored {
		e := &txnEntry{id: id, t: t, x: txn.Restore(r, now)}
		entries[id] = e
	}
	t.mu.Lock()
	if !t.state.CompareAndSwap(termLoading, termServing) {
		t.mu.Unlock()
		return // it has ended
	}
	t.entries = entries
	c.ids.Add(int64(len(entries)))
	all := slices.Collect(maps.Values(entries))
	t.mu.Unlock()
	for _, e := range all {
		e.mu.Lock()
		if !e.gone {
			c.settle(e)
		}
		e.mu.Unlock()
	}
	if len(all) > 0 {
		c.log.Info("kafka: transactional ids loaded", "partition", t.partition, "epoch", t.epoch, "ids", len(all))
	}
}

// each calls fn for every id there is at some moment, unlocked.
func (c *transactions) each(fn func(*txnEntry)) {
	c.mu.Lock()
	terms := slices.Clone(c.terms)
	c.mu.Unlock()
	for _, t := range terms {
		if t == nil || !t.serving() {
			continue
		}
		t.mu.Lock()
		entries := slices.Collect(maps.Values(t.entries))
		t.mu.Unlock()
		for _, e := range entries {
			fn(e)
		}
	}
}

// find is the entry of an id, locked; nil with the code that says why there is none: errNone where it may be made, by create.
func (c *transactions) find(id string, create bool) (*txnEntry, int16) {
	if id == "" || len(id) > maxTransactionalID {
		return nil, errInvalidRequest
	}
	c.mu.Lock()
	if c.table == nil {
		c.mu.Unlock()
		return nil, errNotCoordinator
	}
	p := hashPartition(id, int32(len(c.terms)))
	t := c.terms[p]
	c.mu.Unlock()
	switch {
	case t != nil && t.serving() && c.cfg.lapsed():
		return nil, errCoordinatorNotAvailable // R2: somebody else may coordinate it by now
	case t != nil && t.serving():
	default:
		if _, leads := c.cfg.term(p); leads {
			return nil, errCoordinatorLoadInProgress
		}
		return nil, errNotCoordinator
	}
	for {
		t.mu.Lock()
		e := t.entries[id]
		switch {
		case !t.serving():
			t.mu.Unlock()
			return nil, errNotCoordinator
		case e == nil && !create:
			t.mu.Unlock()
			return nil, errNone
		case e == nil && (c.ids.Load() >= int64(c.cfg.MaxIDs) || c.bytes.Load() > c.cfg.MaxBytes):
			t.mu.Unlock()
			c.log.Warn("kafka: transactional id refused, limit reached", "transactional.id", id, "ids", c.cfg.MaxIDs, "bytes", c.cfg.MaxBytes)
			return nil, errPolicyViolation
		case e == nil:
			e = &txnEntry{id: id, t: t, x: txn.New()}
			t.entries[id] = e
			c.ids.Add(1)
		}
		t.mu.Unlock()
		e.mu.Lock()
		if !t.serving() {
			e.mu.Unlock()
			return nil, errNotCoordinator
		}
		if !e.gone {
			return e, errNone
		}
		e.mu.Unlock()
	}
}

// store puts a record of e, which is locked, into the table, and is told its code when it is committed or cannot be.
func (c *transactions) store(e *txnEntry, r *txn.Record) <-chan int16 {
	done := make(chan int16, 1)
	c.put(e, r, func(err error) { done <- c.stored(e, err) })
	return done
}

// put writes a record of e, or removes it.
func (c *transactions) put(e *txnEntry, r *txn.Record, done func(error)) {
	key, value := encodeTransaction(e.id, r)
	c.mu.Lock()
	table := c.table
	c.mu.Unlock()
	table.PutIn(e.t.partition, e.t.epoch, key, value, done)
}

// refused are the errors after which nothing was written. After any other it is not known, and the term ends: what the log holds is then read again.
var refused = []error{cluster.ErrNotEnoughReplicas, log.ErrBusy, log.ErrDiskFull}

// stored tells the transaction how a store ended. It runs on the table's goroutine.
func (c *transactions) stored(e *txnEntry, err error) int16 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		c.log.Warn("kafka: state of a transaction is not stored", "transactional.id", e.id, "err", err)
		if slices.ContainsFunc(refused, func(r error) bool { return errors.Is(err, r) }) {
			e.x.Stored(false, time.Now())
			return errCoordinatorNotAvailable
		}
		e.t.end()
		c.wake()
		return errNotCoordinator
	}
	if !e.t.serving() { // late: what this term holds is nobody's business any more
		return errNotCoordinator
	}
	before := e.x.Record()
	e.x.Stored(true, time.Now())
	if e.x.Record().State == txn.Ongoing && before.State != txn.Ongoing {
		c.n.begun.Add(1)
	}
	c.settle(e)
	return errNone
}

// settle does what the state of e, which is locked, asks for.
func (c *transactions) settle(e *txnEntry) {
	bytes := int64(e.x.Size() + len(e.id))
	c.bytes.Add(bytes - e.bytes)
	e.bytes = bytes
	switch r := e.x.Record(); {
	case r.State.Prepared() && e.ended == nil:
		e.ended = make(chan struct{})
		c.running.Go(func() { c.finish(e, r) })
	case !r.State.Prepared() && e.ended != nil:
		close(e.ended)
		e.ended = nil
	}
}

// finish sends markers until all partitions have theirs. It gives up with the term: the next one begins again.
func (c *transactions) finish(e *txnEntry, r txn.Record) {
	ctx, since, told := e.t.ctx, time.Now(), false
	m := log.Marker{ProducerID: r.ID, ProducerEpoch: r.Epoch, Commit: r.State == txn.PrepareCommit, CoordinatorEpoch: int32(e.t.epoch), Started: r.Started}
	left, pause := r.Partitions, markerPause
	for len(left) > 0 {
		if left = c.sendMarkers(ctx, e, left, m); len(left) == 0 {
			break
		}
		if !told && time.Since(since) > markersOverdue {
			told = true
			c.log.Warn("kafka: a transaction cannot be ended everywhere yet, and holds up readers of committed records", "transactional.id", e.id,
				"topic", left[0].Topic, "partition", left[0].Index, "partitions", len(left))
		}
		if pause = c.rest(ctx, pause); ctx.Err() != nil {
			return
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || !e.t.serving() {
		return
	}
	if rec := e.x.Ended(time.Now()); rec != nil {
		if m.Commit {
			c.n.committed.Add(1)
		} else {
			c.n.aborted.Add(1)
		}
		c.put(e, rec, func(err error) {
			if err != nil { // the next coordinator sends the markers once more
				c.log.Debug("kafka: the end of a transaction is not stored", "transactional.id", e.id, "err", err)
			}
		})
		c.settle(e)
	}
}

// rest waits, and returns how long to wait the next time.
func (c *transactions) rest(ctx context.Context, pause time.Duration) time.Duration {
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
	return min(2*pause, markerPauseMax)
}

// sendMarkers makes one attempt, and returns the partitions that need another.
func (c *transactions) sendMarkers(ctx context.Context, e *txnEntry, parts []txn.Partition, m log.Marker) (left []txn.Partition) {
	select {
	case c.complete <- struct{}{}:
		defer func() { <-c.complete }()
	case <-ctx.Done():
		return parts
	}
	for i, err := range c.cfg.end(ctx, parts, m) {
		switch {
		case err == nil, errors.Is(err, cluster.ErrUnknownTopic): // deleted: there is nothing to end
		case errors.Is(err, log.ErrProducerFenced), errors.Is(err, log.ErrTransactionState):
			c.log.Info("kafka: the transaction has ended in a partition already", "transactional.id", e.id, "topic", parts[i].Topic, "partition", parts[i].Index, "err", err)
		default:
			c.log.Debug("kafka: marker is not committed yet", "transactional.id", e.id, "topic", parts[i].Topic, "partition", parts[i].Index, "err", err)
			left = append(left, parts[i])
		}
	}
	return left
}

// due aborts what has been open for too long.
func (c *transactions) due(e *txnEntry, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || !e.t.serving() {
		return
	}
	if r := e.x.Due(now); r != nil {
		c.n.timedOut.Add(1)
		c.log.Warn("kafka: transaction is aborted, its time is over", "transactional.id", e.id, "timeout", r.Timeout)
		c.store(e, r)
	}
}

// expire forgets ids that nobody uses, while the clock can be trusted.
func (c *transactions) expire(now time.Time) {
	if !c.cfg.clockTrusted() {
		return
	}
	before := now.Add(-c.cfg.Expiration).UnixMilli()
	c.each(func(e *txnEntry) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.gone || !e.t.serving() || !e.x.Idle(before) {
			return
		}
		e.gone = true
		c.bytes.Add(-e.bytes)
		e.t.mu.Lock()
		delete(e.t.entries, e.id)
		e.t.mu.Unlock()
		c.ids.Add(-1)
		c.put(e, nil, func(err error) {
			if err != nil {
				c.log.Warn("kafka: a transactional id is not forgotten yet", "transactional.id", e.id, "err", err)
			}
		})
	})
}

// wait waits for the outcome of a store.
func (c *transactions) wait(ctx context.Context, done <-chan int16) int16 {
	select {
	case code := <-done:
		return code
	case <-ctx.Done():
		return errCoordinatorNotAvailable
	}
}

// verify says whether the partition is part of the producer's open transaction, and when that began.
func (c *transactions) verify(id string, p txn.Producer, at txn.Partition) (started int64, code int16) {
	e, code := c.find(id, false)
	if e == nil {
		if code == errNone {
			code = errInvalidProducerIDMapping
		}
		return 0, code
	}
	defer e.mu.Unlock()
	started, f := e.x.Verify(p, at)
	return started, faultCode(f, true)
}

// faultCode is the protocol's code for a refusal. Fenced producers of old clients know only one code.
func faultCode(f txn.Fault, fenced bool) int16 {
	if f == txn.Fenced && !fenced {
		return errInvalidProducerEpoch
	}
	return transactionCode[f]
}

var transactionCode = [txn.NumFaults]int16{
	txn.OK:             errNone,
	txn.Pending:        errConcurrentTransactions,
	txn.UnknownID:      errInvalidProducerIDMapping,
	txn.WrongProducer:  errInvalidProducerIDMapping,
	txn.Fenced:         errProducerFenced,
	txn.InvalidState:   errInvalidTxnState,
	txn.InvalidTimeout: errInvalidTransactionTimeout,
}

// openTransactions is transactionsConfig.open.
func (s *Server) openTransactions(ctx context.Context, create bool) (offsetsTable, int32, error) {
	if !create && s.broker.Image().Topic(transactionsTopic) == nil {
		return nil, 0, nil
	}
	ctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	table, err := s.broker.OpenTable(ctx, cluster.TopicSpec{
		Name: transactionsTopic, Partitions: s.transactions.cfg.Partitions, Internal: true,
		Configs: map[string]string{"segment.bytes": offsetsSegmentBytes},
	})
	if err != nil {
		return nil, 0, fmt.Errorf("transactions: %w", err)
	}
	return table, int32(table.Partitions()), nil
}
