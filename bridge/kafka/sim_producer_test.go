package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster/sim"
	"github.com/weir-io/weir/log"
)

// simTxn is one transaction as its producer knows it. The room's lock guards it.
type simTxn struct {
	id       string
	n        int // of the id's, in the order in which they began
	values   map[log.PartitionID][]string
	offset   bool // the group's offset is n, as soon as it is committed
	asked    bool // to be committed
	answered bool // that it is
	aborted  bool // that it is aborted
}

func (t *simTxn) String() string { return fmt.Sprintf("%s-%d", t.id, t.n) }

// simProducer is one instance of a transactional producer. What fences it, or goes wrong for good, is its end: another instance follows, or is there already.
type simProducer struct {
	x     *simRoom
	r     *rand.Rand
	all   context.Context
	id    string
	who   string
	v2    bool // of transaction version 2, see sim_version_test.go
	pid   int64
	epoch int16
	seq   map[log.PartitionID]int32
}

const simTimeout = 6 * time.Second // of transactions

// Work implements sim.Upper.
func (x *simRoom) Work(s *sim.Sim, sending, all context.Context) {
	x.s = s
	r := s.Draw("transactions")
	for i := range 1 + r.IntN(2) {
		x.begin()
		go func() { defer x.end(); x.instances(sending, all, fmt.Sprintf("t%d", i)) }()
	}
	go x.reader(all, "reader 1")
	go x.reader(all, "reader 2")
}

// instances are the producers that have a transactional id one after the other, and sometimes at once: one that was away and does not know that it is succeeded.
func (x *simRoom) instances(sending, all context.Context, id string) {
	r := x.s.Draw("instances " + id)
	for i := 0; rest(sending, r, 20*time.Millisecond); i++ {
		p := &simProducer{x: x, r: x.s.Draw(fmt.Sprintf("producer %s.%d", id, i)), all: all, id: id, who: fmt.Sprintf("%s.%d", id, i), seq: map[log.PartitionID]int32{}}
		p.v2 = p.r.IntN(3) > 0
		if !p.init(sending) || i == 0 && r.IntN(3) == 0 && !x.wear(all, p, r.IntN(4)) {
			continue
		}
		at := true
		for n := 1 + r.IntN(12); n > 0 && at; n-- {
			at = p.transact(sending)
		}
		if at && r.IntN(2) == 0 { // a zombie
			x.begin()
			go func() {
				defer x.end()
				for rest(sending, p.r, 500*time.Millisecond) && p.transact(sending) {
				}
			}()
		}
	}
}

// until asks until the answer is decisive. codeOf is errNone where all is well.
func (p *simProducer) until(ctx context.Context, to func() (sim.Host, bool), req kmsg.Request, stray bool, codeOf func(kmsg.Response) int16) (int16, bool) {
	for rest(ctx, p.r, 5*time.Millisecond) {
		h, ok := to()
		if !ok {
			rest(ctx, p.r, 50*time.Millisecond)
			continue
		}
		resp := p.x.call(ctx, p.r, h, req, stray)
		if resp == nil {
			rest(ctx, p.r, 50*time.Millisecond)
			continue
		}
		code := codeOf(resp)
		if !retriable(code) {
			p.x.s.Trace("client: %s key %d through %s: %d", p.who, req.Key(), h, code)
			return code, true
		}
		rest(ctx, p.r, 20*time.Millisecond)
	}
	return 0, false
}

func (p *simProducer) coordinator() (sim.Host, bool) { return p.x.coordinator(p.all, p.r, p.id) }

// init takes the transactional id over.
func (p *simProducer) init(ctx context.Context) bool {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 4, &p.id, int32(simTimeout.Milliseconds()), -1, -1
	code, ok := p.until(ctx, p.coordinator, req, true, func(resp kmsg.Response) int16 {
		a := resp.(*kmsg.InitProducerIDResponse)
		p.pid, p.epoch = a.ProducerID, a.ProducerEpoch
		return a.ErrorCode
	})
	if ok && code == errNone {
		p.x.s.Trace("client: %s is producer %d epoch %d", p.who, p.pid, p.epoch)
	}
	return ok && code == errNone
}

// transact does one transaction; false: this instance is at its end.
func (p *simProducer) transact(sending context.Context) bool {
	if !rest(sending, p.r, 30*time.Millisecond) {
		return false
	}
	if p.r.IntN(16) == 0 { // the client, or what it takes the cluster for, has changed
		p.v2 = !p.v2
		p.x.s.Count("changes of a producer's version")
	}
	t := p.begin()
	for range 1 + p.r.IntN(4) {
		topic, index := []string{"a", "a", sim.Compacted}[p.r.IntN(3)], int32(p.r.IntN(2))
		if !p.produce(t, topic, index) {
			return p.giveUp(t)
		}
	}
	if p.r.IntN(3) == 0 && !p.commitOffset(t) {
		return p.giveUp(t)
	}
	switch p.r.IntN(12) {
	case 0: // it is left open, until its time is over or another instance comes
		p.x.s.Count("transactions left open")
		return false
	case 1, 2, 3, 4:
		return p.finish(t, false)
	}
	return p.finish(t, true)
}

