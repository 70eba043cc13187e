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
	"math"
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
	stalled         func(ctx context.Context, partition int32) (why string) // told when a reader of committed records waits; nil: nobody asks
}

// seenProgress is what was read and written there over earlier connections of the same forwarder. The next one reads what is new: on a line that comes and goes there is
// no time to read hours of cursors that nobody has compacted yet.
type seenProgress struct {
	topic   kadm.TopicID
	next    int64 // below it everything of this uplink is in found
	found   map[log.PartitionID]progress
	last    *kgo.Record // the newest of this uplink below next, nil when there is none; as long as it stands, so does found (U5)
	claimed bool        // the site
	ids     []int64     // the last producer ids, newest last (U11)
	stored  producerIDs // those that this cluster has kept
}

// wrote notes the producer id of a transaction. The target gives another one when the epochs of one are used up.
func (s *seenProgress) wrote(id int64) {
	if n := len(s.ids); n == 0 || s.ids[n-1] != id {
		s.ids = append(s.ids[max(0, n-1):], id)
	}
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
				*k.seen = seenProgress{topic: d.ID, stored: k.seen.stored, ids: k.seen.stored.at(d.ID)}
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
	return k.readTo(ctx, conn, admin, math.MaxInt64)
}

// readTo reads no further than an offset.
func (k *progressTopic) readTo(ctx context.Context, conn []kgo.Opt, admin *kadm.Client, limit int64) (found map[log.PartitionID]progress, err error) {
	start, end, err := k.extent(ctx, admin, k.partition)
	if err != nil {
		return nil, err
	}
	end = min(end, limit)
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

// scan passes the committed records of a partition of the topic to fn.
func (k *progressTopic) scan(ctx context.Context, conn []kgo.Opt, partition int32, start, end int64, fn func(*kgo.Record) error) error {
	var stalled func(context.Context) string
	if k.stalled != nil {
		stalled = func(ctx context.Context) string { return k.stalled(ctx, partition) }
	}
	return readExtent(ctx, append(conn[:len(conn):len(conn)], kgo.FetchIsolationLevel(kgo.ReadCommitted())), extent{ProgressTopic, partition, start, end}, stalled, func(r *kgo.Record) error {
		if r.Attrs.IsControl() {
			return nil
		}
		return fn(r)
	})
}

// extent is a range of offsets at the target.
type extent struct {
	topic      string
	partition  int32
	start, end int64
}

// A reader that gets nothing for stallAfter asks why, and again after each stallAgain.
const (
	stallAfter = 2 * time.Second
	stallAgain = 15 * time.Second
)

// readExtent passes the records of an extent to fn, markers of transactions among them.
func readExtent(ctx context.Context, conn []kgo.Opt, e extent, stalled func(context.Context) string, fn func(*kgo.Record) error) error {
	if e.start >= e.end {
		return nil
	}
	what, why := fmt.Sprintf("read %s, partition %d", e.topic, e.partition), ""
	most := int32(1 << 20)
	if e.end-e.start == 1 {
		most = 1 // its batch, however large it is, and none behind it
	}
	reader, err := kgo.NewClient(append(conn[:len(conn):len(conn)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{e.topic: {e.partition: kgo.NewOffset().At(e.start)}}),
		kgo.KeepControlRecords(), // the last of them may be a marker
		kgo.FetchMaxBytes(most), kgo.FetchMaxPartitionBytes(most),
	)...)
	if err != nil {
		return err
	}
	defer reader.CloseAllowingRebalance()
	patience := stallAfter
	for next := e.start; next < e.end; {
		poll, cancel := context.WithTimeout(ctx, patience)
		fetches := reader.PollFetches(poll)
		late := poll.Err() != nil && fetches.NumRecords() == 0
		cancel()
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w%s", what, context.Cause(ctx), why)
		}
		if late {
			if patience = stallAgain; stalled != nil {
				if told := stalled(ctx); told != "" {
					why = ": it " + told
				}
			}
			continue
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		for r := range fetches.RecordsAll() {
			next = r.Offset + 1
			if next > e.end {
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
