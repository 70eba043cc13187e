package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Fetch (key 1): v4–12
//
// Committed batches (R1), as they are stored: bytes are read from the log straight into the
// answer. Without enough of them the request waits for commits, up to its max wait; while
// it waits it holds no read buffer and none of the memory quota.
//
// Limits are Apache Kafka's: the first batch of the answer is sent whatever its size, so
// that a consumer always moves on; every further one only within the partition's and the
// request's limit. The server's own limits come on top.
//
//	v5   log start offset
//	v7   sessions: always answered with session 0, so that every fetch is a full one
//	v9   current leader epoch, checked (KIP-320)
//	v11  rack id: read and ignored, there is no follower to read from
//	v12  flexible; who leads instead, and in which epoch (KIP-595)
//
// A fetch that waits is answered when this broker leads one of its partitions no longer.
//
// There are no transactions: the last stable offset is the high watermark, and the list of
// aborted ones is empty.
func (s *Server) fetch(ctx context.Context, c *conn, r *request, rep *reply) error {
	f := fetchPool.Get().(*fetch)
	defer f.recycle()
	defer r.free() // topic names are views of it
	f.s, f.version = s, r.version
	if err := f.decode(r.body); err != nil {
		return err
	}
	r.charge.release()
	f.resolve()
	out := f.answer(ctx, r.corr, rep)
	rep.size = out.size()
	rep.complete(out)
	c.enqueue(rep)
	return nil
}

const fetchFlexible = 12

type fetch struct {
	s         *Server
	version   int16
	code      int16
	maxWait   time.Duration
	minBytes  int
	maxBytes  int
	committed bool // read_committed
	topics    []fetchTopic
	parts     []fetchPart
	wake      chan struct{}
	lost      <-chan struct{} // closed when one of the partitions may be led elsewhere
}

type fetchTopic struct {
	name  []byte // view of the frame
	parts int
}

type fetchPart struct {
	partition *cluster.Partition // nil with a code
	index     int32
	code      int16
	offset    log.Offset
	epoch     int32
	maxBytes  int
}

var fetchPool = sync.Pool{New: func() any { return &fetch{wake: make(chan struct{}, 1)} }}

const maxPooledFetchParts = 1024

func (f *fetch) recycle() {
	clear(f.topics)
	clear(f.parts)
	f.s, f.topics, f.parts, f.code, f.lost = nil, f.topics[:0], f.parts[:0], errNone, nil
	if cap(f.parts) <= maxPooledFetchParts {
		fetchPool.Put(f)
	}
}

// decode reads the request.
//
//	int32 replica | int32 max wait ms | int32 min bytes | int32 max bytes | int8 isolation |
//	v7: int32 session, int32 session epoch | array of (string topic | array of partitions) |
//	v7: array of forgotten (string topic | array of int32) | v11: string rack
func (f *fetch) decode(body []byte) error {
	d := decoder{b: body}
	flexible := f.version >= fetchFlexible
	d.int32() // replica: our replicas use another protocol
	f.maxWait = time.Duration(d.int32()) * time.Millisecond
	f.minBytes = int(d.int32())
	f.maxBytes = int(d.int32())
	f.committed = d.int8() == 1
	if f.version >= 7 {
		session, epoch := d.int32(), d.int32()
		switch {
		case session != 0:
			f.code = errFetchSessionIDNotFound
		case epoch != 0 && epoch != -1:
			f.code = errInvalidFetchSessionEpoch
		}
	}
	for range d.array(flexible, 2) {
		t := fetchTopic{name: d.string(flexible)}
		t.parts = d.array(flexible, 16)
		for range t.parts {
			f.parts = append(f.parts, f.decodePart(&d))
			if d.bad {
				break
			}
		}
		if flexible {
			d.tags()
		}
		if d.bad {
			break
		}
		f.topics = append(f.topics, t)
	}
	if f.version >= 7 {
		for range d.array(flexible, 2) { // forgotten topics: nothing was remembered
			d.string(flexible)
			d.take(4 * d.array(flexible, 4))
			if flexible {
				d.tags()
			}
			if d.bad {
				break
			}
		}
	}
	if f.version >= 11 {
		d.string(flexible)
	}
	if flexible {
		d.tags()
	}
	if d.bad {
		return errors.New("fetch request ends early")
	}
	return nil
}

