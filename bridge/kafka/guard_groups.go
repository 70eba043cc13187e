package kafka

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster/access"
)

// groupGuards are those of requests of consumer groups, their offsets, and of transactions.
func groupGuards() map[int16]guard {
	return map[int16]guard{
		8:  guarding((*Server).guardOffsetCommit),
		9:  guarding((*Server).guardOffsetFetch),
		10: guarding((*Server).guardFindCoordinator),
		11: ofGroup(func(r *kmsg.JoinGroupRequest) string { return r.Group }, func() kmsg.Response {
			resp := kmsg.NewPtrJoinGroupResponse()
			resp.Generation, resp.ErrorCode = -1, errGroupAuthorizationFailed
			return resp
		}),
		12: ofGroup(func(r *kmsg.HeartbeatRequest) string { return r.Group }, func() kmsg.Response {
			resp := kmsg.NewPtrHeartbeatResponse()
			resp.ErrorCode = errGroupAuthorizationFailed
			return resp
		}),
		13: ofGroup(func(r *kmsg.LeaveGroupRequest) string { return r.Group }, func() kmsg.Response {
			resp := kmsg.NewPtrLeaveGroupResponse()
			resp.ErrorCode = errGroupAuthorizationFailed
			return resp
		}),
		14: ofGroup(func(r *kmsg.SyncGroupRequest) string { return r.Group }, func() kmsg.Response {
			resp := kmsg.NewPtrSyncGroupResponse()
			resp.ErrorCode = errGroupAuthorizationFailed
			return resp
		}),
		15: guarding((*Server).guardDescribeGroups),
		16: guarding((*Server).guardListGroups),
		22: guarding((*Server).guardInitProducerID),
		24: guarding((*Server).guardAddPartitions),
		25: guarding((*Server).guardAddOffsets),
		26: guarding((*Server).guardEndTxn),
		28: guarding((*Server).guardTxnOffsetCommit),
		42: guarding((*Server).guardDeleteGroups),
		47: guarding((*Server).guardOffsetDelete),
		65: guarding((*Server).guardDescribeTransactions),
		66: guarding((*Server).guardListTransactions),
		68: guarding((*Server).guardConsumerHeartbeat),
		69: guarding((*Server).guardDescribeConsumers),
	}
}

// ofGroup is the guard of what only members of a group ask.
func ofGroup[R kmsg.Request](group func(R) string, refused func() kmsg.Response) guard {
	return guarding(func(s *Server, c *conn, req R) (kmsg.Response, func(kmsg.Response)) {
		if s.mayGroup(c, access.Read, group(req)) {
			return nil, nil
		}
		return refused(), nil
	})
}

func (s *Server) guardOffsetCommit(c *conn, req *kmsg.OffsetCommitRequest) (kmsg.Response, func(kmsg.Response)) {
	code, all := errTopicAuthorizationFailed, false
	if !s.mayGroup(c, access.Read, req.Group) {
		code, all = errGroupAuthorizationFailed, true
	}
	byID := req.Version >= commitTopicIDs
	out := forbid(c, &req.Topics, func(t *kmsg.OffsetCommitRequestTopic) bool {
		return all || byID && !s.mayTopicID(c, access.Read, t.TopicID) || !byID && !s.mayTopic(c, access.Read, t.Topic)
	})
	refused := func(resp kmsg.Response) {
		r := resp.(*kmsg.OffsetCommitResponse)
		for i := range out {
			r.Topics = append(r.Topics, refuseCommit(&out[i], code))
		}
	}
	if all || out != nil && len(req.Topics) == 0 { // a commit of nothing would make the group
		resp := kmsg.NewPtrOffsetCommitResponse()
		refused(resp)
		return resp, nil
	}
	return nil, refused
}

func (s *Server) guardOffsetFetch(c *conn, req *kmsg.OffsetFetchRequest) (kmsg.Response, func(kmsg.Response)) {
	if req.Version < 8 {
		return s.guardOffsetFetchOfOne(c, req)
	}
	groups := forbid(c, &req.Groups, func(g *kmsg.OffsetFetchRequestGroup) bool { return !s.mayGroup(c, access.Describe, g.Group) })
	topics := make([][]kmsg.OffsetFetchRequestGroupTopic, len(req.Groups))
	for i := range req.Groups {
		topics[i] = forbid(c, &req.Groups[i].Topics, func(t *kmsg.OffsetFetchRequestGroupTopic) bool {
			if req.Version >= commitTopicIDs {
				return !s.mayTopicID(c, access.Describe, t.TopicID)
			}
			return !s.mayTopic(c, access.Describe, t.Topic)
		})
	}
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.OffsetFetchResponse)
		for i := range req.Groups { // the handler answers them in their order
			rg := &r.Groups[i]
			rg.Topics = slices.DeleteFunc(rg.Topics, func(t kmsg.OffsetFetchResponseGroupTopic) bool {
				return req.Groups[i].Topics == nil && !s.mayTopic(c, access.Describe, t.Topic)
			})
			for j := range topics[i] {
				rg.Topics = append(rg.Topics, refuseFetched(&topics[i][j], errTopicAuthorizationFailed))
			}
		}
		for _, g := range groups {
			rg := kmsg.NewOffsetFetchResponseGroup()
			rg.Group, rg.ErrorCode = g.Group, errGroupAuthorizationFailed
			r.Groups = append(r.Groups, rg)
		}
	}
}

