package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/log"
)

const (
	originHeader  = "weir.origin"
	viaHeader     = "weir.via"
	cursorsTopic  = "weir.uplinks" // at the target
	deadSuffix    = ".dlq"
	stampedByLog  = "LogAppendTime"
	maxDead       = 1 << 20 // dead letters that are kept in memory
	exactlyOnce   = "exactly_once"
	blocksAtATime = 1024 // of those that are looked at one by one: 32 KiB each
)

// verification compares the ends topic by topic: the target is read first, then the source, then what differs once more at both.
type verification struct {
	g      *Globals
	plan   *uplinkPlan
	opts   []kgo.Opt // of the target
	topics []string
	parts  map[origin]*carried
	pages  int

	source, target *kadm.Client
	ids            map[string]log.TopicID      // of the source's topics
	cursors        map[origin]confirmedOffsets // as the target has them
	noted          map[origin]confirmedOffsets // as the source has stored them
	gaps           map[origin]int64
	former         map[string]bool // topics of these names were made anew
	dead           map[origin]map[int64]bool
	starts         map[origin]int64
	foreign        map[string]int64 // records at the target that are not ours
	notes          []string
	forgotten      bool // the target has no cursors any more
}

// confirmedOffsets is a cursor as the target keeps it.
type confirmedOffsets struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"`
	Ahead     []struct{ From, To int64 }
	Left      []toldSpan
}

func (c *confirmedOffsets) has(offset int64) bool {
	for _, s := range c.Ahead {
		if offset >= s.From && offset < s.To {
			return true
		}
	}
	return offset < c.Next
}

func (v *verification) run() (err error) {
	if v.source, err = v.g.admin(); err != nil {
		return err
	}
	defer v.source.Close()
	if v.target, err = targetAdmin(v.opts); err != nil {
		return err
	}
	defer v.target.Close()
	topics, err := v.carriedTopics()
	if err != nil {
		return err
	}
	v.noteConfirmed()
	if err := v.readCursors(); err != nil { // first: what it has confirmed by now must be there
		return fmt.Errorf("read the cursors in %s at the target: %w", cursorsTopic, err)
	}
	if v.plan.Guarantee == exactlyOnce && len(v.cursors) == 0 {
		v.note("the target has no cursors of %s, in %s: what is stored here says what it had confirmed", v.plan.Name, cursorsTopic)
		v.forgotten = len(v.noted) > 0
	}
	v.dead, v.starts, v.foreign = map[origin]map[int64]bool{}, map[origin]int64{}, map[string]int64{}
	for _, t := range topics {
		if err := v.compare(t); err != nil {
			return err
		}
	}
	return nil
}

