package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
)

// What is other with simulated producers of transaction version 2 (KIP-890): their batches and offsets become part of the transaction by themselves, each end gives them another
// epoch or id, and they go on after an error: what they have sent before may come at any time, twice and in any order, and nothing of it may touch the next transaction.

// version of a request by the producer's version.
func (p *simProducer) version(one, two int16) int16 {
	if p.v2 {
		return two
	}
	return one
}

// giveUp aborts what could not be written, and says whether the producer goes on. One of version 1 does not: with what it has sent still on its way, and the same epoch as before, it
// could not tell what becomes of it.
func (p *simProducer) giveUp(t *simTxn) bool {
	if p.r.IntN(4) == 0 { // it has died
		return false
	}
	return p.finish(t, false) && p.v2
}

// simEnd is how a producer of version 2 has a transaction end, which it has with that id and epoch.
type simEnd struct {
	id     string
	p      txn.Producer
	commit bool
}

// ended notes an answer to EndTxn, which may not reach its producer: whoever asks again is answered the same, the two ends exclude each other, and what a producer goes on with nobody had before.
func (x *simRoom) ended(req *kmsg.EndTxnRequest, resp *kmsg.EndTxnResponse) {
	if req.Version < 5 || resp.ErrorCode != errNone {
		return
	}
	how := simEnd{req.TransactionalID, txn.Producer{ID: req.ProducerID, Epoch: req.ProducerEpoch}, req.Commit}
	other := how
	other.commit = !how.commit
	going := txn.Producer{ID: resp.ProducerID, Epoch: resp.ProducerEpoch}
	x.mu.Lock()
	before, again := x.ends[how]
	_, both := x.ends[other]
	from, had := x.goes[going]
	x.ends[how], x.goes[going] = going, how
	x.mu.Unlock()
	switch {
	case again && before != going:
		x.s.Violated("EndTxn is answered the same again", "%+v: %v, then %v", how, before, going)
	case both:
		x.s.Violated("a transaction ends in one way", "%+v: the other was answered as well", how)
	case had && from != how:
		x.s.Violated("each transaction has an epoch of its own", "%v is what follows %+v and %+v", going, from, how)
	case going == how.p || going.Epoch >= txn.MaxEpoch:
		x.s.Violated("the end gives the producer its next epoch", "%+v: %v", how, going)
	}
	switch {
	case again:
		x.s.Count("ends answered again")
	case going.ID != how.p.ID:
		x.s.Count("epochs exhausted")
	}
}

// wear has the producer's id be one that has had nearly all its epochs, but for so many, as after years; false: it cannot be had.
func (x *simRoom) wear(ctx context.Context, p *simProducer, left int) bool {
	for rest(ctx, p.r, 20*time.Millisecond) {
		h, ok := p.coordinator()
		if !ok {
			continue
		}
		x.mu.Lock()
		up := x.servers[h]
		x.mu.Unlock()
		if up == nil {
			continue
		}
		worn := txn.Producer{ID: p.pid, Epoch: txn.MaxEpoch - 1 - int16(left)}
		c := up.s.transactions
		e, _ := c.find(p.id, false)
		if e == nil {
			continue
		}
		r := e.x.Record()
		if r.Producer != worn {
			was := e.x
			r.Producer = worn
			e.x = txn.Restore(r, time.Now())
			stored := c.store(e, &r)
			e.mu.Unlock()
			kept := c.wait(ctx, stored.done) == errNone
			if e.mu.Lock(); !kept {
				e.x = was
			}
		}
		if worn == e.x.Record().Producer {
			p.epoch = worn.Epoch
			x.s.Trace("client: %s has worn its id out, %d epochs are left", p.who, left)
		}
		e.mu.Unlock()
		if p.epoch == worn.Epoch {
			return true
		}
	}
	return false
}

// marked notes that the coordinator of a term has markers sent.
func (x *simRoom) marked(p txn.Producer, started int64, coordinator int32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	at := simMarked{p, started}
	if was, sent := x.terms[at]; sent && was != coordinator {
		x.s.Count("ends finished by a later coordinator")
	}
	x.terms[at] = coordinator
}

// simMarked is a transaction that is decided.
type simMarked struct {
	p       txn.Producer
	started int64
}
