package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/bridge/kafka"
	"github.com/weir-io/weir/bridge/uplink"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/deliver"
)

// uplinks is the node's side of the room uplink: it runs the shards that this node owns, which are those whose cursors stand in a partition of __uplinks that it
// leads (as with sessions, M11), follows all cursors so that retention keeps what is not carried, and answers operators.
type uplinks struct {
	node   *node
	broker atomic.Pointer[cluster.Broker] // nil until it is open; the log asks before
	table  *stateTable                    // with follow, nil until there is an uplink
	follow *followed

	mu      sync.Mutex
	configs []uplink.Config
	changed chan struct{}                             // holds a token once configs are others
	cursors map[string]map[log.PartitionID]log.Offset // by uplink: where it must go on
	paused  map[string]bool
	owned   map[int]int32 // partitions of the table that this node leads, and in which term
	running map[shardName]*runningShard
	ending  []*runningShard // of a shard: whoever begins it again waits for them
	work    sync.WaitGroup
}

type shardName struct {
	uplink string
	shard  int
}

type runningShard struct {
	name      shardName
	forwarder *uplink.Forwarder
	config    uplink.Config
	stop      context.CancelFunc
	done      chan struct{}
}

// pausedKey is where the table keeps an operator's word.
const pausedKey = "paused/"

func newUplinks(n *node) *uplinks {
	return &uplinks{
		node: n, configs: n.cfg.Uplinks, changed: make(chan struct{}, 1), cursors: map[string]map[log.PartitionID]log.Offset{}, paused: map[string]bool{},
		owned: map[int]int32{}, running: map[shardName]*runningShard{},
	}
}

// handle answers the calls of other nodes, and the log.
func (u *uplinks) handle() {
	u.broker.Store(u.node.broker)
	u.node.broker.HandleCalls(methodUplinks, func(context.Context, *rpc.Request) (rpc.Answer, error) {
		return rpc.Answer{Control: u.own()}, nil
	})
	u.node.broker.HandleCalls(methodUplinkAccept, func(_ context.Context, r *rpc.Request) (rpc.Answer, error) {
		var o uplinkOrder
		if err := rpc.Decode(r.Control, &o); err != nil {
			return rpc.Answer{}, err
		}
		return rpc.Answer{Control: u.acceptHere(o)}, nil
	})
}

// list gives the uplinks that are configured.
func (u *uplinks) list() []uplink.Config {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.configs
}

// resharded refuses what cannot change while a node runs: a partition would be carried under two transactional ids, by nodes that have read the file and others.
func (u *uplinks) resharded(configs []uplink.Config) error {
	for i, c := range configs {
		for _, old := range u.list() {
			if old.Name == c.Name && old.Shards != c.Shards {
				return fmt.Errorf("uplinks[%d].shards: %s runs with %d: stop all nodes before you change that", i, c.Name, old.Shards)
			}
		}
	}
	return nil
}

// reload puts other uplinks in force. Those that stay as they are go on undisturbed.
func (u *uplinks) reload(configs []uplink.Config) {
	u.mu.Lock()
	u.configs = configs
	u.mu.Unlock()
	select {
	case u.changed <- struct{}{}:
	default:
	}
}

// run owns shards until ctx ends.
func (u *uplinks) run(ctx context.Context) error {
	for len(u.list()) == 0 {
		select {
		case <-u.changed:
		case <-ctx.Done():
			return nil
		}
	}
	var err error
	if u.table, err = openTable(ctx, u.node.broker, "__uplinks"); err != nil {
		return err
	}
	u.table.owned = true
	follow := newFollowed(u.node.broker, u.table)
	stopFollowing, err := follow.Follow(u.apply)
	if err != nil {
		return err
	}
	defer stopFollowing()
	u.mu.Lock()
	u.follow = follow
	u.mu.Unlock()
	u.table.starting = nil
	o := &owners{broker: u.node.broker, table: u.table.t}
	stop := o.Watch(func(p int, epoch int32) { u.gained(ctx, p, epoch) }, u.lost, func(int) {})
	for ctx.Err() == nil {
		select {
		case <-u.changed:
			u.arrange(ctx)
		case <-ctx.Done():
		}
	}
	stop()
	u.work.Wait()
	return nil
}

