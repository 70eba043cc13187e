// Package quorum says who votes on metadata: it forms the quorum of a new cluster from what gossip shows, and keeps its members in
// step with the nodes that are there.
//
// # What it is for
//
// Form brings a new node into a quorum: it makes one together with the others that expect the same, or waits to be added to one. Run
// is the leader's care for the members: who is new is added, who has proved steady gets a vote, who moved is found again, who is gone
// loses its place. Both look at the world, ask a pure function for the next step, and take it. Recover is what an operator does when
// a majority is lost for ever.
//
// # What it never does
//
// It fences no broker, moves no replica and elects no leader of a partition. Gossip proposes only: a node is added when it has answered
// over an authenticated call, and it loses its place when gossip and calls agree for an hour.
//
// # Forming
//
// A node with Expect = n waits until it sees n nodes, itself included, that say Expect = n and belong to no cluster. It then proposes
// the n smallest ids, asks each of the others twice, and goes on when all answer both times with this very list and say that they have no
// quorum. A node that has told a list to somebody is bound to it, for others may have agreed on it: a later list has to keep those members of it
// who are here, and they have to be its majority. It is free of it again when one of the members says that it is not bound to it, and nobody was told the
// list since that member was asked; who was free of one between the two questions is asked anew. So of two lists that share a node one at most gets a majority. Where more nodes than expected come and go meanwhile they can
// end up bound to different lists; the log says so, and a restart of one of them ends it. (A process that dies between its answer and the forming forgets what it said. A node
// that has formed alone what the others gave up is not added elsewhere until Forget was called in its directory.)
//
// Of an agreed list the first 1, 3 or 5 ids, by the table of voters, are the first configuration. Each of them writes the same one, and
// the leader adds the others. So of two nodes with Expect = 2 the one with the smaller id bootstraps alone, as the only voter, and adds
// the other without a vote; two nodes and a witness, all with Expect = 3, are three voters from the beginning. Expect = 1 bootstraps at
// once, and is refused together with addresses to join, since it would make a cluster beside the one that was meant. Expect = 0 never
// bootstraps. Nor does a node that sees, or is told of, a cluster or quorum that exists.
//
// # Voters
//
//	nodes that can vote    1–2   3–4   5 and more
//	voters                  1     3     5
//
// A witness counts as a node: with it two data nodes have three voters. Others are members without a vote, and spares.
//
// # Invariants
//
//   - C3: only nodes of this cluster, or of none, are added. The name that nodes go by names the generation as well (see Name): who has
//     metadata from before a recovery is a stranger.
//   - C4: members are known by id. A new address changes the member's address, it is never removed and added. Where a living node has
//     the address of another member, that member's address becomes its id, which stands for none known; only a new node in the place of a
//     dead one has that removed, and only if a majority stays.
//   - C6: nothing is changed while everything is as it should be.
//   - One change at a time, against the configuration that was looked at. None is made that the voters up at that moment cannot commit,
//     or after which those that are up and stay are no majority.
//   - The number of voters is even only in passing: a vote is given from an odd number only when two nodes are ready for one, and when the second
//     is gone before its turn the first loses its vote again.
//   - A node is ready for a vote when it has been up for Pace, without a break, and has applied all but 250 entries.
//   - A silent voter loses its place after Dead, if at least three others that are up stay and are a majority of the old ones; a spare is promoted
//     first where they would not be. Silent is who gossip calls failed and who does not answer calls.
//   - A node that said it leaves loses its place at once; a ready spare gets its vote first. A leader that leaves hands over. Who leaves goes
//     on running until it is a member no more.
//   - A node that is drained gives its vote to a spare, once one is ready, and has none from then on; a leader hands over first. Who is in no
//     metadata, because it was removed, and silent for Pace loses its place.
//   - E2: a recovery begins a new generation (see cluster/meta).
//
// # Limits
//
// 128 members; one round of calls per Pace, and at most fifteen more when gossip has news.
//
// # Goroutines
//
// None of its own, but for one per node asked in a round, which ends with it. Form and Run are run by their caller.
//
// # Keys
//
// The keyring file is Serf's: a JSON list of 32-byte keys in base64, the one in use first, readable by its owner only. Calls between nodes prove themselves
// with keys derived from these, so that a rotation of the one rotates the other.
package quorum
