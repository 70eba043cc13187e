package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

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
	b.outcomes = []error{cluster.ErrLeads, nil}
	if got := elected(elect(electRequest(2, electPreferred, nil))); len(got) != 1 {
		t.Errorf("all, of which one was faster: %v", got)
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
