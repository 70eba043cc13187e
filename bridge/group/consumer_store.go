package group

import (
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/group/assign"
)

// RecordKind is what an entry of the table says of a group of the consumer protocol.
type RecordKind uint8

const (
	EpochRecord       RecordKind = iota // the group's epoch
	MemberRecord                        // what a member says of itself
	TargetEpochRecord                   // the epoch of the targets
	TargetRecord                        // what a member is to have
	CurrentRecord                       // what a member has come to
	ClassicRecord                       // the group as one of the classic protocol; only ever removed here
	NumRecordKinds                      // not a kind: how many there are
)

// Record is one entry of the table. What it points to is shared with the group:
// not to be changed.
type Record struct {
	Kind   RecordKind
	Member string // of member, target and current
	Gone   bool   // remove the entry

	Epoch      int32      // of epochs and current
	Seen       int32      // current
	Info       *Consumer  // member
	Partitions assign.Set // target and current
	Revoking   assign.Set // current
	Waits      bool       // current: others still hold some of its target
}

// same reports whether two of one kind and member say the same, but for Seen, which is worth no store.
func (r *Record) same(s *Record) bool {
	return r.Epoch == s.Epoch && r.Waits == s.Waits && r.Partitions.Equal(s.Partitions) && r.Revoking.Equal(s.Revoking)
}

// Batch asks to put records into the table, in order. The shell reports by
// Stored with its Seq, once, when all are stored or one could not be.
type Batch struct {
	Seq     uint64
	Records []Record
}

// consumerStore sees to it that nothing is answered before the table has it.
//
// A step changes the group at once and puts what changed. Its answer waits for
// that, and for all that was put before: an answer tells of both. If anything
// cannot be stored, all who wait are told to ask again, and the next step puts
// the whole group anew. So the table may lag behind the group, or have some of a step and not the
// rest, but never behind an answer.
type consumerStore struct {
	out    []Record        // of this step
	behind bool            // something could not be stored: put everything
	gone   map[string]bool // members whose removal may not be stored yet

	// formerly: the group was one of the classic protocol, and the removal of that may not be stored yet.
	formerly bool

	inflight []uint64 // batches not reported yet, in order
	held     []heldBeat
	retryAt  time.Time // while behind: a step for its sake
}

// heldBeat is an answer that waits for the batch seq and all before it.
type heldBeat struct {
	seq    uint64
	m      *consumer // nil if it has left
	answer Answer
}

// retryStore is how long a group that could not be stored waits for a member to beat
// before it is put anew all the same.
const retryStore = time.Second

func (s *consumerStore) put(r Record) { s.out = append(s.out, r) }

// forget puts the removal of a member's entries: the one that gives it a place last.
func (s *consumerStore) forget(id string) {
	if s.gone == nil {
		s.gone = map[string]bool{}
	}
	s.gone[id] = true
	s.putGone(id)
}

func (s *consumerStore) putGone(id string) {
	for _, kind := range []RecordKind{CurrentRecord, TargetRecord, MemberRecord} {
		s.put(Record{Kind: kind, Member: id, Gone: true})
	}
}

// all puts every entry of the group, and every removal that may be missing.
func (cs *consumers) all() {
	s := &cs.store
	s.out = nil
	for id := range s.gone {
		s.putGone(id)
	}
	for _, m := range cs.order {
		s.put(m.memberRecord())
	}
	s.put(Record{Kind: EpochRecord, Epoch: cs.epoch})
	for _, m := range cs.order {
		s.put(m.targetRecord())
	}
	s.put(Record{Kind: TargetEpochRecord, Epoch: cs.epoch})
	for _, m := range cs.order {
		s.put(m.current())
	}
	if s.formerly {
		s.put(Record{Kind: ClassicRecord, Gone: true})
	}
}

// none puts the removal of every entry.
func (cs *consumers) none() {
	s := &cs.store
	s.out = nil
	for _, m := range cs.order {
		s.forget(m.ID)
	}
	s.out = nil
	for id := range s.gone {
		s.putGone(id)
	}
	s.put(Record{Kind: TargetEpochRecord, Gone: true})
	s.put(Record{Kind: EpochRecord, Gone: true})
	if s.formerly {
		s.put(Record{Kind: ClassicRecord, Gone: true})
	}
}

// stuck reports whether the table does not take what there is to say, and is not to be tried again yet.
func (s *consumerStore) stuck(now time.Time) bool { return s.behind && now.Before(s.retryAt) }

// flush makes a batch of what the step has put, or of everything.
func (g *Group) flush(fx *Effects) {
	s := &g.consumers.store
	if s.behind {
		s.behind, s.retryAt = false, time.Time{}
		g.consumers.all()
	}
	if len(s.out) == 0 {
		return
	}
	g.storeSeq++
	g.unstored++
	s.inflight = append(s.inflight, g.storeSeq)
	fx.Batches = append(fx.Batches, Batch{Seq: g.storeSeq, Records: s.out})
	s.out = nil
}

// answer gives m its answer once all that was put is stored, or tells it to ask again if that cannot be.
func (cs *consumers) answer(fx *Effects, m *consumer, a Answer) {
	s := &cs.store
	if s.behind {
		fx.refuse(a.Ticket, a.MemberID, NotAvailable)
		return
	}
	if len(s.inflight) == 0 {
		fx.Answers = append(fx.Answers, a)
		return
	}
	if m != nil {
		m.waiting++
	}
	s.held = append(s.held, heldBeat{seq: s.inflight[len(s.inflight)-1], m: m, answer: a})
}

// stored reports how a batch ended. What is none of them (the group was one of the classic protocol
// when it asked for that) does not matter.
func (cs *consumers) stored(fx *Effects, seq uint64, ok bool, now time.Time) {
	s := &cs.store
	i, mine := slices.BinarySearch(s.inflight, seq)
	if !mine {
		return
	}
	s.inflight = slices.Delete(s.inflight, i, i+1)
	if !ok {
		s.behind = true
		s.retryAt = now.Add(retryStore)
		cs.arm(s.retryAt)
	} else if len(s.inflight) == 0 && !s.behind {
		clear(s.gone)
		s.formerly = false
	}
	s.held = slices.DeleteFunc(s.held, func(h heldBeat) bool {
		switch {
		case !ok:
			fx.refuse(h.answer.Ticket, h.answer.MemberID, NotAvailable)
		case len(s.inflight) > 0 && s.inflight[0] <= h.seq:
			return false
		default:
			fx.Answers = append(fx.Answers, h.answer)
		}
		if m := h.m; m != nil {
			m.waiting--
			cs.touch(m, now)
			for _, by := range []*time.Time{&m.revokeBy, &m.syncBy} {
				if !by.IsZero() && !now.Before(*by) { // it hears of it only now
					*by = now.Add(m.Rebalance)
				}
			}
			cs.armFor(m)
		}
		return true
	})
}
