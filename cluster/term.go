package cluster

import (
	"fmt"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Term is one leadership of a partition. Whoever acts in the name of what is stored there (M11: a session) appends elsewhere in that term: once a broker has been
// told by a later leader that it searches for what the earlier one may have written (Settle), it takes nothing of the earlier term any more (M4). A record
// that was on its way meanwhile, for however long, cannot turn up behind the one that took its place.
type Term struct {
	Partition log.PartitionID
	Epoch     log.Epoch
}

// over says whether a later term has begun, as far as im tells.
func (t Term) over(im *meta.Image) error {
	topic := im.TopicByID(t.Partition.Topic)
	if topic == nil || t.Partition.Index < 0 || int(t.Partition.Index) >= len(topic.Partitions) {
		return nil
	}
	if e := topic.Partitions[t.Partition.Index].LeaderEpoch; e > t.Epoch {
		return fmt.Errorf("%s/%d has a leader in epoch %d, this is of epoch %d: %w", topic.Name, t.Partition.Index, e, t.Epoch, ErrTermOver)
	}
	return nil
}

// AppendIn is Append in a term of another partition, ErrTermOver where a later one is known here.
func (p *Partition) AppendIn(t Term, r *log.Record, w Waiter, seq uint64) error {
	return p.append(r, w, seq, anyTerm, t)
}

// current looks at each term. The raft member's metadata is never older than what the replica leads by. p.mu is held, so that who takes it afterwards, to see
// where the log ends, sees what was let through.
func (p *Partition) current(terms []Term) error {
	for _, t := range terms {
		if err := t.over(p.b.node.Image()); err != nil {
			return err
		}
	}
	return nil
}

// appended is where the log ends, with everything that Term.over let through on older metadata than the caller has seen.
func (p *Partition) appended() log.Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.LogEnd()
}
