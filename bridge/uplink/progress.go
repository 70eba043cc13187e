package uplink

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

// ProgressTopic is where a Kafka target keeps the cursors of all uplinks that write to it exactly once.
const ProgressTopic = "weir.uplinks"

// progressPartitions spreads the gateways of a fleet: each reads one partition when it begins.
const progressPartitions = 16

// progressTopic is the part of it that belongs to one uplink.
type progressTopic struct {
	cluster, uplink string
	partition       int32
	site            string
	claims          int32 // partition of the site's claim
	seen            *seenProgress
}

// seenProgress is what was read and written there over earlier connections of the same forwarder. The next one reads what is new: on a line that comes and goes there is
// no time to read hours of cursors that nobody has compacted yet.
type seenProgress struct {
	topic   kadm.TopicID
	next    int64 // below it everything of this uplink is in found
	found   map[log.PartitionID]progress
	last    *kgo.Record // the newest of this uplink below next, nil when there is none; as long as it stands, so does found (U5)
	claimed bool        // the site
}

// confirmed notes cursors that were committed, and the last record of them.
func (s *seenProgress) confirmed(cursors map[log.PartitionID]progress, last *kgo.Record) {
	if s.found == nil || last == nil || last.Offset < s.next {
		return
	}
	maps.Copy(s.found, cursors)
	s.next, s.last = last.Offset+1, last
}

func (k *progressTopic) prefix() string { return k.cluster + "/" + k.uplink + "/" }

