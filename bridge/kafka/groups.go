package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// groupAPIs are the requests of consumer groups, and of the offsets they commit.
func groupAPIs() []api {
	return []api{
		{key: 8, min: 2, max: 10, flexible: 8, request: fresh[kmsg.OffsetCommitRequest], handle: (*Server).offsetCommit},
		{key: 9, min: 1, max: 10, flexible: 6, request: fresh[kmsg.OffsetFetchRequest], handle: (*Server).offsetFetch},
		{key: 10, min: 0, max: 6, flexible: 3, request: fresh[kmsg.FindCoordinatorRequest], handle: (*Server).findCoordinator},
		{key: 11, min: 0, max: 9, flexible: 6, request: fresh[kmsg.JoinGroupRequest], handle: (*Server).joinGroup},
		{key: 12, min: 0, max: 4, flexible: 4, request: fresh[kmsg.HeartbeatRequest], handle: (*Server).heartbeat},
		{key: 13, min: 0, max: 5, flexible: 4, request: fresh[kmsg.LeaveGroupRequest], handle: (*Server).leaveGroup},
		{key: 14, min: 0, max: 5, flexible: 4, request: fresh[kmsg.SyncGroupRequest], handle: (*Server).syncGroup},
		{key: 15, min: 0, max: 6, flexible: 5, request: fresh[kmsg.DescribeGroupsRequest], handle: (*Server).describeGroups},
		{key: 16, min: 0, max: 5, flexible: 3, request: fresh[kmsg.ListGroupsRequest], handle: (*Server).listGroups},
		{key: 42, min: 0, max: 3, flexible: 2, request: fresh[kmsg.DeleteGroupsRequest], handle: (*Server).deleteGroups},
		{key: 47, min: 0, max: 0, flexible: never, request: fresh[kmsg.OffsetDeleteRequest], handle: (*Server).offsetDelete},
		{key: 68, min: 0, max: 1, flexible: 0, request: fresh[kmsg.ConsumerGroupHeartbeatRequest], handle: (*Server).consumerGroupHeartbeat},
		{key: 69, min: 0, max: 1, flexible: 0, request: fresh[kmsg.ConsumerGroupDescribeRequest], handle: (*Server).consumerGroupDescribe},
	}
}

// offsetsTopic keeps groups and their offsets. The name and the formats of its
// records are Kafka's, so that tools which read it work.
const offsetsTopic = "__consumer_offsets"

// GroupConfig bounds consumer groups. Zero fields mean the default in brackets.
type GroupConfig struct {
	group.Config

	MaxGroups int   // further ones are refused [10,000]
	MaxBytes  int64 // of all groups' subscriptions, assignments and offsets [64 MiB]
	// CommitTimeout is how long a commit is waited for (offsets.commit.timeout.ms) [10 s; Kafka's 5 s
	// are shorter than what a slow disk may take].
	CommitTimeout time.Duration
	ExpireEvery   time.Duration // offsets.retention.check.interval.ms: how often old offsets are looked for [10 min]

	// OffsetsPartitions is how many partitions __consumer_offsets is made with
	// [8; Kafka's 50 would cost a small node 150 open files].
	OffsetsPartitions int

	// ClockTrusted reports whether the wall clock may decide that offsets are
	// old. A board without a battery comes up in 1970 and jumps [the log's judgement].
	ClockTrusted func() bool
}

func (c *GroupConfig) setDefaults() {
	c.Config = c.Config.Defaults()
	def(&c.MaxGroups, 10_000)
	def(&c.MaxBytes, 64<<20)
	def(&c.CommitTimeout, 10*time.Second)
	def(&c.ExpireEvery, 10*time.Minute)
	def(&c.OffsetsPartitions, 8)
	if c.ClockTrusted == nil {
		c.ClockTrusted = func() bool { return true }
	}
}

// GroupStats are the coordinator's numbers, read at one moment but not
// atomically together.
type GroupStats struct {
	Groups, Bytes int64 // now
	Rebalances    int64 // begun
	Commits       int64 // OffsetCommit requests let through
	Expired       int64 // offsets forgotten for their age
	BadRecords    int64 // entries of __consumer_offsets left out when loading
}

// GroupStats may be called at any time.
func (s *Server) GroupStats() GroupStats {
	c := s.groups
	if c == nil {
		return GroupStats{}
	}
	return GroupStats{
		Groups: c.count.Load(), Bytes: c.bytes.Load(), Rebalances: c.n.rebalances.Load(),
		Commits: c.n.commits.Load(), Expired: c.n.expired.Load(), BadRecords: c.n.badRecords.Load(),
	}
}

// groupCode is the protocol's error code for a group's refusal.
var groupCode = [group.NumFaults]int16{
	group.OK:                     errNone,
	group.UnknownMember:          errUnknownMemberID,
	group.IllegalGeneration:      errIllegalGeneration,
	group.RebalanceInProgress:    errRebalanceInProgress,
	group.InconsistentProtocol:   errInconsistentGroupProtocol,
	group.InvalidSessionTimeout:  errInvalidSessionTimeout,
	group.MemberIDRequired:       errMemberIDRequired,
	group.FencedInstance:         errFencedInstanceID,
	group.TooManyMembers:         errGroupMaxSizeReached,
	group.TooLarge:               errGroupMaxSizeReached, // clients give up on it, as they should: asking again cannot help
	group.OffsetMetadataTooLarge: errOffsetMetadataTooLarge,
	group.NotAvailable:           errCoordinatorNotAvailable,
	group.NotEmpty:               errNonEmptyGroup,
	group.NotFound:               errGroupIDNotFound,
	group.Subscribed:             errGroupSubscribedToTopic,
	group.UnsupportedAssignor:    errUnsupportedAssignor,
	group.InvalidPattern:         errInvalidRegularExpression,
	group.UnreleasedInstance:     errUnreleasedInstanceID,
	group.FencedEpoch:            errFencedMemberEpoch,
	group.StaleEpoch:             errStaleMemberEpoch,
	group.NotForMembers:          errUnsupportedVersion,
}
