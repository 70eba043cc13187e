package kafka

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/access"
)

// Listener is one address the server accepts connections on.
type Listener struct {
	Addr string      // host:port; port 0 takes a free one, see Server.Addrs
	TLS  *tls.Config // nil = plain TCP

	// Advertise is the host that clients of this listener are told to use for this
	// node; empty = the host of Addr. The port told is the one listened on.
	Advertise string
}

// Config is what a Server is made of. Zero fields mean the default in brackets.
type Config struct {
	Broker    *cluster.Broker // not closed before Run has returned
	Listeners []Listener
	Auth      Authenticator            // who clients are; nil = they are not asked
	CheckRule func(*access.Rule) error // why a client's rule would mean nothing; nil = any does
	Given     Given                    // rules and users that no request changes; nil = none
	Groups    GroupConfig

	Transactions TransactionConfig

	MaxConnections  int   // further ones are closed at once [1000]
	MaxRequestBytes int   // one frame [100 MiB, as Kafka's socket.request.max.bytes]
	MemoryInFlight  int64 // bytes of all frames being read or handled [64 MiB]; one frame may exceed it
	MaxFetchBytes   int   // of batches in one fetch answer, one batch at least [4 MiB less 64 KiB, which with what stands around them fill a buffer of 4 MiB and not half of the next size]
	FetchInFlight   int64 // of all fetch answers; under pressure they get smaller [32 MiB]
	FetchSessions   int   // remembered, as Kafka's max.incremental.fetch.session.cache.slots [1000]

	FetchSessionBytes int64 // memory of all fetch sessions; who finds no room goes without [4 MiB]

	MaxPipelined    int           // requests of one connection read or answered ahead [64]
	IdleTimeout     time.Duration // without a request, then closed [10 min]
	ProgressTimeout time.Duration // for each 64 KiB of a frame or answer, then closed [30 s]
	DrainTimeout    time.Duration // for requests in progress when Run's context ends [5 s]

	// AutoCreateTopics makes topics that clients name in Metadata or produce to, with the
	// cluster's defaults, where the client allows it (Kafka's auto.create.topics.enable).
	AutoCreateTopics bool

	// Operate serves weir's own tools; nil = the request is not served. Who asks may alter the cluster; for what only reads he may describe it.
	Operate      Operate
	OperateReads []string

	Logger *slog.Logger // [discarded]
}

func (c *Config) setDefaults() {
	def(&c.MaxConnections, 1000)
	def(&c.MaxRequestBytes, 100<<20)
	def(&c.MemoryInFlight, 64<<20)
	def(&c.MaxFetchBytes, 4<<20-64<<10)
	def(&c.FetchInFlight, 32<<20)
	def(&c.FetchSessions, 1000)
	def(&c.FetchSessionBytes, 4<<20)
	def(&c.MaxPipelined, 64)
	def(&c.IdleTimeout, 10*time.Minute)
	def(&c.ProgressTimeout, 30*time.Second)
	def(&c.DrainTimeout, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
