package cluster

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// ConfigType is how Kafka's DescribeConfigs names the type of a value.
type ConfigType string

// Types of topic configs.
const (
	TypeLong    ConfigType = "long"
	TypeInt     ConfigType = "int"
	TypeDouble  ConfigType = "double"
	TypeList    ConfigType = "list"
	TypeString  ConfigType = "string"
	TypeBoolean ConfigType = "boolean"
)

// ConfigDef is one topic config of Kafka's, or of ours, that a topic may carry.
type ConfigDef struct {
	Name    string
	Type    ConfigType
	Default string
	// Synonym is Kafka's broker-wide name of the same setting, "" when it has none.
	Synonym string
	Doc     string
	// Fixed: only the default is accepted, for the reason in Doc. Clients that set the default explicitly keep working.
	Fixed bool
	check func(value string) error
}

const (
	cleanupPolicy     = "cleanup.policy"
	deleteRetention   = "delete.retention.ms"
	diskFull          = "disk.full"
	indexInterval     = "index.interval.bytes"
	maxMessageBytes   = "max.message.bytes"
	timestampType     = "message.timestamp.type"
	minCleanableRatio = "min.cleanable.dirty.ratio"
	maxCompactionLag  = "max.compaction.lag.ms"
	minCompactionLag  = "min.compaction.lag.ms"
	minInsync         = "min.insync.replicas"
	retentionBytes    = "retention.bytes"
	retentionMS       = "retention.ms"
	segmentBytes      = "segment.bytes"
	segmentMS         = "segment.ms"

	maxLong = "9223372036854775807"
)

