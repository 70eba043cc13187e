package main

import (
	"strconv"

	"github.com/weir-io/weir/bridge/uplink"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/mqtt/schema/registry"
)

// Rooms keep plain counters and know nothing of Prometheus; this file turns their Stats into metrics when somebody asks.
// Names are weir_<room>_<thing>_<unit>[_total]; what they mean stands in each room's doc.go, and a test compares the two.

// nodeCollector reads every room's Stats once per scrape.
type nodeCollector struct{ n *node }

// metric is one number of a room.
type metric struct {
	name, help string
	value      float64
}

func (c nodeCollector) collect(e *exposition) {
	for _, room := range [][]metric{c.log(), c.cluster(), c.mqtt(), c.schemas(), c.deliver(), c.kafka(), c.http()} {
		for _, m := range room {
			e.family(m.name, m.help)
			e.sample(m.name, m.value)
		}
	}
	c.nodes(e)
	c.uplinks(e)
	c.partitions(e)
}

func (c nodeCollector) log() []metric {
	s := c.n.broker.LogStats()
	return []metric{
		{"weir_log_commits_total", "Group commits; each is one write and one fdatasync of the journal.", float64(s.Commits)},
		{"weir_log_syncs_total", "Syncs of files and directories, those of commits among them.", float64(s.Syncs)},
		{"weir_log_commit_bytes_total", "Bytes written to the journal.", float64(s.CommitBytes)},
		{"weir_log_commit_age_seconds", "Age of the commit under way; 0 if none.", s.CommitAge.Seconds()},
		{"weir_log_segment_bytes_total", "Bytes written to segments.", float64(s.SegmentBytes)},
		{"weir_log_checkpoints_total", "Checkpoints.", float64(s.Checkpoints)},
		{"weir_log_checkpoint_seconds", "How long the last checkpoint took.", s.CheckpointTook.Seconds()},
		{"weir_log_journal_full_total", "Times commits waited for a free journal file.", float64(s.JournalFull)},
		{"weir_log_journal_live_bytes", "Journal bytes that recovery would read.", float64(s.JournalLiveBytes)},
		{"weir_log_journal_bytes", "Size of the journal.", float64(s.JournalBytes)},
		{"weir_log_busy_total", "Appends refused because too much waits for the disk.", float64(s.Busy)},
		{"weir_log_uncommitted_bytes", "Appended and not yet durable.", float64(s.UncommittedBytes)},
		{"weir_log_unwritten_bytes", "Durable in the journal and not yet in segments.", float64(s.UnwrittenBytes)},
		{"weir_log_corrupt_reads_total", "Reads that met a wrong checksum, offset or epoch, or a missing segment.", float64(s.CorruptReads)},
		{"weir_log_segments_removed_total", "Segments deleted by retention or compaction.", float64(s.SegmentsRemoved)},
		{"weir_log_thinned_records_total", "Records given up for log.disk_quota while others of their segments stayed.", float64(s.ThinnedRecords)},
		{"weir_log_thinned_bytes_total", "Bytes that this has freed.", float64(s.ThinnedBytes)},
		{"weir_log_thin_failures_total", "Segments that could not be thinned.", float64(s.ThinFailures)},
		{"weir_log_compaction_passes_total", "Compaction passes.", float64(s.Compaction.Passes)},
		{"weir_log_compaction_failures_total", "Compaction passes that failed.", float64(s.Compaction.Failures)},
		{"weir_log_compaction_records_read_total", "Records read by compaction.", float64(s.Compaction.RecordsRead)},
		{"weir_log_compaction_records_kept_total", "Records that compaction kept.", float64(s.Compaction.RecordsKept)},
		{"weir_log_compaction_read_bytes_total", "Bytes read by compaction.", float64(s.Compaction.BytesRead)},
		{"weir_log_compaction_written_bytes_total", "Bytes written by compaction.", float64(s.Compaction.BytesWritten)},
		{"weir_log_compaction_map_bytes", "Largest map of keys that a compaction pass has taken.", float64(s.Compaction.MapBytes)},
		{"weir_log_disk_free_bytes", "Free on the data directory's disk.", float64(s.DiskFreeBytes)},
		{"weir_log_disk_total_bytes", "Size of the data directory's disk.", float64(s.DiskTotalBytes)},
		{"weir_log_disk_full", "1 while appends are refused for want of room.", bit(s.DiskFull)},
		{"weir_log_partitions", "Partitions with a log here.", float64(s.Partitions)},
		{"weir_log_failed", "1 once a write or sync failed; the node stops.", bit(s.Failed)},
	}
}

