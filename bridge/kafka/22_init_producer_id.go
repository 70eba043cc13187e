package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId (key 22): v0–4, idempotent producers only
//
// Every request gets a new id with epoch 0, whatever id it comes with: so does Apache
// Kafka without a transactional id. A transactional id is answered with
// TRANSACTIONAL_ID_AUTHORIZATION_FAILED, the one code that makes clients give up at once
// and name the transactional id in what they tell the user.
//
//	v2  flexible
//	v3  the id and epoch that the producer has
func (s *Server) initProducerID(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.InitProducerIDRequest)
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	switch {
	case req.TransactionalID != nil && *req.TransactionalID == "":
		resp.ErrorCode = errInvalidRequest
		return resp, nil
	case req.TransactionalID != nil:
		s.log.Warn("kafka: transactions are not supported: use an idempotent producer without transactional.id",
			"transactional.id", *req.TransactionalID, "client", c.clientID)
		resp.ErrorCode = errTransactionalIDAuthorizationFailed
		return resp, nil
	}
	ctx, done := controllerWait(ctx, 0)
	defer done()
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