// topicConfigs lists by name what is honoured. What Kafka knows and this list does not is refused, so that nobody relies on a
// setting that does nothing.
var topicConfigs = []ConfigDef{
	{Name: cleanupPolicy, Type: TypeList, Default: "delete", Synonym: "log.cleanup.policy", check: isPolicy,
		Doc: "delete removes old segments by age and size; compact keeps the last record of each key; both may be given"},
	{Name: "compression.type", Type: TypeString, Default: "producer", Synonym: "compression.type", Fixed: true,
		Doc: "batches are stored as producers sent them"},
	{Name: deleteRetention, Type: TypeLong, Default: "86400000", Synonym: "log.cleaner.delete.retention.ms", check: atLeast(0),
		Doc: "how long compaction keeps tombstones"},
	{Name: diskFull, Type: TypeString, Default: "reject", check: oneOf("reject", "drop-oldest"),
		Doc: "what happens to appends when the disk is full: reject holds publishers, drop-oldest deletes the oldest segments of this topic"},
	{Name: "flush.messages", Type: TypeLong, Default: maxLong, Synonym: "log.flush.interval.messages", Fixed: true,
		Doc: "every record is synced before it is acknowledged"},
	{Name: "flush.ms", Type: TypeLong, Default: maxLong, Synonym: "log.flush.interval.ms", Fixed: true,
		Doc: "every record is synced before it is acknowledged"},
	{Name: "follower.replication.throttled.replicas", Type: TypeList, Fixed: true,
		Doc: "replication is not throttled"},
	{Name: indexInterval, Type: TypeInt, Default: "4096", Synonym: "log.index.interval.bytes", check: between(64, 1<<20),
		Doc: "bytes of log per entry of the offset index"},
	{Name: "leader.replication.throttled.replicas", Type: TypeList, Fixed: true,
		Doc: "replication is not throttled"},
	{Name: maxCompactionLag, Type: TypeLong, Default: maxLong, Synonym: "log.cleaner.max.compaction.lag.ms", check: atLeast(1),
		Doc: "age at which compaction comes to a record, however small the share of not yet compacted bytes; segments are begun as often"},
	{Name: maxMessageBytes, Type: TypeInt, Default: "1114112", Synonym: "message.max.bytes", check: between(1<<10, 64<<20),
		Doc: "largest record batch accepted, as compressed by the producer"},
	{Name: "message.timestamp.after.max.ms", Type: TypeLong, Default: maxLong, Synonym: "log.message.timestamp.after.max.ms", Fixed: true,
		Doc: "records are taken with whatever time they carry: retention goes by that of the append"},
	{Name: "message.timestamp.before.max.ms", Type: TypeLong, Default: maxLong, Synonym: "log.message.timestamp.before.max.ms", Fixed: true,
		Doc: "records are taken with whatever time they carry: retention goes by that of the append"},
	{Name: timestampType, Type: TypeString, Default: "CreateTime", Synonym: "log.message.timestamp.type", check: oneOf("CreateTime", "LogAppendTime"),
		Doc: "whether records keep the producer's time or get the time of the append"},
	{Name: minCleanableRatio, Type: TypeDouble, Default: "0.5", Synonym: "log.cleaner.min.cleanable.ratio", check: isRatio,
		Doc: "share of not yet compacted bytes that makes compaction worth its writes"},
	{Name: minCompactionLag, Type: TypeLong, Default: "0", Synonym: "log.cleaner.min.compaction.lag.ms", check: atLeast(0),
		Doc: "how long a record is safe from compaction"},
	{Name: minInsync, Type: TypeInt, Default: "1", Synonym: "min.insync.replicas", check: between(1, meta.MaxReplicas),
		Doc: "replicas that must be in sync for an append to be acknowledged; never more than the topic has"},
	{Name: "preallocate", Type: TypeBoolean, Default: "false", Synonym: "log.preallocate", Fixed: true,
		Doc: "segments grow as they are written"},
	{Name: "remote.storage.enable", Type: TypeBoolean, Default: "false", Fixed: true,
		Doc: "segments stay on the disks of the brokers: an uplink carries records elsewhere"},
	{Name: retentionBytes, Type: TypeLong, Default: "-1", Synonym: "log.retention.bytes", check: atLeast(-1),
		Doc: "size of a partition from which the oldest segments are deleted; -1 is no limit"},
	{Name: retentionMS, Type: TypeLong, Default: "604800000", Synonym: "log.retention.ms", check: atLeast(-1),
		Doc: "age, since their last append, at which segments are deleted; -1 is never"},
	{Name: segmentBytes, Type: TypeInt, Default: "67108864", Synonym: "log.segment.bytes", check: between(1<<14, math.MaxInt32),
		Doc: "size at which a new segment is begun"},
	{Name: "segment.jitter.ms", Type: TypeLong, Default: "0", Synonym: "log.roll.jitter.ms", Fixed: true,
		Doc: "segments are begun when they are due"},
	{Name: segmentMS, Type: TypeLong, Default: "604800000", Synonym: "log.roll.ms", check: atLeast(1),
		Doc: "age at which a new segment is begun"},
	{Name: "unclean.leader.election.enable", Type: TypeBoolean, Default: "false", Synonym: "unclean.leader.election.enable", Fixed: true,
		Doc: "a replica that may lack committed records never leads"},
}

// notHonoured are configs of Kafka's that a topic may not carry, with what is so instead.
var notHonoured = map[string]string{
	"compression.gzip.level":              "batches are stored as producers sent them",
	"compression.lz4.level":               "batches are stored as producers sent them",
	"compression.zstd.level":              "batches are stored as producers sent them",
	"errors.deadletterqueue.group.enable": "there are no share groups",
	"file.delete.delay.ms":                "segments are deleted as soon as nobody reads them",
	"local.retention.bytes":               "there is no remote storage; retention.bytes is for what is kept",
	"local.retention.ms":                  "there is no remote storage; retention.ms is for what is kept",
	"max.decompressed.message.bytes":      "what a batch may decompress to is limited, alike for all topics",
	"message.downconversion.enable":       "records are never converted, since Kafka 4 neither",
	"message.format.version":              "records have one format, version 2",
	"message.timestamp.difference.max.ms": "records are taken with whatever time they carry",
	"remote.copy.lag.bytes":               "there is no remote storage",
	"remote.copy.lag.ms":                  "there is no remote storage",
	"remote.log.copy.disable":             "there is no remote storage",
	"remote.log.delete.on.disable":        "there is no remote storage",
	"segment.index.bytes":                 "the index is as large as its segment needs",
}

