package deliver

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"github.com/weir-io/weir/log"
)

// Cursor is a session's place in the log: for each partition the next offset it has not been given.
// A partition it does not name is newer than the cursor and counts from its start. The zero Cursor
// is that of a new session: it stands wherever the log ends. Not for concurrent use.
type Cursor struct {
	at []place // sorted by id; nil = new session
}

type place struct {
	id     log.PartitionID
	behind bool // something at or after next is left for the session that the partition's scan has passed
	next   log.Offset
}

func comparePlaces(a place, id log.PartitionID) int {
	if c := bytes.Compare(a.id.Topic[:], id.Topic[:]); c != 0 {
		return c
	}
	return cmp.Compare(a.id.Index, id.Index)
}

// IsZero says whether this is the cursor of a new session.
func (c Cursor) IsZero() bool { return c.at == nil }

// Len is the number of partitions named.
func (c Cursor) Len() int { return len(c.at) }

// Next is the first offset not given yet; false if the cursor does not name the partition.
func (c Cursor) Next(id log.PartitionID) (log.Offset, bool) {
	if i, ok := slices.BinarySearchFunc(c.at, id, comparePlaces); ok {
		return c.at[i].next, true
	}
	return 0, false
}

// Set moves the cursor in one partition.
func (c *Cursor) Set(id log.PartitionID, next log.Offset) {
	i, ok := slices.BinarySearchFunc(c.at, id, comparePlaces)
	if ok {
		c.at[i].next = next
		return
	}
	c.at = slices.Insert(c.at, i, place{id: id, next: next})
}

// Lower moves the cursor back to offset if it is past it: what was given but not acked yet must be
// given again after a crash (M9). It is behind there.
func (c *Cursor) Lower(id log.PartitionID, offset log.Offset) {
	if next, ok := c.Next(id); !ok || offset < next {
		c.Set(id, offset)
	}
	i, _ := slices.BinarySearchFunc(c.at, id, comparePlaces)
	c.at[i].behind = true
}

// Behind is the part of the cursor in which a message waits for the session, so that Raise must not
// move it. It is stored beside the cursor.
func (c Cursor) Behind() Cursor {
	var b Cursor
	for _, pl := range c.at {
		if pl.behind {
			b.at = append(b.at, pl)
		}
	}
	return b
}

// MarkBehind takes up what Behind gave.
func (c *Cursor) MarkBehind(b Cursor) {
	for _, pl := range b.at {
		c.Lower(pl.id, pl.next)
	}
}

// MarkBelow marks the places that are not as far as floor, so that Raise leaves them alone; it says
// whether it had to mark one.
func (c *Cursor) MarkBelow(floor Cursor) (marked bool) {
	for i := range c.at {
		if next, ok := floor.Next(c.at[i].id); ok && c.at[i].next < next && !c.at[i].behind {
			c.at[i].behind, marked = true, true
		}
	}
	return marked
}

// RaiseKnown moves the cursor up to other in the partitions that it names.
func (c *Cursor) RaiseKnown(other Cursor) {
	for i := range c.at {
		if next, ok := other.Next(c.at[i].id); ok {
			c.at[i].next = max(c.at[i].next, next)
		}
	}
}

// Raise moves an absent session's cursor up to floor (see Hub.Absent) wherever it is not behind.
func (c *Cursor) Raise(floor Cursor) {
	if c.IsZero() {
		return
	}
	for _, pl := range floor.at {
		i, ok := slices.BinarySearchFunc(c.at, pl.id, comparePlaces)
		if !ok {
			c.Set(pl.id, pl.next)
		} else if !c.at[i].behind {
			c.at[i].next = max(c.at[i].next, pl.next)
		}
	}
}

// Beyond is the part of c that other has not reached, or does not name. Zero if that is nothing.
func (c Cursor) Beyond(other Cursor) Cursor {
	var b Cursor
	for _, pl := range c.at {
		if next, ok := other.Next(pl.id); !ok || next < pl.next {
			b.at = append(b.at, pl)
		}
	}
	return b
}

// Equal compares places, and whether they are behind.
func (c Cursor) Equal(other Cursor) bool { return slices.Equal(c.at, other.at) }

// Clone is an independent copy.
func (c Cursor) Clone() Cursor { return Cursor{at: slices.Clone(c.at)} }

// start is where a session with this cursor begins in a partition that begins at logStart.
func (c Cursor) start(id log.PartitionID, logStart log.Offset) log.Offset {
	if next, ok := c.Next(id); ok {
		return max(next, logStart)
	}
	return logStart
}

// MarshalCBOR writes a map of topic id to an array of offsets by partition index, -1 for a partition
// not named: a session over 16 partitions of one topic takes some 100 bytes. A new session's cursor
// is null.
func (c Cursor) MarshalCBOR() ([]byte, error) {
	if c.at == nil {
		return []byte{0xf6}, nil
	}
	topics := 0
	for i := range c.at {
		if i == 0 || c.at[i].id.Topic != c.at[i-1].id.Topic {
			topics++
		}
	}
	out := appendHead(nil, 5, uint64(topics))
	for i := 0; i < len(c.at); {
		j := i
		for j < len(c.at) && c.at[j].id.Topic == c.at[i].id.Topic {
			j++
		}
		out = append(appendHead(out, 2, 16), c.at[i].id.Topic[:]...)
		n := int(c.at[j-1].id.Index) + 1
		out = appendHead(out, 4, uint64(n))
		for index := range int32(n) {
			if c.at[i].id.Index != index {
				out = append(out, 0x20) // -1
				continue
			}
			out = appendHead(out, 0, uint64(c.at[i].next))
			i++
		}
		i = j
	}
	return out, nil
}

// appendHead writes the head of a CBOR item in its shortest form.
func appendHead(dst []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n < 1<<8:
		return append(dst, major|24, byte(n))
	case n < 1<<16:
		return append(dst, major|25, byte(n>>8), byte(n))
	case n < 1<<32:
		return append(dst, major|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(dst, major|27, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// UnmarshalCBOR reads what MarshalCBOR wrote.
func (c *Cursor) UnmarshalCBOR(b []byte) error {
	if len(b) == 1 && b[0] == 0xf6 {
		c.at = nil
		return nil
	}
	var topics map[cbor.ByteString][]int64
	if err := cbor.Unmarshal(b, &topics); err != nil {
		return fmt.Errorf("cursor: %w", err)
	}
	at := []place{}
	for topic, offsets := range topics {
		if len(topic) != 16 {
			return fmt.Errorf("cursor: topic id of %d bytes, want 16", len(topic))
		}
		for index, next := range offsets {
			if next < 0 {
				continue
			}
			at = append(at, place{id: log.PartitionID{Topic: log.TopicID([]byte(topic)), Index: int32(index)}, next: log.Offset(next)})
		}
	}
	slices.SortFunc(at, func(a, b place) int { return comparePlaces(a, b.id) })
	c.at = at
	return nil
}
