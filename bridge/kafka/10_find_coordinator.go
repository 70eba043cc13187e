package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// FindCoordinator (key 10): v0–6
//
// The coordinator of a group is the leader of its partition of
// __consumer_offsets, told with the address of a listener like the one that the
// client came by. Transactions have no coordinator yet.
//
//	v1  key type (0 group, 1 transaction) and an error message
//	v4  several keys
//	v5  TRANSACTION_ABORTABLE, which is never answered
//	v6  share groups as a key type (KIP-932): refused, there are none
func (s *Server) findCoordinator(_ context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.FindCoordinatorRequest)
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if req.Version >= 4 {
		for _, key := range req.CoordinatorKeys {
			resp.Coordinators = append(resp.Coordinators, s.coordinatorOf(c, req.CoordinatorType, key))
		}
		return resp, nil
	}
	one := s.coordinatorOf(c, req.CoordinatorType, req.CoordinatorKey)
	resp.ErrorCode, resp.ErrorMessage = one.ErrorCode, one.ErrorMessage
	resp.NodeID, resp.Host, resp.Port = one.NodeID, one.Host, one.Port
	return resp, nil
}

func (s *Server) coordinatorOf(c *conn, keyType int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	r := kmsg.NewFindCoordinatorResponseCoordinator()
	r.Key, r.NodeID, r.Port = key, -1, -1
	refuse := func(code int16, why string) kmsg.FindCoordinatorResponseCoordinator {
		r.ErrorCode, r.ErrorMessage = code, &why
		return r
	}
	switch {
	case keyType == 1:
		return refuse(errInvalidRequest, "transactions are not supported: remove transactional.id from the producer's configuration")
	case keyType == 2:
		return refuse(errInvalidRequest, "share groups are not supported: use a consumer group")
	case keyType != 0:
		return refuse(errInvalidRequest, "unknown type of coordinator key")
	case s.groups == nil:
		return refuse(errCoordinatorNotAvailable, "consumer groups are not up yet")
	case len(key) > maxGroupIDBytes:
		return refuse(errInvalidGroupID, "group id is longer than 1024 bytes")
	}
	im := s.broker.Image()
	p := assignment(im, offsetsTopic, s.groups.partitionOf(key))
	if p == nil {
		return refuse(errCoordinatorNotAvailable, "consumer groups are not up yet")
	}
	e, code := s.endpoint(c, im, p.Leader)
	if code != errNone {
		return refuse(errCoordinatorNotAvailable, "no broker that can be reached coordinates this group at present")
	}
	r.NodeID, r.Host, r.Port = e.id, e.host, e.port
	return r
}
