package log

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Transactions (KIP-98), as far as one partition knows of them. A producer's batches that are marked transactional
// belong to a transaction from the first of them to the marker that ends it, a control batch which the
// transaction coordinator has the leader append. The state is the producers': it is made by applying batches in
// order, goes into their snapshot, and is cut and made anew with them (P1, P2). There is no index of its own beside the
// segments, which would have to be kept in step with three places at each crash point.

const (
	// maxAborted bounds the aborted transactions of what a partition retains: 24 bytes each. Retention and compaction
	// make room.
	maxAborted = 1 << 16
	// maxOpenTransactions bounds the open ones of a partition: their producers are never forgotten.
	maxOpenTransactions = defaultMaxProducers / 2
)

// AbortedTransaction names the batches of one producer that readers of committed records must not see.
type AbortedTransaction struct {
	ProducerID  int64
	First, Last Offset // of its first batch, and of its marker
}

// transaction is one that is open, or whose end may not be committed yet.
type transaction struct {
	producer int64
	first    Offset
	last     Offset // of its marker; -1 while it is open
}

// Marker ends a producer's transaction in one partition.
type Marker struct {
	ProducerID       int64
	ProducerEpoch    int16
	Commit           bool
	CoordinatorEpoch int32 // of the term in which the coordinator decided
	Started          int64 // as Verified.Started; not in the batch
	Own              bool  // as Verified.Own: the marker's epoch is later than that of all batches it ends; not in the batch

	Behind *Partition // as Verified.Behind: where it was decided; not in the batch
}

// Verified is what is known of the transaction that a batch belongs to, or ends.
type Verified struct {
	// Ended is where the producer's last transaction in the partition had ended when the coordinator was asked whether there is a new one; NotVerified
	// when it was not.
	Ended Offset
	// Started tells transactions of one producer apart: it differs from one to the next. 0 is not known. It is not stored.
	Started int64
	// Own: the producer has its epoch for this transaction only (transaction.version 2), whose marker carries a later one.
	Own bool
	// Behind is where the coordinator has appended what makes the batch right, without waiting until that is durable: the batch becomes durable behind it, or
	// with it (J8). Nil where there is nothing to wait for.
	Behind *Partition
}

// NotVerified begins no transaction.
const NotVerified Offset = -2

// Batch is the control batch, with Kafka's own key and value, stamped in ms.
func (m Marker) Batch(timestamp int64) Batch {
	key := make([]byte, 4) // int16 version 0, int16 type
	if m.Commit {
		key[3] = 1
	}
	value := binary.BigEndian.AppendUint32(make([]byte, 2, 6), uint32(m.CoordinatorEpoch)) // int16 version 0
	var bb BatchBuilder
	bb.SetProducer(m.ProducerID, m.ProducerEpoch, -1)
	bb.SetFlags(AttrTransactional | AttrControl)
	bb.Append(&Record{Timestamp: timestamp, Key: key, Value: value})
	return bb.Seal(0, 0)
}

// marker reads a control batch; false if it is not one that ends a transaction.
func marker(b Batch) (m Marker, ok bool) {
	r := readers.Get().(*RecordReader)
	defer readers.put(r)
	var rec Record
	if !b.IsControl() || r.Reset(b) != nil {
		return m, false
	}
	if more, err := r.Next(&rec); err != nil || !more || len(rec.Key) < 4 || len(rec.Value) < 6 {
		return m, false
	}
	kind := binary.BigEndian.Uint16(rec.Key[2:])
	return Marker{
		ProducerID: b.ProducerID(), ProducerEpoch: b.ProducerEpoch(), Commit: kind == 1,
		CoordinatorEpoch: int32(binary.BigEndian.Uint32(rec.Value[2:])),
	}, kind <= 1
}

