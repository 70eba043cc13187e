package kafka

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Stats are the server's counters since it was made, read at one moment but not
// atomically together.
type Stats struct {
	Connections, Requests, RequestErrors int64 // open now; totals
	ConnectionsTotal, ConnectionsRefused int64
	RequestBytes, ResponseBytes          int64
	InflightBytes                        int64 // of frames, now
	ProduceBatches, ProduceBytes         int64 // appended or repeated
	ProduceRejected                      int64 // batches answered with an error
	FetchBytes                           int64 // of batches sent
	FetchWaiting                         int64 // long polls, now
	FetchInflight                        int64 // bytes of answers made and not yet sent
	FetchSessions, FetchSessionParts     int64 // remembered now, with their partitions
	FetchSessionsEvicted                 int64 // total, for want of room
	Unauthenticated                      int64 // clients that did not prove who they are
	Unauthorized                         int64 // requests of which something was refused for want of a rule

	// Answers that told a client to keep still, and connections closed for coming too soon.
	ThrottledProduces, ThrottledFetches, ThrottledMutations, ThrottledConnections int64
	QuotaMeters, MutedConnections                                                 int64 // now
}

type counters struct {
	conns, connsTotal, connsRefused atomic.Int64
	requests, requestErrors         atomic.Int64
	requestBytes, responseBytes     atomic.Int64
	produceBatches, produceBytes    atomic.Int64
	produceRejected                 atomic.Int64
	unauthenticated, unauthorized   atomic.Int64
	fetchBytes, fetchWaiting        atomic.Int64
}

// Server answers Kafka clients.
type Server struct {
	cfg       Config
	log       *slog.Logger
	apis      map[int16]*api
	listed    []kmsg.ApiVersionsResponseApiKey // what ApiVersions answers; read only
	broker    broker
	losses    losses
	quota     *quota
	fetching  atomic.Int64 // bytes granted to fetch answers not yet sent
	sessions  sessionCache
	quotas    quotas
	topics    atomic.Pointer[topicViews]
	topicsMu  sync.Mutex // one goroutine makes new views
	listeners []boundListener
	groups    *coordinator // nil: consumer groups are not up

	transactions *transactions

	secret [32]byte // see decoysNow
	decoys atomic.Pointer[decoys]

	n      counters
	faults faultLimit // of lines about reads that failed

	// draining is closed when Run's context ends: handlers that wait answer now.
	draining chan struct{}

	mu    sync.Mutex
	conns map[*conn]struct{}
	away  bool // see TurnAway
}

// NewServer binds the listeners, so that Addrs is known and a port in use is an error
// here. It accepts nothing before Run, which must be called: it also unbinds.
func NewServer(cfg Config) (*Server, error) { return newServer(cfg, cfg.Broker) }

func newServer(cfg Config, b broker) (*Server, error) {
	cfg.setDefaults()
	s := &Server{
		cfg:      cfg,
		log:      cfg.Logger,
		broker:   b,
		quota:    newQuota(cfg.MemoryInFlight),
		draining: make(chan struct{}),
		conns:    make(map[*conn]struct{}),
		quotas:   newQuotas(),
	}
	rand.Read(s.secret[:])
	s.sessions.init(&s.cfg)
	s.apis, s.listed = table()
	s.private()
	if err := s.openGroups(); err != nil {
		return nil, err
	}
	s.transactions = newTransactions(transactionsConfig{
		TransactionConfig: cfg.Transactions, log: s.log, open: s.openTransactions, end: s.endTransactions,
		term:         func(partition int32) (log.Epoch, bool) { return s.leads(transactionsTopic, partition) },
		lapsed:       func() bool { return !s.broker.HoldsLease() },
		clockTrusted: s.broker.ClockTrusted, producerID: s.broker.NextProducerID,
	})
	s.answerPeers()
	for _, l := range cfg.Listeners {
		if err := s.bind(l); err != nil {
			s.unbind()
			return nil, err
		}
	}
	return s, nil
}

// offsetsSegmentBytes is small: compaction works in closed segments only.
const offsetsSegmentBytes = "4194304"

// openGroups makes __consumer_offsets at the first start, and the coordinator over it.
func (s *Server) openGroups() error {
	cfg := s.cfg.Groups
	if cfg.ClockTrusted == nil {
		cfg.ClockTrusted = s.broker.ClockTrusted
	}
	cfg.setDefaults()
	ctx, done := context.WithTimeout(context.Background(), 30*time.Second)
	defer done()
	table, err := s.broker.OpenTable(ctx, cluster.TopicSpec{
		Name: offsetsTopic, Partitions: cfg.OffsetsPartitions, Internal: true,
		Configs: map[string]string{"segment.bytes": offsetsSegmentBytes},
	})
	if err != nil {
		return fmt.Errorf("consumer groups: %w", err)
	}
	s.groups, err = newCoordinator(coordinatorConfig{
		GroupConfig: cfg, table: table, partitions: int32(table.Partitions()), log: s.log,
		term:   func(partition int32) (log.Epoch, bool) { return s.leads(offsetsTopic, partition) },
		lapsed: func() bool { return !s.broker.HoldsLease() },
		partitionsOf: func(topic string) (int32, bool) {
			t := s.broker.Image().Topic(topic)
			if t == nil {
				return 0, false
			}
			return int32(len(t.Partitions)), true
		},
		listTopics: func() []*group.Topic { return groupTopics(s.broker.Image()) },
		paceOf:     s.paceOf,
	})
	return err
}