// int32 index | v9: int32 leader epoch | int64 offset | v12: int32 last epoch |
// v5: int64 log start (of followers) | int32 max bytes
func (f *fetch) decodePart(d *decoder) fetchPart {
	p := fetchPart{index: d.int32(), epoch: -1}
	if f.version >= 9 {
		p.epoch = d.int32()
	}
	p.offset = log.Offset(d.int64())
	if f.version >= 12 {
		d.int32()
	}
	if f.version >= 5 {
		d.int64()
	}
	p.maxBytes = int(d.int32())
	if f.version >= fetchFlexible {
		d.tags()
	}
	return p
}

// resolve finds the partitions and judges what does not change while they are led here in the same
// term.
func (f *fetch) resolve() {
	f.lost = f.s.losses.wait() // before looking: what is lost after the look is noticed
	i := 0
	for _, t := range f.topics {
		view := f.s.topic(t.name)
		for j := range t.parts {
			p := &f.parts[i+j]
			if view == nil {
				p.partition, p.code = nil, errUnknownTopicOrPartition
				continue
			}
			p.partition, p.code = f.s.partitionIn(view.name, p.index, p.epoch)
		}
		i += t.parts
	}
}

// answer waits until there is something to say, and says it. What the answer takes of the
// budget for fetch answers is left in rep.held.
func (f *fetch) answer(ctx context.Context, corr int32, rep *reply) *buffer {
	deadline := time.Now().Add(min(f.maxWait, maxFetchWait))
	for {
		if f.astray() {
			f.confirm(ctx)
		}
		if f.code != errNone || f.maxWait <= 0 || f.refused() || f.ready() {
			rep.held = f.grant()
			out, n := f.encode(corr, rep.held)
			f.s.fetching.Add(out.size() - rep.held) // most ask for much more than there is
			rep.held = out.size()
			if n >= f.minBytes || f.code != errNone || f.refused() || len(f.parts) == 0 || !f.canWait(ctx, deadline) {
				f.s.n.fetchBytes.Add(int64(n))
				if n == 0 && f.damaged() {
					f.pause(ctx, deadline)
				}
				return out
			}
			out.free()
			f.s.fetching.Add(-rep.held)
			rep.held = 0
		}
		f.wait(ctx, deadline)
		select {
		case <-f.lost:
			f.resolve()
		default:
			if !f.s.broker.HoldsLease() { // R2: that there is nothing new is not for this broker to say
				f.resolve()
			}
		}
		if !f.canWait(ctx, deadline) {
			f.maxWait = 0 // the next round answers with what there is
		}
	}
}

const (
	// maxFetchWait bounds a wait that a client asks for; it asks again.
	maxFetchWait = 5 * time.Minute
	// minFetchPause keeps a fetch that waits for many bytes from counting them anew at
	// each small commit.
	minFetchPause = 10 * time.Millisecond
	// damagedFetchPause slows down a consumer that asks again and again for what the disk has lost.
	damagedFetchPause = 500 * time.Millisecond
)

// damaged tells whether a partition's records could not be read.
func (f *fetch) damaged() bool {
	for i := range f.parts {
		if c := f.parts[i].code; c == errCorruptMessage || c == errKafkaStorageError {
			return true
		}
	}
	return false
}