// checkTransaction judges the transactional side of a batch before it is appended, see producerTable.check. p is nil for an unknown producer.
func (t *producerTable) checkTransaction(p *producer, b Batch, v Verified) error {
	if b.IsControl() {
		return p.checkMarker(b, v)
	}
	open, last := false, Offset(-1)
	if p != nil {
		open, last = p.transaction >= 0, p.ended
	}
	switch {
	case open && !b.IsTransactional():
		return fmt.Errorf("producer %d has an open transaction, and the batch is not part of it: %w", b.ProducerID(), ErrTransactionState)
	case open && b.ProducerEpoch() != p.epoch:
		return fmt.Errorf("a transaction of producer %d epoch %d has not ended, and epoch %d begins another: %w", p.id, p.epoch, b.ProducerEpoch(), ErrNotVerified)
	case open && v.Own && !p.own && last != v.Ended: // asked for the one before
		return fmt.Errorf("a transaction of producer %d that may be another than its coordinator knows of: %w", p.id, ErrNotVerified)
	case open || !b.IsTransactional():
		return nil
	case last != v.Ended:
		return fmt.Errorf("a batch that begins a transaction of producer %d: %w", b.ProducerID(), ErrNotVerified)
	case v.Own && (p == nil || p.n == 0) && b.BaseSequence() != 0:
		return fmt.Errorf("producer %d begins a transaction of epoch %d with sequence %d: %w", b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), ErrOutOfOrderSequence)
	case t.open >= t.maxOpen:
		return fmt.Errorf("%d transactions are open in the partition: %w", t.open, ErrTooManyTransactions)
	case len(t.aborted)+t.open >= t.maxAborted:
		return fmt.Errorf("the partition holds records of %d aborted transactions, limit %d: %w", len(t.aborted), t.maxAborted, ErrAbortedLimit)
	}
	return nil
}

// checkMarker: one that was on its way for so long that the producer has begun another transaction would end that one. The epoch tells where it is the
// transaction's own, else Started does, for as long as it is known.
func (p *producer) checkMarker(b Batch, v Verified) error {
	m, ok := marker(b)
	switch {
	case !ok:
		return fmt.Errorf("control batch of producer %d ends no transaction: %w", b.ProducerID(), ErrCorrupt)
	case p == nil:
	case m.CoordinatorEpoch < p.coordinator:
		return fmt.Errorf("marker of coordinator epoch %d, newest is %d: %w", m.CoordinatorEpoch, p.coordinator, ErrCoordinatorFenced)
	case p.transaction >= 0 && v.Own && m.ProducerEpoch <= p.epoch,
		p.transaction >= 0 && v.Started != 0 && p.started != 0 && v.Started != p.started:
		return fmt.Errorf("marker for a transaction of producer %d that is over: %w", p.id, ErrTransactionState)
	}
	return nil
}

// openTransaction has p's transaction begin with b, if it does. Only compaction makes batches without records, and only
// of transactions that have ended.
func (t *producerTable) openTransaction(p *producer, b Batch) {
	if !b.IsTransactional() || p.transaction >= 0 || b.i32(atCount) == 0 {
		return
	}
	p.transaction = b.BaseOffset()
	t.unstable = append(t.unstable, transaction{p.id, p.transaction, -1})
	t.open++
}

// endTransaction applies a marker.
func (t *producerTable) endTransaction(p *producer, b Batch) {
	m, ok := marker(b)
	if !ok {
		return
	}
	p.coordinator, p.ended = max(p.coordinator, m.CoordinatorEpoch), b.LastOffset()
	t.lastMarker = b.LastOffset()
	if p.transaction < 0 {
		return // a marker that came twice, or whose batches are deleted
	}
	t.unstable[t.unstableAt(p.transaction)].last = b.LastOffset()
	t.open--
	if !m.Commit {
		t.aborted = append(t.aborted, AbortedTransaction{p.id, p.transaction, b.LastOffset()})
	}
	p.transaction, p.started, p.own = -1, 0, false
}

// unstableAt finds the transaction that begins at first.
func (t *producerTable) unstableAt(first Offset) int {
	return sort.Search(len(t.unstable), func(i int) bool { return t.unstable[i].first >= first })
}

