package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// clusterGuards are those of requests about the cluster as a whole, and about configs.
func clusterGuards() map[int16]guard {
	return map[int16]guard{
		27: guarding((*Server).guardWriteMarkers),
		29: needs(access.Describe, func(r *kmsg.DescribeACLsResponse, why *string) {
			r.ErrorCode, r.ErrorMessage = errClusterAuthorizationFailed, why
		}),
		30: guarding((*Server).guardCreateACLs),
		31: guarding((*Server).guardDeleteACLs),
		32: guarding((*Server).guardDescribeConfigs),
		33: guarding((*Server).guardReplaceConfigs),
		34: guarding((*Server).guardLogDirs),
		35: needs(access.Describe, func(r *kmsg.DescribeLogDirsResponse, _ *string) { r.ErrorCode = errClusterAuthorizationFailed }),
		43: guarding((*Server).guardElectLeaders),
		44: guarding((*Server).guardAlterConfigs),
		45: needs(access.Alter, func(r *kmsg.AlterPartitionAssignmentsResponse, why *string) {
			r.ErrorCode, r.ErrorMessage = errClusterAuthorizationFailed, why
		}),
		46: needs(access.Describe, func(r *kmsg.ListPartitionReassignmentsResponse, why *string) {
			r.ErrorCode, r.ErrorMessage = errClusterAuthorizationFailed, why
		}),
		48: needs(access.DescribeConfigs, func(r *kmsg.DescribeClientQuotasResponse, why *string) {
			r.ErrorCode, r.ErrorMessage = errClusterAuthorizationFailed, why
		}),
		49: guarding((*Server).guardAlterQuotas),
		50: needs(access.Describe, func(r *kmsg.DescribeUserSCRAMCredentialsResponse, why *string) {
			r.ErrorCode, r.ErrorMessage = errClusterAuthorizationFailed, why
		}),
		51: guarding((*Server).guardAlterScram),
		60: guarding((*Server).guardDescribeCluster),
		64: needs(access.Alter, func(r *kmsg.UnregisterBrokerResponse, why *string) {
			r.ErrorCode, r.ErrorMessage = errClusterAuthorizationFailed, why
		}),
		74: needs(access.DescribeConfigs, func(r *kmsg.ListConfigResourcesResponse, _ *string) { r.ErrorCode = errClusterAuthorizationFailed }),
	}
}

// needs is the guard of a request that takes one operation on the cluster.
func needs[T any, P interface {
	*T
	kmsg.Response
	Default()
}](op access.Operation, refuse func(resp P, why *string)) guard {
	return func(s *Server, c *conn, _ kmsg.Request) (kmsg.Response, func(kmsg.Response)) {
		if s.mayCluster(c, op) {
			return nil, nil
		}
		resp := P(new(T))
		resp.Default()
		refuse(resp, refusal(c, clusterWord(op), "the cluster"))
		return resp, nil
	}
}

func clusterWord(op access.Operation) string {
	if op == access.Alter {
		return "alter"
	}
	return "describe"
}

// guardWriteMarkers: between our brokers markers go another way, so that only an operator's tool sends them.
func (s *Server) guardWriteMarkers(c *conn, req *kmsg.WriteTxnMarkersRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.ClusterAction) || s.mayCluster(c, access.Alter) {
		return nil, nil
	}
	resp := kmsg.NewPtrWriteTxnMarkersResponse()
	for _, m := range req.Markers {
		rm := kmsg.NewWriteTxnMarkersResponseMarker()
		rm.ProducerID = m.ProducerID
		for _, t := range m.Topics {
			rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.WriteTxnMarkersResponseMarkerTopicPartition{Partition: p, ErrorCode: errClusterAuthorizationFailed})
			}
			rm.Topics = append(rm.Topics, rt)
		}
		resp.Markers = append(resp.Markers, rm)
	}
	return resp, nil
}

// guardElectLeaders: version 0 has no code of the whole answer.
func (s *Server) guardElectLeaders(c *conn, req *kmsg.ElectLeadersRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.Alter) {
		return nil, nil
	}
	resp := kmsg.NewPtrElectLeadersResponse()
	resp.ErrorCode = errClusterAuthorizationFailed
	for _, t := range req.Topics {
		rt := kmsg.NewElectLeadersResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewElectLeadersResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p, errClusterAuthorizationFailed
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (s *Server) guardCreateACLs(c *conn, req *kmsg.CreateACLsRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.Alter) {
		return nil, nil
	}
	resp := kmsg.NewPtrCreateACLsResponse()
	for range req.Creations {
		resp.Results = append(resp.Results, kmsg.CreateACLsResponseResult{
			ErrorCode: errClusterAuthorizationFailed, ErrorMessage: refusal(c, "alter", "the cluster"),
		})
	}
	return resp, nil
}

func (s *Server) guardDeleteACLs(c *conn, req *kmsg.DeleteACLsRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.Alter) {
		return nil, nil
	}
	resp := kmsg.NewPtrDeleteACLsResponse()
	for range req.Filters {
		resp.Results = append(resp.Results, kmsg.DeleteACLsResponseResult{
			ErrorCode: errClusterAuthorizationFailed, ErrorMessage: refusal(c, "alter", "the cluster"),
		})
	}
	return resp, nil
}

func (s *Server) guardAlterScram(c *conn, req *kmsg.AlterUserSCRAMCredentialsRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.Alter) {
		return nil, nil
	}
	resp := kmsg.NewPtrAlterUserSCRAMCredentialsResponse()
	for _, user := range usersNamed(req) {
		r := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		r.User, r.ErrorCode, r.ErrorMessage = user, errClusterAuthorizationFailed, refusal(c, "alter", "the cluster")
		resp.Results = append(resp.Results, r)
	}
	return resp, nil
}