// TopicConfigs lists the configs a topic may carry, by name. Do not change what it returns.
func TopicConfigs() []ConfigDef { return topicConfigs }

// TopicConfig finds one of TopicConfigs.
func TopicConfig(name string) (ConfigDef, bool) {
	i, ok := slices.BinarySearchFunc(topicConfigs, name, func(d ConfigDef, name string) int { return strings.Compare(d.Name, name) })
	if !ok {
		return ConfigDef{}, false
	}
	return topicConfigs[i], true
}

// ConfigValue is the value in force on a topic, and whether the topic itself carries it.
func ConfigValue(t *meta.Topic, name string) (value string, own bool) {
	if v, ok := t.Configs[name]; ok {
		return v, true
	}
	if name == minInsync { // goes by the number of replicas (C7)
		return strconv.Itoa(max(t.MinInsync, 1)), false
	}
	d, _ := TopicConfig(name)
	return d.Default, false
}

// ValidateConfig says why a topic may not carry that value. Every error is an ErrInvalidConfig.
func ValidateConfig(name, value string) error {
	d, ok := TopicConfig(name)
	if why := notHonoured[name]; why != "" {
		return fmt.Errorf("%w: %s is not honoured: %s", ErrInvalidConfig, name, why)
	}
	if !ok {
		return fmt.Errorf("%w: %.80q is not supported; see weir topics describe for those that are", ErrInvalidConfig, name)
	}
	if d.Fixed && value != d.Default {
		return fmt.Errorf("%w: %s is always %q: %s", ErrInvalidConfig, name, d.Default, d.Doc)
	}
	if !d.Fixed {
		if err := d.check(value); err != nil {
			return fmt.Errorf("%w: %s=%.80s: %w", ErrInvalidConfig, name, value, err)
		}
	}
	return nil
}

// ValidateConfigs returns the fault of the first bad config by name. maxBatch is what the node can take (log.Config.MaxBatchBytes,
// and less in a cluster): a topic may not promise more.
func ValidateConfigs(configs map[string]string, maxBatch int) error {
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		if err := ValidateConfig(name, configs[name]); err != nil {
			return err
		}
	}
	if err := checkLags(configs); err != nil {
		return err
	}
	if v, ok := configs[maxMessageBytes]; ok {
		if n, _ := strconv.ParseInt(v, 10, 64); n > int64(maxBatch) {
			return fmt.Errorf("%w: %s=%s: a batch may take a quarter of a journal file, and %d bytes in a cluster, here %d bytes: choose less, or a larger log.journal_file",
				ErrInvalidConfig, maxMessageBytes, v, maxCarried, maxBatch)
		}
	}
	return nil
}

// checkLags holds the two against each other in all the configs of a topic, which are valid one by one.
func checkLags(configs map[string]string) error {
	lag := func(name string) (n int64) {
		if v, ok := configs[name]; ok {
			n, _ = strconv.ParseInt(v, 10, 64)
		} else if d, _ := TopicConfig(name); d.Default == maxLong {
			n = math.MaxInt64
		}
		return n
	}
	if least, most := lag(minCompactionLag), lag(maxCompactionLag); least > most {
		return fmt.Errorf("%w: %s=%d: want at most %s, which is %d", ErrInvalidConfig, minCompactionLag, least, maxCompactionLag, most)
	}
	return nil
}

// settings are the configs of a topic in the form that a partition uses.
type settings struct {
	log           log.PartitionConfig
	logAppendTime bool
	// deletable: old records may go, so a client may delete records too.
	deletable bool
}