// guardOffsetFetchOfOne is for versions that ask for one group. Before v2 its error stands with each partition.
func (s *Server) guardOffsetFetchOfOne(c *conn, req *kmsg.OffsetFetchRequest) (kmsg.Response, func(kmsg.Response)) {
	code, all, everything := errTopicAuthorizationFailed, false, req.Topics == nil
	if !s.mayGroup(c, access.Describe, req.Group) {
		code, all = errGroupAuthorizationFailed, true
	}
	out := forbid(c, &req.Topics, func(t *kmsg.OffsetFetchRequestTopic) bool { return all || !s.mayTopic(c, access.Describe, t.Topic) })
	refused := func(resp kmsg.Response) {
		r := resp.(*kmsg.OffsetFetchResponse)
		r.Topics = slices.DeleteFunc(r.Topics, func(t kmsg.OffsetFetchResponseTopic) bool {
			return everything && !s.mayTopic(c, access.Describe, t.Topic)
		})
		for _, t := range out {
			rt := kmsg.NewOffsetFetchResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetFetchResponseTopicPartition()
				rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p, -1, -1, &noMetadata, code
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	}
	if all {
		resp := kmsg.NewPtrOffsetFetchResponse()
		resp.ErrorCode = code
		refused(resp)
		return resp, nil
	}
	return nil, refused
}

// guardFindCoordinator: who may not describe a group or a transactional id is not told where it is.
func (s *Server) guardFindCoordinator(c *conn, req *kmsg.FindCoordinatorRequest) (kmsg.Response, func(kmsg.Response)) {
	kind, code := access.Group, errGroupAuthorizationFailed
	if req.CoordinatorType == 1 {
		kind, code = access.TransactionalID, errTransactionalIDNotAuthorized
	}
	if req.Version < 4 {
		if s.may(c, access.Describe, kind, req.CoordinatorKey) {
			return nil, nil
		}
		resp := kmsg.NewPtrFindCoordinatorResponse()
		resp.NodeID, resp.Port, resp.ErrorCode, resp.ErrorMessage = -1, -1, code, refusal(c, "use", req.CoordinatorKey)
		return resp, nil
	}
	out := forbid(c, &req.CoordinatorKeys, func(key *string) bool { return !s.may(c, access.Describe, kind, *key) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.FindCoordinatorResponse)
		for _, key := range out {
			rc := kmsg.NewFindCoordinatorResponseCoordinator()
			rc.Key, rc.NodeID, rc.Port, rc.ErrorCode, rc.ErrorMessage = key, -1, -1, code, refusal(c, "use", key)
			r.Coordinators = append(r.Coordinators, rc)
		}
	}
}

func (s *Server) guardDescribeGroups(c *conn, req *kmsg.DescribeGroupsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Groups, func(g *string) bool { return !s.mayGroup(c, access.Describe, *g) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.DescribeGroupsResponse)
		for _, g := range out {
			rg := kmsg.NewDescribeGroupsResponseGroup()
			rg.Group, rg.ErrorCode, rg.ErrorMessage = g, errGroupAuthorizationFailed, refusal(c, "describe group", g)
			r.Groups = append(r.Groups, rg)
		}
	}
}

// guardDescribeConsumers: members' regular expressions find topics whatever who asks may know of, and their assignments name them.
func (s *Server) guardDescribeConsumers(c *conn, req *kmsg.ConsumerGroupDescribeRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Groups, func(g *string) bool { return !s.mayGroup(c, access.Describe, *g) })
	hidden := func(a *kmsg.Assignment) bool {
		return slices.ContainsFunc(a.TopicPartitions, func(t kmsg.AssignmentTopicPartition) bool {
			return t.Topic != "" && !s.mayTopic(c, access.Describe, t.Topic)
		})
	}
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.ConsumerGroupDescribeResponse)
		for i := range r.Groups {
			g := &r.Groups[i]
			if slices.ContainsFunc(g.Members, func(m kmsg.ConsumerGroupDescribeResponseGroupMember) bool {
				return hidden(&m.Assignment) || hidden(&m.TargetAssignment)
			}) {
				c.unauthorized = true
				g.ErrorCode, g.ErrorMessage, g.Members = errTopicAuthorizationFailed, refusal(c, "describe", "a topic that the group has"), nil
			}
		}
		for _, g := range out {
			rg := kmsg.NewConsumerGroupDescribeResponseGroup()
			rg.Group, rg.ErrorCode, rg.ErrorMessage = g, errGroupAuthorizationFailed, refusal(c, "describe group", g)
			r.Groups = append(r.Groups, rg)
		}
	}
}