func (c nodeCollector) cluster() []metric {
	s := c.n.broker.Stats()
	return []metric{
		{"weir_cluster_topics", "Topics, internal ones included.", float64(s.Topics)},
		{"weir_cluster_partitions", "Partitions open on this broker.", float64(s.Partitions)},
		{"weir_cluster_partitions_offline", "Partitions that this broker should lead and cannot open, or found damaged.", float64(s.Offline)},
		{"weir_cluster_waiting_entries", "Groups of records that wait to be committed.", float64(s.WaitingEntries)},
		{"weir_cluster_metadata_version", "Version of the metadata in force here.", float64(s.MetadataVersion)},
		{"weir_cluster_metadata_changes_total", "Metadata changes applied since the start.", float64(s.MetadataChanges)},
		{"weir_cluster_brokers", "Brokers of the cluster.", float64(s.Brokers)},
		{"weir_cluster_brokers_fenced", "Brokers that the controller does not hear.", float64(s.BrokersFenced)},
		{"weir_cluster_controller_active", "1 on the node that decides.", bit(s.ControllerActive)},
		{"weir_cluster_lease_held", "0 while this broker may not serve reads as a leader.", bit(s.LeaseHeld)},
		{"weir_cluster_fenced", "1 while the cluster has given this broker up.", bit(s.Fenced)},
		{"weir_cluster_leaders", "Partitions that this broker leads.", float64(s.Leaders)},
		{"weir_cluster_under_replicated_partitions", "Partitions led here with fewer in sync than they have replicas.", float64(s.Led.UnderReplicated)},
		{"weir_cluster_under_min_isr_partitions", "Partitions led here that refuse appends for want of in-sync replicas.", float64(s.Led.UnderMinISR)},
		{"weir_cluster_leaderless_partitions", "Partitions of the cluster that nobody leads.", float64(s.All.Leaderless)},
		{"weir_cluster_single_replica_offline_partitions", "Those of them with one replica by choice.", float64(s.All.SingleOffline)},
		{"weir_cluster_moving_partitions", "Partitions of the cluster on the way to other replicas.", float64(s.All.Moving)},
		{"weir_cluster_unclean_partitions", "Partitions of the cluster once led by a replica that may have lacked records.", float64(s.All.Unclean)},
		{"weir_cluster_isr_shrinks_total", "Times a replica left the in-sync set of a partition led here.", float64(s.Shrinks)},
		{"weir_cluster_isr_expands_total", "Times a replica joined the in-sync set of a partition led here.", float64(s.Expands)},
		{"weir_cluster_truncations_total", "Times a replica here was cut to where its leader's log parts from it.", float64(s.Truncations)},
		{"weir_cluster_scrubbed_bytes_total", "Bytes of logs read to find what the disk has lost.", float64(s.Scrubbed)},
		{"weir_cluster_scrub_damage_total", "Times that found damage.", float64(s.ScrubDamage)},
		{"weir_cluster_forwarded_records_total", "Records appended to partitions that others lead.", float64(s.Forwarded.Records)},
		{"weir_cluster_forwarded_bytes_total", "Bytes of batches appended to partitions that others lead.", float64(s.Forwarded.Bytes)},
		{"weir_cluster_forward_retries_total", "Forwarded batches that had to be sent again.", float64(s.Forwarded.Retries)},
		{"weir_cluster_forward_waiting_bytes", "Bytes forwarded and not answered.", float64(s.Forwarded.Waiting)},
		{"weir_cluster_unreached_brokers", "Brokers that this one does not reach directly.", float64(s.Relay.Unreached)},
		{"weir_cluster_calls_through_others_total", "Calls for such brokers that another passed on.", float64(s.Relay.Through)},
		{"weir_cluster_calls_passed_on_total", "Calls of others that this broker passed on.", float64(s.Relay.Passed)},
	}
}

