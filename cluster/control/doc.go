// Package control decides what the metadata of a cluster needs: which brokers are fenced, who leads after restarts, which topics
// grow, who is given leaderships back, and where replicas are placed and moved. It is pure: no goroutine, clock, lock, chance or I/O. The time is an argument.
//
// # What it is for
//
// A Controller is what the node that leads the quorum knows in one term: whom it has heard, and how far logs are said to be. It is told what
// happened, and Step answers the commands that the Image needs, in order, and the questions to be asked. Whoever runs it proposes and asks. A Lease is
// the other side, at each broker. Place and the plans are functions of an Image, for whoever creates topics or is asked by an operator.
//
// # What it never does
//
// It proposes nothing itself and changes no Image. It keeps nothing over a change of the quorum's leader: the next one hears for itself. It has no list of
// what it ordered: what is still needed, the Image shows.
//
// # Invariants
//
//   - C1: commands are decided on one Image, each on that which those before it leave, and carry its versions.
//   - C5: a Controller begins after the barrier of its term, and ends with it.
//   - C6: what is heard is no command. An Image that needs nothing gets nothing, however often Step is called.
//   - C7: topics that follow the number of brokers have a replica on each broker for data, up to three, once it has been there for 10 s. A fenced broker
//     takes no replica from them, only one that is drained: that one (DrainBroker) is given nothing new, and others are given what it has. The third comes with min.insync.replicas 2 in one entry (I7), and not before two are in sync, so that
//     growing stops no appends (H4).
//   - E4: a broker is fenced when nothing was heard of it for Fence, or when it says that it serves nothing (E8, E9, A6); all that are silent are in one entry, which is
//     the first of its Step. While others are in doubt, neither heard nor silent, it waits: an election by rule chooses among those that are not fenced, and
//     nobody may be chosen, or empty an ELR, who is not heard (replica/model, holes 5 and 6). Nothing is fenced for silence
//     before Fence after Begin (hole 8). A broker alone is never fenced.
//   - E4, R2: a lease is counted from when its renewal was sent, and extended when the metadata that the answer names is in force (hole 7). It ends before
//     the controller can fence; see Timing.Validate.
//   - E5, E6: where all members of ISR and ELR have restarted or are not there, those who are there are asked how far their logs are. The greatest
//     (epoch entry, log end) leads (hole 1), none while a greater one is known. Members that are not there are waited for, for Grace from when the first came; an
//     election without them is marked Missing. An answer counts for the process and the partition epoch that it was asked at.
//   - E1, I5: leaderships are given back to the first replica, if it is in sync, heard, and has been back for 30 s; at most every 30 s.
//   - I7: see C7; PlanDrain takes min.insync.replicas back with the third replica in one entry.
//
// # Moves
//
// A move ends by itself (cluster/meta). What is planned here copies no more than it must, puts nothing on witnesses, and onto fenced or stopping brokers only what cannot be
// had otherwise. Equal Images give equal plans.
package control
