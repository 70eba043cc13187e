package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// UnregisterBroker (key 64): v0
//
// Has the cluster forget a broker that is stopped and has no replicas any more; any other is refused, with what to do first.
func (s *Server) unregisterBroker(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.UnregisterBrokerRequest)
	resp := kmsg.NewPtrUnregisterBrokerResponse()
	ctx, done := controllerWait(ctx, 0)
	defer done()
	err := s.broker.RemoveNode(ctx, req.BrokerID)
	if err == nil {
		return resp, nil
	}
	if resp.ErrorCode = codeOf(err); errors.Is(err, cluster.ErrUnknownTopic) { // which is any name that is not found
		resp.ErrorCode = errBrokerIDNotRegistered
	}
	resp.ErrorMessage = new(err.Error())
	return resp, nil
}
