package kafka

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func admin(t testing.TB, addr string) (*kadm.Client, context.Context) {
	return kadm.NewClient(newClient(t, addr)), testContext(t)
}

func TestCreateAndDeleteTopics(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		weir := strings.Contains(t.Name(), "/weir")
		c := dialRaw(t, addr)
		name := func(v int16) string { return "topic-v" + string(rune('0'+v)) }
		for v := int16(2); v <= 7; v++ {
			req := createRequest(v, name(v), 3, 1)
			got := roundTrip[*kmsg.CreateTopicsResponse](c, req).Topics[0]
			if got.ErrorCode != 0 {
				t.Fatalf("v%d: error %d %v", v, got.ErrorCode, got.ErrorMessage)
			}
			if v >= 5 && (got.NumPartitions != 3 || got.ReplicationFactor != 1) {
				t.Errorf("v%d: %+v", v, got)
			}
			if v >= 7 && got.TopicID == [16]byte{} {
				t.Errorf("v%d: no topic id", v)
			}
		}
		for _, test := range []struct {
			name      string
			req       *kmsg.CreateTopicsRequest
			want      int16
			weirsOnly bool
		}{
			{"exists", createRequest(7, name(2), 3, 1), errTopicAlreadyExists, false},
			{"bad name", createRequest(7, "a/b", 3, 1), errInvalidTopic, true},
			{"no partitions", createRequest(7, "x", 0, 1), errInvalidPartitions, false},
			{"too many replicas", createRequest(7, "x", 1, 3), errInvalidReplicationFactor, false},
			{"no replicas", createRequest(7, "x", 1, 0), errInvalidReplicationFactor, true},
			{"reserved name", createRequest(7, "__x", 1, 1), errInvalidTopic, true},
			{"defaults", createRequest(7, "defaults", -1, -1), errNone, false},
		} {
			if test.weirsOnly && !weir {
				continue
			}
			if got := roundTrip[*kmsg.CreateTopicsResponse](c, test.req).Topics[0]; got.ErrorCode != test.want {
				t.Errorf("%s: error %d %v, want %d", test.name, got.ErrorCode, got.ErrorMessage, test.want)
			}
		}
		for v := int16(1); v <= 6; v++ {
			req := kmsg.NewPtrDeleteTopicsRequest()
			req.Version, req.TimeoutMillis = v, 10_000
			for _, n := range []string{name(v + 1), "nope"} {
				req.TopicNames = append(req.TopicNames, n)
				rt := kmsg.NewDeleteTopicsRequestTopic()
				rt.Topic = &n
				req.Topics = append(req.Topics, rt)
			}
			resp := roundTrip[*kmsg.DeleteTopicsResponse](c, req)
			if len(resp.Topics) != 2 || resp.Topics[0].ErrorCode != 0 || resp.Topics[1].ErrorCode != errUnknownTopicOrPartition {
				t.Errorf("delete v%d: %+v", v, resp.Topics)
			}
		}
		adm, ctx := admin(t, addr)
		left, err := adm.ListTopics(ctx)
		if err != nil || !slices.Equal(left.Names(), []string{"defaults"}) {
			t.Errorf("left are %v, %v", left.Names(), err)
		}
	})
}

func createRequest(version int16, topic string, partitions int32, replicas int16) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = version, 10_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, replicas
	req.Topics = append(req.Topics, rt)
	return req
}

func TestCreateTopicsTwiceInOneRequest(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		req := createRequest(7, "t", 1, 1)
		req.Topics = append(req.Topics, req.Topics[0])
		for _, got := range roundTrip[*kmsg.CreateTopicsResponse](dialRaw(t, addr), req).Topics {
			if got.ErrorCode != errInvalidRequest {
				t.Errorf("error %d", got.ErrorCode)
			}
		}
	})
}

