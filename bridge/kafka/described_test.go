package kafka

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

func TestDescribeLogDirs(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 2, nil)
	createTopic(t, addr, "u", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a", "b")
	for v := int16(1); v <= 5; v++ {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Version = v
		req.Topics = []kmsg.DescribeLogDirsRequestTopic{{Topic: "t", Partitions: []int32{1, 0, 0, 7}}, {Topic: "nope", Partitions: []int32{0}}}
		resp := roundTrip[*kmsg.DescribeLogDirsResponse](c, req)
		if len(resp.Dirs) != 1 || resp.ErrorCode != errNone || resp.Dirs[0].ErrorCode != errNone {
			t.Fatalf("v%d: %+v", v, resp)
		}
		d := resp.Dirs[0]
		if !filepath.IsAbs(d.Dir) || d.Dir != s.logDir() || d.IsCordoned || len(d.Topics) != 1 || len(d.Topics[0].Partitions) != 2 {
			t.Errorf("v%d: %+v", v, d)
		}
		if p := d.Topics[0].Partitions; p[0].Partition != 0 || p[0].Size <= 0 || p[0].OffsetLag != 0 || p[0].IsFuture || p[1].Size != 0 {
			t.Errorf("v%d: %+v", v, p)
		}
		if v >= 4 && (d.TotalBytes != -1 || d.UsableBytes != -1) && (d.TotalBytes <= 0 || d.UsableBytes > d.TotalBytes) {
			t.Errorf("v%d: %d of %d bytes are free", v, d.UsableBytes, d.TotalBytes)
		}
	}
	all := roundTrip[*kmsg.DescribeLogDirsResponse](c, versioned(kmsg.NewPtrDescribeLogDirsRequest(), 4)).Dirs[0].Topics
	if len(all) != 3 || all[1].Topic != "t" || all[2].Topic != "u" { // and the offsets
		t.Errorf("all: %+v", all)
	}
}

// asDisk is a broker whose log says something of its disk.
type asDisk struct {
	*fakeBroker
	stats log.Stats
}

func (b *asDisk) LogDir() string                   { return "/data" }
func (b *asDisk) LogStats() log.Stats              { return b.stats }
func (b *asDisk) Partitions() []*cluster.Partition { return nil }

func TestDescribeLogDirsOfADisk(t *testing.T) {
	s := clusterServer(t)
	b := &asDisk{fakeBroker: s.broker.(*fakeBroker)}
	s.broker = b
	for name, test := range map[string]struct {
		stats         log.Stats
		total, usable int64
		code          int16
	}{
		"not looked at": {log.Stats{}, -1, -1, errNone},
		"looked at":     {log.Stats{DiskTotalBytes: 100, DiskFreeBytes: 7}, 100, 7, errNone},
		"full":          {log.Stats{DiskTotalBytes: 100}, 100, 0, errNone},
		"failed":        {log.Stats{Failed: true}, -1, -1, errKafkaStorageError},
	} {
		b.stats = test.stats
		d := ask[*kmsg.DescribeLogDirsResponse](t, s, (*Server).describeLogDirs, false, versioned(kmsg.NewPtrDescribeLogDirsRequest(), 4)).Dirs[0]
		if d.Dir != "/data" || d.TotalBytes != test.total || d.UsableBytes != test.usable || d.ErrorCode != test.code {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// A broker has one directory, and everything is there already.
func TestAlterReplicaLogDirs(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	for v := int16(1); v <= 2; v++ {
		for dir, want := range map[string][]int16{s.logDir(): {errNone, errReplicaNotAvailable}, "/elsewhere": {errLogDirNotFound, errLogDirNotFound}} {
			req := kmsg.NewPtrAlterReplicaLogDirsRequest()
			req.Version = v
			req.Dirs = []kmsg.AlterReplicaLogDirsRequestDir{{Dir: dir, Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Topic: "t", Partitions: []int32{0, 1}}}}}
			got := roundTrip[*kmsg.AlterReplicaLogDirsResponse](c, req).Topics[0]
			if got.Topic != "t" || got.Partitions[0].ErrorCode != want[0] || got.Partitions[1].ErrorCode != want[1] {
				t.Errorf("v%d, %s: %+v", v, dir, got)
			}
		}
	}
}

func TestDescribeProducers(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 2, nil)
	c := dialRaw(t, addr)
	first, second := initProducer(c), initProducer(c)
	for _, b := range []log.Batch{sequenced(first, 0, "a", "b"), sequenced(second, 0, "c"), sequenced(second, 1, "d")} {
		if p := produceOne(c, "t", b); p.ErrorCode != errNone {
			t.Fatalf("produce: error %d", p.ErrorCode)
		}
	}
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0, 1, 9}}, {Topic: "nope", Partitions: []int32{0}}}
	resp := roundTrip[*kmsg.DescribeProducersResponse](c, req)
	p := resp.Topics[0].Partitions
	got := map[int64]int32{}
	for _, a := range p[0].ActiveProducers {
		got[a.ProducerID] = a.LastSequence
		if a.ProducerEpoch != 0 || a.CoordinatorEpoch > 0 || a.CurrentTxnStartOffset != -1 || a.LastTimestamp <= 0 {
			t.Errorf("%+v", a)
		}
	}
	if want := map[int64]int32{first: 1, second: 1}; !maps.Equal(got, want) {
		t.Errorf("producers and their last sequences %v, want %v", got, want)
	}
	if len(p[1].ActiveProducers) != 0 || p[1].ErrorCode != errNone || p[2].ErrorCode != errUnknownTopicOrPartition || resp.Topics[1].Partitions[0].ErrorCode != errUnknownTopicOrPartition {
		t.Errorf("%+v", resp)
	}
}

