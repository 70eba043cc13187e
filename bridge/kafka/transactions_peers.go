package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
)

// Brokers ask each other two things about transactions: the leader of a partition asks the coordinator whether it is part of one, or has it made so, before it takes the first
// batch; the coordinator has the coordinator of a group apply, or drop, the offsets of one. Markers for partitions go through cluster.

// Methods of calls between the Kafka rooms of brokers. Numbers of methods and keys are for ever, as cluster's are.
const (
	methodVerify = cluster.MethodsOfRooms + 16 + iota
	methodEndOffsets
	methodEnlist
)

type verifyCall struct {
	ID        string `cbor:"1,keyasint"`
	Producer  int64  `cbor:"2,keyasint"`
	Epoch     int16  `cbor:"3,keyasint,omitempty"`
	Topic     string `cbor:"4,keyasint"`
	Partition int32  `cbor:"5,keyasint,omitempty"`
}

type enlistCall struct {
	ID       string          `cbor:"1,keyasint"`
	Producer int64           `cbor:"2,keyasint"`
	Epoch    int16           `cbor:"3,keyasint,omitempty"`
	Parts    []wirePartition `cbor:"4,keyasint"`
}

type wirePartition struct {
	Topic string `cbor:"1,keyasint"`
	Index int32  `cbor:"2,keyasint,omitempty"`
}

// verifyAnswer is to both.
type verifyAnswer struct {
	Code    int16 `cbor:"1,keyasint,omitempty"` // of Kafka's protocol
	Started int64 `cbor:"2,keyasint,omitempty"`
}

type endOffsetsCall struct {
	Partition int32 `cbor:"1,keyasint,omitempty"` // of __consumer_offsets
	Producer  int64 `cbor:"2,keyasint"`
	Commit    bool  `cbor:"3,keyasint,omitempty"`
	Started   int64 `cbor:"4,keyasint"` // which of the producer's transactions
}

// answerPeers has the calls of other brokers answered.
func (s *Server) answerPeers() {
	s.broker.HandleCalls(methodVerify, func(_ context.Context, r *rpc.Request) (rpc.Answer, error) {
		var c verifyCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		started, code := s.transactions.verify(c.ID, txn.Producer{ID: c.Producer, Epoch: c.Epoch}, txn.Partition{Topic: c.Topic, Index: c.Partition})
		return rpc.Answer{Control: verifyAnswer{code, started}}, nil
	})
	s.broker.HandleCalls(methodEnlist, func(ctx context.Context, r *rpc.Request) (rpc.Answer, error) {
		var c enlistCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		parts := make([]txn.Partition, len(c.Parts))
		for i, p := range c.Parts {
			parts[i] = txn.Partition(p)
		}
		started, code := s.transactions.enlist(ctx, c.ID, txn.Producer{ID: c.Producer, Epoch: c.Epoch}, parts)
		return rpc.Answer{Control: verifyAnswer{code, started}}, nil
	})
	s.broker.HandleCalls(methodEndOffsets, func(ctx context.Context, r *rpc.Request) (rpc.Answer, error) {
		var c endOffsetsCall
		if err := rpc.Decode(r.Control, &c); err != nil {
			return rpc.Answer{}, err
		}
		return rpc.Answer{Control: struct{}{}}, s.groups.endTransaction(ctx, c.Partition, transactionOf{c.Producer, c.Started}, c.Commit)
	})
}

// peerTimeout bounds one question.
const peerTimeout = 5 * time.Second

// verify asks the coordinator of a transactional id, wherever it is, whether a partition is part of the producer's open transaction. The code is one that clients try again after
// while nobody can say.
func (s *Server) verify(ctx context.Context, id string, p txn.Producer, at txn.Partition) (started int64, code int16) {
	if s.coordinates(id) {
		return s.transactions.verify(id, p, at)
	}
	return s.askCoordinator(ctx, s.transactionLeader(id), id, methodVerify, verifyCall{id, p.ID, p.Epoch, at.Topic, at.Index})
}

// enlist has the coordinator make partitions part of the producer's open transaction, or begin one with them, where they are not: for producers of version 2.
func (s *Server) enlist(ctx context.Context, id string, p txn.Producer, parts []txn.Partition) (started int64, code int16) {
	if s.coordinates(id) {
		return s.transactions.enlist(ctx, id, p, parts)
	}
	return s.enlistThere(ctx, id, p, parts)
}

// enlistAhead is enlist for batches that go ahead where they may (transactions.enlistAhead).
func (s *Server) enlistAhead(ctx context.Context, id string, p txn.Producer, parts []txn.Partition) enlisted {
	if s.coordinates(id) {
		return s.transactions.enlistAhead(ctx, id, p, parts)
	}
	started, code := s.enlistThere(ctx, id, p, parts)
	return enlisted{started: started, code: code}
}

func (s *Server) coordinates(id string) bool { return s.transactionLeader(id) == s.broker.NodeID() }

// enlistThere asks another broker.
func (s *Server) enlistThere(ctx context.Context, id string, p txn.Producer, parts []txn.Partition) (started int64, code int16) {
	call := enlistCall{ID: id, Producer: p.ID, Epoch: p.Epoch, Parts: make([]wirePartition, len(parts))}
	for i, at := range parts {
		call.Parts[i] = wirePartition(at)
	}
	return s.askCoordinator(ctx, s.transactionLeader(id), id, methodEnlist, call)
}

// transactionLeader is the broker that coordinates an id, as far as is known here.
func (s *Server) transactionLeader(id string) int32 {
	t := s.broker.Image().Topic(transactionsTopic)
	if t == nil {
		return meta.NoLeader // the metadata may not have come here yet
	}
	return t.Partitions[hashPartition(id, int32(len(t.Partitions)))].Leader
}

func (s *Server) askCoordinator(ctx context.Context, leader int32, id string, m rpc.Method, call any) (started int64, code int16) {
	if leader == meta.NoLeader {
		return 0, errCoordinatorNotAvailable
	}
	ctx, cancel := context.WithTimeoutCause(ctx, peerTimeout, errors.New("no answer in time"))
	defer cancel()
	var a verifyAnswer
	reply, err := s.broker.CallNode(ctx, leader, m, call, nil, &a)
	if err != nil {
		s.log.Debug("kafka: the coordinator of a transaction does not answer", "transactional.id", id, "broker", leader, "err", err)
		return 0, errCoordinatorNotAvailable
	}
	reply.Release()
	return a.Started, a.Code
}
