package kafka

import (
	"fmt"
	"time"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/bridge/group/assign"
)

// The records of a group of the consumer protocol in __consumer_offsets are Kafka's too (KIP-848):
//
//	key                          value of version 0 (null: removed)
//	int16 3, group               ConsumerGroupMetadata: the group's epoch
//	int16 5, group, member       ConsumerGroupMemberMetadata: what a member says of itself, in tag 0 of one
//	                             that speaks the classic protocol its session and protocols
//	int16 6, group               ConsumerGroupTargetAssignmentMetadata: the epoch of the targets
//	int16 7, group, member       ConsumerGroupTargetAssignmentMember: what a member is to have
//	int16 8, group, member       ConsumerGroupCurrentMemberAssignment: what a member has come to
//
// Keys 4 (what the topics were like) and 16 (what patterns match) are not written, as they can be found
// out anew. Keys are not flexible, values are.
const (
	epochKeyVersion       int16 = 3
	consumerKeyVersion    int16 = 5
	targetEpochKeyVersion int16 = 6
	targetKeyVersion      int16 = 7
	currentKeyVersion     int16 = 8

	consumerValueVersion int16 = 0
)

var consumerKeyVersions = [group.NumRecordKinds]int16{
	group.EpochRecord:       epochKeyVersion,
	group.MemberRecord:      consumerKeyVersion,
	group.TargetEpochRecord: targetEpochKeyVersion,
	group.TargetRecord:      targetKeyVersion,
	group.CurrentRecord:     currentKeyVersion,
	group.ClassicRecord:     groupKeyVersion,
}

// MemberState of a current assignment.
const (
	stateStable     = 1
	stateUnrevoked  = 2 // has to give up partitions
	stateUnreleased = 3 // waits for partitions that others have to give up
)

func encodeConsumerRecord(groupID string, r *group.Record) (key, value []byte) {
	key = appendString(appendInt16(nil, consumerKeyVersions[r.Kind]), groupID, false)
	if r.Member != "" {
		key = appendString(key, r.Member, false)
	}
	if r.Gone {
		return key, nil
	}
	b := appendInt16(nil, consumerValueVersion)
	tags := []byte{0}
	switch r.Kind {
	case group.EpochRecord, group.TargetEpochRecord:
		b = appendInt32(b, r.Epoch)
	case group.MemberRecord:
		b = appendConsumer(b, r.Info)
		tags = classicTag(r.Info.Classic)
	case group.TargetRecord:
		b = appendPartitions(b, r.Partitions)
	case group.CurrentRecord:
		b = appendInt32(appendInt32(b, r.Epoch), r.Seen)
		switch {
		case len(r.Revoking) > 0:
			b = append(b, stateUnrevoked)
		case r.Waits:
			b = append(b, stateUnreleased)
		default:
			b = append(b, stateStable)
		}
		b = appendPartitions(appendPartitions(b, r.Partitions), r.Revoking)
	}
	return key, append(b, tags...)
}

func appendConsumer(b []byte, c *group.Consumer) []byte {
	b = appendOptional(b, c.Instance)
	b = appendOptional(b, c.Rack)
	b = appendString(b, c.ClientID, true)
	b = appendString(b, c.Host, true)
	b = appendArray(b, len(c.Topics), true)
	for _, t := range c.Topics {
		b = appendString(b, t, true)
	}
	b = appendOptional(b, c.Pattern)
	b = appendInt32(b, int32(c.Rebalance.Milliseconds()))
	return appendOptional(b, c.Assignor)
}

// classicTag is tag 0 of a member's value: a nullable structure. It is left out of one that speaks the consumer protocol.
func classicTag(c *group.ClassicSide) []byte {
	if c == nil {
		return []byte{0}
	}
	b := appendInt32([]byte{1}, int32(c.Session.Milliseconds()))
	b = appendArray(b, len(c.Protocols), true)
	for _, p := range c.Protocols {
		b = append(appendString(appendString(b, p.Name, true), p.Metadata, true), 0)
	}
	b = append(b, 0)
	return append(appendUvarint([]byte{1, 0}, uint32(len(b))), b...)
}

// appendOptional writes a compact string of which empty means none.
func appendOptional(b []byte, s string) []byte {
	if s == "" {
		return append(b, 0)
	}
	return appendString(b, s, true)
}

func appendPartitions(b []byte, set assign.Set) []byte {
	topics := 0
	set.ByTopic(func(assign.TopicID, []int32) { topics++ })
	b = appendArray(b, topics, true)
	set.ByTopic(func(topic assign.TopicID, indexes []int32) {
		b = appendArray(append(b, topic[:]...), len(indexes), true)
		for _, i := range indexes {
			b = appendInt32(b, i)
		}
		b = append(b, 0)
	})
	return b
}

