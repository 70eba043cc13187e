// Package meta is what the nodes of a cluster agree on: topics, their configs and partitions, leader
// epochs, brokers and the ids they were given. It is a pure state (Image) that commands move from
// one version to the next, and one raft group that puts the commands in an order.
//
// # What it is for
//
// An Image is a value: nobody changes one after it was made, so a reader keeps the pointer as long
// as it likes and needs no lock. Image.Apply takes a Command and answers the next Image or a
// refusal; a refused command changes nothing. Node runs the commands through raft and keeps the
// newest Image. A group has one member (a node alone) or several; members are known by the uuid of their broker, never
// by address, and who is a member is changed one at a time, against the configuration that was looked at.
//
// # What it never does
//
// It opens no partition, knows no topic config by name, and makes no choice: who proposes a command
// has drawn the random ids and read the clock already. Nothing that an idle cluster would repeat
// (offsets, heartbeats, load) is a command.
//
// # Invariants
//
//   - A7: registering a broker gives it a new broker epoch, and what it led gets a new leader epoch in the same entry,
//     under another leader if there is one. A restart may have lost records that were never synced;
//     offsets used again must not be used in the epoch that had them before.
//
//   - C1: Apply is a function of (Image, Command) alone: no clock, no randomness, no map order. Every command names the
//     version of the thing it changes, and is refused when that has moved on, so that a
//     proposal sent twice, or decided on an old Image, cannot undo somebody else's change.
//
//   - C2: a broker is a random id made at its first start, tied to its data directory; the small number that Kafka
//     clients see is given here, once, and never given to another.
//
//   - C3: the cluster id is set by the first registration; later ones with another id are refused.
//
//   - C4, E5: a known broker id registers again only when it presents the nonce that was accepted last. One
//     that cannot is a second copy of the directory or an old one restored. It is refused while the process before it
//     holds its lease, and where it would be the only one to know something; else a second request, which names the process that it
//     replaces, is let in as a member of nothing. The same request twice is one.
//
//   - C6: what is not proposed is not written: a group without proposals leaves its disk alone.
//
//   - E1, E2: leader epochs and partition epochs only rise, each change of a partition takes a new partition epoch, and each
//     change of its leader a new leader epoch. A leader is a member of the ISR, or of the ELR when that is all there is;
//     anybody else is an unclean choice of an operator's, and is on record.
//
//   - E2: a recovery of the quorum (Recover), which goes on from what one member has, begins a new generation. A leader epoch is
//     generation·2²⁰ + n, and versions, broker epochs, broker ids and producer ids go on above any that can have been given before:
//     what the lost members counted is never counted again.
//
//   - E3: whoever leaves an ISR that is then too small to commit, or without a leader, holds all that was committed, and stays
//     electable (ELR) until enough others are in sync to commit without it. That a broker is not fenced must mean that the
//     controller hears it: whoever proposes fences all silent brokers in one entry, and first of all, see replica/model, holes 5 and 6.
//
//   - E5, E6: a member that has started anew after a crash leads at once only when it is the only one; else it is
//     trusted again once a leader has seen it hold everything, or once whoever elects has compared the logs of all.
//
//   - E5, E6: a move ends while somebody leads, and only with one that stays, serves, and need not be looked at first.
//
//   - E7: a damaged replica is in neither set.
//
//   - I1, I2: an ISR grows only by its leader's proposal, for the very process that the leader has seen. A proposal made in the current
//     epochs is always spent: a refusal takes a partition epoch as well.
//
//   - I5: every other command only takes members out, or puts one of the ELR in the place of all.
//
//   - I7: a change of min.insync.replicas or of the number of replicas sees anew to the ELR in the same entry.
//
//   - Quotas of clients are kept here by name and number; what they mean is for who honours them (bridge/kafka). The metadata bounds how many there are.
//
//   - S2, S5: rules and credentials are kept here, within the limits of package access, beside what each node's file says. Their changes name the version
//     of all rules, or of all credentials, that they were decided on. A recovery and a snapshot keep them, and the secret that the first
//     credential brings.
//
// Image.Check tests those of them that one Image can show.
//
// # Stored forms
//
// A command is one byte of format version, one byte of kind, then CBOR in core deterministic form with
// integer keys. An unknown version, kind or key stops the node instead of being skipped: a replica
// that skips an entry has another state than its peers from there on. A snapshot is one byte of
// format version and the Image in the same CBOR. testdata/forms.txt holds one of each.
//
// raft.db is a bbolt file with two buckets (D3). A log entry is
//
//	u32 CRC-32C of index and rest | u8 form (1) | u8 type | u64 term | i64 appended at, ns | u32 data length | data | extensions
//
// under its index as big-endian u64. A stable value (raft's term and vote) is
//
//	u32 CRC-32C of key and value | value
//
// The log has no gaps: entries that a snapshot from the leader has overtaken go when the next entry is written.
//
// bbolt itself has no checksum over its pages and trusts them: before it opens the file, each page, entry and value is
// read once by a reader of our own (pages.go), and a file with a wrong bit anywhere in what is in use is refused with its place.
//
// # Third-party modules
//
// hashicorp/raft (consensus), go.etcd.io/bbolt (log and vote), fxamacker/cbor (commands).
package meta
