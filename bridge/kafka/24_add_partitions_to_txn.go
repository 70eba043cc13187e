package kafka

import (
	"cmp"
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// AddPartitionsToTxn (key 24): v0–5
//
// Answered once the partitions are stored as part of the transaction. One that does not exist spoils the whole request, as in Apache Kafka: the others
// are answered OPERATION_NOT_ATTEMPTED.
//
//	v2  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
//	v3  flexible
//	v4  several transactions, and the question whether partitions are part of one already: what Kafka's brokers ask each other. Ours have a call
//	    of their own (transactions_peers.go), and answer who asks in this way.
//	v5  TRANSACTION_ABORTABLE where a partition is not part of it
func (s *Server) addPartitionsToTxn(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AddPartitionsToTxnRequest)
	resp := kmsg.NewPtrAddPartitionsToTxnResponse()
	if req.Version >= 4 {
		return resp, s.addPartitionsToTxns(ctx, req, resp)
	}
	var parts []txn.Partition
	for _, t := range req.Topics {
		parts = namedPartitions(parts, t.Topic, t.Partitions)
	}
	codes := s.addNamedPartitions(parts, func(parts []txn.Partition) int16 {
		return s.transactions.addPartitions(ctx, req.TransactionalID, txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}, parts, req.Version >= 2)
	})
	for _, t := range req.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTopic()
		rt.Topic = t.Topic
		for _, i := range t.Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			rp.Partition, rp.ErrorCode = i, codes[0]
			codes = codes[1:]
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

// addPartitionsToTxns is for brokers' versions.
func (s *Server) addPartitionsToTxns(ctx context.Context, req *kmsg.AddPartitionsToTxnRequest, resp *kmsg.AddPartitionsToTxnResponse) error {
	n := 0
	for _, x := range req.Transactions {
		for _, t := range x.Topics {
			n += len(t.Partitions)
		}
	}
	if err := tooMany(max(n, len(req.Transactions))); err != nil {
		return err
	}
	ctx, done := context.WithTimeoutCause(ctx, peerTimeout, errors.New("no answer in time"))
	defer done()
	for _, x := range req.Transactions {
		var parts []txn.Partition
		for _, t := range x.Topics {
			parts = namedPartitions(parts, t.Topic, t.Partitions)
		}
		p := txn.Producer{ID: x.ProducerID, Epoch: x.ProducerEpoch}
		var codes []int16
		if x.VerifyOnly {
			for _, at := range parts {
				_, code := s.transactions.verify(x.TransactionalID, p, at)
				codes = append(codes, code)
			}
		} else {
			codes = s.addNamedPartitions(parts, func(parts []txn.Partition) int16 {
				_, code := s.transactions.enlist(ctx, x.TransactionalID, p, parts)
				return code
			})
		}
		rx := kmsg.NewAddPartitionsToTxnResponseTransaction()
		rx.TransactionalID = x.TransactionalID
		for _, t := range x.Topics {
			rt := kmsg.NewAddPartitionsToTxnResponseTransactionTopic()
			rt.Topic = t.Topic
			for _, i := range t.Partitions {
				rp := kmsg.NewAddPartitionsToTxnResponseTransactionTopicPartition()
				rp.Partition, rp.ErrorCode = i, codes[0]
				if codes = codes[1:]; rp.ErrorCode == errInvalidTxnState && req.Version >= 5 {
					rp.ErrorCode = errTransactionAbortable
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			rx.Topics = append(rx.Topics, rt)
		}
		resp.Transactions = append(resp.Transactions, rx)
	}
	return nil
}

func namedPartitions(parts []txn.Partition, topic string, indexes []int32) []txn.Partition {
	for _, i := range indexes {
		parts = append(parts, txn.Partition{Topic: topic, Index: i})
	}
	return parts
}

// addNamedPartitions adds partitions that a client names, if all of them exist, and has a code for each.
func (s *Server) addNamedPartitions(parts []txn.Partition, add func([]txn.Partition) int16) []int16 {
	im := s.broker.Image()
	codes := make([]int16, len(parts))
	code := errNone
	for i, p := range parts {
		if t := im.Topic(p.Topic); t == nil || t.Internal || assignment(im, p.Topic, p.Index) == nil {
			codes[i], code = errUnknownTopicOrPartition, errOperationNotAttempted
		}
	}
	if code == errNone {
		code = add(parts)
	}
	for i := range codes {
		codes[i] = cmp.Or(codes[i], code)
	}
	return codes
}
