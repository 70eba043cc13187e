package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/internal/door"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/session"
)

// Waiter hears what became of records that it handed to Partition.Append: the n records whose seq values
// start at first are committed by the topic's ack rule (err nil), or will never be known to be. Called on the
// committer; must not block.
type Waiter interface {
	Committed(first uint64, n int, err error)
}

// Partition is a place to append to. Safe for concurrent use.
type Partition interface {
	ID() log.PartitionID
	// Append takes one record; its bytes are copied before it returns. A nil error means that w will hear of
	// seq exactly once; w may be nil. Append must not wait for disk or network.
	Append(r *log.Record, w Waiter, seq uint64) error
	// AppendIn is Append for a session that this node owns. Once a later owner of it has settled the partition, nothing is taken any more that was
	// appended as an earlier one, however long it was on its way: Append fails, or w hears of it.
	AppendIn(o Ownership, r *log.Record, w Waiter, seq uint64) error
	// LogEnd is the offset that the next record will get or a lower one.
	LogEnd() log.Offset
	// Settle waits until all that is in the log by now is committed, whoever appended it, and answers where that ends: what is not found below, M4
	// takes as never written, and what AppendIn takes for an earlier owner of this node's sessions will not come later. It may wait for other nodes.
	Settle() (log.Offset, error)
	// Read appends whole committed batches to buf[:0], the first containing from; empty where nothing is committed from there on.
	Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error)
}

// Ownership is a node's of the sessions in one partition of the sessions table, since it gained them (Owners.Watch). Without Owners
// the epoch is 0.
type Ownership struct {
	Partition int
	Epoch     int32
}

// Sink is the log as MQTT needs it.
type Sink interface {
	// Topic returns the topic's partitions by index. It creates the topic when auto-creation allows, and may
	// block; it is called about once a second per topic in use.
	Topic(name string) ([]Partition, error)
	// Transient tells whether an error of Topic or Append may pass by itself (M8).
	Transient(err error) bool
}

// Table is a compacted topic as a map, by partition (M11). Load gives every value that is still there of those that were
// committed when it was called, older ones and deletions (nil) included, those of one key in the order they were put. done of
// Put runs once the change is committed, must not block, and puts to one key commit in order. Where that is not the node's
// ownership by then, Put fails: what it held as an earlier owner must not come over what another one has written since.
type Table interface {
	Partitions() int // does not change
	Load(partition int, fn func(key, value []byte) error) error
	Put(o Ownership, key, value []byte, done func(error))
}

// Listener is one socket to serve: Net, or Addr to listen on.
type Listener struct {
	Addr      string
	Net       net.Listener
	TLS       *tls.Config // nil for plain
	WebSocket bool        // MQTT in WebSocket frames under path /mqtt
	Origins   []string    // browser origins allowed over WebSocket; empty: the server's own host only
}

// Config says what a Server serves and how much of it. Zero limits take their defaults.
type Config struct {
	Listeners []Listener
	Sink      Sink
	Source    deliver.Source
	Sessions  Table            // __mqtt_sessions
	Retained  deliver.Followed // __mqtt_retained
	Owners    Owners           // nil: the node is alone and owns every session
	Router    *Router
	Auth      Authorizer // nil allows everything to everyone
	Quota     Quota      // nil: clients may publish as much as they can

	AckTimeout time.Duration // how long a publish may be held for a passing reason, or wait for its commit; 30 s
	// Isolated says whether this node is cut off from those that decide, so that others may have taken over what it leads. Nil: never. It must not block.
	Isolated       func() bool
	ConnectTimeout time.Duration // from accept to CONNECT; 10 s
	MaxPacket      int           // bytes of one packet once authenticated; 1 MiB
	MaxConnections int           // 100,000
	MaxConnectRate int           // connections accepted per second; 0 = no limit
	MaxSessions    int           // sessions that outlive their connection; 100,000
	MemoryInFlight int64         // bytes of input that could not be used yet, all connections together; 64 MiB
	ReceiveMaximum int           // unacknowledged publishes per client; 1,024
	MaxInflight    int           // unacknowledged messages to one client; 1,024
	AliasMaximum   int           // topic aliases per connection; 64
	AliasesOut     int           // topic aliases towards a client that takes any; 16, negative: none
	OutputBuffer   int           // bytes waiting for one client above which deliveries pause; 256 KiB
	KeepAliveMax   time.Duration // longest keep alive granted to MQTT 5 clients; 0 = as asked
	ExpiryMax      time.Duration // longest session expiry; 0 = as asked

	Delivery deliver.Limits
	Logger   *slog.Logger
	Now      func() time.Time // wall clock

	holdRetry time.Duration // how soon a held publish is tried again; the wheel rounds it up to its tick
}

// preAuthPacket bounds a packet of a client that is not authenticated, whatever MaxPacket is.
const preAuthPacket = 64 << 10

