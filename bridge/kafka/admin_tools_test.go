package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
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

// Only topics have configs. To take away what is not there is done; to set something is refused with a reason; to ask is answered where Kafka's tools
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
		kmsg.ConfigResourceTypeGroupConfig:   {"g", errInvalidRequest, errNone, errNone},
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

// ordered is a broker that keeps what it is asked to do.
type ordered struct {
	*fakeBroker
	refs      []cluster.PartitionRef
	wishes    []cluster.Wish
	mayResize bool
	outcomes  []error
	err       error
}

func (b *ordered) ElectPreferred(_ context.Context, refs []cluster.PartitionRef) ([]error, error) {
	b.refs = refs
	return b.outcomes, b.err
}

func (b *ordered) Move(_ context.Context, wishes []cluster.Wish, mayResize bool) ([]error, error) {
	b.wishes, b.mayResize = wishes, mayResize
	return b.outcomes, b.err
}

func orderedServer(t *testing.T) (*ordered, *Server) {
	s := clusterServer(t)
	b := &ordered{fakeBroker: s.broker.(*fakeBroker)}
	s.broker = b
	return b, s
}

func electRequest(version int16, kind int8, topics map[string][]int32) *kmsg.ElectLeadersRequest {
	req := kmsg.NewPtrElectLeadersRequest()
	req.Version, req.ElectionType, req.TimeoutMillis = version, kind, 1000
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		req.Topics = append(req.Topics, kmsg.ElectLeadersRequestTopic{Topic: name, Partitions: topics[name]})
	}
	return req
}

func elected(resp *kmsg.ElectLeadersResponse) (out []string) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			out = append(out, fmt.Sprintf("%s/%d:%d", t.Topic, p.Partition, p.ErrorCode))
			if (p.ErrorCode != errNone) != (p.ErrorMessage != nil) {
				out = append(out, "no reason")
			}
		}
	}
	return out
}

func TestElectLeaders(t *testing.T) {
	b, s := orderedServer(t)
	elect := func(req *kmsg.ElectLeadersRequest) *kmsg.ElectLeadersResponse {
		return ask[*kmsg.ElectLeadersResponse](t, s, (*Server).electLeaders, false, req)
	}
	b.outcomes = []error{nil, cluster.ErrLeads, fmt.Errorf("%w: why", cluster.ErrPreferred), cluster.ErrUnknownTopic}
	for v := int16(0); v <= 2; v++ {
		got := elected(elect(electRequest(v, electPreferred, map[string][]int32{"x": {0, 1, 3}, "y": {0}})))
		if want := []string{"x/0:0", "x/1:84", "x/3:80", "y/0:3"}; !slices.Equal(got, want) {
			t.Errorf("v%d: %v, want %v", v, got, want)
		}
	}
	// Nobody leads the last one: what all are asked for leaves out those that are as they should be.
	b.outcomes = []error{nil, nil, nil}
	if got := elected(elect(electRequest(2, electPreferred, nil))); len(got) != 2 || len(b.refs) != 2 || b.refs[0].Index != 3 {
		t.Errorf("all: %v, asked for %v", got, b.refs)
	}
	b.err = cluster.ErrUnavailable
	if got := elected(elect(electRequest(2, electPreferred, map[string][]int32{"x": {0}}))); got[0] != "x/0:7" {
		t.Errorf("without a quorum: %v", got)
	}
	b.refs = nil
	if got := elect(electRequest(2, 7, map[string][]int32{"x": {0}})); got.ErrorCode != errInvalidRequest || b.refs != nil {
		t.Errorf("of an unknown kind: %+v", got)
	}
	if _, err := s.electLeaders(context.Background(), nil, electRequest(2, electPreferred, map[string][]int32{"x": make([]int32, maxNamed+1)})); err == nil || b.refs != nil {
		t.Error("any number is taken")
	}
}

