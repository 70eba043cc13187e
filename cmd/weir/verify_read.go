package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

// committed are the extents of a topic up to the high watermark, which readers of committed records reach when all transactions are over that are open now; nil when
// there is no such topic.
func committed(g *Globals, adm *kadm.Client, topic string) (map[int32]extent, error) {
	starts, err := adm.ListStartOffsets(g.Ctx, topic)
	if err != nil {
		return nil, err
	}
	ends, err := adm.ListEndOffsets(g.Ctx, topic)
	if err != nil {
		return nil, err
	}
	parts := map[int32]extent{}
	for p, end := range ends[topic] {
		if absent(end.Err) && len(ends[topic]) == 1 {
			return nil, nil
		}
		start, _ := starts.Lookup(topic, p)
		for _, o := range []kadm.ListedOffset{start, end} {
			if o.Err != nil {
				return nil, fmt.Errorf("topic %s partition %d: %w", topic, p, o.Err)
			}
		}
		parts[p] = extent{start: start.Offset, at: start.Offset, end: end.Offset}
	}
	return parts, nil
}

// read passes committed records of the extents to fn.
func (v *verification) read(client func(...kgo.Opt) (*kgo.Client, error), topic string, parts map[int32]extent, bar *progress, fn func(*kgo.Record) error) error {
	s := newScan(topic, parts)
	if s.finished() {
		return nil
	}
	cl, err := client(append(s.opts(true), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxPartitionBytes(4<<20), kgo.FetchMaxBytes(16<<20))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for !s.finished() {
		fetches := cl.PollFetches(v.g.Ctx)
		if err := pollError(v.g.Ctx, fetches); err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); {
			if r := it.Next(); s.seen(r) && !r.Attrs.IsControl() {
				if err := fn(r); err != nil {
					return err
				}
			}
		}
		bar.add(int64(fetches.NumRecords()))
	}
	return nil
}

func (v *verification) atTarget(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(v.opts[:len(v.opts):len(v.opts)], opts...)...)
}

// readCursors reads what the target says that it has, and what it will never get.
func (v *verification) readCursors() error {
	v.cursors, v.gaps, v.former = map[origin]confirmedOffsets{}, map[origin]int64{}, map[string]bool{}
	parts, err := committed(v.g, v.target, cursorsTopic)
	if err != nil || parts == nil {
		return err
	}
	gapsAt := map[string]int64{} // the last of each key counts
	defer func() {
		for key, n := range gapsAt {
			rest := strings.Split(key, "/") // gap/<cluster>/<topic>/<partition>/<first>
			if p, err := strconv.ParseInt(rest[len(rest)-2], 10, 32); err == nil {
				v.gaps[origin{rest[len(rest)-3], int32(p)}] += n
			}
		}
	}()
	return v.read(v.atTarget, cursorsTopic, parts, nil, func(r *kgo.Record) error {
		key := string(r.Key)
		if strings.HasPrefix(key, "gap/"+v.plan.Cluster+"/") && strings.Count(key, "/") == 4 {
			var g struct{ From, To int64 }
			if json.Unmarshal(r.Value, &g) == nil {
				gapsAt[key] = g.To - g.From
			}
			return nil
		}
		if !strings.HasPrefix(key, v.plan.Cluster+"/"+v.plan.Name+"/") || r.Value == nil {
			return nil
		}
		var c confirmedOffsets
		if err := json.Unmarshal(r.Value, &c); err != nil {
			return fmt.Errorf("offset %d: %w", r.Offset, err)
		}
		id, err := log.ParseTopicID(strings.Split(key, "/")[2])
		switch {
		case err != nil:
			return fmt.Errorf("offset %d: %w", r.Offset, err)
		case id == v.ids[c.Topic]:
			v.cursors[origin{c.Topic, c.Partition}] = c
		case !v.former[c.Topic]:
			v.former[c.Topic] = true
			if _, there := v.ids[c.Topic]; there {
				v.note("%s was made anew here: records of the topic before it have the same origins, and what of them is at the target counts as there twice, as differing, or as not here", c.Topic)
			}
		}
		return nil
	})
}

// originOf reads the header of a record of this cluster: the last, since a record that was carried before has one from there too.
func (v *verification) originOf(r *kgo.Record) (at origin, offset int64, ok bool) {
	for _, h := range slices.Backward(r.Headers) {
		if h.Key != originHeader {
			continue
		}
		f := strings.Split(string(h.Value), "/")
		if len(f) != 4 || f[0] != v.plan.Cluster {
			return at, 0, false
		}
		p, err := strconv.ParseInt(f[2], 10, 32)
		offset, errOffset := strconv.ParseInt(f[3], 10, 64)
		return origin{f[1], int32(p)}, offset, err == nil && errOffset == nil && offset >= 0
	}
	return at, 0, false
}

// cameDown says whether the uplink itself brought a record to a topic here: those it does not carry. Behind mqtt.qos stand a device's own properties.
func (v *verification) cameDown(topic string, r *kgo.Record) bool {
	if !slices.Contains(v.plan.Down, topic) {
		return false
	}
	via := v.plan.Cluster + "/" + v.plan.Name
	for _, h := range r.Headers {
		if h.Key == "mqtt.qos" {
			return false
		}
		if h.Key == viaHeader && (string(h.Value) == via || strings.HasPrefix(string(h.Value), via+"/")) {
			return true
		}
	}
	return false
}

// readDead reads which records of a topic were put into its dead-letter topic.
func (v *verification) readDead(topic string) error {
	name := strings.TrimSuffix(topic, deadSuffix) + deadSuffix
	parts, err := committed(v.g, v.source, name)
	if err != nil || parts == nil {
		return err
	}
	n := 0
	return v.read(v.g.client, name, parts, nil, func(r *kgo.Record) error {
		at, offset, ok := v.originOf(r)
		if !ok || at.topic != topic || !slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "weir.uplink" && string(h.Value) == v.plan.Name }) {
			return nil
		}
		if n++; n > maxDead {
			return failf("more than %d dead letters in %s", maxDead, name)
		}
		if v.dead[at] == nil {
			v.dead[at] = map[int64]bool{}
		}
		v.dead[at][offset] = true
		return nil
	})
}

// stampsItself says whether the target writes its own time into the topic's records.
func (v *verification) stampsItself(remote string) bool {
	found, err := v.target.DescribeTopicConfigs(v.g.Ctx, remote)
	return err == nil && len(found) == 1 && slices.ContainsFunc(found[0].Configs, func(c kadm.Config) bool {
		return c.Key == "message.timestamp.type" && c.MaybeValue() == stampedByLog
	})
}

func sum(parts map[int32]extent) (n int64) {
	for e := range maps.Values(parts) {
		n += e.end - e.start
	}
	return n
}
