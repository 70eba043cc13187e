package kafka

import (
	"context"
	"time"

	"github.com/weir-io/weir/cluster/access"
)

// resolve finds the partitions and judges what does not change while they are led here in the same
// term.
func (f *fetch) resolve() {
	f.lost = f.s.losses.wait() // before looking: what is lost after the look is noticed
	f.rules, f.guarded = f.s.broker.Image().RulesVersion, f.s.guarded(f.c)
	i := 0
	for j := range f.topics {
		t := &f.topics[j]
		f.resolveTopic(t)
		for range t.parts {
			f.resolvePart(t, &f.parts[i])
			i++
		}
	}
}

// resolveTopic finds a topic by what the request calls it. An id that was known by a name and is not
// any more belongs to a topic that is gone, perhaps with another of that name in its place.
func (f *fetch) resolveTopic(t *fetchTopic) {
	views := f.s.views()
	t.code = errUnknownTopicOrPartition
	switch {
	case !f.byTopicID():
		t.view = views.byName[string(t.name)] // does not allocate
	case views.byID[t.id] != nil:
		t.view = views.byID[t.id]
	case t.name == nil:
		t.view, t.code = nil, errUnknownTopicID
	default:
		if t.view = nil; views.byName[string(t.name)] != nil {
			t.code = errInconsistentTopicID
		}
	}
	if f.guarded && !f.mayRead(t) {
		t.view, t.code = nil, errTopicAuthorizationFailed
	}
}

// mayRead: a topic that is not there is refused like one that is, to whom may read neither.
func (f *fetch) mayRead(t *fetchTopic) bool {
	switch {
	case t.view != nil:
		return f.s.mayTopic(f.c, access.Read, t.view.name)
	case t.name == nil:
		return true // an id that is unknown to everybody
	}
	return f.s.mayTopic(f.c, access.Read, string(t.name))
}

func (f *fetch) resolvePart(t *fetchTopic, p *fetchPart) {
	if t.view == nil {
		p.partition, p.code = nil, t.code
		return
	}
	p.atReplica = false
	p.partition, p.code = f.s.partitionIn(t.view.name, p.index, p.epoch)
	if p.code == errNotLeaderOrFollower && f.nearby() {
		if replica := f.s.replica(t.view, p.index); replica != nil {
			p.partition, p.code, p.atReplica, f.replicas = replica, errNone, true, true
		}
	}
	if f.byTopicID() && p.code == errNone && p.partition.ID().Topic != t.id { // made anew since the views were
		p.partition, p.code = nil, errInconsistentTopicID
	}
}

// astray looks for offsets out of range, and says whether one lies behind the end of its log as this broker knows it.
func (f *fetch) astray() (behind bool) {
	for i := range f.parts {
		p := &f.parts[i]
		if p.code == errNone && outOfRange(p.partition, p.offset) {
			p.code = errOffsetOutOfRange
			behind = behind || !p.atReplica && p.offset > p.partition.LogStart()
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
	for j := range f.topics {
		t := &f.topics[j]
		for range t.parts {
			p := &f.parts[i]
			i++
			if p.code != errOffsetOutOfRange || p.atReplica {
				continue
			}
			if err != nil {
				p.partition, p.code = nil, errNotLeaderOrFollower
				continue
			}
			if f.resolvePart(t, p); p.code == errNone && outOfRange(p.partition, p.offset) {
				p.code = errOffsetOutOfRange
			}
		}
	}
}
