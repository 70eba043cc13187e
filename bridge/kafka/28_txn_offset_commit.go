package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// TxnOffsetCommit (key 28): v0–5
//
// Answered when every offset is stored, to be applied when the transaction is committed. The transaction's coordinator is asked first whether the group
// is part of it, so that a producer which has been fenced leaves nothing behind.
//
//	v2  leader epoch
//	v3  member, generation and group.instance.id (KIP-447); flexible
//	v4  TRANSACTION_ABORTABLE where the group is not part of it
//	v5  the group becomes part of it (KIP-890, transaction.version 2), without AddOffsetsToTxn
func (s *Server) txnOffsetCommit(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.TxnOffsetCommitRequest)
	call := &commitCall{done: make(chan struct{})}
	code := s.committed(ctx, call, s.beginTxnOffsetCommit(ctx, req, call))
	resp := kmsg.NewPtrTxnOffsetCommitResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewTxnOffsetCommitResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, code()
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

// verifyAgain bounds how often a request is verified anew because another transaction of the partition's groups has ended meanwhile.
const verifyAgain = 5

func (s *Server) beginTxnOffsetCommit(ctx context.Context, req *kmsg.TxnOffsetCommitRequest, call *commitCall) int16 {
	for range verifyAgain {
		t, code := s.groups.find(req.Group)
		if code != errNone {
			return code
		}
		ends := t.ends.Load()
		at := txn.Partition{Topic: offsetsTopic, Index: t.partition}
		p := txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}
		var started int64
		if req.Version >= 5 {
			started, code = s.enlist(ctx, req.TransactionalID, p, []txn.Partition{at})
		} else {
			started, code = s.verify(ctx, req.TransactionalID, p, at)
		}
		switch code {
		case errNone:
		case errProducerFenced:
			return errInvalidProducerEpoch // what Kafka's coordinator of groups says of it
		case errConcurrentTransactions:
			return errCoordinatorLoadInProgress // the other one is fatal to some clients here
		case errInvalidTxnState:
			if req.Version >= 4 {
				code = errTransactionAbortable
			}
			return code
		default:
			return code
		}
		if code = s.groups.commitPending(req, t, ends, started, call); code != errConcurrentTransactions {
			return code
		}
	}
	return errCoordinatorLoadInProgress // the clients' word for: soon
}
