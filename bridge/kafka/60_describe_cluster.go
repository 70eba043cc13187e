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
//	v2  fenced brokers too, where asked for (KIP-1073)
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
	brokers := s.endpoints(c, s.broker.Image())
	resp.ControllerID = s.controller(brokers)
	for _, e := range brokers {
		resp.Brokers = append(resp.Brokers, describedBroker(e, false))
	}
	if req.IncludeFencedBrokers {
		for _, b := range s.broker.Image().Brokers() {
			if e, code := s.address(c, b); code == errNone && b.Fenced {
				resp.Brokers = append(resp.Brokers, describedBroker(e, true))
			}
		}
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterOperations
	}
	return resp, nil
}

func describedBroker(e endpoint, fenced bool) kmsg.DescribeClusterResponseBroker {
	rb := kmsg.NewDescribeClusterResponseBroker()
	rb.NodeID, rb.Host, rb.Port, rb.Rack, rb.IsFenced = e.id, e.host, e.port, e.zone, fenced
	return rb
}
