package cluster

import (
	"errors"

	"github.com/weir-io/weir/cluster/control"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// Sentinels of this room. Callers use errors.Is; those of package log come through as they are.
var (
	// ErrUnknownTopic: no topic, or no partition, of that name, id or index.
	ErrUnknownTopic = meta.ErrNotFound
	// ErrTopicExists: the name is taken.
	ErrTopicExists = meta.ErrExists
	// ErrInvalidTopic: the name is not one a topic may have.
	ErrInvalidTopic = errors.New("invalid topic name")
	// ErrInvalidPartitions: a number of partitions that a topic may not have.
	ErrInvalidPartitions = errors.New("invalid number of partitions")
	// ErrInvalidReplicas: a number of replicas that this cluster cannot give.
	ErrInvalidReplicas = control.ErrReplicas
	// ErrInvalidAssignment: replicas that somebody names and that this cluster cannot give.
	ErrInvalidAssignment = control.ErrAssignment
	// ErrInvalidConfig: a config that is not honoured, or a value that it may not have.
	ErrInvalidConfig = errors.New("invalid config")
	// ErrInvalidAcks: acks other than -1, 0 and 1.
	ErrInvalidAcks = errors.New("invalid acks")
	// ErrProtected: the topic is the broker's own, and the change would break what is kept in it.
	ErrProtected = errors.New("topic belongs to the broker")
	// ErrNoMove: the partition is on the way to no other replicas.
	ErrNoMove = errors.New("no move to other replicas is under way")
	// ErrLeads: the preferred leader of a partition leads.
	ErrLeads = control.ErrLeads
	// ErrPreferred: the preferred leader of a partition may not lead now.
	ErrPreferred = control.ErrPreferred
	// ErrPolicy: the topic's cleanup.policy does not allow it.
	ErrPolicy = errors.New("not allowed by the topic's cleanup.policy")

	// ErrNotLeader: another broker leads the partition, or none does.
	ErrNotLeader = errors.New("not the leader of this partition")
	// ErrTermOver: what the record is appended for has another owner by now (M4).
	ErrTermOver = errors.New("a later term has begun")
	// ErrNotEnoughReplicas: fewer replicas are in sync than min.insync.replicas demands; nothing was written (H6).
	ErrNotEnoughReplicas = replica.ErrNotEnoughReplicas
	// ErrOffline: the partition's log is missing, damaged or could not be opened on this node.
	ErrOffline = errors.New("partition is offline")
	// ErrUnavailable: the metadata quorum did not answer; whether the change takes effect is not known.
	ErrUnavailable = meta.ErrUnavailable
	// ErrFailed: the broker can no longer keep its promises, and stops (A6).
	ErrFailed = errors.New("this node has failed, and serves again after a restart")
	// ErrClosed: the broker is shutting down.
	ErrClosed = errors.New("broker is closed")
)

// Transient says whether the same append may succeed later without anybody changing it, so that an MQTT publish is held
// and retried instead of being refused (M8).
func Transient(err error) bool {
	for _, passing := range []error{
		ErrNotLeader, ErrTermOver, ErrNotEnoughReplicas, ErrOffline, ErrUnavailable, ErrFailed, ErrClosed,
		log.ErrDiskFull, log.ErrBusy, log.ErrFenced, log.ErrFailed, log.ErrClosed,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}