// create makes the topic when it is not there, and finds the uplink's partition in it: the same for all shards, however many there are. Where it is there nobody needs leave
// to make topics.
func (k *progressTopic) create(ctx context.Context, admin *kadm.Client) error {
	made := false
	for { // a topic that was just made takes a moment to be known everywhere
		topics, err := admin.ListTopics(ctx, ProgressTopic)
		if err != nil {
			return err
		}
		d := topics[ProgressTopic]
		if n := len(d.Partitions); d.Err == nil && n > 0 {
			k.partition = int32(crc32.ChecksumIEEE([]byte(k.prefix())) % uint32(n))
			k.claims = int32(crc32.ChecksumIEEE([]byte(k.claimKey())) % uint32(n))
			if d.ID != k.seen.topic {
				*k.seen = seenProgress{topic: d.ID}
			}
			return nil
		}
		switch {
		case errors.Is(d.Err, kerr.UnknownTopicOrPartition) && !made:
			made = true
			compact, small := "compact", "1048576" // the segment that is written to is never compacted, and is read from its beginning
			_, err := admin.CreateTopic(ctx, progressPartitions, -1, map[string]*string{"cleanup.policy": &compact, "segment.bytes": &small}, ProgressTopic)
			if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
				return fmt.Errorf("create the topic %s, which keeps the cursors at the target: %w", ProgressTopic, err)
			}
			continue
		case d.Err != nil && !kerr.IsRetriable(d.Err):
			return fmt.Errorf("the topic %s: %w", ProgressTopic, d.Err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// read gives the uplink's cursors as committed. Nobody can commit others meanwhile: the transactional id is ours. It reads to the high watermark, and so waits for
// transactions of other gateways that are open there: what this uplink committed last may lie behind them, where readers of committed records do not come yet.
func (k *progressTopic) read(ctx context.Context, conn []kgo.Opt, admin *kadm.Client) (found map[log.PartitionID]progress, err error) {
	start, end, err := k.extent(ctx, admin, k.partition)
	if err != nil {
		return nil, err
	}
	found = map[log.PartitionID]progress{}
	var last *kgo.Record
	if k.seen.next > start && k.seen.next <= end {
		stands, err := k.stands(ctx, conn)
		if err != nil {
			return nil, err
		}
		if stands {
			start, last = k.seen.next, k.seen.last
			maps.Copy(found, k.seen.found)
		}
	}
	if err := k.scan(ctx, conn, k.partition, start, end, func(r *kgo.Record) error {
		if bytes.HasPrefix(r.Key, []byte(k.prefix())) {
			last = r
		}
		return k.take(found, r)
	}); err != nil {
		return nil, err
	}
	k.seen.next, k.seen.found, k.seen.last = end, maps.Clone(found), last
	return found, nil
}

// stands says whether the newest record that was seen is where it was. A topic that has lost its end, or was restored from an older copy, may have been written on by other
// gateways since, and then its length says nothing. No other record has the same place and the same time in it; compaction leaves it there until this uplink has written a newer one.
func (k *progressTopic) stands(ctx context.Context, conn []kgo.Opt) (is bool, err error) {
	last := k.seen.last
	if last == nil {
		return true, nil
	}
	err = k.scan(ctx, conn, k.partition, last.Offset, last.Offset+1, func(r *kgo.Record) error {
		is = bytes.Equal(r.Key, last.Key) && bytes.Equal(r.Value, last.Value)
		return nil
	})
	return is, err
}

// extent is where a partition begins and ends.
func (k *progressTopic) extent(ctx context.Context, admin *kadm.Client, partition int32) (start, end int64, err error) {
	at := func(list func(context.Context, ...string) (kadm.ListedOffsets, error)) int64 {
		offsets, lerr := list(ctx, ProgressTopic)
		o, _ := offsets.Lookup(ProgressTopic, partition)
		if lerr = cmp.Or(lerr, o.Err); lerr != nil {
			err = fmt.Errorf("read %s, partition %d: %w", ProgressTopic, partition, lerr)
		}
		return o.Offset
	}
	start, end = at(admin.ListStartOffsets), at(admin.ListEndOffsets)
	return start, end, err
}

// scan passes the committed records of a partition to fn.
func (k *progressTopic) scan(ctx context.Context, conn []kgo.Opt, partition int32, start, end int64, fn func(*kgo.Record) error) error {
	if start >= end {
		return nil
	}
	what := fmt.Sprintf("read %s, partition %d", ProgressTopic, partition)
	most := int32(1 << 20)
	if end-start == 1 {
		most = 1 // its batch, however large it is, and none behind it
	}
	reader, err := kgo.NewClient(append(conn[:len(conn):len(conn)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{ProgressTopic: {partition: kgo.NewOffset().At(start)}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), // the last of them may be a marker
		kgo.FetchMaxBytes(most), kgo.FetchMaxPartitionBytes(most),
	)...)
	if err != nil {
		return err
	}
	defer reader.CloseAllowingRebalance()
	for next := start; next < end; {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		for r := range fetches.RecordsAll() {
			next = r.Offset + 1
			if r.Attrs.IsControl() || next > end {
				continue
			}
			if err := fn(r); err != nil {
				return fmt.Errorf("%s, offset %d: %w", what, r.Offset, err)
			}
		}
	}
	return nil
}

func (k *progressTopic) take(found map[log.PartitionID]progress, r *kgo.Record) error {
	rest, mine := bytes.CutPrefix(r.Key, []byte(k.prefix()))
	if !mine {
		return nil
	}
	id, err := parsePartitionKey(string(rest))
	if err != nil {
		return err
	}
	if r.Value == nil {
		delete(found, id)
		return nil
	}
	found[id], err = parseProgress(r.Value)
	return err
}

// record is a cursor for the target.
func (k *progressTopic) record(id log.PartitionID, p progress) *kgo.Record {
	return &kgo.Record{Topic: ProgressTopic, Partition: k.partition, Key: []byte(k.prefix() + partitionKey(id)), Value: p.encode()}
}

// gap tells the target what it will never get.
func (k *progressTopic) gap(p *part, s Span) *kgo.Record {
	value, err := json.Marshal(map[string]any{"from": s.From, "to": s.To, "reason": "deleted at the source before it was carried"})
	if err != nil {
		panic("BUG: a gap cannot be written: " + err.Error())
	}
	key := fmt.Sprintf("gap/%s/%s/%d/%d", k.cluster, p.log.Topic(), p.log.Index(), s.From)
	return &kgo.Record{Topic: ProgressTopic, Partition: k.partition, Key: []byte(key), Value: value}
}

// partitionKey names a partition for good: a topic of the same name that is made later is another one.
func partitionKey(id log.PartitionID) string { return fmt.Sprintf("%s/%d", id.Topic, id.Index) }

func parsePartitionKey(s string) (id log.PartitionID, err error) {
	topic, index, _ := strings.Cut(s, "/")
	if id.Topic, err = log.ParseTopicID(topic); err != nil {
		return id, err
	}
	n, err := strconv.ParseInt(index, 10, 32)
	if err != nil || n < 0 {
		return id, fmt.Errorf("%q names no partition", s)
	}
	id.Index = int32(n)
	return id, nil
}
