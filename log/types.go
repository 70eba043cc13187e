package log

import (
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
)

// Offset is the position of a record in its partition. The first record ever is 0.
type Offset int64

func (o Offset) String() string { return strconv.FormatInt(int64(o), 10) }

// ParseOffset reads what String wrote; negative offsets are refused.
func ParseOffset(s string) (Offset, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("offset %q: want a number from 0", s)
	}
	return Offset(n), nil
}

// Epoch is a leader epoch. It never falls within a partition (E2); -1 means unknown.
type Epoch int32

func (e Epoch) String() string { return strconv.FormatInt(int64(e), 10) }

// TopicID identifies one incarnation of a topic: a topic deleted and made again under the same name has another id (KIP-516).
type TopicID [16]byte

// String is Kafka's text form: base64url without padding, 22 characters.
func (t TopicID) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// ParseTopicID reads what String wrote.
func ParseTopicID(s string) (TopicID, error) {
	var t TopicID
	if b, err := base64.RawURLEncoding.Strict().DecodeString(s); err == nil && len(b) == len(t) {
		return TopicID(b), nil
	}
	return t, fmt.Errorf("topic id %q: want 22 characters of base64url", s)
}

// NewTopicID draws a version 4 UUID from rand. Ids whose text starts with '-' are drawn again,
// as Kafka does, so that no tool takes one for a flag.
func NewTopicID(rand io.Reader) (TopicID, error) {
	// A sound source needs more than a few draws only once in 64^n.
	for range 64 {
		var t TopicID
		if _, err := io.ReadFull(rand, t[:]); err != nil {
			return TopicID{}, fmt.Errorf("draw topic id: %w", err)
		}
		t[6] = t[6]&0x0f | 0x40
		t[8] = t[8]&0x3f | 0x80
		if t.String()[0] != '-' {
			return t, nil
		}
	}
	return TopicID{}, fmt.Errorf("draw topic id: the source of randomness repeats itself")
}

// PartitionID names one partition of one incarnation of a topic.
type PartitionID struct {
	Topic TopicID
	Index int32
}

func (p PartitionID) String() string {
	return p.Topic.String() + "/" + strconv.FormatInt(int64(p.Index), 10)
}

// Header is one record header. Keys may repeat and keep their order; a nil Value is null, unlike an empty one.
type Header struct {
	Key, Value []byte
}

// Record is one record of a partition. Nil Key or Value is null, which differs from empty.
// Its slices are views; who hands out a Record says how long they last.
type Record struct {
	Offset    Offset
	Timestamp int64 // milliseconds since 1970 UTC
	Key       []byte
	Value     []byte
	Headers   []Header
}