// However often a partition is named, and however many producers there are, the answer stays within bounds.
func TestDescribeProducersIsBounded(t *testing.T) {
	s, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	for id := range int64(3) {
		if p := produceOne(c, "t", sequenced(id, 0, "a")); p.ErrorCode != errNone {
			t.Fatalf("produce: error %d", p.ErrorCode)
		}
	}
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0, 0}}, {Topic: "t", Partitions: []int32{0}}}
	resp := roundTrip[*kmsg.DescribeProducersResponse](c, req)
	if len(resp.Topics[0].Partitions) != 1 || len(resp.Topics[1].Partitions) != 0 {
		t.Errorf("%+v", resp)
	}
	req.Topics[1].Partitions = make([]int32, maxNamed)
	if _, err := s.describeProducers(context.Background(), nil, req); err == nil {
		t.Error("any number is taken")
	}
	dirs := kmsg.NewPtrAlterReplicaLogDirsRequest()
	dirs.Dirs = []kmsg.AlterReplicaLogDirsRequestDir{{Topics: []kmsg.AlterReplicaLogDirsRequestDirTopic{{Partitions: make([]int32, maxNamed+1)}}}}
	if _, err := s.alterReplicaLogDirs(context.Background(), nil, dirs); err == nil {
		t.Error("any number of directories is taken")
	}
	for room, code := range map[int]int16{2: errInvalidRequest, 3: errNone} {
		left := room
		if got := s.producersOf(cluster.PartitionRef{Topic: "t"}, &left); got.ErrorCode != code || len(got.ActiveProducers)+left != room || (got.ErrorMessage != nil) != (code != errNone) {
			t.Errorf("with room for %d: %+v, %d left", room, got, left)
		}
	}
}

func describeRequest(limit int32, cursor *kmsg.DescribeTopicPartitionsRequestCursor, topics ...string) *kmsg.DescribeTopicPartitionsRequest {
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.ResponsePartitionLimit, req.Cursor = limit, cursor
	for _, name := range topics {
		req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
	}
	return req
}

// Page after page gives every partition once, in order, whatever the limit; what each says is what Metadata says.
func TestDescribeTopicPartitionsByPages(t *testing.T) {
	s := clusterServer(t)
	want := "[__consumer_offsets/0 __consumer_offsets/1 __consumer_offsets/2 __consumer_offsets/3 x/0 x/1 x/2 x/3]"
	for _, limit := range []int32{-1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 1 << 30} {
		for _, topics := range [][]string{nil, {"x", offsetsTopic, "x"}} {
			var got []string
			var cursor *kmsg.DescribeTopicPartitionsRequestCursor
			for pages := 0; pages < 20; pages++ {
				resp := ask[*kmsg.DescribeTopicPartitionsResponse](t, s, (*Server).describeTopicPartitions, false, describeRequest(limit, cursor, topics...))
				n := int32(0)
				for _, rt := range resp.Topics {
					for _, p := range rt.Partitions {
						got, n = append(got, fmt.Sprint(*rt.Topic, "/", p.Partition)), n+1
					}
				}
				if n > max(limit, 1) {
					t.Errorf("limit %d: %d partitions", limit, n)
				}
				if resp.NextCursor == nil {
					break
				}
				cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
			}
			if fmt.Sprint(got) != want {
				t.Errorf("limit %d, topics %v: %v", limit, topics, got)
			}
		}
	}
	im := s.broker.Image()
	old := ask[*kmsg.MetadataResponse](t, s, (*Server).metadata, false, metadataRequest(12, "x")).Topics[0]
	got := ask[*kmsg.DescribeTopicPartitionsResponse](t, s, (*Server).describeTopicPartitions, false, describeRequest(2000, nil, "x")).Topics[0]
	if *got.Topic != "x" || got.TopicID != old.TopicID || got.IsInternal || got.AuthorizedOperations != topicOperations {
		t.Errorf("%+v", got)
	}
	for i, p := range got.Partitions {
		o := old.Partitions[i]
		if p.ErrorCode != o.ErrorCode || p.LeaderID != o.Leader || p.LeaderEpoch != o.LeaderEpoch || !slices.Equal(p.Replicas, o.Replicas) || !slices.Equal(p.ISR, o.ISR) || !slices.Equal(p.OfflineReplicas, o.OfflineReplicas) {
			t.Errorf("%+v, metadata says %+v", p, o)
		}
		if elr := im.Topic("x").Partitions[i].ELR; !slices.Equal(p.EligibleLeaderReplicas, elr) || p.EligibleLeaderReplicas == nil || p.LastKnownELR == nil {
			t.Errorf("partition %d: eligible %v, want %v", i, p.EligibleLeaderReplicas, elr)
		}
	}
	if len(got.Partitions[3].EligibleLeaderReplicas) != 1 {
		t.Error("nobody is eligible, and this shows nothing")
	}
}

