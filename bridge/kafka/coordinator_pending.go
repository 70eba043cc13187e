package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
	"github.com/weir-io/weir/cluster"
)

// Offsets that are committed in a transaction (TxnOffsetCommit) are pending until it ends. They are stored under keys of their own, of a version that Kafka does
// not have and its tools pass over, and become ordinary entries, or go, when the transaction's coordinator says so. Kafka writes ordinary entries in
// transactional batches, and everybody who reads the topic has to follow the transactions; here an entry that can be read is one that counts. The
// coordinator of the transaction asks again until it is answered, so a part that was done before a failure is only done again.

// pendingKeyVersion: "we".
const pendingKeyVersion = 0x7765

// transactionOf names one transaction of a producer, which keeps its id and epoch from one to the next.
type transactionOf struct{ producer, started int64 }

// pendingOffsets are a group's offsets of open transactions.
type pendingOffsets map[transactionOf]map[group.TopicPartition]group.Offset

// has tells whether a transaction is about to change the offset of a partition.
func (p pendingOffsets) has(at group.TopicPartition) bool {
	for _, offsets := range p {
		if _, ok := offsets[at]; ok {
			return true
		}
	}
	return false
}

func (p pendingOffsets) put(x transactionOf, at group.TopicPartition, o group.Offset) {
	if p[x] == nil {
		p[x] = map[group.TopicPartition]group.Offset{}
	}
	p[x][at] = o
}

func (p pendingOffsets) remove(x transactionOf, at group.TopicPartition) {
	delete(p[x], at)
	if len(p[x]) == 0 {
		delete(p, x)
	}
}

// pendingSize is about what one costs.
func pendingSize(at group.TopicPartition, o *group.Offset) int64 {
	return int64(128 + len(at.Topic) + len(o.Metadata))
}

// The key is int16 pendingKeyVersion | int64 producer | int64 started | key of the offset.
func encodePending(groupID string, x transactionOf, w *group.Write) (key, value []byte) {
	key = binary.BigEndian.AppendUint16(nil, pendingKeyVersion)
	key = binary.BigEndian.AppendUint64(key, uint64(x.producer))
	key = binary.BigEndian.AppendUint64(key, uint64(x.started))
	offset, value := encodeOffset(groupID, w)
	return append(key, offset...), value
}

// addPending takes an entry of pendingKeyVersion.
func (gs storedGroups) addPending(key, value []byte) error {
	const head = 2 + 8 + 8
	if len(key) < head {
		return fmt.Errorf("key of %d bytes", len(key))
	}
	x := transactionOf{int64(binary.BigEndian.Uint64(key[2:])), int64(binary.BigEndian.Uint64(key[10:]))}
	one := storedGroups{}
	if err := one.addOffset(key[head:], value); err != nil {
		return fmt.Errorf("pending: %w", err)
	}
	for id, g := range one {
		to := gs.get(id)
		if to.pending == nil {
			to.pending = pendingOffsets{}
		}
		for at, o := range g.offsets {
			to.pending.put(x, at, o)
		}
	}
	return nil
}

// pendingWrite is one entry on its way.
type pendingWrite struct {
	transactionOf
	at     group.TopicPartition
	offset group.Offset
	before *group.Offset // what the transaction had for the partition
}

// addPending notes an offset of a transaction. The group is locked.
func (c *coordinator) addPending(e *groupEntry, w *pendingWrite) {
	if e.pending == nil {
		e.pending = pendingOffsets{}
	}
	if o, there := e.pending[w.transactionOf][w.at]; there {
		w.before = &o
	}
	c.removePending(e, w.transactionOf, w.at)
	e.pending.put(w.transactionOf, w.at, w.offset)
	c.countPending(e, pendingSize(w.at, &w.offset))
}

func (c *coordinator) removePending(e *groupEntry, x transactionOf, at group.TopicPartition) {
	if o, there := e.pending[x][at]; there {
		e.pending.remove(x, at)
		c.countPending(e, -pendingSize(at, &o))
	}
}

func (c *coordinator) countPending(e *groupEntry, bytes int64) {
	e.pendingBytes += bytes
	c.bytes.Add(bytes)
}

// settlePending is told how a write ended; the group is locked.
func (c *coordinator) settlePending(e *groupEntry, w *pendingWrite, ok bool) {
	if now, there := e.pending[w.transactionOf][w.at]; ok || !there || now != w.offset {
		return
	}
	c.removePending(e, w.transactionOf, w.at)
	if w.before != nil { // which is still stored
		c.addPending(e, &pendingWrite{transactionOf: w.transactionOf, at: w.at, offset: *w.before})
	}
}

// pendingCode is the code for a refusal, in the words that TxnOffsetCommit has.
func pendingCode(f group.Fault) int16 {
	if f == group.StaleEpoch {
		return errIllegalGeneration
	}
	return groupCode[f]
}

