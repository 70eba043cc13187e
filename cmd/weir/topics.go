package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// topicsCmd is `weir topics …`.
type topicsCmd struct {
	List     topicsListCmd     `cmd:"" help:"List topics."`
	Create   topicsCreateCmd   `cmd:"" help:"Create a topic."`
	Describe topicsDescribeCmd `cmd:"" help:"Show partitions, offsets and settings of topics."`
	Alter    topicsAlterCmd    `cmd:"" help:"Change settings or add partitions."`
	Delete   topicsDeleteCmd   `cmd:"" help:"Delete topics with all their records."`
}

type topicsListCmd struct {
	Internal bool `help:"Include internal topics."`
}

type topicRow struct {
	Topic      string `json:"topic"`
	ID         string `json:"id,omitempty"`
	Partitions int    `json:"partitions"`
	Replicas   int    `json:"replicas"`
	Internal   bool   `json:"internal,omitempty"`
}

// topicID is Kafka's text form, as in the names of data directories; empty if the broker gave none.
func topicID(id kadm.TopicID) string {
	if id == (kadm.TopicID{}) {
		return ""
	}
	return log.TopicID(id).String()
}

// Run lists the topics.
func (c *topicsListCmd) Run(g *Globals) error {
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	topics, err := adm.ListTopicsWithInternal(g.Ctx)
	if err != nil {
		return fail("list topics", err)
	}
	rows, t := []topicRow{}, newTable("TOPIC", "PARTITIONS", "REPLICAS")
	for _, d := range topics.Sorted() {
		if d.IsInternal && !c.Internal {
			continue
		}
		r := topicRow{Topic: d.Topic, Partitions: len(d.Partitions), Replicas: d.Partitions.NumReplicas(), Internal: d.IsInternal}
		r.ID = topicID(d.ID)
		rows = append(rows, r)
		t.add(r.Topic, r.Partitions, r.Replicas)
	}
	return g.emit(rows, t)
}

type topicsCreateCmd struct {
	Name        string            `arg:"" help:"The topic."`
	Partitions  int32             `default:"-1" help:"Partitions (default: the node's)."`
	Replicas    int16             `default:"-1" help:"Replicas of each partition (default: the cluster's)."`
	Config      map[string]string `placeholder:"K=V" mapsep:"none" help:"Setting, by Kafka's name, as in retention.ms=86400000; repeatable."`
	IfNotExists bool              `help:"Succeed if the topic is there already."`
	DryRun      bool              `help:"Check only."`
}

// Run creates the topic.
func (c *topicsCreateCmd) Run(g *Globals) error {
	if c.Partitions == 0 || c.Partitions < -1 || c.Replicas == 0 || c.Replicas < -1 {
		return usagef("--partitions and --replicas must be 1 or more")
	}
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	configs := make(map[string]*string, len(c.Config))
	for k, v := range c.Config {
		configs[k] = &v
	}
	create := adm.CreateTopics
	if c.DryRun {
		create = adm.ValidateCreateTopics
	}
	resps, err := create(g.Ctx, c.Partitions, c.Replicas, configs, c.Name)
	if err != nil {
		return fail("create topic "+c.Name, err)
	}
	r := resps[c.Name]
	if c.IfNotExists && isExists(r.Err) {
		r.Err = nil
	}
	if r.Err != nil {
		return fail("create topic "+c.Name, withMessage(r.Err, r.ErrMessage))
	}
	row := topicRow{Topic: c.Name, Partitions: int(r.NumPartitions), Replicas: int(r.ReplicationFactor)}
	row.ID = topicID(r.ID)
	t := newTable("TOPIC", "PARTITIONS", "REPLICAS")
	t.add(row.Topic, row.Partitions, row.Replicas)
	return g.emit(row, t)
}

type topicsDescribeCmd struct {
	Names []string `arg:"" name:"topic" help:"Topics."`
}

type topicDescription struct {
	topicRow
	Parts   []partitionRow `json:"partition_list"`
	Configs []configRow    `json:"configs"`
}