func TestDescribeTopicPartitionsThatAreNotThere(t *testing.T) {
	s := clusterServer(t)
	codes := func(req *kmsg.DescribeTopicPartitionsRequest) string {
		var got []string
		for _, rt := range ask[*kmsg.DescribeTopicPartitionsResponse](t, s, (*Server).describeTopicPartitions, false, req).Topics {
			got = append(got, fmt.Sprint(*rt.Topic, ":", rt.ErrorCode, ":", len(rt.Partitions)))
		}
		return fmt.Sprint(got)
	}
	at := func(topic string, partition int32) *kmsg.DescribeTopicPartitionsRequestCursor {
		return &kmsg.DescribeTopicPartitionsRequestCursor{Topic: topic, Partition: partition}
	}
	for name, test := range map[string]struct {
		req  *kmsg.DescribeTopicPartitionsRequest
		want string
	}{
		"missing":                      {describeRequest(9, nil, "nope", "a/b", "x", "__nope"), "[__nope:3:0 a/b:17:0 nope:3:0 x:0:4]"},
		"as many as there is room for": {describeRequest(2, nil, "a", "b", "c", "d", "x"), "[a:3:0 b:3:0]"},
		"cursor of another topic":      {describeRequest(9, at("y", 0), "x"), "[x:42:0]"},
		"cursor before the first":      {describeRequest(9, at("x", -1), "x"), "[x:42:0]"},
		"cursor behind the last":       {describeRequest(9, at("x", 1<<30), "x"), "[x:0:0]"},
		"cursor of a deleted topic":    {describeRequest(9, at("a", 3)), "[x:0:4]"},
		"cursor that nothing is for":   {describeRequest(9, at("z", 3)), "[]"},
	} {
		if got := codes(test.req); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// Whatever is asked for, an answer has so many entries at most.
func TestDescribeTopicPartitionsIsBounded(t *testing.T) {
	s := clusterServer(t)
	var names []string
	for i := range maxDescribedPartitions + 10 {
		names = append(names, fmt.Sprint("nope", i))
	}
	for name, cursor := range map[string]*kmsg.DescribeTopicPartitionsRequestCursor{"missing": nil, "with a bad cursor": {Topic: "x", Partition: -1}} {
		resp := ask[*kmsg.DescribeTopicPartitionsResponse](t, s, (*Server).describeTopicPartitions, false, describeRequest(1<<30, cursor, names...))
		if len(resp.Topics) != maxDescribedPartitions || (resp.NextCursor != nil) != (cursor == nil) {
			t.Errorf("%s: %d topics, then %v", name, len(resp.Topics), resp.NextCursor)
		}
	}
}

// Fenced brokers are told of to who asks for them, and marked.
func TestDescribeFencedBrokers(t *testing.T) {
	s := clusterServer(t)
	for _, fenced := range []bool{false, true} {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version, req.EndpointType, req.IncludeFencedBrokers = 2, 1, fenced
		resp := ask[*kmsg.DescribeClusterResponse](t, s, (*Server).describeCluster, false, req)
		var got []string
		for _, b := range resp.Brokers {
			got = append(got, fmt.Sprintln(b.NodeID, hostPort(b.Host, b.Port), b.IsFenced))
		}
		want := "[1 listener:7 false 2 edge-2:9092 false]"
		if fenced {
			want = "[1 listener:7 false 2 edge-2:9092 false 3 edge-3:9092 true]"
		}
		if fmt.Sprint(strings.Fields(strings.Join(got, ""))) != want || resp.ControllerID != 1 {
			t.Errorf("%v, want %s", got, want)
		}
	}
}

// There is no remote storage: everything is local, and nothing waits to be carried away.
func TestListOffsetsOfTieredStorage(t *testing.T) {
	_, addr := startServer(t, Config{})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "a", "b")
	for _, test := range []struct {
		ts      int64
		version int16
		offset  int64
		code    int16
	}{
		{timeEarliestLocal, 7, -1, errUnsupportedVersion},
		{timeEarliestLocal, 8, 0, errNone},
		{timeLatestTiered, 8, -1, errUnsupportedVersion},
		{timeLatestTiered, 9, -1, errNone},
		{timeEarliestPendingUpload, 10, -1, errUnsupportedVersion},
		{timeEarliestPendingUpload, 11, -1, errNone},
		{timeLatest, 11, 2, errNone},
		{-7, 11, -1, errUnsupportedVersion},
	} {
		got := roundTrip[*kmsg.ListOffsetsResponse](c, listRequest(test.version, "t", test.ts)).Topics[0].Partitions[0]
		if got.Offset != test.offset || got.ErrorCode != test.code {
			t.Errorf("time %d, v%d: offset %d, error %d", test.ts, test.version, got.Offset, got.ErrorCode)
		}
	}
}