// Validate fills defaults and returns every fault at once.
func (c *Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("mqtt: "+what))
		}
	}
	need(c.Sink != nil && c.Source != nil, "no log to write to and read from")
	need(c.Sessions != nil && c.Retained != nil, "no tables for sessions and retained messages")
	need(c.Router != nil, "no routes")
	number := func(v *int, def, lo, hi int, name string) {
		if *v == 0 {
			*v = def
		}
		need(*v >= lo && *v <= hi, fmt.Sprintf("%s is %d, want %d to %d", name, *v, lo, hi))
	}
	number(&c.MaxPacket, 1<<20, 1<<10, 256<<20, "max packet")
	number(&c.MaxConnections, 100_000, 1, 10_000_000, "max connections")
	number(&c.MaxSessions, 100_000, 1, 10_000_000, "max sessions")
	need(c.MaxConnectRate >= 0 && c.MemoryInFlight >= 0, "a limit is negative")
	number(&c.ReceiveMaximum, 1024, 1, 65535, "receive maximum")
	number(&c.MaxInflight, 1024, 1, 16000, "max inflight")
	number(&c.AliasMaximum, 64, 1, 65535, "topic alias maximum")
	number(&c.AliasesOut, 16, -1, 1024, "topic aliases towards clients")
	number(&c.OutputBuffer, 256<<10, 4<<10, 64<<20, "output buffer")
	if c.AckTimeout == 0 {
		c.AckTimeout = 30 * time.Second
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	need(c.AckTimeout > 0 && c.ConnectTimeout > 0 && c.KeepAliveMax >= 0 && c.ExpiryMax >= 0, "a timeout is negative")
	if c.holdRetry == 0 {
		c.holdRetry = 100 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return errors.Join(errs...)
}

func (c *Config) limits() session.Limits {
	l := session.Limits{
		MaxPacket: uint32(c.MaxPacket), ReceiveMaximum: uint16(c.ReceiveMaximum), AliasMaximum: uint16(c.AliasMaximum),
		AliasOut:    uint16(max(c.AliasesOut, 0)),
		MaxInflight: c.MaxInflight, OutputMax: c.OutputBuffer, KeepAliveMax: uint16(min(c.KeepAliveMax/time.Second, 65535)),
		ExpiryMax: session.NoExpiry, Overtake: overtake.Milliseconds(),
	}
	if c.ExpiryMax > 0 {
		l.ExpiryMax = uint32(min(c.ExpiryMax/time.Second, session.NoExpiry-1))
	}
	return l
}

// overtake is how long a stalled partition may hold up the acks of others on one connection (M2).
const overtake = time.Second

// Server is the MQTT side of a node.
type Server struct {
	cfg    Config
	limits session.Limits // sessions point to it
	loop   *conn.Loop
	hub    *deliver.Hub
	router atomic.Pointer[Router]
	lns    []listening
	start  time.Time

	registry registry
	holdings holdings
	claims   claims
	far      crew
	unwatch  func()    // of Owners
	restored []*client // what NewServer found, until Run
	topics   topicCache
	wills    willQueue
	sys      sysTopics
	cursors  dirtySet
	crowd    crowd
	absent   absentees
	handed   handing
	stats    counters
	running  atomic.Bool
	stopping atomic.Bool
	away     atomic.Bool // see TurnAway
}

// NewServer loads stored sessions and binds the listeners, so that Addrs is known and a port in use is an
// error here. Nothing is accepted before Run, and only Run gives back what NewServer took.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, limits: cfg.limits(), start: time.Now()}
	s.router.Store(cfg.Router)
	s.registry.init()
	s.topics.init()
	s.wills.init()
	s.claims.init()
	s.handed.init()
	s.far.init()
	s.holdings.init(s, cfg.Sessions.Partitions())
	s.absent.init(cfg.Sessions.Partitions())
	hub, err := deliver.NewHub(deliver.Config{
		Source: cfg.Source, Retained: cfg.Retained, Groups: groupTable{s}, Limits: cfg.Delivery, Logger: cfg.Logger, Now: cfg.Now,
		Lost: s.lost, Away: s.leaders(),
	})
	if err != nil {
		return nil, fmt.Errorf("mqtt: %w", err)
	}
	s.hub = hub
	if err := s.watchOwners(); err != nil {
		s.close()
		return nil, fmt.Errorf("mqtt: load sessions: %w", err)
	}
	if err := s.listen(); err != nil {
		s.close()
		return nil, err
	}
	s.loop = conn.NewLoop(conn.Config{
		MaxConnections: s.cfg.MaxConnections, AcceptRate: s.cfg.MaxConnectRate, InputBudget: s.cfg.MemoryInFlight, Logger: s.cfg.Logger,
	})
	return s, nil
}

