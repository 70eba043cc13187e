package control

import (
	"errors"
	"fmt"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// Timing is one row of the timings table. The figures are starting points; the relations that Validate checks are not.
type Timing struct {
	Quorum  meta.Timing
	Renew   time.Duration // from one renewal of a broker's lease to the next
	Stop    time.Duration // a lease ends so long after the renewal was sent
	Fence   time.Duration // a broker that is not heard for so long is fenced
	Grace   time.Duration // recovery.grace: how long an election waits for members that are not there (E6)
	LagTime time.Duration // replica.lag.time, see cluster/replica
}

// Profiles.
var (
	FastTiming = Timing{meta.FastTiming, 200 * time.Millisecond, 800 * time.Millisecond, 1200 * time.Millisecond, time.Minute, 10 * time.Second}
	LANTiming  = Timing{meta.LANTiming, time.Second, 4 * time.Second, 6 * time.Second, time.Minute, 10 * time.Second}
	EdgeTiming = Timing{meta.EdgeTiming, 1500 * time.Millisecond, 6 * time.Second, 9 * time.Second, time.Minute, 10 * time.Second}
)

// Validate answers all relations that t breaks.
func (t Timing) Validate() error {
	var faults []error
	demand := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	demand(t.Renew > 0, "renewals every %v: must be more than 0", t.Renew)
	demand(t.Stop >= 3*t.Renew, "a lease of %v: must outlast three renewals of %v, or one lost packet ends it", t.Stop, t.Renew)
	demand(t.Fence >= t.Stop+2*t.Renew, "fence after %v: must be two renewals of %v above the lease of %v, so that a broker has stopped before its successor "+
		"begins (R2), and brokers that die together are fenced together", t.Fence, t.Renew, t.Stop)
	demand(t.Quorum.Lease > 0 && t.Quorum.Lease <= t.Quorum.Heartbeat, "quorum lease of %v: must be above 0 and at most the heartbeat of %v", t.Quorum.Lease, t.Quorum.Heartbeat)
	demand(max(t.Quorum.Heartbeat, t.Quorum.Election) < t.Stop, "quorum elections of %v and %v: must take less than a lease of %v, or each stops all reads",
		t.Quorum.Heartbeat, t.Quorum.Election, t.Stop)
	demand(t.LagTime > t.Stop, "replica.lag.time of %v: must be above the lease of %v, or a leader shrinks away a member that still serves reads", t.LagTime, t.Stop)
	demand(t.Grace >= t.Fence, "recovery.grace of %v: must be at least the %v after which a broker is fenced", t.Grace, t.Fence)
	return errors.Join(faults...)
}

// inDoubt is how long a broker may be silent and still count as heard: one renewal may be late or lost.
func (t Timing) inDoubt() time.Duration { return 2 * t.Renew }

// silent is how long a broker must be silent to be fenced along with one that is due: its lease has ended, by a margin for clocks
// that run at different speeds. Brokers that died together with the one due are beyond it, see Validate.
func (t Timing) silent() time.Duration { return t.Stop + (t.Fence-t.Stop)/4 }

// Figures that no profile changes.
const (
	// presentFor is how long a broker must have been there before topics grow onto it (C7).
	presentFor = 10 * time.Second
	// awayFor is how long a broker may be away in the middle of growth before another takes its place.
	awayFor = time.Minute
	// backFor is how long a broker must have been there before it is given leaderships back: it may fall again.
	backFor = 30 * time.Second
	// preferEvery is the least time between two rounds of leaderships given back.
	preferEvery = 30 * time.Second
	// maxPreferred bounds how many partitions change their leader in one round.
	maxPreferred = 1000
	// maxGrowing bounds how many partitions copy themselves to new replicas at one time because topics grow.
	maxGrowing = 256
)