// nodes has what is counted by reason or by the node at the other end.
// uplinks are the shards that this node owns.
func (c nodeCollector) uplinks(e *exposition) {
	all := c.n.uplinks.own()
	for _, f := range []struct {
		name, help string
		of         func(*uplink.Status) float64
	}{
		{"weir_uplink_up", "1 while the target is reached.", func(s *uplink.Status) float64 { return bit(s.Up) }},
		{"weir_uplink_link_closed", "1 while nothing may go over the link in use.", func(s *uplink.Status) float64 { return bit(s.LinkClosed) }},
		{"weir_uplink_link_unknown", "1 while nobody can tell which class of links is in use.", func(s *uplink.Status) float64 { return bit(s.LinkError != "") }},
		{"weir_uplink_lag_records", "Records committed here and not confirmed there.", func(s *uplink.Status) float64 { return float64(s.LagRecords) }},
		{"weir_uplink_lag_seconds", "Age of the oldest of them.", func(s *uplink.Status) float64 { return s.LagSeconds }},
		{"weir_uplink_records_total", "Records carried and confirmed.", func(s *uplink.Status) float64 { return float64(s.Records) }},
		{"weir_uplink_bytes_total", "Bytes of their keys, values and headers.", func(s *uplink.Status) float64 { return float64(s.Bytes) }},
		{"weir_uplink_sent_bytes_total", "Bytes written to the target's connections.", func(s *uplink.Status) float64 { return float64(s.SentBytes) }},
		{"weir_uplink_commits_total", "Times that the target confirmed.", func(s *uplink.Status) float64 { return float64(s.Commits) }},
		{"weir_uplink_failures_total", "Times that the uplink had to begin anew.", func(s *uplink.Status) float64 { return float64(s.Failures) }},
		{"weir_uplink_dead_letters_total", "Records that the target will never take.", func(s *uplink.Status) float64 { return float64(s.DeadLetters) }},
		{"weir_uplink_gap_records_total", "Offsets that were deleted before they were carried.", func(s *uplink.Status) float64 { return float64(s.GapRecords) }},
		{"weir_uplink_filtered_records_total", "Records left out by the filter of their lane.", func(s *uplink.Status) float64 { return float64(s.Filtered) }},
		{"weir_uplink_thinned_records_total", "Old records left out by thinning, and those that others stand for.", func(s *uplink.Status) float64 { return float64(s.Thinned) }},
		{"weir_uplink_full_records_total", "Records that the log gave up for room before they were carried, on_full: thin.", func(s *uplink.Status) float64 { return float64(s.Full) }},
		{"weir_uplink_unjudged_records_total", "Records carried as they are since a rule could not read them.", func(s *uplink.Status) float64 { return float64(s.Unjudged) }},
		{"weir_uplink_down_records_total", "Records that came down from the target.", func(s *uplink.Status) float64 { return float64(s.DownRecords) }},
		{"weir_uplink_down_skipped_total", "Records at the target that had begun in this cluster, and were left there.", func(s *uplink.Status) float64 { return float64(s.DownSkipped) }},
	} {
		e.family(f.name, f.help)
		for i := range all {
			e.sample(f.name, f.of(&all[i]), "uplink", all[i].Uplink, "shard", strconv.Itoa(all[i].Shard))
		}
	}
}

