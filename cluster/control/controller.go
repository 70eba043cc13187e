package control

import (
	"time"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Controller decides what the metadata needs while one node leads the quorum. It is not safe for concurrent use.
//
// All times are of one monotonic clock that goes on while the machine sleeps (CLOCK_BOOTTIME), and never fall from one call to the next.
type Controller struct {
	timing Timing
	begun  time.Duration
	peers  map[int32]*peer // registered brokers
	open   map[meta.PartitionName]*recovery

	preferred time.Duration // when the last round of leaderships given back was ordered
	stepped   time.Duration // the last Step
	wake      time.Duration // when something is due that no event tells
	stale     bool          // an event came that Step has not seen
}

// Orders is what a Step wants done.
type Orders struct {
	// Commands are to be proposed in this order, one after the other was applied. The first that fails takes those behind it with it: they
	// were decided on what it would have changed (C1). Step then decides again.
	Commands []meta.Command
	// Ask names the brokers that are to tell how far their logs are. Logs takes the answers; a question without one is asked again.
	Ask []Question
}

// Question asks one process for its logs of some partitions.
type Question struct {
	BrokerID    int32
	BrokerEpoch int64
	Partitions  []meta.PartitionName // at most meta.MaxAlterations
}

// LogState is what a broker holds of one partition.
type LogState struct {
	Partition      meta.PartitionName
	PartitionEpoch int32      // of the metadata that was in force at the broker when it looked
	EpochEntry     log.Epoch  // newest epoch whose beginning is synced in its journal (replica/model, hole 1)
	End            log.Offset // durable log end
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// Begin makes the controller of a node that has begun to lead the quorum. im is what it has applied after its barrier (C5): everything that
// any leader before it committed. t must be valid. Whoever stops leading drops the Controller.
func Begin(t Timing, now time.Duration, im *meta.Image) *Controller {
	c := &Controller{
		timing: t, begun: now, preferred: now - preferEvery, stale: true,
		peers: map[int32]*peer{}, open: map[meta.PartitionName]*recovery{},
	}
	c.see(now, im)
	for _, p := range c.peers {
		p.spoke = false
	}
	return c
}

// Heard notes a renewal of a broker's lease. One of another process than the metadata knows is no sign of life.
func (c *Controller) Heard(now time.Duration, brokerID int32, brokerEpoch int64) {
	p := c.peers[brokerID]
	if p == nil || p.epoch != brokerEpoch {
		return
	}
	p.heard, p.spoke, p.gone = now, true, false
	c.stale = c.stale || p.fenced
}

// Gone notes that a process has said itself that it serves nothing any more: it has stopped (E8), is stalled (E9), or its log has
// failed (A6). It is fenced without waiting for its lease. When it is heard again it is let back.
func (c *Controller) Gone(now time.Duration, brokerID int32, brokerEpoch int64) {
	p := c.peers[brokerID]
	if p == nil || p.epoch != brokerEpoch || p.gone {
		return
	}
	p.gone, p.goneAt = true, now
	c.stale = true
}

// Step says what is to be done now. im is the newest Image, with the Commands of the Step before in it or given up. It is due when
// the Image changed, and at Next. Without anything to change it orders nothing, however often it is called (C6).
func (c *Controller) Step(now time.Duration, im *meta.Image) Orders {
	c.see(now, im)
	c.stepped, c.wake, c.stale = now, never, false
	d := &draft{im: im}
	fenced := c.fence(now, d) // first of all (replica/model, holes 5 and 6)
	c.unfence(d)
	c.see(now, d.im) // who is let back has not been there for long
	ask := c.recover(now, d)
	switch {
	case !fenced:
		c.wakeAt(now + c.timing.Renew/2)
	case !c.Settled(now, d.im):
		c.wakeAt(now + c.timing.Renew)
	default:
		c.prefer(now, d)
		c.grow(now, d)
		drainAll(d)
	}
	if len(d.commands) > 0 { // a look at whether it came to pass
		c.wakeAt(now + c.timing.Renew)
	}
	return Orders{d.commands, ask}
}

// Next is when Step is to be called at the latest.
func (c *Controller) Next(now time.Duration) time.Duration {
	if c.stale {
		return now
	}
	return max(now, min(c.wake, c.nextFence()))
}

func (c *Controller) wakeAt(t time.Duration) { c.wake = min(c.wake, t) }

// draft is a row of commands under construction, and the Image as it will be after them.
type draft struct {
	im       *meta.Image
	commands []meta.Command
}

// add takes cmd if it changes something. What it was decided on is d.im, so it is refused only where a rule is stricter than ours.
func (d *draft) add(cmd meta.Command) bool {
	next, _, err := d.im.Apply(cmd)
	if err != nil {
		return false
	}
	d.im, d.commands = next, append(d.commands, cmd)
	return true
}
