package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// work is what clients do.
type work struct {
	s       *Sim
	sending context.Context // ends when producers are to stop
	stop    context.CancelFunc
	all     context.Context // ends when everybody is
	leave   context.CancelFunc
	clients sync.WaitGroup
}

func newWork(s *Sim) *work {
	w := &work{s: s}
	w.all, w.leave = context.WithCancel(context.Background())
	w.sending, w.stop = context.WithCancel(w.all)
	return w
}

func (w *work) begin() {
	w.s.await(30*time.Second, func() bool {
		_, b := w.s.nodes[0].broker()
		if b == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(w.all, 10*time.Second)
		defer cancel()
		_, err := b.CreateTopic(ctx, w.s.plan.topic("a"), false)
		if w.s.upper != nil && (err == nil || errors.Is(err, cluster.ErrTopicExists)) {
			spec := w.s.plan.topic(Compacted)
			spec.Configs["cleanup.policy"], spec.Configs["min.cleanable.dirty.ratio"], spec.Configs["delete.retention.ms"] = "compact", "0.1", "0"
			_, err = b.CreateTopic(ctx, spec, false)
		}
		return err == nil || errors.Is(err, cluster.ErrTopicExists)
	})
	if w.s.upper != nil {
		w.clients.Go(func() { w.s.upper.Work(w.s, w.sending, w.all) })
	}
	for i := range w.s.plan.producers {
		if i%2 == 0 {
			w.clients.Go(func() { w.forward(i) })
		} else {
			w.clients.Go(func() { w.produce(i) })
		}
	}
	w.clients.Go(func() { w.consume(100) })
	w.clients.Go(func() { w.consume(101) })
}

// end lets producers finish what is under way.
func (w *work) end() { w.stop() }

// abandon ends everything.
func (w *work) abandon() {
	w.leave()
	w.clients.Wait()
}

// pause is between two deeds of a client.
func pause(ctx context.Context, r *rand.Rand, about time.Duration) bool {
	return sleep(ctx, time.Duration(r.ExpFloat64()*float64(about))+time.Duration(1000+r.IntN(1000))*time.Nanosecond)
}

// somewhere is a broker, and a partition that it knows.
func (w *work) somewhere(r *rand.Rand) (p *process, b *cluster.Broker, id log.PartitionID) {
	n, topic, index := w.s.any(r), r.IntN(1<<16), r.IntN(1<<16)
	p, b = n.broker()
	if b == nil {
		return nil, nil, id
	}
	topics := forAll(b.Image())
	if len(topics) == 0 {
		return nil, nil, id
	}
	t := topics[topic%len(topics)]
	return p, b, log.PartitionID{Topic: t.ID, Index: int32(index % len(t.Partitions))}
}

// forAll are the topics that every client writes to: those that no room above has for itself.
func forAll(im *meta.Image) (all []*meta.Topic) {
	for _, t := range im.Topics() {
		if !t.Internal && t.Name != Compacted {
			all = append(all, t)
		}
	}
	return all
}

// sent is one record under way.
type sent struct {
	w         *work
	p         *process
	id        log.PartitionID
	client, n int
	value     string
	done      chan struct{}
}

// Committed implements cluster.Waiter.
func (s *sent) Committed(_ uint64, _ int, err error) {
	if err == nil && s.p.alive() {
		s.w.s.check.ackedAt(s.id, s.client, s.n, s.value, -1)
	}
	select {
	case s.done <- struct{}{}:
	default:
	}
}

// window is how many records of a forwarding client are under way.
const window = 6

// forward appends through whatever broker there is, each record once. It keeps to one broker while that runs, as a connection does: over two, no
// order is promised.
func (w *work) forward(client int) {
	r := w.s.draws.of(fmt.Sprintf("client %d", client))
	under := make(chan struct{}, window)
	var at *process
	for n := 0; pause(w.sending, r, w.s.plan.pause); n++ {
		p, b, id := w.somewhere(r)
		if b == nil {
			continue
		}
		if at != p {
			if at != nil && at.alive() {
				if b = at.b.Load(); b == nil {
					continue
				}
				p = at
			}
			at = p
		}
		ctx, cancel := context.WithTimeout(w.all, 2*time.Second)
		to, err := b.Writer(ctx, id)
		cancel()
		if err != nil {
			continue
		}
		value := fmt.Sprintf("f%d-%d", client, n)
		s := &sent{w: w, p: p, id: id, client: client, n: n, value: value, done: make(chan struct{}, 1)}
		if err := to.Append(&log.Record{Timestamp: 1, Value: []byte(value)}, s, 0); err != nil {
			continue
		}
		w.s.trace.add("client: %s appended through %s by %T", value, p, to)
		under <- struct{}{}
		w.clients.Go(func() {
			defer func() { <-under }()
			select {
			case <-s.done:
			case <-p.ctx.Done():
			case <-w.all.Done():
			}
		})
	}
}

