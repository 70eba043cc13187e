package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// AlterConfigs (key 33): v0–2, topics only
//
// What a topic carries is replaced as a whole: what is not named returns to its default. Clients since Kafka 2.3 send
// IncrementalAlterConfigs.
//
//	v2  flexible
func (s *Server) replaceConfigs(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AlterConfigsRequest)
	resp := kmsg.NewPtrAlterConfigsResponse()
	ctx, done := controllerWait(ctx, 0)
	defer done()
	for _, r := range req.Resources {
		code, why := s.replaceTopicConfigs(ctx, r, req.ValidateOnly)
		resp.Resources = append(resp.Resources, alteredConfigs(r.ResourceType, r.ResourceName, code, why))
	}
	return resp, nil
}

// alteredConfigs is the answer for one resource, also to IncrementalAlterConfigs.
func alteredConfigs(of kmsg.ConfigResourceType, name string, code int16, why string) kmsg.AlterConfigsResponseResource {
	r := kmsg.NewAlterConfigsResponseResource()
	if r.ResourceType, r.ResourceName = of, name; code != errNone {
		r.ErrorCode, r.ErrorMessage = code, &why
	}
	return r
}

func (s *Server) replaceTopicConfigs(ctx context.Context, r kmsg.AlterConfigsRequestResource, validateOnly bool) (code int16, why string) {
	if r.ResourceType != kmsg.ConfigResourceTypeTopic {
		return alterElsewhere(r.ResourceType, len(r.Configs) == 0)
	}
	t := s.broker.Image().Topic(r.ResourceName)
	if t == nil {
		return errUnknownTopicOrPartition, "no such topic"
	}
	set := make(map[string]string, len(r.Configs))
	for _, c := range r.Configs {
		if _, twice := set[c.Name]; twice || c.Value == nil {
			return errInvalidRequest, fmt.Sprintf("config %q has no value, or two", c.Name)
		}
		set[c.Name] = *c.Value
	}
	var del []string // whatever the topic has by the time that it is changed
	for _, d := range cluster.TopicConfigs() {
		if _, stays := set[d.Name]; !stays && !(t.Internal && d.Name == "cleanup.policy") { // which is the broker's to say
			del = append(del, d.Name)
		}
	}
	if err := s.broker.AlterConfigs(ctx, t.Name, set, del, validateOnly); err != nil {
		return codeOf(err), err.Error()
	}
	return errNone, ""
}