// stable is the last stable offset: all transactions that begin below it have ended, with markers below hw (P2). A snapshot does not say where those begin that
// had ended when it was made: as long as one of their markers may not be committed, nothing is stable.
func (t *producerTable) stable(hw Offset) Offset {
	if hw <= t.doubt {
		return 0
	}
	t.doubt = -1
	ended := 0
	for ended < len(t.unstable) && t.unstable[ended].last >= 0 && t.unstable[ended].last < hw {
		ended++
	}
	t.unstable = slices.Delete(t.unstable, 0, ended)
	if len(t.unstable) > 2*t.open+64 { // one that is open for long does not have all others kept that end meanwhile
		t.unstable = slices.DeleteFunc(t.unstable, func(x transaction) bool { return x.last >= 0 && x.last < hw })
	}
	if len(t.unstable) > 0 {
		return min(hw, t.unstable[0].first)
	}
	return hw
}

// unsettled says whether the last stable offset may be below the high watermark.
func (t *producerTable) unsettled() bool { return len(t.unstable) > 0 || t.doubt >= 0 }

// abortedIn appends to out what was aborted of [from, to).
func (t *producerTable) abortedIn(from, to Offset, out []AbortedTransaction) []AbortedTransaction {
	i := sort.Search(len(t.aborted), func(i int) bool { return t.aborted[i].Last >= from })
	for _, a := range t.aborted[i:] {
		if a.First < to {
			out = append(out, a)
		}
	}
	return out
}

// trim is told that the log starts at o. A transaction of which nothing is left is not open here any more: its marker may be gone as well, at the
// leader's, and if it is not, its next batch is verified again.
func (t *producerTable) trim(o Offset) {
	t.trimAborted(o)
	t.unstable = slices.DeleteFunc(t.unstable, func(x transaction) bool {
		if x.last >= 0 || x.first >= o {
			return false
		}
		p := t.byID[x.producer]
		if p.n > 0 && p.batches[p.n-1].last() >= o {
			return false
		}
		p.transaction, p.started, p.own = -1, 0, false
		t.open--
		return true
	})
}

// trimAborted forgets those that ended below o.
func (t *producerTable) trimAborted(o Offset) {
	i := sort.Search(len(t.aborted), func(i int) bool { return t.aborted[i].Last >= o })
	t.aborted = slices.Delete(t.aborted, 0, i)
}

// cutTransactions forgets those that begin at or past o, and is false when a marker is cut: what it had ended is not
// known any more.
func (t *producerTable) cutTransactions(o Offset) (exact bool) {
	if t.lastMarker >= o {
		return false
	}
	i := t.unstableAt(o)
	for _, x := range t.unstable[i:] {
		t.byID[x.producer].transaction = -1 // open: no marker is cut
		t.open--
	}
	t.unstable = t.unstable[:i]
	return true
}

// transactional says whether there is anything that a snapshot of version 1 cannot hold.
func (t *producerTable) transactional() bool {
	if len(t.unstable) > 0 || len(t.aborted) > 0 || t.lastMarker >= 0 {
		return true
	}
	for p := t.oldest; p != nil; p = p.newer {
		if p.ended >= 0 {
			return true
		}
	}
	return false
}

// What a snapshot of version 2 adds:
//
//	per producer, before its batches: i64 first offset of its open transaction | i64 offset of its last marker | i32 coordinator epoch
//	at the end: i64 offset of the last marker | u32 aborted transactions, then each: i64 producer | i64 first | i64 last
const (
	producerTransactionSize = 20
	abortedSize             = 24
)

func (p *producer) appendTransaction(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, uint64(p.transaction))
	dst = le.AppendUint64(dst, uint64(p.ended))
	return le.AppendUint32(dst, uint32(p.coordinator))
}

// decodeTransaction is false for what appendTransaction does not write.
func (p *producer) decodeTransaction(b []byte, next Offset) bool {
	le := binary.LittleEndian
	p.transaction, p.ended = Offset(le.Uint64(b)), Offset(le.Uint64(b[8:]))
	p.coordinator = int32(le.Uint32(b[16:]))
	return p.transaction >= -1 && p.transaction < next && p.ended >= -1 && p.ended < next && p.coordinator >= -1 &&
		(p.transaction < 0 || p.ended < p.transaction)
}

func (t *producerTable) appendAborted(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, uint64(t.lastMarker))
	dst = le.AppendUint32(dst, uint32(len(t.aborted)))
	for _, a := range t.aborted {
		dst = le.AppendUint64(dst, uint64(a.ProducerID))
		dst = le.AppendUint64(dst, uint64(a.First))
		dst = le.AppendUint64(dst, uint64(a.Last))
	}
	return dst
}

