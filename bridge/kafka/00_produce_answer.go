package kafka

import (
	"encoding/binary"
	"errors"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// layout encodes the answer, with the outcome of each part that is to be appended left open.
func (p *producing) layout(corr int32) {
	flexible := p.version >= produceFlexible
	size := minResponseBytes
	for _, t := range p.topics {
		size += len(t.name) + 32 + 48*t.parts
	}
	p.out = newBuffer(min(size, 1<<20))
	b := appendResponseHeader(p.out.b, corr, flexible)
	b = appendArray(b, len(p.topics), flexible)
	i := 0
	for _, t := range p.topics {
		if p.version >= produceTopicIDs {
			b = append(b, t.id[:]...)
		} else {
			b = appendString(b, t.name, flexible)
		}
		b = appendArray(b, t.parts, flexible)
		for _, pp := range p.parts[i : i+t.parts] {
			b = pp.layout(b, p.version)
			switch {
			case p.version >= produceLeaders && pp.code == errNotLeaderOrFollower:
				b = p.s.appendLeader(b, 0, t.view.name, pp.index, &p.leaders)
			case flexible:
				b = append(b, 0)
			}
		}
		i += t.parts
		if flexible {
			b = append(b, 0)
		}
	}
	if p.version >= 1 {
		b = appendInt32(b, p.throttle)
	}
	switch {
	case p.version >= produceLeaders:
		b = p.s.appendEndpoints(b, p.c, p.leaders)
	case flexible:
		b = append(b, 0)
	}
	sealResponse(b)
	p.out.b = b
}

// layout of one partition, but for its tagged fields. Fields up to the log start offset have a fixed size, so that
// they can be filled in later.
//
//	int32 index | int16 error | int64 base offset | v2: int64 append time |
//	v5: int64 log start | v8: array record errors, nullable string message
func (pp *producePart) layout(b []byte, version int16) []byte {
	flexible := version >= produceFlexible
	b = appendInt32(b, pp.index)
	pp.at = len(b)
	b = appendInt16(b, pp.code)
	b = appendInt64(b, -1)
	if version >= 2 {
		b = appendInt64(b, -1)
	}
	if version >= 5 {
		b = appendInt64(b, -1)
	}
	if version >= 8 {
		b = appendArray(b, 0, flexible)
		switch {
		case pp.message != "":
			b = appendString(b, pp.message[:min(len(pp.message), 1000)], flexible)
		case flexible:
			b = append(b, 0)
		default:
			b = appendInt16(b, -1)
		}
	}
	return b
}

// settled is told the outcome, on any goroutine, and never blocks.
func (pp *producePart) settled(first log.Offset, appendTime int64, err error) {
	p := pp.p
	if pp.state.CompareAndSwap(partPending, partSettled) {
		b := p.out.b[pp.at:]
		if err != nil {
			p.fail(b, codeOf(err))
		} else {
			p.s.n.produceBatches.Add(1)
			p.s.n.produceBytes.Add(int64(pp.size))
			binary.BigEndian.PutUint64(b[2:], uint64(first))
			binary.BigEndian.PutUint64(b[10:], uint64(appendTime)) // v2, and v3 is the least here
			if p.version >= 5 {
				binary.BigEndian.PutUint64(b[18:], uint64(pp.partition.LogStart()))
			}
		}
		p.done()
	}
	p.unref()
}

func (p *producing) fail(b []byte, code int16) {
	p.failed.Store(true)
	p.s.n.produceRejected.Add(1)
	binary.BigEndian.PutUint16(b, uint16(code))
}

// expire answers REQUEST_TIMED_OUT for what is still open, and before the request's time is over
// NOT_ENOUGH_REPLICAS_AFTER_APPEND for what waits for replicas that are not in sync any more (H6). With
// acks=1 what waits for a lease that has lapsed is answered NOT_LEADER_OR_FOLLOWER when the time is over (A1). The
// records may yet be committed: the client sends again, and an idempotent one gets the same offsets.
func (p *producing) expire(over bool) {
	for _, pp := range p.parts[:p.n] {
		if pp.code != errNone || pp.state.Load() != partPending {
			continue
		}
		code := errRequestTimedOut
		switch {
		case p.acks == -1 && errors.Is(pp.partition.Writable(), cluster.ErrNotEnoughReplicas):
			code = errNotEnoughReplicasAfter
		case !over:
			continue
		case p.acks == 1 && !p.s.broker.HoldsLease():
			code = errNotLeaderOrFollower
		}
		if pp.state.CompareAndSwap(partPending, partTimedOut) {
			p.fail(p.out.b[pp.at:], code)
			p.done()
		}
	}
}
