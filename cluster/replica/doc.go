// Package replica decides how far a partition is committed, who is in sync, and what a follower does with what
// it is sent. It is the part of replication that can be wrong in interesting ways, so it is pure: no goroutine, clock, lock or
// I/O, and nothing but the standard library.
//
// # What it is for
//
// A Leader is what the leader of one partition knows in one term (leader epoch): who is in the in-sync set, what each replica
// has told to be durable, the high watermark that follows from it, and what the in-sync set should become. A Follower is the
// other side: what to ask for, and what an answer means for the log. The broker feeds both what happened (own journal synced, a fetch
// came, metadata changed) and carries out what they say.
//
// # What it never does
//
// It does not read or write records, and it holds no offset that was not reported to be durable: written but unsynced
// bytes do not exist here (H2). It changes no in-sync set: the controller does, on the leader's proposal (I1).
//
// # Invariants
//
// They stand at the fields they bind; Leader.Check tests them.
//
//   - H1: what a follower has synced is its vote. Where it reads next is not; but that is where its log is compared.
//   - H2: the leader's own vote is its durable end, not its log end.
//   - H3: the high watermark is the lowest vote of everybody who is in sync, or may become so by a proposal that is not answered
//     yet, or keeps up and could be proposed. Whoever has not fetched in this term counts as having nothing, and so does a
//     process other than the one that voted. An answer that tells a follower to truncate makes its fetch no vote. A vote counts
//     only when the beginning of this epoch is synced in the voter's journal with it: after a power cut, logs are compared by
//     their newest epoch first (E6), so whoever has voted must not look older than a log that was cut off before.
//   - H4: while fewer members are in sync than the effective minimum, the high watermark stands still. The
//     effective minimum is min(min.insync.replicas, replicas), or a topic of one replica could never commit.
//   - H5: the high watermark does not fall within a term.
//   - H6: an append that must reach all in-sync replicas is refused, before anything is written, while they are too few.
//   - H7: a follower's high watermark is the lower of its leader's and its own log end; an answer of another epoch is dropped, and so
//     is one to a question about another log end or another record before it: the log may have come back to the same length.
//   - H8: a fetch that names another epoch changes nothing here.
//   - I2: at most one proposal at a time; until the metadata shows what became of it, it counts as in force and as not.
//   - I3: a member that has not caught up with the log end for LagTime is proposed for removal.
//   - I4: a replica is proposed that fetched in this term, as the process that the metadata knows, and has synced up to the high
//     watermark and up to where this term began.
//   - I8: what a replica outside of the in-sync set has told counts only if it knew by then that, and whether, replicas had left the assignment: one that
//     was among them and has been given the partition again will drop the log of which it tells when it hears of that.
//   - E5: a member that has started anew is proposed as proven under the same condition.
//   - E7: what a replica has told is void once it counts as damaged; from then on only what it tells of a log that was begun anew counts, so that a
//     late fetch of the old one votes for nothing.
//   - T1, T2: a follower truncates only where the leader of its own epoch says that their logs part, and appends nothing in an epoch before
//     it has been told that they do not.
//   - T4: nothing below a follower's high watermark is cut, unless the epoch began uncleanly: it is damage. So is a log that cannot be cut where it parts
//     from the leader's.
//   - T5: a follower whose log ends at or before its leader's log start begins anew there: nothing that it has can be compared with what the leader has,
//     and it may be another's. Its high watermark gets there once that is deleted and not before, or its readers would be given that as committed.
//
// Package model, below, searches the whole design for schedules that break it; its doc.go lists those that were found.
//
// testdata/*.txt are scenarios: what happens, and the state after each step.
//
// Package model searches the whole of replication, of which this is a part, for schedules that break it; its doc.go
// has the holes that were found and the rules as mended.
package replica
