package kafka

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func alterRequest(version int16, of kmsg.ConfigResourceType, name string, configs map[string]string) *kmsg.AlterConfigsRequest {
	req := kmsg.NewPtrAlterConfigsRequest()
	r := kmsg.NewAlterConfigsRequestResource()
	req.Version, r.ResourceType, r.ResourceName = version, of, name
	for _, k := range slices.Sorted(maps.Keys(configs)) {
		r.Configs = append(r.Configs, kmsg.AlterConfigsRequestResourceConfig{Name: k, Value: new(configs[k])})
	}
	req.Resources = append(req.Resources, r)
	return req
}

// What is not named goes back to its default, all in one step; a fault leaves everything as it was.
func TestAlterConfigsReplacesWhatATopicCarries(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		c := dialRaw(t, addr)
		createTopic(t, addr, "t", 1, map[string]string{"retention.ms": "1000", "cleanup.policy": "compact"})
		own := func() map[string]string {
			req := kmsg.NewPtrDescribeConfigsRequest()
			req.Version = 4
			req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t"}}
			got := map[string]string{}
			for _, rc := range roundTrip[*kmsg.DescribeConfigsResponse](c, req).Resources[0].Configs {
				if rc.Source == kmsg.ConfigSourceDynamicTopicConfig {
					got[rc.Name] = *rc.Value
				}
			}
			return got
		}
		alter := func(req *kmsg.AlterConfigsRequest) int16 {
			return roundTrip[*kmsg.AlterConfigsResponse](c, req).Resources[0].ErrorCode
		}
		want := map[string]string{}
		for v := int16(0); v <= 2; v++ {
			want = map[string]string{"retention.ms": fmt.Sprint(v, "000"), "max.message.bytes": "5000"}
			if code := alter(alterRequest(v, kmsg.ConfigResourceTypeTopic, "t", want)); code != errNone || !maps.Equal(own(), want) {
				t.Errorf("v%d: error %d, configs are %v", v, code, own())
			}
		}
		req := alterRequest(2, kmsg.ConfigResourceTypeTopic, "t", nil)
		if req.ValidateOnly = true; alter(req) != errNone || !maps.Equal(own(), want) {
			t.Errorf("validate only: configs are %v", own())
		}
		if code := alter(alterRequest(2, kmsg.ConfigResourceTypeTopic, "nope", nil)); code != errUnknownTopicOrPartition {
			t.Errorf("no such topic: error %d", code)
		}
		if strings.Contains(t.Name(), "/kfake") {
			return // which takes any value
		}
		for config, code := range map[string]int16{"retention.ms=soon": errInvalidConfig, "no.such=1": errInvalidConfig, "segment.jitter.ms=9": errInvalidConfig} {
			k, v, _ := strings.Cut(config, "=")
			if got := alter(alterRequest(2, kmsg.ConfigResourceTypeTopic, "t", map[string]string{k: v})); got != code || !maps.Equal(own(), want) {
				t.Errorf("%s: error %d, configs are %v", config, got, own())
			}
		}
		twice := alterRequest(2, kmsg.ConfigResourceTypeTopic, "t", map[string]string{"retention.ms": "1"})
		twice.Resources[0].Configs = append(twice.Resources[0].Configs, twice.Resources[0].Configs[0])
		null := alterRequest(2, kmsg.ConfigResourceTypeTopic, "t", map[string]string{"retention.ms": "1"})
		null.Resources[0].Configs[0].Value = nil
		if alter(twice) != errInvalidRequest || alter(null) != errInvalidRequest {
			t.Error("two values for one name, or none, are taken")
		}
	})
}

// A topic of the broker's own keeps its policy, whatever a replacement leaves out.
func TestAlterConfigsKeepsThePolicyOfInternalTopics(t *testing.T) {
	s, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	req := alterRequest(2, kmsg.ConfigResourceTypeTopic, offsetsTopic, map[string]string{"segment.bytes": "1000000"})
	if got := roundTrip[*kmsg.AlterConfigsResponse](c, req).Resources[0]; got.ErrorCode != errNone {
		t.Fatalf("error %d %v", got.ErrorCode, *got.ErrorMessage)
	}
	if got := s.broker.Image().Topic(offsetsTopic).Configs; got["cleanup.policy"] != "compact" || got["segment.bytes"] != "1000000" {
		t.Errorf("configs are %v", got)
	}
}

