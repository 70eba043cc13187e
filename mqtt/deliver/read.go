package deliver

import (
	"errors"
	"fmt"
	"sync"

	"github.com/weir-io/weir/log"
)

// pointReader is what reading one record takes.
type pointReader struct {
	scan  scanner
	msg   Message
	buf   []byte
	topic []byte
}

var pointReaders = sync.Pool{New: func() any { return new(pointReader) }}

// ErrNotYet: a message may be there, and cannot be read now: its partition is not known to be committed so far on this node, which has
// taken over from another, or nobody leads it.
var ErrNotYet = errors.New("cannot be read yet")

// missing says why there is no message at an offset, after a read of it gave an error or, with nil, nothing.
func missing(l Log, offset log.Offset, err error) error {
	switch {
	case offset < l.LogStart():
		return log.ErrOutOfRange
	case errors.Is(err, log.ErrCorrupt):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotYet, err)
	}
	return ErrNotYet
}

// ReadAt reads one message again, to send it once more, and passes it to fn; the message is valid
// during the call. log.ErrOutOfRange if retention or compaction took it, or its topic is gone; ErrNotYet. It may
// be called under the lock that Deliver takes.
func (h *Hub) ReadAt(id log.PartitionID, offset log.Offset, fn func(*Message)) error {
	p := h.partition(id)
	if p == nil {
		return fmt.Errorf("partition %v: %w", id, log.ErrOutOfRange)
	}
	pr := pointReaders.Get().(*pointReader)
	defer pointReaders.Put(pr)
	chunk, err := p.log.Read(offset, 1, pr.buf)
	if err != nil || len(chunk) == 0 {
		return fmt.Errorf("offset %d of %s/%d: %w", offset, p.topic, id.Index, missing(p.log, offset, err))
	}
	if cap(chunk) > cap(pr.buf) && cap(chunk) <= maxKeptChunk {
		pr.buf = chunk
	}
	pr.scan.reset(chunk, offset)
	var r rawRecord
	ok, err := pr.scan.scan(&r)
	if err != nil {
		return err
	}
	if !ok || r.offset != offset {
		return fmt.Errorf("offset %d of %s/%d: %w", offset, p.topic, id.Index, log.ErrOutOfRange)
	}
	topic, buf := r.topic(p.topic, pr.topic)
	pr.topic = buf
	if !pr.msg.load(&r, id, topic, h.cfg.Now().UnixMilli()) {
		return fmt.Errorf("headers of offset %d of %s/%d: %w", offset, p.topic, id.Index, log.ErrCorrupt)
	}
	fn(&pr.msg)
	return nil
}
