// Package sim runs whole clusters of real brokers on simulated disks, networks, quorums and clocks, makes trouble for them by a seed, and tests all
// the time that what they promise holds. A seed that fails can be run again.
//
// # What is real, and what is not
//
// Each node is a cluster.Broker, opened by cluster.Open, with the log, the replica rules, the controller, the forwarding of appends and the calls between
// brokers that the binary links. Four things are simulated, each where the broker has an interface for it:
//
//	disk     a vfs.FS over vfs.Mem: syncs take time, fail (and lose what they should have kept, J7), or lie; a power cut leaves any part of what was
//	         not synced, by sectors (vfs.Mem.CrashClone); a disk may be replaced by an old copy of itself; a bit may flip in the middle of a journal
//	network  cluster.Seams.Carry: messages are encoded, and come late, very late, twice, or not at all; links are cut in one direction or in both
//	quorum   cluster.Seams.Quorum: what raft promises (one order of commands, applied with meta.Image.Apply by each node sooner or later; one leader
//	         that can commit, others that believe for a while that they lead; lost answers, and commands of a lost lead that take effect all the same)
//	clock    the time of a bubble of testing/synctest, which goes on when everybody waits; wall clocks jump
//
// Above them work producers through cluster.Writer, each record once, at any broker; idempotent producers of Kafka's at the leaders, which repeat a
// batch until it is acked; consumers at any replica; and operators, who make topics, move partitions, delete records and change min.insync.replicas.
//
// A room above the brokers may take part with its clients (Upper): the tests of bridge/kafka run its coordinators of transactions and of groups here, with
// transactional producers of which some come back from the dead, and readers of committed records, on a topic that loses its oldest records and on
// one that is compacted. What chance brings about too rarely there has a Script.
//
// # Time, order and seeds
//
// Every I/O and every message takes some nanoseconds that nothing else takes, so that events come one after the other, each at its own instant, and what
// comes first is decided by the seed. What one part draws does not depend on how much others have drawn (draws). A run stays on one thread and keeps the
// garbage collector away.
//
// What Go decides by itself is taken from it by package internal/dice, in builds with its overlay: which of several ready cases a select takes, which of several timers of one
// instant fires first, in what order a map is walked. There a seed has one trace, in every process of its own: TestSeedsReplay holds that. Without the overlay every second or third
// run of a seed parts from the one before, mostly late: so "make sim SEED=7" is what runs a failing seed again and again. Within one process a seed may also depend on those
// before it, by what they have left in pools.
//
// A wait for a mutex would stop a bubble's clock. So locks that are held over I/O are channels (ioLock in package log and in package cluster).
//
// # What is checked
//
//   - one process leads in an epoch (A7); replica.Leader.Check; meta.Image.Check after each command;
//   - the high watermark of a leader does not fall in its term (H5), and none is above its log end (H7);
//   - all records that anybody calls committed, at whatever replica, are the same at the same offset (R1), and at each later leader;
//   - what was acked is at each later leader, and in the end at each replica, once (M10, P1), in the order of each producer;
//   - cluster.Broker.Ends never answers less than was acked before it was asked (R2); no leader calls an offset out of range to which its consumer got by
//     reading (R4); no consumer misses an offset;
//   - P2: no replica shows a last stable offset past a transaction that is open, or whose marker is not committed at the high watermark that it shows; in a leader's term
//     it does not fall; in the end no transaction is open, and all replicas name the same ones that were aborted. What is right is read from the records (history);
//   - K1: of a compacted topic all replicas have, for each key, the newest record that a reader of committed ones sees;
//   - nobody fails, is damaged (E7) or does not start whose disk has kept its word; no election waits for less than the grace period (E6);
//   - once the trouble is over everything heals: all replicas are in sync, equal, and committed to their ends.
//
// Partitions whose leader was chosen uncleanly promise nothing from there on. What a disk that lies has alone is not promised (replica/model), so such
// runs have three replicas, two of them in sync.
//
// TestBrokenInvariantsAreFound breaks A5, A7, H3, I4, T1, J2, J5, J7, E5, E6, I7, I8 and R4 in turn, in copies of the real source, and wants each to be found.
// E6, H3, I4, I7, I8 and T1 need more than chance brings about in that many seeds, and have a schedule of their own.
//
// # What is not simulated
//
// Raft itself, gossip and how a quorum forms, sockets (package rpc), full disks, retention and MQTT. Compaction and Kafka only with a room above.
//
// # How to use it
//
//	go test ./cluster/sim                           200 seeds, and the broken invariants
//	WEIR_SIM_SEED=7 go test -v -run Seeds ./cluster/sim      one seed; if it fails with its trace, a line for each event
//	WEIR_SIM_TRACE=1                                the trace also when it does not
//	WEIR_SIM_SEEDS=5000                             so many, from WEIR_SIM_SEED on or from 1
//	WEIR_SOAK=1 go test -timeout 6h -run Soak ./cluster/sim  10,000; bin/sim-report.txt has a line for each 500
//	go test -run Transactions ./bridge/kafka                 the same with transactions; all variables mean the same there
//	make sim SEED=7                                 one seed of both, the same each time
//
// # What is known to be open
//
// A leader that hands over in good order (E8, preferred leaders, moves) may go on with its lease for as long as that has left, while its successor leads
// already. Its reads are old, which R2 allows; but to a consumer that has read further at the successor it says OFFSET_OUT_OF_RANGE, which R4
// forbids, and to Ends it answers less than its successor has acked. The design keeps the two apart by the fence only (replica/model, hole 8). The checker
// counts both ("strayed by a deposed leader", "old end of a deposed leader") and does not fail.
//
// A replica that begins anew where its leader's log starts (T5) knows nothing of producers whose records are all deleted, as in Kafka. A batch that comes again
// when its first copy is deleted already, and such a replica has come to lead, is stored again. The checker counts it ("stored again after its deletion").
package sim
