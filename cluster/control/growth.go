package control

import (
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// minInsyncConfig is the config of topics whose operator has fixed min.insync.replicas: growing leaves it as it is.
const minInsyncConfig = "min.insync.replicas"

// AutoReplicas is how many replicas and in-sync replicas a new topic gets that asks for no number (C7).
func AutoReplicas(im *meta.Image) (replicas, minInsync int) { return auto(len(serving(im))) }

// auto is the rule of C7: as many replicas as there are brokers for data, at most three.
func auto(brokers int) (replicas, minInsync int) {
	if brokers >= 3 {
		return 3, 2
	}
	return max(brokers, 1), 1
}

// follows says whether the number of replicas of t follows the number of brokers.
func follows(t *meta.Topic) bool { return t.AutoReplicas || t.Internal }

// present are the brokers that replicas may grow onto: those that have been there for a while (C7).
func (c *Controller) present(now time.Duration, im *meta.Image) (ids []int32) {
	for _, id := range serving(im) {
		if at := c.peers[id].up + presentFor; at > now {
			c.wakeAt(at)
		} else {
			ids = append(ids, id)
		}
	}
	return ids
}

// grow adds replicas to topics that follow the number of brokers (C7), while all are heard. It never takes one away: a broker that is fenced comes back.
func (c *Controller) grow(now time.Duration, d *draft) {
	pool := c.present(now, d.im)
	if len(pool) < 2 {
		return
	}
	l, room := count(d.im), maxGrowing-growing(d.im)
	for _, t := range d.im.Topics() {
		if room <= 0 {
			return // an end of one that is under way calls Step
		}
		if cmd := c.growth(now, d.im, l, t, pool, room); cmd != nil && d.add(cmd) {
			room -= len(cmd.Moves)
		}
	}
}

// growing is how many partitions copy themselves from a leader to replicas that are there.
func growing(im *meta.Image) (n int) {
	for _, t := range im.Topics() {
		n += copying(im, t)
	}
	return n
}

func copying(im *meta.Image, t *meta.Topic) (n int) {
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if p.Leader != meta.NoLeader && slices.ContainsFunc(p.Adding, func(id int32) bool { return !im.Broker(id).Fenced && !slices.Contains(p.ISR, id) }) {
			n++
		}
	}
	return n
}

// growth is the next step of one topic, nil if there is none. A partition gets one replica at a time, and min.insync.replicas 2 comes with the last
// (I7), but not before two replicas of each partition that is led are in sync: the entry would stop all appends until they are (H4, H6).
func (c *Controller) growth(now time.Duration, im *meta.Image, l *load, t *meta.Topic, pool []int32, room int) *meta.Reassign {
	if !follows(t) || copying(im, t) > 0 {
		return nil
	}
	replicas, minInsync := auto(len(pool))
	cmd := &meta.Reassign{ID: t.ID, Expect: t.Version}
	complete := true // each partition has all its replicas after this entry
	l.of(t)
	for i := range t.Partitions {
		p := &t.Partitions[i]
		has := c.holding(now, im, p)
		if len(has) >= replicas {
			continue
		}
		complete = complete && len(has)+1 == replicas
		if p.Leader == meta.NoLeader || p.Moves() && len(has) == len(p.Target()) || len(cmd.Moves) == room {
			complete = false
			continue
		}
		if to := l.resize(im, p, has, pool, len(has)+1); len(to) > len(has) {
			l.replace(p.Target(), to)
			cmd.Moves = append(cmd.Moves, meta.Move{Index: int32(i), Replicas: to})
		} else {
			complete = false
		}
	}
	_, fixed := t.Configs[minInsyncConfig]
	if complete && !fixed && minInsync > max(t.MinInsync, 1) && twoInSync(t) {
		cmd.MinInsync = minInsync
	}
	if len(cmd.Moves) == 0 && cmd.MinInsync == 0 {
		return nil
	}
	return cmd
}

// holding are the replicas that p will have, without those that are yet to come and have been away for long: another takes their place.
func (c *Controller) holding(now time.Duration, im *meta.Image, p *meta.Partition) []int32 {
	return slices.DeleteFunc(p.Target(), func(id int32) bool {
		if !slices.Contains(p.Adding, id) || !im.Broker(id).Fenced {
			return false
		}
		back := c.peers[id].down + awayFor
		if now < back {
			c.wakeAt(back)
		}
		return now >= back
	})
}

// twoInSync says whether each partition of t that is led has two replicas in sync that stay.
func twoInSync(t *meta.Topic) bool {
	for i := range t.Partitions {
		p := &t.Partitions[i]
		staying := 0
		for _, id := range p.ISR {
			if !slices.Contains(p.Removing, id) {
				staying++
			}
		}
		if p.Leader != meta.NoLeader && staying < 2 {
			return false
		}
	}
	return true
}
