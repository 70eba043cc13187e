package cluster

import (
	"errors"

	"github.com/weir-io/weir/cluster/replica"
	"github.com/weir-io/weir/log"
)

// compare tests a fetch against this replica's term; led says where it stands.
func (p *Partition) compare(f replica.Fetch) (led replica.Leading, diverges bool, at replica.Point, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == nil || p.refusal != nil {
		return led, false, at, ErrNotLeader
	}
	led = replica.Leading{Epoch: p.leader.Epoch(), Start: int64(p.log.LogStart()), End: int64(p.log.LogEnd()), Ends: p.ends}
	diverges, at, err = replica.Compare(f, led)
	return led, diverges, at, err
}

// ends is replica.EpochEnd of this log.
func (p *Partition) ends(e int32) replica.Point {
	epoch, end := p.log.EpochEnd(log.Epoch(e))
	return replica.Point{Epoch: int32(epoch), End: int64(end)}
}

// fetched lets a fetch that does not diverge count (H3).
func (p *Partition) fetched(f replica.Fetch) {
	p.mu.Lock()
	moved := p.leader != nil && p.leader.Fetched(f, p.mono())
	p.mu.Unlock()
	if moved {
		p.done.add(p)
	}
}

// news answers a fetch: n is filled in, and records are put behind raw. Observers get no records.
func (p *Partition) news(f replica.Fetch, observe bool, maxBytes int, n *feedNews, raw []byte) []byte {
	if observe {
		f.LeaderEpoch, f.From, f.LastEpoch = p.term(), 0, -1
	}
	led, diverges, at, err := p.compare(f)
	n.LeaderEpoch = led.Epoch
	switch {
	case errors.Is(err, replica.ErrFencedEpoch):
		n.Code = feedFenced
	case errors.Is(err, replica.ErrUnknownEpoch):
		n.Code = feedUnknown
	case err != nil:
		n.Code = feedNotLeader
	}
	if err != nil {
		return raw
	}
	n.LogStart, n.LogEnd = led.Start, led.End
	if n.Diverges = diverges; diverges {
		n.AtEpoch, n.AtEnd = at.Epoch, at.End
	}
	raw = p.newsOfTerm(f, observe || diverges, maxBytes, n, raw)
	if observe {
		n.HW = min(n.HW, int64(p.LastStable())) // those who have no replica read no further (P2)
	}
	return raw
}

// newsOfTerm is the rest of news, in the term that n names. Where that has ended meanwhile nothing of it counts: the log may have been cut and
// filled anew as another leader's is, with which nobody has compared the follower's (T2).
func (p *Partition) newsOfTerm(f replica.Fetch, bare bool, maxBytes int, n *feedNews, raw []byte) []byte {
	before := len(raw)
	n.Stable = int64(p.settled()) // before the high watermark, which the markers below lie below
	n.EpochStart, n.HW = p.startOfTerm(), int64(p.HighWatermark())
	if !bare {
		raw = p.records(f, maxBytes, n, raw)
	}
	if p.term() != n.LeaderEpoch {
		n.Code, n.Diverges, n.Bytes = feedNotLeader, false, 0
		return raw[:before]
	}
	return raw
}

// records puts what comes next for a follower behind raw. Where the leader has deleted it, n.LogStart becomes where its first batch begins
// (T5). It reads past what is synced here (H2), as far as that is sound (J8).
func (p *Partition) records(f replica.Fetch, maxBytes int, n *feedNews, raw []byte) []byte {
	from := log.Offset(max(f.From, n.LogStart))
	got, err := p.log.Read(from, p.log.Sound(), maxBytes, raw[len(raw):cap(raw)])
	switch {
	case errors.Is(err, log.ErrOutOfRange): // the log start moved, or a truncation was faster: it asks again
		n.Code = feedNotLeader
		return raw
	case err != nil:
		p.unreadable(err)
		n.Code = feedFailed
		return raw
	case len(got) > max(maxCarried, feedPartBytes): // appended while this broker was alone
		n.Code = feedFailed
		return raw
	}
	if len(got) == 0 {
		return raw
	}
	log.ThinnedFrom(got, log.Offset(f.From))
	switch base := int64(log.Batch(got).BaseOffset()); {
	case base < f.From: // the follower's log ends inside of a batch: it is another's, and all that is left here to compare it with begins there
		n.LogStart, n.Diverges, n.AtEpoch, n.AtEnd = base, true, -1, -1
		return raw
	case f.From < n.LogStart:
		if n.LogStart = base; base > f.From {
			return raw
		}
	}
	n.Bytes = len(got)
	if cap(raw)-len(raw) >= len(got) && len(got) > 0 && &raw[:len(raw)+1][len(raw)] == &got[0] {
		return raw[:len(raw)+len(got)] // read in place
	}
	return append(raw, got...)
}

// term is the epoch in which this replica leads, -1 if it does not.
func (p *Partition) term() int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == nil {
		return -1
	}
	return p.leader.Epoch()
}

func (p *Partition) startOfTerm() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader == nil {
		return 0
	}
	return p.leader.Start()
}
