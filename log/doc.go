// Package log is one node's storage: a journal that all partitions share, which takes the fdatasync, and
// per-partition segments of Kafka record batches behind it, which take the reads.
//
// It never knows about replication, topics' settings beyond PartitionConfig, protocols or clients. Leaders,
// in-sync replicas and the high watermark are decided elsewhere; the high watermark is only carried, as a hint.
//
// # How a record becomes durable
//
//	Append ──► batch shared by all callers ─┐ (one per partition, in memory)
//	AppendBatch ──► copy of the batch ──────┤
//	                                        ▼
//	committer: takes every dirty partition, one pwrite and one fdatasync of the journal,
//	           Durable advances, OnCommit ──► acks
//	                                        ▼
//	segment writer: gathers batches per partition, writes them to segments (page cache), has the disk
//	           begin on them every 256 KiB
//	                                        ▼
//	keeper: checkpoint = fdatasync of segments, part.meta, CHECKPOINT entry; frees journal files
//
// What waits for the committer is bounded: records of Append and producers' batches each by a budget of their own,
// beyond which the append gets ErrBusy; OnRoom says when records are taken again. Internal topics are let through.
//
// Config.SyncsPerSecond is for all of these together (pace.go): small commits gather records until the next sync is due,
// and checkpoints and the making of journal files take breath between syncs unless the committer waits for them.
//
// Readers get what is in memory (batches not yet in a segment, and a bounded number that are) from memory,
// the rest by pread with a CRC check.
//
// # Files
//
//	<dir>/lock            held while the log is open; contains the pid
//	<dir>/log.meta        format version, written when the first Open has made the journal; a
//	                      directory that has partitions and not this file is not opened
//	<dir>/journal.slots   which files the journal has (slots.go); in a directory of format 1 it means nothing
//	<dir>/clean           how the journal ended at a clean stop; removed durably before the first append
//	<dir>/clock.state     latest wall time seen, a hint
//	<dir>/ballast         given up when the disk is full
//	<dir>/repairing       a repair was cut off; the directory is not opened until one has been finished
//	<any>.damaged-<time>  what a repair has put away (repair.go), and partitions put aside (aside.go)
//	<any>.repaired        what it puts in the place, whole and synced
//	<dir>/journal/<slot8>.wal
//	<dir>/topics/<topic>-<uuid>/<partition>/
//	    <base20>.log      record batches, back to back (batch.go has their bytes)
//	    <base20>.idx .tix offset and time index, hints
//	    <base20>.note     of a closed segment, what another room keeps beside it (note.go), a hint
//	    <offset20>.snap   producer state of everything below offset (producer.go has its bytes)
//	    part.meta         what the partition is; replaced atomically
//	    compacted         up to where it is compacted, a hint; without the file no offset may be missing
//	    <base20>-<next20>.clean .swap   a rewritten segment on its way, see swap.go
//
// All integers are little endian but those inside record batches, which are Kafka's and big endian. Every
// CRC is CRC-32C. A version that is newer than ours is refused with ErrNewerFormat, never guessed at.
//
// log.meta: magic "weirLOG\0" | 4 version 2 | 4 CRC. Version 1 had no list of journal files; Open makes it one of version 2,
// which an older weir refuses, since it would not keep the list.
//
// journal.slots: magic "weirSLT\0" | 4 version 1 | 4 n, then n times 4 number of a slot, rising | 4 CRC.
//
// Journal file: 4 KiB header, then entries, each at a multiple of 8. The name is that of the slot; which part
// of the journal a file holds is in its header, so a file is reused with one synced write and no rename.
//
//	 0  8  magic "weirJNL\0"
//	 8  4  version 1
//	12  4  1 = begun by recovery, see J7
//	16  8  file number, from 1, one more with each file begun
//	24  8  salt, drawn anew with each use
//	32  8  sequence number of the first entry
//	40  8  size of the file: it never shrinks, so a shorter one is damage
//	48  4  CRC of bytes 0 to 47
//
// Entry:
//
//	 0  4  CRC of bytes 4 to 55 and the payload (not of the padding)
//	 4  4  payload length
//	 8  8  sequence number, without gaps over all files
//	16  8  salt of the file
//	24  8  commit number
//	32  1  type
//	33  1  flags: 1 = last entry of its commit, 2 = PARTDEF of a deleted partition, 4 = whose files are kept aside
//	34  2  0
//	36  4  pid: the partition's number in this directory, 0 = none
//	40  4  leader epoch
//	44  4  records in the batch
//	48  8  offset
//	56     payload, then zeros up to a multiple of 8
//
//	1 DATA        one record batch as it stands in the segment; offset and epoch are its own
//	2 EPOCH       the epoch begins at offset
//	3 TRUNCATE    everything at or past offset is void
//	4 LOGSTART    the log starts at offset
//	5 CHECKPOINT  8 last sequence covered | 8 oldest file needed | 4 next pid | 4 n, then n times:
//	              4 pid | 4 bytes of the last segment | 8 its base | 8 log end | 8 high watermark |
//	              8 offset that names the producer snapshot, -1 = there are no producers
//	6 PARTDEF     16 topic id | 4 partition | topic name
//	7 HW          the high watermark was offset
//	8 SEAL        offset is the number of the last commit; nothing followed for a while
//	9 PAD         ignored
//
// part.meta: magic "weirPRT\0" | 4 version | 4 pid | 16 topic id | 4 partition | 8 log start | 4 n, then n times
// 4 epoch | 8 its start | 2 length, topic name | 2 length, reason for being read-only (E7) | 4 CRC.
//
// .idx entry: 4 offset relative to base | 4 position; one per PartitionConfig.IndexIntervalBytes.
// .tix entry: 8 timestamp | 4 relative offset: no record up to the batch there is later. In a closed segment the
// last entry has relative offset 2³²−1 (the clock was trusted) or 2³²−2 (it was not), and its timestamp is the
// wall time of the last append, which retention by age goes by.
//
// # Invariants
//
// The numbers are those of the architecture notes; code and tests cite them.
//
//   - A2 Offsets are dense at append. Each batch carries the leader epoch it was appended in.
//   - A3 An epoch's first batch comes after its EPOCH entry in the journal, since both wait in the partition's
//     queue in that order. Epochs that begin at the same offset collapse to the newest.
//   - A4 The segment writer gets a batch only from a commit, so no segment is ahead of the journal; a partition's
//     entries are in the journal in offset order because they are queued under its lock and taken in order.
//   - A5 Durable moves only in committer.publish, which runs after the fdatasync returned nil.
//   - A6 The first failed write or sync takes the directory offline: every later call returns it, OnFail hears of
//     it once, nothing is written or synced again. Only a segment write refused for want of space is tried again,
//     after the ballast is gone: a refused write has changed nothing, a refused sync may have.
//   - A8 CRCs are checked in recovery (the entry's) and when a segment is read (the batch's). A batch's CRC covers neither
//     its base offset nor its epoch: reads, compaction, inspections, and recovery where it reads batches, hold the one
//     against the batch before (in a segment, its name), and the other against the epoch index (sequence.go). In a
//     compacted partition, where offsets may be missing, an offset that still fits between its neighbours looks right.
//   - E7 Data that is missing or wrong where it had been durable makes its partition read-only, with the reason
//     in part.meta; nothing is deleted. If the journal itself is damaged, Open returns ErrCorrupt and changes
//     nothing: any partition might have lost something. The way out without a replica is Repair, an operator's word:
//     what is sound stays at its offset, what segments lack comes from the journal, and offsets that are lost are
//     covered by batches without records, so that no reader gets other data for them. Where nobody can tell whether the
//     end of a partition is lost, its end moves past all that the unreadable bytes can have held (16 offsets for each,
//     and on to the next million). A partition that is gone as a whole begins past all that it can have held.
//   - E8 Close commits, flushes, checkpoints and leaves the clean marker; Open removes it before appends.
//   - J1 An entry counts only with the right CRC, salt and sequence number; reading stops at the first that does not.
//   - J2 A commit is written after the one before it was synced, so a bad entry followed by a valid one of a later
//     commit, or by a later file, was durable once: damage. Otherwise it is the torn tail of a commit nobody was
//     told of. After SealAfter without appends a SEAL closes the journal; one that ends otherwise is reported
//     as TailUncertain, and what was dropped of a torn commit is logged as a warning and told by an inspection.
//   - J3 A CHECKPOINT is written after every segment and directory it covers was synced. Indexes are not synced:
//     they are checked when used, and rebuilt.
//   - J4 A journal file is reused only after a synced CHECKPOINT that names a later one as the oldest needed, and after
//     the part.meta of all partitions whose epochs or log start its entries changed. When all files are needed
//     commits wait; every file keeps room for one CHECKPOINT that only a CHECKPOINT may use, so the wait ends.
//     Segments are unlinked only after the LOGSTART that lies past them is durable.
//     A file that is gone is missed by its neighbours, or, the newest, by the list of slots: a slot is listed before it is
//     begun, and its file removed only after it was taken off the list (slots.go).
//   - J5 Recovery cuts to the checkpoint, or to a later TRUNCATE below it, before it applies anything again.
//   - J6 Epochs, log start, producer state are stored as of the last entry covered (partitionWriter), not as of
//     what has been appended since, so what recovery shows is what a run without crash would show.
//   - J7 What can be read need not be on the disk. Recovery writes replayed batches again, syncs them, and makes
//     a checkpoint in a fresh journal file before anything else counts. The header of that file proves nothing
//     about older files until it holds an entry, since the tail they seemed to have may be gone after a cut.
//   - J8 A batch that an entry of another partition makes right (Verified.Behind) is in the journal behind it, in the same commit or in a later one, though neither was
//     waited for: the committer takes all that the other partition has before it takes the batch. Otherwise there is no order between partitions. Replicas, which read ahead of the disk, do not get such a batch before it is durable (Sound).
//   - K1 Compaction works in closed segments below the high watermark, after a checkpoint past them: recovery
//     holds the segment a checkpoint ends in to its size. A rewritten segment keeps the last batch, if only its
//     header, so that its end can be seen, and the headers that producer state needs. A pass is due by the share of bytes that none has seen, or where MaxCompactionLag has
//     passed since they came (by the clock of the appends, while it can be trusted; the age of the active segment begins anew with the process; where no append closes it
//     for its age, housekeeping does, and leaves an empty one). It replaces the old ones by the steps in swap.go, each of which recovery can finish or undo.
//   - K2 Compaction takes one partition after the other, and for a pass no more memory than 8 MiB for keys, whatever their length and number; one batch as it is read and as it
//     is written, packed and unpacked; and 512 KiB of buffers. A pass that finds more keys, 262,144 or more, ends where its map is full: the next goes on from there, and until
//     then nothing behind is judged. Appends and reads go on meanwhile.
//   - K3 What Hold yields for DiskQuota is thinned first, as Thin says: records go that a later one of their group outdates, in closed segments below the high watermark and
//     the first open transaction, oldest first, within K1's checkpoint, K2's memory and swap.go's steps. No offset goes missing, and a batch that has lost records is marked
//     (bit 14 of its attributes, which no producer may set and Kafka's clients do not look at): its offsets without a record are those that were given up, and nothing else.
//     Markers, aborted records and batches that lack records for another reason stay as they are. Replicas thin each for itself, as their quotas want it, and a follower that
//     reads a thinned leader has the mark with the batch. When nothing can be thinned any more, or a round of housekeeping has thinned for 30 s, whole segments go, oldest
//     first. A full disk is not thinned for: a rewrite needs room first.
//   - H3 DurableEpoch is the newest epoch whose EPOCH entry is durable: a follower's vote is nothing without it.
//   - P1 Producers are checked against what has been appended, durable or not; a follower takes over what its leader has checked.
//   - P2 LastStable is at most the high watermark, and below it every transaction has a marker that is committed. Open and aborted
//     transactions are part of the producer state: made from the batches, stored in its snapshots, cut and made anew with it; so there is no
//     index per segment to keep in step. A batch that begins a transaction is taken only with proof that the coordinator was asked after the
//     producer's last marker here, or one that was late would begin a transaction that nobody ends. One that has its epoch for itself
//     (transaction.version 2) begins with sequence 0, and its marker, of a later epoch, shuts out what is late and ends no other. Producers
//     with an open transaction are not forgotten. Compaction stays below the first that is open, takes aborted records for never written and forgets
//     their transactions, and drops a marker delete.retention.ms after the last record of its transaction.
//   - T6 The epoch index is what part.meta has and the journal adds, both under a CRC; a batch's epoch is under none. So a
//     batch that differs from the index is damaged, and Repair puts it right. Contents win where the index is lost, with
//     part.meta, or may lack its newest epochs, with the journal: Repair makes it anew from the batches, whose epochs never
//     fall. A batch may differ from the index, and is not judged, in two cases: it begins below the first epoch of the
//     index, because the log start has moved on or a follower began with offsets that its leader has deleted (T5); or it
//     only covers offsets (no records, no producer, no timestamp) in an epoch before theirs, as repairs once wrote.
//     Compaction keeps epochs, and those that collapse (A3) have no batches.
//   - T5 Begin covers what the leader has deleted with batches that have no records, like compaction's, and raises the log start.
//   - T3 A truncation is durable in the journal before a segment is cut; epochs that begin past it go with it.
//
// # Recovery
//
//  1. Lock the directory, refuse an unknown format, read the clean marker and the list of slots.
//  2. Read the headers of all journal files; find the last CHECKPOINT, newest file first; it names the oldest
//     file needed.
//  3. Read all entries from there, changing nothing: check J1 and J2, that the journal reaches the checkpoint and
//     the clean marker and lacks no listed slot (unless the marker shows that it was a spare one), and note definitions,
//     deletions, the lowest TRUNCATE and highest LOGSTART of each partition.
//  4. Make the directory and part.meta of partitions defined after the checkpoint, where a power cut left them
//     out. For each partition directory: finish its deletion, or an interrupted compaction; list its segments by name
//     and size; remove those begun after the checkpoint; cut the one it ends in, load that one's index.
//  5. Apply all entries after the checkpoint, in order, as the segment writer would. Entries that a later TRUNCATE
//     below the checkpoint voids are passed over.
//  6. Remove the clean marker; begin a fresh journal file; sync segments, metadata and directories; write and sync
//     a CHECKPOINT there. Only now do partitions have a durable end.
//
// Who opens may give up between entries and partitions, which is as good as a crash. Until a partition's configuration
// is set, nothing of it is deleted or compacted: the log does not store it.
//
// A crash at any point leaves the old journal files as they were, and the next start repeats the same steps to
// the same result. Closed segments are not read, so the time depends on the journal, not on the data.
//
// # Goroutines and locks
//
// Open starts three goroutines, Close ends them: committer, segment writer, keeper. Run is the caller's.
//
// Locks, outermost first; none but the first two is held over I/O:
//
//	Log.maintenance   whoever changes segments other than by appending
//	Log.creating      one Create at a time
//	Partition.mu      appended state; Append holds it for the encoding of one record
//	Log.mu            the lists of partitions
//	committer.mu      the list of dirty partitions
//	segment.mu, journal.mu, clock.mu, chunkPool.mu, seekHints.mu   leaves
//
// Who holds maintenance and waits for a commit uses awaitHolding: the commit may be waiting for a checkpoint.
//
// # Third-party modules
//
// klauspost/compress (gzip, snappy, zstd) and pierrec/lz4, for batches that come compressed.
//
// # Metrics
//
// Stats has the figures; the binary exports them as
//
//	weir_log_commits_total                   fdatasyncs of the journal
//	weir_log_syncs_total                     syncs of all files and directories: what commit pacing counts
//	weir_log_commit_bytes_total              bytes written to the journal
//	weir_log_commit_age_seconds              age of the commit under way, 0 if none (E9)
//	weir_log_segment_bytes_total             bytes written to segments
//	weir_log_checkpoints_total, weir_log_checkpoint_seconds (the last)
//	weir_log_journal_full_total              times commits waited for a journal file
//	weir_log_journal_live_bytes, weir_log_journal_bytes
//	weir_log_busy_total                      appends refused with ErrBusy
//	weir_log_uncommitted_bytes, weir_log_unwritten_bytes
//	weir_log_corrupt_reads_total             reads that found a wrong CRC, offset or epoch, or a hole
//	weir_log_segments_removed_total
//	weir_log_thinned_records_total           given up for room while others of their segments stayed
//	weir_log_thinned_bytes_total             that this has freed
//	weir_log_thin_failures_total
//	weir_log_compaction_passes_total, weir_log_compaction_failures_total
//	weir_log_compaction_records_read_total, weir_log_compaction_records_kept_total
//	weir_log_compaction_read_bytes_total, weir_log_compaction_written_bytes_total
//	weir_log_compaction_map_bytes            largest map of keys that a pass has taken
//	weir_log_disk_free_bytes, weir_log_disk_total_bytes, weir_log_disk_full
//	weir_log_partitions, weir_log_failed
package log