func (c nodeCollector) nodes(e *exposition) {
	s := c.n.broker.Stats()
	e.family("weir_cluster_elections_total", "Elections that made this broker a leader, by reason.")
	for r, n := range s.Elections {
		e.sample("weir_cluster_elections_total", float64(n), "reason", cluster.Reason(r).String())
	}
	for _, f := range []struct {
		name, help string
		of         func(*cluster.FollowStats) float64
	}{
		{"weir_cluster_fetch_replicas", "Replicas that follow a broker.", func(f *cluster.FollowStats) float64 { return float64(f.Replicas) }},
		{"weir_cluster_fetch_lag_records", "Records that a broker had more when it answered last.", func(f *cluster.FollowStats) float64 { return float64(f.LagRecords) }},
		{"weir_cluster_fetch_bytes_total", "Bytes of records received from a broker.", func(f *cluster.FollowStats) float64 { return float64(f.Bytes) }},
		{"weir_cluster_fetch_answers_total", "Answers of a broker.", func(f *cluster.FollowStats) float64 { return float64(f.Answers) }},
		{"weir_cluster_fetch_failures_total", "Calls to a broker without an answer.", func(f *cluster.FollowStats) float64 { return float64(f.Failures) }},
		{"weir_cluster_fetch_silence_seconds", "Time since a broker answered last.", func(f *cluster.FollowStats) float64 { return f.Silence.Seconds() }},
	} {
		e.family(f.name, f.help)
		for i := range s.Following {
			e.sample(f.name, f.of(&s.Following[i]), "broker", strconv.Itoa(int(s.Following[i].Broker)))
		}
	}
	calls := c.n.broker.CallStats()
	for _, m := range []metric{
		{"weir_rpc_connections", "Open connections of calls between nodes.", float64(calls.Connections.Load())},
		{"weir_rpc_calls_total", "Calls of other nodes answered.", float64(calls.Calls.Load())},
		{"weir_rpc_received_bytes_total", "Bytes of calls read.", float64(calls.Received.Load())},
		{"weir_rpc_sent_bytes_total", "Bytes of calls written.", float64(calls.Sent.Load())},
	} {
		e.family(m.name, m.help)
		e.sample(m.name, m.value)
	}
	e.family("weir_rpc_refused_total", "Connections between nodes refused, by reason.")
	for code := rpc.RefusedGarbage; code <= rpc.RefusedBusy; code++ {
		e.sample("weir_rpc_refused_total", float64(calls.Refused[code].Load()), "reason", code.String())
	}
	g := c.n.broker.GossipStats()
	e.family("weir_gossip_members", "Members that gossip knows, by status.")
	for _, status := range []gossip.Status{gossip.Alive, gossip.Failed, gossip.Left} {
		e.sample("weir_gossip_members", float64(g.Members[status]), "status", string(status))
	}
	e.family("weir_gossip_health", "How late this node hears answers: 0 is well.")
	e.sample("weir_gossip_health", float64(g.Health))
	e.family("weir_gossip_refused_total", "Members of another cluster that were not let in.")
	e.sample("weir_gossip_refused_total", float64(g.Refused))
}

