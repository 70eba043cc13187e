package control

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// recovery is the election of one partition whose members have restarted or are not there, so that nobody leads by rule (E6).
type recovery struct {
	epoch   int32         // partition epoch; answers to questions of another are worth nothing
	since   time.Duration // when somebody was there to be elected, and all that had answered were
	asked   map[int32]time.Duration
	first   time.Duration // when the first of the answers came
	answers map[int32]answer
}

// answer is how far the log of one process is.
type answer struct {
	brokerEpoch int64
	entry       log.Epoch
	end         log.Offset
}

func (a answer) compare(b answer) int {
	return cmp.Or(cmp.Compare(a.entry, b.entry), cmp.Compare(a.end, b.end))
}

// Logs takes the answer to a Question, whole or in parts. It is a sign of life. States of another partition epoch than the one in force are
// dropped: meanwhile somebody may have led, and what the broker had then says nothing.
func (c *Controller) Logs(now time.Duration, brokerID int32, brokerEpoch int64, states []LogState) {
	p := c.peers[brokerID]
	if p == nil || p.epoch != brokerEpoch {
		return
	}
	c.Heard(now, brokerID, brokerEpoch)
	for _, s := range states {
		if r := c.open[s.Partition]; r != nil && r.epoch == s.PartitionEpoch {
			if _, asked := r.asked[brokerID]; asked {
				if len(r.answers) == 0 {
					r.first = now
				}
				r.answers[brokerID] = answer{brokerEpoch, s.EpochEntry, s.End}
				c.stale = true
			}
		}
	}
}

// recover asks for logs and elects among those who answered (E6).
func (c *Controller) recover(now time.Duration, d *draft) (ask []Question) {
	seen := make(map[meta.PartitionName]bool, len(c.open))
	elect := &meta.ElectLeaders{Kind: meta.ElectRecovered}
	for _, t := range d.im.Topics() {
		for i := range t.Partitions {
			name, p := meta.PartitionName{Topic: t.ID, Index: int32(i)}, &t.Partitions[i]
			if p.Leader != meta.NoLeader || !slices.ContainsFunc(members(p), c.there(d.im)) {
				continue
			}
			seen[name] = true
			r := c.recovery(now, d.im, name, p)
			if choice, ok := c.choose(now, d.im, r, p); ok && len(elect.Elect) < meta.MaxAlterations {
				choice.Topic, choice.Index = name.Topic, name.Index
				elect.Elect = append(elect.Elect, choice)
				continue
			}
			ask = c.question(now, d.im, ask, name, r, p)
		}
	}
	for name := range c.open {
		if !seen[name] {
			delete(c.open, name)
		}
	}
	if len(elect.Elect) > 0 {
		d.add(elect)
	}
	return ask
}

// members are all that may hold everything (E3).
func members(p *meta.Partition) []int32 { return slices.Concat(p.ISR, p.ELR) }

// there says of a broker whether it is not fenced.
func (c *Controller) there(im *meta.Image) func(int32) bool {
	return func(id int32) bool { b := im.Broker(id); return b != nil && !b.Fenced }
}

// recovery is the state of an election, brought up to date.
func (c *Controller) recovery(now time.Duration, im *meta.Image, name meta.PartitionName, p *meta.Partition) *recovery {
	r := c.open[name]
	if r == nil {
		r = &recovery{epoch: p.PartitionEpoch, since: now, asked: map[int32]time.Duration{}, answers: map[int32]answer{}}
		c.open[name] = r
	}
	for id, a := range r.answers {
		switch b := im.Broker(id); {
		case b == nil || b.Fenced:
			// Its log may be the longest that is known, and it was there a moment ago: it is waited for as at the beginning.
			delete(r.answers, id)
			delete(r.asked, id)
			r.since = now
		case b.Epoch != a.brokerEpoch:
			delete(r.answers, id)
			delete(r.asked, id)
		}
	}
	if r.epoch != p.PartitionEpoch {
		r.epoch = p.PartitionEpoch
		clear(r.asked)
		clear(r.answers)
	}
	return r
}

// choose elects the member with the greatest log once all have answered, or once the grace period is over. It never takes one while a
// greater log is known, whoever has it.
func (c *Controller) choose(now time.Duration, im *meta.Image, r *recovery, p *meta.Partition) (meta.Choice, bool) {
	end, missing := r.since+c.timing.Grace, false
	for _, id := range members(p) {
		if _, answered := r.answers[id]; !answered {
			missing = true
			if c.hears(now, id) { // it is there, and will say it: a change of the partition may have just voided what it said
				end = max(end, r.first+c.timing.inDoubt())
			}
		}
	}
	if missing && now < end {
		c.wakeAt(end)
		return meta.Choice{}, false
	}
	if len(r.answers) == 0 { // question sees to it
		return meta.Choice{}, false
	}
	greatest := slices.MaxFunc(slices.Collect(maps.Values(r.answers)), answer.compare)
	for _, id := range order(p) {
		a, ok := r.answers[id]
		if b := im.Broker(id); ok && a.compare(greatest) == 0 && !b.Stopping && c.hears(now, id) {
			return meta.Choice{PartitionEpoch: p.PartitionEpoch, Leader: id, Missing: missing}, true
		}
	}
	c.wakeAt(now + c.timing.Renew) // who has it is late, or stops; heard again it leads, fenced it is waited for
	return meta.Choice{}, false
}

// order are the members, best first where their logs are the same: preferred leaders of the ISR, then those of the ELR.
func order(p *meta.Partition) []int32 {
	ids := members(p)
	slices.SortStableFunc(ids, func(a, b int32) int {
		return cmp.Or(
			-cmp.Compare(btoi(slices.Contains(p.ISR, a)), btoi(slices.Contains(p.ISR, b))),
			cmp.Compare(slices.Index(p.Replicas, a), slices.Index(p.Replicas, b)),
		)
	})
	return ids
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// question asks those members of p that are there and have not answered, each once in a renewal interval.
func (c *Controller) question(now time.Duration, im *meta.Image, ask []Question, name meta.PartitionName, r *recovery, p *meta.Partition) []Question {
	for _, id := range members(p) {
		_, answered := r.answers[id]
		if answered || !c.there(im)(id) {
			continue
		}
		if at, asked := r.asked[id]; asked && now-at < c.timing.Renew {
			c.wakeAt(at + c.timing.Renew)
			continue
		}
		i := slices.IndexFunc(ask, func(q Question) bool { return q.BrokerID == id })
		if i < 0 {
			i = len(ask)
			ask = append(ask, Question{BrokerID: id, BrokerEpoch: im.Broker(id).Epoch})
		}
		if len(ask[i].Partitions) < meta.MaxAlterations {
			ask[i].Partitions = append(ask[i].Partitions, name)
			r.asked[id] = now
		}
		c.wakeAt(now + c.timing.Renew)
	}
	return ask
}
