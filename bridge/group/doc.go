// Package group is the consumer-group coordinator's decision maker: Kafka's
// classic group protocol (JoinGroup, SyncGroup, Heartbeat, LeaveGroup) and the
// rules by which offsets are committed, as a state machine.
//
// It is pure: no goroutine, no clock, no randomness, no I/O, standard library
// only. Every step takes `now` and returns what the shell has to do (Effects):
// answers to requests that wait, group state to store, offsets to write. The
// shell (bridge/kafka) owns locks, timers, sockets and the table that keeps
// things; it knows Kafka's error codes and record formats, this package knows
// neither.
//
// # States
//
//	Empty                no members; offsets may be kept
//	PreparingRebalance   members are asked to (re)join; ends when all have, or at
//	                     the rebalance timeout, which drops those that have not
//	CompletingRebalance  members know the generation; the leader's assignment is
//	                     awaited and then stored
//	Stable               every member may fetch its assignment and heartbeat
//	Dead                 being removed; nothing is accepted any more
//
// # What it holds to
//
//   - D11: an assignment, the end of a group's last generation, a static member's
//     new id and a committed offset are answered only after the shell reported
//     them stored (Stored, Committed). What was acked is what a restart brings back.
//   - Every request that waits is answered exactly once: by the step it waited
//     for, by a timeout, or because its member is gone or asked again.
//   - A generation never comes back: each completed join phase has a greater
//     number than all stored ones, so a zombie of an older one is refused.
//   - No client silence stops a group for ever: each wait has a deadline, and
//     Next names a moment not later than the earliest of them.
//   - Memory is bounded by Config: members, ids handed out, bytes of
//     subscriptions and assignments, length of an offset's metadata.
//
// # Choices
//
// Members that were handed an id and have not used it (KIP-394) count towards
// the limit of members, so a flood of first joins cannot grow a group.
//
// A static member (KIP-345) that did not rejoin in time stays in the group
// until its session ends, and owes no SyncGroup. If a static member comes back
// under the same name into a stable group with the same topics, it gets its
// old assignment and nobody else notices; with other topics the group
// rebalances (Kafka only looks at the protocol's name there, and such a member
// would wait for its new topic until something else happens).
//
// The initial rebalance delay is 300 ms (Kafka: 3 s). An edge site runs a
// handful of consumers that start together or one at a time; waiting 3 s for
// company costs each test and each restart more than the one additional
// rebalance that the delay would have saved.
//
// Cooperative rebalancing (KIP-429) needs nothing here: it is two ordinary
// rebalances with an assignor that gives up partitions in the first.
//
// Sources: KIP-62, KIP-134, KIP-211, KIP-345, KIP-394, KIP-814 and the protocol
// guide of Apache Kafka.
package group
