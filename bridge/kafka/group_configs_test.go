package kafka

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

func groupChange(op kadm.IncrementalOp, name, value string) kadm.AlterConfig {
	return kadm.AlterConfig{Op: op, Name: name, Value: &value}
}

// alterGroup changes configs of a group, and answers its error.
func alterGroup(t *testing.T, c *rawConn, name string, validateOnly bool, changes ...kadm.AlterConfig) error {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version, req.ValidateOnly = 1, validateOnly
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, name
	for _, ch := range changes {
		r.Configs = append(r.Configs, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: ch.Name, Op: kmsg.IncrementalAlterConfigOp(ch.Op), Value: ch.Value})
	}
	req.Resources = append(req.Resources, r)
	return kerr.ErrorForCode(roundTrip[*kmsg.IncrementalAlterConfigsResponse](c, req).Resources[0].ErrorCode)
}

// What a group has of its own is told to its members from their next heartbeat on, is shown, and survives a restart of the broker.
func TestConfigsOfGroups(t *testing.T) {
	dir := t.TempDir()
	b := openBrokerIn(t, dir)
	s, stop := runServer(t, Config{Broker: b, Groups: GroupConfig{Config: group.Config{InitialRebalanceDelay: -1}}})
	addr := s.Addrs()[0].String()
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	set, del := kadm.SetConfig, kadm.DeleteConfig
	if err := alterGroup(t, c, "g", false, groupChange(set, groupHeartbeat, "7000"), groupChange(set, groupSession, "60000")); err != nil {
		t.Fatal(err)
	}
	beat := func(c *rawConn) *kmsg.ConsumerGroupHeartbeatResponse {
		t.Helper()
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "g", "m", 30_000
		req.SubscribedTopicNames, req.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for {
			if resp := roundTrip[*kmsg.ConsumerGroupHeartbeatResponse](c, req); resp.ErrorCode != errCoordinatorLoadInProgress && resp.ErrorCode != errCoordinatorNotAvailable {
				return resp
			}
		}
	}
	if got := beat(c); got.ErrorCode != errNone || got.HeartbeatIntervalMillis != 7000 {
		t.Fatalf("%+v", got)
	}
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"unknown":             {alterGroup(t, c, "g", false, groupChange(set, "share.session.timeout.ms", "50000")), kerr.InvalidConfig},
		"short":               {alterGroup(t, c, "g", false, groupChange(set, groupSession, "5999")), kerr.InvalidConfig},
		"no number":           {alterGroup(t, c, "g", false, groupChange(set, groupSession, "x")), kerr.InvalidConfig},
		"negative":            {alterGroup(t, c, "g", false, groupChange(set, groupHeartbeat, "-1")), kerr.InvalidConfig},
		"session < heartbeat": {alterGroup(t, c, "g", false, groupChange(set, groupSession, "6000")), kerr.InvalidConfig},
		"list":                {alterGroup(t, c, "g", false, groupChange(kadm.AppendConfig, groupSession, "6000")), kerr.InvalidConfig},
		"twice":               {alterGroup(t, c, "g", false, groupChange(set, groupSession, "50000"), groupChange(set, groupSession, "50000")), kerr.InvalidConfig},
		"all groups":          {alterGroup(t, c, "", false, groupChange(set, groupSession, "50000")), kerr.InvalidRequest},
		"validated":           {alterGroup(t, c, "g", true, groupChange(set, groupSession, "50000")), nil},
		"validated, bad":      {alterGroup(t, c, "g", true, groupChange(set, groupSession, "1")), kerr.InvalidConfig},
		"not there":           {alterGroup(t, c, "other", false, groupChange(del, "whatever", "")), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	stop()
	ctx := testContext(t)
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}

	b = openBrokerIn(t, dir)
	s, stop = runServer(t, Config{Broker: b, Groups: GroupConfig{Config: group.Config{ConsumerHeartbeat: 2 * time.Second}}})
	addr = s.Addrs()[0].String()
	c = dialRaw(t, addr)
	describe := kmsg.NewPtrDescribeConfigsRequest()
	describe.Version, describe.IncludeSynonyms = 4, true
	describe.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: "g"}}
	got := roundTrip[*kmsg.DescribeConfigsResponse](c, describe).Resources[0].Configs
	if len(got) != 2 || *got[0].Value != "7000" || got[0].Source != kmsg.ConfigSourceGroupConfig || *got[1].Value != "60000" ||
		*got[0].ConfigSynonyms[1].Value != "2000" {
		t.Errorf("after a restart: %+v", got)
	}
	list := kmsg.NewPtrListConfigResourcesRequest()
	list.Version, list.ResourceTypes = 1, []int8{int8(kmsg.ConfigResourceTypeGroupConfig)}
	if got := roundTrip[*kmsg.ListConfigResourcesResponse](c, list).ConfigResources; len(got) != 1 || got[0].Name != "g" {
		t.Errorf("groups with configs: %+v", got)
	}
	if got := beat(c); got.HeartbeatIntervalMillis != 7000 {
		t.Errorf("after a restart: %+v", got)
	}
	if err := alterGroup(t, c, "g", false, groupChange(del, groupHeartbeat, ""), groupChange(del, groupSession, "")); err != nil {
		t.Fatal(err)
	}
	if got := beat(c); got.HeartbeatIntervalMillis != 2000 {
		t.Errorf("without configs of its own: %+v", got)
	}
	if n := len(b.Image().GroupConfigs()); n != 0 {
		t.Errorf("%d groups have configs", n)
	}
	c.Close()
	stop()
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
