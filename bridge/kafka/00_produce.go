package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/access"
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
//	v11   one more error, of transactions
//	v12   transactions that add their partitions with their first batch (KIP-890): clients do that only where the
//	      feature transaction.version is 2, and it is not advertised
//	v13   topic ids instead of names (KIP-516)
//
// acks=0 has no answer. An error then closes the connection, as Apache Kafka does: it is
// the only way to make the client ask for metadata.
//
// A batch that begins a transaction in its partition is appended once the transaction's coordinator has said that the partition is part of it (P2); the handler waits for
// that, once for each transaction and partition.
func (s *Server) produce(ctx context.Context, c *conn, r *request, rep *reply) error {
	defer r.free() // the log has copied what it keeps
	p := newProducing(s, c, r.version, rep)
	if err := p.decode(r.body); err != nil {
		p.recycle()
		return err
	}
	c.enqueue(rep)
	p.layout(ctx, r.corr)
	p.append()
	p.done() // the one that newProducing counted
	return nil
}

// Versions of Produce from which on something is so.
const (
	produceFlexible = 9
	produceLeaders  = 10
	produceTopicIDs = 13
)

// producing is one produce request from its first byte to its answer. It is recycled by
// whoever settles the last of its parts.
type producing struct {
	s       *Server
	c       *conn
	version int16
	acks    int16
	txn     []byte // transactional id, a view of the frame; nil if there is none
	again   bool   // the transaction's coordinator could not be asked
	guarded bool   // rules can concern it
	timeout time.Duration
	rep     *reply
	out     *buffer
	topics  []produceTopic
	parts   []*producePart
	n       int     // parts in use
	leaders []int32 // named in the answer

	open   atomic.Int32 // parts not yet settled, and one for the handler
	refs   atomic.Int32 // those who may still touch this struct
	failed atomic.Bool  // some part has an error
}

type produceTopic struct {
	id    log.TopicID // v13
	name  []byte      // view of the frame; nil with an id
	parts int
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
	verified  log.Verified
	size      int // of batch, which is gone when the outcome comes
	at        int // of the error code in the answer
	state     atomic.Int32
	settle    func(first log.Offset, appendTime int64, err error)
}

