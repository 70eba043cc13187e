package log

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

const (
	// producerWindow is how many batches per producer are remembered: as many as a client has in flight (KIP-98).
	producerWindow = 5
	// defaultMaxProducers bounds the producers remembered per partition: about 1.3 MB.
	defaultMaxProducers = 8192
)

// producerBatch is one remembered batch. Sequence and offset advance together, so one delta serves both.
type producerBatch struct {
	sequence int32 // of the first record
	delta    int32
	first    Offset
}

func (pb *producerBatch) last() Offset        { return pb.first + Offset(pb.delta) }
func (pb *producerBatch) lastSequence() int32 { return addSequence(pb.sequence, pb.delta) }

// producer is what a partition knows of one producer id.
type producer struct {
	id      int64
	epoch   int16
	n       int8                          // valid entries of batches, oldest first
	forgot  bool                          // an older batch or epoch is no longer in batches
	batches [producerWindow]producerBatch // of this epoch
	touched int64                         // ms, when it last appended

	transaction Offset // where its open transaction begins, -1 if none is (transaction.go)
	ended       Offset // of its last marker, -1 if there was none
	coordinator int32  // epoch in that marker
	started     int64  // Verified.Started of the open transaction, 0 if not known
	own         bool   // the coordinator has said in this term that the open transaction has its epoch to itself (Verified.Own)

	older, newer *producer // by touched
}

// producerTable is the state of a partition's idempotent producers (P1): pure, owned by whoever appends.
// It covers appended batches, durable or not. It is bounded: over max, the producer silent for longest
// is forgotten, and a forgotten producer may begin with any sequence.
type producerTable struct {
	byID           map[int64]*producer
	oldest, newest *producer
	max            int
	next           Offset // the state covers all batches below
	forgotten      int64  // producers dropped over max

	unstable            []transaction        // open, or ended by a marker that may not be committed; by first offset
	open                int                  // of unstable
	aborted             []AbortedTransaction // by last offset
	lastMarker          Offset               // -1 if none
	doubt               Offset               // markers up to here were in a snapshot: where what they ended begins is not known; -1 if none
	maxOpen, maxAborted int
}

func newProducerTable(max int) *producerTable {
	if max <= 0 {
		max = defaultMaxProducers
	}
	return &producerTable{byID: map[int64]*producer{}, max: max, lastMarker: -1, doubt: -1, maxOpen: maxOpenTransactions, maxAborted: maxAborted}
}

func (t *producerTable) len() int { return len(t.byID) }

// check judges a batch before it is appended and changes nothing. A repeat of a remembered batch is a
// duplicate of the one that begins at first. ErrOutOfOrderSequence: sequences are missing, or go back further than is
// remembered. ErrProducerFenced: another instance has a newer epoch. A batch without producer is always fresh. One that begins a transaction
// has to be verified after the producer's last one has ended here: a batch that was on its way while the transaction ended would begin one that
// nobody ends.
func (t *producerTable) check(b Batch, v Verified) (first Offset, duplicate bool, err error) {
	id := b.ProducerID()
	if id < 0 {
		return 0, false, nil
	}
	p := t.byID[id]
	if first, duplicate, err = p.checkSequence(b); duplicate || err != nil {
		return first, duplicate, err
	}
	return 0, false, t.checkTransaction(p, b, v)
}

func (p *producer) checkSequence(b Batch) (first Offset, duplicate bool, err error) {
	if p == nil {
		// Unknown: never seen, or forgotten. Refusing would strand a client that slept longer than we remember.
		return 0, false, nil
	}
	id := p.id
	epoch, sequence := b.ProducerEpoch(), b.BaseSequence()
	switch {
	case epoch < p.epoch:
		return 0, false, fmt.Errorf("producer %d epoch %d, newest is %d: %w", id, epoch, p.epoch, ErrProducerFenced)
	case b.IsControl():
		return 0, false, nil
	case epoch > p.epoch:
		if sequence != 0 {
			return 0, false, fmt.Errorf("producer %d begins epoch %d with sequence %d: %w", id, epoch, sequence, ErrOutOfOrderSequence)
		}
		return 0, false, nil
	}
	delta := b.i32(atLastDelta)
	for i := range p.batches[:p.n] {
		if pb := &p.batches[i]; pb.sequence == sequence && pb.delta == delta {
			return pb.first, true, nil
		}
	}
	if p.n > 0 {
		if want := addSequence(p.batches[p.n-1].lastSequence(), 1); sequence != want {
			return 0, false, fmt.Errorf("producer %d epoch %d sequence %d, want %d: %w", id, epoch, sequence, want, ErrOutOfOrderSequence)
		}
	}
	return 0, false, nil
}