// decodeAborted takes all of b, and works out what the producers' entries say together.
func (t *producerTable) decodeAborted(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < 12 {
		return false
	}
	t.lastMarker = Offset(le.Uint64(b))
	n := le.Uint32(b[8:])
	if b = b[12:]; t.lastMarker < -1 || t.lastMarker >= t.next || uint64(len(b)) != uint64(n)*abortedSize {
		return false
	}
	t.doubt = t.lastMarker
	before := Offset(-1)
	for ; len(b) > 0; b = b[abortedSize:] {
		a := AbortedTransaction{int64(le.Uint64(b)), Offset(le.Uint64(b[8:])), Offset(le.Uint64(b[16:]))}
		if a.ProducerID < 0 || a.First < 0 || a.Last <= a.First || a.Last <= before || a.Last > t.lastMarker {
			return false
		}
		before = a.Last
		t.aborted = append(t.aborted, a)
	}
	for p := t.oldest; p != nil; p = p.newer {
		if p.transaction >= 0 {
			t.unstable = append(t.unstable, transaction{p.id, p.transaction, -1})
		}
		if p.ended > t.lastMarker {
			return false
		}
	}
	slices.SortFunc(t.unstable, func(a, b transaction) int { return int(min(max(a.first-b.first, -1), 1)) })
	t.open = len(t.unstable)
	for i := 1; i < t.open; i++ {
		if t.unstable[i].first == t.unstable[i-1].first {
			return false
		}
	}
	return true
}

// LastStable is the offset below which every transaction has ended, with a marker below hw (P2): what readers of committed records
// may see. At most hw, which may not fall between calls. It costs nothing where no transaction is.
func (p *Partition) LastStable(hw Offset) Offset {
	if !p.unsettled.Load() {
		return hw // one that begins from now on begins at the log end
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	stable := p.producers.stable(hw)
	p.unsettled.Store(p.producers.unsettled())
	return stable
}

// FirstOpen is where the first open transaction begins; math.MaxInt64 if none is open.
func (p *Partition) FirstOpen() Offset {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.producers.unstable {
		if x.last < 0 {
			return x.first
		}
	}
	return math.MaxInt64
}

// Aborted are the aborted transactions that have batches in [from, to), in the order of their ends. Who filters what he reads asks before he reads, with
// the last stable offset of then as to and as the limit of the read: later, compaction may have taken away batches and names.
func (p *Partition) Aborted(from, to Offset) []AbortedTransaction {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.producers.aborted) == 0 {
		return nil
	}
	return p.producers.abortedIn(from, to, nil)
}

// InTransaction says whether the producer has a transaction open here, in that epoch or a later one, and where its last one ended [-1]: what
// AppendVerified has to be told. Who has an epoch of his own for each transaction (Verified.Own) is only in one that the coordinator has called his since this replica leads: one of
// the same epoch from before he had that may be ending, its marker on the way, and would take with it what is appended now.
func (p *Partition) InTransaction(producer int64, epoch int16, own bool) (open bool, ended Offset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.producers.byID[producer]; x != nil {
		return x.transaction >= 0 && epoch <= x.epoch && (x.own || !own), x.ended
	}
	return false, -1
}

// stableLimit is the offset past which compaction must not go: what it may not decide about yet (K1).
func (p *Partition) stableLimit() Offset {
	limit := p.deleteLimit()
	p.mu.Lock()
	defer p.mu.Unlock()
	if limit <= p.producers.doubt {
		return 0
	}
	for _, x := range p.producers.unstable {
		if x.last < 0 || x.last >= limit {
			return min(limit, x.first)
		}
	}
	return limit
}

// isAborted says whether a batch belongs to a transaction that was aborted.
func (t *producerTable) isAborted(b Batch) bool {
	if !b.IsTransactional() || b.IsControl() || len(t.aborted) == 0 {
		return false
	}
	i := sort.Search(len(t.aborted), func(i int) bool { return t.aborted[i].Last > b.BaseOffset() })
	for _, a := range t.aborted[i:] {
		if a.ProducerID == b.ProducerID() {
			return a.First <= b.BaseOffset() // its next one after the batch
		}
	}
	return false
}
