package group

import (
	"encoding/binary"

	"github.com/weir-io/weir/bridge/group/assign"
)

// What consumers of the classic protocol tell each other through the broker is
// bytes to it, but for members of both protocols in one group: then it speaks
// the consumers' embedded protocol itself.
//
//	subscription  int16 version, [topic], bytes user data, from v1 [topic [int32]] owned, ...
//	assignment    int16 version, [topic [int32]], bytes user data

// embedded reads it; after the first short or senseless value bad is set.
type embedded struct {
	b   []byte
	bad bool
}

func (e *embedded) take(n int) []byte {
	if n < 0 || n > len(e.b) {
		e.bad, e.b = true, nil
		return nil
	}
	v := e.b[:n]
	e.b = e.b[n:]
	return v
}

func (e *embedded) int16() int {
	if v := e.take(2); v != nil {
		return int(int16(binary.BigEndian.Uint16(v)))
	}
	return 0
}

func (e *embedded) int32() int {
	if v := e.take(4); v != nil {
		return int(int32(binary.BigEndian.Uint32(v)))
	}
	return 0
}

// array is the number of elements that follow, each of at least size bytes.
func (e *embedded) array(size int) int {
	n := e.int32()
	if n > len(e.b)/size {
		e.bad, e.b = true, nil
	}
	if e.bad {
		return 0
	}
	return max(n, 0)
}

// partitions are those of topics that there are.
func (e *embedded) partitions(topics *Topics) assign.Set {
	var ps []assign.Partition
	for range e.array(6) {
		topic := topics.find(string(e.take(e.int16())))
		for range e.array(4) {
			if index := int32(e.int32()); topic != nil && index >= 0 && index < topic.Partitions {
				ps = append(ps, assign.Partition{Topic: topic.ID, Index: index})
			}
		}
	}
	return assign.NewSet(ps)
}

// readSubscription reads what a consumer says when it joins: what it reads, and what it has.
func readSubscription(metadata []byte, topics *Topics) (reads []string, owned assign.Set, ok bool) {
	e := embedded{b: metadata}
	version := e.int16()
	for range e.array(2) {
		reads = append(reads, string(e.take(e.int16())))
	}
	if version >= 1 && !e.bad {
		if n := e.int32(); n > 0 {
			e.take(n)
		}
		owned = e.partitions(topics)
	}
	return reads, owned, !e.bad && version >= 0
}

// readAssignment reads what a leader has assigned to a consumer. It is not ok if that is something else, or has user data: then the
// assignor is one that the broker cannot replace.
func readAssignment(assignment []byte, topics *Topics) (set assign.Set, ok bool) {
	if len(assignment) == 0 {
		return nil, true
	}
	e := embedded{b: assignment}
	version := e.int16()
	set = e.partitions(topics)
	userData := e.int32()
	return set, !e.bad && version >= 0 && userData <= 0
}

// writeAssignment is an assignment in the version in which the client wrote its subscription.
func writeAssignment(metadata []byte, set assign.Set, topics *Topics) []byte {
	b := []byte{0, 0}
	copy(b, metadata)
	count := len(b)
	b = append(b, 0, 0, 0, 0)
	set.ByTopic(func(id assign.TopicID, indexes []int32) {
		name, ok := topics.Name(id)
		if !ok {
			return
		}
		binary.BigEndian.PutUint32(b[count:], binary.BigEndian.Uint32(b[count:])+1)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(name))), name...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(indexes)))
		for _, i := range indexes {
			b = binary.BigEndian.AppendUint32(b, uint32(i))
		}
	})
	return binary.BigEndian.AppendUint32(b, 1<<32-1) // no user data
}