type partitionRow struct {
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"`
	LeaderEpoch int32   `json:"leader_epoch"`
	Replicas    []int32 `json:"replicas"`
	ISR         []int32 `json:"isr"`
	Start       int64   `json:"start"`
	End         int64   `json:"end"`
	Offline     bool    `json:"offline,omitempty"` // takes no records: its log is missing or damaged
	Error       string  `json:"error,omitempty"`
}

type configRow struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Run describes the topics.
func (c *topicsDescribeCmd) Run(g *Globals) error {
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	out := []topicDescription{}
	for _, name := range c.Names {
		d, err := describeTopic(g, adm, name)
		if err != nil {
			return fail("describe topic "+name, err)
		}
		out = append(out, d)
	}
	if g.JSON {
		return g.emit(out, nil)
	}
	for i, d := range out {
		if i > 0 {
			fmt.Fprintln(g.Out)
		}
		if err := d.print(g); err != nil {
			return err
		}
	}
	return nil
}

func describeTopic(g *Globals, adm *kadm.Client, name string) (topicDescription, error) {
	var d topicDescription
	topics, err := adm.ListTopicsWithInternal(g.Ctx, name)
	if err != nil {
		return d, err
	}
	td := topics[name]
	if td.Err != nil {
		return d, td.Err
	}
	d.topicRow = topicRow{Topic: name, Partitions: len(td.Partitions), Replicas: td.Partitions.NumReplicas(), Internal: td.IsInternal}
	d.ID = topicID(td.ID)
	starts, err := adm.ListStartOffsets(g.Ctx, name)
	if err != nil {
		return d, err
	}
	ends, err := adm.ListEndOffsets(g.Ctx, name)
	if err != nil {
		return d, err
	}
	for _, p := range td.Partitions.Sorted() {
		row := partitionRow{Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR, Start: -1, End: -1}
		if o, ok := starts.Lookup(name, p.Partition); ok && o.Err == nil {
			row.Start = o.Offset
		}
		if o, ok := ends.Lookup(name, p.Partition); ok && o.Err == nil {
			row.End = o.Offset
		}
		if p.Err != nil {
			row.Error = p.Err.Error()
		} else if row.Offline = slices.Contains(p.OfflineReplicas, p.Leader); row.Offline {
			row.Error = "its log is missing or damaged: the node's log and /api/v1/status say why"
		}
		d.Parts = append(d.Parts, row)
	}
	resources, err := adm.DescribeTopicConfigs(g.Ctx, name)
	if err != nil {
		return d, err
	}
	r, err := resources.On(name, nil)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		return d, err
	}
	for _, cfg := range r.Configs {
		d.Configs = append(d.Configs, configRow{cfg.Key, cfg.MaybeValue(), sourceName(cfg.Source)})
	}
	slices.SortFunc(d.Configs, func(a, b configRow) int { return strings.Compare(a.Name, b.Name) })
	return d, nil
}

func sourceName(s kmsg.ConfigSource) string {
	return strings.ToLower(strings.ReplaceAll(s.String(), "_", "-"))
}

func (d *topicDescription) print(g *Globals) error {
	fmt.Fprintf(g.Out, "topic %s", d.Topic)
	if d.ID != "" {
		fmt.Fprintf(g.Out, "  id %s", d.ID)
	}
	fmt.Fprintln(g.Out)
	t := newTable("PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END")
	for _, p := range d.Parts {
		leader := fmt.Sprint(p.Leader)
		if p.Leader < 0 {
			leader = "none"
		}
		t.add(p.Partition, leader, p.LeaderEpoch, joinIDs(p.Replicas), joinIDs(p.ISR), p.Start, p.End)
	}
	if err := t.write(g.Out); err != nil {
		return err
	}
	for _, p := range d.Parts {
		if p.Error != "" {
			fmt.Fprintf(g.Out, "partition %d is offline: %s\n", p.Partition, p.Error)
		}
	}
	fmt.Fprintln(g.Out)
	t = newTable("SETTING", "VALUE", "SOURCE")
	for _, c := range d.Configs {
		t.add(c.Name, c.Value, c.Source)
	}
	return t.write(g.Out)
}

