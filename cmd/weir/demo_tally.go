package main

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

// demoTally is what the consumer group was given in this run, to be held against what the fleet saw acknowledged.
type demoTally struct {
	topic string
	from  map[int32]int64 // end of each partition before the fleet began: what is below is of an earlier run

	mu    sync.Mutex
	audit *audit
	next  map[int32]int64 // offset behind the last that was read
	err   error           // of the audit: its limits
	moved chan struct{}   // something was read
}

func newDemoTally(topic string, from map[int32]int64) *demoTally {
	return &demoTally{topic: topic, from: from, audit: newAudit(), next: map[int32]int64{}, moved: make(chan struct{}, 1)}
}

// add counts a record and reports whether it was new: a group whose coordinator has moved may be given records again,
// which are the same records and no duplicates in the log.
func (t *demoTally) add(r *kgo.Record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Offset < t.next[r.Partition] {
		return false
	}
	t.next[r.Partition] = r.Offset + 1
	if r.Offset >= t.from[r.Partition] && !r.Attrs.IsControl() && t.err == nil {
		t.err = t.audit.record(r)
	}
	select {
	case t.moved <- struct{}{}:
	default:
	}
	return !r.Attrs.IsControl()
}

// device is what is wrong with a device's sequence numbers so far.
func (t *demoTally) device(name string) (missing, duplicates int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.audit.devices[name]
	if d == nil || d.records == 0 {
		return 0, 0
	}
	_, next := d.seen.Bounds()
	return next - d.seen.Len(), d.duplicates
}

// reach waits until all below ends was read.
func (t *demoTally) reach(ctx context.Context, ends map[int32]int64) error {
	for {
		left := t.below(ends)
		if left == 0 {
			return nil
		}
		select {
		case <-t.moved:
		case <-ctx.Done():
			return failure{fmt.Errorf("topic %s was not read to its end: %d records did not come within %s", t.topic, left, demoReadWithin), demoUnread}
		}
	}
}

func (t *demoTally) below(ends map[int32]int64) (left int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, end := range ends {
		left += max(0, end-max(t.next[p], t.from[p]))
	}
	return left
}

// close prints the closing figures. The error is a broken promise: a record that was acknowledged and is not there. Only of
// a topic that was read to its end that can be said.
func (t *demoTally) close(w io.Writer, led *firmwaresim.Ledger, deaths, restarts int, toEnd bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	rep := t.audit.report(t.topic, 0, led)
	consumed := rep.Records - rep.NoSequence
	lacking := "missing"
	if !toEnd {
		lacking = "not read"
	}
	fmt.Fprintf(w, "\nAt the end: %d records acknowledged, %d consumed, %d acknowledged and %s, %d duplicates.\n",
		rep.Ledger.Acked, consumed, rep.Ledger.Missing, lacking, rep.Duplicates)
	if rep.Duplicates > 0 {
		fmt.Fprintln(w, "A duplicate is a reading that a device sent again because its node was gone before it answered: QoS 1 is at least once.")
	}
	if pending := led.Totals().Pending; pending > 0 {
		fmt.Fprintf(w, "%d readings had no acknowledgement when the fleet stopped waiting for it.\n", pending)
	}
	if deaths > 0 {
		fmt.Fprintf(w, "Nodes were gone %s, and were started again %s.\n", plural(deaths, "time"), plural(restarts, "time"))
	}
	if toEnd && rep.Ledger.Missing > 0 {
		return failure{fmt.Errorf("%d acknowledged records are missing from topic %s", rep.Ledger.Missing, t.topic),
			"this must never happen: run the demo with --data DIR, and report what `weir inspect data DIR/node1` and the logs beside it say"}
	}
	return nil
}

// demoUnread is the way out where partitions do not answer.
const demoUnread = "a majority of the nodes has to run for that: let those that are gone be started again (--restart-after)"

// endOffsets are where the partitions of a topic end now. A leader that has just been elected may have to find out first.
func endOffsets(ctx context.Context, client *kgo.Client, topic string) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, demoReadWithin)
	defer cancel()
	for {
		listed, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
		if err == nil {
			err = listed.Error()
		}
		if err == nil {
			ends := map[int32]int64{}
			listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
			return ends, nil
		}
		if !passing(err) || !pauseFor(ctx, demoRetry) {
			return nil, failure{fmt.Errorf("read where topic %s ends: %w", topic, err), demoUnread}
		}
	}
}
