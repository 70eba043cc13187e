package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// The records of __consumer_offsets are Kafka's:
//
//	key                                      value (null: removed)
//	int16 1, group, topic, partition         an offset: version 3, or 1 if the client set when it expires
//	int16 2, group                           a group: version 3
//	int16 3 to 8                             a group of the consumer protocol, see consumer_records.go
//
// Keys of other versions (newer kinds of groups) are left alone.

const (
	offsetKeyVersion   = 1
	groupKeyVersion    = 2
	offsetValueVersion = 3
	groupValueVersion  = 3
)

func encodeOffset(groupID string, w *group.Write) (key, value []byte) {
	k := kmsg.OffsetCommitKey{Version: offsetKeyVersion, Group: groupID, Topic: w.At.Topic, Partition: w.At.Partition}
	key = k.AppendTo(nil)
	if w.Forget {
		return key, nil
	}
	v := kmsg.OffsetCommitValue{
		Version: offsetValueVersion, Offset: w.Offset.Offset, LeaderEpoch: w.Offset.LeaderEpoch,
		Metadata: w.Offset.Metadata, CommitTimestamp: w.Offset.CommitTime,
	}
	if w.Offset.ExpireTime >= 0 {
		v.Version, v.ExpireTimestamp = 1, w.Offset.ExpireTime
	}
	return key, v.AppendTo(nil)
}

func encodeGroup(groupID string, s *group.Snapshot) (key, value []byte) {
	k := kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: groupID}
	key = k.AppendTo(nil)
	if s == nil {
		return key, nil
	}
	v := kmsg.GroupMetadataValue{
		Version: groupValueVersion, ProtocolType: s.ProtocolType, Generation: s.Generation,
		Protocol: optional(s.Protocol), Leader: optional(s.Leader), CurrentStateTimestamp: s.Since.UnixMilli(),
	}
	for i := range s.Members {
		m := &s.Members[i]
		v.Members = append(v.Members, kmsg.GroupMetadataValueMember{
			MemberID: m.ID, InstanceID: optional(m.Instance), ClientID: m.ClientID, ClientHost: m.Host,
			RebalanceTimeoutMillis: int32(m.Rebalance.Milliseconds()), SessionTimeoutMillis: int32(m.Session.Milliseconds()),
			Subscription: m.Metadata, Assignment: m.Assignment,
		})
	}
	return key, v.AppendTo(nil)
}

// optional is a string of which empty means none.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// liveEntries keeps the last value of each key. A coordinator commits the same
// few keys all day, so most entries of a partition need never be decoded.
type liveEntries map[string]*[]byte

// put takes one entry, in order. Key and value may be views.
func (l liveEntries) put(key, value []byte) {
	last := l[string(key)] // does not allocate
	switch {
	case value == nil:
		delete(l, string(key))
	case last != nil:
		*last = append((*last)[:0], value...)
	default:
		own := bytes.Clone(value)
		l[string(key)] = &own
	}
}

// storedGroup is what a partition holds about one group.
type storedGroup struct {
	snapshot  *group.Snapshot
	consumers *group.ConsumersSnapshot
	offsets   map[group.TopicPartition]group.Offset
	pending   pendingOffsets
}

// storedGroups is what a partition of the table holds.
type storedGroups map[string]*storedGroup

func (gs storedGroups) get(id string) *storedGroup {
	g := gs[id]
	if g == nil {
		g = &storedGroup{offsets: map[group.TopicPartition]group.Offset{}}
		gs[id] = g
	}
	return g
}

// add takes a live entry, and keeps the value.
func (gs storedGroups) add(key string, value []byte) error {
	if len(key) < 2 {
		return fmt.Errorf("key of %d bytes", len(key))
	}
	switch version := int16(key[0])<<8 | int16(key[1]); version {
	case offsetKeyVersion:
		return gs.addOffset([]byte(key), value)
	case groupKeyVersion:
		return gs.addGroup([]byte(key), value)
	case pendingKeyVersion:
		return gs.addPending([]byte(key), value)
	case epochKeyVersion, consumerKeyVersion, targetEpochKeyVersion, targetKeyVersion, currentKeyVersion:
		return gs.addConsumers(version, []byte(key), value)
	}
	return nil
}

var errNewerFormat = errors.New("written by a newer version of weir: upgrade this node")

// readValue decodes a value of a version that this coordinator has written or
// may have been given. Newer ones are flexible: besides not knowing what they
// mean, kmsg can be kept busy for minutes by a bad count of their tags.
func readValue(v interface{ ReadFrom([]byte) error }, value []byte, newest int16) error {
	if len(value) < 2 {
		return fmt.Errorf("value of %d bytes", len(value))
	}
	if version := int16(binary.BigEndian.Uint16(value)); version < 0 || version > newest {
		return fmt.Errorf("value of version %d, newest known is %d: %w", version, newest, errNewerFormat)
	}
	return v.ReadFrom(value)
}

func (gs storedGroups) addOffset(key, value []byte) error {
	var k kmsg.OffsetCommitKey
	if err := k.ReadFrom(key); err != nil {
		return fmt.Errorf("key of an offset: %w", err)
	}
	at := group.TopicPartition{Topic: k.Topic, Partition: k.Partition}
	v := kmsg.NewOffsetCommitValue()
	if err := readValue(&v, value, offsetValueVersion); err != nil {
		return fmt.Errorf("offset of group %q, %s/%d: %w", k.Group, k.Topic, k.Partition, err)
	}
	o := group.Offset{Offset: v.Offset, LeaderEpoch: -1, Metadata: v.Metadata, CommitTime: v.CommitTimestamp, ExpireTime: -1}
	if v.Version >= 3 {
		o.LeaderEpoch = v.LeaderEpoch
	}
	if v.Version == 1 {
		o.ExpireTime = v.ExpireTimestamp
	}
	gs.get(k.Group).offsets[at] = o
	return nil
}

func (gs storedGroups) addGroup(key, value []byte) error {
	var k kmsg.GroupMetadataKey
	if err := k.ReadFrom(key); err != nil {
		return fmt.Errorf("key of a group: %w", err)
	}
	var v kmsg.GroupMetadataValue
	if err := readValue(&v, value, groupValueVersion); err != nil {
		return fmt.Errorf("group %q: %w", k.Group, err)
	}
	s := &group.Snapshot{
		Generation: v.Generation, ProtocolType: v.ProtocolType, Protocol: text(v.Protocol), Leader: text(v.Leader),
		Since: time.UnixMilli(v.CurrentStateTimestamp),
	}
	for i := range v.Members {
		m := &v.Members[i]
		sm := group.SnapshotMember{
			ID: m.MemberID, Instance: text(m.InstanceID), ClientID: m.ClientID, Host: m.ClientHost,
			Session:   time.Duration(m.SessionTimeoutMillis) * time.Millisecond,
			Rebalance: time.Duration(m.RebalanceTimeoutMillis) * time.Millisecond,
			Metadata:  m.Subscription, Assignment: m.Assignment,
		}
		if v.Version == 0 {
			sm.Rebalance = sm.Session
		}
		s.Members = append(s.Members, sm)
	}
	gs.get(k.Group).snapshot = s
	return nil
}
