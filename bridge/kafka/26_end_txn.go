package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// EndTxn (key 26): v0–3
//
// The end is certain once it is stored, and then it is answered: readers of committed records see it when the markers are there, for which the answer
// waits for a moment, so that mostly the next transaction can begin at once, and what was committed can be read.
//
//	v2  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
//	v3  flexible
func (s *Server) endTxn(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.EndTxnRequest)
	resp := kmsg.NewPtrEndTxnResponse()
	p := txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}
	if resp.ErrorCode = s.transactions.step(ctx, req.TransactionalID, req.Version >= 2, func(x *txn.Transaction) (*txn.Record, txn.Fault) {
		return x.End(p, req.Commit, time.Now())
	}); resp.ErrorCode == errNone {
		s.transactions.awaitMarkers(ctx, req.TransactionalID)
	}
	return resp, nil
}
