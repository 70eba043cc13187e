// Package replica decides how far a partition is committed. It is the part of replication that can be
// wrong in interesting ways, so it is pure: no goroutine, clock, lock or I/O, and nothing but the standard library.
//
// # What it is for
//
// A Leader is what the leader of one partition knows in one term (leader epoch): who is in the in-sync set, what each
// of them has told to be durable, and the high watermark that follows from it. The broker feeds it what
// happened (own journal synced, in-sync set or configuration changed) and reads the high watermark and
// whether an append may be accepted.
//
// # What it never does
//
// It does not read or write records, and it holds no offset that was not reported to be durable: written but unsynced
// bytes do not exist here (H2).
//
// # Invariants
//
// They stand at the fields they bind; Leader.Check tests them.
//
//   - H2: the leader's own vote is its durable end, not its log end.
//   - H3: the high watermark is the lowest durable end in the in-sync set. A member that has not reported in this term
//     counts as having nothing.
//   - H4: while fewer members are in sync than the effective minimum, the high watermark stands still. The
//     effective minimum is min(min.insync.replicas, replicas), or a topic of one replica could never commit.
//   - H5: the high watermark does not fall within a term.
//   - H6: an append that must reach all in-sync replicas is refused, before anything is written, while they are too few.
//
// testdata/*.txt are scenarios: what happens, and the state after each step.
package replica
