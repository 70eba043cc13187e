// Package uplink carries records from this cluster's topics to a centre: to Apache Kafka or a central weir, or to an MQTT broker. The log is
// the buffer: an uplink is a cursor over topics and keeps no queue of its own.
//
// # What it is for
//
// A gateway is offline for a weekend, then has a thin link. Nothing may be lost, what is live must not wait behind what is old, and the centre must be
// able to tell that it has everything. A Forwarder is one shard of an uplink and belongs to one node at a time; it reads what is committed, sends it,
// and moves its cursors when the target has said that it has it.
//
//	Source (committed records) ──► lanes: what goes next ──► target: add … commit ──► cursors ──► Store
//	                                    budget: may it go now
//
// # Invariants
//
// The architecture notes number none for this room; these are its own.
//
//   - U1: no second queue. What is in memory is one transaction at most (maxChunk, maxRecords), and is read again from the log after any failure.
//   - U2: a cursor covers an offset only after the target has acknowledged the record of that offset, or after the record was put into the dead-letter topic
//     and committed there, or was left out by rule and is accounted for (U10).
//   - U3: exactly once. Records and the cursors behind them are written in one transaction of the target (the manner of KIP-618); at the start the transactional id
//     fences whoever had the shard before, and then the target's cursors, read as committed, are the truth. After any failure the forwarder begins there anew.
//   - U4: only committed records are carried, those of aborted transactions never; in offset order for each partition, but that a lane with order live_first
//     may carry what is new before what is old. What is confirmed out of order is kept as spans.
//   - U5: a target that knows less than it has confirmed was made anew or restored from a copy. The forwarder stops and says so; it goes on when an operator has said
//     from where. What the log has deleted before it was carried is announced at the target and counted, not passed over.
//   - U6: retention keeps what is not carried (Cursors.Hold): by age and size always, when room is needed unless the uplink's on_full is drop-oldest or thin. A node that does not know
//     the cursors yet holds everything.
//   - U7: one failing target, one lane that must wait, one record that is refused hold up nothing else: not ingest, not the other uplinks.
//   - U8: a record that the target will never take goes to the topic <topic>.dlq of this cluster with the reason in headers, and the cursor passes it.
//   - U9: what comes down is committed here before the target hears of it, or before it is stored here how far it has come. From Kafka each record comes down exactly once: it
//     carries its place at the target, and who begins looks for those behind the stored one in the topic here. What began in this cluster is not taken down, and what came
//     down does not go up to where it came from.
//   - U10: what a lane leaves out on purpose is never mistaken for loss, nor loss for it. Between the records of a partition that are carried and what the cursor says, each offset
//     that is confirmed and not carried lies in a span that the target is told, with how many records were left out there and why: by the next record that is carried, behind its
//     origin, and until then by the cursor. Exactly once, each is told once, with the commit that passes it; at least once, what is sent again may be told otherwise the
//     second time, and what has not arrived was told as left out. A rule that cannot read a record carries it as it is.
//   - U11: what hangs is ended before anything is read or written. InitProducerId succeeds when the coordinator has ended everything of the transactional id and each partition that it
//     knows of has its marker; Apache Kafka's passes over those without a leader. Whatever a partition still holds open of this uplink's producer is therefore open for good: readers of
//     committed records there stand still, and a later marker would end it together with what it is about. So cursors and records are made to end alike (hungCursors): where the
//     cursors hang, as the transaction was decided, of which this node's own cursors or another partition tell, else it is aborted, for nobody has seen anything of it; and
//     where only records hang, as the cursors say (U3). When the target does not let it, the uplink stops and says so. A connection that breaks between a commit and the
//     first record of the next transaction that is taken has it begin anew, for nothing may be written behind what hangs (contact); of several brokers each counts by itself. The target
//     gives another producer id when the epochs of one are used up: the last ones are stored, so that whoever owns the shard next knows what of them hangs as the uplink's own.
//   - U12: a record that takes minutes on a thin link gets them (patience), up to the longest transaction of the target. All others are given up after 55 s.
//
// # Rules
//
// A lane's filter comes first, then thinning, then its fields. Only false leaves a record out.
//
// Which old records are left out depends on what one commit reads together, and so is decided anew when it fails, perhaps otherwise. What is promised holds whatever the borders are: with
// last_over of each key and interval the last record is carried; with every, of each key no more than n-1 in a row are left out; with mean_over each record that is left
// out is in the figures of exactly one that is carried in the same commit. An interval over which a border goes has one mean on either side, each with its count. Records
// without a key are not put together with others. Whether one is old is asked when it is read; what was young then is not touched.
//
// With on_full: thin the log gives up for its quota what a lane would leave out by last_over (Thinner), and says of which offsets: they are told as left out with the reason full.
// Only when nothing is left to thin whole segments go, as with drop-oldest (U5). Several uplinks of a topic must agree: one with reject holds everything, and of the others
// those that have a rule for it are all asked.
//
// A mean is held back until the commit has enough, and what comes behind it too: no more than the commit's room, and 16 MiB of what rules look at.
// When a record is refused, those that may be at fault are sent one by one, and then none is put together with others.
//
// A commit that would only say what was left out waits five seconds for company.
//
// # The core
//
// Cursor, lanes, classes of links, budget, pace, patience, rules, accounts and hungCursors are pure: no clock, goroutine or I/O. Forwarder is the shell that feeds them.
//
// What one commit carries is sized in bytes on the link, as compression has left of the last batches of each topic (squeeze), so that the target confirms it in about 200 ms and two
// round trips (pace).
//
// # What the target sees
//
// Each record with its key, value, timestamp and headers, and one header more, weir.origin: <cluster>/<topic>/<partition>/<offset>. Behind it stand, where there is something to say,
// weir.fields (the members that the payload was reduced to, as ts,temp), weir.averaged (how many records it stands for; its origin then ends in <first>-<last>) and weir.left-out
// (of which offsets all records were left out, both ends included: 120-218 filtered=50 thinned=49, 220-231 averaged=12, 240-299 full=60). What stands before the origin is the record's own, whoever
// wrote it. A cursor has what no record has told yet as "left", its ends half open. Topics that do not exist are made
// with as many partitions as they have here. Exactly once needs the compacted topic weir.uplinks at the target: key <cluster>/<uplink>/<topic id>/<partition>, value the
// cursor as JSON. A gap is announced there under the key gap/<cluster>/<topic>/<partition>/<first offset>, and a site is claimed under site/<site>.
//
// # What an MQTT broker sees
//
// A message of QoS 1 for each record: its value under the topic that `rename` makes, by default the one under which subscribers of this cluster see it; retained where
// it was; with its content type, response topic, correlation data, payload format and what is left of its expiry (a second when nothing is: the record is
// carried all the same). Its other headers are user properties, as far as any broker takes them as text, and weir.origin and weir.fields are. Its key is not carried. There is no place
// for what was left out: the figures tell.
//
// As many are on their way as the broker's receive maximum allows, 4,096 at most. PUBACK with success is what U2 wants. A broker answers for each message by itself:
// 0x90, 0x95 and 0x99, a topic that is none and a packet larger than the broker said it takes are refusals for good (U8), 0x87 and 0x97 have the partition wait there
// (U7); then what was on its way behind comes again, and so does a second's worth of records after a crash, since the broker keeps no cursors. So U3 does not hold, and the
// configuration refuses exactly_once. A broker that ends the connection over some message and gives that as the reason has it looked for as Kafka's are.
//
// The client identifier weir-uplink-<cluster>-<uplink>-<shard> makes the broker end the connection of whoever had the shard before. No session is kept.
//
// # What comes down (Down)
//
// The owner of shard 0 reads a topic of a Kafka target from stored offsets, committed records only, or subscribes at an MQTT broker with a session that the broker keeps, and
// appends to a topic of this cluster (Inlet). There a record begins with the headers mqtt.topic, under which MQTT subscribers see it, and weir.via:
// <cluster>/<uplink>/<topic>/<partition>/<offset> at the target, <cluster>/<uplink> from MQTT. Behind them stand the record's own, but mqtt.topic, mqtt.client and mqtt.qos2. The key stays;
// from MQTT it is the topic. One that is retained is the retained message of its topic as well, before it counts as taken.
//
// The Store has one entry for each flow: the next offset of each partition there, and where each partition here ended then. Appends are in the name of the owner's term: once
// a later owner has settled a partition (Inlet), nothing of an earlier one comes any more, so that what it does not find is not there. Retention that takes away what came down
// while no owner has run since gives it up: then it comes again. From MQTT a message comes again when its PUBACK is lost; the broker calls it a duplicate.
//
// weir.origin with this cluster at its beginning keeps a record from coming down. weir.via keeps one from going up, in topics that Down names only and before mqtt.qos only:
// else a device could have its messages left here.
//
// # Metrics, from Status, by uplink and shard
//
//	weir_uplink_records_total          carried and confirmed since the start of this node
//	weir_uplink_bytes_total            of their keys, values and headers
//	weir_uplink_sent_bytes_total       written to the target's connections, everything included
//	weir_uplink_commits_total          times that the target confirmed
//	weir_uplink_failures_total         times that the uplink had to begin anew
//	weir_uplink_dead_letters_total     records that the target will never take (U8)
//	weir_uplink_gap_records_total      offsets that were deleted before they were carried (U5)
//	weir_uplink_filtered_records_total left out by the filter of their lane (U10)
//	weir_uplink_thinned_records_total  left out because they were old, those included that a mean stands for
//	weir_uplink_full_records_total     that the log had given up for room, while it kept a later one of their key (on_full: thin)
//	weir_uplink_unjudged_records_total carried as they are, since a filter, fields or thin could not read them
//	weir_uplink_down_records_total     that came down from the target
//	weir_uplink_down_skipped_total     at the target that had begun in this cluster, and were left there (U9)
//	weir_uplink_lag_records            committed here and not confirmed there
//	weir_uplink_lag_seconds            age of the oldest of them
//	weir_uplink_link_closed            1 while nothing may go over the link in use (max_priority -1)
//	weir_uplink_link_unknown           1 while nobody can tell which class of links is in use
//	weir_uplink_up                     1 while the target is reached
//
// # Goroutines
//
// Run uses the caller's, those of the clients of the target, one that looks for the link in use, and one for each node that does not answer its reads; all have ended when it returns. Calls of Source and Store come back on theirs and only leave a note.
//
// # Third-party modules
//
// twmb/franz-go (kgo, kadm, kmsg) speaks Kafka, klauspost/compress has its zstd, eclipse/paho.golang speaks MQTT; expr-lang/expr judges for filters.
package uplink
