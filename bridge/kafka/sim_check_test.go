package kafka

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/txn"
	"github.com/weir-io/weir/cluster/sim"
	"github.com/weir-io/weir/log"
)

// simRead is one answer to a reader of committed records.
type simRead struct {
	id         log.PartitionID
	topic, who string
	from, end  log.Offset
	values     []string
}

// reader reads committed records at leaders until ctx ends, as clients do.
func (x *simRoom) reader(ctx context.Context, who string) {
	r := x.s.Draw(who)
	next := map[log.PartitionID]log.Offset{}
	for rest(ctx, r, 40*time.Millisecond) {
		topic, index := []string{"a", sim.Compacted}[r.IntN(2)], int32(r.IntN(2))
		h, id, ok := x.leader(r, topic, func(n int32) int32 { index %= n; return index })
		if !ok {
			continue
		}
		if r.IntN(30) == 0 {
			next[id] = 0
		}
		req := fetchRequest(12, topic, index, int64(next[id]))
		req.IsolationLevel = 1
		resp, _ := x.call(ctx, r, h, req, true).(*kmsg.FetchResponse)
		if resp == nil || len(resp.Topics) == 0 {
			continue
		}
		switch p := resp.Topics[0].Partitions[0]; {
		case p.ErrorCode == errOffsetOutOfRange:
			next[id] = max(next[id], log.Offset(p.LogStartOffset))
		case p.ErrorCode == errNone && len(p.RecordBatches) > 0:
			values, end, err := committedIn(p.RecordBatches, p.AbortedTransactions, next[id])
			if err != nil {
				x.s.Violated("what is read is sound", "%s of %s: %v", who, h, err)
				return
			}
			x.mu.Lock()
			x.reads = append(x.reads, simRead{id, topic, fmt.Sprintf("%s of %s", who, h), next[id], end, values})
			x.mu.Unlock()
			next[id] = end
		}
	}
}

// committedIn is what a client that reads committed records shows its user of some batches, from an offset on; keyed ones as key=value.
func committedIn(batches []byte, index []kmsg.FetchResponseTopicPartitionAbortedTransaction, from log.Offset) (values []string, end log.Offset, err error) {
	index = slices.Clone(index)
	slices.SortFunc(index, func(a, b kmsg.FetchResponseTopicPartitionAbortedTransaction) int {
		return int(a.FirstOffset - b.FirstOffset)
	})
	void := map[int64]bool{}
	for rest := batches; len(rest) > 0; {
		b, err := log.NextBatch(rest, 0)
		if err != nil {
			return nil, 0, err
		}
		rest, end = rest[len(b):], b.NextOffset()
		for len(index) > 0 && index[0].FirstOffset <= int64(b.LastOffset()) {
			void[index[0].ProducerID], index = true, index[1:]
		}
		var rr log.RecordReader
		var r log.Record
		if err := rr.Reset(b); err != nil {
			return nil, 0, err
		}
		for {
			ok, err := rr.Next(&r)
			if err != nil {
				return nil, 0, err
			}
			if !ok {
				break
			}
			switch {
			case b.IsControl():
				delete(void, b.ProducerID())
			case r.Offset < from, b.IsTransactional() && void[b.ProducerID()]:
			case r.Key != nil:
				values = append(values, string(r.Key)+"="+string(r.Value))
			default:
				values = append(values, string(r.Value))
			}
		}
	}
	return values, end, nil
}

// Unsettled implements sim.Upper.
func (x *simRoom) Unsettled(s *sim.Sim) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.clients > 0 {
		return fmt.Sprintf("%d clients are at work", x.clients)
	}
	states := map[string]txn.State{}
	for _, up := range x.servers {
		up.s.transactions.each(func(e *txnEntry) {
			e.mu.Lock()
			states[e.id] = e.x.Record().State
			e.mu.Unlock()
		})
	}
	for id := range x.numbers {
		if state, known := states[id]; !known || state == txn.Ongoing || state.Prepared() {
			return fmt.Sprintf("the transaction of %s is %v, coordinated %v", id, state, known)
		}
	}
	return ""
}