// guardListGroups: who may not describe the cluster sees the groups that he may describe.
func (s *Server) guardListGroups(c *conn, _ *kmsg.ListGroupsRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayCluster(c, access.Describe) {
		return nil, nil
	}
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.ListGroupsResponse)
		r.Groups = slices.DeleteFunc(r.Groups, func(g kmsg.ListGroupsResponseGroup) bool { return !s.mayGroup(c, access.Describe, g.Group) })
	}
}

func (s *Server) guardDeleteGroups(c *conn, req *kmsg.DeleteGroupsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.Groups, func(g *string) bool { return !s.mayGroup(c, access.Delete, *g) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.DeleteGroupsResponse)
		for _, g := range out {
			rg := kmsg.NewDeleteGroupsResponseGroup()
			rg.Group, rg.ErrorCode, rg.ErrorMessage = g, errGroupAuthorizationFailed, refusal(c, "delete group", g)
			r.Groups = append(r.Groups, rg)
		}
	}
}

func (s *Server) guardOffsetDelete(c *conn, req *kmsg.OffsetDeleteRequest) (kmsg.Response, func(kmsg.Response)) {
	if !s.mayGroup(c, access.Delete, req.Group) {
		resp := kmsg.NewPtrOffsetDeleteResponse()
		resp.ErrorCode = errGroupAuthorizationFailed
		return resp, nil
	}
	out := forbid(c, &req.Topics, func(t *kmsg.OffsetDeleteRequestTopic) bool { return !s.mayTopic(c, access.Read, t.Topic) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.OffsetDeleteResponse)
		for _, t := range out {
			rt := kmsg.NewOffsetDeleteResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetDeleteResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, errTopicAuthorizationFailed
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	}
}

// guardConsumerHeartbeat: a member names only topics that he may know of, and is not assigned what his regular expression finds beyond that. The group counts it as his
// all the same: who else has the expression gets other partitions, so that members of one group want the same rules.
func (s *Server) guardConsumerHeartbeat(c *conn, req *kmsg.ConsumerGroupHeartbeatRequest) (kmsg.Response, func(kmsg.Response)) {
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	if !s.mayGroup(c, access.Read, req.Group) {
		resp.ErrorCode, resp.ErrorMessage = errGroupAuthorizationFailed, refusal(c, "use group", req.Group)
		return resp, nil
	}
	for _, name := range req.SubscribedTopicNames {
		if !s.mayTopic(c, access.Describe, name) {
			resp.ErrorCode, resp.ErrorMessage = errTopicAuthorizationFailed, refusal(c, "describe topic", name)
			return resp, nil
		}
	}
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.ConsumerGroupHeartbeatResponse)
		hidden := func(t kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic) bool {
			return !s.mayTopicID(c, access.Describe, t.TopicID)
		}
		if r.Assignment == nil || !slices.ContainsFunc(r.Assignment.Topics, hidden) {
			return
		}
		named := s.groups.named(req.Group, cmp.Or(text(r.MemberID), req.MemberID)) // since then a rule came: fetches tell of it
		r.Assignment.Topics = slices.DeleteFunc(r.Assignment.Topics, func(t kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic) bool {
			topic := s.topicByID(t.TopicID)
			return topic != nil && hidden(t) && !slices.Contains(named, topic.Name)
		})
	}
}

func (s *Server) mayTransact(c *conn, op access.Operation, id string) bool {
	return s.may(c, op, access.TransactionalID, id)
}

// guardInitProducerID: an idempotent producer may be whoever may write to anything.
func (s *Server) guardInitProducerID(c *conn, req *kmsg.InitProducerIDRequest) (kmsg.Response, func(kmsg.Response)) {
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	switch {
	case req.TransactionalID != nil && !s.mayTransact(c, access.Write, *req.TransactionalID):
		resp.ErrorCode = errTransactionalIDNotAuthorized
	case req.TransactionalID == nil && !s.mayCluster(c, access.IdempotentWrite) && !s.mayAny(c, access.Write, access.Topic):
		resp.ErrorCode = errClusterAuthorizationFailed
	default:
		return nil, nil
	}
	return resp, nil
}

