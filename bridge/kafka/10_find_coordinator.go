package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// FindCoordinator (key 10): v0–6
//
// The coordinator of a group is the leader of its partition of
// __consumer_offsets, that of a transactional id of its partition of __transaction_state, which is made
// when it is asked for first. It is told with the address of a listener like the one that the client came by.
//
//	v1  key type (0 group, 1 transaction) and an error message
//	v4  several keys
//	v5  TRANSACTION_ABORTABLE, which is never answered
//	v6  share groups as a key type (KIP-932): refused, there are none
func (s *Server) findCoordinator(ctx context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.FindCoordinatorRequest)
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if req.Version >= 4 {
		for _, key := range req.CoordinatorKeys {
			resp.Coordinators = append(resp.Coordinators, s.coordinatorOf(ctx, c, req.CoordinatorType, key))
		}
		return resp, nil
	}
	one := s.coordinatorOf(ctx, c, req.CoordinatorType, req.CoordinatorKey)
	resp.ErrorCode, resp.ErrorMessage = one.ErrorCode, one.ErrorMessage
	resp.NodeID, resp.Host, resp.Port = one.NodeID, one.Host, one.Port
	return resp, nil
}

func (s *Server) coordinatorOf(ctx context.Context, c *conn, keyType int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	r := kmsg.NewFindCoordinatorResponseCoordinator()
	r.Key, r.NodeID, r.Port = key, -1, -1
	refuse := func(code int16, why string) kmsg.FindCoordinatorResponseCoordinator {
		r.ErrorCode, r.ErrorMessage = code, &why
		return r
	}
	switch {
	case keyType == 1 && (key == "" || len(key) > maxTransactionalID):
		return refuse(errInvalidRequest, "a transactional id has 1 to 1024 bytes")
	case keyType == 1:
		if err := s.transactions.openTable(ctx, true); err != nil {
			s.log.Warn("kafka: no coordinator for transactions", "err", err)
			return refuse(errCoordinatorNotAvailable, err.Error())
		}
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
	topic, partition := offsetsTopic, s.groups.partitionOf(key)
	if keyType == 1 {
		topic, partition = transactionsTopic, 0
		if t := im.Topic(topic); t != nil {
			partition = hashPartition(key, int32(len(t.Partitions)))
		}
	}
	p := assignment(im, topic, partition)
	if p == nil {
		return refuse(errCoordinatorNotAvailable, "the coordinators are not up yet")
	}
	e, code := s.endpoint(c, im, p.Leader)
	if code != errNone {
		return refuse(errCoordinatorNotAvailable, "no broker that can be reached coordinates it at present")
	}
	r.NodeID, r.Host, r.Port = e.id, e.host, e.port
	return r
}