func TestCreateTopicsAssignment(t *testing.T) {
	s, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	create := func(name string, partitions ...int32) int16 {
		req := createRequest(7, name, -1, -1)
		for _, p := range partitions {
			a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			a.Partition, a.Replicas = p, []int32{s.broker.NodeID()}
			req.Topics[0].ReplicaAssignment = append(req.Topics[0].ReplicaAssignment, a)
		}
		return roundTrip[*kmsg.CreateTopicsResponse](c, req).Topics[0].ErrorCode
	}
	if got := create("good", 1, 0); got != 0 {
		t.Errorf("good: error %d", got)
	}
	if n := len(s.broker.Image().Topic("good").Partitions); n != 2 {
		t.Errorf("%d partitions", n)
	}
	if got := create("gap", 0, 2); got != errInvalidReplicaAssignment {
		t.Errorf("gap: error %d", got)
	}
	if got := create("twice", 0, 0); got != errInvalidReplicaAssignment {
		t.Errorf("twice: error %d", got)
	}
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		req := createRequest(7, "never", 1, 1)
		req.ValidateOnly = true
		if got := roundTrip[*kmsg.CreateTopicsResponse](c, req).Topics[0].ErrorCode; got != 0 {
			t.Errorf("create: error %d", got)
		}
		parts := kmsg.NewPtrCreatePartitionsRequest()
		parts.Version, parts.ValidateOnly, parts.TimeoutMillis = 3, true, 1000
		pt := kmsg.NewCreatePartitionsRequestTopic()
		pt.Topic, pt.Count = "t", 4
		parts.Topics = append(parts.Topics, pt)
		if got := roundTrip[*kmsg.CreatePartitionsResponse](c, parts).Topics[0].ErrorCode; got != 0 {
			t.Errorf("partitions: error %d", got)
		}
		adm, ctx := admin(t, addr)
		topics, err := adm.ListTopics(ctx)
		if err != nil || !slices.Equal(topics.Names(), []string{"t"}) || len(topics["t"].Partitions) != 1 {
			t.Errorf("there are %v, %v", topics, err)
		}
	})
}

func TestCreatePartitions(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 2, nil)
		adm, ctx := admin(t, addr)
		if resp, err := adm.UpdatePartitions(ctx, 5, "t"); err != nil || resp.Error() != nil {
			t.Fatal(resp, err)
		}
		topics, err := adm.ListTopics(ctx, "t")
		if err != nil || len(topics["t"].Partitions) != 5 {
			t.Errorf("%v, %v", topics, err)
		}
		if strings.Contains(t.Name(), "/weir") { // kfake is content with it
			if resp, err := adm.UpdatePartitions(ctx, 5, "t"); err != nil || !errors.Is(resp["t"].Err, kerr.InvalidPartitions) {
				t.Errorf("same: %v, %v", resp, err)
			}
		}
		for name, test := range map[string]struct {
			topic string
			count int
			want  error
		}{
			"fewer":   {"t", 3, kerr.InvalidPartitions},
			"no such": {"nope", 5, kerr.UnknownTopicOrPartition},
		} {
			resp, err := adm.UpdatePartitions(ctx, test.count, test.topic)
			if err != nil || !errors.Is(resp[test.topic].Err, test.want) {
				t.Errorf("%s: %v, %v", name, resp, err)
			}
		}
		if p := produceOne(dialRaw(t, addr), "t", batchOf(1, "a")); p.ErrorCode != 0 {
			t.Errorf("produce afterwards: error %d", p.ErrorCode)
		}
	})
}

