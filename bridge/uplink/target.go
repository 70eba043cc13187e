package uplink

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-io/weir/log"
)

// target is where the records of one shard go. Its methods are called by one goroutine, but for wire.
type target interface {
	// open makes this the only one that writes for the shard, and gives the cursors that the target has; nil when it keeps none.
	open(ctx context.Context) (map[log.PartitionID]progress, error)
	// add sends a record, or has it sent with the commit. The record's slices are the caller's again afterwards.
	add(ctx context.Context, r *outgoing) error
	// announce has the commit tell of offsets that were deleted before they were carried.
	announce(ctx context.Context, p *part, s Span) error
	// commit returns nil once everything since the last commit is the target's for good, the cursors with it. After an error nothing of it counts, and the
	// target is to be closed. Errors that name a culprit are *refusedError and *topicError.
	commit(ctx context.Context, cursors map[log.PartitionID]progress) error
	// trip is how long the last commit took behind everything else: about a round trip. 0 where there is no such step.
	trip() time.Duration
	// wire is how many bytes were written to connections. Safe for concurrent use.
	wire() int64
	close()
}

// refusedError: the target refuses some record among those of the commit, and will do so again.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// topicError: one topic of the target takes nothing, for a reason that others do not share.
type topicError struct {
	topic string // at the target
	err   error
}

func (e *topicError) Error() string { return fmt.Sprintf("topic %s at the target: %v", e.topic, e.err) }
func (e *topicError) Unwrap() error { return e.err }
