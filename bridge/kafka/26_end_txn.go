package kafka

import (
	"cmp"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// EndTxn (key 26): v0–5
//
// The end is certain once it is stored, and then it is answered: readers of committed records see it when the markers are there, for which the answer
// waits for a moment, so that mostly the next transaction can begin at once, and what was committed can be read.
//
//	v2  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
//	v3  flexible
//	v4  TRANSACTION_ABORTABLE, which is never answered
//	v5  the producer goes on with the epoch, and the id, that the answer has (KIP-890, transaction.version 2); the commit of nothing is answered CONCURRENT_TRANSACTIONS once:
//	    Java's producer may ask for it just before it sends its first batch
func (s *Server) endTxn(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.EndTxnRequest)
	resp := kmsg.NewPtrEndTxnResponse()
	version := int16(txn.V1)
	if req.Version >= 5 {
		version = txn.V2
	}
	p, code := s.transactions.end(ctx, req.TransactionalID, txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}, req.Commit, version, req.Version >= 2)
	if resp.ErrorCode = code; code == errNone {
		s.transactions.awaitMarkers(ctx, req.TransactionalID)
		if version == txn.V2 {
			resp.ProducerID, resp.ProducerEpoch = p.ID, p.Epoch
		}
	}
	return resp, nil
}

// end decides how a producer's transaction ends, and says what it goes on with.
func (c *transactions) end(ctx context.Context, id string, p txn.Producer, commit bool, version int16, fenced bool) (txn.Producer, int16) {
	ctx, done := controllerWait(ctx, 0) // for an id, where one is needed
	defer done()
	r, f, s, code := c.stepInTurn(ctx, id, func(e *txnEntry, fresh func() (int64, error)) (*txn.Record, txn.Fault, error) {
		return e.x.End(p, commit, version, fresh, time.Now())
	})
	if s.done != nil {
		code = c.wait(ctx, s.done)
	}
	return r.Going(), cmp.Or(code, faultCode(f, fenced))
}