// close gives back what NewServer took beside the listeners.
func (s *Server) close() {
	if s.unwatch != nil {
		s.unwatch()
	}
	s.far.close()
	s.hub.Close()
}

func (s *Server) listen() error {
	for _, l := range s.cfg.Listeners {
		var ln listening = givenListener{l.Net}
		if l.Net == nil {
			d, err := door.Listen(l.Addr)
			if err != nil {
				for _, open := range s.lns {
					open.Close()
				}
				return fmt.Errorf("mqtt: %w", err)
			}
			ln = d
		}
		s.lns = append(s.lns, ln)
	}
	return nil
}

// listening is a place where clients come: a *door.Door, or a listener that was given.
type listening interface {
	Addr() net.Addr
	Serve(accept func(net.Listener) error) error
	Close() error
}

type givenListener struct{ net.Listener }

func (g givenListener) Serve(accept func(net.Listener) error) error { return accept(g.Listener) }

// Addrs returns the listeners' addresses in the order of the configuration.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.lns))
	for i, ln := range s.lns {
		addrs[i] = ln.Addr()
	}
	return addrs
}

// ReloadRoutes makes publishes from now on follow r. Those under way finish by the old routes.
func (s *Server) ReloadRoutes(r *Router) { s.router.Store(r) }

// Run serves until ctx ends, then refuses new connections, lets publishes that were taken get their acks for
// a moment, says goodbye to every client and returns when all that it started has ended. The log must stay
// open until then.
func (s *Server) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.arm(s.restored, 0) // before the hub runs, so that one pass over the log serves all stored sessions
	var parts, accepting sync.WaitGroup
	fail := make(chan error, len(s.lns)+1)
	parts.Go(func() {
		if err := s.hub.Run(inner); err != nil && inner.Err() == nil {
			fail <- fmt.Errorf("mqtt: delivery: %w", err)
		}
	})
	s.restored = nil
	<-s.hub.Started() // a client that is let in earlier could not be sent again what it has not acknowledged // M9
	s.running.Store(true)
	for i := range s.holdings.homes {
		s.holdings.homes[i].settleAll()
	}
	parts.Go(func() { s.registry.timers.run(inner, s.timerDue) })
	parts.Go(func() { s.wills.run(inner, s) })
	parts.Go(func() { s.everySecond(inner) })
	for i, ln := range s.lns {
		l := s.cfg.Listeners[i]
		accepting.Go(func() {
			err := ln.Serve(func(nl net.Listener) error { return s.loop.Serve(nl, s.transport(l), s.acceptOn(l)) })
			if err != nil {
				fail <- fmt.Errorf("mqtt: accept on %s: %w", ln.Addr(), err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-fail:
	}
	s.stopping.Store(true)
	for _, ln := range s.lns {
		ln.Close()
	}
	accepting.Wait()
	s.drain()
	if s.unwatch != nil {
		s.unwatch()
	}
	s.far.close()
	s.loop.Close(conn.ErrStopped)
	cancel()
	parts.Wait()
	s.wills.drain(s)
	return err
}

func (s *Server) transport(l Listener) conn.Transport {
	t := conn.Transport{TLS: l.TLS}
	if l.WebSocket {
		t.WebSocket = &conn.WebSocket{Origins: l.Origins, MaxFrame: int64(s.cfg.MaxPacket) + preAuthPacket}
	}
	return t
}

// drainTime is how long acks of publishes already taken may still come while the server stops.
const drainTime = 2 * time.Second

// drain stops reading from clients and waits for the acks they have earned.
func (s *Server) drain() {
	clients := s.registry.all()
	for _, cl := range clients {
		cl.stopReading()
	}
	deadline := time.Now().Add(drainTime)
	for _, cl := range clients {
		for cl.waiting() && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// isolatedPatience is how long a publish waits on a node that is cut off: its clients may reach another.
const isolatedPatience = 3 * time.Second

// patience is how many milliseconds a publish may wait for its commit.
func (s *Server) patience() int64 {
	if s.cfg.Isolated != nil && s.cfg.Isolated() {
		return min(s.cfg.AckTimeout, isolatedPatience).Milliseconds()
	}
	return s.cfg.AckTimeout.Milliseconds()
}

// millis is the monotonic clock that sessions are told. It starts at 1: 0 stands for never.
func (s *Server) millis() int64 { return time.Since(s.start).Milliseconds() + 1 }

// everySecond does what must not cost a timer per client: cursors of busy durable sessions, $SYS.
func (s *Server) everySecond(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, cl := range s.cursors.take() {
			cl.saveCursor()
		}
		s.absent.tick(s)
		if s.cfg.Owners != nil && n%shareAlive == 0 {
			s.keepShares()
		}
		if n%sysEvery == 0 {
			s.sys.publish(s)
		}
	}
}
