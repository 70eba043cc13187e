package main

import (
	"fmt"
	"path"
	"slices"
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