// settingsOf reads a topic's configs. They were validated before they were committed; one that a newer version knew and
// this one cannot read falls back to its default, because a partition that does not open helps nobody.
func settingsOf(t *meta.Topic) settings {
	value := func(name string) string {
		if v, own := ConfigValue(t, name); own && ValidateConfig(name, v) == nil {
			return v
		}
		d, _ := TopicConfig(name)
		return d.Default
	}
	long := func(name string) int64 {
		n, _ := strconv.ParseInt(value(name), 10, 64)
		return n
	}
	ratio, _ := strconv.ParseFloat(value(minCleanableRatio), 64)
	policy := strings.Split(value(cleanupPolicy), ",")
	for i := range policy {
		policy[i] = strings.TrimSpace(policy[i])
	}
	s := settings{
		log: log.PartitionConfig{
			SegmentBytes:       long(segmentBytes),
			SegmentAge:         milliseconds(long(segmentMS)),
			Retention:          milliseconds(long(retentionMS)),
			RetentionBytes:     long(retentionBytes),
			Compact:            slices.Contains(policy, "compact"),
			Delete:             slices.Contains(policy, "delete"),
			MinCompactionLag:   milliseconds(long(minCompactionLag)),
			MaxCompactionLag:   milliseconds(long(maxCompactionLag)),
			DeleteRetention:    milliseconds(long(deleteRetention)),
			MaxMessageBytes:    int(long(maxMessageBytes)),
			IndexIntervalBytes: int(long(indexInterval)),
			MinCleanableRatio:  ratio,
			DiskFull:           value(diskFull),
			Internal:           t.Internal,
			DeadLetters:        strings.HasSuffix(t.Name, deadLetterSuffix),
		},
		logAppendTime: value(timestampType) == "LogAppendTime",
	}
	s.log.LogAppendTime = s.logAppendTime
	s.deletable = s.log.Delete
	// Zero means "default" in a PartitionConfig; where a topic says zero, the smallest value above it does the same.
	s.log.RetentionBytes = or1(s.log.RetentionBytes)
	s.log.Retention, s.log.DeleteRetention = or1(s.log.Retention), or1(s.log.DeleteRetention)
	if s.log.MinCleanableRatio == 0 {
		s.log.MinCleanableRatio = math.SmallestNonzeroFloat64
	}
	return s
}

// of is what the log is told: only a leader deletes old records, a follower's log starts where its leader's does.
func (s *settings) of(leads bool) log.PartitionConfig {
	c := s.log
	if !leads {
		c.Retention, c.RetentionBytes, c.DiskFull = -1, -1, "reject"
	}
	return c
}

// deadLetterSuffix ends the names of the topics that routes and uplinks put dead letters into.
const deadLetterSuffix = ".dlq"

func or1[T ~int64](v T) T {
	if v == 0 {
		return 1
	}
	return v
}

// milliseconds turns Kafka's into a Duration; negative, and what a Duration cannot hold (292 years), is for ever.
func milliseconds(ms int64) time.Duration {
	if ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return -1
	}
	return time.Duration(ms) * time.Millisecond
}

func atLeast(low int64) func(string) error { return between(low, math.MaxInt64) }

func between(low, high int64) func(string) error {
	return func(value string) error {
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil || n < low || n > high:
			if high == math.MaxInt64 {
				return fmt.Errorf("want a whole number from %d", low)
			}
			return fmt.Errorf("want a whole number from %d to %d", low, high)
		}
		return nil
	}
}

func oneOf(values ...string) func(string) error {
	return func(value string) error {
		if !slices.Contains(values, value) {
			return fmt.Errorf("want %s", strings.Join(values, " or "))
		}
		return nil
	}
}

func isPolicy(value string) error {
	for p := range strings.SplitSeq(value, ",") {
		if p := strings.TrimSpace(p); p != "delete" && p != "compact" {
			return fmt.Errorf("want delete, compact or both with a comma")
		}
	}
	return nil
}

func isRatio(value string) error {
	if f, err := strconv.ParseFloat(value, 64); err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("want a number from 0 to 1")
	}
	return nil
}
