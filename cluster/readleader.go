package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// ReadLeader is Partition.Read at the leader, here or elsewhere: it reaches everything that was answered for before.
func (b *Broker) ReadLeader(id log.PartitionID, from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	table := b.table.Load()
	if p, err := table.led(id); err == nil {
		return b.readLed(p, from, maxBytes, buf)
	}
	leader := table.leader(id)
	if leader == meta.NoLeader || leader == b.id {
		return buf[:0], fmt.Errorf("read partition %s: it has no leader: %w", id, ErrNotLeader)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), readTimeout, errors.New("no answer in time"))
	defer cancel()
	reply, err := b.CallNode(ctx, leader, methodRead, readCall{toWire(id), int64(from), maxBytes}, nil, nil)
	if err != nil {
		return buf[:0], fmt.Errorf("read partition %s: %w", id, err)
	}
	defer reply.Release()
	return append(buf[:0], reply.Raw...), nil
}

// readLed reads as the leader: only while nobody else can have taken its place (R2), and once all is known to be committed that leaders before it
// answered for (R3): who finds nothing takes it for not written.
func (b *Broker) readLed(p *Partition, from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	if !p.Settled() {
		return buf[:0], p.wrap("read", fmt.Errorf("its leader does not know yet what is committed: %w", ErrUnavailable))
	}
	aborted := p.log.Aborted(from, p.HighWatermark())
	got, err := p.Read(from, maxBytes, buf)
	hideAborted(got, aborted)
	if !b.HoldsLease() { // looked at last: nobody else led while it was read
		return got[:0], p.wrap("read", ErrNotLeader)
	}
	return got, err
}

// leaderReader loads a table's partition from its leader.
type leaderReader struct {
	b     *Broker
	id    log.PartitionID
	topic string
}

// LogStart is the beginning: a table loses nothing at its start but what compaction takes.
func (r leaderReader) LogStart() log.Offset { return 0 }

func (r leaderReader) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	return r.b.ReadLeader(r.id, from, maxBytes, buf)
}

func (r leaderReader) wrap(doing string, err error) error {
	return fmt.Errorf("%s %s/%d: %w", doing, r.topic, r.id.Index, err)
}

// answerRead reads for a broker without a replica.
func (b *Broker) answerRead(c *readCall) (rpc.Answer, error) {
	id, ok := c.id()
	if !ok {
		return rpc.Answer{}, ErrUnknownTopic
	}
	p, err := b.table.Load().led(id)
	if err != nil {
		return rpc.Answer{}, err
	}
	buf := feedBuffers.Get().(*[]byte)
	got, err := b.readLed(p, log.Offset(c.From), min(max(c.MaxBytes, 1), feedBytes), *buf)
	if err != nil {
		feedBuffers.Put(buf)
		return rpc.Answer{}, err
	}
	*buf = got
	return rpc.Answer{Control: struct{}{}, Raw: got, Done: func() { feedBuffers.Put(buf) }}, nil
}

// answerEnds tells how far partitions are committed that this broker leads, or how far their logs go.
func (b *Broker) answerEnds(c *endsCall) endsAnswer {
	table := b.table.Load()
	a := endsAnswer{Ends: make([]int64, len(c.Parts))}
	for i, w := range c.Parts {
		a.Ends[i] = -1
		id, ok := w.id()
		if !ok {
			continue
		}
		p, err := table.led(id)
		if err != nil || table.image.Version < c.Since || !c.Appended && !p.Settled() {
			continue
		}
		end := p.HighWatermark()
		if c.Appended {
			end = p.appended()
		}
		if b.HoldsLease() { // looked at last: nobody else led while it was read
			a.Ends[i] = int64(end)
		}
	}
	return a
}

// Ends asks the leader of a partition how far it is committed: everything that was answered for before the call lies below. ErrNotLeader while
// nobody can say.
func (b *Broker) Ends(ctx context.Context, id log.PartitionID) (log.Offset, error) {
	return b.ends(ctx, id, false)
}

const (
	settlePause   = 10 * time.Millisecond // doubles up to settleLongest: thousands of sessions may wait for one partition
	settleLongest = 160 * time.Millisecond
	settleAgain   = time.Second // then another leader may have a shorter log
)

// Settle waits until the leader of a partition has committed all that is in its log by now, and answers where that ends. What was appended
// before and is not below will never be read: what a new leader has of an earlier term becomes committed only after it has led for a moment. Of terms that are over
// by what this broker knows the leader takes nothing any more.
func (b *Broker) Settle(ctx context.Context, id log.PartitionID) (log.Offset, error) {
	end, asked := log.Offset(-1), time.Time{}
	for pause := settlePause; ; pause = min(2*pause, settleLongest) {
		var err error
		if end < 0 || time.Since(asked) > settleAgain {
			asked = time.Now()
			end, err = b.ends(ctx, id, true)
		}
		if err == nil {
			var committed log.Offset
			if committed, err = b.ends(ctx, id, false); err == nil && committed >= end {
				return end, nil
			}
		}
		select {
		case <-ctx.Done():
			return -1, fmt.Errorf("settle partition %s: %w", id, cmp.Or(err, context.Cause(ctx)))
		case <-time.After(pause):
		}
	}
}

func (b *Broker) ends(ctx context.Context, id log.PartitionID, appended bool) (log.Offset, error) {
	table := b.table.Load()
	leader := table.leader(id)
	call := endsCall{Parts: []wirePartition{toWire(id)}, Appended: appended, Since: table.image.Version}
	var a endsAnswer
	switch leader {
	case meta.NoLeader:
		return -1, ErrNotLeader
	case b.id:
		a = b.answerEnds(&call)
	default:
		reply, err := b.CallNode(ctx, leader, methodEnds, call, nil, &a)
		if err != nil {
			return -1, err
		}
		reply.Release()
	}
	if len(a.Ends) != 1 || a.Ends[0] < 0 {
		return -1, ErrNotLeader
	}
	return log.Offset(a.Ends[0]), nil
}
