// Package model searches the design of replication for schedules that break it. It holds no code that the broker runs: it is the
// invariants A, H, I, E, T, R as a small machine, every step of which is tried in every order, until no new state turns up.
//
// # What is modelled
//
// One partition on one to three brokers and a controller whose entries are committed one after the other; each broker applies them in order,
// up to three entries late. A log is a row of (epoch, value) with a durable prefix and an epoch entry; the journal's sync is a step
// of its own, so that records travel before their leader has synced them (H2). Fetches are one step, or a
// message that comes late, after its sender is gone, or twice; so are ISR proposals (I2). Brokers crash and keep any part of what they had not
// synced; one disk may tell of syncs that it did not do, truncations among them, and forget back to the last true one at the next power cut (E6);
// all may lose power at once; a disk may be replaced by an old copy (E5). Fences, preferred leaders, clean shutdown (E8), stalls (E9), retention (T5),
// changes of min.insync (I7), moves to another broker, leases and a consumer that asks whoever it likes (R1, R2, R4). Registration, which is one
// step there, has a machine of its own in register.go (C4, E5).
//
// # What is not
//
// The journal's format and recovery (J1 to J6: log has tests of its own), mid-log damage (E7), time: a lag, a lease or a grace
// period may end whenever it could, so that all that time decides is tried both ways. H3's wait for a replica that is about to join only delays the
// HW; a fetch that is late does the same. Elections flagged unclean, and E6's when grace runs out, promise nothing and are left out. Batches
// are single records; compaction, transactions, ListOffsets (R3) and the quorum itself are elsewhere. A controller asks
// and commits in one step. What a disk that lies has alone (min.insync 1, or all others were fenced while it was well) is not promised.
//
// # What must hold in each state
//
//   - what any leader had below its HW is at that offset in the log of every later leader, and, while disks are true, durable at every member of ISR and ELR;
//   - two logs with a record of one epoch at one offset have the same record there; one leader per epoch; epochs grow (E2);
//   - below its HW a broker has what was committed; the HW of a leader does not fall in its term (H5); nobody is told to cut below
//     its HW (T4);
//   - a consumer reads one value at one offset, is never told OFFSET_OUT_OF_RANGE where it got by reading (R4), and is not served by a broker that
//     was deposed before it last renewed its lease (R2).
//
// Searches begin at small scenarios, each with a part of the above (scenario.go): one with everything does not end. States that differ in the
// names of brokers are one. `go test` searches those of small, 865 to 34,825 states each, and 60,318 of registration; WEIR_SOAK=1 those of large, 36,753 to
// 1,821,332 states each, about 24 million in all, and 2,679,262 of registration: all to their ends, 42 steps deep at most, and nothing broke.
// WEIR_MODEL_STATES bounds a search, for larger scenarios.
//
// Every rule is also left out in turn, and the search must then find a trace (TestBrokenRulesAreFound: 28 rules and 11 holes, in
// 3 to 16 steps). `go test -v -run Broken/A7` prints it. Two rules follow from others: while votes need the epoch
// entry (hole 1), I4's LESO and H3's "a diverging fetch acknowledges nothing" are not missed; E8's marker is safe if it is removed or if its BE is looked at.
//
// # Holes
//
// Where the design as it was first written broke, the shortest trace, and what it says now. A, B, C are brokers, [1p] is
// a log with record p of epoch 1, [1p / 1q] one that has synced p only.
//
// 1. E6 compared the epoch of the last record (E6, H3, A3). A leads in LE1 and has [1p] alone; B leads in LE2 and has [2q] alone; A leads in LE3.
// B cuts q and fetches p, and its disk lies both times. Both voted: p is committed, though in a later epoch than its own. Site power cut: A [1p],
// B [2q] again. E6 elects B, p is lost. It is the case of figure 8 in the Raft paper. Now: a leader journals its epoch entry (LE, LESO) when the
// term begins, not at its first append; a follower does when its log reaches LESO; a vote, the leader's own too, counts when that entry is durable
// with it; E6 compares (newest epoch entry, LEO). So whoever voted has an epoch that only those have who had all that was committed before. An election alone
// (epoch entries compared, votes without them; HW below LESO) is not enough: two more traces.
//
// 2. A follower took the answer to an earlier fetch (H7, T1). With true disks. A has [1p], unsynced, and B leads in LE2. A asks with (1, epoch 1), the request
// is late. A asks again, cuts p, appends and syncs 2q, votes; q is committed. The first request arrives at B, and its answer (diverged, cut to 0) at A, whose log
// has length 1 again: A cuts q, and stays in the ISR. Now: an answer is used only if readOffset and lastEpoch of its request are
// what the follower has at that moment (and it is the answer to its newest request).
//
// 3. A leader without records of the asked epoch or of an older one answered with epoch 0 (T1, T5). A commits p and sends p, q to B, deletes p by retention,
// loses q in a crash, and leads again with an empty log that starts at 1. B asks with (2, epoch 1); A knows no epoch ≤ 1; B's own end of
// "no epoch" is 0, below its HW: T4 makes B damaged. Now: then the answer is (the epoch asked for, log start).
//
// 4. A follower without records was tested for divergence (H1, T5). A and B have committed p; A has deleted it and is empty from 1 on; B, which has not, leads. A
// asks with (1, no epoch), B has epoch 1 before 1: diverged, cut below the HW, T4. A follower that T5 has reset meets the same. Now: a follower without records
// says so, and only readOffset ≤ LEO is tested; what lies below was committed.
//
// 5. Lowering min.insync emptied the ELR of a partition that nobody led (E3, I7). min.insync 2, A and B have p, B's disk lied. A is fenced: ISR B, ELR A. B loses
// power and p. min.insync becomes 1: |ISR| ≥ 1, so the ELR is emptied; E6 has B alone to ask, p is lost. Now: the ELR is emptied only
// by an entry after which a leader is there that the controller hears.
//
// 6. A broker was elected that nobody had heard (E1, E3). min.insync 1, as on two nodes by default; A and B have p, B's disk lied. Site power cut. The new controller
// fences A first, elects B, which has not been fenced yet, and forgets A; then B comes back without p. A comes too late. Now: a
// candidate, or the last member that stays, must be heard by this controller at that moment; else who is removed goes into the ELR (E3's last
// sentence), and E6 waits for both. With true disks nothing is lost either way; large scenarios run both ("unasked").
//
// 7. A lease was renewed whatever its broker had applied (E4, R2). B is preferred while A, well and in touch, is late in applying metadata. A renews on and
// serves reads as a leader without end. Now: the answer to a renewal names the newest entry, and the lease is extended when the broker has
// applied it. replica.lag.time > stop joins the relations that hold in every profile: no leader shrinks away a member that may still serve.
//
// 8. A new controller leader fenced after three renewal intervals (E4), which is less than stop in each profile (3 s, 4 s). Handed the quorum
// at once, it fences A with a lease of 1 s left; B leads and commits; a consumer that read there asks A, and is told OFFSET_OUT_OF_RANGE, since its
// position is above A's log end: it resets and skips or repeats. Now: a new controller leader fences nobody before `fence` after its barrier.
//
// 9. R4 let a follower answer OFFSET_OUT_OF_RANGE above its own log end (R1, KIP-392): a consumer that comes from the leader is ahead of it. Now: only a leader says
// that of a high offset; a follower answers OFFSET_NOT_AVAILABLE.
//
// 10. A registration without the last nonce took the broker out of every ISR and ELR (E5). The request of a process that died is late, its successor
// registers, the request arrives: a broker that lost nothing is out. Now: a refusal changes nothing. The process that is refused asks
// again as an old copy, naming the BE it was refused for, and is let in without a place while nobody else runs under its id (C4).
//
// 11. A registration that arrived twice was applied twice (E5, C4), as its nonces include its own: the process runs under the first BE, the
// controller knows the second. Now: a request with the nonce that is in force is a repetition, and gets the same answer.
//
// The design has no rules for moving a partition; the model has these, and each of them is needed: both sets are replicas meanwhile. The move ends, or
// is called off, in one entry, while somebody leads: what stays of the ISR holds a new replica, has at least min.insync members (of the new set) and one
// that is heard and needs no E5; who leaves goes from ISR and ELR alike, and a leader among them is replaced in the same entry. E5 does not say how the
// controller learns that a restarted member has everything: the leader says so in AlterPartition, with the member's BE, which must match.
package model