// apply takes an appended batch into account, as the leader after check, as a follower, or in recovery.
// now is the wall clock in ms.
func (t *producerTable) apply(b Batch, now int64) {
	t.next = b.NextOffset()
	id := b.ProducerID()
	if id < 0 {
		return
	}
	p := t.byID[id]
	if p == nil {
		p = &producer{id: id, epoch: b.ProducerEpoch(), touched: now, transaction: -1, ended: -1, coordinator: -1}
		t.makeRoom()
		t.byID[id] = p
	} else {
		t.unlink(p)
	}
	t.link(p)
	p.touched = max(p.touched, now)
	if e := b.ProducerEpoch(); e != p.epoch {
		p.forgot = true
		p.epoch, p.n = e, 0
	}
	if b.IsControl() {
		t.endTransaction(p, b)
		return // a marker has no sequence
	}
	t.openTransaction(p, b)
	if p.n == producerWindow {
		copy(p.batches[:], p.batches[1:])
		p.n--
		p.forgot = true
	}
	p.batches[p.n] = producerBatch{sequence: b.BaseSequence(), delta: b.i32(atLastDelta), first: b.BaseOffset()}
	p.n++
}

// makeRoom forgets who has been silent for longest, and has no transaction open.
func (t *producerTable) makeRoom() {
	for p := t.oldest; p != nil && len(t.byID) >= t.max; {
		next := p.newer
		if p.transaction < 0 {
			t.remove(p)
			t.forgotten++
		}
		p = next
	}
}

func (t *producerTable) remove(p *producer) {
	t.unlink(p)
	delete(t.byID, p.id)
}

func (t *producerTable) link(p *producer) {
	p.older, p.newer = t.newest, nil
	if t.newest != nil {
		t.newest.newer = p
	} else {
		t.oldest = p
	}
	t.newest = p
}

func (t *producerTable) unlink(p *producer) {
	if p.older != nil {
		p.older.newer = p.newer
	} else {
		t.oldest = p.newer
	}
	if p.newer != nil {
		p.newer.older = p.older
	} else {
		t.newest = p.older
	}
}

// expire forgets producers that appended nothing since before (ms) and have no transaction open, and says how many. A clock that
// cannot be trusted must not be asked.
func (t *producerTable) expire(before int64) int {
	n := 0
	for p := t.oldest; p != nil && p.touched < before; {
		next := p.newer
		if p.transaction < 0 {
			t.remove(p)
			n++
		}
		p = next
	}
	return n
}

// truncateTo forgets batches at or past o (T3, J6). It is false when the table no longer holds what a
// producer was before them: then the caller decodes the newest snapshot at or below o and applies
// the batches from there.
func (t *producerTable) truncateTo(o Offset) (exact bool) {
	if o >= t.next {
		return true
	}
	if !t.cutTransactions(o) {
		return false
	}
	for _, p := range t.byID {
		n := p.n
		for n > 0 && p.batches[n-1].last() >= o {
			n--
		}
		switch {
		case n == p.n:
		case p.forgot:
			return false
		case n == 0 && p.ended < 0:
			t.remove(p)
		default:
			p.n = n
		}
	}
	t.next = o
	return true
}

// remembers says whether b is one of its producer's remembered batches. Compaction keeps at least its header,
// so that the state can be rebuilt from segments alone.
func (t *producerTable) remembers(b Batch) bool {
	p := t.byID[b.ProducerID()]
	if p == nil {
		return false
	}
	for i := range p.batches[:p.n] {
		if p.batches[i].first == b.BaseOffset() {
			return true
		}
	}
	return false
}

// Snapshot, little endian: what a .snap file holds.
//
//	magic "weirPRDS" | u32 version | u32 producers | i64 next offset
//	per producer, silent for longest first:
//	  i64 id | i16 epoch | u8 batches | u8 forgot | i64 touched
//	  per batch: i32 sequence | i32 delta | i64 first offset
//	u32 crc-32c over all before
//
// Version 1 is written as long as no transaction has been; what version 2 adds stands in transaction.go.
const (
	producerMagic      = "weirPRDS"
	producerVersion    = 2
	producerHeadSize   = 24
	producerEntrySize  = 20
	producerBatchSize  = 16
	producerSuffixSize = 4
)

