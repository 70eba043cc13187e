// Package group is the consumer-group coordinator's decision maker: Kafka's
// classic group protocol (JoinGroup, SyncGroup, Heartbeat, LeaveGroup), the
// consumer protocol of KIP-848 (ConsumerGroupHeartbeat) and the rules by which
// offsets are committed, as a state machine.
//
// It is pure: no goroutine, no clock, no randomness, no I/O, standard library
// and package assign only. Every step takes `now` and returns what the shell has to do (Effects):
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
// A group of the consumer protocol is Empty, Stable when every member has what it is to
// have, Reconciling until then, or Dead.
//
// # The consumer protocol
//
// Here the broker assigns (package assign). Each member has a target, made for a
// group epoch, and comes to it by its own heartbeats:
//
//	target      what it is to have; made anew when members, subscriptions or topics change,
//	            which raises the group's epoch
//	assigned    what it is told to have
//	revoking    what it is told no longer, until its client has shown to have given it up
//	epoch       the group epoch that it has come to: once it revokes nothing it comes to
//	            the newest, and gets of its target what nobody else holds
//
// G1 to G6 hold after every step, whatever of the last steps a crash has left in the table:
//
//	G1  No partition is held (assigned or revoking) by two members that were told so.
//	G2  A member that heartbeats is told what is stored, epoch and partitions; so a
//	    restart brings back at least that, and the member goes on (D11).
//	G3  A member is fenced that comes with another epoch than its own, but for the one
//	    before the answer that it may not have got, and then only while it has no more than it holds.
//	G4  A member that gives up nothing for its rebalance timeout, or is silent for its
//	    session, is dropped. A static member that stepped away (epoch −2) keeps its target
//	    for one session.
//	G5  Once nothing changes and all heartbeat, every partition that is read has its member,
//	    and nothing more is stored.
//	G6  An offset is committed by a member in its own epoch, or in an older one since which it has had
//	    the partition: else somebody else may have read on. Offsets are fetched in its own epoch only.
//
// A group that has no members takes the protocol of the next one that joins. One of the classic protocol that has
// members, if they are consumers, becomes one of the consumer protocol when the first of those joins; its members,
// and others of their kind that come, are served as before, see mixed.go. It is back when they are alone. Epochs and
// generations are one sequence.
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
// A member of the consumer protocol is asked to beat every 3 s (Kafka: 5 s), and six
// times as often while it waits for what others are giving up: that is how long
// a rebalance takes.
//
// What patterns match and how many partitions topics had (Kafka's records 16 and 4) is not
// stored: after a restart targets are made anew, and the epoch is raised only if they differ.
//
// Cooperative rebalancing (KIP-429) needs nothing here: it is two ordinary
// rebalances with an assignor that gives up partitions in the first.
//
// Sources: KIP-62, KIP-134, KIP-211, KIP-345, KIP-394, KIP-814, KIP-848 and the protocol
// guide of Apache Kafka.
package group