// produce adds a partition and writes a batch to it, again until it is acked.
func (p *simProducer) produce(t *simTxn, topic string, index int32) bool {
	var id log.PartitionID
	leader := func() (h sim.Host, ok bool) {
		h, id, ok = p.x.leader(p.r, topic, func(n int32) int32 { index %= n; return index })
		return h, ok
	}
	for _, ok := leader(); !ok; _, ok = leader() {
		if !rest(p.all, p.r, 50*time.Millisecond) {
			return false
		}
	}
	if !p.v2 && !p.add(topic, index) {
		return false
	}
	var b log.BatchBuilder
	b.SetProducer(p.pid, p.epoch, p.seq[id])
	b.SetFlags(log.AttrTransactional)
	var values []string
	for i := range 1 + p.r.IntN(3) {
		value := fmt.Sprintf("%s-%d-%d", t, len(t.values[id]), i)
		rec := log.Record{Timestamp: 1000, Value: []byte(value)}
		if topic == sim.Compacted {
			rec.Key = fmt.Appendf(nil, "key %d", p.r.IntN(40))
			rec.Value = append(rec.Value, make([]byte, 500)...)
			value = string(rec.Key) + "=" + string(rec.Value)
		}
		values = append(values, value)
		b.Append(&rec)
	}
	p.x.mu.Lock()
	t.values[id] = append(t.values[id], values...)
	p.x.mu.Unlock()
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis, req.TransactionID = p.version(9, 12), -1, 2000, new(p.id)
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: index, Records: append(log.Batch(nil), b.Seal(0, -1)...)}}}}
	if p.r.IntN(20) == 0 { // it gives up, and perhaps aborts, while the batch is on its way
		p.x.s.Count("batches given up")
		p.x.begin()
		h, _ := leader()
		r := p.x.s.Draw("given up by " + p.who)
		go func() { defer p.x.end(); p.x.call(p.all, r, h, req, true) }()
		return false
	}
	code, ok := p.until(p.all, leader, req, true, func(resp kmsg.Response) int16 { return resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode })
	p.seq[id] += int32(len(values))
	return ok && code == errNone
}

// add makes a partition part of the transaction, as producers of version 1 do.
func (p *simProducer) add(topic string, index int32) bool {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 3, p.id, p.pid, p.epoch
	req.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: topic, Partitions: []int32{index}}}
	code, ok := p.until(p.all, p.coordinator, req, true, func(resp kmsg.Response) int16 {
		return resp.(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode
	})
	return ok && code == errNone
}

// commitOffset has the group's offset of partition 0 be the transaction's number.
func (p *simProducer) commitOffset(t *simTxn) bool {
	group := "g" + p.id
	if !p.v2 {
		add := kmsg.NewPtrAddOffsetsToTxnRequest()
		add.Version, add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = 3, p.id, p.pid, p.epoch, group
		if code, ok := p.until(p.all, p.coordinator, add, true, func(resp kmsg.Response) int16 { return resp.(*kmsg.AddOffsetsToTxnResponse).ErrorCode }); !ok || code != errNone {
			return false
		}
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = p.version(3, 5), p.id, group, p.pid, p.epoch, -1
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "a", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: int64(t.n), LeaderEpoch: -1}}}}
	coordinator := func() (sim.Host, bool) {
		h, _, ok := p.x.leader(p.r, offsetsTopic, func(n int32) int32 { return hashPartition(group, n) })
		return h, ok
	}
	code, ok := p.until(p.all, coordinator, req, p.v2, func(resp kmsg.Response) int16 {
		return resp.(*kmsg.TxnOffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
	})
	p.x.mu.Lock()
	t.offset = true
	p.x.mu.Unlock()
	return ok && code == errNone
}

// finish ends a transaction.
func (p *simProducer) finish(t *simTxn, commit bool) bool {
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = p.version(3, 5), p.id, p.pid, p.epoch, commit
	p.x.mu.Lock()
	t.asked = commit
	p.x.mu.Unlock()
	var going txn.Producer
	for range 1 + p.r.IntN(8)/7 { // now and then it asks once more, as after an answer that was lost
		code, ok := p.until(p.all, p.coordinator, req, p.v2, func(resp kmsg.Response) int16 {
			a := resp.(*kmsg.EndTxnResponse)
			going = txn.Producer{ID: a.ProducerID, Epoch: a.ProducerEpoch}
			return a.ErrorCode
		})
		if !ok || code != errNone {
			return false
		}
	}
	p.x.s.Trace("client: %s ended, commit %v, goes on with %v", t, commit, going)
	if p.v2 {
		p.pid, p.epoch, p.seq = going.ID, going.Epoch, map[log.PartitionID]int32{}
	}
	p.x.mu.Lock()
	t.answered, t.aborted = commit, !commit
	p.x.mu.Unlock()
	return true
}
