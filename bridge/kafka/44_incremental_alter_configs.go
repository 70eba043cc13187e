package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
)

// IncrementalAlterConfigs (key 44): v0–1, topics and groups
//
// Set, delete, and for lists append and subtract. All changes of one topic take effect
// together, or none.
//
//	v1  flexible
func (s *Server) incrementalAlterConfigs(ctx context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.IncrementalAlterConfigsRequest)
	resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
	ctx, done := controllerWait(ctx, 0)
	defer done()
	for _, r := range req.Resources {
		code, why := s.alterConfigs(ctx, r, req.ValidateOnly)
		resp.Resources = append(resp.Resources, kmsg.IncrementalAlterConfigsResponseResource(alteredConfigs(r.ResourceType, r.ResourceName, code, why)))
	}
	return resp, nil
}

func (s *Server) alterConfigs(ctx context.Context, r kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool) (code int16, why string) {
	if r.ResourceType == kmsg.ConfigResourceTypeGroupConfig {
		return s.alterGroupConfigs(ctx, r.ResourceName, r.Configs, validateOnly)
	}
	if r.ResourceType != kmsg.ConfigResourceTypeTopic {
		return alterElsewhere(r.ResourceType, !slices.ContainsFunc(r.Configs, func(c kmsg.IncrementalAlterConfigsRequestResourceConfig) bool {
			return c.Op != kmsg.IncrementalAlterConfigOpDelete
		}))
	}
	t := s.broker.Image().Topic(r.ResourceName)
	if t == nil {
		return errUnknownTopicOrPartition, "no such topic"
	}
	set, del, code, why := configChanges(t, r.Configs)
	if code != errNone {
		return code, why
	}
	if err := s.broker.AlterConfigs(ctx, t.Name, set, del, validateOnly); err != nil {
		return codeOf(err), err.Error()
	}
	return errNone, ""
}

// alterElsewhere answers for what is no topic. Only topics and groups carry configs that a client can set, so to take some away is done before it is asked: Kafka's tools
// clean up behind a reassignment in that way.
func alterElsewhere(of kmsg.ConfigResourceType, setsNothing bool) (code int16, why string) {
	switch {
	case !slices.Contains(configResources, of):
		return errInvalidRequest, fmt.Sprintf("resources of type %d are not known", of)
	case setsNothing:
		return errNone, ""
	case of == kmsg.ConfigResourceTypeBroker:
		return errInvalidRequest, "brokers are configured by their file, then restarted"
	}
	return errInvalidRequest, hasNoConfigs[of]
}

// hasNoConfigs says what stands in place of them.
var hasNoConfigs = map[kmsg.ConfigResourceType]string{
	kmsg.ConfigResourceTypeBrokerLogger:  "there are no log levels to set: a node logs what its operators should see",
	kmsg.ConfigResourceTypeClientMetrics: "metrics of clients are not collected: weir's own are at /metrics",
	kmsg.ConfigResourceTypeGroupConfig:   "configs of groups are changed by IncrementalAlterConfigs alone",
}

// configChanges works the operations out against the topic's present configs.
func configChanges(t *meta.Topic, changes []kmsg.IncrementalAlterConfigsRequestResourceConfig) (set map[string]string, del []string, code int16, why string) {
	refuse := func(code int16, name, why string) (map[string]string, []string, int16, string) {
		return nil, nil, code, fmt.Sprintf("config %q %s", name, why)
	}
	set = make(map[string]string)
	seen := make(map[string]bool)
	for _, c := range changes {
		if seen[c.Name] {
			return refuse(errInvalidRequest, c.Name, "is changed twice")
		}
		seen[c.Name] = true
		if c.Op != kmsg.IncrementalAlterConfigOpDelete && c.Value == nil {
			return refuse(errInvalidRequest, c.Name, "has no value")
		}
		switch c.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			set[c.Name] = *c.Value
		case kmsg.IncrementalAlterConfigOpDelete:
			del = append(del, c.Name)
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			d, ok := cluster.TopicConfig(c.Name)
			if !ok || d.Type != cluster.TypeList {
				return refuse(errInvalidConfig, c.Name, "is not a list")
			}
			now, _ := cluster.ConfigValue(t, c.Name)
			set[c.Name] = changeList(now, *c.Value, c.Op == kmsg.IncrementalAlterConfigOpAppend)
		default:
			return refuse(errInvalidRequest, c.Name, fmt.Sprintf("cannot have operation %d", c.Op))
		}
	}
	return set, del, errNone, ""
}

func changeList(now, change string, add bool) string {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	}
	list, changes := split(now), split(change)
	list = slices.DeleteFunc(list, func(v string) bool { return slices.Contains(changes, v) })
	if add {
		list = append(list, changes...)
	}
	return strings.Join(list, ",")
}
