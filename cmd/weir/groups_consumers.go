package main

import (
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// runningMembers is how many members a group of either protocol has; a group that does not exist has none.
func runningMembers(g *Globals, adm *kadm.Client, group string) (int, error) {
	classic, err := adm.DescribeGroups(g.Ctx, group)
	if err != nil {
		return 0, err
	}
	if d := classic[group]; d.Err == nil && len(d.Members) > 0 {
		return len(d.Members), nil
	}
	consumers, err := adm.DescribeConsumerGroups(g.Ctx, group)
	if err != nil {
		return 0, nil // a broker that does not know of them has none
	}
	return len(consumers[group].Members), nil
}

// describeConsumers is describeGroup for one of the consumer protocol (KIP-848).
func describeConsumers(g *Globals, adm *kadm.Client, group string) (*groupDescription, error) {
	described, err := adm.DescribeConsumerGroups(g.Ctx, group)
	if err != nil {
		return nil, err
	}
	dg := described[group]
	if dg.Err != nil {
		return nil, dg.Err
	}
	d := &groupDescription{Group: group, State: dg.State, Protocol: dg.AssignorName, Coordinator: dg.Coordinator.NodeID, Members: []memberRow{}, Partitions: []lagRow{}}
	committed, err := adm.FetchOffsets(g.Ctx, group)
	if err != nil {
		return nil, err
	}
	rows := map[string]map[int32]lagRow{}
	add := func(topic string, partition int32, committed int64, member string) {
		if rows[topic] == nil {
			rows[topic] = map[int32]lagRow{}
		}
		rows[topic][partition] = lagRow{Topic: topic, Partition: partition, Committed: committed, End: -1, Lag: -1, Member: member}
	}
	committed.Each(func(o kadm.OffsetResponse) { add(o.Topic, o.Partition, o.At, "") })
	for _, m := range dg.Members {
		row := memberRow{Member: m.MemberID, Client: m.ClientID, Host: m.ClientHost}
		if m.InstanceID != nil {
			row.Instance = *m.InstanceID
		}
		d.Members = append(d.Members, row)
		for topic, partitions := range m.Assignment {
			for p := range partitions {
				at := int64(-1)
				if o, ok := committed.Lookup(topic, p); ok {
					at = o.At
				}
				add(topic, p, at, m.MemberID)
			}
		}
	}
	if len(rows) == 0 {
		return d, nil
	}
	starts, err := adm.ListStartOffsets(g.Ctx, sortedKeys(rows)...)
	if err != nil {
		return nil, err
	}
	ends, err := adm.ListEndOffsets(g.Ctx, sortedKeys(rows)...)
	if err != nil {
		return nil, err
	}
	for _, topic := range sortedKeys(rows) {
		for _, p := range sortedKeys(rows[topic]) {
			row := rows[topic][p]
			switch end, ok := ends.Lookup(topic, p); {
			case !ok:
				row.Error = kerr.UnknownTopicOrPartition.Error()
			case end.Err != nil:
				row.Error = end.Err.Error()
			default:
				row.End = end.Offset
				from := row.Committed
				if start, ok := starts.Lookup(topic, p); ok {
					from = max(from, start.Offset)
				}
				row.Lag = max(0, end.Offset-from)
			}
			d.Lag += max(0, row.Lag)
			d.Partitions = append(d.Partitions, row)
		}
	}
	return d, nil
}
