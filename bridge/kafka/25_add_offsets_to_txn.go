package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// AddOffsetsToTxn (key 25): v0–4
//
// The partition that keeps the group's offsets becomes part of the transaction.
//
//	v2  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
//	v3  flexible
//	v4  TRANSACTION_ABORTABLE, which is never answered. Producers of transaction version 2 do not ask: TxnOffsetCommit does it
func (s *Server) addOffsetsToTxn(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AddOffsetsToTxnRequest)
	resp := kmsg.NewPtrAddOffsetsToTxnResponse()
	if len(req.Group) > maxGroupIDBytes || req.Group == "" {
		resp.ErrorCode = errInvalidGroupID
		return resp, nil
	}
	at := txn.Partition{Topic: offsetsTopic, Index: s.groups.partitionOf(req.Group)}
	resp.ErrorCode = s.transactions.addPartitions(ctx, req.TransactionalID, txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}, []txn.Partition{at}, req.Version >= 2)
	return resp, nil
}