// producedTo is the partition of a part (cluster.Partition).
type producedTo interface {
	Produce(b log.Batch, acks int16, done func(first log.Offset, appendTime int64, err error))
	ProduceVerified(b log.Batch, acks int16, v log.Verified, done func(first log.Offset, appendTime int64, err error))
	ID() log.PartitionID
	InTransaction(producer int64, epoch int16) (open bool, ended log.Offset)
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
	p.again, p.guarded = false, s.guarded(c)
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

// layout encodes the answer with the outcome of each part left open, after it has found
// out which parts can be appended at all.
func (p *producing) layout(ctx context.Context, corr int32) {
	flexible := p.version >= produceFlexible
	size := minResponseBytes
	for _, t := range p.topics {
		size += len(t.name) + 32 + 48*t.parts
	}
	p.out = newBuffer(min(size, 1<<20))
	b := appendResponseHeader(p.out.b, corr, flexible)
	b = appendArray(b, len(p.topics), flexible)
	i := 0
	for _, t := range p.topics {
		if p.version >= produceTopicIDs {
			b = append(b, t.id[:]...)
		} else {
			b = appendString(b, t.name, flexible)
		}
		b = appendArray(b, t.parts, flexible)
		view := p.find(&t)
		allowed := !p.guarded || p.mayWrite(&t, view)
		for _, pp := range p.parts[i : i+t.parts] {
			if allowed || p.version < 3 {
				p.check(ctx, view, pp)
			} else {
				pp.refuse(errTopicAuthorizationFailed, "")
			}
			b = pp.layout(b, p.version)
			switch {
			case p.version >= produceLeaders && pp.code == errNotLeaderOrFollower:
				b = p.s.appendLeader(b, 0, view.name, pp.index, &p.leaders)
			case flexible:
				b = append(b, 0)
			}
		}
		i += t.parts
		if flexible {
			b = append(b, 0)
		}
	}
	if p.version >= 1 {
		b = appendInt32(b, 0) // throttle
	}
	switch {
	case p.version >= produceLeaders:
		b = p.s.appendEndpoints(b, p.c, p.leaders)
	case flexible:
		b = append(b, 0)
	}
	sealResponse(b)
	p.out.b = b
}

// layout of one partition, but for its tagged fields. Fields up to the log start offset have a fixed size, so that
// they can be filled in later.
//
//	int32 index | int16 error | int64 base offset | v2: int64 append time |
//	v5: int64 log start | v8: array record errors, nullable string message
func (pp *producePart) layout(b []byte, version int16) []byte {
	flexible := version >= produceFlexible
	b = appendInt32(b, pp.index)
	pp.at = len(b)
	b = appendInt16(b, pp.code)
	b = appendInt64(b, -1)
	if version >= 2 {
		b = appendInt64(b, -1)
	}
	if version >= 5 {
		b = appendInt64(b, -1)
	}
	if version >= 8 {
		b = appendArray(b, 0, flexible)
		switch {
		case pp.message != "":
			b = appendString(b, pp.message[:min(len(pp.message), 1000)], flexible)
		case flexible:
			b = append(b, 0)
		default:
			b = appendInt16(b, -1)
		}
	}
	return b
}

// refuse settles a part before anything is appended.
func (pp *producePart) refuse(code int16, format string, args ...any) {
	pp.code = code
	if format != "" {
		pp.message = fmt.Sprintf(format, args...)
	}
}

// find is the topic that the request means; nil where there is none.
func (p *producing) find(t *produceTopic) *topicView {
	if p.version >= produceTopicIDs {
		return p.s.views().byID[t.id]
	}
	return p.s.topic(t.name)
}

// mayWrite: a topic that is not there is refused like one that is, to whom may not write to either.
func (p *producing) mayWrite(t *produceTopic, view *topicView) bool {
	switch {
	case view != nil:
		return p.s.mayTopic(p.c, access.Write, view.name)
	case p.version >= produceTopicIDs:
		return true // it is unknown to everybody
	}
	return p.s.mayTopic(p.c, access.Write, string(t.name))
}

// check finds the partition and looks at the batch (A8). A part with a code is not appended.
func (p *producing) check(ctx context.Context, t *topicView, pp *producePart) {
	switch {
	case p.version < 3:
		pp.refuse(errUnsupportedVersion, "")
		return
	case p.acks < -1 || p.acks > 1:
		pp.refuse(errInvalidRequiredAcks, "acks=%d: want -1, 0 or 1", p.acks)
		return
	}
	if t == nil {
		code := errUnknownTopicOrPartition
		if p.version >= produceTopicIDs {
			code = errUnknownTopicID
		}
		pp.refuse(code, "")
		return
	}
	if t.internal {
		pp.refuse(errInvalidTopic, "topic %s is internal: only the broker writes to it", t.name)
		return
	}
	part, code := p.s.partition(t.name, pp.index)
	if code == errNone && p.version >= produceTopicIDs && part.ID().Topic != t.id {
		code = errUnknownTopicID // made anew since the view was
	}
	if code != errNone {
		pp.refuse(code, "")
		return
	}
	pp.partition = part
	if p.checkBatch(t, pp); pp.code == errNone && pp.batch.IsTransactional() {
		if p.guarded && !p.s.mayTransact(p.c, access.Write, string(p.txn)) {
			pp.refuse(errTransactionalIDNotAuthorized, "")
			return
		}
		p.verify(ctx, t.name, pp)
	}
}

// verify asks the transaction's coordinator, where the batch would begin a transaction in its partition.
func (p *producing) verify(ctx context.Context, topic string, pp *producePart) {
	producer := txn.Producer{ID: pp.batch.ProducerID(), Epoch: pp.batch.ProducerEpoch()}
	pp.verified = log.Verified{Ended: log.NotVerified}
	open, ended := pp.partition.InTransaction(producer.ID, producer.Epoch)
	if open {
		return
	}
	behind := unverified{pp.partition.ID(), producer}
	if first, refused := p.c.unverified[behind]; p.again || refused && pp.batch.BaseSequence() > first {
		p.later(pp, behind)
		return
	}
	started, code := p.s.verify(ctx, string(p.txn), producer, txn.Partition{Topic: topic, Index: pp.index})
	switch code {
	case errNone:
		delete(p.c.unverified, behind)
		pp.verified = log.Verified{Ended: ended, Started: started}
	case errProducerFenced: // Produce has only ever had the other word
		pp.refuse(errInvalidProducerEpoch, "")
	case errConcurrentTransactions, errNotCoordinator, errCoordinatorLoadInProgress, errCoordinatorNotAvailable:
		p.again = true // the request's other partitions would wait for the same
		p.later(pp, behind)
	default:
		pp.refuse(code, "partition %s/%d is not part of an open transaction of %q", topic, pp.index, p.txn)
	}
}

// unverified is a producer in a partition whose coordinator could not be asked.
type unverified struct {
	partition log.PartitionID
	producer  txn.Producer
}

// maxUnverified bounds what is noted of one connection.
const maxUnverified = 1024

// later has the client send the batch again, and those behind it: a new producer's may begin anywhere, and what is taken before the first would shut it out. The
// code is one that all clients try again after.
func (p *producing) later(pp *producePart, behind unverified) {
	pp.refuse(errNotEnoughReplicas, "the coordinator of transaction %q cannot be asked at present", p.txn)
	first, refused := p.c.unverified[behind]
	switch {
	case len(p.c.unverified) >= maxUnverified && !refused:
		return
	case p.c.unverified == nil:
		p.c.unverified = map[unverified]int32{}
	}
	if seq := pp.batch.BaseSequence(); !refused || seq < first {
		p.c.unverified[behind] = seq
	}
}

// checkBatch: Apache Kafka asks for exactly one batch per partition since v3, and so do we.
func (p *producing) checkBatch(t *topicView, pp *producePart) {
	b := pp.records
	switch {
	case len(b) < log.BatchHeaderSize:
		pp.refuse(errInvalidRecord, "%d bytes are no record batch", len(b))
		return
	case b[16] != 2:
		pp.refuse(errInvalidRecord, "record batch has magic %d: only 2 is supported", b[16])
		return
	case len(b) > t.maxMessageBytes:
		// One batch, so its size is the records' size; a second one is no excuse.
		pp.refuse(errMessageTooLarge, "record batch of %d bytes: topic %s takes %d", len(b), t.name, t.maxMessageBytes)
		return
	}
	batch, err := log.NextBatch(b, len(b))
	if err != nil {
		pp.refuse(errCorruptMessage, "%v", err)
		return
	}
	if len(batch) != len(b) {
		pp.refuse(errInvalidRecord, "%d bytes after the record batch: want one batch", len(b)-len(batch))
		return
	}
	switch {
	case batch.IsControl():
		pp.refuse(errInvalidRecord, "control batches are the broker's")
		return
	case batch.IsTransactional() && (p.txn == nil || batch.ProducerID() < 0):
		pp.refuse(errInvalidRecord, "a transactional batch needs a transactional id and a producer id")
		return
	case p.version < 7 && batch.Compression() == log.CompressionZstd:
		pp.refuse(errUnsupportedCompressionType, "zstd needs Produce version 7")
		return
	case batch.Compression() > log.CompressionZstd:
		pp.refuse(errUnsupportedCompressionType, "%v", batch.Compression())
		return
	}
	batch.SetBaseOffset(0) // whatever the client wrote there
	if err := batch.Validate(log.DefaultMaxDecompressed); err != nil {
		code := errInvalidRecord
		if errors.Is(err, log.ErrTooLarge) {
			code = errMessageTooLarge
		} else if batch.CheckCRC() != nil {
			code = errCorruptMessage
		}
		pp.refuse(code, "%v", err)
		return
	}
	if t.compact && !allKeyed(batch) {
		pp.refuse(errInvalidRecord, "topic %s is compacted: every record needs a key", t.name)
		return
	}
	pp.batch, pp.size = batch, len(batch)
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

// settled is told the outcome, on any goroutine, and never blocks.
func (pp *producePart) settled(first log.Offset, appendTime int64, err error) {
	p := pp.p
	if pp.state.CompareAndSwap(partPending, partSettled) {
		b := p.out.b[pp.at:]
		if err != nil {
			p.fail(b, codeOf(err))
		} else {
			p.s.n.produceBatches.Add(1)
			p.s.n.produceBytes.Add(int64(pp.size))
			binary.BigEndian.PutUint64(b[2:], uint64(first))
			binary.BigEndian.PutUint64(b[10:], uint64(appendTime)) // v2, and v3 is the least here
			if p.version >= 5 {
				binary.BigEndian.PutUint64(b[18:], uint64(pp.partition.LogStart()))
			}
		}
		p.done()
	}
	p.unref()
}

func (p *producing) fail(b []byte, code int16) {
	p.failed.Store(true)
	p.s.n.produceRejected.Add(1)
	binary.BigEndian.PutUint16(b, uint16(code))
}

// expire answers REQUEST_TIMED_OUT for what is still open, and before the request's time is over
// NOT_ENOUGH_REPLICAS_AFTER_APPEND for what waits for replicas that are not in sync any more (H6). With
// acks=1 what waits for a lease that has lapsed is answered NOT_LEADER_OR_FOLLOWER when the time is over (A1). The
// records may yet be committed: the client sends again, and an idempotent one gets the same offsets.
func (p *producing) expire(over bool) {
	for _, pp := range p.parts[:p.n] {
		if pp.code != errNone || pp.state.Load() != partPending {
			continue
		}
		code := errRequestTimedOut
		switch {
		case p.acks == -1 && errors.Is(pp.partition.Writable(), cluster.ErrNotEnoughReplicas):
			code = errNotEnoughReplicasAfter
		case !over:
			continue
		case p.acks == 1 && !p.s.broker.HoldsLease():
			code = errNotLeaderOrFollower
		}
		if pp.state.CompareAndSwap(partPending, partTimedOut) {
			p.fail(p.out.b[pp.at:], code)
			p.done()
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