// apply follows the table.
func (u *uplinks) apply(key, value []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if name, ok := bytes.CutPrefix(key, []byte(pausedKey)); ok {
		u.paused[string(name)] = value != nil
		for s, r := range u.running {
			if s.uplink == string(name) {
				r.forwarder.Pause(value != nil)
			}
		}
		return
	}
	name, id, next, err := uplink.ParseCursor(key, value)
	switch {
	case errors.Is(err, uplink.ErrNoCursor):
	case err != nil:
		u.node.logger.Error("a stored cursor of an uplink cannot be read: nothing of its partition is deleted", "key", string(key), "error", err)
	case value == nil:
		delete(u.cursors[name], id)
	default:
		if u.cursors[name] == nil {
			u.cursors[name] = map[log.PartitionID]log.Offset{}
		}
		u.cursors[name][id] = next
	}
}

// hold is log.Config.Hold. What has no cursor, or none that is known here yet, is held as a whole.
func (u *uplinks) hold(id log.PartitionID) (from log.Offset, yield bool) {
	b := u.broker.Load()
	if b == nil {
		return 0, false
	}
	topic := b.Image().TopicByID(id.Topic)
	u.mu.Lock()
	defer u.mu.Unlock()
	if topic == nil || topic.Internal || len(u.configs) == 0 {
		return math.MaxInt64, true
	}
	from, yield = math.MaxInt64, true
	for i := range u.configs {
		c := &u.configs[i]
		if !c.Carries(topic.Name) {
			continue
		}
		from = min(from, u.cursors[c.Name][id]) // 0 where none is known yet
		yield = yield && c.Yields()
	}
	return from, yield
}

// thin is log.Config.Thin: the rules of those uplinks that have one for the topic, where all that carry it yield.
func (u *uplinks) thin(id log.PartitionID) (rules []log.Thinner) {
	if _, yield := u.hold(id); !yield {
		return nil
	}
	topic := u.broker.Load().Image().TopicByID(id.Topic)
	if topic == nil || topic.Internal {
		return nil
	}
	for _, c := range u.list() {
		if c.Carries(topic.Name) {
			if rule := c.Thinner(topic.Name); rule != nil {
				rules = append(rules, rule)
			}
		}
	}
	return rules
}

// partitionOf is where the cursors of a shard stand.
func (u *uplinks) partitionOf(s shardName) int {
	return int(crc32.ChecksumIEEE(fmt.Appendf(nil, "%s/%d", s.uplink, s.shard)) % uint32(u.table.Partitions()))
}

// gained begins the shards whose cursors stand in a partition that this node leads now.
func (u *uplinks) gained(ctx context.Context, partition int, epoch int32) {
	u.mu.Lock()
	if u.owned[partition] != epoch {
		u.end(partition) // of an earlier term
	}
	u.owned[partition] = epoch
	u.mu.Unlock()
	u.arrange(ctx)
}

// lost ends them.
func (u *uplinks) lost(partition int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.owned, partition)
	u.end(partition)
}

// end stops the shards of a partition. Under mu.
func (u *uplinks) end(partition int) {
	for name, r := range u.running {
		if u.partitionOf(name) == partition {
			u.endShard(name, r)
		}
	}
}

func (u *uplinks) endShard(name shardName, r *runningShard) {
	r.stop()
	delete(u.running, name)
	u.ending = append(u.ending, r)
}

// arrange runs what is to run: shards of configured uplinks that this node owns, as they are configured now.
func (u *uplinks) arrange(ctx context.Context) {
	u.mu.Lock()
	defer u.mu.Unlock()
	wanted := map[shardName]uplink.Config{}
	for _, c := range u.configs {
		for shard := range c.Shards {
			wanted[shardName{c.Name, shard}] = c
		}
	}
	for name, r := range u.running {
		if c, ok := wanted[name]; ok && c.Same(&r.config) {
			delete(wanted, name)
			continue
		}
		u.endShard(name, r)
	}
	u.ending = slices.DeleteFunc(u.ending, func(r *runningShard) bool {
		select {
		case <-r.done:
			return true
		default:
			return false
		}
	})
	for name, c := range wanted {
		if epoch, mine := u.owned[u.partitionOf(name)]; mine {
			u.begin(ctx, c, name, mqtt.Ownership{Partition: u.partitionOf(name), Epoch: epoch}, u.before(name))
		}
	}
}

// before are those in the way of a shard: only itself has its cursors, its transactional id and its client identifier. Under mu.
func (u *uplinks) before(name shardName) (before []*runningShard) {
	for _, r := range u.ending {
		if r.name == name {
			before = append(before, r)
		}
	}
	return before
}