// commitPending begins to store the offsets of a request that has been verified, as of the transaction that began at started, when ends transactions had ended in the term. With errNone, call has a code for each of them
// once call.done is closed. errConcurrentTransactions: one has ended meanwhile, verify again.
func (c *coordinator) commitPending(req *kmsg.TxnOffsetCommitRequest, t *term, ends uint64, started int64, call *commitCall) int16 {
	e, code := c.lock(req.Group, req.Generation < 0)
	switch {
	case code == errGroupIDNotFound:
		return errIllegalGeneration
	case code != errNone:
		return code
	}
	before := e.g.State()
	now := time.Now()
	defer func() { c.unlock(e, before, group.Effects{}) }()
	if e.term != t || t.ends.Load() != ends {
		return errConcurrentTransactions
	}
	by := group.CommitRequest{MemberID: req.MemberID, Instance: text(req.InstanceID), Generation: req.Generation, KnowsEpochs: true}
	named := req.Generation >= 0 || req.MemberID != "" || req.InstanceID != nil // clients before v3 do not say who they are
	if named {
		// A rebalance that is being completed does not matter: Kafka looks at that only outside of transactions, and some clients do not expect to hear of it.
		if f := e.g.MayCommit(by, now); f != group.OK && f != group.RebalanceInProgress {
			return pendingCode(f)
		}
	}
	writes := map[int]pendingWrite{}
	for _, rt := range req.Topics {
		partitions, exists := c.cfg.partitionsOf(rt.Topic)
		id := c.topics.Load().ID(rt.Topic)
		for _, p := range rt.Partitions {
			i := len(call.codes)
			call.codes = append(call.codes, errNone)
			w := pendingWrite{
				transactionOf: transactionOf{req.ProducerID, started}, at: group.TopicPartition{Topic: rt.Topic, Partition: p.Partition},
				offset: group.Offset{Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: text(p.Metadata), CommitTime: now.UnixMilli(), ExpireTime: -1},
			}
			switch {
			case !exists || p.Partition < 0 || p.Partition >= partitions:
				call.codes[i] = errUnknownTopicOrPartition
				continue
			case named && e.g.MayCommitAt(by, assign.Partition{Topic: id, Index: p.Partition}) != group.OK:
				call.codes[i] = errIllegalGeneration
				continue
			case len(w.offset.Metadata) > c.cfg.MaxOffsetMetadataBytes:
				call.codes[i] = errOffsetMetadataTooLarge
				continue
			case c.full(int(pendingSize(w.at, &w.offset))):
				call.codes[i] = errInvalidCommitOffsetSize
				continue
			}
			c.addPending(e, &w) // at once: if this request's client does not live to hear of it, the transaction may still be committed
			writes[i] = w
		}
	}
	call.begin(len(writes))
	for i, w := range writes {
		key, value := encodePending(e.id, w.transactionOf, &group.Write{At: w.at, Offset: w.offset})
		c.cfg.table.PutIn(t.partition, t.epoch, key, value, func(err error) {
			c.report(outcome{e: e, err: err, pending: &w, call: call, index: i})
		})
	}
	return errNone
}

// endTransaction applies or drops the pending offsets of a transaction in all groups of a partition, and returns when that is stored. It may be asked again, and late: then
// there is nothing. What earlier transactions of the producer have left there goes as well.
func (c *coordinator) endTransaction(ctx context.Context, partition int32, x transactionOf, commit bool) error {
	if c == nil || partition < 0 || int(partition) >= len(c.terms) {
		return cluster.ErrUnknownTopic
	}
	t, code := c.serves(partition)
	if code != errNone {
		return fmt.Errorf("groups of partition %d: %w", partition, cluster.ErrNotLeader)
	}
	t.ends.Add(1) // before looking: what is verified from now on belongs to a later transaction
	t.mu.RLock()
	entries, serving := slices.Collect(maps.Values(t.groups)), t.serving() && t.groups != nil
	t.mu.RUnlock()
	if !serving {
		return fmt.Errorf("groups of partition %d: %w", partition, cluster.ErrNotLeader)
	}
	for _, e := range entries {
		if err := c.endPending(ctx, e, x, commit); err != nil {
			return fmt.Errorf("group %q: %w", e.id, err)
		}
	}
	return nil
}

// endPending does it for one group.
func (c *coordinator) endPending(ctx context.Context, e *groupEntry, x transactionOf, commit bool) error {
	e.mu.Lock()
	if !e.term.serving() {
		e.mu.Unlock()
		return cluster.ErrNotLeader
	}
	type ending struct {
		transactionOf
		at     group.TopicPartition
		offset group.Offset
	}
	var all []ending
	for y, offsets := range e.pending {
		if y.producer != x.producer || y.started > x.started {
			continue
		}
		for at, o := range offsets {
			all = append(all, ending{y, at, o})
		}
	}
	if len(all) == 0 { // also where the group is gone: it would not be, with any left
		e.mu.Unlock()
		return nil
	}
	before, now := e.g.State(), time.Now()
	call := &commitCall{codes: make([]int16, 2*len(all)), done: make(chan struct{})}
	var puts []func(i int)
	for _, p := range all {
		if commit && p.transactionOf == x { // before the other goes: a failure in between leaves both
			w, f := e.g.Put(p.at, p.offset, now)
			if f != group.OK { // it was within the limit when it was taken
				p.offset.Metadata = ""
				w, _ = e.g.Put(p.at, p.offset, now)
			}
			puts = append(puts, func(i int) { c.putWrite(e, w, call, i) })
		}
		key, _ := encodePending(e.id, p.transactionOf, &group.Write{At: p.at, Forget: true})
		puts = append(puts, func(i int) {
			c.cfg.table.PutIn(e.term.partition, e.term.epoch, key, nil, func(err error) {
				c.report(outcome{e: e, err: err, pending: &pendingWrite{transactionOf: transactionOf{producer: -1}}, call: call, index: i})
			})
		})
	}
	call.begin(len(puts))
	for i, put := range puts {
		put(i)
	}
	c.unlock(e, before, group.Effects{})
	select {
	case <-call.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, code := range call.codes {
		if code != errNone {
			return fmt.Errorf("offsets of a transaction are not stored: code %d", code)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || !e.term.serving() {
		return cluster.ErrNotLeader
	}
	for _, p := range all {
		if e.pending[p.transactionOf][p.at] == p.offset {
			c.removePending(e, p.transactionOf, p.at)
		}
	}
	c.settle(e) // nothing else may be left of it
	return nil
}
