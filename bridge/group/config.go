package group

import (
	"errors"
	"fmt"
	"time"
)

// Config bounds a group. The zero value of a field is replaced by Defaults.
// The names in the comments are Kafka's broker settings.
type Config struct {
	MinSessionTimeout      time.Duration // group.min.session.timeout.ms, 6 s
	MaxSessionTimeout      time.Duration // group.max.session.timeout.ms, 30 min
	MaxRebalanceTimeout    time.Duration // a longer wish is cut to this, a shorter one than 1 s raised to that; 24 h
	InitialRebalanceDelay  time.Duration // group.initial.rebalance.delay.ms, 300 ms here (see the package comment); negative means none
	NewMemberTimeout       time.Duration // how long a member's first join may wait, 5 min
	MaxMembers             int           // group.max.size, 1,000; ids handed out count
	MaxGroupBytes          int           // subscriptions and assignments of one group together, 768 KiB: the group must fit into one record
	MaxProtocols           int           // protocols in one join, 64
	MaxOffsetMetadataBytes int           // offset.metadata.max.bytes, 4,096
	ConsumerSession        time.Duration // group.consumer.session.timeout.ms, 45 s
	ConsumerHeartbeat      time.Duration // group.consumer.heartbeat.interval.ms, 3 s here (see the package comment)
	OffsetsRetention       time.Duration // offsets.retention.minutes, 7 days; negative keeps them for ever
}

// Defaults returns c with every zero field set.
func (c Config) Defaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.MinSessionTimeout, 6*time.Second)
	def(&c.MaxSessionTimeout, 30*time.Minute)
	def(&c.MaxRebalanceTimeout, 24*time.Hour)
	def(&c.InitialRebalanceDelay, 300*time.Millisecond)
	def(&c.NewMemberTimeout, 5*time.Minute)
	num(&c.MaxMembers, 1000)
	num(&c.MaxGroupBytes, 768<<10)
	num(&c.MaxProtocols, 64)
	num(&c.MaxOffsetMetadataBytes, 4096)
	def(&c.ConsumerSession, 45*time.Second)
	def(&c.ConsumerHeartbeat, 3*time.Second)
	def(&c.OffsetsRetention, 7*24*time.Hour)
	return c
}

// Pace is how often members of a group of the consumer protocol show themselves, and how long they may be silent. What is zero is as in Config.
type Pace struct{ Session, Heartbeat time.Duration }

func (p Pace) or(cfg *Config) Pace {
	if p.Session == 0 {
		p.Session = cfg.ConsumerSession
	}
	if p.Heartbeat == 0 {
		p.Heartbeat = cfg.ConsumerHeartbeat
	}
	return p
}

// rebalance bounds what a member asks for. The lower bound keeps deadlines in
// the future: a phase that ends when it begins would never let anybody in.
func (c *Config) rebalance(d time.Duration) time.Duration {
	return min(max(d, time.Second), c.MaxRebalanceTimeout)
}

// Validate names every field that cannot work.
func (c Config) Validate() error {
	var faults []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	bad(c.MinSessionTimeout > 0, "min session timeout %v: must be positive", c.MinSessionTimeout)
	bad(c.MaxSessionTimeout >= c.MinSessionTimeout, "max session timeout %v: less than the minimum %v", c.MaxSessionTimeout, c.MinSessionTimeout)
	bad(c.MaxRebalanceTimeout >= time.Second, "max rebalance timeout %v: must be at least 1s", c.MaxRebalanceTimeout)
	bad(c.NewMemberTimeout > 0, "new member timeout %v: must be positive", c.NewMemberTimeout)
	bad(c.MaxMembers > 0, "max members %d: must be positive", c.MaxMembers)
	bad(c.MaxGroupBytes > 0, "max group bytes %d: must be positive", c.MaxGroupBytes)
	bad(c.MaxProtocols > 0, "max protocols %d: must be positive", c.MaxProtocols)
	bad(c.MaxOffsetMetadataBytes >= 0, "max offset metadata bytes %d: must not be negative", c.MaxOffsetMetadataBytes)
	bad(c.ConsumerHeartbeat >= time.Millisecond, "consumer heartbeat interval %v: must be at least 1ms", c.ConsumerHeartbeat)
	bad(c.ConsumerSession > c.ConsumerHeartbeat, "consumer session timeout %v: must be longer than the heartbeat interval %v", c.ConsumerSession, c.ConsumerHeartbeat)
	return errors.Join(faults...)
}