// guardAddPartitions: all of them, or none is attempted. From v4 on it is what brokers ask.
func (s *Server) guardAddPartitions(c *conn, req *kmsg.AddPartitionsToTxnRequest) (kmsg.Response, func(kmsg.Response)) {
	if req.Version >= 4 {
		if s.mayCluster(c, access.ClusterAction) {
			return nil, nil
		}
		resp := kmsg.NewPtrAddPartitionsToTxnResponse()
		resp.ErrorCode = errClusterAuthorizationFailed
		return resp, nil
	}
	mayWrite := s.mayTransact(c, access.Write, req.TransactionalID)
	codes, refused := make([]int16, len(req.Topics)), !mayWrite
	for i, t := range req.Topics {
		switch {
		case !mayWrite:
			codes[i] = errTransactionalIDNotAuthorized
		case !s.mayTopic(c, access.Write, t.Topic):
			codes[i], refused = errTopicAuthorizationFailed, true
		default:
			codes[i] = errOperationNotAttempted
		}
	}
	if !refused {
		return nil, nil
	}
	resp := kmsg.NewPtrAddPartitionsToTxnResponse()
	for i, t := range req.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.AddPartitionsToTxnResponseTopicPartition{Partition: p, ErrorCode: codes[i]})
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}

func (s *Server) guardAddOffsets(c *conn, req *kmsg.AddOffsetsToTxnRequest) (kmsg.Response, func(kmsg.Response)) {
	resp := kmsg.NewPtrAddOffsetsToTxnResponse()
	switch {
	case !s.mayTransact(c, access.Write, req.TransactionalID):
		resp.ErrorCode = errTransactionalIDNotAuthorized
	case !s.mayGroup(c, access.Read, req.Group):
		resp.ErrorCode = errGroupAuthorizationFailed
	default:
		return nil, nil
	}
	return resp, nil
}

func (s *Server) guardEndTxn(c *conn, req *kmsg.EndTxnRequest) (kmsg.Response, func(kmsg.Response)) {
	if s.mayTransact(c, access.Write, req.TransactionalID) {
		return nil, nil
	}
	resp := kmsg.NewPtrEndTxnResponse()
	resp.ErrorCode = errTransactionalIDNotAuthorized
	return resp, nil
}

func (s *Server) guardTxnOffsetCommit(c *conn, req *kmsg.TxnOffsetCommitRequest) (kmsg.Response, func(kmsg.Response)) {
	code, all := errTopicAuthorizationFailed, true
	switch {
	case !s.mayTransact(c, access.Write, req.TransactionalID):
		code = errTransactionalIDNotAuthorized
	case !s.mayGroup(c, access.Read, req.Group):
		code = errGroupAuthorizationFailed
	default:
		all = false
	}
	out := forbid(c, &req.Topics, func(t *kmsg.TxnOffsetCommitRequestTopic) bool { return all || !s.mayTopic(c, access.Read, t.Topic) })
	refused := func(resp kmsg.Response) {
		r := resp.(*kmsg.TxnOffsetCommitResponse)
		for _, t := range out {
			rt := kmsg.NewTxnOffsetCommitResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, code
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.Topics = append(r.Topics, rt)
		}
	}
	if all {
		resp := kmsg.NewPtrTxnOffsetCommitResponse()
		refused(resp)
		return resp, nil
	}
	return nil, refused
}

func (s *Server) guardDescribeTransactions(c *conn, req *kmsg.DescribeTransactionsRequest) (kmsg.Response, func(kmsg.Response)) {
	out := forbid(c, &req.TransactionalIDs, func(id *string) bool { return !s.mayTransact(c, access.Describe, *id) })
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.DescribeTransactionsResponse)
		for i := range r.TransactionStates {
			st := &r.TransactionStates[i]
			st.Topics = slices.DeleteFunc(st.Topics, func(t kmsg.DescribeTransactionsResponseTransactionStateTopic) bool {
				return !s.mayTopic(c, access.Describe, t.Topic)
			})
		}
		for _, id := range out {
			st := kmsg.NewDescribeTransactionsResponseTransactionState()
			st.TransactionalID, st.ErrorCode = id, errTransactionalIDNotAuthorized
			r.TransactionStates = append(r.TransactionStates, st)
		}
	}
}

func (s *Server) guardListTransactions(c *conn, _ *kmsg.ListTransactionsRequest) (kmsg.Response, func(kmsg.Response)) {
	return nil, func(resp kmsg.Response) {
		r := resp.(*kmsg.ListTransactionsResponse)
		r.TransactionStates = slices.DeleteFunc(r.TransactionStates, func(t kmsg.ListTransactionsResponseTransactionState) bool {
			return !s.mayTransact(c, access.Describe, t.TransactionalID)
		})
	}
}