// pause holds an answer back for damagedFetchPause, or as long as the client lets us.
func (f *fetch) pause(ctx context.Context, deadline time.Time) {
	timer := time.NewTimer(min(damagedFetchPause, time.Until(deadline)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-f.s.draining:
	}
}

// ready: an error, or a committed record, is there.
func (f *fetch) ready() bool {
	if f.minBytes <= 0 || len(f.parts) == 0 {
		return true
	}
	for i := range f.parts {
		if p := &f.parts[i]; p.code != errNone || p.partition.HighWatermark() > p.offset {
			return true
		}
	}
	return false
}

// refused says whether a partition has an error.
func (f *fetch) refused() bool {
	for i := range f.parts {
		if f.parts[i].code != errNone {
			return true
		}
	}
	return false
}

// astray looks for offsets out of range, and says whether one lies behind the end of its log as this broker knows it.
func (f *fetch) astray() (behind bool) {
	for i := range f.parts {
		p := &f.parts[i]
		if p.code == errNone && outOfRange(p.partition, p.offset) {
			p.code = errOffsetOutOfRange
			behind = behind || p.offset > p.partition.LogStart()
		}
	}
	return behind
}

// confirmTimeout is how long a client waits at most to hear that its offset lies behind the end.
const confirmTimeout = 5 * time.Second

// confirm looks at those again once it is sure who leads: another broker may have taken over in good order, have committed more, and this one not have heard of
// it yet (R4). While nobody can say, the client is to ask again.
func (f *fetch) confirm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	err := f.s.broker.Confirm(ctx)
	i := 0
	for _, t := range f.topics {
		for range t.parts {
			p := &f.parts[i]
			i++
			if p.code != errOffsetOutOfRange {
				continue
			}
			if err != nil {
				p.partition, p.code = nil, errNotLeaderOrFollower
				continue
			}
			if p.partition, p.code = f.s.partitionIn(string(t.name), p.index, p.epoch); p.code == errNone && outOfRange(p.partition, p.offset) {
				p.code = errOffsetOutOfRange
			}
		}
	}
}

func (f *fetch) canWait(ctx context.Context, deadline time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-f.s.draining:
		return false
	default:
		return f.maxWait > 0 && time.Now().Before(deadline)
	}
}

