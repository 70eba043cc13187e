package cluster

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

func TestTopicConfigsAreInOrderAndSound(t *testing.T) {
	names := []string{}
	for _, d := range TopicConfigs() {
		names = append(names, d.Name)
		if d.Doc == "" || d.Type == "" || d.Fixed == (d.check != nil) {
			t.Errorf("%s is half defined", d.Name)
		}
		if err := ValidateConfig(d.Name, d.Default); err != nil {
			t.Errorf("its own default: %v", err)
		}
		if _, ok := TopicConfig(d.Name); !ok {
			t.Errorf("%s is not found", d.Name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("not in order: %v", names)
	}
}

func TestValidateConfig(t *testing.T) {
	for config, ok := range map[string]bool{
		"retention.ms=-1":                           true,
		"retention.ms=0":                            true,
		"retention.ms=-2":                           false,
		"retention.ms=1h":                           false,
		"retention.ms=9223372036854775808":          false,
		"cleanup.policy=compact":                    true,
		"cleanup.policy=compact, delete":            true,
		"cleanup.policy=":                           false,
		"cleanup.policy=compact,,delete":            false,
		"segment.bytes=1024":                        false,
		"segment.bytes=2147483647":                  true,
		"min.insync.replicas=0":                     false,
		"min.cleanable.dirty.ratio=NaN":             false,
		"min.cleanable.dirty.ratio=0.1":             true,
		"message.timestamp.type=CreateTime":         true,
		"message.timestamp.type=createtime":         false,
		"disk.full=drop-oldest":                     true,
		"disk.full=drop":                            false,
		"flush.messages=1":                          false, // fixed, for a reason
		"flush.messages=9223372036854775807":        true,
		"unclean.leader.election.enable=true":       false,
		"segment.jitter.ms=0":                       true,
		"segment.jitter.ms=1":                       false,
		"leader.replication.throttled.replicas=":    true, // as Kafka's tools leave it
		"leader.replication.throttled.replicas=0:1": false,
		"file.delete.delay.ms=60000":                false, // Kafka has it, we do not
		"no.such.config=1":                          false,
		"=":                                         false,
	} {
		name, value, _ := strings.Cut(config, "=")
		err := ValidateConfig(name, value)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalidConfig) {
			t.Errorf("%s: %v, want ok %t", config, err, ok)
		}
	}
}

// Each config of Kafka's that a topic may not carry is refused with what is so instead.
func TestConfigsThatAreNotHonoured(t *testing.T) {
	for name, why := range notHonoured {
		if _, ok := TopicConfig(name); ok {
			t.Errorf("%s is honoured", name)
		}
		if err := ValidateConfig(name, "1"); !errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is in force without a config of the topic's own goes by its replicas.
func TestMinInsyncInForce(t *testing.T) {
	for of, want := range map[*meta.Topic]string{
		{MinInsync: 2}: "2",
		{}:             "1", // of an old version
		{MinInsync: 1, Configs: map[string]string{minInsync: "3"}}: "3",
	} {
		if got, own := ConfigValue(of, minInsync); got != want || own != (of.Configs != nil) {
			t.Errorf("%+v: %s, its own %t; want %s", of, got, own, want)
		}
	}
}

// A topic may not promise batches that the journal would refuse.
func TestMaxMessageBytesAboveAQuarterJournalFileIsRefused(t *testing.T) {
	b := openBroker(t, testConfig(t.TempDir())) // 1 MiB
	ctx := within(t)
	for value, ok := range map[string]bool{"262144": true, "262145": false} {
		configs := map[string]string{maxMessageBytes: value}
		_, err := b.CreateTopic(ctx, TopicSpec{Name: "t" + value, Configs: configs}, true)
		if (err == nil) != ok || err != nil && (!errors.Is(err, ErrInvalidConfig) || !strings.Contains(err.Error(), "journal_file")) {
			t.Errorf("create with %s: %v, want ok %t", value, err, ok)
		}
	}
	mustCreate(t, b, TopicSpec{Name: "t", Partitions: 1})
	if err := b.AlterConfigs(ctx, "t", map[string]string{maxMessageBytes: "262145"}, nil, false); !errors.Is(err, ErrInvalidConfig) {
		t.Errorf("alter: %v", err)
	}
}

func TestSettings(t *testing.T) {
	def := settingsOf(&meta.Topic{}).log
	if def.Retention != 7*24*time.Hour || def.RetentionBytes != -1 || !def.Delete || def.Compact || def.SegmentBytes != 64<<20 {
		t.Errorf("defaults %+v", def)
	}
	s := settingsOf(&meta.Topic{Internal: true, Configs: map[string]string{
		cleanupPolicy: "compact,delete", retentionMS: "-1", retentionBytes: "0", segmentMS: "9223372036854775807",
		deleteRetention: "0", minCleanableRatio: "0", minCompactionLag: "5", minInsync: "2", timestampType: "LogAppendTime",
		diskFull: "drop-oldest", maxMessageBytes: "2000",
	}})
	want := log.PartitionConfig{
		SegmentBytes: 64 << 20, SegmentAge: -1, Retention: -1, RetentionBytes: 1, Compact: true, Delete: true,
		MinCompactionLag: 5 * time.Millisecond, MaxCompactionLag: -1, DeleteRetention: 1, MaxMessageBytes: 2000, IndexIntervalBytes: 4096,
		MinCleanableRatio: math.SmallestNonzeroFloat64, DiskFull: "drop-oldest", Internal: true, LogAppendTime: true,
	}
	if s.log != want || !s.logAppendTime || !s.deletable {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	// A value that this version cannot read is its default, not zero.
	if s := settingsOf(&meta.Topic{Configs: map[string]string{segmentBytes: "1 GiB"}}); s.log != def {
		t.Errorf("unreadable: %+v", s.log)
	}
}

func TestValidateTopicName(t *testing.T) {
	for name, want := range map[string]struct{ client, internal bool }{
		"telemetry":              {true, false},
		"a.b_c-D9":               {true, false},
		"_x":                     {true, false},
		"":                       {false, false},
		".":                      {false, false},
		"..":                     {false, false},
		"...":                    {true, false},
		"a/b":                    {false, false},
		"a b":                    {false, false},
		"ä":                      {false, false},
		"a\x00":                  {false, false},
		"__consumer_offsets":     {false, true},
		"__":                     {false, true},
		strings.Repeat("a", 249): {true, false},
		strings.Repeat("a", 250): {false, false},
	} {
		for _, internal := range []bool{false, true} {
			ok := want.client
			if internal {
				ok = want.internal
			}
			err := ValidateTopicName(name, internal)
			if (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalidTopic) {
				t.Errorf("%.20q internal %t: %v, want ok %t", name, internal, err, ok)
			}
		}
	}
}

// Topics of dead letters are told from others by their names: whoever makes them, they are to take what an uplink puts there while it holds the room.
func TestDeadLettersGoOn(t *testing.T) {
	for name, want := range map[string]bool{"telemetry.dlq": true, "telemetry": false} {
		s := settingsOf(&meta.Topic{Name: name})
		for _, leads := range []bool{true, false} {
			if got := s.of(leads).DeadLetters; got != want {
				t.Errorf("%s, leading %v: %v", name, leads, got)
			}
		}
	}
}
