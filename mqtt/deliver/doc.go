// Package deliver hands committed records to MQTT subscribers.
//
// It reads the log after a commit woke it (M5), asks a trie of topic filters who wants each record,
// and passes it to connected sessions at once. A session that is absent or has no room is a cursor
// over the log, never a queue of copies: postings (offsets of its messages) while they are few and
// sparse, else the offset to scan from. So ten thousand sleeping sessions cost ten thousand small
// records and return without each reading the log, and one that subscribes to everything costs one
// number.
//
// It never acks, never writes user topics, never waits for a socket, and takes no lock that a
// publisher takes: a commit only puts a partition on the run queue. Nobody reads while nobody
// subscribes.
//
// # Rules
//
//   - A record that matched a durable session at QoS 1 or 2 is given to its target, or stays in front
//     of its cursor (M9). The one exception is retention, which is counted and logged once per
//     session. QoS 0 is dropped when the target has no room and when the session is away.
//   - Messages of one partition reach a target in offset order, and so do all messages of one client
//     on one topic (M3).
//   - Overlapping subscriptions give one copy with the highest QoS and every identifier (MQTT 5.0
//     §3.3.4). No-local and the moment of subscribing are judged for each subscription by itself.
//   - A subscription gets what is committed after Subscribe was called. Subscribing again changes the
//     options of what was not delivered yet and loses nothing.
//   - A shared subscription is a session of its own. Its place stays behind what members have not
//     acked or stored as their own, its QoS 1 messages go to another member when one is lost, its QoS 2
//     messages never do [MQTT-4.8.2-5]: what stored sessions have of it is given to nobody after a restart.
//   - In a cluster each shared subscription has one leader, which gives each message to one member wherever that lives (Away,
//     Guests); what the others know of it is no more than what their own members have. DESIGN.md says what a change of the
//     leader may repeat: QoS 1.
//   - A message holds what MQTT allows: a topic that is none is given to nobody, and of a Kafka producer's
//     headers those that are no MQTT strings stay out of it [MQTT-1.5.7-1].
//   - Retained messages: the table is the truth and gives the order (M6); memory holds an index and,
//     up to a bound, the values. Which subscriptions are still due some is told for storing (Owes). The index follows the
//     table, whoever writes it; AwaitRetained says when it has everything that was committed on any node.
//   - The moment of a subscription and, for sessions that are away, how far the log was scanned are told to
//     the caller for storing (Sub.Since, Absence), so that a restart neither reaches back before a subscription
//     nor reads again what held nothing for anyone.
//   - What retention takes from an absent session is counted when it happens: exactly for noted messages, as
//     the number of records where it was to scan.
//   - After a restart one shared pass per partition, from the lowest stored cursor, finds what every
//     absent session missed, beside the live tail. So it is for sessions that come later, all together, from another
//     node (RestoreAll). Where their cursors are ahead of this node's log, the pass waits for it: nothing is given twice.
//
// # Locks
//
// Guests.op, Hub.starting, Group.op, session.catchUp, Hub.mu, partition.mu, Guests.mu, Group.mu, in this order; Away and
// GuestStream lock last; session.mu, index.mu, retainedStore.mu and the queue's are leaves. Target.Deliver is called under
// partition.mu (live) or session.catchUp (catching up), so callers must not hold what Deliver takes
// when they call the hub, except for Ready, ReadAt, SetRetained, Owes, SharedPassed, Group.Ack and Group.Reclaim.
//
// # Third-party modules
//
// fxamacker/cbor (cursors, retained messages). Not mochi's TopicsIndex: see DESIGN.md.
//
// # Metrics
//
//   - weir_deliver_sessions, weir_deliver_online, weir_deliver_lagging: sessions known, connected,
//     behind in some partition
//   - weir_deliver_groups: shared subscriptions that this node leads or has members of
//   - weir_deliver_postings: offsets held in memory for sessions that are behind
//   - weir_deliver_postings_collapsed_total: times postings gave way to a scan
//   - weir_deliver_scanned_records_total: records looked at
//   - weir_deliver_skipped_records_total: records passed over because of their segment's note
//   - weir_deliver_delivered_messages_total: messages that a target took
//   - weir_deliver_refused_total: times a target had no room
//   - weir_deliver_dropped_messages_total: QoS 0 messages dropped for want of room
//   - weir_deliver_expired_messages_total: messages not given because they had expired
//   - weir_deliver_lost_records_total: records that retention took before a session was given them,
//     an upper bound of messages
//   - weir_deliver_read_errors_total: reads of the log that failed, records that were malformed
//   - weir_deliver_redispatched_messages_total: shared messages given to another member
//   - weir_deliver_retained_messages, weir_deliver_retained_bytes: retained topics, and bytes of them in
//     memory
//   - weir_deliver_rebuilding_partitions: partitions whose shared pass is under way
package deliver