func (c nodeCollector) mqtt() []metric {
	s := c.n.mqtt.Stats()
	return []metric{
		{"weir_mqtt_connections", "Open connections.", float64(s.Connections)},
		{"weir_mqtt_connections_accepted_total", "Connections accepted.", float64(s.Accepted)},
		{"weir_mqtt_connections_refused_total", "Connections refused because there were too many.", float64(s.OverLimit)},
		{"weir_mqtt_received_bytes_total", "Bytes read.", float64(s.BytesIn)},
		{"weir_mqtt_sent_bytes_total", "Bytes written.", float64(s.BytesOut)},
		{"weir_mqtt_slow_closed_total", "Connections closed because the client did not read.", float64(s.SlowClosed)},
		{"weir_mqtt_input_bytes", "Input in memory that could not be used yet.", float64(s.InputBytes)},
		{"weir_mqtt_input_closed_total", "Connections closed because of unfinished packets: over the budget, or too slow.", float64(s.InputClosed)},
		{"weir_mqtt_accepts_delayed_total", "Connections that waited because too many came at once.", float64(s.Delayed)},
		{"weir_mqtt_durable_sessions", "Sessions that outlive their connection.", float64(s.DurableSessions)},
		{"weir_mqtt_sessions_refused_total", "CONNECTs refused because there are too many durable sessions.", float64(s.SessionsRefused)},
		{"weir_mqtt_sessions", "Sessions, absent ones included.", float64(s.Sessions)},
		{"weir_mqtt_published_total", "Publishes handed to the log.", float64(s.Published)},
		{"weir_mqtt_delivered_total", "Messages written towards clients.", float64(s.Delivered)},
		{"weir_mqtt_refused_total", "Publishes and wills refused for good.", float64(s.Refused)},
		{"weir_mqtt_expired_total", "Deliveries dropped because the message had expired.", float64(s.Expired)},
		{"weir_mqtt_lost_total", "Unacknowledged messages that could not be read again.", float64(s.Lost)},
		{"weir_mqtt_held_total", "Times a publish had to wait for the log.", float64(s.Held)},
		{"weir_mqtt_throttled_total", "Times a client had published more than its quota, and was not read for a while.", float64(s.Throttled)},
		{"weir_mqtt_held_closed_total", "Connections closed because a publish waited too long.", float64(s.HeldClosed)},
		{"weir_mqtt_commit_errors_total", "Commit results that were errors.", float64(s.CommitErrors)},
		{"weir_mqtt_store_errors_total", "Session records that could not be written.", float64(s.StoreErrors)},
		{"weir_mqtt_connected_total", "CONNECTs accepted.", float64(s.Connected)},
		{"weir_mqtt_denied_total", "CONNECTs refused.", float64(s.Denied)},
		{"weir_mqtt_authentication_failures_total", "CONNECTs refused because the client did not prove who it is, or may not be let in.", float64(s.Unauthenticated)},
		{"weir_mqtt_authorization_failures_total", "Publishes, wills and subscriptions refused because nothing allows them.", float64(s.Unauthorized)},
		{"weir_mqtt_handshake_errors_total", "Connections that ended before a CONNECT was accepted.", float64(s.HandshakeErrors)},
		{"weir_mqtt_takeovers_total", "Sessions taken over by a new connection.", float64(s.Takeovers)},
		{"weir_mqtt_sessions_expired_total", "Sessions that expired.", float64(s.SessionsExpired)},
		{"weir_mqtt_protocol_errors_total", "Connections closed because of what the client sent.", float64(s.ProtocolErrors)},
		{"weir_mqtt_wills_total", "Wills published.", float64(s.Wills)},
		{"weir_mqtt_waiting_connects", "CONNECTs that wait for the owner of their session.", float64(s.Waiting)},
		{"weir_mqtt_passed_on", "Connections passed on to the owner of their session.", float64(s.Passed)},
		{"weir_mqtt_passed_on_total", "Connections that were ever passed on.", float64(s.PassedOn)},
		{"weir_mqtt_moved_total", "Connections closed because another node owns the session now.", float64(s.Moved)},
		{"weir_mqtt_resumed_total", "Connections that came to this node with their session, or stayed with it after all.", float64(s.Resumed)},
		{"weir_mqtt_owner_errors_total", "Times the owner of a session did not answer.", float64(s.OwnerErrors)},
		{"weir_mqtt_wills_lost_total", "Wills that could not be published.", float64(s.WillsLost)},
	}
}

func (c nodeCollector) schemas() []metric {
	var s registry.Stats
	if c.n.schemas != nil {
		s = c.n.schemas.Stats()
	}
	return []metric{
		{"weir_mqtt_schema_checked_total", "Checks of payloads against a schema.", float64(s.Checked)},
		{"weir_mqtt_schema_refused_total", "Checks that found a payload that does not fit.", float64(s.Refused)},
		{"weir_mqtt_schema_subjects", "Subjects that routes name.", float64(s.Subjects)},
		{"weir_mqtt_schema_unknown_subjects", "Subjects of which no usable schema is known.", float64(s.Unknown)},
		{"weir_mqtt_schema_requests_total", "Requests to the schema registry.", float64(s.Requests)},
		{"weir_mqtt_schema_errors_total", "Times the schema of a subject could not be had.", float64(s.Errors)},
		{"weir_mqtt_schema_age_seconds", "Time since the registry confirmed the schema that went without for longest.", s.Age.Seconds()},
	}
}

