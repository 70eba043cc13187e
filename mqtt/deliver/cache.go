package deliver

import (
	"cmp"
	"slices"
)

// noSubscribers serves all topics that nobody wants.
var noSubscribers []hit

// matchCache remembers the subscribers of the topics that one worker saw last. Two halves stand in
// for an LRU: what was not asked for while one half filled is dropped. Not for concurrent use.
type matchCache struct {
	x          *index
	young, old map[string]*result
	limit      int // entries per half
	lastTopic  []byte
	last       *result
	subs       []*subscription // scratch
	// sets holds the merged hits of each set of subscriptions: a thousand sessions on '#' are merged
	// once, not for every topic. weight is the number of hits in it.
	sets   map[uint64]*hitSet
	weight int
}

// hitSet is the merge of one set of subscriptions.
type hitSet struct {
	generation uint64
	subs       []*subscription
	hits       []hit
}

// maxHits bounds the hits that one worker's cache holds; a hit takes some 90 B.
const maxHits = 64 << 10

func newMatchCache(x *index, limit int) *matchCache {
	c := &matchCache{x: x, limit: max(limit/2, 1)}
	c.clear()
	return c
}

// lookup gives the subscribers of a topic. The result must not be kept.
func (c *matchCache) lookup(topic []byte) *result {
	generation := c.x.generation.Load()
	if c.last != nil && c.last.generation == generation && string(c.lastTopic) == string(topic) {
		return c.last
	}
	r := c.young[string(topic)]
	if r == nil {
		if r = c.old[string(topic)]; r != nil {
			c.keep(string(topic), r)
		}
	}
	if c.weight > maxHits {
		c.clear()
		r = nil
	}
	if r == nil {
		r = &result{}
		c.keep(string(topic), r)
		c.compute(topic, r)
	} else if r.generation != generation {
		c.compute(topic, r)
	}
	c.last, c.lastTopic = r, append(c.lastTopic[:0], topic...)
	return r
}

func (c *matchCache) clear() {
	c.young, c.old, c.last = map[string]*result{}, nil, nil
	c.sets, c.weight = map[uint64]*hitSet{}, 0
}

func (c *matchCache) keep(topic string, r *result) {
	if len(c.young) >= c.limit {
		c.old, c.young = c.young, make(map[string]*result, len(c.young)/2)
	}
	c.young[topic] = r
}

// compute fills a result; an invalid topic has no subscribers.
func (c *matchCache) compute(topic []byte, r *result) {
	c.x.mu.RLock()
	r.generation = c.x.generation.Load()
	c.subs = c.subs[:0]
	if validTopic(topic) {
		c.subs = c.x.match(topic, c.subs)
	}
	c.x.mu.RUnlock()
	r.hits = c.merge(r.generation)
	clear(c.subs)
}

// merge gives the hits of the set in c.subs.
func (c *matchCache) merge(generation uint64) []hit {
	if len(c.subs) == 0 {
		return noSubscribers
	}
	key := uint64(14695981039346656037) // FNV-1a, by whole numbers
	for _, sub := range c.subs {
		key = (key ^ sub.seq) * 1099511628211
	}
	set := c.sets[key]
	if set != nil && set.generation == generation && slices.Equal(set.subs, c.subs) {
		return set.hits
	}
	if set != nil {
		c.weight -= len(set.hits) + 1
	}
	set = &hitSet{generation: generation, subs: slices.Clone(c.subs)}
	set.hits = mergeHits(slices.Clone(c.subs))
	c.sets[key] = set
	c.weight += len(set.hits) + 1
	return set.hits
}

// mergeHits groups subscriptions by session. It takes kept over.
func mergeHits(kept []*subscription) []hit {
	slices.SortStableFunc(kept, func(a, b *subscription) int { return cmp.Compare(a.s.seq, b.s.seq) })
	hits := make([]hit, 0, len(kept))
	for i := 0; i < len(kept); {
		j := i + 1
		for j < len(kept) && kept[j].s == kept[i].s {
			j++
		}
		h := hit{s: kept[i].s, subs: kept[i:j:j], plain: true}
		for _, sub := range h.subs {
			sub.settle()
			h.plain = h.plain && !sub.noLocal && sub.since.Load() == nil
			h.add(sub)
		}
		hits = append(hits, h)
		i = j
	}
	return hits
}
