package kafka

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/weir-io/weir/bridge/throttle"
	"github.com/weir-io/weir/log"
)

const minFetchGrant = 64 << 10

// grant takes a share of the budget for fetch answers: what was asked for, or less when
// many are under way, but always enough to move on.
func (f *fetch) grant() int64 {
	want := int64(max(min(f.maxBytes, f.s.cfg.MaxFetchBytes), 0))
	free := f.s.cfg.FetchInFlight - f.s.fetching.Load()
	n := min(want, max(free/2, minFetchGrant))
	f.s.fetching.Add(n)
	return n
}

// encode reads into the answer at most limit bytes of batches, or one batch.
//
//	int32 throttle | v7: int16 error, int32 session | array of (topic | array of partitions)
//
// In a session what is unchanged is left out, which is known only once it is encoded: counts are written
// for all, and corrected.
func (f *fetch) encode(corr int32, limit int64) (out *buffer, batchBytes int) {
	flexible := f.version >= fetchFlexible
	size := minResponseBytes
	for _, t := range f.topics {
		size += len(t.name) + 32 + 64*t.parts
	}
	out = newBuffer(int(min(int64(max(size, f.c.fetched)), int64(size)+limit)))
	b := appendResponseHeader(out.b, corr, flexible)
	b = appendInt32(b, 0)
	topics := f.topics
	if f.version >= 7 {
		f.head = len(b)
		b = appendInt16(b, f.code)
		b = appendInt32(b, f.sessionID)
	}
	if f.code != errNone {
		topics = nil
	}
	f.leaders = f.leaders[:0]
	topicsAt, told := len(b), 0
	b = appendArray(b, len(topics), flexible)
	i := 0
	for j := range topics {
		t := &topics[j]
		topicAt, toldParts := len(b), 0
		if f.byTopicID() {
			b = append(b, t.id[:]...)
		} else {
			b = appendString(b, t.name, flexible)
		}
		partsAt := len(b)
		b = appendArray(b, t.parts, flexible)
		for range t.parts {
			p := &f.parts[i]
			i++
			out.b = b
			n := f.encodePart(out, t, p, limit, batchBytes == 0)
			if p.unchanged() {
				b = out.b[:len(b)]
				continue
			}
			b = out.b
			toldParts++
			batchBytes += n
			limit -= int64(n)
		}
		if toldParts == 0 && f.session != nil {
			b = b[:topicAt]
			continue
		}
		told++
		b = correctArray(b, partsAt, t.parts, toldParts, flexible)
		if flexible {
			b = append(b, 0)
		}
	}
	b = correctArray(b, topicsAt, len(topics), told, flexible)
	if flexible {
		b = f.appendEndpoints(b)
	}
	sealResponse(b)
	out.b = b
	f.c.fetched = len(b)
	return out.fit(), batchBytes
}

// encodePart appends one partition, and returns the bytes of batches in it.
//
//	int32 index | int16 error | int64 high watermark | int64 last stable offset |
//	v5: int64 log start | array aborted | v11: int32 preferred replica | bytes records
//
// A compact length in front of the records takes 1 to 5 bytes, known only after the read.
// The records are read behind a length of the likely size, and moved if it was another:
// only when they are few.
func (f *fetch) encodePart(out *buffer, t *fetchTopic, p *fetchPart, limit int64, first bool) int {
	flexible := f.version >= fetchFlexible
	b := appendInt32(out.b, p.index)
	state := len(b)
	b = append(b, make([]byte, 2+8+8)...)
	if f.version >= 5 {
		b = appendInt64(b, -1)
	}
	out.b = b
	want := int(min(int64(p.maxBytes), limit, maxPartitionRead))
	at := len(out.b)
	out.b = f.appendAborted(out.b, p, nil)
	lengthSize := 4
	if flexible {
		lengthSize = uvarintSize(want + 1)
	}
	n := 0
	if p.code == errNone && p.preferred == noReplica && p.offset < f.end(p) && (first || want > 0) {
		var aborted []log.AbortedTransaction
		if n, aborted = f.read(out, p, max(want, 1), lengthSize, first); len(aborted) > 0 {
			from := len(out.b) + lengthSize
			records := bytes.Clone(out.b[from : from+n]) // make room in front of them
			out.b = f.appendAborted(out.b[:at], p, aborted)
			out.grow(lengthSize + n + spareBytes)
			copy(out.b[len(out.b)+lengthSize:cap(out.b)], records)
		}
	}
	if p.atReplica && p.code != errNone {
		p.code = errNotLeaderOrFollower // whatever is wrong here, the leader may have it
	}
	p.records = n > 0
	p.putState(out.b[state:], f.version)
	out.putLength(n, lengthSize, flexible)
	if flexible {
		out.b = f.appendLeader(out.b, t, p)
	}
	return n
}

