package uplink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

const (
	downRecords = 500             // at once
	downBytes   = 1 << 20         // of a fetch
	downLook    = time.Second     // how long a poll waits, and how often it is looked whether the uplink is paused
	downTopics  = 5 * time.Minute // how often it is looked for new partitions
)

// kafka takes a topic of the target down, exactly once: each record carries its place at the target, and who begins looks in the topic here which of them are
// there already, beyond what is stored.
func (d *down) kafka(ctx context.Context) error {
	if err := d.open(); err != nil {
		return err
	}
	conn, err := newKafkaTarget(&d.f.Config, d.f.Cluster, d.f.Site, 0, &seenProgress{}).connection()
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(conn,
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(downBytes), kgo.FetchMaxPartitionBytes(downBytes), kgo.MaxConcurrentFetches(1),
	)...)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	admin := kadm.NewClient(client)
	if d.there, err = d.found(); err != nil {
		return err
	}
	var looked time.Time
	following := map[int32]bool{}
	for ctx.Err() == nil && !d.f.isPaused() {
		if time.Since(looked) > downTopics {
			if err := d.follow(ctx, client, admin, following); err != nil {
				return err
			}
			looked = time.Now()
			d.told(nil)
		}
		poll, cancel := context.WithTimeout(ctx, downLook)
		fetches := client.PollRecords(poll, downRecords)
		cancel()
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return fmt.Errorf("read %s, partition %d, at the target: %w", d.cfg.From, e.Partition, e.Err)
			}
		}
		if err := d.takeDown(ctx, fetches); err != nil {
			return err
		}
	}
	if ctx.Err() != nil || !d.dirty {
		return nil
	}
	return d.save(ctx)
}

// takeDown has what was fetched committed here. How far it has come is stored once a second.
func (d *down) takeDown(ctx context.Context, fetches kgo.Fetches) error {
	var all []arrival
	next := map[int32]int64{}
	for r := range fetches.RecordsAll() {
		next[r.Partition] = r.Offset + 1
		switch {
		case d.goesRound(r):
			d.skip()
		default:
			a := d.fromKafka(r)
			if a.there = d.there[r.Partition][r.Offset]; !a.there || a.retain {
				all = append(all, a)
			}
		}
	}
	if err := d.put(ctx, all); err != nil {
		return fmt.Errorf("write to %s here: %w", d.cfg.Topic, err)
	}
	for p, o := range next {
		d.state.Next[p], d.dirty = o, true
		maps.DeleteFunc(d.there[p], func(at int64, _ bool) bool { return at < o })
		if len(d.there[p]) == 0 {
			delete(d.there, p)
		}
	}
	if !d.dirty || time.Since(d.saved) < saveEvery {
		return nil
	}
	return d.save(ctx)
}

// follow consumes the partitions that are not consumed yet, each from where it was. One that was made after the first start is taken from its beginning.
func (d *down) follow(ctx context.Context, client *kgo.Client, admin *kadm.Client, following map[int32]bool) error {
	at := func(list func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[int32]int64, error) {
		offsets, err := list(ctx, d.cfg.From)
		if err != nil {
			return nil, err
		}
		found := map[int32]int64{}
		for _, o := range offsets[d.cfg.From] {
			if o.Err != nil {
				return nil, o.Err
			}
			found[o.Partition] = o.Offset
		}
		if len(found) == 0 {
			return nil, kerr.UnknownTopicOrPartition
		}
		return found, nil
	}
	if err := d.sameTopic(ctx, admin, len(following) > 0); err != nil {
		return err
	}
	starts, err := at(admin.ListStartOffsets)
	if err != nil {
		return fmt.Errorf("topic %s at the target: %w", d.cfg.From, err)
	}
	ends, err := at(admin.ListEndOffsets)
	if err != nil {
		return fmt.Errorf("topic %s at the target: %w", d.cfg.From, err)
	}
	add := map[int32]kgo.Offset{}
	first := len(d.state.Next) == 0 && !d.anew
	for p, start := range starts {
		if following[p] {
			continue
		}
		end := max(ends[p], start)
		next, known := d.state.Next[p]
		switch {
		case !known && first && d.cfg.Start == startEnd:
			next = end
		case !known:
			next = start
		case next < start:
			d.logger.Warn("records were deleted at the target before they came down", "partition", p, "from", next, "to", start)
			next = start
		case next > end:
			d.logger.Warn("the topic at the target was made anew: it is taken from its beginning", "partition", p, "was at", next, "ends at", end)
			next = start
		}
		d.state.Next[p] = next
		add[p], following[p] = kgo.NewOffset().At(next), true
	}
	if len(add) == 0 {
		return nil
	}
	if err := d.save(ctx); err != nil { // where the first start began
		return err
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{d.cfg.From: add})
	return nil
}