func (c nodeCollector) deliver() []metric {
	s := c.n.mqtt.Delivery()
	return []metric{
		{"weir_deliver_sessions", "Sessions known.", float64(s.Sessions)},
		{"weir_deliver_online", "Sessions connected.", float64(s.Online)},
		{"weir_deliver_lagging", "Sessions behind in some partition.", float64(s.Lagging)},
		{"weir_deliver_groups", "Shared subscriptions that this node leads or has members of.", float64(s.Groups)},
		{"weir_deliver_postings", "Offsets held in memory for sessions that are behind.", float64(s.Postings)},
		{"weir_deliver_postings_collapsed_total", "Times postings gave way to a scan.", float64(s.Collapsed)},
		{"weir_deliver_scanned_records_total", "Records looked at.", float64(s.Scanned)},
		{"weir_deliver_skipped_records_total", "Records passed over because of their segment's note.", float64(s.Skipped)},
		{"weir_deliver_delivered_messages_total", "Messages that a session took.", float64(s.Delivered)},
		{"weir_deliver_refused_total", "Times a session had no room.", float64(s.Refused)},
		{"weir_deliver_dropped_messages_total", "QoS 0 messages dropped for want of room.", float64(s.Dropped)},
		{"weir_deliver_expired_messages_total", "Messages not given because they had expired.", float64(s.Expired)},
		{"weir_deliver_lost_records_total", "Records that retention took before a session was given them.", float64(s.LostRecords)},
		{"weir_deliver_read_errors_total", "Reads of the log that failed, records that were malformed.", float64(s.ReadErrors)},
		{"weir_deliver_redispatched_messages_total", "Shared messages given to another member.", float64(s.Redispatched)},
		{"weir_deliver_retained_messages", "Retained messages.", float64(s.Retained)},
		{"weir_deliver_retained_bytes", "Bytes of retained messages in memory.", float64(s.RetainedBytes)},
		{"weir_deliver_rebuilding_partitions", "Partitions whose pass after a restart is under way.", float64(s.RebuildingPartitions)},
	}
}

