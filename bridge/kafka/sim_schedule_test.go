package kafka

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/sim"
	"github.com/weir-io/weir/log"
)

// simScript is the room with the clients of a schedule in place of those that a seed draws.
type simScript struct{ *simRoom }

// Work implements sim.Upper.
func (x simScript) Work(s *sim.Sim, _, all context.Context) {
	x.mu.Lock()
	x.s, x.all = s, all
	x.mu.Unlock()
}

// began waits for the schedule's clients.
func (x simScript) began(s *sim.Sim) bool {
	return s.Until("clients are there", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.all != nil && s.Image().Topic("a") != nil && s.Image().Topic(sim.Compacted) != nil
	})
}

// producer is one of a transactional id, which has its producer id already.
func (x simScript) producer(id string, v2 bool) *simProducer {
	p := &simProducer{x: x.simRoom, r: x.s.Draw("producer " + id), all: x.all, id: id, who: id, v2: v2, seq: map[log.PartitionID]int32{}}
	if !p.init(x.all) {
		x.s.Violated("a schedule goes on", "%s gets no producer id", id)
	}
	return p
}

// begin is the producer's next transaction.
func (p *simProducer) begin() *simTxn {
	p.x.mu.Lock()
	defer p.x.mu.Unlock()
	p.x.numbers[p.id]++
	t := &simTxn{id: p.id, n: p.x.numbers[p.id], values: map[log.PartitionID][]string{}}
	p.x.txns = append(p.x.txns, t)
	return t
}

// must has a step of a schedule succeed.
func (x simScript) must(what string, ok bool) {
	if !ok {
		x.s.Violated("a schedule goes on", "%s", what)
	}
}

// leads is the broker that leads the first partition of a topic.
func leads(s *sim.Sim, topic string) int32 { return s.Image().Topic(topic).Partitions[0].Leader }

// at is what a broker has of the first partition of a topic; nil: nothing.
func (x simScript) at(broker int32, topic string) *cluster.Partition {
	h, ok := x.s.Host(x.s.Image(), broker)
	x.mu.Lock()
	up := x.servers[h]
	x.mu.Unlock()
	if !ok || up == nil {
		return nil
	}
	id := log.PartitionID{Topic: x.s.Image().Topic(topic).ID}
	all := up.s.broker.Partitions()
	if i := slices.IndexFunc(all, func(p *cluster.Partition) bool { return p.ID() == id }); i >= 0 {
		return all[i]
	}
	return nil
}

// marked says whether a log has a producer's marker.
func marked(p *cluster.Partition, producer int64) bool {
	var buf []byte
	for from := p.LogStart(); from < p.HighWatermark(); {
		b, err := p.Read(from, 1<<20, buf)
		if err != nil || len(b) == 0 {
			return false
		}
		for rest := log.Batch(b); len(rest) > 0; {
			batch, err := log.NextBatch(rest, 0)
			if err != nil {
				return false
			}
			if batch.IsControl() && batch.ProducerID() == producer {
				return true
			}
			rest, from = rest[len(batch):], batch.NextOffset()
		}
		buf = b
	}
	return false
}

// simSchedules are rows of events that a guard is there for, and that chance brings about too rarely.
var simSchedules = []struct {
	rule   string
	events func(x simScript, s *sim.Sim)
}{
	// The marker of a transaction is still on its way to a partition's leader when that has ended it by another marker, another broker has led meanwhile, and the producer has
	// begun its next transaction there, with the same epoch. The leader knows nothing of that transaction but its records: what was sent in its earlier term must not end it.
	{"term", func(x simScript, s *sim.Sim) {
		p := x.producer("x", false)
		coordinator := s.Image().Topic(transactionsTopic).Partitions[hashPartition(p.id, 2)].Leader
		var others []int32
		for _, b := range s.Image().Brokers() {
			if b.ID != coordinator {
				others = append(others, b.ID)
			}
		}
		first, second := others[0], others[1]
		x.must("the first leads alone", s.Move("a", first))
		t := p.begin()
		x.must("a record is written", p.produce(t, "a", 0))
		echo := s.Echo(coordinator, first)
		x.must("it is committed", p.finish(t, true))
		echo.End()
		x.must("the second leads alone", s.Move("a", second))
		t = p.begin()
		x.must("the next transaction begins", p.produce(t, "a", 0))
		x.must("the first leads again", s.Move("a", first))
		echo.Come()
		x.must("the next transaction is aborted", p.finish(t, false))
	}},
	// A replica is away while a transaction that is open there is aborted, and compaction takes its records and its marker at the leader: no marker will come to it.
	{"stray", func(x simScript, s *sim.Sim) {
		p, q := x.producer("x", true), x.producer("y", true)
		t := p.begin()
		x.must("a record is written", p.produce(t, sim.Compacted, 0))
		leader := leads(s, sim.Compacted)
		var away int32
		for _, b := range s.Image().Brokers() {
			busy := slices.ContainsFunc([]string{p.id, q.id}, func(id string) bool {
				return s.Image().Topic(transactionsTopic).Partitions[hashPartition(id, 2)].Leader == b.ID
			})
			if b.ID != leader && (away == 0 || !busy) {
				away = b.ID
			}
		}
		s.Until("all have it", func() bool {
			a, b := x.at(leader, sim.Compacted), x.at(away, sim.Compacted)
			return a != nil && b != nil && b.LogEnd() == a.LogEnd()
		})
		s.Isolate(away, true)
		x.must("it is aborted", p.finish(t, false))
		if s.Until("compaction has taken its marker", func() bool {
			if a := x.at(leads(s, sim.Compacted), sim.Compacted); a != nil && !marked(a, p.pid) {
				return true
			}
			t := q.begin()
			x.must("another transaction ends", q.finish(t, q.produce(t, sim.Compacted, 0)))
			return false
		}) {
			s.Count("markers compacted")
		}
		s.Isolate(away, false)
	}},
}

// The schedules run to a good end. TestBrokenTransactionsAreFound shows that without their guard they do not.
func TestTransactionSchedules(t *testing.T) {
	defer steady()()
	for _, sc := range simSchedules {
		t.Run(sc.rule, func(t *testing.T) {
			emptyPools()
			defer emptyPools()
			var r *sim.Report
			synctest.Test(t, func(*testing.T) {
				x := simScript{newSimRoom()}
				r = sim.RunScript(x, sim.Script{Nodes: 3, Replicas: 3, MinInsync: 1, Refills: sc.rule == "stray", Events: func(s *sim.Sim) {
					if x.began(s) {
						sc.events(x, s)
					}
				}})
			})
			if r.Violation != "" {
				t.Errorf("schedule %s: %s", sc.rule, r.Violation)
			}
			if testing.Verbose() {
				t.Logf("%v simulated, %v\n%s", r.Took, fmt.Sprint(r.Counts), r.Trace)
			}
		})
	}
}