// leads is the leader epoch in which this broker leads a partition, by the metadata in force; false if it does not.
func (s *Server) leads(topic string, partition int32) (log.Epoch, bool) {
	p := assignment(s.broker.Image(), topic, partition)
	if p == nil || p.Leader != s.broker.NodeID() {
		return 0, false
	}
	return p.LeaderEpoch, true
}

// groupTopics is what consumer groups look at of the metadata.
func groupTopics(im *meta.Image) []*group.Topic {
	topics := make([]*group.Topic, 0, len(im.Topics()))
	for _, t := range im.Topics() {
		topics = append(topics, &group.Topic{
			Name: t.Name, Internal: t.Internal,
			Topic: assign.Topic{ID: assign.TopicID(t.ID), Partitions: int32(len(t.Partitions))},
		})
	}
	return topics
}

// Stats may be called at any time.
func (s *Server) Stats() Stats {
	n := &s.n
	sessions, sessionParts, evicted := s.sessions.stats()
	throttled, meters, muted := s.quotas.stats()
	return Stats{
		Connections: n.conns.Load(), ConnectionsTotal: n.connsTotal.Load(), ConnectionsRefused: n.connsRefused.Load(),
		Requests: n.requests.Load(), RequestErrors: n.requestErrors.Load(),
		RequestBytes: n.requestBytes.Load(), ResponseBytes: n.responseBytes.Load(), InflightBytes: s.quota.inUse(),
		ProduceBatches: n.produceBatches.Load(), ProduceBytes: n.produceBytes.Load(), ProduceRejected: n.produceRejected.Load(),
		FetchBytes: n.fetchBytes.Load(), FetchWaiting: n.fetchWaiting.Load(), FetchInflight: s.fetching.Load(),
		FetchSessions: sessions, FetchSessionParts: sessionParts, FetchSessionsEvicted: evicted,
		Unauthenticated: n.unauthenticated.Load(), Unauthorized: n.unauthorized.Load(),
		ThrottledProduces: throttled[quotaProduce], ThrottledFetches: throttled[quotaFetch],
		ThrottledMutations: throttled[quotaMutation], ThrottledConnections: throttled[quotaConnection], QuotaMeters: meters, MutedConnections: muted,
	}
}

// Run serves until ctx ends, then drains: listeners close, no further request is read,
// those read are answered within Config.DrainTimeout, connections close. It returns when
// every goroutine it started has ended. An error means that the groups' offsets could not
// be read, and that it stopped because of it.
func (s *Server) Run(ctx context.Context) error {
	// Groups outlive connections: commits under way are answered while they drain.
	groupCtx, endGroups := context.WithCancel(context.WithoutCancel(ctx))
	defer endGroups()
	stopWatching := s.broker.WatchTopics(s.metadataChanged)
	defer stopWatching()
	groupsEnded := make(chan error, 1)
	go func() { groupsEnded <- s.groups.run(groupCtx) }()
	transactionsEnded := make(chan struct{})
	go func() {
		s.transactions.run(groupCtx)
		close(transactionsEnded)
	}()

	hard, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	var accepting, serving sync.WaitGroup
	for _, l := range s.listeners {
		accepting.Go(func() {
			_ = l.Serve(func(ln net.Listener) error { // accept has no error
				s.accept(hard, ln, l, &serving)
				return nil
			})
		})
	}
	select {
	case <-ctx.Done():
	case err := <-groupsEnded:
		groupsEnded <- err // read again below
	}
	s.unbind()
	accepting.Wait()
	close(s.draining)
	s.eachConn((*conn).stopReading)
	s.drain(&serving, kill)
	endGroups()
	<-transactionsEnded
	return <-groupsEnded
}

// metadataChanged runs on the broker's applier: it leaves notes.
func (s *Server) metadataChanged(im *meta.Image) {
	s.losses.changed(im, s.broker.NodeID())
	s.groups.metadataChanged()
	s.transactions.metadataChanged()
}

// drain waits for the connections, and ends those that take longer than they may.
func (s *Server) drain(serving *sync.WaitGroup, kill func()) {
	drained := make(chan struct{})
	go func() { serving.Wait(); close(drained) }()
	timeout := time.NewTimer(s.cfg.DrainTimeout)
	defer timeout.Stop()
	select {
	case <-drained:
	case <-timeout.C:
		s.log.Warn("kafka: drain timed out, closing connections", "timeout", s.cfg.DrainTimeout)
		kill()
		s.eachConn((*conn).close)
		<-drained
	}
}
