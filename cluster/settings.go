package cluster

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

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
