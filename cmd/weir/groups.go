package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// groupsCmd is `weir groups …`.
type groupsCmd struct {
	List     groupsListCmd     `cmd:"" help:"List consumer groups."`
	Describe groupsDescribeCmd `cmd:"" help:"Show a group's members, offsets and lag."`
	Reset    groupsResetCmd    `cmd:"" help:"Move a group's offsets."`
	Delete   groupsDeleteCmd   `cmd:"" help:"Delete groups with their offsets."`
}

type groupsListCmd struct{}

type groupRow struct {
	Group    string `json:"group"`
	State    string `json:"state"`
	Protocol string `json:"protocol_type"`
}

// Run lists the groups.
func (c *groupsListCmd) Run(g *Globals) error {
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	groups, err := adm.ListGroups(g.Ctx)
	if err != nil {
		return fail("list groups", err)
	}
	rows, t := []groupRow{}, newTable("GROUP", "STATE", "PROTOCOL")
	for _, l := range groups.Sorted() {
		rows = append(rows, groupRow{l.Group, l.State, l.ProtocolType})
		t.add(l.Group, l.State, l.ProtocolType)
	}
	return g.emit(rows, t)
}

type groupsDescribeCmd struct {
	Group string `arg:"" help:"The group."`
}

type groupDescription struct {
	Group       string      `json:"group"`
	State       string      `json:"state"`
	Protocol    string      `json:"protocol"`
	Coordinator int32       `json:"coordinator"`
	Lag         int64       `json:"lag"`
	Members     []memberRow `json:"members"`
	Partitions  []lagRow    `json:"partitions"`
}

type memberRow struct {
	Member   string `json:"member"`
	Instance string `json:"instance,omitempty"`
	Client   string `json:"client"`
	Host     string `json:"host"`
}

type lagRow struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // -1: none
	End       int64  `json:"end"`
	Lag       int64  `json:"lag"` // -1: unknown
	Member    string `json:"member,omitempty"`
	Error     string `json:"error,omitempty"`
}

// Run describes the group.
func (c *groupsDescribeCmd) Run(g *Globals) error {
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	d, err := describeGroup(g, adm, c.Group)
	if err != nil {
		return fail("describe group "+c.Group, err)
	}
	if g.JSON {
		return g.emit(d, nil)
	}
	fmt.Fprintf(g.Out, "group %s  state %s  protocol %s  coordinator %d  lag %d\n", printable(d.Group), d.State, cmp.Or(d.Protocol, "-"), d.Coordinator, d.Lag)
	if len(d.Members) > 0 {
		t := newTable("MEMBER", "INSTANCE", "CLIENT", "HOST")
		for _, m := range d.Members {
			t.add(m.Member, cmp.Or(m.Instance, "-"), m.Client, m.Host)
		}
		if err := t.write(g.Out); err != nil {
			return err
		}
	}
	t := newTable("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER")
	for _, r := range d.Partitions {
		t.add(r.Topic, r.Partition, dash(r.Committed), dash(r.End), dash(r.Lag), cmp.Or(r.Member, "-"))
	}
	return t.write(g.Out)
}

func dash(v int64) string {
	if v < 0 {
		return "-"
	}
	return fmt.Sprint(v)
}

func describeGroup(g *Globals, adm *kadm.Client, group string) (*groupDescription, error) {
	lags, err := adm.Lag(g.Ctx, group)
	if err != nil {
		return nil, err
	}
	l, ok := lags[group]
	if !ok {
		return nil, kerr.GroupIDNotFound
	}
	if errors.Is(l.DescribeErr, kerr.GroupIDNotFound) || l.State == "Dead" {
		return describeConsumers(g, adm, group)
	}
	if err := l.Error(); err != nil {
		return nil, err
	}
	d := &groupDescription{Group: group, State: l.State, Protocol: l.Protocol, Coordinator: l.Coordinator.NodeID, Members: []memberRow{}, Partitions: []lagRow{}}
	for _, m := range l.Members {
		row := memberRow{Member: m.MemberID, Client: m.ClientID, Host: m.ClientHost}
		if m.InstanceID != nil {
			row.Instance = *m.InstanceID
		}
		d.Members = append(d.Members, row)
	}
	for _, p := range l.Lag.Sorted() {
		row := lagRow{Topic: p.Topic, Partition: p.Partition, Committed: p.Commit.At, End: p.End.Offset, Lag: p.Lag}
		if p.Member != nil {
			row.Member = p.Member.MemberID
		}
		if p.Err != nil {
			row.Error = p.Err.Error()
		}
		d.Lag += max(0, p.Lag)
		d.Partitions = append(d.Partitions, row)
	}
	return d, nil
}