// carriedTopics are the topics of the source that the uplink names.
func (v *verification) carriedTopics() ([]string, error) {
	all, err := v.source.ListTopics(v.g.Ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	v.ids = map[string]log.TopicID{}
	for _, name := range all.Names() {
		v.ids[name] = log.TopicID(all[name].ID)
		carries := slices.ContainsFunc(v.plan.Topics, func(glob string) bool {
			ok, _ := path.Match(glob, name)
			return glob == name || ok && !strings.HasSuffix(name, deadSuffix) && name != cursorsTopic
		})
		if carries && (len(v.topics) == 0 || slices.Contains(v.topics, name)) {
			found = append(found, name)
		}
	}
	for _, t := range v.topics {
		if !slices.Contains(found, t) {
			return nil, usagef("--topic %s: the uplink %s carries no such topic from here", t, v.plan.Name)
		}
	}
	return found, nil
}

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

// compare reads a topic at both ends.
func (v *verification) compare(topic string) error {
	remote := v.plan.remote(topic)
	there, err := committed(v.g, v.target, remote)
	if err != nil {
		return err
	}
	here, err := committed(v.g, v.source, topic)
	if err != nil {
		return err
	}
	for p, e := range here {
		v.parts[origin{topic, p}] = newCarried()
		v.starts[origin{topic, p}] = e.start
	}
	if there == nil {
		v.note("the target has no topic %s", remote)
	}
	for _, p := range sortedKeys(there) {
		if e := there[p]; e.start > 0 {
			v.note("the target has deleted what is before offset %d of %s, partition %d: what of it is still here counts as missing", e.start, remote, p)
		}
	}
	stamped := !v.stampsItself(remote)
	if !stamped {
		v.note("timestamps of %s are not compared: the target stamps records itself (message.timestamp.type)", remote)
	}
	if err := v.readDead(topic); err != nil {
		return err
	}
	bar := newProgress(v.g, "target "+remote, sum(there))
	err = v.read(v.atTarget, remote, there, bar, func(r *kgo.Record) error { return v.arrived(topic, r, stamped) })
	bar.finish()
	if err != nil {
		return fmt.Errorf("read %s at the target: %w", remote, err)
	}
	if err := v.tellCursors(topic); err != nil {
		return err
	}
	bar = newProgress(v.g, "source "+topic, sum(here))
	err = v.read(v.g.client, topic, here, bar, func(r *kgo.Record) error {
		if v.cameDown(topic, r) {
			return nil
		}
		at := origin{topic, r.Partition}
		v.parts[at].expect(r.Offset, payloadHash(v.asCarried(at, r), stamped), v.confirmed(at, r.Offset), v.dead[at][r.Offset])
		return nil
	})
	bar.finish()
	if err != nil {
		return fmt.Errorf("read %s: %w", topic, err)
	}
	for p, e := range here {
		c := v.parts[origin{topic, p}]
		c.older = c.below(e.start)
	}
	return v.lookCloser(topic, remote, here, there, stamped)
}

// noteConfirmed takes what the source has stored of topics as they are now. A node of an earlier version says nothing.
func (v *verification) noteConfirmed() {
	if v.plan.Confirmed == nil {
		return
	}
	v.noted = map[origin]confirmedOffsets{}
	for _, c := range v.plan.Confirmed {
		if id, err := log.ParseTopicID(c.ID); err != nil || id != v.ids[c.Topic] {
			continue
		}
		o := confirmedOffsets{Topic: c.Topic, Partition: c.Partition, Next: int64(c.Next)}
		for _, s := range c.Ahead {
			o.Ahead = append(o.Ahead, struct{ From, To int64 }{int64(s.From), int64(s.To)})
		}
		for _, l := range c.Left {
			o.Left = append(o.Left, toldSpan{int64(l.From), int64(l.To), l.Filtered, l.Thinned, l.Averaged, l.Full})
		}
		v.noted[origin{c.Topic, c.Partition}] = o
	}
}

// confirmed says whether the target has to have a record: as it says itself with exactly_once, or as the source has noted. Where nobody has noted anything, what is before the
// last that has arrived counts.
func (v *verification) confirmed(at origin, offset int64) bool {
	if c, ok := v.cursors[at]; ok && v.plan.Guarantee == exactlyOnce && c.has(offset) {
		return true
	}
	if v.noted != nil {
		c, ok := v.noted[at]
		return ok && c.has(offset)
	}
	last := int64(-1)
	for _, l := range v.parts[at].last {
		last = max(last, l)
	}
	return v.plan.Guarantee != exactlyOnce && offset < last
}

// arrived notes a record of the target.
func (v *verification) arrived(topic string, r *kgo.Record, stamped bool) error {
	if stands, err := v.tellRules(topic, r, ours(r)); err != nil || stands {
		return err
	}
	at, offset, ok := v.originOf(r)
	c := v.parts[at]
	if !ok || at.topic != topic || c == nil {
		v.foreign[r.Topic]++
		return nil
	}
	before := len(c.pages)
	c.arrive(offset, payloadHash(r, stamped), r.Partition)
	v.pages += len(c.pages) - before
	return v.tooMany()
}

// tooMany bounds the memory.
func (v *verification) tooMany() error {
	if v.pages > maxCarriedPages {
		return failf("more than %d records to compare at once: name some of the topics with --topic", int64(maxCarriedPages)*pageOffsets)
	}
	return nil
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

// lookCloser finds which records differ in the blocks whose sums do, and which there are none of here.
func (v *verification) lookCloser(topic, remote string, here, there map[int32]extent, stamped bool) error {
	compacted := v.compacts(topic)
	for _, p := range sortedKeys(here) {
		at := origin{topic, p}
		c := v.parts[at]
		for blocks := range slices.Chunk(c.suspects(here[p].start), blocksAtATime) {
			hashes := map[int64]uint64{}
			among := func(offset int64) bool {
				for _, b := range blocks {
					if offset >= b.First && offset < b.Next {
						return true
					}
				}
				return false
			}
			if err := v.read(v.atTarget, remote, there, nil, func(r *kgo.Record) error {
				from, offset, ok := v.originOf(r)
				ours(r)
				if _, known := hashes[offset]; ok && from == at && among(offset) && !known { // the first counts, as before
					hashes[offset] = payloadHash(r, stamped)
				}
				return nil
			}); err != nil {
				return err
			}
			e := here[p]
			e.at, e.end = blocks[0].First, min(e.end, blocks[len(blocks)-1].Next)
			if err := v.read(v.g.client, topic, map[int32]extent{p: e}, nil, func(r *kgo.Record) error {
				if v.cameDown(topic, r) {
					return nil
				}
				if got, ok := hashes[r.Offset]; ok && got != payloadHash(v.asCarried(at, r), stamped) {
					c.differing.add(r.Offset)
				}
				delete(hashes, r.Offset)
				return nil
			}); err != nil {
				return err
			}
			if len(hashes) == 0 || compacted {
				continue
			}
			now, err := committed(v.g, v.source, topic) // retention goes on
			if err != nil {
				return err
			}
			for _, offset := range sortedKeys(hashes) {
				if offset >= now[p].start {
					c.strange.add(offset)
				}
			}
		}
		c.pages, c.rules.told, c.rules.means, c.rules.pages = nil, nil, nil, nil // of the next topic
	}
	v.pages = 0
	return nil
}

// compacts says whether the source may have taken records out that were carried. Who may not ask takes it for granted.
func (v *verification) compacts(topic string) bool {
	found, err := v.source.DescribeTopicConfigs(v.g.Ctx, topic)
	return err != nil || len(found) != 1 || found[0].Err != nil || slices.ContainsFunc(found[0].Configs, func(c kadm.Config) bool {
		return c.Key == "cleanup.policy" && strings.Contains(c.MaybeValue(), "compact")
	})
}

// stampsItself says whether the target writes its own time into the topic's records.
func (v *verification) stampsItself(remote string) bool {
	found, err := v.target.DescribeTopicConfigs(v.g.Ctx, remote)
	return err == nil && len(found) == 1 && slices.ContainsFunc(found[0].Configs, func(c kadm.Config) bool {
		return c.Key == "message.timestamp.type" && c.MaybeValue() == stampedByLog
	})
}

func (v *verification) note(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

func sum(parts map[int32]extent) (n int64) {
	for e := range maps.Values(parts) {
		n += e.end - e.start
	}
	return n
}

// verifyReport is the result, and its JSON form.
type verifyReport struct {
	Uplink     string            `json:"uplink"`
	To         string            `json:"to"`
	Partitions []verifyPartition `json:"partitions"`
	Notes      []string          `json:"notes,omitempty"`
	Forgotten  bool              `json:"forgotten,omitempty"` // the target has no cursors any more, and had confirmed records
}

type verifyPartition struct {
	Topic      string   `json:"topic"`
	Partition  int32    `json:"partition"`
	Records    int64    `json:"records"` // here
	Arrived    int64    `json:"arrived"` // different ones there
	Older      int64    `json:"older"`   // of those, what is no longer here
	Waiting    int64    `json:"waiting"` // not confirmed yet
	Missing    ranges64 `json:"missing"`
	Duplicates ranges64 `json:"duplicates"`
	Differing  ranges64 `json:"differing"`
	Strange    ranges64 `json:"strange"` // there, and no committed ones here
	Reordered  int64    `json:"reordered"`
	Dead       int64    `json:"dead"`
	Gaps       int64    `json:"gaps"`     // announced at the target: deleted here before they were carried
	LeftOut    int64    `json:"left_out"` // records here that a rule has left out
	Filtered   int64    `json:"filtered"` // what the target was told of them, and of those that are no longer here
	Thinned    int64    `json:"thinned"`
	Full       int64    `json:"full"`        // of which the log gave up for room, and kept a later one of their key
	Averaged   int64    `json:"averaged"`    // of which one record stands for several
	Unsaid     int64    `json:"unaccounted"` // more than it was told, or without the record that stands for them
}

func (v *verification) report() *verifyReport {
	r := &verifyReport{Uplink: v.plan.Name, To: v.plan.To, Partitions: []verifyPartition{}, Notes: v.notes, Forgotten: v.forgotten}
	for _, at := range sortedOrigins(v.parts) {
		c := v.parts[at]
		r.Partitions = append(r.Partitions, verifyPartition{
			Topic: at.topic, Partition: at.partition, Records: c.records, Arrived: c.arrived, Older: c.older, Waiting: c.waiting, Missing: c.missing,
			Duplicates: c.duplicates, Differing: c.differing, Strange: c.strange, Reordered: c.reordered, Dead: c.dead, Gaps: v.gaps[at],
			LeftOut: c.rules.found, Filtered: c.rules.counts.Filtered, Thinned: c.rules.counts.Thinned, Averaged: c.rules.counts.Averaged, Full: c.rules.counts.Full, Unsaid: v.unaccounted(c),
		})
	}
	for _, p := range r.Partitions {
		if p.Full > 0 {
			r.Notes = append(r.Notes, fmt.Sprintf("%d records of %s, partition %d, were given up here for room, as the target was told, and a later one of each key and interval was kept", p.Full, p.Topic, p.Partition))
		}
	}
	for _, topic := range sortedKeys(v.foreign) {
		r.Notes = append(r.Notes, fmt.Sprintf("%d records of %s at the target are not of this cluster's topic", v.foreign[topic], topic))
	}
	return r
}
