package kafka

import (
	"context"
	"errors"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/access"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Error codes of the Kafka protocol that weir answers with (protocol guide, "Error codes").
const (
	errUnknownServerError           int16 = -1
	errNone                         int16 = 0
	errOffsetOutOfRange             int16 = 1
	errCorruptMessage               int16 = 2
	errUnknownTopicOrPartition      int16 = 3
	errLeaderNotAvailable           int16 = 5
	errNotLeaderOrFollower          int16 = 6
	errRequestTimedOut              int16 = 7
	errReplicaNotAvailable          int16 = 9
	errMessageTooLarge              int16 = 10
	errOffsetMetadataTooLarge       int16 = 12
	errCoordinatorLoadInProgress    int16 = 14
	errCoordinatorNotAvailable      int16 = 15
	errNotCoordinator               int16 = 16
	errInvalidTopic                 int16 = 17
	errRecordListTooLarge           int16 = 18
	errNotEnoughReplicas            int16 = 19
	errNotEnoughReplicasAfter       int16 = 20
	errInvalidRequiredAcks          int16 = 21
	errIllegalGeneration            int16 = 22
	errInconsistentGroupProtocol    int16 = 23
	errInvalidGroupID               int16 = 24
	errUnknownMemberID              int16 = 25
	errInvalidSessionTimeout        int16 = 26
	errRebalanceInProgress          int16 = 27
	errInvalidCommitOffsetSize      int16 = 28
	errTopicAuthorizationFailed     int16 = 29
	errGroupAuthorizationFailed     int16 = 30
	errClusterAuthorizationFailed   int16 = 31
	errInvalidTimestamp             int16 = 32
	errUnsupportedSaslMechanism     int16 = 33
	errIllegalSaslState             int16 = 34
	errUnsupportedVersion           int16 = 35
	errTopicAlreadyExists           int16 = 36
	errInvalidPartitions            int16 = 37
	errInvalidReplicationFactor     int16 = 38
	errInvalidReplicaAssignment     int16 = 39
	errInvalidConfig                int16 = 40
	errNotController                int16 = 41
	errInvalidRequest               int16 = 42
	errUnsupportedForMessageFormat  int16 = 43
	errPolicyViolation              int16 = 44
	errOutOfOrderSequenceNumber     int16 = 45
	errInvalidProducerEpoch         int16 = 47
	errInvalidTxnState              int16 = 48
	errInvalidProducerIDMapping     int16 = 49
	errInvalidTransactionTimeout    int16 = 50
	errConcurrentTransactions       int16 = 51
	errTransactionCoordinatorFenced int16 = 52
	errTransactionalIDNotAuthorized int16 = 53
	errOperationNotAttempted        int16 = 55
	errKafkaStorageError            int16 = 56
	errLogDirNotFound               int16 = 57
	errSaslAuthenticationFailed     int16 = 58
	errUnknownProducerID            int16 = 59
	errNonEmptyGroup                int16 = 68
	errGroupIDNotFound              int16 = 69
	errFetchSessionIDNotFound       int16 = 70
	errInvalidFetchSessionEpoch     int16 = 71
	errListenerNotFound             int16 = 72
	errTopicDeletionDisabled        int16 = 73
	errFencedLeaderEpoch            int16 = 74
	errUnknownLeaderEpoch           int16 = 75
	errUnsupportedCompressionType   int16 = 76
	errOffsetNotAvailable           int16 = 78
	errMemberIDRequired             int16 = 79
	errPreferredLeaderNotAvailable  int16 = 80
	errGroupMaxSizeReached          int16 = 81
	errFencedInstanceID             int16 = 82
	errElectionNotNeeded            int16 = 84
	errNoReassignmentInProgress     int16 = 85
	errGroupSubscribedToTopic       int16 = 86
	errInvalidRecord                int16 = 87
	errUnstableOffsetCommit         int16 = 88
	errThrottlingQuotaExceeded      int16 = 89
	errProducerFenced               int16 = 90
	errResourceNotFound             int16 = 91
	errDuplicateResource            int16 = 92
	errUnacceptableCredential       int16 = 93
	errUnknownTopicID               int16 = 100
	errBrokerIDNotRegistered        int16 = 102
	errInconsistentTopicID          int16 = 103
	errTransactionalIDNotFound      int16 = 105
	errFetchSessionTopicID          int16 = 106
	errFencedMemberEpoch            int16 = 110
	errUnreleasedInstanceID         int16 = 111
	errUnsupportedAssignor          int16 = 112
	errStaleMemberEpoch             int16 = 113
	errTransactionAbortable         int16 = 120
	errInvalidRegularExpression     int16 = 128
	errRebootstrapRequired          int16 = 129
)

// codes is the one place where the errors of other rooms become codes of the protocol; the
// test beside it fails when a room gets a sentinel that has no row. The first match counts.
//
// Clients try again after NOT_LEADER_OR_FOLLOWER, KAFKA_STORAGE_ERROR, REQUEST_TIMED_OUT and
// NOT_ENOUGH_REPLICAS, and give up after most others: what passes by itself must be among
// the former.
var codes = []struct {
	name string
	err  error
	code int16
}{
	{"cluster.ErrFailed", cluster.ErrFailed, errKafkaStorageError}, // whatever its cause is, another broker does not have it
	{"cluster.ErrUnknownTopic", cluster.ErrUnknownTopic, errUnknownTopicOrPartition},
	{"cluster.ErrTopicExists", cluster.ErrTopicExists, errTopicAlreadyExists},
	{"cluster.ErrInvalidTopic", cluster.ErrInvalidTopic, errInvalidTopic},
	{"cluster.ErrInvalidPartitions", cluster.ErrInvalidPartitions, errInvalidPartitions},
	{"cluster.ErrInvalidReplicas", cluster.ErrInvalidReplicas, errInvalidReplicationFactor},
	{"cluster.ErrInvalidAssignment", cluster.ErrInvalidAssignment, errInvalidReplicaAssignment},
	{"cluster.ErrInvalidConfig", cluster.ErrInvalidConfig, errInvalidConfig},
	{"cluster.ErrInvalidAcks", cluster.ErrInvalidAcks, errInvalidRequiredAcks},
	{"cluster.ErrProtected", cluster.ErrProtected, errTopicAuthorizationFailed},
	{"cluster.ErrNoMove", cluster.ErrNoMove, errNoReassignmentInProgress},
	{"cluster.ErrLeads", cluster.ErrLeads, errElectionNotNeeded},
	{"cluster.ErrPreferred", cluster.ErrPreferred, errPreferredLeaderNotAvailable},
	{"errUnclean", errUnclean, errPolicyViolation},
	{"errMayNot", errMayNot, errClusterAuthorizationFailed},
	{"access.ErrInvalid", access.ErrInvalid, errInvalidRequest},
	{"cluster.ErrPolicy", cluster.ErrPolicy, errPolicyViolation},
	{"cluster.ErrNotLeader", cluster.ErrNotLeader, errNotLeaderOrFollower},
	{"cluster.ErrTermOver", cluster.ErrTermOver, errNotLeaderOrFollower}, // of sessions' records; no client's
	{"cluster.ErrNotEnoughReplicas", cluster.ErrNotEnoughReplicas, errNotEnoughReplicas},
	{"cluster.ErrOffline", cluster.ErrOffline, errKafkaStorageError},
	{"cluster.ErrUnavailable", cluster.ErrUnavailable, errRequestTimedOut},
	{"cluster.ErrClosed", cluster.ErrClosed, errNotLeaderOrFollower},
	{"log.ErrOutOfRange", log.ErrOutOfRange, errOffsetOutOfRange},
	{"log.ErrTooLarge", log.ErrTooLarge, errMessageTooLarge},
	{"log.ErrOutOfOrderSequence", log.ErrOutOfOrderSequence, errOutOfOrderSequenceNumber},
	{"log.ErrProducerFenced", log.ErrProducerFenced, errInvalidProducerEpoch},
	{"log.ErrNotVerified", log.ErrNotVerified, errNotEnoughReplicas}, // another transaction has ended: it is verified again
	{"log.ErrTransactionState", log.ErrTransactionState, errInvalidTxnState},
	{"log.ErrCoordinatorFenced", log.ErrCoordinatorFenced, errTransactionCoordinatorFenced},
	{"log.ErrTooManyTransactions", log.ErrTooManyTransactions, errNotEnoughReplicas}, // the word that all clients try a batch again after,
	{"log.ErrAbortedLimit", log.ErrAbortedLimit, errPolicyViolation},
	{"log.ErrFenced", log.ErrFenced, errNotLeaderOrFollower},
	{"log.ErrBusy", log.ErrBusy, errRequestTimedOut}, // too much waits for the disk
	{"log.ErrDiskFull", log.ErrDiskFull, errKafkaStorageError},
	{"log.ErrFailed", log.ErrFailed, errKafkaStorageError},
	{"log.ErrReadOnly", log.ErrReadOnly, errKafkaStorageError},
	{"log.ErrNewerFormat", log.ErrNewerFormat, errKafkaStorageError},
	{"log.ErrExists", log.ErrExists, errTopicAlreadyExists},
	{"log.ErrClosed", log.ErrClosed, errNotLeaderOrFollower},
	// Of a stored batch: what a client sent is judged in 00_produce.go. Clients tell their user of a corrupt
	// message; a storage error they would ask about again for ever.
	{"log.ErrCorrupt", log.ErrCorrupt, errCorruptMessage},
	{"log.ErrShort", log.ErrShort, errKafkaStorageError},
	{"meta.ErrConflict", meta.ErrConflict, errRequestTimedOut}, // others were faster for as long as there was time
	{"meta.ErrRefused", meta.ErrRefused, errInvalidRequest},
	{"context.DeadlineExceeded", context.DeadlineExceeded, errRequestTimedOut},
	{"context.Canceled", context.Canceled, errRequestTimedOut},
}

// codeOf is the code for an error of another room; nil is NONE.
func codeOf(err error) int16 {
	if err == nil {
		return errNone
	}
	for i := range codes {
		if errors.Is(err, codes[i].err) {
			return codes[i].code
		}
	}
	return errUnknownServerError
}
