package uplink

import (
	"bytes"
	"context"
	"strconv"

	"github.com/weir-io/weir/log"
)

// Source is what an uplink carries from.
type Source interface {
	// Watch calls added for every partition there is, before it returns, and for each new one later; removed when one is gone. Calls do not overlap.
	Watch(added func(Log), removed func(log.PartitionID)) (stop func())
}

// Log is one partition, committed records only: what was aborted is read as control batches.
type Log interface {
	ID() log.PartitionID
	Topic() string
	Index() int32
	HighWatermark() log.Offset // below it everything is committed; 0 while it is not known
	LogStart() log.Offset      // known once the former is not 0
	// Read appends whole batches, from the one with offset from on, to buf[:0]. log.ErrOutOfRange below LogStart; nothing when there is none up to the end.
	Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error)
	// Watch has fn called when the high watermark moves. fn must not block.
	Watch(fn func()) (stop func())
}

// Store keeps the cursors in this cluster, for who owns the shard next, for retention and for whoever asks. A Put that is late must not undo one of a later
// owner.
type Store interface {
	Load(fn func(key, value []byte) error) error
	// Put calls done once, not before it returns, and must not block.
	Put(key, value []byte, done func(error))
}

// DeadLetter takes a record that the target will never take, and returns nil when it is committed in topic.
type DeadLetter func(ctx context.Context, topic string, r *log.Record) error

// outgoing is a record on its way.
type outgoing struct {
	log.Record
	from *part
}

// origin names the record for good: <cluster>/<topic>/<partition>/<offset>.
func (r *outgoing) origin(to []byte) []byte {
	to = append(append(to, r.from.f.Cluster...), '/')
	to = append(append(to, r.from.log.Topic()...), '/')
	to = append(strconv.AppendInt(to, int64(r.from.log.Index()), 10), '/')
	return strconv.AppendInt(to, int64(r.Offset), 10)
}

// clone is a copy that shares nothing.
func (r *outgoing) clone() *outgoing {
	c := *r
	c.Key, c.Value, c.Headers = bytes.Clone(r.Key), bytes.Clone(r.Value), make([]log.Header, len(r.Headers))
	for i, h := range r.Headers {
		c.Headers[i] = log.Header{Key: bytes.Clone(h.Key), Value: bytes.Clone(h.Value)}
	}
	return &c
}
