package kafka

import (
	"context"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/log"
)

// begins says whether a transactional batch may begin a transaction in its partition, and notes where the last one ended, before the coordinator is asked.
func (pp *producePart) begins(version int16) bool {
	open, ended := pp.partition.InTransaction(pp.batch.ProducerID(), pp.batch.ProducerEpoch(), version >= produceAdds)
	if pp.verified = (log.Verified{Ended: ended}); open {
		pp.verified.Ended = log.NotVerified
	}
	return !open
}

func (pp *producePart) producer() txn.Producer {
	return txn.Producer{ID: pp.batch.ProducerID(), Epoch: pp.batch.ProducerEpoch()}
}

func (pp *producePart) place() txn.Partition { return txn.Partition{Topic: pp.topic, Index: pp.index} }

// verify asks the transaction's coordinator about parts that begin a transaction. Where it makes them part of it, those of one producer are asked for together: a client has one.
func (p *producing) verify(ctx context.Context, begin []*producePart) {
	var producers []txn.Producer
	of := map[txn.Producer][]*producePart{}
	for _, pp := range begin {
		if p.c.unverified.behind(pp) {
			p.later(pp)
			continue
		}
		producer := pp.producer()
		if of[producer] == nil {
			producers = append(producers, producer)
		}
		of[producer] = append(of[producer], pp)
	}
	again := false // then the others would be told the same
	for _, producer := range producers {
		ask := of[producer]
		if p.version >= produceAdds && !again {
			again = p.enlist(ctx, producer, ask)
			continue
		}
		for _, pp := range ask {
			if again {
				p.later(pp)
				continue
			}
			started, code := p.s.verify(ctx, string(p.txn), producer, pp.place())
			pp.verified.Started = started
			again = p.verdict(pp, code)
		}
	}
}

func (p *producing) enlist(ctx context.Context, producer txn.Producer, ask []*producePart) (again bool) {
	parts := make([]txn.Partition, len(ask))
	for i, pp := range ask {
		parts[i] = pp.place()
	}
	a := p.s.enlistAhead(ctx, string(p.txn), producer, parts)
	for _, pp := range ask {
		pp.verified.Started, pp.verified.Own, pp.verified.Behind = a.started, true, a.storing.behind
		again = p.verdict(pp, a.code)
	}
	return again
}

// verdict is what the coordinator's answer means for a part; again says that it could not decide.
func (p *producing) verdict(pp *producePart, code int16) (again bool) {
	switch code {
	case errNone:
		delete(p.c.unverified, pp.beginner())
	case errProducerFenced: // Produce has only ever had the other word
		pp.refuse(errInvalidProducerEpoch, "")
	case errConcurrentTransactions, errNotCoordinator, errCoordinatorLoadInProgress, errCoordinatorNotAvailable:
		p.later(pp)
		return true
	case errInvalidTxnState:
		if p.version >= produceAborts {
			code = errTransactionAbortable
		}
		pp.refuse(code, "partition %s/%d is not part of an open transaction of %q", pp.topic, pp.index, p.txn)
	case errPolicyViolation:
		pp.refuse(code, "partition %s/%d cannot become part of transaction %q: the limit of all transactions is reached", pp.topic, pp.index, p.txn)
	default:
		pp.refuse(code, "the coordinator of transaction %q does not know the producer", p.txn)
	}
	return false
}

// later has the client send the batch again, and those behind it: a new producer's may begin anywhere, and what is taken before the first would shut it out. The
// code is one that all clients try again after.
func (p *producing) later(pp *producePart) {
	pp.refuse(errNotEnoughReplicas, "the coordinator of transaction %q cannot say at present whether it may begin in the partition", p.txn)
	if p.c.unverified == nil {
		p.c.unverified = unverified{}
	}
	p.c.unverified.note(pp)
}

// unverified are the producers of a connection whose first batches in a partition were refused, because the coordinator could not say.
type unverified map[beginner]firstBatch

type beginner struct {
	partition log.PartitionID
	producer  int64
}

type firstBatch struct {
	epoch    int16
	sequence int32
}

// maxUnverified bounds what is noted of one connection.
const maxUnverified = 1024

func (pp *producePart) beginner() beginner {
	return beginner{pp.partition.ID(), pp.batch.ProducerID()}
}

// behind says whether a batch comes behind one that was refused.
func (u unverified) behind(pp *producePart) bool {
	first, refused := u[pp.beginner()]
	return refused && first.epoch == pp.batch.ProducerEpoch() && pp.batch.BaseSequence() > first.sequence
}

func (u unverified) note(pp *producePart) {
	first, refused := u[pp.beginner()]
	now := firstBatch{pp.batch.ProducerEpoch(), pp.batch.BaseSequence()}
	if refused && first.epoch == now.epoch && first.sequence <= now.sequence || !refused && len(u) >= maxUnverified {
		return
	}
	u[pp.beginner()] = now
}
