package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/log"
)

// checkAll finds out which parts can be appended at all (A8). A part with a code is not.
func (p *producing) checkAll(ctx context.Context) {
	var begin []*producePart // a transaction in its partition, or so it seems
	unauthorized := false
	i := 0
	for k := range p.topics {
		t := &p.topics[k]
		t.view = p.find(t)
		allowed := !p.guarded || p.version < 3 || p.mayWrite(t)
		for _, pp := range p.parts[i : i+t.parts] {
			if !allowed {
				pp.refuse(errTopicAuthorizationFailed, "")
				unauthorized = true
				continue
			}
			p.check(t.view, pp)
			if pp.code != errNone || !pp.batch.IsTransactional() {
				continue
			}
			if p.guarded && !p.s.mayTransact(p.c, access.Write, string(p.txn)) {
				pp.refuse(errTransactionalIDNotAuthorized, "")
				unauthorized = true
				continue
			}
			if pp.begins(p.version) {
				pp.topic = t.view.name
				begin = append(begin, pp)
			}
		}
		i += t.parts
	}
	if unauthorized {
		p.s.n.unauthorized.Add(1)
	}
	if len(begin) > 0 {
		p.verify(ctx, begin)
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
func (p *producing) mayWrite(t *produceTopic) bool {
	switch {
	case t.view != nil:
		return p.s.mayTopic(p.c, access.Write, t.view.name)
	case p.version >= produceTopicIDs:
		return true // it is unknown to everybody
	}
	return p.s.mayTopic(p.c, access.Write, string(t.name))
}

// check finds the partition and looks at the batch.
func (p *producing) check(t *topicView, pp *producePart) {
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
	p.checkBatch(t, pp)
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

// refuse settles a part before anything is appended.
func (pp *producePart) refuse(code int16, format string, args ...any) {
	pp.code = code
	if format != "" {
		pp.message = fmt.Sprintf(format, args...)
	}
}
