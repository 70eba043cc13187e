// Package txn is the transaction coordinator's decision maker (KIP-98): which transaction of which producer is open,
// which partitions it has reached, and how it ends, as a state machine for each transactional id.
//
// It is pure: no goroutine, no clock, no I/O, standard library only. A step is given `now`; it refuses with a Fault, or
// returns the Record that has to be stored before anything is answered. The shell (bridge/kafka) stores it, says so by
// Stored, and then acts on the new state. It owns locks, timers, the table, and the sending of markers.
//
// # States
//
//	Empty           the producer has its id and epoch, and no transaction yet
//	Ongoing         partitions have been added
//	PrepareCommit   decided; markers are on their way to all partitions
//	PrepareAbort    the same
//	CompleteCommit  all markers are committed; the next transaction may begin
//	CompleteAbort   the same
//
// # What it holds to
//
//   - P2: the state moves only when the record of the next one is stored (Stored). Until then everybody is told to come
//     again (Pending); what goes into the same journal behind the record may be appended before that, and is answered for after it (log's J8). What has been decided is never decided otherwise: from Prepare… only the Complete… of the same kind follows. That one
//     need not be stored before the next transaction begins: who finds Prepare… sends the markers once more, and they do nothing.
//   - One producer at a time: InitProducer ends what the one before had open, and gives the next a later epoch, or another
//     producer id where epochs have run out. What is asked with an earlier epoch is refused, in partitions too, since the marker
//     that ends a transaction over the head of its producer carries the later epoch.
//   - V2 (KIP-890): a producer has an epoch, or an id, for one transaction only. Its end gives the next one, and the markers carry an epoch that is later than that of
//     the batches, so that partitions refuse what comes late. Which version a producer is of its requests say, one by one: it may change between them.
//   - Every transaction ends: at its timeout it is aborted (Due).
//   - Transactions of one id have different start times, so that messages about one that is over can be told from those about the
//     next where they have the same epoch; see log.Verified.
//   - A repeated request is answered like the first: EndTxn after the end it asks for, AddPartitions with what is there. After a time-out too, so
//     that a V2 producer may abort what has been aborted, and go on; one that commits it is told that it was fenced.
//   - Memory is bounded by the caller, by Size.
//
// Sources: KIP-98, KIP-360, KIP-588, KIP-890.
package txn
