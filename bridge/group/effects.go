package group

import (
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// Effects is what the shell has to do after a step, in the order of the
// fields: writes and stores are put into the table in this order (the table
// keeps it), answers are sent.
type Effects struct {
	Writes  []Write
	Stores  []Store
	Batches []Batch
	Answers []Answer
}

// Store asks to keep the group's state. The shell reports the outcome by
// Stored with the same Seq.
type Store struct {
	Seq      uint64
	Snapshot *Snapshot // nil removes the group's record
}

// Answer ends the wait of one JoinGroup, SyncGroup or ConsumerGroupHeartbeat.
type Answer struct {
	Ticket       Ticket
	Fault        Fault
	MemberID     string // join: also set with MemberIDRequired
	Generation   int32  // or the member's epoch
	ProtocolType string
	Protocol     string

	// To a join only.
	Leader         string
	SkipAssignment bool         // the leader must not assign (KIP-814)
	Members        []MemberInfo // for the leader

	// To a sync only. Shared with the group: not to be changed.
	Assignment []byte

	// To a heartbeat of the consumer protocol only.
	Interval time.Duration
	Assigns  bool       // Assigned is told
	Assigned assign.Set // what the member may read from now on
}

// MemberInfo is what the leader is told of a member. Metadata is shared with
// the group: not to be changed.
type MemberInfo struct {
	ID, Instance string
	Metadata     []byte
}

func (fx *Effects) refuse(t Ticket, memberID string, f Fault) {
	fx.Answers = append(fx.Answers, Answer{Ticket: t, Fault: f, MemberID: memberID, Generation: -1})
}
