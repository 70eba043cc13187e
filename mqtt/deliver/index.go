package deliver

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weir-io/weir/log"
)

// index is the trie of topic filters. DESIGN.md says why it is ours and not mochi's. Changes take
// the lock and move the generation; workers match under the read lock, and seldom, since they cache
// results by generation (D8).
type index struct {
	mu         sync.RWMutex
	root       node
	seq        uint64
	generation atomic.Uint64
}

// node is one level of filters. A node without subscriptions and children is removed at once.
type node struct {
	children map[string]*node
	subs     []*subscription
}

// subscription is one session's (or group's) subscription to one filter. Its fields do not change
// after it is in the index: subscribing again replaces it.
type subscription struct {
	s       *session
	seq     uint64 // differs between all that are or were in the index; set by put
	filter  string
	qos     byte
	noLocal bool
	rap     bool // retain as published
	id      uint32
	// since guards partitions that were not scanned to their end, or lagged, when the subscription was
	// made: earlier records in them are none of its business. nil once it cannot matter any more.
	since atomic.Pointer[Cursor]
}

// covers says whether a record is late enough for the subscription.
func (sub *subscription) covers(p *partition, offset log.Offset) bool {
	since := sub.since.Load()
	if since == nil {
		return true
	}
	from, _ := since.Next(p.id)
	return offset >= from
}

// settle drops the guard once the session has left the guarded range of every partition behind.
func (sub *subscription) settle() {
	since := sub.since.Load()
	if since == nil || sub.s.lagging.Load() > 0 {
		return
	}
	for _, pl := range since.at {
		// A partition that is not known may be one that opens late.
		if p := sub.s.h.partition(pl.id); p == nil || p.position(sub.s) < pl.next {
			return
		}
	}
	sub.since.Store(nil)
}

// put adds a subscription, replacing old if that is not nil.
func (x *index) put(sub, old *subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seq++
	sub.seq = x.seq
	n := &x.root
	rest, more := []byte(sub.filter), true
	for more {
		var level []byte
		level, rest, more = cutLevel(rest)
		next := n.children[string(level)]
		if next == nil {
			next = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[string(level)] = next
		}
		n = next
	}
	if i := slices.Index(n.subs, old); old != nil && i >= 0 {
		n.subs[i] = sub
	} else {
		n.subs = append(n.subs, sub)
	}
	x.generation.Add(1)
}

// remove takes a subscription out and prunes what it leaves empty.
func (x *index) remove(sub *subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.root.prune([]byte(sub.filter), true, sub)
	x.generation.Add(1)
}

// prune removes sub below n and reports whether n is empty now. The depth is at most maxLevels.
func (n *node) prune(rest []byte, more bool, sub *subscription) bool {
	if !more {
		if i := slices.Index(n.subs, sub); i >= 0 {
			n.subs = slices.Delete(n.subs, i, i+1)
		}
		return n.empty()
	}
	level, rest, more := cutLevel(rest)
	if child := n.children[string(level)]; child != nil && child.prune(rest, more, sub) {
		delete(n.children, string(level))
	}
	return n.empty()
}

func (n *node) empty() bool { return len(n.subs) == 0 && len(n.children) == 0 }

// match appends every subscription whose filter takes the topic. The lock must be held.
func (x *index) match(topic []byte, out []*subscription) []*subscription {
	// A wildcard in the first level does not match topics that begin with '$' [MQTT-4.7.2-1].
	return x.root.match(topic, true, topic[0] != '$', out)
}

// match descends one level per call; it goes as deep as the trie, never as deep as a hostile topic.
func (n *node) match(rest []byte, more, wild bool, out []*subscription) []*subscription {
	if wild {
		if child := n.children["#"]; child != nil {
			out = append(out, child.subs...) // '#' includes the level above it, so more does not matter
		}
	}
	if !more {
		return append(out, n.subs...)
	}
	if len(n.children) == 0 {
		return out
	}
	level, rest, more := cutLevel(rest)
	if child := n.children[string(level)]; child != nil {
		out = child.match(rest, more, true, out)
	}
	if wild {
		if child := n.children["+"]; child != nil {
			out = child.match(rest, more, true, out)
		}
	}
	return out
}

// hit is one session among the subscribers of a topic, its overlapping subscriptions merged: one
// copy with the highest QoS and all identifiers (MQTT 5.0 §3.3.4).
type hit struct {
	s    *session
	subs []*subscription
	// The merge of subs, good for every message of the topic when plain: no subscription is no-local
	// or guarded by since.
	plain bool
	grant
}

// grant is how one session gets one message.
type grant struct {
	qos byte
	rap bool
	ids []uint32
}

func (g *grant) add(sub *subscription) {
	g.qos = max(g.qos, sub.qos)
	g.rap = g.rap || sub.rap
	if sub.id != 0 {
		g.ids = append(g.ids, sub.id)
	}
}

// resolve is the grant for one message; ids is scratch for its identifiers. ok is false when no
// subscription is left after no-local [MQTT-3.8.3-3] and the guards.
func (h *hit) resolve(p *partition, m *Message, ids []uint32) (g grant, ok bool) {
	if h.plain {
		return h.grant, true
	}
	g.ids = ids[:0]
	for _, sub := range h.subs {
		if sub.noLocal && string(m.Publisher) == sub.s.id && m.Publisher != nil || !sub.covers(p, m.Offset) {
			continue
		}
		g.add(sub)
		ok = true
	}
	return g, ok
}

// result is the subscribers of one topic at one generation of the index.
type result struct {
	generation uint64
	hits       []hit // by session sequence number
	// The collector that saw the topic last, by its id, and what it knows of it.
	seenBy uint64
	seen   *sighting
}

// find is the hit of one session, nil if it does not subscribe.
func (r *result) find(s *session) *hit {
	i, ok := slices.BinarySearchFunc(r.hits, s.seq, func(h hit, seq uint64) int { return cmp.Compare(h.s.seq, seq) })
	if !ok {
		return nil
	}
	return &r.hits[i]
}
