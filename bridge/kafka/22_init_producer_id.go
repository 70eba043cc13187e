package kafka

import (
	"cmp"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// InitProducerId (key 22): v0–5
//
// Without a transactional id every request gets a new id with epoch 0, whatever id it comes with: so does Apache
// Kafka. With one it ends what the producer before had open, and fences it; answered once that is stored.
//
//	v2  flexible
//	v3  the id and epoch that the producer has (KIP-360)
//	v4  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
//	v5  TRANSACTION_ABORTABLE, which is never answered
func (s *Server) initProducerID(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.InitProducerIDRequest)
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	ctx, done := controllerWait(ctx, 0)
	defer done()
	if req.TransactionalID != nil {
		p, code := s.transactions.initProducer(ctx, req)
		if resp.ErrorCode = code; code == errNone {
			resp.ProducerID, resp.ProducerEpoch = p.ID, p.Epoch
		}
		return resp, nil
	}
	id, err := s.broker.NextProducerID(ctx)
	if err != nil {
		// COORDINATOR_LOAD_IN_PROGRESS is the code that every client tries again after.
		s.log.Warn("kafka: no producer id", "err", err)
		resp.ErrorCode = errCoordinatorLoadInProgress
		return resp, nil
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp, nil
}

func (c *transactions) initProducer(ctx context.Context, req *kmsg.InitProducerIDRequest) (p txn.Producer, code int16) {
	timeout := time.Duration(req.TransactionTimeoutMillis) * time.Millisecond
	if timeout <= 0 || timeout > c.cfg.MaxTimeout {
		return p, faultCode(txn.InvalidTimeout, true)
	}
	have := txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}
	if req.Version < 3 {
		have.ID = -1
	}
	r, f, code := c.step(ctx, *req.TransactionalID, true, func(e *txnEntry, fresh func() (int64, error)) (*txn.Record, txn.Fault, error) {
		return e.x.InitProducer(have, timeout, fresh, time.Now())
	})
	return r.Producer, cmp.Or(code, faultCode(f, req.Version >= 4)) // Pending also where what was open is being aborted
}
