// Package cluster turns logs into topics: it says which topics exist, who leads their partitions, how far each is committed, and
// tells those who wait. Other rooms see a Broker, its Partitions and its Tables.
//
// # What it is for
//
// A Broker is one node's data side. It registers with the controller, keeps its replicas in step with the metadata, serves appends and
// reads of the partitions that it leads, and follows the leaders of the others. How far a partition is committed is decided in
// cluster/replica; what the metadata needs is decided in cluster/control, on the node that leads the quorum (cluster/meta); who is in the
// quorum in cluster/quorum, from what cluster/gossip shows. This package is what joins them: the log, the clock, and the calls between
// nodes (cluster/rpc). Any broker takes appends for any partition (Writer) and gives committed records of any (Replica).
//
//	append ──► Partition (leads here) ──────────────► log ──► followers' feeds ──► their logs ──► votes ──► high watermark ──► ack
//	       └─► Writer (leads elsewhere): batches with sequences ──► its leader ──┘
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
//   - A1: only the leader of the newest applied metadata appends; it looks before an append and again before it answers. Whoever waits
//     when a term ends is told that it is not known what becomes of his records. Where a leader is replaced in good order nobody waits by then: it has rested
//     (rest.go).
//   - A3: a leader journals where its epoch begins when it begins to lead, a follower when its log has come there.
//   - A6: when the log or the metadata file fails, the broker says so once (Failed, Err), takes no append, leads nothing any more, and tells
//     everybody who waits. Only a restart helps.
//   - A7: a process acts on no metadata before its own registration is applied, and that has raised the leader epoch of everything
//     it led: unsynced offsets that a power cut took are given again only under another epoch. Metadata that knows another process under
//     this broker's identity give that one the lead.
//   - A1, A9: acks=1 answers at the leader's own disk, while the lease holds, acks=0 at once; neither changes how records are stored.
//   - C1, C6: changes are decided on an Image, carry its version, and are decided again if it moved; a change that says nothing
//     new is not proposed. What an operator orders is decided on the Image that the quorum has by then (decide).
//   - C2, C3, E5: see identity. The nonce is synced before it is presented, and older ones are forgotten after it was confirmed.
//   - C7: topics made without a number of replicas are marked, to grow with the cluster. While a cluster is formed they wait for the brokers that form it together,
//     so that what is acknowledged first is on as many disks as what comes later (expect.go).
//   - E4, R2: a broker renews its lease with the controller; while the lease has lapsed nobody reads here as from a leader. Appends
//     go on: the high watermark protects them. Time is that of the boot clock, which goes on while the machine sleeps.
//   - E7: a replica that has lost something says so, is put aside once somebody else leads, and begins anew from nothing (refill.go).
//   - E8: HandOver gives leaderships and the quorum to others while the rooms above serve (handover.go); Close commits what was appended, has the log write its
//     clean marker, tells the controller that it is gone, then lets go of the files. Nothing of it outlasts the process.
//   - E9: a broker whose disk hangs in a commit, or has failed (A6), says that it serves nothing instead of renewing its lease, and gives the quorum
//     to another voter. Who serves clients hears of a hang (OnHang), since they can only go on elsewhere.
//   - H1, H2: what a follower tells is in feed.go and fetcher.go, and when, under load, in flood.go: its synced end counts, records are sent while the leader still syncs
//     them. A session tells what has changed only, in the order of its calls, and a call that waits says that the rest stands.
//   - I1, I2: in-sync sets are proposed for all partitions of a broker in one entry, at most five times a second, and again until the metadata
//     shows what became of them.
//   - H3 to H6: see cluster/replica. The HW comes from what the log has synced; nothing is read above it (R1, R4).
//   - R2, R4: a leader that was replaced in good order may read as one until its lease ends; that an offset lies behind the end it says only
//     when the quorum has confirmed that it leads (confirm.go).
//   - M4: what is appended in the name of an owner (a Term: that of the partition in which the owner stores its sessions) is refused once a later owner has
//     settled the partition (Settle), however long it was on its way (term.go).
//   - M10: what is forwarded to a leader, or asked of it before a client is answered, goes through a third broker where the line between the two is down
//     (relay.go). An append may then come twice, and late: P1 and M4 hold for it as for one that is sent again. Followers are not fed in this way.
//   - M11, D11: a Table is a compacted topic like any other. Who answers for what one of its partitions holds loads it after
//     all of the earlier terms is known to be committed, and writes in its own term only.
//   - P1: a batch that a producer sends again is answered when the HW has passed its first copy.
//   - P2: readers of committed records read below LastStable, which each replica works out from its own log; a broker without a replica is told the leader's. A
//     marker (EndTransaction) counts only in the leader epoch that it was sent in, and for the transaction that is open, by its epoch or by when it began,
//     where the leader knows: one that comes late must not end the producer's next. A follower that has all its leader has, and a transaction open that has
//     ended there, is filled again.
//
// # Goroutines
//
//	completer   takes what the log synced into the HW, tells waiters and watchers      Broker.Close waits for it
//	applier     brings partitions in step with each new Image, tells topic watchers    Broker.Close waits for it
//	log         housekeeping (log.Log.Run)                                             Broker.Close waits for it
//
// and, among others, where Broker.Close waits for all of them:
//
//	fetchers    one for each broker that is followed, with at most two calls under way
//	renew       the lease
//	attend      proposes in-sync sets, reports damage
//	scrub       reads every log from end to end (also on a broker alone)
//	govern      the controller, while this node leads the quorum
//	forwarding  gathers and sends what is appended elsewhere, with a goroutine for each call under way
//	port        those of rpc, gossip and quorum
//
// Questions that end by their own time limit, or with the broker, and that Close does not wait for: whether the quorum confirms (confirm.go), whether a line is down
// and who reaches the node behind it (relay.go).
//
// The log's committer calls onTake and onCommit, and raft's apply goroutine calls onImage; they only leave a note.
//
// # Locks
//
// Taken in this order; none is held over I/O except changes, which only the applier takes for long.
//
//	Broker.changes → Partition.role → feedSession.mu → Partition.mu → (log) → completer.mu, feedSession.queueMu
//	Partition.role  over a truncation's I/O: nothing else changes a follower's log meanwhile
//	forwarder.mu → forwarding.mu
//	following.mu → observer.mu, fetcher.mu
//	detours.mu, relays.mu   leaves
//	Broker.ids      over a proposal: whoever needs a producer id waits for the block anyway
//
// # Files
//
// meta.cbor is the CBOR array [form 1, CRC-32C of body, body]; body is a map: 1 cluster id, 2 broker uuid, 3 nonces, 4 metadata
// version up to which all partitions have been opened, 5 whether a registration was confirmed, 6 broker epoch of who wrote it, 7 the cluster that alone
// may take the directory in again. raft/ belongs to cluster/meta, everything else to log.
//
// # Third-party modules
//
// hashicorp/raft and go.etcd.io/bbolt (in cluster/meta), hashicorp/serf and memberlist (in cluster/gossip), fxamacker/cbor, golang.org/x/sys
// (the boot clock).
//
// # Metrics, from Stats
//
//	weir_cluster_topics                     topics, internal ones included
//	weir_cluster_partitions                 partitions open on this broker
//	weir_cluster_partitions_offline         partitions that it should lead and cannot open, or found damaged; Offline and the status page say why
//	weir_cluster_waiting_entries            groups of records that wait to be committed
//	weir_cluster_metadata_version           version of the metadata in force here
//	weir_cluster_metadata_changes_total     changes applied since the start
//	weir_cluster_brokers                    brokers of the cluster
//	weir_cluster_brokers_fenced             those that the controller does not hear
//	weir_cluster_controller_active          1 on the node that decides
//	weir_cluster_lease_held                 0 while this broker may not serve reads as a leader (E4, R2)
//	weir_cluster_fenced                     1 while the cluster has given this broker up
//	weir_cluster_leaders                    partitions that this broker leads
//	weir_cluster_under_replicated_partitions     led here, with fewer in sync than they have replicas
//	weir_cluster_under_min_isr_partitions        led here, with fewer in sync than min.insync.replicas: appends are refused (H4)
//	weir_cluster_leaderless_partitions           of the whole cluster, as this broker knows it
//	weir_cluster_single_replica_offline_partitions   those of them with one replica by choice, on a broker that is away (C7)
//	weir_cluster_moving_partitions          of the whole cluster, on the way to other replicas
//	weir_cluster_unclean_partitions         of the whole cluster, once led by a replica that may have lacked records (E1, E6)
//	weir_cluster_elections_total            that made this broker the leader, by reason: fenced, restarted, stopped, moved, damaged, preferred, recovered, unclean, other
//	weir_cluster_isr_shrinks_total, weir_cluster_isr_expands_total   of partitions that this broker leads
//	weir_cluster_truncations_total          times a replica here was cut to where its leader's log parts from it (T1)
//	weir_cluster_scrubbed_bytes_total       bytes of logs read to find what the disk has lost (scrub.go)
//	weir_cluster_scrub_damage_total         times that found damage
//	weir_cluster_fetch_replicas             replicas that follow a broker, by broker; so are the next five
//	weir_cluster_fetch_lag_records          that it had more, when it answered last
//	weir_cluster_fetch_bytes_total          of records received
//	weir_cluster_fetch_answers_total
//	weir_cluster_fetch_failures_total       calls without an answer
//	weir_cluster_fetch_silence_seconds      since its last answer; it answers twice a second
//	weir_cluster_forwarded_records_total    appended to partitions that others lead (M10), and committed
//	weir_cluster_forwarded_bytes_total      of their batches
//	weir_cluster_forward_retries_total      batches that had to be sent again
//	weir_cluster_forward_waiting_bytes      that are not answered
//	weir_cluster_unreached_brokers          that this one does not reach directly (relay.go)
//	weir_cluster_calls_through_others_total   calls for them that another broker passed on
//	weir_cluster_calls_passed_on_total      calls that this broker passed on
//
// and, from Partitions, by topic and partition:
//
//	weir_cluster_high_watermark_offset      first offset that is not committed
//	weir_cluster_last_stable_offset         first offset that is not committed, or of a transaction that is open
//	weir_cluster_log_start_offset           first offset that is kept
//	weir_cluster_partition_bytes            bytes of its segments
package cluster