func (c nodeCollector) kafka() []metric {
	s, g, x := c.n.kafka.Stats(), c.n.kafka.GroupStats(), c.n.kafka.TransactionStats()
	return []metric{
		{"weir_kafka_connections", "Open connections.", float64(s.Connections)},
		{"weir_kafka_connections_total", "Connections accepted.", float64(s.ConnectionsTotal)},
		{"weir_kafka_connections_refused_total", "Connections refused because there were too many.", float64(s.ConnectionsRefused)},
		{"weir_kafka_requests_total", "Requests.", float64(s.Requests)},
		{"weir_kafka_request_errors_total", "Connections closed for a malformed or unknown request.", float64(s.RequestErrors)},
		{"weir_kafka_request_bytes_total", "Bytes of requests.", float64(s.RequestBytes)},
		{"weir_kafka_response_bytes_total", "Bytes of answers.", float64(s.ResponseBytes)},
		{"weir_kafka_inflight_bytes", "Bytes of requests being read or handled.", float64(s.InflightBytes)},
		{"weir_kafka_produce_batches_total", "Batches appended or repeated.", float64(s.ProduceBatches)},
		{"weir_kafka_produce_bytes_total", "Bytes of batches appended or repeated.", float64(s.ProduceBytes)},
		{"weir_kafka_produce_rejected_total", "Batches answered with an error.", float64(s.ProduceRejected)},
		{"weir_kafka_fetch_bytes_total", "Bytes of batches sent.", float64(s.FetchBytes)},
		{"weir_kafka_fetch_waiting", "Fetches that wait for records.", float64(s.FetchWaiting)},
		{"weir_kafka_fetch_inflight_bytes", "Bytes of fetch answers made and not yet sent.", float64(s.FetchInflight)},
		{"weir_kafka_fetch_sessions", "Fetch sessions remembered.", float64(s.FetchSessions)},
		{"weir_kafka_fetch_session_partitions", "Partitions of all fetch sessions.", float64(s.FetchSessionParts)},
		{"weir_kafka_fetch_sessions_evicted_total", "Fetch sessions forgotten to make room for others.", float64(s.FetchSessionsEvicted)},
		{"weir_kafka_authentication_failures_total", "Clients that did not prove who they are.", float64(s.Unauthenticated)},
		{"weir_kafka_authorization_failures_total", "Requests of which something was refused because no rule allows it, or one denies it.", float64(s.Unauthorized)},
		{"weir_kafka_throttled_produces_total", "Produce requests whose client was told to keep still.", float64(s.ThrottledProduces)},
		{"weir_kafka_throttled_fetches_total", "Fetch requests whose client was told to keep still.", float64(s.ThrottledFetches)},
		{"weir_kafka_throttled_mutations_total", "Requests to make or delete topics whose client was told to keep still.", float64(s.ThrottledMutations)},
		{"weir_kafka_throttled_connections_total", "Connections closed because their address makes too many.", float64(s.ThrottledConnections)},
		{"weir_kafka_muted_connections", "Connections that are not listened to for a while, because of a quota.", float64(s.MutedConnections)},
		{"weir_kafka_quota_meters", "Clients that quotas count.", float64(s.QuotaMeters)},
		{"weir_kafka_groups_count", "Consumer groups.", float64(g.Groups)},
		{"weir_kafka_groups_bytes", "Memory of consumer groups.", float64(g.Bytes)},
		{"weir_kafka_groups_rebalances_total", "Rebalances begun.", float64(g.Rebalances)},
		{"weir_kafka_groups_commits_total", "OffsetCommit requests let through.", float64(g.Commits)},
		{"weir_kafka_groups_offsets_expired_total", "Offsets forgotten for their age.", float64(g.Expired)},
		{"weir_kafka_groups_bad_records_total", "Entries of __consumer_offsets left out when loading.", float64(g.BadRecords)},
		{"weir_kafka_transactions_ids", "Transactional ids.", float64(x.IDs)},
		{"weir_kafka_transactions_bytes", "Memory of transactional ids.", float64(x.Bytes)},
		{"weir_kafka_transactions_begun_total", "Transactions begun.", float64(x.Begun)},
		{"weir_kafka_transactions_committed_total", "Transactions committed, with all their markers.", float64(x.Committed)},
		{"weir_kafka_transactions_aborted_total", "Transactions aborted, with all their markers.", float64(x.Aborted)},
		{"weir_kafka_transactions_timed_out_total", "Transactions aborted because their time was over.", float64(x.TimedOut)},
		{"weir_kafka_transactions_bad_records_total", "Entries of __transaction_state left out when loading.", float64(x.BadRecords)},
	}
}

func (c nodeCollector) http() []metric {
	open, refused := c.n.http.listener.stats()
	return []metric{
		{"weir_http_connections", "Open connections.", float64(open)},
		{"weir_http_connections_refused_total", "Connections refused because there were too many.", float64(refused)},
	}
}

func (c nodeCollector) partitions(e *exposition) {
	all := c.n.broker.Partitions()
	for _, f := range []struct {
		metric
		of func(*cluster.Partition) float64
	}{
		{metric{name: "weir_cluster_high_watermark_offset", help: "First offset that is not committed."}, func(p *cluster.Partition) float64 { return float64(p.HighWatermark()) }},
		{metric{name: "weir_cluster_last_stable_offset", help: "First offset that is not committed, or of a transaction that is open."}, func(p *cluster.Partition) float64 { return float64(p.LastStable()) }},
		{metric{name: "weir_cluster_log_start_offset", help: "First offset that is kept."}, func(p *cluster.Partition) float64 { return float64(p.LogStart()) }},
		{metric{name: "weir_cluster_partition_bytes", help: "Bytes of a partition's segments."}, func(p *cluster.Partition) float64 { return float64(p.Size()) }},
	} {
		e.family(f.name, f.help)
		for _, p := range all {
			e.sample(f.name, f.of(p), "topic", p.Topic(), "partition", strconv.Itoa(int(p.Index())))
		}
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
