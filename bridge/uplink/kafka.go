package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

// OriginHeader says where a record comes from: <cluster>/<topic>/<partition>/<offset>.
const OriginHeader = "weir.origin"

// kafkaTarget is Apache Kafka or what speaks its protocol. With exactly_once every commit is one transaction of the target.
type kafkaTarget struct {
	cfg     *Config
	cluster string
	site    string
	shard   int

	client *kgo.Client
	keeper progressTopic // with exactly_once
	seen   *seenProgress // over the forwarder's connections
	claim  *kgo.Record   // of the site, with the next commit
	warn   func(string)
	begun  bool // a transaction
	// Of U11: what the shard carries, where a wait is told, and where what was done.
	carried  func() []carriedPart
	waits    func(string)
	logger   *slog.Logger
	topics   map[string]remoteTopic
	patience *patience
	squeeze  *squeeze
	took     time.Duration // of the last commit, when everything else was there
	alone    bool          // each commit has one record: whether it is too large is for the target to say, which counts it compressed

	// Of the records on their way.
	bytes   arena[byte]
	records arena[kgo.Record]
	headers arena[kgo.RecordHeader]
	names   map[string]string
	scratch []byte
	promise func(*kgo.Record, error) // produced, made once: a method value costs an allocation each time

	written  atomic.Int64
	contact  *contact
	answers  answers
	askEvery time.Duration // for metadata, when there is nothing to carry [5 min]
	mu       sync.Mutex
	failed   error            // first refusal since the last commit
	cursor   *kgo.Record      // the last cursor that was written
	largest  map[string]int32 // batch that each topic takes, as far as it says so
}

const (
	dialTimeout = 10 * time.Second
	// requestTimeout is how long a request may take to be written, and then its answer to come, beside what the target takes for it.
	requestTimeout = 10 * time.Second
	// deliveryTimeout is how long the target may keep a record waiting: then the connection is begun anew, and everything with it.
	deliveryTimeout = 45 * time.Second
	// transactionTimeout is when the target gives up a transaction whose gateway has vanished, so that readers of committed records there wait no longer; patience may
	// make more of it.
	transactionTimeout = 60 * time.Second
)

func newKafkaTarget(cfg *Config, cluster, site string, shard int, seen *seenProgress) *kafkaTarget {
	t := &kafkaTarget{
		cfg: cfg, cluster: cluster, site: site, shard: shard, seen: seen, contact: newContact(), patience: &patience{}, askEvery: 5 * time.Minute,
		names: map[string]string{}, largest: map[string]int32{}, bytes: arena[byte]{block: 256 << 10},
	}
	t.promise = t.produced
	return t
}

// admin makes one for each use: a field of a type that stands behind an interface would keep all methods of kadm's client in the binary (see TestBinaryStaysSmall).
func (t *kafkaTarget) admin() *kadm.Client { return kadm.NewClient(t.client) }

func (t *kafkaTarget) exactly() bool { return t.cfg.Guarantee == ExactlyOnce }

// transactionalID is the same for whoever owns the shard: that is what fences the owner before.
func (t *kafkaTarget) transactionalID() string {
	return fmt.Sprintf("weir-uplink-%s-%s-%d", t.cluster, t.cfg.Name, t.shard)
}

func (t *kafkaTarget) open(ctx context.Context) (map[log.PartitionID]progress, error) {
	conn, err := t.connection()
	if err != nil {
		return nil, err
	}
	compress, err := compression(t.cfg.Compress)
	if err != nil {
		return nil, err
	}
	t.keeper = progressTopic{cluster: t.cluster, uplink: t.cfg.Name, site: t.site, seen: t.seen, stalled: t.stalled}
	opts := append(conn[:len(conn):len(conn)],
		compress, kgo.RecordPartitioner(partitioner{t.cfg.Partition == partitionSame}),
		kgo.ProducerBatchMaxBytesFn(t.largestBatch), kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(1<<20), // a chunk bounds what is buffered, and its context how long: kgo's own limit counts from the record's timestamp, which may be of last week
		kgo.UnknownTopicRetries(2), kgo.RequiredAcks(kgo.AllISRAcks()),
	)
	if t.exactly() {
		opts = append(opts, kgo.TransactionalID(t.transactionalID()), kgo.TransactionTimeout(t.patience.transaction()))
	} else {
		opts = append(opts, kgo.AllowIdempotentProduceCancellation()) // who gives a chunk up begins anew with another producer id
	}
	if t.client, err = kgo.NewClient(opts...); err != nil {
		return nil, err
	}
	t.contact.leader = t.client.PartitionLeader
	t.topics = map[string]remoteTopic{}
	if err := t.client.Ping(ctx); err != nil {
		return nil, fmt.Errorf("connect: %w", t.unknown(err))
	}
	if !t.exactly() {
		return nil, nil
	}
	if err := t.keeper.create(ctx, t.admin()); err != nil {
		return nil, err
	}
	id, _, err := t.client.ProducerID(ctx) // U3: from here on nobody else commits for this shard
	if err != nil {
		if errors.Is(err, kerr.InvalidTransactionTimeout) && t.patience.extra > 0 {
			t.patience.refused(t.longestTransaction(ctx))
		}
		return nil, fmt.Errorf("take over the transactional id %s: %w", t.transactionalID(), err)
	}
	t.seen.wrote(id)
	if err := t.settle(ctx, conn); err != nil {
		return nil, err
	}
	if t.site != "" && !t.seen.claimed {
		var warning string
		if t.claim, warning, err = t.keeper.claim(ctx, conn, t.admin()); err != nil {
			return nil, err
		}
		if warning != "" {
			t.warn(warning)
		}
		t.seen.claimed = t.claim == nil
	}
	return t.keeper.read(ctx, conn, t.admin())
}

// longestTransaction asks what the target allows; 0 for who may not ask.
func (t *kafkaTarget) longestTransaction(ctx context.Context) time.Duration {
	brokers, err := t.admin().ListBrokers(ctx)
	if err != nil || len(brokers) == 0 {
		return 0
	}
	found, _ := t.admin().DescribeBrokerConfigs(ctx, brokers[0].NodeID)
	for _, r := range found {
		for _, c := range r.Configs {
			if n, err := strconv.ParseInt(c.MaybeValue(), 10, 32); c.Key == "transaction.max.timeout.ms" && err == nil {
				return time.Duration(n) * time.Millisecond
			}
		}
	}
	return 0
}

func (t *kafkaTarget) trip() time.Duration { return t.took }

func (t *kafkaTarget) wire() int64 { return t.written.Load() }

func (t *kafkaTarget) close() {
	t.contact.leave()
	if t.client != nil {
		t.client.CloseAllowingRebalance()
		t.client = nil
	}
}
