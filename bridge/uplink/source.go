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
	from  *part
	own   []log.Header // behind the origin
	first log.Offset   // of those that it stands for, where count is not 0; the last is Offset
	count int64
	vague bool // a rule could not read it
}

// origin names the record for good: <cluster>/<topic>/<partition>/<offset>, or <first>-<last> where it stands for several.
func (r *outgoing) origin(to []byte) []byte {
	to = append(append(to, r.from.f.Cluster...), '/')
	to = append(append(to, r.from.log.Topic()...), '/')
	to = append(strconv.AppendInt(to, int64(r.from.log.Index()), 10), '/')
	if r.count > 0 {
		to = append(strconv.AppendInt(to, int64(r.first), 10), '-')
	}
	return strconv.AppendInt(to, int64(r.Offset), 10)
}

// size is what it counts for.
func (r *outgoing) size() int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// clone is a copy that shares nothing.
func (r *outgoing) clone() *outgoing {
	c := *r
	c.Key, c.Value, c.Headers, c.own = bytes.Clone(r.Key), bytes.Clone(r.Value), cloneHeaders(r.Headers), cloneHeaders(r.own)
	return &c
}

func cloneHeaders(all []log.Header) []log.Header {
	to := make([]log.Header, len(all))
	for i, h := range all {
		to[i] = log.Header{Key: bytes.Clone(h.Key), Value: bytes.Clone(h.Value)}
	}
	return to
}
