package meta

import "time"

// Timing is one row of the timings table: how long members wait for each other.
type Timing struct {
	Heartbeat time.Duration // without word from the leader before a member asks for an election
	Election  time.Duration // before a candidate tries again
	Lease     time.Duration // a leader that does not reach a majority for so long steps down; at most Heartbeat
}

// Profiles. The relations to broker leases stand in package cluster: an election takes less time than a lease.
var (
	FastTiming = Timing{500 * time.Millisecond, 500 * time.Millisecond, 250 * time.Millisecond}
	LANTiming  = Timing{2 * time.Second, 2 * time.Second, time.Second}
	EdgeTiming = Timing{5 * time.Second, 5 * time.Second, 2500 * time.Millisecond}
)
