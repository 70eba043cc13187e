// Package kafka is the central side's door: it speaks the Kafka protocol to any
// Kafka client, over the partitions that package cluster holds: produce and fetch, metadata, consumer groups of the classic
// protocol and of the consumer protocol (KIP-848), idempotent and transactional producers, and the admin requests
// that Apache Kafka's own tools need, beside those of weir's (admin.go). Share groups (KIP-932) are not served: their requests are not listed.
//
// It never decides where a record lives, who leads a partition, when a record is committed
// or what a topic's settings mean: cluster does. It never parses records beyond the check at the edge
// of trust, never re-encodes a batch (batches are stored and sent as they came), and
// never keeps state that a restart may not lose.
//
// # One connection
//
// Three goroutines per connection, each with one job:
//
//	reader    frames in, charged to the memory quota, handed on in order
//	handler   runs one request after the other, in order
//	writer    sends replies in request order, many small ones in one write
//
// The handler does not wait for a produce to be committed: it appends, puts the
// pending reply in the queue and goes on with the next request, so that one connection
// keeps the journal's group commit full. Every other request is answered before the
// next one begins, as in Apache Kafka; a fetch that waits for data holds neither its
// frame nor a read buffer while it waits.
//
// # Invariants
//
// Numbers are those of the project's architecture; the words are this room's part in them.
//
//	A8  A batch from a client is checked before it is appended: CRC, lengths, record
//	    count, every record parses, and a bounded size when decompressed. A batch that
//	    fails is answered with a code and leaves nothing in the log.
//	A9  acks=1 is answered at the leader's durable end, acks=0 is not answered at all;
//	    neither weakens how the batch is stored.
//	H6  acks=-1 is answered after the high watermark has passed the batch's last record. While
//	    too few replicas are in sync nothing is appended (NOT_ENOUGH_REPLICAS), and who waits
//	    already is told so (NOT_ENOUGH_REPLICAS_AFTER_APPEND).
//	P1  The answer to a repeated batch of an idempotent producer is the first offset
//	    it was given, and waits for that batch to be committed.
//	P2  What a transaction's coordinator answers for is committed in its table; no later coordinator decides otherwise. What rests on it, a partition's first batch and
//	    the markers, comes after it: in time, or, where the broker is alone and the batch goes into the same journal, in that (log's J8). A reader of
//	    committed records gets those below the last stable offset, with the names of aborted transactions among them.
//	R1  Fetch returns records below the high watermark only; a replica that follows, to consumers that
//	    name their rack (01_fetch_replica.go), those below its own.
//	R3  ListOffsets(latest) is the high watermark, and OFFSET_NOT_AVAILABLE until that has
//	    reached the offset at which the leader's term began.
//	R4  A fetch between the high watermark and the log end waits and returns nothing;
//	    OFFSET_OUT_OF_RANGE is for offsets outside the log only.
//
// # Several brokers
//
// Clients follow the metadata to the leaders. Metadata, DescribeCluster and FindCoordinator tell
// of the brokers that are not fenced, each with the address of a listener of the kind that the
// client came by (TLS or not). A request for a partition that another broker leads is answered
// NOT_LEADER_OR_FOLLOWER, one that has seen another leader epoch FENCED_LEADER_EPOCH or
// UNKNOWN_LEADER_EPOCH; Fetch 12 names the leader, Fetch 16 its address too. A fetch that waits is answered as soon as this
// broker leads one of its partitions no longer, and a produce that waits when cluster says so.
//
// Changes of the metadata and producer ids may be asked of any broker: cluster passes them on to
// the controller. Each broker calls itself the controller for that reason.
//
// Elections and moves may name many partitions, each of which is answered for itself. How many, and how much an answer
// tells of, is limited (maxNamed, maxDescribed, maxDescribedPartitions). DescribeCluster tells of fenced brokers too, where asked to.
//
// # Fetch sessions
//
// A client that fetches by the protocol of KIP-227 has a session: fetch_sessions.go decides what it
// fetches, 01_fetch_session.go is the shell. Sessions belong to the broker, so that a client may go on
// with one over another connection. They hold nothing that is needed: the broker forgets them when
// it stops, and the least recently used ones, idle for two minutes, when there are too many.
// A client for whom there is no room is served without one.
//
// weir's own tools have a request of their own (32000_operate.go), which ApiVersions does not list.
//
// # Who may do what
//
// Rules and SCRAM credentials are metadata (cluster, cluster/access), which requests of Kafka's tools read and change; what the node's file has of them is shown
// beside (Given), and changed by no request. access.go says who a client is and asks the rules; guards around the handlers take out of a request what the client may
// not touch, and answer for it.
//
//	S1   A rule binds from the moment on at which this broker has it, over connections that were there before as well: each request is asked
//	     about, and a fetch that waits is asked about again.
//	S2   No answer, line or page has a credential's keys in it.
//	S3   Where no rule is kept and nobody has to say who he is, there are no guards; where there are, a decision takes no lock and no memory.
//
// # Quotas
//
// Who may take how much is metadata, as who may do what is (keys 48, 49; KIP-13, KIP-219, KIP-546, KIP-599, KIP-612). quota_limits.go finds what a client is held to, in Kafka's
// order; package throttle counts; quotas.go sees to it. Each node counts what it serves, for itself.
//
//	Q1   What a client asks for is done, also where it goes beyond the quota. The answer comes at once, with the time to keep still, and the connection is not listened
//	     to for as long. So nothing waits in memory: of a client whose bytes are limited no frame is read before the one before is handled.
//	Q2   controller_mutation_rate refuses what would come too soon, to clients that can tell (THROTTLING_QUOTA_EXCEEDED).
//	Q3   connection_creation_rate closes a connection that comes too soon, after a second at most.
//	Q4   A quota that is not honoured cannot be set: request_percentage. There are no threads here whose time could be shared out.
//	Q5   Without quotas they cost a look; with some, a lock that is held for a lookup, and no memory. Meters are as many as there is room for (T3).
//
// MQTT devices are held to producer_byte_rate too: package mqtt asks, through an adapter in cmd, and quota_devices.go counts, with meters apart from those of Kafka clients.
//
// # Consumer groups
//
// coordinator.go is the shell of package group, which decides. Groups and offsets
// are kept in the compacted topic __consumer_offsets, in Kafka's own record formats.
//
//	D11  A committed offset, an assignment and the removal of a group are answered
//	     after their records are committed; a restart, or another leader, brings back
//	     what was answered, members with a full session to show themselves.
//
// A group lives in the partition that Kafka's hash of its name gives, and the partition's leader
// is its coordinator for as long as it leads in one leader epoch (coordinator_term.go). It is served
// once the partition is loaded (until then COORDINATOR_LOAD_IN_PROGRESS; while its log is
// damaged COORDINATOR_NOT_AVAILABLE, for its own groups only), and dropped when the metadata gives
// the partition to another: from that moment on NOT_COORDINATOR is the answer, also to those who
// wait and to writes whose outcome is not known yet. Groups take
// no goroutine and no timer each. Offsets of a deleted topic are forgotten with it;
// others as Kafka does (offsets.retention.minutes), while the wall clock can be trusted.
//
// A group is of the protocol of its members; one without any takes that of the next to join, and one of consumers of the classic
// protocol becomes one of the consumer protocol, live, when the first of that kind joins (Kafka's group.consumer.migration.policy=bidirectional:
// members of the classic protocol may join it, and when they are alone it is theirs again). What a step changes of
// one of the consumer protocol is put as several records, in an order in which any part of them makes sense, and answered when
// all are committed.
//
// # Transactions
//
// transactions.go is the shell of package txn, which decides; transactional ids are kept in the compacted topic __transaction_state, made when the
// first is asked for, in Kafka's own record formats. The leader of an id's partition is its coordinator, and its leader epoch the coordinator epoch
// of the markers that it has other brokers append (cluster.Broker.EndTransaction).
//
//   - EndTxn is answered when the end is stored, and after a moment's wait for the markers. They are sent again until each partition has its own; only then
//     may the next transaction begin.
//   - A batch that begins a transaction in its partition is taken after the coordinator was asked (KIP-890), with proof that the producer's last
//     transaction in the partition had ended before: transactions_peers.go. So a batch or an offset that was late, and one of
//     a producer that has been fenced, opens nothing that nobody would close.
//   - Where the coordinator cannot say yet, the batch is sent back with a word that all clients try again after, and so are those behind it over
//     the same connection: none of them may come to the partition first.
//   - Offsets within a transaction wait in __consumer_offsets under keys of their own (coordinator_pending.go) until its end is told to the group's
//     coordinator. OffsetFetch that asks for stable offsets is answered UNSTABLE_OFFSET_COMMIT meanwhile.
//   - The feature transaction.version 2 is in force, and what a request says of the version counts for it: Produce 12, TxnOffsetCommit 5 and EndTxn 5 are
//     of version 2, where leaders and group coordinators have the transaction's coordinator add what is not part of it, and each end gives the
//     producer its next epoch (KIP-890, part 2). Earlier versions of them are of version 1: a producer keeps its epoch from one transaction to the next.
//
// # Limits
//
// Nothing a peer sends makes memory grow without a bound: connections, the size of one
// frame, frames waiting per connection, bytes in flight of all frames (frames are read
// piece by piece, so a length alone reserves nothing), bytes of one fetch answer and of
// all fetch answers, fetch sessions and their memory, answers that a connection has not read yet, and the time without
// progress on a frame or a write are limited. Whoever exceeds one waits, or loses the
// connection with a line in the log. Requests that kmsg decodes are walked over first
// (shape.go): it believes counts that the frame cannot hold.
//
// A request whose key or version is not in the table of keys.go closes the connection,
// as Apache Kafka does: the client was told by ApiVersions. Produce below version 3 is
// listed and answered with UNSUPPORTED_VERSION, because many librdkafka releases turn
// compression off when Produce 0 is not listed (KAFKA-18659).
//
// # Modules
//
// github.com/twmb/franz-go/pkg/kmsg for the messages off the hot path. Produce and Fetch
// are encoded and decoded by hand (00_produce.go, 01_fetch_decode.go, 01_fetch_answer.go).
//
// # Metrics
//
// From Server.Stats, Server.GroupStats and Server.TransactionStats:
//
//	weir_kafka_connections                   open now
//	weir_kafka_connections_total, weir_kafka_connections_refused_total
//	weir_kafka_requests_total
//	weir_kafka_request_errors_total          connections closed for a malformed or unknown request
//	weir_kafka_request_bytes_total, weir_kafka_response_bytes_total
//	weir_kafka_inflight_bytes                of requests being read or handled
//	weir_kafka_produce_batches_total, weir_kafka_produce_bytes_total
//	weir_kafka_produce_rejected_total        batches answered with an error
//	weir_kafka_authentication_failures_total clients that did not prove who they are
//	weir_kafka_authorization_failures_total  requests of which something was refused for want of a rule
//	weir_kafka_fetch_bytes_total
//	weir_kafka_fetch_waiting                 long polls now
//	weir_kafka_fetch_inflight_bytes          of fetch answers made and not yet sent
//	weir_kafka_fetch_sessions, weir_kafka_fetch_session_partitions
//	weir_kafka_fetch_sessions_evicted_total  forgotten to make room for others
//	weir_kafka_throttled_produces_total, weir_kafka_throttled_fetches_total
//	weir_kafka_throttled_mutations_total     answers that told a client to keep still
//	weir_kafka_throttled_connections_total   closed because their address makes too many
//	weir_kafka_muted_connections             not listened to for a while, because of a quota
//	weir_kafka_quota_meters                  clients that quotas count
//	weir_kafka_groups_count, weir_kafka_groups_bytes
//	weir_kafka_groups_rebalances_total, weir_kafka_groups_commits_total
//	weir_kafka_groups_offsets_expired_total  offsets forgotten for their age
//	weir_kafka_groups_bad_records_total      entries of __consumer_offsets left out when loading
//	weir_kafka_transactions_ids, weir_kafka_transactions_bytes
//	weir_kafka_transactions_begun_total, weir_kafka_transactions_committed_total
//	weir_kafka_transactions_aborted_total, weir_kafka_transactions_timed_out_total
//	weir_kafka_transactions_bad_records_total  entries of __transaction_state left out when loading
package kafka