type groupsResetCmd struct {
	Group  string   `arg:"" help:"The group; none of its consumers may be running."`
	To     string   `required:"" help:"beginning, end, an offset, a time, --to=-100 (before the end) or --to=-15m."`
	Topic  []string `help:"Only this topic; repeatable. Needed for topics the group has not read yet."`
	DryRun bool     `help:"Show what would be done."`
}

type resetRow struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"` // -1: none
	To        int64  `json:"to"`
}

// Run moves the offsets and prints from where to where, also with --dry-run.
func (c *groupsResetCmd) Run(g *Globals) error {
	pos, err := parsePosition("--to", c.To, time.Now())
	if err != nil {
		return err
	}
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	rows, err := c.plan(g, adm, pos)
	if err == nil && !c.DryRun {
		var offsets kadm.Offsets
		for _, r := range rows {
			offsets.AddOffset(r.Topic, r.Partition, r.To, -1)
		}
		err = adm.CommitAllOffsets(g.Ctx, c.Group, offsets)
	}
	if err != nil {
		return fail("reset group "+c.Group, err)
	}
	t := newTable("TOPIC", "PARTITION", "FROM", "TO")
	for _, r := range rows {
		t.add(r.Topic, r.Partition, dash(r.From), r.To)
	}
	return g.emit(rows, t)
}

func (c *groupsResetCmd) plan(g *Globals, adm *kadm.Client, pos position) ([]resetRow, error) {
	members, err := runningMembers(g, adm, c.Group)
	switch {
	case err != nil:
		return nil, err
	case members > 0:
		return nil, fmt.Errorf("it has %d running members: %w", members, kerr.NonEmptyGroup)
	}
	committed, err := adm.FetchOffsets(g.Ctx, c.Group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // a new group may be given offsets before it first reads
		return nil, err
	}
	topics := slices.Clone(c.Topic)
	if len(topics) == 0 {
		topics = sortedKeys(committed)
	}
	if len(topics) == 0 {
		return nil, failure{errors.New("it has no offsets yet"), "name the topics with --topic"}
	}
	ext, err := extents(g, adm, pos, topics...)
	if err != nil {
		return nil, err
	}
	var rows []resetRow
	for _, topic := range sortedKeys(ext) {
		for _, p := range sortedKeys(ext[topic]) {
			row := resetRow{topic, p, -1, ext[topic][p].at}
			if o, ok := committed.Lookup(topic, p); ok {
				row.From = o.At
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

type groupsDeleteCmd struct {
	Groups []string `arg:"" name:"group" help:"Groups; none may have running consumers."`
}

// Run deletes the groups; what could be deleted is, also if another could not.
func (c *groupsDeleteCmd) Run(g *Globals) error {
	adm, err := g.admin()
	if err != nil {
		return err
	}
	defer adm.Close()
	resps, err := adm.DeleteGroups(g.Ctx, c.Groups...)
	if err != nil {
		return fail("delete groups", err)
	}
	t, deleted := newTable("DELETED"), []string{}
	for _, r := range resps.Sorted() {
		if r.Err != nil {
			err = errors.Join(err, fail("delete group "+r.Group, r.Err))
			continue
		}
		deleted = append(deleted, r.Group)
		t.add(r.Group)
	}
	if len(deleted) > 0 || err == nil {
		if e := g.emit(deleted, t); e != nil {
			return e
		}
	}
	return err
}