// Last implements sim.Upper: each transaction is there as a whole or not at all, as its producer was told; and readers saw no other.
func (x *simRoom) Last(s *sim.Sim) {
	seen := map[log.PartitionID]*sim.Seen{}
	im := s.Image()
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			id := log.PartitionID{Topic: t.ID, Index: int32(i)}
			if seen[id] = s.Seen(id); seen[id].Tainted {
				s.Count("runs with an unclean election, of which only partitions are tested")
				return
			}
		}
	}
	x.mu.Lock()
	txns, reads := x.txns, slices.Clone(x.reads) // readers go on
	x.mu.Unlock()
	offsets := map[string]int{}
	for _, t := range txns {
		committed := t.check(s, seen)
		if _, named := offsets[t.id]; !named {
			offsets[t.id] = -1
		}
		if committed && t.offset {
			offsets[t.id] = t.n
		}
	}
	for _, r := range reads {
		r.check(s, seen[r.id])
	}
	for id, want := range offsets {
		x.checkOffset(s, "g"+id, want)
	}
}

// check says whether the transaction is committed.
func (t *simTxn) check(s *sim.Sim, seen map[log.PartitionID]*sim.Seen) (committed bool) {
	there, all := 0, 0
	for id, values := range t.values {
		for _, v := range values {
			all++
			if _, visible := seen[id].Visible[v]; visible {
				there++
			}
		}
	}
	switch {
	case there > 0 && !t.asked:
		s.Violated("nothing is visible whose producer did not ask for its commit", "%s: %d records of %d", t, there, all)
	case there < all && t.answered:
		s.Violated("what was committed is visible", "%s: %d records of %d", t, there, all)
	case there > 0 && there < all:
		s.Violated("a transaction is visible as a whole", "%s: %d records of %d", t, there, all)
	case t.answered:
		s.Count("transactions committed")
	case t.aborted:
		s.Count("transactions aborted")
	case there > 0:
		s.Count("transactions committed, their producers were not told")
	default:
		s.Count("transactions given up")
	}
	return there > 0
}

func (r *simRead) check(s *sim.Sim, seen *sim.Seen) {
	for _, v := range r.values {
		if _, visible := seen.Visible[v]; !visible {
			s.Violated("a reader of committed records sees no other", "%s at %d: %.60q, hidden %v", r.who, r.from, v, seen.Hidden[v])
		}
	}
	if n := seen.Between(r.from, r.end); r.topic != sim.Compacted && n != len(r.values) {
		s.Violated("a reader of committed records sees them all", "%s from %d to %d: %d of %d", r.who, r.from, r.end, len(r.values), n)
	}
}

// checkOffset asks the group's coordinator: its offset goes with the newest transaction that was committed.
func (x *simRoom) checkOffset(s *sim.Sim, group string, want int) {
	r := s.Draw("offsets of " + group)
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.RequireStable = 8, true
	req.Groups = []kmsg.OffsetFetchRequestGroup{{Group: group, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "a", Partitions: []int32{0}}}}}
	last := "no answer"
	for range 200 {
		rest(context.Background(), r, 20*time.Millisecond)
		h, _, ok := x.leader(r, offsetsTopic, func(n int32) int32 { return hashPartition(group, n) })
		if !ok {
			continue
		}
		resp, _ := x.call(context.Background(), r, h, req, true).(*kmsg.OffsetFetchResponse)
		switch {
		case resp == nil:
			continue
		case resp.Groups[0].ErrorCode == errNone && len(resp.Groups[0].Topics) > 0 && resp.Groups[0].Topics[0].Partitions[0].ErrorCode == errNone:
			if got := resp.Groups[0].Topics[0].Partitions[0].Offset; got != int64(want) {
				s.Violated("offsets go with their transaction", "group %s has %d, the newest committed is %d", group, got, want)
			}
			return
		}
		last = fmt.Sprintf("%+v", resp.Groups[0])
	}
	s.Violated("offsets can be asked for in the end", "group %s: %s", group, last)
}
