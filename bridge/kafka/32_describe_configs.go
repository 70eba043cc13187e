package kafka

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
)

// DescribeConfigs (key 32): v1–4
//
// Topics have the configs that cluster honours, no others. The broker shows what topics
// without a config of their own get, under Kafka's names; all of it is read only, since a
// node is configured by its file, and asked for at the node itself, as in Apache Kafka. Groups have those of the consumer
// protocol (group_configs.go), client metrics none.
//
//	v1  source and synonyms
//	v3  type and documentation
//	v4  flexible
func (s *Server) describeConfigs(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeConfigsRequest)
	resp := kmsg.NewPtrDescribeConfigsResponse()
	for _, r := range req.Resources {
		rr := kmsg.NewDescribeConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		refuse := func(code int16, why string) { rr.ErrorCode, rr.ErrorMessage = code, &why }
		switch r.ResourceType {
		case kmsg.ConfigResourceTypeTopic:
			if t := s.broker.Image().Topic(r.ResourceName); t != nil {
				rr.Configs = topicConfigs(t, req)
			} else if err := cluster.ValidateTopicName(r.ResourceName, false); err != nil {
				refuse(errInvalidTopic, err.Error())
			} else {
				refuse(errUnknownTopicOrPartition, "no such topic")
			}
		case kmsg.ConfigResourceTypeBroker:
			if id := strconv.Itoa(int(s.broker.NodeID())); r.ResourceName == id || r.ResourceName == "" {
				rr.Configs = s.brokerConfigs(r.ResourceName == id, req.IncludeSynonyms)
			} else {
				refuse(errInvalidRequest, fmt.Sprintf("broker %q: this is broker %s", r.ResourceName, id))
			}
		case kmsg.ConfigResourceTypeGroupConfig:
			rr.Configs = s.groupConfigs(r.ResourceName, req.IncludeSynonyms)
		case kmsg.ConfigResourceTypeClientMetrics: // none is set, and none is by default
		case kmsg.ConfigResourceTypeBrokerLogger:
			refuse(errInvalidRequest, hasNoConfigs[r.ResourceType])
		default:
			refuse(errInvalidRequest, fmt.Sprintf("resources of type %d are not known", r.ResourceType))
		}
		if r.ConfigNames != nil {
			rr.Configs = slices.DeleteFunc(rr.Configs, func(c kmsg.DescribeConfigsResponseResourceConfig) bool {
				return !slices.Contains(r.ConfigNames, c.Name)
			})
		}
		resp.Resources = append(resp.Resources, rr)
	}
	return resp, nil
}

func configSource(own bool) kmsg.ConfigSource {
	if own {
		return kmsg.ConfigSourceDynamicTopicConfig
	}
	return kmsg.ConfigSourceDefaultConfig
}

var configTypes = map[cluster.ConfigType]kmsg.ConfigType{
	cluster.TypeLong:    kmsg.ConfigTypeLong,
	cluster.TypeInt:     kmsg.ConfigTypeInt,
	cluster.TypeDouble:  kmsg.ConfigTypeDouble,
	cluster.TypeList:    kmsg.ConfigTypeList,
	cluster.TypeString:  kmsg.ConfigTypeString,
	cluster.TypeBoolean: kmsg.ConfigTypeBoolean,
}

func topicConfigs(t *meta.Topic, req *kmsg.DescribeConfigsRequest) []kmsg.DescribeConfigsResponseResourceConfig {
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for _, d := range cluster.TopicConfigs() {
		value, own := cluster.ConfigValue(t, d.Name)
		rc := kmsg.NewDescribeConfigsResponseResourceConfig()
		rc.Name, rc.Value, rc.IsDefault, rc.ReadOnly = d.Name, &value, !own, d.Fixed
		rc.Source, rc.ConfigType = configSource(own), configTypes[d.Type]
		if req.IncludeDocumentation {
			rc.Documentation = &d.Doc
		}
		if req.IncludeSynonyms {
			rc.ConfigSynonyms = synonyms(d, value, own)
		}
		out = append(out, rc)
	}
	return out
}

// synonyms lists where a value may come from, what counts first.
func synonyms(d cluster.ConfigDef, value string, own bool) []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	var out []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym
	add := func(name, value string, source kmsg.ConfigSource) {
		s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
		s.Name, s.Value, s.Source = name, &value, source
		out = append(out, s)
	}
	if own {
		add(d.Name, value, kmsg.ConfigSourceDynamicTopicConfig)
	}
	if d.Synonym != "" {
		add(d.Synonym, d.Default, kmsg.ConfigSourceDefaultConfig)
	}
	return out
}

// brokerConfigs: one node's, or without a name what all share.
func (s *Server) brokerConfigs(node, synonyms bool) []kmsg.DescribeConfigsResponseResourceConfig {
	var out []kmsg.DescribeConfigsResponseResourceConfig
	add := func(name, value string, typ kmsg.ConfigType, source kmsg.ConfigSource) {
		rc := kmsg.NewDescribeConfigsResponseResourceConfig()
		rc.Name, rc.Value, rc.ConfigType, rc.Source = name, &value, typ, source
		rc.ReadOnly, rc.IsDefault = true, source == kmsg.ConfigSourceDefaultConfig
		if synonyms {
			rc.ConfigSynonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{{Name: name, Value: &value, Source: source}}
		}
		out = append(out, rc)
	}
	if node {
		static := kmsg.ConfigSourceStaticBrokerConfig
		id := strconv.Itoa(int(s.broker.NodeID()))
		add("broker.id", id, kmsg.ConfigTypeInt, static)
		add("node.id", id, kmsg.ConfigTypeInt, static)
		add("log.dirs", s.logDir(), kmsg.ConfigTypeString, static)
		add("delete.topic.enable", "true", kmsg.ConfigTypeBoolean, kmsg.ConfigSourceDefaultConfig)
		add("auto.create.topics.enable", strconv.FormatBool(s.cfg.AutoCreateTopics), kmsg.ConfigTypeBoolean, static)
		add("socket.request.max.bytes", strconv.Itoa(s.cfg.MaxRequestBytes), kmsg.ConfigTypeInt, static)
		add("fetch.max.bytes", strconv.Itoa(s.cfg.MaxFetchBytes), kmsg.ConfigTypeInt, static)
		add("max.connections", strconv.Itoa(s.cfg.MaxConnections), kmsg.ConfigTypeInt, static)
		add("connections.max.idle.ms", strconv.FormatInt(s.cfg.IdleTimeout.Milliseconds(), 10), kmsg.ConfigTypeLong, static)
		for _, d := range cluster.TopicConfigs() {
			if d.Synonym != "" {
				add(d.Synonym, d.Default, configTypes[d.Type], kmsg.ConfigSourceDefaultConfig)
			}
		}
	}
	slices.SortFunc(out, func(a, b kmsg.DescribeConfigsResponseResourceConfig) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