// appendAborted appends the array of aborted transactions (int64 producer | int64 first offset), null for who does not ask for committed ones, and the
// preferred replica.
func (f *fetch) appendAborted(b []byte, p *fetchPart, aborted []log.AbortedTransaction) []byte {
	flexible := f.version >= fetchFlexible
	switch {
	case f.committed:
		b = appendArray(b, len(aborted), flexible)
	case flexible:
		b = append(b, 0)
	default:
		b = appendInt32(b, -1)
	}
	for _, a := range aborted {
		b = appendInt64(b, a.ProducerID)
		b = appendInt64(b, int64(a.First))
		if flexible {
			b = append(b, 0)
		}
	}
	if f.version >= 11 {
		b = appendInt32(b, p.preferred)
	}
	return b
}

// appendLeader ends a partition of a flexible answer: with the current leader (tag 1), where the client came to
// another one.
func (f *fetch) appendLeader(b []byte, t *fetchTopic, p *fetchPart) []byte {
	if t.view != nil && (p.code == errNotLeaderOrFollower || p.code == errFencedLeaderEpoch) {
		return f.s.appendLeader(b, 1, t.view.name, p.index, &f.leaders)
	}
	return append(b, 0)
}

// appendEndpoints ends an answer: with where the leaders that it names are reached (tag 0).
func (f *fetch) appendEndpoints(b []byte) []byte {
	if f.version < fetchEndpoints {
		return append(b, 0)
	}
	return f.s.appendEndpoints(b, f.c, f.leaders)
}

// holdToQuota asks for no more than the client may take at once when he has taken nothing lately; at least one batch is sent as ever.
func (f *fetch) holdToQuota() {
	l := f.c.limit(quotaFetch)
	if l == nil {
		return
	}
	f.maxBytes = int(min(float64(f.maxBytes), l.perSecond*throttle.Window.Seconds()))
	if f.minBytes > f.maxBytes/2 { // batches come whole: that many may never fit, and would be waited for in vain
		f.minBytes = min(f.minBytes, 1)
	}
}

// throttle counts a finished answer, and writes into it how long the client is to keep still. What is in it has been read, and is sent: unlike
// Apache Kafka, which sends an answer without records in its place, and has the client ask for the same again.
func (f *fetch) throttle(b []byte) {
	if millis := f.c.charge(quotaFetch, float64(len(b))); millis > 0 {
		at := 4 + 4 // behind size and correlation id
		if f.version >= fetchFlexible {
			at++
		}
		binary.BigEndian.PutUint32(b[at:], uint32(millis))
	}
}

// putSession writes the session's id into a finished answer.
func (f *fetch) putSession(b []byte, id int32) {
	binary.BigEndian.PutUint32(b[f.head+2:], uint32(id))
}

// putState fills in what is known best after the read: the watermark told then covers all
// that is sent.
func (p *fetchPart) putState(b []byte, version int16) {
	hw, stable, start := log.Offset(-1), log.Offset(-1), log.Offset(-1)
	if p.partition != nil {
		stable = p.partition.LastStable()
		hw, start = p.partition.HighWatermark(), p.partition.LogStart()
	}
	p.now = partTold{hw, start} // the last stable offset moves with the watermark only
	binary.BigEndian.PutUint16(b, uint16(p.code))
	binary.BigEndian.PutUint64(b[2:], uint64(hw))
	binary.BigEndian.PutUint64(b[10:], uint64(stable))
	if version >= 5 {
		binary.BigEndian.PutUint64(b[18:], uint64(start))
	}
}