// Advanced wakes the wait (cluster.CommitWatcher). A late call is a spurious wake, perhaps
// of the next request that uses this struct: it looks, and waits again.
func (f *fetch) Advanced(*cluster.Partition) {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// wait returns after a commit in one of the partitions, when one is led elsewhere, or when nothing
// more is waited for.
func (f *fetch) wait(ctx context.Context, deadline time.Time) {
	select {
	case <-f.wake: // stale
	default:
	}
	f.s.n.fetchWaiting.Add(1)
	for i := range f.parts {
		f.parts[i].partition.Watch(f) // not nil: a refused part is not waited with
	}
	defer func() {
		for i := range f.parts {
			f.parts[i].partition.Unwatch(f)
		}
		f.s.n.fetchWaiting.Add(-1)
	}()
	started := time.Now()
	if f.minBytes <= 1 && f.ready() { // it came before the watch
		return
	}
	timeout := time.NewTimer(deadline.Sub(started))
	defer timeout.Stop()
	select {
	case <-f.wake:
	case <-f.lost:
		return
	case <-timeout.C:
		return
	case <-ctx.Done():
		return
	case <-f.s.draining:
		return
	}
	if pause := minFetchPause - time.Since(started); f.minBytes > 1 && pause > 0 {
		timeout.Reset(min(pause, time.Until(deadline)))
		select {
		case <-timeout.C:
		case <-f.lost:
		case <-ctx.Done():
		case <-f.s.draining:
		}
	}
}

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
//	int32 throttle | v7: int16 error, int32 session | array of (string topic |
//	array of partitions)
func (f *fetch) encode(corr int32, limit int64) (out *buffer, batchBytes int) {
	flexible := f.version >= fetchFlexible
	size := minResponseBytes
	for _, t := range f.topics {
		size += len(t.name) + 16 + 64*t.parts
	}
	out = newBuffer(size)
	b := appendResponseHeader(out.b, corr, flexible)
	b = appendInt32(b, 0)
	topics := f.topics
	if f.version >= 7 {
		b = appendInt16(b, f.code)
		b = appendInt32(b, 0)
	}
	if f.code != errNone {
		topics = nil
	}
	b = appendArray(b, len(topics), flexible)
	i := 0
	for _, t := range topics {
		b = appendString(b, t.name, flexible)
		b = appendArray(b, t.parts, flexible)
		for j := range t.parts {
			out.b = b
			n := f.encodePart(out, t.name, &f.parts[i+j], limit, batchBytes == 0)
			b = out.b
			batchBytes += n
			limit -= int64(n)
		}
		i += t.parts
		if flexible {
			b = append(b, 0)
		}
	}
	if flexible {
		b = append(b, 0)
	}
	sealResponse(b)
	out.b = b
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
func (f *fetch) encodePart(out *buffer, topic []byte, p *fetchPart, limit int64, first bool) int {
	flexible := f.version >= fetchFlexible
	b := appendInt32(out.b, p.index)
	state := len(b)
	b = append(b, make([]byte, 2+8+8)...)
	if f.version >= 5 {
		b = appendInt64(b, -1)
	}
	switch {
	case flexible && f.committed:
		b = append(b, 1)
	case flexible:
		b = append(b, 0)
	case f.committed:
		b = appendInt32(b, 0)
	default:
		b = appendInt32(b, -1)
	}
	if f.version >= 11 {
		b = appendInt32(b, -1)
	}
	out.b = b

	want := int(min(int64(p.maxBytes), limit, maxPartitionRead))
	lengthSize := 4
	if flexible {
		lengthSize = uvarintSize(want + 1)
	}
	n := 0
	if p.code == errNone && p.offset < p.partition.HighWatermark() && (first || want > 0) {
		n = f.read(out, p, max(want, 1), lengthSize, first)
	}
	p.putState(out.b[state:], f.version)
	out.putLength(n, lengthSize, flexible)
	if flexible {
		out.b = f.appendLeader(out.b, topic, p)
	}
	return n
}

// appendLeader ends a partition of a flexible answer: with the current leader, where the client came
// to another one and somebody leads (tag 1: int32 leader, int32 epoch).
func (f *fetch) appendLeader(b, topic []byte, p *fetchPart) []byte {
	if p.code == errNotLeaderOrFollower || p.code == errFencedLeaderEpoch {
		if mp := assignment(f.s.broker.Image(), string(topic), p.index); mp != nil && mp.Leader != meta.NoLeader {
			b = append(b, 1, 1, 4+4+1) // tags, tag, size
			b = appendInt32(b, mp.Leader)
			b = appendInt32(b, int32(mp.LeaderEpoch))
		}
	}
	return append(b, 0)
}

// putState fills in what is known best after the read: the watermark told then covers all
// that is sent.
func (p *fetchPart) putState(b []byte, version int16) {
	hw, start := log.Offset(-1), log.Offset(-1)
	if p.partition != nil {
		hw, start = p.partition.HighWatermark(), p.partition.LogStart()
	}
	binary.BigEndian.PutUint16(b, uint16(p.code))
	binary.BigEndian.PutUint64(b[2:], uint64(hw))
	binary.BigEndian.PutUint64(b[10:], uint64(hw))
	if version >= 5 {
		binary.BigEndian.PutUint64(b[18:], uint64(start))
	}
}

// maxPartitionRead bounds one partition's part of an answer, and so the buffer that is
// reserved before it is known how much there is.
const maxPartitionRead = 2 << 20

// read appends batches to out, behind room for their length.
func (f *fetch) read(out *buffer, p *fetchPart, want, lengthSize int, first bool) int {
	const spare = 8 // for a longer length than thought, and what follows
	want = fitClass(len(out.b)+lengthSize+spare, want)
	out.grow(lengthSize + want + spare)
	at := len(out.b) + lengthSize
	room := out.b[at : at : cap(out.b)-spare]
	got, err := p.partition.Read(p.offset, want, room)
	switch {
	case err != nil:
		p.code = codeOf(err)
		if p.code != errOffsetOutOfRange && p.code != errNotLeaderOrFollower {
			if unlogged, ok := f.s.faults.allow(time.Now()); ok {
				f.s.log.Error("kafka: fetch", "topic", p.partition.Topic(), "partition", p.index, "offset", p.offset, "err", err, "unlogged", unlogged)
			}
		}
		return 0
	case len(got) == 0 || len(got) > want && !first:
		return 0
	}
	if cap(room) >= len(got) && &got[0] == &room[:1][0] {
		return len(got) // in place; putLength takes it into the buffer
	}
	out.grow(lengthSize + len(got) + spare)
	copy(out.b[at:cap(out.b)], got)
	return len(got)
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

func uvarintSize(n int) int {
	size := 1
	for n >= 0x80 {
		n >>= 7
		size++
	}
	return size
}