// produce is an idempotent producer of Kafka's, with one batch in flight, that goes to the leader.
func (w *work) produce(client int) {
	r := w.s.draws.of(fmt.Sprintf("client %d", client))
	id, producer := w.partitionFor(r)
	var seq int32
	for n := 0; producer >= 0 && pause(w.sending, r, w.s.plan.pause); {
		var bb log.BatchBuilder
		bb.SetProducer(producer, 0, seq)
		var values []string
		for range 1 + r.IntN(3) {
			values = append(values, fmt.Sprintf("k%d-%d", client, n+len(values)))
			bb.Append(&log.Record{Timestamp: 1, Value: []byte(values[len(values)-1])})
		}
		batch := append(log.Batch(nil), bb.Seal(0, 0)...)
		for !w.try(r, id, client, n, values, batch) {
			if !sleep(w.all, between(r, 5*time.Millisecond, 50*time.Millisecond)) {
				return
			}
		}
		n += len(values)
		seq += int32(len(values))
	}
}

// partitionFor chooses a partition, and has a producer id drawn.
func (w *work) partitionFor(r *rand.Rand) (id log.PartitionID, producer int64) {
	for pause(w.sending, r, 20*time.Millisecond) {
		_, b, id := w.somewhere(r)
		if b == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(w.all, 5*time.Second)
		producer, err := b.NextProducerID(ctx)
		cancel()
		if err == nil {
			return id, producer
		}
	}
	return id, -1
}

// try sends a batch to the leader, if there is one; true: it was acked, or nobody is left who could be asked.
func (w *work) try(r *rand.Rand, id log.PartitionID, client, n int, values []string, batch log.Batch) bool {
	_, b, _ := w.somewhere(r)
	if b == nil {
		return false
	}
	im := b.Image()
	t := im.TopicByID(id.Topic)
	if t == nil || int(id.Index) >= len(t.Partitions) {
		return false
	}
	leader := w.s.nodeFor(im, t.Partitions[id.Index].Leader)
	if leader == nil {
		return false
	}
	p, b := leader.broker()
	if b == nil {
		return false
	}
	part, err := b.PartitionByID(id.Topic, id.Index)
	if err != nil {
		return false
	}
	epoch := part.LeaderEpoch()
	type answer struct {
		first log.Offset
		err   error
	}
	answered := make(chan answer, 1)
	part.Produce(append(log.Batch(nil), batch...), -1, func(first log.Offset, _ int64, err error) {
		if err == nil && p.alive() {
			for i, v := range values {
				w.s.check.ackedAt(id, client, n+i, v, first+log.Offset(i))
			}
		}
		answered <- answer{first, err}
	})
	late := time.NewTimer(3 * time.Second)
	defer late.Stop()
	select {
	case a := <-answered:
		w.s.trace.add("client: k%d-%d through %s: %d %v", client, n, p, a.first, a.err)
		if errors.Is(a.err, log.ErrOutOfOrderSequence) && p.alive() && w.s.check.newest(id) == epoch {
			w.s.check.violated("P1: what was acked is remembered of its producer", "%s: k%d-%d: %v", p, client, n, a.err)
		}
		return a.err == nil && p.alive()
	case <-late.C:
	case <-p.ctx.Done():
	case <-w.all.Done():
	}
	return false
}

// consume reads from wherever it can, and asks leaders for the end.
func (w *work) consume(client int) {
	r := w.s.draws.of(fmt.Sprintf("client %d", client))
	next := map[log.PartitionID]log.Offset{}
	var buf []byte
	for pause(w.all, r, 20*time.Millisecond) {
		p, b, id := w.somewhere(r)
		if b == nil {
			continue
		}
		if chance(r, 8) {
			w.askEnd(p, b, id)
			continue
		}
		from := next[id]
		if part, err := b.PartitionByID(id.Topic, id.Index); err == nil && b.HoldsLease() {
			epoch := part.LeaderEpoch()
			_, err := part.Read(from, 1<<14, buf)
			switch {
			case !errors.Is(err, log.ErrOutOfRange):
			case from < w.s.check.deletedUpTo(id):
				from = max(from, part.LogStart()) // what it has not read is deleted
				next[id] = from
			case b.HoldsLease() && p.alive() && !p.excused():
				w.s.check.strayed(id, p, epoch, err)
			}
		}
		reader, err := b.Replica(id)
		if err != nil {
			continue
		}
		if buf, err = reader.Read(from, 1<<14, buf); err != nil || len(buf) == 0 || !p.alive() {
			continue
		}
		all, end, err := records(buf, from)
		if err != nil {
			w.s.check.violated("what is read is sound", "%s: %v", p, err)
			continue
		}
		w.s.check.read(id, p.String()+" to a reader", all, from)
		next[id] = end
	}
}

func (w *work) askEnd(p *process, b *cluster.Broker, id log.PartitionID) {
	before := w.s.check.topOf(id)
	ctx, cancel := context.WithTimeout(p.ctx, 2*time.Second)
	defer cancel()
	if end, err := b.Ends(ctx, id); err == nil && p.alive() {
		w.s.check.ended(id, p, before, end)
	}
}