func TestConfigs(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		weir := strings.Contains(t.Name(), "/weir")
		createTopic(t, addr, "t", 1, map[string]string{"retention.ms": "1000", "cleanup.policy": "delete"})
		adm, ctx := admin(t, addr)
		read := func() map[string]string {
			rcs, err := adm.DescribeTopicConfigs(ctx, "t")
			if err != nil || len(rcs) != 1 || rcs[0].Err != nil {
				t.Fatal(rcs, err)
			}
			own := make(map[string]string)
			for _, c := range rcs[0].Configs {
				if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
					own[c.Key] = c.MaybeValue()
				}
			}
			return own
		}
		if got := read(); !maps.Equal(got, map[string]string{"retention.ms": "1000", "cleanup.policy": "delete"}) {
			t.Errorf("configs are %v", got)
		}
		resp, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{
			{Op: kadm.DeleteConfig, Name: "retention.ms"},
			{Op: kadm.SetConfig, Name: "max.message.bytes", Value: kmsg.StringPtr("5000")},
			{Op: kadm.AppendConfig, Name: "cleanup.policy", Value: kmsg.StringPtr("compact")},
		}, "t")
		if err != nil || resp[0].Err != nil {
			t.Fatal(resp, err)
		}
		if got := read(); got["max.message.bytes"] != "5000" || got["cleanup.policy"] != "delete,compact" || got["retention.ms"] != "" {
			t.Errorf("configs are %v", got)
		}
		// In force at once.
		if p := produceOne(dialRaw(t, addr), "t", batchOf(1, strings.Repeat("x", 6000))); p.ErrorCode != errMessageTooLarge {
			t.Errorf("produce: error %d", p.ErrorCode)
		}
		resp, err = adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SubtractConfig, Name: "cleanup.policy", Value: kmsg.StringPtr("compact")}}, "t")
		if err != nil || resp[0].Err != nil || read()["cleanup.policy"] != "delete" {
			t.Errorf("subtract: %v, %v, %v", resp, err, read())
		}
		for name, change := range map[string]kadm.AlterConfig{
			"unknown config": {Op: kadm.SetConfig, Name: "no.such.config", Value: kmsg.StringPtr("1")},
			"bad value":      {Op: kadm.SetConfig, Name: "retention.ms", Value: kmsg.StringPtr("soon")},
			"not a list":     {Op: kadm.AppendConfig, Name: "retention.ms", Value: kmsg.StringPtr("1")},
		} {
			resp, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{change}, "t")
			if err != nil || weir && !errors.Is(resp[0].Err, kerr.InvalidConfig) {
				t.Errorf("%s: %v, %v", name, resp, err)
			}
		}
		resp, err = adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.DeleteConfig, Name: "retention.ms"}}, "nope")
		if err != nil || !errors.Is(resp[0].Err, kerr.UnknownTopicOrPartition) {
			t.Errorf("no such topic: %v, %v", resp, err)
		}
	})
}

func TestDescribeBrokerConfigs(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		adm, ctx := admin(t, addr)
		meta, err := adm.BrokerMetadata(ctx)
		if err != nil {
			t.Fatal(err)
		}
		id := meta.Brokers[0].NodeID
		rcs, err := adm.DescribeBrokerConfigs(ctx, id)
		if err != nil || rcs[0].Err != nil || len(rcs[0].Configs) == 0 {
			t.Fatal(rcs, err)
		}
		got := map[string]string{}
		for _, c := range rcs[0].Configs {
			got[c.Key] = c.MaybeValue()
		}
		if _, there := got["log.retention.ms"]; !there && got["auto.create.topics.enable"] == "" {
			t.Errorf("configs are %v", got)
		}
		if s := strconv.Itoa(int(id)); strings.Contains(t.Name(), "/weir") && (got["broker.id"] != s || got["node.id"] != s || !filepath.IsAbs(got["log.dirs"]) || got["delete.topic.enable"] != "true") {
			t.Errorf("configs are %v", got)
		}
	})
}

func TestDescribeConfigsOfSomeNames(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, map[string]string{"retention.ms": "1000"})
	c := dialRaw(t, addr)
	for v := int16(1); v <= 4; v++ {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.Version, req.IncludeSynonyms, req.IncludeDocumentation = v, true, true
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, "t", []string{"retention.ms", "nope"}
		req.Resources = append(req.Resources, r)
		got := roundTrip[*kmsg.DescribeConfigsResponse](c, req).Resources[0]
		if got.ErrorCode != 0 || len(got.Configs) != 1 || *got.Configs[0].Value != "1000" || len(got.Configs[0].ConfigSynonyms) != 2 {
			t.Errorf("v%d: %+v", v, got)
		}
		if v >= 3 && (got.Configs[0].Documentation == nil || got.Configs[0].ConfigType != kmsg.ConfigTypeLong) {
			t.Errorf("v%d: %+v", v, got.Configs[0])
		}
	}
}