func joinIDs(ids []int32) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = fmt.Sprint(id)
	}
	return strings.Join(s, ",")
}

type topicsAlterCmd struct {
	Name         string            `arg:"" help:"The topic."`
	Config       map[string]string `placeholder:"K=V" mapsep:"none" help:"Setting to change; repeatable."`
	DeleteConfig []string          `placeholder:"K" help:"Setting to put back to its default; repeatable."`
	Partitions   int               `help:"New total of partitions; keys then map to other partitions."`
	DryRun       bool              `help:"Check only."`
}

// Run alters the topic: settings first, so that a refused one leaves the partitions alone.
func (c *topicsAlterCmd) Run(g *Globals) error {
	if len(c.Config)+len(c.DeleteConfig) == 0 && c.Partitions == 0 {
		return usagef("topics alter: nothing to change; give --config K=V, --delete-config K or --partitions N")
	}
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	doing := "alter topic " + c.Name
	t := newTable("TOPIC", "CHANGE", "VALUE")
	type change struct {
		Topic  string `json:"topic"`
		Change string `json:"change"`
		Value  string `json:"value"`
	}
	changes := []change{}
	if n := len(c.Config) + len(c.DeleteConfig); n > 0 {
		var ops []kadm.AlterConfig
		for _, k := range sortedKeys(c.Config) {
			v := c.Config[k]
			ops = append(ops, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
			changes = append(changes, change{c.Name, k, v})
		}
		for _, k := range c.DeleteConfig {
			ops = append(ops, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
			changes = append(changes, change{c.Name, k, "default"})
		}
		alter := adm.AlterTopicConfigs
		if c.DryRun {
			alter = adm.ValidateAlterTopicConfigs
		}
		resps, err := alter(g.Ctx, ops, c.Name)
		if err != nil {
			return fail(doing, err)
		}
		for _, r := range resps {
			if r.Err != nil {
				return fail(doing, withMessage(r.Err, r.ErrMessage))
			}
		}
	}
	if c.Partitions != 0 {
		update := adm.UpdatePartitions
		if c.DryRun {
			update = adm.ValidateUpdatePartitions
		}
		resps, err := update(g.Ctx, c.Partitions, c.Name)
		if err != nil {
			return fail(doing, err)
		}
		if r := resps[c.Name]; r.Err != nil {
			return fail(doing, withMessage(r.Err, r.ErrMessage))
		}
		changes = append(changes, change{c.Name, "partitions", fmt.Sprint(c.Partitions)})
	}
	for _, ch := range changes {
		t.add(ch.Topic, ch.Change, ch.Value)
	}
	return g.emit(changes, t)
}

type topicsDeleteCmd struct {
	Names []string `arg:"" name:"topic" help:"Topics."`
}

// Run deletes the topics; what could be deleted is, also if another could not.
func (c *topicsDeleteCmd) Run(g *Globals) error {
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	resps, err := adm.DeleteTopics(g.Ctx, c.Names...)
	if err != nil {
		return fail("delete topics", err)
	}
	t, deleted := newTable("DELETED"), []string{}
	for _, r := range resps.Sorted() {
		if r.Err != nil {
			err = errors.Join(err, fail("delete topic "+r.Topic, withMessage(r.Err, r.ErrMessage)))
			continue
		}
		deleted = append(deleted, r.Topic)
		t.add(r.Topic)
	}
	if len(deleted) > 0 || err == nil {
		if e := g.emit(deleted, t); e != nil {
			return e
		}
	}
	return err
}

// withMessage keeps the broker's own words: they name the setting and say what it should be.
func withMessage(err error, message string) error {
	if message == "" {
		return err
	}
	return fmt.Errorf("%s: %w", message, err)
}