// sameTopic forgets how far the flow has come when the topic at the target is another one of the same name, however long that is by now.
func (d *down) sameTopic(ctx context.Context, admin *kadm.Client, consumed bool) error {
	topics, err := admin.ListTopics(ctx, d.cfg.From)
	if err != nil {
		return fmt.Errorf("topic %s at the target: %w", d.cfg.From, err)
	}
	id := topics[d.cfg.From].ID
	if id == (kadm.TopicID{}) { // it is not there, or its broker has no ids
		return nil
	}
	if d.state.ID != "" && d.state.ID != id.String() {
		if consumed {
			return fmt.Errorf("topic %s at the target was made anew", d.cfg.From)
		}
		d.logger.Warn("the topic at the target was made anew: it is taken from its beginning", "was", d.state.ID, "is", id)
		d.state.Next, d.there, d.anew = map[int32]int64{}, nil, true
	}
	d.state.ID = id.String()
	return nil
}

func (d *down) goesRound(r *kgo.Record) bool {
	for _, h := range r.Headers {
		if h.Key == OriginHeader && d.own(string(h.Value)) {
			return true
		}
	}
	return false
}

// fromKafka is a record as it stands here: its topic and place at the target first, then its headers but those that say something about the target's MQTT only.
func (d *down) fromKafka(r *kgo.Record) arrival {
	a := arrival{Record: log.Record{Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value, Headers: make([]log.Header, 2, len(r.Headers)+4)}, retain: d.cfg.Retain}
	given := log.Record{Key: r.Key, Headers: make([]log.Header, 0, len(r.Headers))}
	for _, h := range r.Headers {
		given.Headers = append(given.Headers, log.Header{Key: []byte(h.Key), Value: h.Value})
	}
	ours, topic := true, false
	for _, h := range given.Headers {
		switch name := string(h.Key); {
		case ours && name == headerTopic && !topic:
			topic = true
			continue
		case ours && (name == headerQoS2 || name == headerClient):
			continue
		case ours && name == headerRetain:
			a.retain = a.retain || string(h.Value) == "1"
			continue
		case name == headerQoS:
			ours = false
		}
		a.Headers = append(a.Headers, h)
	}
	d.head(&a, &given, fmt.Appendf(nil, "%s/%s/%d/%d", d.f.via(), r.Topic, r.Partition, r.Offset))
	return a
}

// head gives an arrival its first headers: the topic under which devices see it, and where it comes from.
func (d *down) head(a *arrival, given *log.Record, via []byte) {
	topic := d.to.appendTopic(nil, d.cfg.Topic, given)
	if fault := topicFault(topic); fault != "" {
		a.refused = fmt.Errorf("its MQTT topic would be %.128q: %s", topic, fault)
	} else if topic[0] == '$' {
		a.refused = fmt.Errorf("its MQTT topic would be %.128q: what begins with $ is the broker's own", topic)
	}
	a.Headers[0] = log.Header{Key: []byte(headerTopic), Value: topic}
	a.Headers[1] = log.Header{Key: []byte(ViaHeader), Value: via}
	if a.retain {
		a.Headers = append(a.Headers[:2], append([]log.Header{{Key: []byte(headerRetain), Value: []byte("1")}}, a.Headers[2:]...)...)
	}
}
