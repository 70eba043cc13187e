package kafka

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/log"
)

// Produce (key 0): v3–13, v0–2 listed and refused
//
// One batch per partition, checked (A8), appended as it came, answered when it is as
// durable as acks asks for (H6, A9). The request is decoded and the answer encoded by hand:
// the answer is laid out in full when the request is read, and each partition's outcome is
// written into its place when it is known, in whatever order that happens.
//
//	v0–2  UNSUPPORTED_VERSION for each partition (KAFKA-18659, see keys.go)
//	v3    record batches of magic 2 only; transactional id
//	v5    log start offset in the answer
//	v7    zstd; below, a zstd batch is UNSUPPORTED_COMPRESSION_TYPE
//	v8    error message in the answer
//	v9    flexible
//	v10   who leads instead, and where (KIP-951); not of a partition that is lost only after the append
//	v11   TRANSACTION_ABORTABLE where the partition is not part of an open transaction; below, INVALID_TXN_STATE
//	v12   a transaction's first batch in a partition makes the partition part of it, without AddPartitionsToTxn: so do
//	      clients where the feature transaction.version is 2 (KIP-890)
//	v13   topic ids instead of names (KIP-516)
//
// acks=0 has no answer. An error then closes the connection, as Apache Kafka does: it is
// the only way to make the client ask for metadata.
//
// A batch that begins a transaction in its partition is appended once the transaction's coordinator has said that the partition is part of it (P2); the handler waits for
// that, once for each transaction and partition (00_produce_transaction.go).
func (s *Server) produce(ctx context.Context, c *conn, r *request, rep *reply) error {
	defer r.free() // the log has copied what it keeps
	p := newProducing(s, c, r.version, rep)
	if err := p.decode(r.body); err != nil {
		p.recycle()
		return err
	}
	p.throttle = c.charge(quotaProduce, float64(4+len(r.frame.b)))
	c.enqueue(rep)
	p.checkAll(ctx)
	p.layout(r.corr)
	p.append()
	p.done() // the one that newProducing counted
	return nil
}

// Versions of Produce from which on something is so.
const (
	produceFlexible = 9
	produceLeaders  = 10
	produceAborts   = 11
	produceAdds     = 12
	produceTopicIDs = 13
)

// producing is one produce request from its first byte to its answer. It is recycled by
// whoever settles the last of its parts.
type producing struct {
	s        *Server
	c        *conn
	version  int16
	acks     int16
	txn      []byte // transactional id, a view of the frame; nil if there is none
	guarded  bool   // rules can concern it
	throttle int32  // ms that the client is to keep still after
	timeout  time.Duration
	rep      *reply
	out      *buffer
	topics   []produceTopic
	parts    []*producePart
	n        int     // parts in use
	leaders  []int32 // named in the answer

	open   atomic.Int32 // parts not yet settled, and one for the handler
	refs   atomic.Int32 // those who may still touch this struct
	failed atomic.Bool  // some part has an error
}

type produceTopic struct {
	id    log.TopicID // v13
	name  []byte      // view of the frame; nil with an id
	parts int
	view  *topicView // nil where there is no such topic
}

// producePart is one partition's batch. The log holds on to settle until the outcome is
// known, which may be after the client was told that it is not (expire).
type producePart struct {
	p         *producing
	index     int32
	records   []byte // view of the frame; nil = null
	code      int16
	message   string
	partition producedTo
	batch     log.Batch
	topic     string       // of a batch that begins a transaction
	verified  log.Verified // of a transactional batch
	size      int          // of batch, which is gone when the outcome comes
	at        int          // of the error code in the answer
	state     atomic.Int32
	settle    func(first log.Offset, appendTime int64, err error)
}

// producedTo is the partition of a part (cluster.Partition).
type producedTo interface {
	Produce(b log.Batch, acks int16, done func(first log.Offset, appendTime int64, err error))
	ProduceVerified(b log.Batch, acks int16, v log.Verified, done func(first log.Offset, appendTime int64, err error))
	ID() log.PartitionID
	InTransaction(producer int64, epoch int16, own bool) (open bool, ended log.Offset)
	Writable() error
	LogStart() log.Offset
}

const (
	partPending int32 = iota
	partSettled
	partTimedOut
)