// encode appends a snapshot of the state to dst.
func (t *producerTable) encode(dst []byte) []byte {
	at := len(dst)
	le := binary.LittleEndian
	dst = append(dst, producerMagic...)
	version := uint32(1)
	if t.transactional() {
		version = producerVersion
	}
	dst = le.AppendUint32(dst, version)
	dst = le.AppendUint32(dst, uint32(len(t.byID)))
	dst = le.AppendUint64(dst, uint64(t.next))
	for p := t.oldest; p != nil; p = p.newer {
		dst = le.AppendUint64(dst, uint64(p.id))
		dst = le.AppendUint16(dst, uint16(p.epoch))
		dst = append(dst, byte(p.n), 0)
		if p.forgot {
			dst[len(dst)-1] = 1
		}
		dst = le.AppendUint64(dst, uint64(p.touched))
		if version > 1 {
			dst = p.appendTransaction(dst)
		}
		for _, pb := range p.batches[:p.n] {
			dst = le.AppendUint32(dst, uint32(pb.sequence))
			dst = le.AppendUint32(dst, uint32(pb.delta))
			dst = le.AppendUint64(dst, uint64(pb.first))
		}
	}
	if version > 1 {
		dst = t.appendAborted(dst)
	}
	return le.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

// decodeProducers reads what encode wrote. ErrNewerFormat for a later version, ErrCorrupt for anything else.
func decodeProducers(b []byte, max int) (*producerTable, error) {
	le := binary.LittleEndian
	bad := func(what string) (*producerTable, error) {
		return nil, fmt.Errorf("producer snapshot: %s: %w", what, ErrCorrupt)
	}
	if len(b) < producerHeadSize+producerSuffixSize || string(b[:8]) != producerMagic {
		return bad("no header")
	}
	version := le.Uint32(b[8:])
	if version > producerVersion {
		return nil, fmt.Errorf("producer snapshot of version %d, this is %d: %w", version, producerVersion, ErrNewerFormat)
	} else if version == 0 {
		return bad("version 0")
	}
	body := b[:len(b)-producerSuffixSize]
	if crc32.Checksum(body, castagnoli) != le.Uint32(b[len(body):]) {
		return bad("checksum")
	}
	t := newProducerTable(max)
	count := le.Uint32(b[12:])
	t.next = Offset(le.Uint64(b[16:]))
	if t.next < 0 {
		return bad("offset")
	}
	body = body[producerHeadSize:]
	for range count {
		p, size := decodeProducer(body, t.next, version)
		if p == nil || t.byID[p.id] != nil {
			return bad("producer")
		}
		body = body[size:]
		t.makeRoom()
		t.byID[p.id] = p
		t.link(p)
	}
	switch {
	case version > 1 && (!t.decodeAborted(body) || !t.transactional()):
		return bad("transactions")
	case version == 1 && len(body) > 0:
		return bad("length")
	}
	return t, nil
}

// decodeProducer reads one producer; nil if it is not one that encode writes.
func decodeProducer(b []byte, next Offset, version uint32) (*producer, int) {
	le := binary.LittleEndian
	if len(b) < producerEntrySize || b[10] > producerWindow || b[11] > 1 {
		return nil, 0
	}
	p := &producer{
		id: int64(le.Uint64(b)), epoch: int16(le.Uint16(b[8:])), n: int8(b[10]), forgot: b[11] == 1, touched: int64(le.Uint64(b[12:])),
		transaction: -1, ended: -1, coordinator: -1,
	}
	head := producerEntrySize
	if version > 1 {
		head += producerTransactionSize
	}
	size := head + int(p.n)*producerBatchSize
	if len(b) < size || p.id < 0 || version > 1 && !p.decodeTransaction(b[producerEntrySize:], next) {
		return nil, 0
	}
	b = b[head:]
	low := Offset(0)
	for i := range p.batches[:p.n] {
		pb := producerBatch{sequence: int32(le.Uint32(b)), delta: int32(le.Uint32(b[4:])), first: Offset(le.Uint64(b[8:]))}
		if pb.sequence < 0 || pb.delta < 0 || pb.first < low || pb.first > math.MaxInt64-Offset(pb.delta)-1 || pb.last() >= next {
			return nil, 0
		}
		low = pb.last() + 1
		p.batches[i] = pb
		b = b[producerBatchSize:]
	}
	return p, size
}