// addConsumers takes an entry of a group of the consumer protocol.
func (gs storedGroups) addConsumers(version int16, key, value []byte) error {
	k := decoder{b: key[2:]}
	groupID, member := string(k.bytes16()), ""
	if version != epochKeyVersion && version != targetEpochKeyVersion {
		if member = string(k.bytes16()); member == "" {
			k.bad = true
		}
	}
	if k.bad {
		return fmt.Errorf("key %d of a group of the consumer protocol: %w", version, errShape)
	}
	var m group.ConsumerSnapshot
	var epoch int32
	err := readValue(reads(func(d *decoder) {
		switch version {
		case epochKeyVersion, targetEpochKeyVersion:
			epoch = d.int32()
		case consumerKeyVersion:
			m.Info = d.consumer(member)
			m.Info.Classic = d.classicTag()
			return
		case targetKeyVersion:
			m.Target = d.partitions()
		case currentKeyVersion:
			m.Epoch, m.Seen = d.int32(), d.int32()
			d.int8() // the state, which the rest tells
			m.Assigned, m.Revoking = d.partitions(), d.partitions()
		}
		d.tags()
	}), value, consumerValueVersion)
	if err != nil {
		return fmt.Errorf("group %q, member %q, entry %d: %w", groupID, member, version, err)
	}
	g := gs.get(groupID)
	if g.consumers == nil {
		g.consumers = &group.ConsumersSnapshot{Members: map[string]*group.ConsumerSnapshot{}}
	}
	to := g.consumers.Members[member]
	if to == nil && member != "" {
		to = &group.ConsumerSnapshot{}
		g.consumers.Members[member] = to
	}
	switch version {
	case epochKeyVersion:
		g.consumers.Epoch = epoch
	case targetEpochKeyVersion:
		g.consumers.TargetEpoch = epoch
	case consumerKeyVersion:
		to.Info = m.Info
	case targetKeyVersion:
		to.Target = m.Target
	case currentKeyVersion:
		to.Current, to.Epoch, to.Seen, to.Assigned, to.Revoking = true, m.Epoch, m.Seen, m.Assigned, m.Revoking
	}
	return nil
}

// reads decodes a value behind its version.
type reads func(d *decoder)

// ReadFrom takes a value whose version readValue has looked at.
func (fn reads) ReadFrom(value []byte) error {
	d := decoder{b: value[2:]}
	if fn(&d); d.bad {
		return errShape
	}
	return nil
}

func (d *decoder) consumer(id string) *group.Consumer {
	c := &group.Consumer{
		ID: id, Instance: string(d.compact()), Rack: string(d.compact()), ClientID: string(d.compact()), Host: string(d.compact()),
	}
	for range d.array(true, 1) {
		c.Topics = append(c.Topics, string(d.compact()))
	}
	c.Pattern = string(d.compact())
	c.Rebalance = time.Duration(d.int32()) * time.Millisecond
	c.Assignor = string(d.compact())
	return c
}

// classicTag reads the tagged fields of a member's value.
func (d *decoder) classicTag() (c *group.ClassicSide) {
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		tag := d.uvarint()
		field := decoder{b: d.compactTag()}
		if tag != 0 || d.bad || field.int8() != 1 {
			continue
		}
		c = &group.ClassicSide{Session: time.Duration(field.int32()) * time.Millisecond}
		for range field.array(true, 3) {
			c.Protocols = append(c.Protocols, group.Protocol{Name: string(field.compact()), Metadata: field.compact()})
			field.tags()
		}
		d.bad = d.bad || field.bad
	}
	return c
}

// compactTag is the value of a tagged field.
func (d *decoder) compactTag() []byte {
	size := d.uvarint()
	if size > uint32(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	return d.take(int(size))
}

func (d *decoder) partitions() assign.Set {
	var ps []assign.Partition
	for range d.array(true, 18) {
		var topic assign.TopicID
		copy(topic[:], d.take(len(topic)))
		for range d.array(true, 4) {
			ps = append(ps, assign.Partition{Topic: topic, Index: d.int32()})
		}
		d.tags()
	}
	if d.bad {
		return nil
	}
	return assign.NewSet(ps)
}

// restore makes a group of what is stored of it. Of one that changed its protocol both may be there: as long as it is there
// as one of the classic protocol, nobody was told of anything else.
func (st *storedGroup) restore(id string, cfg *group.Config, now time.Time) *group.Group {
	switch {
	case st.snapshot != nil:
		return group.Restore(id, cfg, st.snapshot, now)
	case st.consumers != nil:
		return group.RestoreConsumers(id, cfg, st.consumers, now)
	}
	return group.New(id, cfg, now)
}

// putLeftovers removes what is left of a group as one of the consumer protocol, where it is one of the classic
// protocol. What cannot be removed is tried again when the partition is loaded the next time.
func (c *coordinator) putLeftovers(t *term, id string, st *storedGroup) {
	if st.snapshot == nil || st.consumers == nil {
		return
	}
	records := []group.Record{{Kind: group.EpochRecord}, {Kind: group.TargetEpochRecord}}
	for member := range st.consumers.Members {
		for _, kind := range []group.RecordKind{group.MemberRecord, group.TargetRecord, group.CurrentRecord} {
			records = append(records, group.Record{Kind: kind, Member: member})
		}
	}
	for i := range records {
		records[i].Gone = true
		key, _ := encodeConsumerRecord(id, &records[i])
		c.cfg.table.PutIn(t.partition, t.epoch, key, nil, func(error) {})
	}
}
