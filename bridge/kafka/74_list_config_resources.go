package kafka

import (
	"context"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListConfigResources (key 74): v0–1
//
// What has configs: topics, brokers, and groups with configs of their own. Client metrics and loggers are known to the protocol, and there are none that have any here.
//
//	v0  client metrics only
//	v1  resource types; none means all
func (s *Server) listConfigResources(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListConfigResourcesRequest)
	resp := kmsg.NewPtrListConfigResourcesResponse()
	if req.Version < 1 {
		return resp, nil
	}
	asked := make(map[kmsg.ConfigResourceType]bool)
	for _, t := range req.ResourceTypes {
		if !slices.Contains(configResources, kmsg.ConfigResourceType(t)) {
			resp.ErrorCode = errUnsupportedVersion
			return resp, nil
		}
		asked[kmsg.ConfigResourceType(t)] = true
	}
	add := func(of kmsg.ConfigResourceType, name string) {
		if len(asked) == 0 || asked[of] {
			r := kmsg.NewListConfigResourcesResponseConfigResource()
			r.Name, r.Type = name, int8(of)
			resp.ConfigResources = append(resp.ConfigResources, r)
		}
	}
	im := s.broker.Image()
	for _, t := range im.Topics() {
		add(kmsg.ConfigResourceTypeTopic, t.Name)
	}
	for _, b := range im.Brokers() {
		if !b.Fenced {
			add(kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(b.ID)))
		}
	}
	for _, g := range im.GroupConfigs() {
		add(kmsg.ConfigResourceTypeGroupConfig, g.Group)
	}
	return resp, nil
}

// configResources are the types that the protocol knows.
var configResources = []kmsg.ConfigResourceType{
	kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger,
	kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig,
}
