package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// AddPartitionsToTxn (key 24): v0–3
//
// Answered once the partitions are stored as part of the transaction. One that does not exist spoils the whole request, as in Apache Kafka: the others
// are answered OPERATION_NOT_ATTEMPTED. Later versions are for Kafka's brokers among themselves.
//
//	v2  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
//	v3  flexible
func (s *Server) addPartitionsToTxn(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AddPartitionsToTxnRequest)
	im := s.broker.Image()
	var parts []txn.Partition
	seen, unknown := map[txn.Partition]bool{}, map[txn.Partition]bool{}
	for _, t := range req.Topics {
		for _, i := range t.Partitions {
			p := txn.Partition{Topic: t.Topic, Index: i}
			if seen[p] {
				continue
			}
			seen[p] = true
			parts = append(parts, p)
			if mt := im.Topic(t.Topic); mt == nil || mt.Internal || assignment(im, t.Topic, i) == nil {
				unknown[p] = true
			}
		}
	}
	code := errOperationNotAttempted
	if len(unknown) == 0 {
		code = s.transactions.addPartitions(ctx, req.TransactionalID, txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}, parts, req.Version >= 2)
	}
	resp := kmsg.NewPtrAddPartitionsToTxnResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTopic()
		rt.Topic = t.Topic
		for _, i := range t.Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
			if rp.Partition, rp.ErrorCode = i, code; unknown[txn.Partition{Topic: t.Topic, Index: i}] {
				rp.ErrorCode = errUnknownTopicOrPartition
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (c *transactions) addPartitions(ctx context.Context, id string, p txn.Producer, parts []txn.Partition, fenced bool) int16 {
	if c.bytes.Load()+int64(txn.SizeOf(parts)) > c.cfg.MaxBytes {
		c.log.Warn("kafka: partitions of a transaction refused, limit reached", "transactional.id", id, "partitions", len(parts), "bytes", c.cfg.MaxBytes)
		return errPolicyViolation
	}
	return c.step(ctx, id, fenced, func(x *txn.Transaction) (*txn.Record, txn.Fault) { return x.AddPartitions(p, parts, time.Now()) })
}
