package main

import (
	"github.com/weir-io/weir/bridge/uplink"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
)

// inlet is uplink.Inlet in one term of the partition that the shard's cursors stand in: what an owner before has on its way is refused by the partition's leader, as
// what a session's owner has is (M4).
type inlet struct {
	node *node
	in   mqtt.Ownership
}

func (i inlet) Topic(name string) ([]uplink.InletPartition, error) {
	n := i.node
	parts, err := sink{broker: n.broker, spec: n.topicSpec, sessions: n.uplinks.table.t.ID()}.Topic(name)
	if err != nil {
		return nil, err
	}
	all := make([]uplink.InletPartition, len(parts))
	for k, p := range parts {
		all[k] = inletPartition{p, i}
	}
	return all, nil
}

func (i inlet) PartitionFor(key []byte, partitions int) int {
	return mqtt.PartitionFor(key, partitions)
}

func (i inlet) Retain(r *log.Record, done func(error)) { i.node.mqtt.RetainRecord(r, done) }

type inletPartition struct {
	mqtt.Partition
	inlet inlet
}

func (p inletPartition) Append(r *log.Record, done func(error)) error {
	return p.AppendIn(p.inlet.in, r, &putWaiter{done}, 0)
}

func (p inletPartition) End() log.Offset { return p.LogEnd() }

var _ uplink.Inlet = inlet{}
