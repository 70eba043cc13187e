package kafka

import (
	"maps"
	"slices"
	"time"

	"github.com/weir-io/weir/bridge/group"
)

// step lets a group take a step of run's, unless it has ended meanwhile.
func (c *coordinator) step(e *groupEntry, take func() group.Effects) {
	e.mu.Lock()
	if e.gone || !e.term.serving() {
		e.mu.Unlock()
		return
	}
	before := e.g.State()
	c.unlock(e, before, take())
}

// each calls fn for every group there is at some moment, unlocked.
func (c *coordinator) each(fn func(e *groupEntry)) {
	for p := range c.terms {
		t := c.terms[p].Load()
		if t == nil || !t.serving() {
			continue
		}
		t.mu.RLock()
		entries := slices.Collect(maps.Values(t.groups))
		t.mu.RUnlock()
		for _, e := range entries {
			fn(e)
		}
	}
}

// expire looks for offsets that are too old and groups that have none.
func (c *coordinator) expire() {
	now := time.Now()
	if !c.steps.calm(now.Round(0), now) || !c.cfg.ClockTrusted() {
		return
	}
	c.each(func(e *groupEntry) {
		c.step(e, func() group.Effects {
			if len(e.pending) > 0 { // a transaction is not over
				return group.Effects{}
			}
			fx := e.g.Expire(now)
			if n := len(fx.Writes); n > 0 {
				c.n.expired.Add(int64(n))
				c.log.Info("kafka: offsets expired", "group", e.id, "partitions", n)
			}
			return fx
		})
	})
}

// noteTopics remembers which topics there are, and returns those that were
// there before and are not, or are another incarnation.
func (c *coordinator) noteTopics() (deleted []string) {
	was := c.topics.Load()
	is := group.NewTopics(was.Version()+1, c.cfg.listTopics())
	if was.Same(is) {
		return nil
	}
	c.topics.Store(is)
	return was.Gone(is)
}

// forgetDeletedTopics forgets the offsets of topics that no longer exist. A
// topic of the same name that is made later does not inherit them.
func (c *coordinator) forgetDeletedTopics() {
	if deleted := c.noteTopics(); deleted != nil {
		c.each(func(e *groupEntry) {
			c.forgetTopics(e, func(topic string) bool { return slices.Contains(deleted, topic) })
		})
	}
}

func (c *coordinator) forgetTopics(e *groupEntry, deleted func(topic string) bool) {
	c.step(e, func() (fx group.Effects) {
		for _, at := range e.g.Offsets() {
			if deleted(at.Topic) {
				if w, f := e.g.Forget(at); f == group.OK {
					fx.Writes = append(fx.Writes, w)
				}
			}
		}
		if n := len(fx.Writes); n > 0 {
			c.log.Info("kafka: offsets of deleted topics are forgotten", "group", e.id, "partitions", n)
		}
		return fx
	})
}