func TestDeleteRecords(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		fill(t, c, "t", "a", "b", "c")
		del := func(v int16, offset int64) kmsg.DeleteRecordsResponseTopicPartition {
			req := kmsg.NewPtrDeleteRecordsRequest()
			req.Version, req.TimeoutMillis = v, 1000
			rt := kmsg.NewDeleteRecordsRequestTopic()
			rt.Topic = "t"
			p := kmsg.NewDeleteRecordsRequestTopicPartition()
			p.Offset = offset
			rt.Partitions = append(rt.Partitions, p)
			req.Topics = append(req.Topics, rt)
			return roundTrip[*kmsg.DeleteRecordsResponse](c, req).Topics[0].Partitions[0]
		}
		for _, step := range []struct {
			v      int16
			offset int64
			code   int16
			low    int64
		}{{0, 1, 0, 1}, {1, 2, 0, 2}, {2, 9, errOffsetOutOfRange, -1}, {2, -1, 0, 3}} {
			if got := del(step.v, step.offset); got.ErrorCode != step.code || step.code == 0 && got.LowWatermark != step.low {
				t.Errorf("up to %d: error %d, low watermark %d", step.offset, got.ErrorCode, got.LowWatermark)
			}
		}
		if got := fetchOne(c, fetchRequest(12, "t", 0, 1)); got.ErrorCode != errOffsetOutOfRange || got.LogStartOffset != 3 {
			t.Errorf("fetch below the log start: %+v", got)
		}
	})
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "t", 1, nil)
		c := dialRaw(t, addr)
		fill(t, c, "t", "a", "b")
		now := roundTrip[*kmsg.ListOffsetsResponse](c, listRequest(7, "t", timeLatest)).Topics[0].Partitions[0].LeaderEpoch
		first := int16(2)
		if strings.Contains(t.Name(), "/kfake") {
			first = 3
		}
		for v := first; v <= 4; v++ {
			for _, test := range []struct {
				current, asked int32
				code           int16
				end            int64
			}{
				{-1, now, errNone, 2},
				{now, now, errNone, 2},
				{now + 1, now, errUnknownLeaderEpoch, -1},
				{-1, now + 5, errNone, -1}, // nothing is known of it
			} {
				req := kmsg.NewPtrOffsetForLeaderEpochRequest()
				req.Version, req.ReplicaID = v, -1
				rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
				rt.Topic = "t"
				p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
				p.CurrentLeaderEpoch, p.LeaderEpoch = test.current, test.asked
				rt.Partitions = append(rt.Partitions, p)
				req.Topics = append(req.Topics, rt)
				got := roundTrip[*kmsg.OffsetForLeaderEpochResponse](c, req).Topics[0].Partitions[0]
				if got.ErrorCode != test.code || got.EndOffset != test.end {
					t.Errorf("v%d current %d epoch %d: error %d, epoch %d ends at %d", v, test.current, test.asked, got.ErrorCode, got.LeaderEpoch, got.EndOffset)
				}
			}
		}
	})
}

func TestDescribeCluster(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		c := dialRaw(t, addr)
		for v := int16(0); v <= 2; v++ {
			req := kmsg.NewPtrDescribeClusterRequest()
			req.Version, req.EndpointType, req.IncludeClusterAuthorizedOperations = v, 1, true
			got := roundTrip[*kmsg.DescribeClusterResponse](c, req)
			if got.ErrorCode != 0 || got.ClusterID == "" || len(got.Brokers) != 1 || addr != hostPort(got.Brokers[0].Host, got.Brokers[0].Port) || got.ClusterAuthorizedOperations <= 0 {
				t.Errorf("v%d: %+v", v, got)
			}
		}
	})
}
