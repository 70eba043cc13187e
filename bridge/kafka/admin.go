package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// adminAPIs are what Apache Kafka's own tools ask for, beyond what weir's do.
func adminAPIs() []api {
	return []api{
		{key: 29, min: 1, max: 3, flexible: 2, request: fresh[kmsg.DescribeACLsRequest], handle: (*Server).describeACLs},
		{key: 30, min: 1, max: 3, flexible: 2, request: fresh[kmsg.CreateACLsRequest], handle: (*Server).createACLs},
		{key: 31, min: 1, max: 3, flexible: 2, request: fresh[kmsg.DeleteACLsRequest], handle: (*Server).deleteACLs},
		{key: 33, min: 0, max: 2, flexible: 2, request: fresh[kmsg.AlterConfigsRequest], handle: (*Server).replaceConfigs},
		{key: 34, min: 1, max: 2, flexible: 2, request: fresh[kmsg.AlterReplicaLogDirsRequest], handle: (*Server).alterReplicaLogDirs},
		{key: 35, min: 1, max: 5, flexible: 2, request: fresh[kmsg.DescribeLogDirsRequest], handle: (*Server).describeLogDirs},
		{key: 43, min: 0, max: 2, flexible: 2, request: fresh[kmsg.ElectLeadersRequest], handle: (*Server).electLeaders},
		{key: 45, min: 0, max: 1, flexible: 0, request: fresh[kmsg.AlterPartitionAssignmentsRequest], handle: (*Server).alterReassignments},
		{key: 46, min: 0, max: 0, flexible: 0, request: fresh[kmsg.ListPartitionReassignmentsRequest], handle: (*Server).listReassignments},
		{key: 48, min: 0, max: 1, flexible: 1, request: fresh[kmsg.DescribeClientQuotasRequest], handle: (*Server).describeClientQuotas},
		{key: 49, min: 0, max: 1, flexible: 1, request: fresh[kmsg.AlterClientQuotasRequest], handle: (*Server).alterClientQuotas},
		{key: 50, min: 0, max: 0, flexible: 0, request: fresh[kmsg.DescribeUserSCRAMCredentialsRequest], handle: (*Server).describeScram},
		{key: 51, min: 0, max: 0, flexible: 0, request: fresh[kmsg.AlterUserSCRAMCredentialsRequest], handle: (*Server).alterScram},
		{key: 61, min: 0, max: 0, flexible: 0, request: fresh[kmsg.DescribeProducersRequest], handle: (*Server).describeProducers},
		{key: 64, min: 0, max: 0, flexible: 0, request: fresh[kmsg.UnregisterBrokerRequest], handle: (*Server).unregisterBroker},
		{key: 74, min: 0, max: 1, flexible: 0, request: fresh[kmsg.ListConfigResourcesRequest], handle: (*Server).listConfigResources},
		{key: 75, min: 0, max: 0, flexible: 0, request: fresh[kmsg.DescribeTopicPartitionsRequest], handle: (*Server).describeTopicPartitions},
	}
}

// operated is what administrators ask of cluster.Broker.
type operated interface {
	ElectPreferred(ctx context.Context, refs []cluster.PartitionRef) ([]error, error)
	Move(ctx context.Context, wishes []cluster.Wish, mayResize bool) ([]error, error)
	AddRules(ctx context.Context, rules []access.Rule) error
	RemoveRules(ctx context.Context, chosen func(access.Rule) bool) ([]access.Rule, error)
	AlterCredentials(ctx context.Context, set []access.Credential, remove []meta.CredentialName) error
	AlterClientQuotas(ctx context.Context, changes []cluster.QuotaChange, validateOnly bool) error
	AlterGroupConfigs(ctx context.Context, group string, change func(map[string]string) error) error
	RemoveNode(ctx context.Context, id int32) error
	Partitions() []*cluster.Partition
	LogDir() string
	LogStats() log.Stats
}

// maxNamed bounds the partitions that one administrative request names: their answers may take far more room than they do.
const maxNamed = 10_000

// tooMany ends the connection of who names more than that where the answer has no place to say so.
func tooMany(partitions int) error {
	if partitions <= maxNamed {
		return nil
	}
	return fmt.Errorf("%d partitions in one request, limit %d", partitions, maxNamed)
}

// selection says of partitions that there are whether they are asked for: what else a request names takes no room.
type selection map[cluster.PartitionRef]bool

func (s selection) ask(topic string, partitions []int32) {
	for _, p := range partitions {
		ref := cluster.PartitionRef{Topic: topic, Index: p}
		if _, there := s[ref]; there {
			s[ref] = true
		}
	}
}
