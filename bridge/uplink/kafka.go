package uplink

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

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
	return &kafkaTarget{
		cfg: cfg, cluster: cluster, site: site, shard: shard, seen: seen, contact: newContact(), patience: &patience{}, askEvery: 5 * time.Minute,
		names: map[string]string{}, largest: map[string]int32{}, bytes: arena[byte]{block: 256 << 10},
	}
}

// connection is what all clients of the target share.
func (t *kafkaTarget) connection() ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(t.cfg.to...), kgo.ClientID("weir-uplink-" + t.cfg.Name), kgo.DialTimeout(dialTimeout),
		kgo.RequestTimeoutOverhead(requestTimeout + t.patience.extra), kgo.RetryTimeout(deliveryTimeout), kgo.MetadataMinAge(500 * time.Millisecond), kgo.MetadataMaxAge(t.askEvery), kgo.WithHooks(t),
	}
	if t.cfg.secure {
		conf, err := t.cfg.TLS.open()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(conf))
	}
	if s := t.cfg.SASL; s.User != "" {
		text, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("sasl.password_file: %w", err)
		}
		pass := strings.TrimRight(string(text), "\r\n")
		switch s.Mechanism {
		case scram256:
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: pass}.AsSha256Mechanism()))
		case scram512:
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: pass}.AsSha512Mechanism()))
		default:
			opts = append(opts, kgo.SASL(plain.Auth{User: s.User, Pass: pass}.AsMechanism()))
		}
	}
	return opts, nil
}

// open reads the PEM files.
func (c *TLSConfig) open() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s holds no PEM certificate", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.cert, tls.key: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

func (t *kafkaTarget) trip() time.Duration { return t.took }

