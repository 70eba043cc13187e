package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// InitProducerId (key 22): v0–4
//
// Without a transactional id every request gets a new id with epoch 0, whatever id it comes with: so does Apache
// Kafka. With one it ends what the producer before had open, and fences it; answered once that is stored.
//
//	v2  flexible
//	v3  the id and epoch that the producer has (KIP-360)
//	v4  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH
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

// errNoProducerID asks for one.
var errNoProducerID = errors.New("a producer id is needed")

func (c *transactions) initProducer(ctx context.Context, req *kmsg.InitProducerIDRequest) (p txn.Producer, code int16) {
	timeout := time.Duration(req.TransactionTimeoutMillis) * time.Millisecond
	if timeout <= 0 || timeout > c.cfg.MaxTimeout {
		return p, faultCode(txn.InvalidTimeout, true)
	}
	// Asked for before the id is locked: it may take a while. One that is not needed is lost, as are those of a producer that goes away.
	fresh := int64(-1)
	for {
		e, code := c.find(*req.TransactionalID, true)
		if e == nil {
			return p, code
		}
		have := txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}
		if req.Version < 3 {
			have.ID = -1
		}
		r, f, err := e.x.InitProducer(have, timeout, func() (int64, error) {
			if fresh < 0 {
				return 0, errNoProducerID
			}
			return fresh, nil
		}, time.Now())
		if err != nil {
			e.mu.Unlock()
			if fresh, err = c.cfg.producerID(ctx); err != nil {
				c.log.Warn("kafka: no producer id", "err", err)
				return p, errCoordinatorLoadInProgress
			}
			continue
		}
		if r == nil {
			p = e.x.Record().Producer // if it has what it asks for
			e.mu.Unlock()
			return p, faultCode(f, req.Version >= 4)
		}
		stored := c.store(e, r)
		e.mu.Unlock()
		if code = c.wait(ctx, stored); code == errNone {
			code = faultCode(f, req.Version >= 4) // Pending: what was open is being aborted
		}
		return r.Producer, code
	}
}
