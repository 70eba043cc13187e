package uplink

import (
	"context"
	"fmt"
	"time"
)

// Where a partition has no replica here it is read from its leader, and a leader that hangs answers no read before it is given up. One such read is waited for; then all
// partitions that are read from there are left out, until the leader has answered a look that nobody else waits for (U7).

// remote is a Log that may be read from another node.
type remote interface {
	// Leader is that node; false when the partition is read here.
	Leader() (node int32, is bool)
}

func (p *part) leader() (int32, bool) {
	if r, is := p.log.(remote); is {
		return r.Leader()
	}
	return 0, false
}

const (
	slowRead   = time.Second // a read that fails later than this is one of a leader that hangs
	lookEvery  = time.Second
	leaderAway = maxBackOff // from one look to the next at the most
)

// unreadableNow leaves a partition out that could not be read, and with it all that are read from the same leader if that has not answered.
func (f *Forwarder) unreadableNow(p *part, took time.Duration, why error) {
	node, is := p.leader()
	if !is || took < slowRead {
		f.block(p, time.Now().Add(time.Second), why)
		return
	}
	why = fmt.Errorf("node %d does not answer: %w", node, why)
	f.mu.Lock()
	defer f.mu.Unlock()
	if told := f.away[node]; told != nil { // who looks lets go on what was left out for that reason
		f.leaveOut(node, told)
		return
	}
	n := f.leaveOut(node, why)
	f.Logger.Warn("an uplink leaves the partitions out that it reads from a node which does not answer", "node", node, "partitions", n, "error", why)
	f.away[node] = why
	f.looks.Go(func() { f.look(f.running, node, p, why) })
}

// leaveOut leaves out what is read from a node, and says how many partitions that are. Under mu.
func (f *Forwarder) leaveOut(node int32, why error) (n int) {
	for _, p := range f.parts {
		if p.log == nil {
			continue
		}
		if at, is := p.leader(); is && at == node {
			p.until, p.why = time.Now().Add(leaderAway), why
			n++
		}
	}
	return n
}

// leftOut says whether a partition is.
func (f *Forwarder) leftOut(p *part) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Before(p.until)
}

// look reads from a node until it answers or somebody else leads the partition, and then lets what was left out go on.
func (f *Forwarder) look(ctx context.Context, node int32, p *part, why error) {
	for ctx.Err() == nil {
		f.sleep(ctx, lookEvery)
		f.mu.Lock()
		at := max(p.cursor.Next, p.log.LogStart())
		f.mu.Unlock()
		asked := time.Now()
		_, err := p.log.Read(at, 1, nil)
		answered := err == nil || time.Since(asked) < slowRead // whatever it says of this partition
		leads, is := p.leader()
		f.mu.Lock()
		if answered || !is || leads != node {
			delete(f.away, node)
			for _, o := range f.parts {
				if o.why == why {
					o.until = time.Time{}
				}
			}
			f.mu.Unlock()
			f.poke()
			return
		}
		f.leaveOut(node, why)
		f.mu.Unlock()
	}
}