// E1: an unclean election needs the name of the replica that is to be believed, which Kafka's request has no room for.
func TestUncleanElectionsAreRefused(t *testing.T) {
	b, s := orderedServer(t)
	for name, test := range map[string]struct {
		topics map[string][]int32
		want   string
	}{
		"named": {map[string][]int32{"x": {0, 3, 9}}, "[x/0:84 x/3:44 x/9:3]"},
		"all":   {nil, "[x/3:44 __consumer_offsets/3:44]"},
	} {
		resp := ask[*kmsg.ElectLeadersResponse](t, s, (*Server).electLeaders, false, electRequest(2, electUnclean, test.topics))
		got := elected(resp)
		slices.Sort(got)
		want := strings.Fields(strings.Trim(test.want, "[]"))
		if slices.Sort(want); !slices.Equal(got, want) || b.refs != nil {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		for _, rt := range resp.Topics {
			for _, p := range rt.Partitions {
				if p.ErrorCode == errPolicyViolation && !strings.Contains(*p.ErrorMessage, fmt.Sprintf("weir cluster elect %s --partition 3 --leader", rt.Topic)) {
					t.Errorf("%s: %s", name, *p.ErrorMessage)
				}
			}
		}
	}
}

func TestAlterPartitionReassignments(t *testing.T) {
	b, s := orderedServer(t)
	request := func(version int16, may bool) *kmsg.AlterPartitionAssignmentsRequest {
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.Version, req.AllowReplicationFactorChange = version, may
		p := func(i int32, to []int32) kmsg.AlterPartitionAssignmentsRequestTopicPartition {
			return kmsg.AlterPartitionAssignmentsRequestTopicPartition{Partition: i, Replicas: to}
		}
		req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{
			{Topic: "x", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{p(0, []int32{1, 2}), p(1, nil)}},
			{Topic: "y", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{p(0, []int32{9})}},
		}
		return req
	}
	order := func(req *kmsg.AlterPartitionAssignmentsRequest) *kmsg.AlterPartitionAssignmentsResponse {
		return ask[*kmsg.AlterPartitionAssignmentsResponse](t, s, (*Server).alterReassignments, false, req)
	}
	b.outcomes = []error{nil, cluster.ErrNoMove, fmt.Errorf("%w: why", cluster.ErrInvalidAssignment)}
	for name, test := range map[string]struct {
		req       *kmsg.AlterPartitionAssignmentsRequest
		mayResize bool
	}{
		"v0":          {request(0, false), true},
		"v1":          {request(1, true), true},
		"v1, may not": {request(1, false), false},
	} {
		resp := order(test.req)
		if resp.ErrorCode != errNone || len(resp.Topics) != 2 || b.mayResize != test.mayResize {
			t.Fatalf("%s: %+v, may resize %t", name, resp, b.mayResize)
		}
		x, y := resp.Topics[0].Partitions, resp.Topics[1].Partitions
		if x[0].ErrorCode != errNone || x[0].ErrorMessage != nil || x[1].ErrorCode != errNoReassignmentInProgress || y[0].ErrorCode != errInvalidReplicaAssignment || *y[0].ErrorMessage == "" {
			t.Errorf("%s: %+v %+v", name, x, y)
		}
		if len(b.wishes) != 3 || b.wishes[1].Replicas != nil || !slices.Equal(b.wishes[0].Replicas, []int32{1, 2}) || b.wishes[2].Topic != "y" {
			t.Errorf("%s: asked for %+v", name, b.wishes)
		}
	}
	if b.err = cluster.ErrUnavailable; order(request(0, false)).ErrorCode != errRequestTimedOut {
		t.Error("without a quorum it is done")
	}
	b.wishes = nil
	many := request(0, false)
	many.Topics[0].Partitions = make([]kmsg.AlterPartitionAssignmentsRequestTopicPartition, maxNamed)
	if got := order(many); got.ErrorCode != errInvalidRequest || b.wishes != nil {
		t.Errorf("any number is taken: %+v", got)
	}
}

func TestListPartitionReassignments(t *testing.T) {
	s := clusterServer(t)
	b := s.broker.(*fakeBroker)
	im := b.im
	b.im = apply(t, im, &meta.Reassign{ID: log.TopicID{1}, Expect: im.Topic("x").Version, Moves: []meta.Move{{Index: 1, Replicas: []int32{1}}, {Index: 2, Replicas: []int32{1, 2}}}})
	list := func(topics []kmsg.ListPartitionReassignmentsRequestTopic) []kmsg.ListPartitionReassignmentsResponseTopic {
		req := kmsg.NewPtrListPartitionReassignmentsRequest()
		req.Topics = topics
		return ask[*kmsg.ListPartitionReassignmentsResponse](t, s, (*Server).listReassignments, false, req).Topics
	}
	all := list(nil)
	if len(all) != 1 || all[0].Topic != "x" || len(all[0].Partitions) != 2 {
		t.Fatalf("all: %+v", all)
	}
	if p := all[0].Partitions[0]; p.Partition != 1 || fmt.Sprint(p.Replicas, p.AddingReplicas, p.RemovingReplicas) != "[1 4] [1] [4]" {
		t.Errorf("%+v", p)
	}
	if p := all[0].Partitions[1]; p.Partition != 2 || fmt.Sprint(p.Replicas, p.AddingReplicas, p.RemovingReplicas) != "[1 2] [2] []" {
		t.Errorf("%+v", p)
	}
	some := list([]kmsg.ListPartitionReassignmentsRequestTopic{{Topic: "x", Partitions: []int32{0, 2, 2, 9}}, {Topic: "nope", Partitions: []int32{0}}})
	if len(some) != 1 || len(some[0].Partitions) != 1 || some[0].Partitions[0].Partition != 2 {
		t.Errorf("some: %+v", some)
	}
	if none := list([]kmsg.ListPartitionReassignmentsRequestTopic{}); len(none) != 0 {
		t.Errorf("none: %+v", none)
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
	for room, code := range map[int]int16{2: errInvalidRequest, 3: errNone} {
		left := room
		if got := s.producersOf(cluster.PartitionRef{Topic: "t"}, &left); got.ErrorCode != code || len(got.ActiveProducers)+left != room || (got.ErrorMessage != nil) != (code != errNone) {
			t.Errorf("with room for %d: %+v, %d left", room, got, left)
		}
	}
}

func TestUnregisterBroker(t *testing.T) {
	_, addr := startServer(t, Config{})
	c := dialRaw(t, addr)
	for id, want := range map[int32]int16{1: errInvalidRequest, 9: errBrokerIDNotRegistered, -1: errBrokerIDNotRegistered} {
		req := kmsg.NewPtrUnregisterBrokerRequest()
		req.BrokerID = id
		if got := roundTrip[*kmsg.UnregisterBrokerResponse](c, req); got.ErrorCode != want || got.ErrorMessage == nil {
			t.Errorf("broker %d: error %d", id, got.ErrorCode)
		}
	}
	b, s := orderedServer(t)
	s.broker = &forgetful{ordered: b}
	req := kmsg.NewPtrUnregisterBrokerRequest()
	req.BrokerID = 3
	if got := ask[*kmsg.UnregisterBrokerResponse](t, s, (*Server).unregisterBroker, false, req); got.ErrorCode != errNone || got.ErrorMessage != nil {
		t.Errorf("%+v", got)
	}
}

// forgetful forgets broker 3.
type forgetful struct{ *ordered }

func (b *forgetful) RemoveNode(_ context.Context, id int32) error {
	if id != 3 {
		return errors.New("another broker")
	}
	return nil
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
		"missing":                    {describeRequest(9, nil, "nope", "a/b", "x", "__nope"), "[__nope:3:0 a/b:17:0 nope:3:0 x:0:4]"},
		"cursor of another topic":    {describeRequest(9, at("y", 0), "x"), "[x:42:0]"},
		"cursor before the first":    {describeRequest(9, at("x", -1), "x"), "[x:42:0]"},
		"cursor behind the last":     {describeRequest(9, at("x", 1<<30), "x"), "[x:0:0]"},
		"cursor of a deleted topic":  {describeRequest(9, at("a", 3)), "[x:0:4]"},
		"cursor that nothing is for": {describeRequest(9, at("z", 3)), "[]"},
	} {
		if got := codes(test.req); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
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
		{timeEarliestPending, 10, -1, errUnsupportedVersion},
		{timeEarliestPending, 11, -1, errNone},
		{timeLatest, 11, 2, errNone},
		{-7, 11, -1, errUnsupportedVersion},
	} {
		got := roundTrip[*kmsg.ListOffsetsResponse](c, listRequest(test.version, "t", test.ts)).Topics[0].Partitions[0]
		if got.Offset != test.offset || got.ErrorCode != test.code {
			t.Errorf("time %d, v%d: offset %d, error %d", test.ts, test.version, got.Offset, got.ErrorCode)
		}
	}
}

// An assignment goes to the cluster as it is, in the order of partitions.
func TestAssignmentsGoToTheCluster(t *testing.T) {
	s := clusterServer(t)
	b := &remote{fakeBroker: s.broker.(*fakeBroker)}
	s.broker = b
	req := createRequest(7, "new", -1, -1)
	for p, to := range map[int32][]int32{1: {3, 1}, 0: {1, 2}} {
		req.Topics[0].ReplicaAssignment = append(req.Topics[0].ReplicaAssignment, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: p, Replicas: to})
	}
	got := ask[*kmsg.CreateTopicsResponse](t, s, (*Server).createTopics, false, req).Topics[0]
	if got.ErrorCode != errNone || fmt.Sprint(b.specs[0].Assignment) != "[[1 2] [3 1]]" {
		t.Errorf("error %d, asked for %v", got.ErrorCode, b.specs[0])
	}
	more := kmsg.NewPtrCreatePartitionsRequest()
	more.Version = 3
	more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "x", Count: 6, Assignment: []kmsg.CreatePartitionsRequestTopicAssignment{{Replicas: []int32{2}}, {Replicas: []int32{1}}}}}
	if resp := ask[*kmsg.CreatePartitionsResponse](t, s, (*Server).createPartitions, false, more).Topics[0]; resp.ErrorCode != errNone || b.assigned != "x 6 [[2] [1]]" {
		t.Errorf("error %d, asked for %s", resp.ErrorCode, b.assigned)
	}
}