// begin runs a shard, once those have ended that are in its way. Under mu.
func (u *uplinks) begin(ctx context.Context, c uplink.Config, name shardName, o mqtt.Ownership, before []*runningShard) {
	ctx, stop := context.WithCancel(ctx)
	r := &runningShard{name: name, config: c, stop: stop, done: make(chan struct{})}
	r.forwarder = uplink.New(uplink.Options{
		Config: c, Shard: name.shard, Cluster: u.node.broker.ClusterID(), Site: u.node.cfg.Node.Site,
		Source: uplinkSource{source{u.node.broker}}, Store: uplinkStore{u.table, o}, DeadLetter: u.node.deadLetter, Inlet: inlet{u.node, o},
		Logger: u.node.logger.With("room", "uplink", "uplink", c.Name),
	})
	u.running[name] = r
	r.forwarder.Pause(u.paused[c.Name])
	u.work.Go(func() {
		defer close(r.done)
		for _, b := range before {
			<-b.done
		}
		for ctx.Err() == nil {
			if err := r.forwarder.Run(ctx); err != nil && ctx.Err() == nil {
				u.node.logger.Warn("an uplink cannot begin yet", "uplink", c.Name, "error", err)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		}
	})
}

// own says how the shards of this node do.
func (u *uplinks) own() []uplink.Status {
	u.mu.Lock()
	all := make([]*uplink.Forwarder, 0, len(u.running))
	for _, r := range u.running {
		all = append(all, r.forwarder)
	}
	u.mu.Unlock()
	found := make([]uplink.Status, 0, len(all))
	for _, f := range all {
		s := f.Status()
		s.Node = u.node.cfg.Node.ID
		found = append(found, s)
	}
	slices.SortFunc(found, func(a, b uplink.Status) int {
		return cmp.Or(cmp.Compare(a.Uplink, b.Uplink), cmp.Compare(a.Shard, b.Shard))
	})
	return found
}

// acceptHere passes an operator's word to the shards of this node, and says for how many it was.
func (u *uplinks) acceptHere(o uplinkOrder) (heard int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for name, r := range u.running {
		if name.uplink == o.Uplink && r.forwarder.Accept(o.From) == nil {
			heard++
		}
	}
	return heard
}

// pause is an operator's word, for whoever owns the shards now and later.
func (u *uplinks) pause(ctx context.Context, name string, paused bool) error {
	var value []byte
	if paused {
		value = []byte("paused")
	}
	u.mu.Lock()
	follow := u.follow
	u.mu.Unlock()
	if follow == nil {
		return fmt.Errorf("the node has just begun to run uplinks: ask again: %w", kafka.ErrOperation)
	}
	done := make(chan error, 1)
	follow.Put([]byte(pausedKey+name), value, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// uplinkSource is uplink.Source over all topics that are not internal.
type uplinkSource struct{ source }

func (s uplinkSource) Watch(added func(uplink.Log), removed func(log.PartitionID)) (stop func()) {
	return s.source.Watch(func(l deliver.Log) { added(uplinkLog{l, s.broker}) }, removed)
}

// uplinkLog is uplink.Log, and says where it is read.
type uplinkLog struct {
	deliver.Log
	broker *cluster.Broker
}

// Leader is whom the partition is read from where there is no replica here.
func (l uplinkLog) Leader() (node int32, is bool) {
	id := l.ID()
	if d, is := l.Log.(*deliverLog); is {
		if _, here := d.now().(*cluster.Partition); here {
			return 0, false
		}
	}
	t := l.broker.Image().TopicByID(id.Topic)
	if t == nil || int(id.Index) >= len(t.Partitions) || t.Partitions[id.Index].Leader == l.broker.NodeID() {
		return 0, false
	}
	return t.Partitions[id.Index].Leader, true
}

// uplinkStore is uplink.Store in one term of the partition that a shard's cursors stand in.
type uplinkStore struct {
	table *stateTable
	in    mqtt.Ownership
}

func (s uplinkStore) Load(fn func(key, value []byte) error) error {
	return s.table.Load(s.in.Partition, fn)
}

func (s uplinkStore) Put(key, value []byte, done func(error)) { s.table.Put(s.in, key, value, done) }

// deadLetter is uplink.DeadLetter.
func (n *node) deadLetter(ctx context.Context, topic string, r *log.Record) error {
	parts, err := sink{broker: n.broker, spec: n.topicSpec}.Topic(topic)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	if err := parts[mqtt.PartitionFor(r.Key, len(parts))].Append(r, &putWaiter{func(err error) { done <- err }}, 0); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var (
	_ uplink.Source  = uplinkSource{}
	_ uplink.Store   = uplinkStore{}
	_ cluster.Waiter = (*putWaiter)(nil)
)