// Only topics and groups have configs. To take away what is not there is done; to set something is refused with a reason; to ask is answered where Kafka's tools
// ask without being told to.
func TestConfigsOfOtherResources(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	for of, test := range map[kmsg.ConfigResourceType]struct {
		name           string
		set, del, read int16
	}{
		kmsg.ConfigResourceTypeBroker:        {"1", errInvalidRequest, errNone, errNone},
		kmsg.ConfigResourceTypeBrokerLogger:  {"1", errInvalidRequest, errNone, errInvalidRequest},
		kmsg.ConfigResourceTypeClientMetrics: {"m", errInvalidRequest, errNone, errNone},
		77:                                   {"x", errInvalidRequest, errInvalidRequest, errInvalidRequest},
	} {
		change := func(op kmsg.IncrementalAlterConfigOp) kmsg.IncrementalAlterConfigsResponseResource {
			req := kmsg.NewPtrIncrementalAlterConfigsRequest()
			req.Version = 1
			req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: of, ResourceName: test.name, Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{
				{Name: "leader.replication.throttled.rate", Op: op, Value: new("1")},
			}}}
			return roundTrip[*kmsg.IncrementalAlterConfigsResponse](c, req).Resources[0]
		}
		if got := change(kmsg.IncrementalAlterConfigOpSet); got.ErrorCode != test.set || len(*got.ErrorMessage) < 10 {
			t.Errorf("type %d, set: error %d %v", of, got.ErrorCode, got.ErrorMessage)
		}
		if got := change(kmsg.IncrementalAlterConfigOpDelete); got.ErrorCode != test.del {
			t.Errorf("type %d, delete: error %d", of, got.ErrorCode)
		}
		for configs, want := range map[string]int16{"": test.del, "a": test.set} {
			req := alterRequest(2, of, test.name, nil)
			if configs != "" {
				req = alterRequest(2, of, test.name, map[string]string{configs: "1"})
			}
			if got := roundTrip[*kmsg.AlterConfigsResponse](c, req).Resources[0].ErrorCode; got != want {
				t.Errorf("type %d, replace by %q: error %d", of, configs, got)
			}
		}
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.Version = 4
		req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: of, ResourceName: test.name}}
		got := roundTrip[*kmsg.DescribeConfigsResponse](c, req).Resources[0]
		if got.ErrorCode != test.read || (len(got.Configs) > 0) != (of == kmsg.ConfigResourceTypeBroker) {
			t.Errorf("type %d, describe: %+v", of, got)
		}
	}
}

func TestListConfigResources(t *testing.T) {
	s := clusterServer(t)
	for name, test := range map[string]struct {
		version int16
		types   []int8
		want    string
		code    int16
	}{
		"v0":      {0, nil, "[]", errNone},
		"all":     {1, nil, "[2:__consumer_offsets 2:x 4:1 4:2 4:4]", errNone},
		"topics":  {1, []int8{2}, "[2:__consumer_offsets 2:x]", errNone},
		"brokers": {1, []int8{4, 8, 16, 32}, "[4:1 4:2 4:4]", errNone},
		"unknown": {1, []int8{2, 5}, "[]", errUnsupportedVersion},
	} {
		req := kmsg.NewPtrListConfigResourcesRequest()
		req.Version, req.ResourceTypes = test.version, test.types
		resp := ask[*kmsg.ListConfigResourcesResponse](t, s, (*Server).listConfigResources, false, req)
		got := []string{}
		for _, r := range resp.ConfigResources {
			got = append(got, fmt.Sprint(r.Type, ":", r.Name))
		}
		if slices.Sort(got); fmt.Sprint(got) != test.want || resp.ErrorCode != test.code {
			t.Errorf("%s: %v, error %d", name, got, resp.ErrorCode)
		}
	}
}