// maxPartitionRead bounds one partition's part of an answer, and so the buffer that is
// reserved before it is known how much there is.
const maxPartitionRead = 2 << 20

// spareBytes is room for a longer length than thought, and for what follows.
const spareBytes = 8

// read appends batches to out, behind room for their length, and names the aborted transactions that they belong to.
func (f *fetch) read(out *buffer, p *fetchPart, want, lengthSize int, first bool) (int, []log.AbortedTransaction) {
	want = fitClass(len(out.b)+lengthSize+spareBytes, want)
	out.grow(lengthSize + want + spareBytes)
	at := len(out.b) + lengthSize
	room := out.b[at : at : cap(out.b)-spareBytes]
	var got []byte
	var aborted []log.AbortedTransaction
	var err error
	switch {
	case !first: // what does not fit would be read in vain
		got, aborted, err = p.partition.ReadWithin(p.offset, want, f.committed, room)
	case f.committed:
		got, aborted, err = p.partition.ReadCommitted(p.offset, want, room)
	default:
		got, err = p.partition.Read(p.offset, want, room)
	}
	switch {
	case err != nil:
		p.code = codeOf(err)
		if p.code != errOffsetOutOfRange && p.code != errNotLeaderOrFollower {
			if unlogged, ok := f.s.faults.allow(time.Now()); ok {
				f.s.log.Error("kafka: fetch", "topic", p.partition.Topic(), "partition", p.index, "offset", p.offset, "err", err, "unlogged", unlogged)
			}
		}
		return 0, nil
	case len(got) == 0:
		return 0, nil
	}
	if cap(room) >= len(got) && &got[0] == &room[:1][0] {
		return len(got), aborted // in place; putLength takes it into the buffer
	}
	out.grow(lengthSize + len(got) + spareBytes)
	copy(out.b[at:cap(out.b)], got)
	return len(got), aborted
}

// fitClass makes want a little smaller where used+want would just miss a power of two, as
// with the megabyte that most clients ask for: the buffer would be twice as large for it.
func fitClass(used, want int) int {
	class := 1 << (bits.Len(uint(used+want)) - 1)
	if over := used + want - class; over < want/8 {
		return want - over
	}
	return want
}

// putLength completes a field of n bytes that lie lengthSize behind the buffer's end.
func (b *buffer) putLength(n, lengthSize int, compact bool) {
	at := len(b.b)
	if n == 0 {
		if compact {
			b.b = append(b.b, 1) // empty, not null
		} else {
			b.b = appendInt32(b.b, 0)
		}
		return
	}
	if !compact {
		b.b = b.b[:at+4+n]
		binary.BigEndian.PutUint32(b.b[at:], uint32(n))
		return
	}
	size := uvarintSize(n + 1)
	data := b.b[at+lengthSize : at+lengthSize+n]
	b.b = b.b[:at+size+n]
	if size != lengthSize {
		copy(b.b[at+size:], data)
	}
	binary.PutUvarint(b.b[at:at+size], uint64(n+1))
}

// fit moves a small answer out of a large buffer: consumers at the end of the log reserve
// much and get little, and their answer may wait for a slow reader.
func (b *buffer) fit() *buffer {
	if cap(b.b) <= 64<<10 || len(b.b) > cap(b.b)/4 {
		return b
	}
	small := newBuffer(len(b.b))
	small.b = append(small.b, b.b...)
	b.free()
	return small
}

// correctArray changes the count of the array at b[at:] from was to n, no more than that, and moves what stands
// behind it where the count takes less room.
func correctArray(b []byte, at, was, n int, flexible bool) []byte {
	switch {
	case n == was:
	case flexible:
		old, size := uvarintSize(was+1), uvarintSize(n+1)
		binary.PutUvarint(b[at:], uint64(n+1))
		if size < old {
			b = append(b[:at+size], b[at+old:]...)
		}
	default:
		binary.BigEndian.PutUint32(b[at:], uint32(n))
	}
	return b
}

func uvarintSize(n int) int {
	size := 1
	for n >= 0x80 {
		n >>= 7
		size++
	}
	return size
}
