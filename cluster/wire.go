package cluster

import (
	"fmt"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// The calls between brokers. Numbers of methods and keys are for ever; keys are only ever added, and a reader passes over what it does
// not know. Lists of partitions stand in one message, so that the cost of a call is shared.

// Methods of calls. Other rooms' begin at MethodsOfRooms.
const (
	methodPropose        rpc.Method = 1 + iota // a command for the metadata quorum, to the member that leads it
	methodRenew                                // a lease, to the active controller
	methodFeed                                 // a follower asks for what is new
	methodAppend                               // records for partitions that the callee leads
	methodRead                                 // committed records for a broker without a replica
	methodEnds                                 // how far partitions are committed
	methodLogs                                 // where a broker's logs end, for an election after restarts (E6)
	methodStatus                               // of a node in the quorum
	methodReport                               // what a broker says of itself, for the cluster's status
	methodVersion                              // how new the metadata is, to the member that leads the quorum
	methodRelay                                // another call, for a node that the caller does not reach
	methodEndTransaction                       // markers for partitions that the callee leads
	methodRest                                 // partitions that the callee leads are about to be led by others
)

// maxCarried is the largest batch that calls between brokers carry: what others may stand before it in an answer, feedBytes, and the control part
// take the rest of rpc.MaxFrame. A larger one would end each session that it is in, for all partitions.
const maxCarried = 7 << 20

// MethodsOfRooms is the first method that is not the broker's own.
const MethodsOfRooms rpc.Method = 64

// remoteErrors keep their identity across a call. The order is part of the wire form: add at the end.
var remoteErrors = []error{
	meta.ErrNotLeader, meta.ErrConflict, meta.ErrExists, meta.ErrNotFound, meta.ErrRefused, meta.ErrFormat, meta.ErrUnavailable,
	ErrNotLeader, ErrNotEnoughReplicas, ErrOffline, ErrClosed, errStaleProcess,
	log.ErrOutOfRange, log.ErrTooLarge, log.ErrDiskFull, log.ErrBusy, log.ErrFenced, log.ErrCorrupt, log.ErrFailed, log.ErrClosed,
	log.ErrOutOfOrderSequence, log.ErrProducerFenced, rpc.ErrFrame, errUndecided, ErrTermOver, ErrFailed,
	log.ErrCoordinatorFenced, log.ErrTransactionState,
}

// wirePartition names a partition.
type wirePartition struct {
	Topic []byte `cbor:"1,keyasint"`
	Index int32  `cbor:"2,keyasint,omitempty"`
}

func toWire(id log.PartitionID) wirePartition { return wirePartition{id.Topic[:], id.Index} }

func (w wirePartition) id() (id log.PartitionID, ok bool) {
	if len(w.Topic) != len(id.Topic) {
		return id, false
	}
	copy(id.Topic[:], w.Topic)
	id.Index = w.Index
	return id, true
}

type proposeCall struct {
	Command []byte `cbor:"1,keyasint"`
}

// proposeAnswer: what the command answered, as far as the asker cannot see it in the metadata.
type proposeAnswer struct {
	Version      uint64             `cbor:"1,keyasint"`
	Registration *meta.Registration `cbor:"2,keyasint,omitempty"`
	ProducerIDs  *meta.ProducerIDs  `cbor:"3,keyasint,omitempty"`
}

type versionAnswer struct {
	Version uint64 `cbor:"1,keyasint"`
}

type renewCall struct {
	Broker  int32  `cbor:"1,keyasint"`
	Epoch   int64  `cbor:"2,keyasint"`
	Applied uint64 `cbor:"3,keyasint,omitempty"` // metadata version in force there
	Gone    bool   `cbor:"4,keyasint,omitempty"` // it serves nothing any more (E8)
}

type renewAnswer struct {
	Newest uint64 `cbor:"1,keyasint"` // the lease holds once this version is applied (replica/model, hole 7)
}

// feedCall tells what has changed since the caller's last one, and, with Wait, asks for news. Seq orders the calls of a session: two of them may
// overtake each other.
type feedCall struct {
	Broker  int32      `cbor:"1,keyasint"`
	Epoch   int64      `cbor:"2,keyasint"` // of the process (BE)
	Session uint64     `cbor:"3,keyasint"`
	Seq     uint64     `cbor:"4,keyasint"`
	WaitMS  int32      `cbor:"5,keyasint,omitempty"`
	Parts   []feedPart `cbor:"6,keyasint,omitempty"`
	Gone    []feedPart `cbor:"7,keyasint,omitempty"` // no longer followed
}

// feedPart is replica.Fetch for one partition.
type feedPart struct {
	wirePartition
	LeaderEpoch int32 `cbor:"3,keyasint"`
	Durable     int64 `cbor:"4,keyasint,omitempty"`
	From        int64 `cbor:"5,keyasint,omitempty"`
	LastEpoch   int32 `cbor:"6,keyasint"`
	Entry       int32 `cbor:"7,keyasint"`
	// Observe: the caller has no replica, and wants to know how far the partition is committed.
	Observe  bool `cbor:"8,keyasint,omitempty"`
	Refilled bool `cbor:"9,keyasint,omitempty"`
	// Behind is the offset behind the log start, 0 from builds that do not tell it.
	Behind         int64 `cbor:"10,keyasint,omitempty"`
	PartitionEpoch int32 `cbor:"11,keyasint,omitempty"`
}

func (p *feedPart) fetch(c *feedCall) replica.Fetch {
	return replica.Fetch{
		Node: c.Broker, BrokerEpoch: c.Epoch, LeaderEpoch: p.LeaderEpoch,
		Durable: p.Durable, From: p.From, LastEpoch: p.LastEpoch, Entry: p.Entry, Refilled: p.Refilled, PartitionEpoch: p.PartitionEpoch,
	}
}

type feedAnswer struct {
	Lost  bool       `cbor:"1,keyasint,omitempty"` // the session is not known: begin anew
	Parts []feedNews `cbor:"2,keyasint,omitempty"`
}

// feedNews is replica.Answer for one partition, with what was asked. Its records are the next Bytes of the raw part.
type feedNews struct {
	wirePartition
	Code        feedCode `cbor:"3,keyasint,omitempty"`
	LeaderEpoch int32    `cbor:"4,keyasint"`
	EpochStart  int64    `cbor:"5,keyasint,omitempty"`
	HW          int64    `cbor:"6,keyasint,omitempty"`
	LogStart    int64    `cbor:"7,keyasint,omitempty"`
	LogEnd      int64    `cbor:"8,keyasint,omitempty"`
	Diverges    bool     `cbor:"9,keyasint,omitempty"`
	AtEpoch     int32    `cbor:"10,keyasint,omitempty"`
	AtEnd       int64    `cbor:"11,keyasint,omitempty"`
	Bytes       int      `cbor:"12,keyasint,omitempty"`
	AskedFrom   int64    `cbor:"13,keyasint,omitempty"`
	AskedLast   int32    `cbor:"14,keyasint"`
	AskedEpoch  int32    `cbor:"15,keyasint"`
	// Stable is the leader's last stable offset, no newer than HW; 0 also from builds that do not tell it.
	Stable int64 `cbor:"16,keyasint,omitempty"`
}

// feedCode is why there is no answer for a partition.
type feedCode uint8

const (
	feedOK        feedCode = iota
	feedNotLeader          // it does not lead here, or not yet
	feedFenced             // it leads in a newer epoch (H8)
	feedUnknown            // it leads in an older epoch (H8)
	feedFailed             // the records cannot be read
)

// asked is what the answer is to.
func (n *feedNews) asked() replica.Fetch {
	return replica.Fetch{LeaderEpoch: n.AskedEpoch, From: n.AskedFrom, LastEpoch: n.AskedLast}
}

func (n *feedNews) answer() replica.Answer {
	return replica.Answer{
		LeaderEpoch: n.LeaderEpoch, EpochStart: n.EpochStart, HighWatermark: n.HW, LogStart: n.LogStart, LogEnd: n.LogEnd,
		Diverges: n.Diverges, At: replica.Point{Epoch: n.AtEpoch, End: n.AtEnd},
	}
}

// appendCall carries batches of one forwarding broker, in the order of their sequences for each partition (M10). The batches stand one
// behind the other in the raw part.
type appendCall struct {
	Parts []appendPart `cbor:"1,keyasint"`
}

type appendPart struct {
	wirePartition
	Bytes int        `cbor:"3,keyasint"`
	Terms []wireTerm `cbor:"4,keyasint,omitempty"` // in which there are records (M4)
}

// wireTerm is Term.
type wireTerm struct {
	wirePartition
	Epoch int32 `cbor:"3,keyasint"`
}

func toWireTerms(terms []Term) (out []wireTerm) {
	for _, t := range terms {
		out = append(out, wireTerm{toWire(t.Partition), int32(t.Epoch)})
	}
	return out
}

func fromWireTerms(terms []wireTerm) (out []Term, err error) {
	for _, w := range terms {
		id, ok := w.id()
		if !ok {
			return nil, fmt.Errorf("a term of partition % x: %w", w.Topic, rpc.ErrFrame)
		}
		out = append(out, Term{id, log.Epoch(w.Epoch)})
	}
	return out, nil
}

type appendAnswer struct {
	Parts []appendOutcome `cbor:"1,keyasint"`
}

// appendOutcome is nil-like (Code 0) where the batch is committed; else Code is a place in remoteErrors from 1, or beyond them.
type appendOutcome struct {
	Code int    `cbor:"1,keyasint,omitempty"`
	Text string `cbor:"2,keyasint,omitempty"`
}

type readCall struct {
	wirePartition
	From     int64 `cbor:"3,keyasint,omitempty"`
	MaxBytes int   `cbor:"4,keyasint"`
}

type endsCall struct {
	Parts    []wirePartition `cbor:"1,keyasint"`
	Appended bool            `cbor:"2,keyasint,omitempty"` // asks for the ends of the logs, not of what is committed
	Since    uint64          `cbor:"3,keyasint,omitempty"` // the oldest metadata that may answer (M4)
}

// endsAnswer has one offset for each partition asked for, -1 where it is not led here.
type endsAnswer struct {
	Ends []int64 `cbor:"1,keyasint"`
}

type logsCall struct {
	Parts []wirePartition `cbor:"1,keyasint"`
}

type logsAnswer struct {
	Epoch int64     `cbor:"1,keyasint"` // of the process that answers
	Logs  []logTail `cbor:"2,keyasint"` // of those that are here
}

type logTail struct {
	wirePartition
	Entry          int32 `cbor:"3,keyasint"` // newest epoch whose beginning is durable
	End            int64 `cbor:"4,keyasint"` // durable end
	PartitionEpoch int32 `cbor:"5,keyasint"` // of the metadata in force there
}
