package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
)

// ElectLeaders (key 43): v0–2
//
// Gives partitions back to their preferred leaders; who leads by then is in force here when it is answered. Where all partitions
// are asked for, those whose preferred leader leads already are left out of the answer.
//
// An unclean election loses records, and Kafka's request cannot say which replica is to be believed: it is refused, with the words for
// weir's own tool, which names one (E1).
//
//	v1  kind of election; an error for the whole request
//	v2  flexible
func (s *Server) electLeaders(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ElectLeadersRequest)
	resp := kmsg.NewPtrElectLeadersResponse()
	var refs []cluster.PartitionRef
	im := s.broker.Image()
	if req.Topics == nil {
		refs = candidates(im, req.ElectionType)
	}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			refs = append(refs, cluster.PartitionRef{Topic: t.Topic, Index: p})
		}
	}
	switch {
	case req.ElectionType < electPreferred || req.ElectionType > electUnclean:
		resp.ErrorCode = errInvalidRequest
		return resp, nil
	case req.Topics != nil && len(refs) > maxNamed:
		return nil, tooMany(len(refs))
	}
	ctx, done := controllerWait(ctx, req.TimeoutMillis)
	defer done()
	var outcomes []error
	if req.ElectionType == electUnclean {
		outcomes = refuseUnclean(im, refs)
	} else {
		var err error
		if outcomes, err = s.broker.ElectPreferred(ctx, refs); err != nil {
			outcomes = make([]error, len(refs))
			for i := range outcomes {
				outcomes[i] = err
			}
		}
	}
	for i, ref := range refs {
		if req.Topics == nil && errors.Is(outcomes[i], cluster.ErrLeads) {
			continue // since it was looked at
		}
		if n := len(resp.Topics); n == 0 || resp.Topics[n-1].Topic != ref.Topic {
			rt := kmsg.NewElectLeadersResponseTopic()
			rt.Topic = ref.Topic
			resp.Topics = append(resp.Topics, rt)
		}
		rp := kmsg.NewElectLeadersResponseTopicPartition()
		rp.Partition, rp.ErrorCode = ref.Index, codeOf(outcomes[i])
		if outcomes[i] != nil {
			rp.ErrorMessage = new(outcomes[i].Error())
		}
		rt := &resp.Topics[len(resp.Topics)-1]
		rt.Partitions = append(rt.Partitions, rp)
	}
	return resp, nil
}

// Kinds of elections.
const (
	electPreferred = 0
	electUnclean   = 1
)

var errUnclean = errors.New("no unclean election is made without a name")

// candidates are the partitions for which an election of that kind makes sense.
func candidates(im *meta.Image, kind int8) (refs []cluster.PartitionRef) {
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if kind == electPreferred && p.Leader != p.Replicas[0] || kind == electUnclean && p.Leader == meta.NoLeader {
				refs = append(refs, cluster.PartitionRef{Topic: t.Name, Index: int32(i)})
			}
		}
	}
	return refs
}

func refuseUnclean(im *meta.Image, refs []cluster.PartitionRef) []error {
	outcomes := make([]error, len(refs))
	for i, ref := range refs {
		switch p := assignment(im, ref.Topic, ref.Index); {
		case p == nil:
			outcomes[i] = cluster.ErrUnknownTopic
		case p.Leader != meta.NoLeader:
			outcomes[i] = cluster.ErrLeads
		default:
			outcomes[i] = fmt.Errorf("%w: what the new leader lacks is lost: start one of the brokers %v, or name the one to believe with "+
				"`weir cluster elect %s --partition %d --leader NODE --unclean`", errUnclean, p.Replicas, ref.Topic, ref.Index)
		}
	}
	return outcomes
}