var producingPool = sync.Pool{New: func() any { return new(producing) }}

func newProducing(s *Server, c *conn, version int16, rep *reply) *producing {
	p := producingPool.Get().(*producing)
	p.s, p.c, p.version, p.rep = s, c, version, rep
	p.topics, p.n, p.leaders = p.topics[:0], 0, p.leaders[:0]
	p.open.Store(1)
	p.refs.Store(1)
	p.failed.Store(false)
	p.guarded = s.guarded(c)
	return p
}

// part returns the next part, reused with its settle function where there is one.
func (p *producing) part() *producePart {
	if p.n == len(p.parts) {
		pp := &producePart{p: p}
		pp.settle = pp.settled
		p.parts = append(p.parts, pp)
	}
	pp := p.parts[p.n]
	p.n++
	pp.code, pp.message, pp.records = errNone, "", nil
	pp.state.Store(partPending)
	return pp
}

const maxPooledParts = 256

func (p *producing) recycle() {
	for _, pp := range p.parts[:p.n] {
		pp.partition, pp.batch, pp.records, pp.message = nil, nil, nil, ""
	}
	clear(p.topics)
	p.s, p.c, p.rep, p.out, p.txn = nil, nil, nil, nil, nil
	if len(p.parts) <= maxPooledParts {
		producingPool.Put(p)
	}
}

// decode notes the parts; nothing is checked but the form.
//
//	v3–9: nullable string transactional id | int16 acks | int32 timeout ms |
//	      array of (string topic, v13: id | array of (int32 index | nullable bytes records))
func (p *producing) decode(body []byte) error {
	d := decoder{b: body}
	flexible := p.version >= produceFlexible
	if p.version >= 3 {
		p.txn = d.string(flexible)
	} else {
		p.txn = nil
	}
	p.acks = d.int16()
	p.timeout = time.Duration(d.int32()) * time.Millisecond
	for range d.array(flexible, 2) {
		var t produceTopic
		if p.version >= produceTopicIDs {
			copy(t.id[:], d.take(len(t.id)))
		} else {
			t.name = d.string(flexible)
		}
		parts := d.array(flexible, 5)
		for range parts {
			pp := p.part()
			pp.index = d.int32()
			pp.records = d.blob(flexible)
			if flexible {
				d.tags()
			}
			if d.bad {
				break
			}
			t.parts++
		}
		if flexible {
			d.tags()
		}
		if d.bad {
			break
		}
		p.topics = append(p.topics, t)
	}
	if flexible {
		d.tags()
	}
	if d.bad {
		return errors.New("produce request ends early")
	}
	return nil
}

// append gives every good part to its partition. Parts settle from here on.
func (p *producing) append() {
	open := int32(0)
	for _, pp := range p.parts[:p.n] {
		if pp.code == errNone {
			open++
		} else {
			p.failed.Store(true)
			p.s.n.produceRejected.Add(1)
		}
	}
	p.open.Add(open)
	p.refs.Add(open)
	if open > 0 && p.acks != 0 {
		p.refs.Add(1)
		p.rep.expires = time.Now().Add(max(p.timeout, 0))
		p.rep.producing.Store(p)
	}
	for _, pp := range p.parts[:p.n] {
		if pp.code == errNone {
			if pp.batch.IsTransactional() {
				pp.partition.ProduceVerified(pp.batch, p.acks, pp.verified, pp.settle)
			} else {
				pp.partition.Produce(pp.batch, p.acks, pp.settle)
			}
			pp.batch, pp.records = nil, nil // views of a frame that is about to go
		}
	}
}

// done counts one part as settled; the last completes the reply.
func (p *producing) done() {
	if p.open.Add(-1) > 0 {
		return
	}
	out, rep := p.out, p.rep
	p.out = nil
	if p.acks == 0 {
		out.free()
		out = nil
		if p.failed.Load() {
			p.s.log.Info("kafka: connection closed: acks=0 leaves no other way to report an error", "peer", p.c.nc.RemoteAddr())
			p.c.nc.Close()
		}
	}
	if p.rep.producing.CompareAndSwap(p, nil) {
		p.unref() // the writer will not expire it
	}
	rep.complete(out)
	p.unref()
}

func (p *producing) unref() {
	if p.refs.Add(-1) == 0 {
		p.recycle()
	}
}