func (t *kafkaTarget) wire() int64 { return t.written.Load() }

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
	codec := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}[t.cfg.Compress]
	t.keeper = progressTopic{cluster: t.cluster, uplink: t.cfg.Name, site: t.site, seen: t.seen, stalled: t.stalled}
	opts := append(conn[:len(conn):len(conn)],
		kgo.ProducerBatchCompression(codec, kgo.NoCompression()), kgo.RecordPartitioner(partitioner{t.cfg.Partition == partitionSame}),
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

// unknown says as whom the target has refused this cluster, and what to look at.
func (t *kafkaTarget) unknown(err error) error {
	if s := t.cfg.SASL; errors.Is(err, kerr.SaslAuthenticationFailed) || errors.Is(err, kerr.UnsupportedSaslMechanism) {
		return fmt.Errorf("%w: it does not take user %q by %s: correct sasl.mechanism, sasl.user or what is in %s (sasl.password_file), which is read again with each attempt", err, s.User, s.Mechanism, s.PasswordFile)
	}
	return err
}

// begin makes sure that there is a transaction.
func (t *kafkaTarget) begin() error {
	if !t.exactly() {
		return nil
	}
	if err := t.contact.check(); err != nil || t.begun {
		return err
	}
	t.begun = true
	return t.client.BeginTransaction()
}

func (t *kafkaTarget) add(ctx context.Context, r *outgoing) error {
	topic := r.from.remote
	if err := t.ensure(ctx, topic, r.from); err != nil {
		return err
	}
	if err := t.begin(); err != nil {
		return err
	}
	t.client.Produce(ctx, t.record(r), t.produced)
	return nil
}

// record is a copy of r for the target, which lasts until recycle.
func (t *kafkaTarget) record(r *outgoing) *kgo.Record {
	headers := t.headers.take(len(r.Headers) + 1 + len(r.own))
	for i, h := range r.Headers {
		headers[i] = kgo.RecordHeader{Key: t.name(h.Key), Value: t.bytes.copy(h.Value)}
	}
	t.scratch = r.origin(t.scratch[:0])
	headers[len(r.Headers)] = kgo.RecordHeader{Key: OriginHeader, Value: t.bytes.copy(t.scratch)}
	for i, h := range r.own {
		headers[len(r.Headers)+1+i] = kgo.RecordHeader{Key: t.name(h.Key), Value: t.bytes.copy(h.Value)}
	}
	rec := &t.records.take(1)[0]
	*rec = kgo.Record{
		Topic: r.from.remote, Partition: r.from.log.Index(), Key: t.bytes.copy(r.Key), Value: t.bytes.copy(r.Value), Headers: headers, Timestamp: time.UnixMilli(r.Timestamp),
	}
	return rec
}

// recycle takes back what records were made of.
func (t *kafkaTarget) recycle() {
	t.bytes.reset()
	t.records.reset()
	t.headers.reset()
}

// maxNames bounds the names of headers that are kept as strings.
const maxNames = 256

// name is a header's name as a string, made once for the names that come again and again.
func (t *kafkaTarget) name(b []byte) string {
	if s, ok := t.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(t.names) < maxNames {
		t.names[s] = s
	}
	return s
}

// ensure makes a topic at the target when it is not there, once for each connection; with `partition: same` again when it has grown here.
func (t *kafkaTarget) ensure(ctx context.Context, topic string, from *part) error {
	known, is := t.topics[topic]
	if !is || known.err == nil && t.cfg.Partition == partitionSame && int(from.log.Index()) >= known.wide {
		known.wide = from.partitions()
		known.err = t.makeTopic(ctx, topic, known.wide)
		t.topics[topic] = known
	}
	return known.err
}

// ofTopic says who is at fault for what was asked about a topic: the topic for what the target has answered, else the connection, which says nothing about the topic.
func ofTopic(ctx context.Context, topic, what string, err error) error {
	if errors.As(err, new(*kerr.Error)) {
		return &topicError{topic, fmt.Errorf("%s: %w", what, err)}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("topic %s at the target: %s: %w", topic, what, err)
}

// remoteTopic is a topic that was looked for at the target.
type remoteTopic struct {
	wide int // partitions that it has at the least, with `partition: same`
	err  error
}

func (t *kafkaTarget) makeTopic(ctx context.Context, topic string, wide int) error {
	there, err := t.admin().ListTopics(ctx, topic)
	if err != nil {
		return ofTopic(ctx, topic, "look for it", err)
	}
	d := there[topic]
	t.learn(ctx, topic)
	switch {
	case errors.Is(d.Err, kerr.UnknownTopicOrPartition) && *t.cfg.Create:
		_, err := t.admin().CreateTopic(ctx, int32(wide), -1, nil, topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return ofTopic(ctx, topic, "create it", err)
		}
	case errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		return &topicError{topic, fmt.Errorf("%w: make it there, or allow create_topics", d.Err)}
	case d.Err != nil:
		return &topicError{topic, d.Err}
	case t.cfg.Partition == partitionSame && len(d.Partitions) < wide:
		return t.widen(ctx, topic, len(d.Partitions), wide)
	}
	return nil
}

// widen adds partitions that a topic lacks; the next connection knows of them.
func (t *kafkaTarget) widen(ctx context.Context, topic string, has, wants int) error {
	if !*t.cfg.Create {
		return &topicError{topic, fmt.Errorf("it has %d partitions, and `partition: same` needs %d: add some, or allow create_topics", has, wants)}
	}
	done, err := t.admin().UpdatePartitions(ctx, wants, topic)
	if err = cmp.Or(err, done[topic].Err); err != nil {
		return ofTopic(ctx, topic, fmt.Sprintf("it has %d partitions, and `partition: same` needs %d: add them", has, wants), err)
	}
	return fmt.Errorf("topic %s at the target: %w", topic, errWidened) // and the next connection goes on
}

// errWidened: what clients know of the topic is out of date.
var errWidened = errors.New("it has got the partitions that it lacked")

const (
	usualBatch = 1000012 // what kgo fills a batch to before compression, below what Kafka takes unless told otherwise
	aloneBatch = 64 << 20
)

// learn asks how large a batch the topic takes. Who may not ask fills batches as usual.
func (t *kafkaTarget) learn(ctx context.Context, topic string) {
	found, err := t.admin().DescribeTopicConfigs(ctx, topic)
	if err != nil || len(found) != 1 || found[0].Err != nil {
		return
	}
	for _, c := range found[0].Configs {
		if n, err := strconv.ParseInt(c.MaybeValue(), 10, 32); c.Key == "max.message.bytes" && err == nil && n >= minBatch {
			t.mu.Lock()
			t.largest[topic] = int32(min(n, aloneBatch))
			t.mu.Unlock()
		}
	}
}

// minBatch is the least that kgo can be told.
const minBatch = 512

// largestBatch is for kgo: once for each partition of a topic, after ensure.
func (t *kafkaTarget) largestBatch(topic string) int32 {
	if t.alone {
		return aloneBatch
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.largest[topic]; ok {
		return n
	}
	return usualBatch
}

// produced is the promise of every record.
func (t *kafkaTarget) produced(r *kgo.Record, err error) {
	if err == nil {
		t.contact.taken(spot{r.Topic, r.Partition})
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = blame(r.Topic, err)
	}
}

// blame names who is at fault for a record that was not taken.
func blame(topic string, err error) error {
	for _, e := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp} {
		if errors.Is(err, e) {
			return &refusedError{err}
		}
	}
	for _, e := range []error{kerr.UnknownTopicOrPartition, kerr.TopicAuthorizationFailed, kerr.InvalidTopicException, kerr.PolicyViolation} {
		if errors.Is(err, e) {
			return &topicError{topic, err}
		}
	}
	return fmt.Errorf("produce to %s: %w", topic, fenced(err))
}

// blamed says whether blame has found somebody.
func blamed(err error) bool {
	var refused *refusedError
	var topic *topicError
	return errors.As(err, &refused) || errors.As(err, &topic)
}

// cursorProduced is the promise of a cursor.
func (t *kafkaTarget) cursorProduced(r *kgo.Record, err error) {
	t.produced(r, err)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && (t.cursor == nil || r.Offset > t.cursor.Offset) {
		t.cursor = r
	}
}

func (t *kafkaTarget) announce(ctx context.Context, p *part, s Span) error {
	if !t.exactly() {
		return nil // there is no topic for it; the node's log and figures tell
	}
	if err := t.begin(); err != nil {
		return err
	}
	t.client.Produce(ctx, t.keeper.gap(p, s), t.produced)
	return nil
}

func (t *kafkaTarget) commit(ctx context.Context, cursors map[log.PartitionID]progress) error {
	if t.exactly() {
		if err := t.begin(); err != nil {
			return err
		}
		if t.claim != nil {
			t.client.Produce(ctx, t.claim, t.produced)
		}
		for id, p := range cursors {
			t.client.Produce(ctx, t.keeper.record(id, p), t.cursorProduced)
		}
	}
	flush, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.contact.gone, func() { cancel(errLostContact) })()
	err := t.client.Flush(flush)
	if err != nil && flush.Err() != nil {
		err = context.Cause(flush)
	}
	t.mu.Lock()
	if t.failed != nil && (!errors.Is(err, errLate) || blamed(t.failed)) { // what is late fails for all that was on its way
		err = t.failed
	}
	t.failed = nil
	t.mu.Unlock()
	t.begun = false
	if err == nil {
		t.recycle()
	}
	if !t.exactly() {
		return err
	}
	if err != nil {
		return err // closing leaves the transaction to the next owner of the id, which aborts it
	}
	if id, _, err := t.client.ProducerID(ctx); err == nil { // the answer may bring another one
		t.seen.wrote(id)
	}
	t.contact.to(ending)
	began := time.Now()
	if err := t.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("commit at the target: %w", fenced(err))
	}
	t.took = time.Since(began)
	t.contact.to(confirmed)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.confirmed(cursors, t.cursor)
	t.seen.claimed, t.claim = true, nil
	return nil
}

// fenced explains what it means that somebody else has the transactional id.
func fenced(err error) error {
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) {
		return fmt.Errorf("%w: another node has taken the uplink over; if this stays, a copy of this node's data runs elsewhere", err)
	}
	return err
}

func (t *kafkaTarget) close() {
	t.contact.leave()
	if t.client != nil {
		t.client.CloseAllowingRebalance()
		t.client = nil
	}
}

// partitioner chooses by key as Kafka's Java client does, or keeps the partition; cursors go where the topic of cursors keeps them.
type partitioner struct{ same bool }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.same || topic == ProgressTopic {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic)
}
