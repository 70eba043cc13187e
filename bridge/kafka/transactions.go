package kafka

import (
	"context"
	"fmt"
	"log/slog"
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
		{key: 24, min: 0, max: 5, flexible: 3, request: fresh[kmsg.AddPartitionsToTxnRequest], handle: (*Server).addPartitionsToTxn},
		{key: 25, min: 0, max: 4, flexible: 3, request: fresh[kmsg.AddOffsetsToTxnRequest], handle: (*Server).addOffsetsToTxn},
		{key: 26, min: 0, max: 5, flexible: 3, request: fresh[kmsg.EndTxnRequest], handle: (*Server).endTxn},
		{key: 27, min: 1, max: 2, flexible: 1, request: fresh[kmsg.WriteTxnMarkersRequest], handle: (*Server).writeTxnMarkers},
		{key: 28, min: 0, max: 5, flexible: 3, request: fresh[kmsg.TxnOffsetCommitRequest], handle: (*Server).txnOffsetCommit},
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

// transactionsTable is where they are kept.
type transactionsTable interface {
	offsetsTable

	// Ahead is what comes behind an entry that was put into the partition may be appended behind, before that is committed; nil: it has to wait
	// (cluster.Table.Ahead).
	Ahead(partition int32) *log.Partition
}

// transactionsConfig is what transactions are made of.
type transactionsConfig struct {
	TransactionConfig
	// open opens the table of transactional ids, and makes it first where it may.
	open func(ctx context.Context, create bool) (table transactionsTable, partitions int32, err error)
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
	ctx   context.Context   // of run; nil before
	table transactionsTable // nil until it is open
	terms []*txnTerm        // by partition; nil where another broker leads

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

// transactionTick is how exact a transaction's timeout is.
const transactionTick = 500 * time.Millisecond

func newTransactions(cfg transactionsConfig) *transactions {
	cfg.setDefaults()
	if cfg.log == nil {
		cfg.log = slog.New(slog.DiscardHandler)
	}
	return &transactions{cfg: cfg, log: cfg.log, wakeup: make(chan struct{}, 1), complete: make(chan struct{}, markersAtOnce)}
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
		c.put(e, nil, func(err error) { // before anybody can make the id anew: the last record is the one in force
			if err != nil {
				c.log.Warn("kafka: a transactional id is not forgotten yet", "transactional.id", e.id, "err", err)
			}
		})
		e.t.mu.Lock()
		delete(e.t.entries, e.id)
		e.t.mu.Unlock()
		c.ids.Add(-1)
	})
}

// openTransactions is transactionsConfig.open.
func (s *Server) openTransactions(ctx context.Context, create bool) (transactionsTable, int32, error) {
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
