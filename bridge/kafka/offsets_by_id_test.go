package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// From version 10 on offsets are of topics by their ids; each answer calls a topic as the request does, and one that is not there is UNKNOWN_TOPIC_ID.
func TestOffsetsByTopicID(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "a", 2, nil)
	createTopic(t, addr, "b", 1, nil)
	admin := kadm.NewClient(newClient(t, addr))
	a, b, none := mustTopicID(t, admin, "a"), mustTopicID(t, admin, "b"), [16]byte{9}
	c := dialRaw(t, addr)
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Version, commit.Group, commit.Generation = 10, "g", -1
	for _, id := range [][16]byte{none, a, b} {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Offset = 7
		commit.Topics = append(commit.Topics, kmsg.OffsetCommitRequestTopic{TopicID: id, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}})
	}
	codes := map[[16]byte]int16{}
	for _, rt := range roundTrip[*kmsg.OffsetCommitResponse](c, commit).Topics {
		codes[rt.TopicID] = rt.Partitions[0].ErrorCode
	}
	if len(codes) != 3 || codes[a] != errNone || codes[b] != errNone || codes[none] != errUnknownTopicID {
		t.Fatalf("commit: %v", codes)
	}

	fetch := func(version int16, topics ...kmsg.OffsetFetchRequestGroupTopic) map[[16]byte]kmsg.OffsetFetchResponseGroupTopicPartition {
		t.Helper()
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version = version
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group, g.Topics = "g", topics
		req.Groups = append(req.Groups, g)
		got := map[[16]byte]kmsg.OffsetFetchResponseGroupTopicPartition{}
		for _, rt := range roundTrip[*kmsg.OffsetFetchResponse](c, req).Groups[0].Topics {
			got[rt.TopicID] = rt.Partitions[0]
		}
		return got
	}
	got := fetch(10, kmsg.OffsetFetchRequestGroupTopic{TopicID: none, Partitions: []int32{0}}, kmsg.OffsetFetchRequestGroupTopic{TopicID: a, Partitions: []int32{0, 1}})
	if len(got) != 2 || got[a].Offset != 7 || got[none].ErrorCode != errUnknownTopicID || got[none].Offset != -1 {
		t.Errorf("fetch: %v", got)
	}
	if got := fetch(10); len(got) != 2 || got[a].Offset != 7 || got[b].Offset != 7 {
		t.Errorf("fetch of all: %v", got)
	}
	if _, err := admin.DeleteTopics(testContext(t), "b"); err != nil {
		t.Fatal(err)
	}
	createTopic(t, addr, "b", 1, nil)
	if got := fetch(10, kmsg.OffsetFetchRequestGroupTopic{TopicID: b, Partitions: []int32{0}}); got[b].ErrorCode != errUnknownTopicID {
		t.Errorf("fetch of a topic that was deleted, and made anew under its name: %v", got)
	}
}