func (s *Server) guardAlterQuotas(c *conn, req *kmsg.AlterClientQuotasRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.AlterConfigs) {
		return nil, nil
	}
	resp := kmsg.NewPtrAlterClientQuotasResponse()
	for i := range req.Entries {
		re := quotaAnswer(&req.Entries[i])
		re.ErrorCode, re.ErrorMessage = errClusterAuthorizationFailed, refusal(c, "alter the configs of", "the cluster")
		resp.Entries = append(resp.Entries, re)
	}
	return resp, nil
}

// mayConfigure says whether c's client may do op to what carries configs, and the code if not.
func (s *Server) mayConfigure(c *conn, op access.Operation, of kmsg.ConfigResourceType, name string) int16 {
	switch {
	case of == kmsg.ConfigResourceTypeTopic && !s.mayTopic(c, op, name):
		return errTopicAuthorizationFailed
	case of == kmsg.ConfigResourceTypeGroupConfig && !s.mayGroup(c, op, name):
		return errGroupAuthorizationFailed
	case of != kmsg.ConfigResourceTypeTopic && of != kmsg.ConfigResourceTypeGroupConfig && !s.mayCluster(c, op):
		return errClusterAuthorizationFailed
	}
	return errNone
}

func (s *Server) guardDescribeConfigs(c *conn, req *kmsg.DescribeConfigsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Resources, func(r *kmsg.DescribeConfigsRequestResource) bool {
		return s.mayConfigure(c, access.DescribeConfigs, r.ResourceType, r.ResourceName) != errNone
	})
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.DescribeConfigsResponse)
		for _, o := range out {
			rr := kmsg.NewDescribeConfigsResponseResource()
			rr.ResourceType, rr.ResourceName = o.ResourceType, o.ResourceName
			rr.ErrorCode = s.mayConfigure(c, access.DescribeConfigs, o.ResourceType, o.ResourceName)
			rr.ErrorMessage = refusal(c, "describe the configs of", o.ResourceName)
			r.Resources = append(r.Resources, rr)
		}
	}
}

func (s *Server) guardAlterConfigs(c *conn, req *kmsg.IncrementalAlterConfigsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Resources, func(r *kmsg.IncrementalAlterConfigsRequestResource) bool {
		return s.mayConfigure(c, access.AlterConfigs, r.ResourceType, r.ResourceName) != errNone
	})
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.IncrementalAlterConfigsResponse)
		for _, o := range out {
			rr := kmsg.NewIncrementalAlterConfigsResponseResource()
			rr.ResourceType, rr.ResourceName = o.ResourceType, o.ResourceName
			rr.ErrorCode = s.mayConfigure(c, access.AlterConfigs, o.ResourceType, o.ResourceName)
			rr.ErrorMessage = refusal(c, "alter the configs of", o.ResourceName)
			r.Resources = append(r.Resources, rr)
		}
	}
}

func (s *Server) guardReplaceConfigs(c *conn, req *kmsg.AlterConfigsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Resources, func(r *kmsg.AlterConfigsRequestResource) bool {
		return s.mayConfigure(c, access.AlterConfigs, r.ResourceType, r.ResourceName) != errNone
	})
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.AlterConfigsResponse)
		for _, o := range out {
			rr := kmsg.NewAlterConfigsResponseResource()
			rr.ResourceType, rr.ResourceName = o.ResourceType, o.ResourceName
			rr.ErrorCode = s.mayConfigure(c, access.AlterConfigs, o.ResourceType, o.ResourceName)
			rr.ErrorMessage = refusal(c, "alter the configs of", o.ResourceName)
			r.Resources = append(r.Resources, rr)
		}
	}
}

func (s *Server) guardLogDirs(c *conn, req *kmsg.AlterReplicaLogDirsRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.Alter) {
		return nil, nil
	}
	resp := kmsg.NewPtrAlterReplicaLogDirsResponse()
	for _, d := range req.Dirs {
		for _, t := range d.Topics {
			rt := kmsg.NewAlterReplicaLogDirsResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.AlterReplicaLogDirsResponseTopicPartition{Partition: p, ErrorCode: errClusterAuthorizationFailed})
			}
			resp.Topics = append(resp.Topics, rt)
		}
	}
	return resp, nil
}

// guardDescribeCluster: anybody may know the brokers, since Metadata tells of them too, but for those that are fenced.
func (s *Server) guardDescribeCluster(c *conn, req *kmsg.DescribeClusterRequest) (kmsg.Response, func(kmsg.Response)) {
	if !s.mayCluster(c, access.Describe) {
		req.IncludeFencedBrokers = false
	}
	return nil, func(resp kmsg.Response) {
		if r := resp.(*kmsg.DescribeClusterResponse); req.IncludeClusterAuthorizedOperations {
			r.ClusterAuthorizedOperations = s.operations(c, clusterOperations, access.Cluster, access.ClusterName)
		}
	}
}

// usersNamed are the users whose credentials a request changes, each once, in its order.
func usersNamed(req *kmsg.AlterUserSCRAMCredentialsRequest) (users []string) {
	add := func(name string) {
		if !slices.Contains(users, name) {
			users = append(users, name)
		}
	}
	for _, d := range req.Deletions {
		add(d.Name)
	}
	for _, u := range req.Upsertions {
		add(u.Name)
	}
	return users
}
