// Package gossip tells who is there: it keeps a node in a Serf cluster, for ever, and lists the members with what they say of
// themselves.
//
// # What it is for
//
// A node that knows one other's address finds all. Members' tags say where each is reached and what it can do. That is enough
// to introduce nodes to the metadata quorum and to find them again when all their addresses have changed.
//
// # What it never does
//
// It decides nothing. Views of members differ by design, so leadership, in-sync sets, offsets, configs, secrets and commands
// never travel over it; that a member is called failed here fences nobody, that it is called alive extends no lease (D9).
//
// # Invariants
//
//   - C2: a member's name is its broker's uuid, never its host's name: two nodes with one host name do not clash, and a node
//     with another address is the same member.
//   - C3: members of another cluster are not let in, whoever joins whom. A node that is in none yet may join any.
//   - Joining never ends: addresses to join are tried again while nobody else is alive, also after years apart, and each, less often,
//     until it was reached: so two groups that have found only themselves come together.
//   - A stop is not a departure: peers see a stopped node as failed and keep looking for it for a week. Only Leave, which
//     decommissioning calls, says that it will not come back.
//   - Where a key is configured, everything is encrypted with it, and the keyring file is readable by its owner only.
//
// # Limits
//
// Tags take at most 512 bytes in all, and change at most every ten seconds: each change goes to every node.
//
// # Goroutines
//
// Serf's own, and Run, which hands on changed tags, tells of changes, and has one more that joins. Close ends all of them.
//
// # Third-party modules
//
// hashicorp/serf and memberlist.
//
// # Metrics, from Stats
//
//	weir_gossip_members                     members by status: alive, failed, left
//	weir_gossip_health                      how late this node hears answers: 0 is well
//	weir_gossip_refused_total               members of another cluster that were not let in
package gossip
