package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
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

// pendingOffsets are a group's offsets of open transactions, by producer.
type pendingOffsets map[int64]map[group.TopicPartition]group.Offset

// has tells whether a transaction is about to change the offset of a partition.
func (p pendingOffsets) has(at group.TopicPartition) bool {
	for _, offsets := range p {
		if _, ok := offsets[at]; ok {
			return true
		}
	}
	return false
}

func (p pendingOffsets) put(producer int64, at group.TopicPartition, o group.Offset) {
	if p[producer] == nil {
		p[producer] = map[group.TopicPartition]group.Offset{}
	}
	p[producer][at] = o
}

func (p pendingOffsets) remove(producer int64, at group.TopicPartition) {
	delete(p[producer], at)
	if len(p[producer]) == 0 {
		delete(p, producer)
	}
}

// pendingSize is about what one costs.
func pendingSize(at group.TopicPartition, o *group.Offset) int64 {
	return int64(128 + len(at.Topic) + len(o.Metadata))
}

func encodePending(groupID string, producer int64, w *group.Write) (key, value []byte) {
	key = binary.BigEndian.AppendUint16(nil, pendingKeyVersion)
	key = binary.BigEndian.AppendUint64(key, uint64(producer))
	offset, value := encodeOffset(groupID, w)
	return append(key, offset...), value
}

// addPending takes an entry of pendingKeyVersion.
func (gs storedGroups) addPending(key, value []byte) error {
	if len(key) < 2+8 {
		return fmt.Errorf("key of %d bytes", len(key))
	}
	one := storedGroups{}
	if err := one.addOffset(key[10:], value); err != nil {
		return fmt.Errorf("pending: %w", err)
	}
	for id, g := range one {
		to := gs.get(id)
		if to.pending == nil {
			to.pending = pendingOffsets{}
		}
		for at, o := range g.offsets {
			to.pending.put(int64(binary.BigEndian.Uint64(key[2:])), at, o)
		}
	}
	return nil
}

// pendingWrite is one entry on its way.
type pendingWrite struct {
	producer int64
	at       group.TopicPartition
	offset   group.Offset
}

// addPending notes an offset of a transaction. The group is locked.
func (c *coordinator) addPending(e *groupEntry, w *pendingWrite) {
	if e.pending == nil {
		e.pending = pendingOffsets{}
	}
	c.removePending(e, w.producer, w.at)
	e.pending.put(w.producer, w.at, w.offset)
	c.countPending(e, pendingSize(w.at, &w.offset))
}

func (c *coordinator) removePending(e *groupEntry, producer int64, at group.TopicPartition) {
	if o, there := e.pending[producer][at]; there {
		e.pending.remove(producer, at)
		c.countPending(e, -pendingSize(at, &o))
	}
}

func (c *coordinator) countPending(e *groupEntry, bytes int64) {
	e.pendingBytes += bytes
	c.bytes.Add(bytes)
}

// settlePending is told how a write ended; the group is locked.
func (c *coordinator) settlePending(e *groupEntry, w *pendingWrite, ok bool) {
	if !ok && e.pending[w.producer][w.at] == w.offset {
		c.removePending(e, w.producer, w.at)
	}
}

// pendingCode is the code for a refusal, in the words that TxnOffsetCommit has.
func pendingCode(f group.Fault) int16 {
	if f == group.StaleEpoch {
		return errIllegalGeneration
	}
	return groupCode[f]
}

// commitPending begins to store the offsets of a request that has been verified when ends transactions had ended in the term. With errNone, call has a code for each of them
// once call.done is closed. errConcurrentTransactions: one has ended meanwhile, verify again.
func (c *coordinator) commitPending(req *kmsg.TxnOffsetCommitRequest, t *term, ends uint64, call *commitCall) int16 {
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
		if f := e.g.MayCommit(by, now); f != group.OK {
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
			w := pendingWrite{req.ProducerID, group.TopicPartition{Topic: rt.Topic, Partition: p.Partition}, group.Offset{
				Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: text(p.Metadata), CommitTime: now.UnixMilli(), ExpireTime: -1,
			}}
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
		key, value := encodePending(e.id, w.producer, &group.Write{At: w.at, Offset: w.offset})
		c.cfg.table.PutIn(t.partition, t.epoch, key, value, func(err error) {
			c.report(outcome{e: e, err: err, pending: &w, call: call, index: i})
		})
	}
	return errNone
}

// endTransaction applies or drops the pending offsets of a producer in all groups of a partition, and returns when that is stored. It may be asked again.
func (c *coordinator) endTransaction(ctx context.Context, partition int32, producer int64, commit bool) error {
	if c == nil || partition < 0 || int(partition) >= len(c.terms) {
		return cluster.ErrUnknownTopic
	}
	if code := c.serves(partition); code != errNone {
		return fmt.Errorf("groups of partition %d: %w", partition, cluster.ErrNotLeader)
	}
	t := c.terms[partition].Load()
	t.ends.Add(1) // before looking: what is verified from now on belongs to a later transaction
	t.mu.RLock()
	var entries []*groupEntry
	for _, e := range t.groups {
		entries = append(entries, e)
	}
	t.mu.RUnlock()
	for _, e := range entries {
		if err := c.endPending(ctx, e, producer, commit); err != nil {
			return fmt.Errorf("group %q: %w", e.id, err)
		}
	}
	return nil
}

// endPending does it for one group.
func (c *coordinator) endPending(ctx context.Context, e *groupEntry, producer int64, commit bool) error {
	e.mu.Lock()
	offsets := maps.Clone(e.pending[producer])
	if len(offsets) == 0 && !e.gone && e.term.serving() {
		e.mu.Unlock()
		return nil
	}
	if e.gone || !e.term.serving() {
		e.mu.Unlock()
		return cluster.ErrNotLeader
	}
	before, now := e.g.State(), time.Now()
	n := len(offsets)
	if commit {
		n *= 2
	}
	call := &commitCall{codes: make([]int16, n), done: make(chan struct{})}
	call.begin(n)
	i := 0
	for at, o := range offsets {
		if commit { // before the other goes: a failure in between leaves both
			w, _ := e.g.Put(at, o, now)
			c.putWrite(e, w, call, i)
			i++
		}
		key, _ := encodePending(e.id, producer, &group.Write{At: at, Forget: true})
		index := i
		i++
		c.cfg.table.PutIn(e.term.partition, e.term.epoch, key, nil, func(err error) {
			c.report(outcome{e: e, err: err, pending: &pendingWrite{producer: -1}, call: call, index: index})
		})
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
	for at := range offsets {
		c.removePending(e, producer, at)
	}
	if !e.gone && e.term.serving() {
		c.settle(e) // nothing else may be left of it
	}
	return nil
}
