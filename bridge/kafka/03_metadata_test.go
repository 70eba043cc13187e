package kafka

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func hostPort(host string, port int32) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

func metadataRequest(version int16, topics ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.Topics = version, []kmsg.MetadataRequestTopic{}
	for _, name := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &name
		req.Topics = append(req.Topics, rt)
	}
	return req
}

func topicNames(resp *kmsg.MetadataResponse) (names []string) {
	for _, t := range resp.Topics {
		if !t.IsInternal && !strings.HasPrefix(*t.Topic, "__") {
			names = append(names, *t.Topic)
		}
	}
	slices.Sort(names)
	return names
}

func TestMetadataEachVersion(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		createTopic(t, addr, "a", 3, nil)
		createTopic(t, addr, "b", 1, nil)
		c := dialRaw(t, addr)
		for v := int16(0); v <= 13; v++ {
			resp := roundTrip[*kmsg.MetadataResponse](c, metadataRequest(v, "a", "nope"))
			if len(resp.Brokers) != 1 || hostPort(resp.Brokers[0].Host, resp.Brokers[0].Port) != addr {
				t.Fatalf("v%d: brokers %+v", v, resp.Brokers)
			}
			id := resp.Brokers[0].NodeID
			if v >= 1 && resp.ControllerID != id || v >= 2 && (resp.ClusterID == nil || *resp.ClusterID == "") {
				t.Errorf("v%d: controller %d, cluster %v", v, resp.ControllerID, resp.ClusterID)
			}
			byName := map[string]kmsg.MetadataResponseTopic{}
			for _, rt := range resp.Topics {
				byName[*rt.Topic] = rt
			}
			if got := byName["nope"].ErrorCode; len(byName) != 2 || got != errUnknownTopicOrPartition && v >= 4 {
				t.Errorf("v%d: topics %v, no such topic has error %d", v, topicNames(resp), got)
			}
			topic := byName["a"]
			if topic.ErrorCode != 0 || len(topic.Partitions) != 3 || v >= 10 && topic.TopicID == [16]byte{} {
				t.Fatalf("v%d: %+v", v, topic)
			}
			for _, p := range topic.Partitions {
				if p.ErrorCode != 0 || p.Leader != id || !slices.Equal(p.Replicas, []int32{id}) || !slices.Equal(p.ISR, []int32{id}) || v >= 7 && p.LeaderEpoch < 0 {
					t.Errorf("v%d: %+v", v, p)
				}
			}
		}
	})
}

func TestMetadataOfAllAndOfNone(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "a", 1, nil)
	createTopic(t, addr, "b", 1, nil)
	c := dialRaw(t, addr)
	for v := int16(0); v <= 13; v++ {
		req := metadataRequest(v)
		want := []string(nil)
		if v == 0 {
			want = []string{"a", "b"} // an empty list was the only way to say it
		}
		if got := topicNames(roundTrip[*kmsg.MetadataResponse](c, req)); !slices.Equal(got, want) {
			t.Errorf("v%d: an empty list got %v", v, got)
		}
		if v == 0 {
			continue
		}
		req.Topics = nil
		if got := topicNames(roundTrip[*kmsg.MetadataResponse](c, req)); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("v%d: a null list got %v", v, got)
		}
	}
}

func TestMetadataByID(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "a", 1, nil)
	c := dialRaw(t, addr)
	req := metadataRequest(12)
	known, unknown := kmsg.NewMetadataRequestTopic(), kmsg.NewMetadataRequestTopic()
	known.TopicID = s.broker.Image().Topic("a").ID
	unknown.TopicID[3] = 9
	req.Topics = append(req.Topics, known, unknown)
	got := roundTrip[*kmsg.MetadataResponse](c, req).Topics
	if len(got) != 2 || got[0].ErrorCode != 0 || *got[0].Topic != "a" || got[1].ErrorCode != errUnknownTopicID || got[1].Topic != nil {
		t.Errorf("got %+v", got)
	}
}

func TestMetadataCreatesTopics(t *testing.T) {
	for _, test := range []struct {
		server, client bool
		version        int16
		topic          string
		want           int16
	}{
		{true, true, 12, "t", errNone},
		{true, false, 12, "t", errUnknownTopicOrPartition},
		{true, false, 3, "t", errNone}, // could not say no yet
		{false, true, 12, "t", errUnknownTopicOrPartition},
		{true, true, 12, "bad/name", errInvalidTopic},
		{true, true, 12, "__own", errInvalidTopic},
	} {
		s, addr := startServer(t, Config{AutoCreateTopics: test.server})
		req := metadataRequest(test.version, test.topic)
		req.AllowAutoTopicCreation = test.client
		got := roundTrip[*kmsg.MetadataResponse](dialRaw(t, addr), req).Topics[0]
		if got.ErrorCode != test.want {
			t.Errorf("%+v: error %d", test, got.ErrorCode)
		}
		if created := s.broker.Image().Topic(test.topic) != nil; created != (test.want == errNone) || created && len(got.Partitions) == 0 {
			t.Errorf("%+v: created %v, %d partitions", test, created, len(got.Partitions))
		}
	}
}

func TestMetadataOperations(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "a", 1, nil)
	c := dialRaw(t, addr)
	req := metadataRequest(10, "a")
	const notAsked = -1 << 31
	got := roundTrip[*kmsg.MetadataResponse](c, req)
	if got.AuthorizedOperations != notAsked || got.Topics[0].AuthorizedOperations != notAsked {
		t.Errorf("not asked for: %d and %d", got.AuthorizedOperations, got.Topics[0].AuthorizedOperations)
	}
	req.IncludeClusterAuthorizedOperations, req.IncludeTopicAuthorizedOperations = true, true
	got = roundTrip[*kmsg.MetadataResponse](c, req)
	if got.AuthorizedOperations != clusterOperations || got.Topics[0].AuthorizedOperations != topicOperations {
		t.Errorf("got %d and %d", got.AuthorizedOperations, got.Topics[0].AuthorizedOperations)
	}
}
