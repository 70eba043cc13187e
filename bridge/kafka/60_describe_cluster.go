package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster (key 60): v0–2
//
// The brokers that Metadata tells of.
//
//	v1  endpoint type: only brokers (1) can be asked for
//	v2  fenced brokers as well, where asked for
func (s *Server) describeCluster(_ context.Context, c *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeClusterRequest)
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.EndpointType = 1
	resp.ControllerID = -1
	if req.Version >= 1 && req.EndpointType != 1 {
		resp.ErrorCode = errInvalidRequest
		resp.ErrorMessage = new("only broker endpoints (1) can be described")
		return resp, nil
	}
	resp.ClusterID = s.broker.ClusterID()
	im := s.broker.Image()
	resp.ControllerID = s.controller(s.endpoints(c, im))
	for _, b := range im.Brokers() {
		if b.Fenced && !req.IncludeFencedBrokers {
			continue
		}
		if e := s.address(c, b); e.port != 0 {
			rb := kmsg.NewDescribeClusterResponseBroker()
			rb.NodeID, rb.Host, rb.Port, rb.Rack, rb.IsFenced = e.id, e.host, e.port, e.zone, b.Fenced
			resp.Brokers = append(resp.Brokers, rb)
		}
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	return resp, nil
}
