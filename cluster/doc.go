// Package cluster turns logs into topics: it says which topics exist, who leads their partitions, how far each is committed, and
// tells those who wait. Other rooms see a Broker, its Partitions and its Tables.
//
// # What it is for
//
// A Broker is one node's data side. It registers with the controller, keeps the log's partitions in step with the
// metadata, and serves appends and reads of the partitions that it leads. The controller decides changes of metadata
// and proposes them to the quorum (cluster/meta). Both are separate and joined by calls. How far a partition is committed is decided
// in cluster/replica.
//
// # What it never does
//
// It stores no record itself, knows neither MQTT nor the Kafka protocol, and never answers before the log has synced what it
// answers for. It never makes a log again in silence that has held records and is gone.
//
// # Terms
//
// Leader epoch (LE): the term in which one broker leads a partition. Broker epoch (BE): one start of one broker. High watermark
// (HW): the offset below which everything is committed. ISR: replicas that count for the HW.
//
// # Invariants
//
//   - A1: only the leader of the newest applied metadata appends; it looks before an append and again before it answers.
//   - A6: when the log or the metadata file fails, the broker says so once (Failed, Err), takes no append, and tells everybody who
//     waits. Only a restart helps.
//   - A7: a process acts on no metadata before its own registration is applied, and that has raised the leader epoch of everything
//     it led: unsynced offsets that a power cut took are given again only under another epoch.
//   - A9: acks=1 answers at the leader's own disk, acks=0 at once; neither changes how records are stored.
//   - C1, C6: changes are decided on an Image, carry its version, and are decided again if it moved; a change that says nothing
//     new is not proposed.
//   - C2, C3, E5: see identity. The nonce is synced before it is presented, and older ones are forgotten after it was confirmed.
//   - C7: topics made without a number of replicas are marked, to grow with the cluster.
//   - E8: Close commits what was appended, has the log write its clean marker, then lets go of the files.
//   - H3 to H6: see cluster/replica. The HW comes from what the log has synced; nothing is read above it (R1, R4).
//   - M11, D11: a Table is a compacted topic like any other. Who answers for what one of its partitions holds loads it after
//     all of the earlier terms is known to be committed, and writes in its own term only.
//   - P1: a batch that a producer sends again is answered when the HW has passed its first copy.
//
// # Goroutines
//
//	completer   takes what the log synced into the HW, tells waiters and watchers      Broker.Close waits for it
//	applier     brings partitions in step with each new Image, tells topic watchers    Broker.Close waits for it
//	log         housekeeping (log.Log.Run)                                             Broker.Close waits for it
//
// The log's committer calls onCommit, and raft's apply goroutine calls onImage; both only leave a note.
//
// # Locks
//
// Taken in this order; none is held over I/O except changes, which only the applier takes for long.
//
//	Broker.changes → Partition.mu → (log) → completer.mu
//	Broker.ids      over a proposal: whoever needs a producer id waits for the block anyway
//
// # Files
//
// meta.cbor is the CBOR array [form 1, CRC-32C of body, body]; body is a map: 1 cluster id, 2 broker uuid, 3 nonces, 4 metadata
// version up to which all partitions have been opened, 5 whether a registration was confirmed. raft/ belongs to cluster/meta, everything else to log.
//
// # Third-party modules
//
// hashicorp/raft and go.etcd.io/bbolt (in cluster/meta), fxamacker/cbor.
//
// # Metrics, from Stats
//
//	weir_cluster_topics                     topics, internal ones included
//	weir_cluster_partitions                 partitions open on this broker
//	weir_cluster_partitions_offline         partitions that it should lead and cannot open, or found damaged; Offline and the status page say why
//	weir_cluster_waiting_entries            groups of records that wait to be committed
//	weir_cluster_metadata_version           version of the metadata in force here
//	weir_cluster_metadata_changes_total     changes applied since the start
//
// and, from Partitions, by topic and partition:
//
//	weir_cluster_high_watermark_offset      first offset that is not committed
//	weir_cluster_log_start_offset           first offset that is kept
//	weir_cluster_partition_bytes            bytes of its segments
package cluster
