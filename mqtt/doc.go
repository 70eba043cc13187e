// Package mqtt is the edge that devices talk to: MQTT 3.1.1 and 5 over TCP, TLS and WebSocket, into the log
// and out of it.
//
// # The way of a publish
//
//	conn worker: frame → packet.Publish (views) → session: alias, quota, slot
//	                                            → ingress: ACL, route, partition, record → Partition.Append
//	committer:   Waiter.Committed → noted, connection woken
//	conn worker: session: slots done → PUBACK/PUBREC in order → one write
//
// Nothing is copied between the socket's read buffer and the log's batch, and nothing is allocated. The
// packages underneath are packet (codec), conn (sockets), session (protocol, pure) and deliver (who gets
// what); this package is the shell that joins them.
//
// # The ack rule
//
// An acknowledgement means committed by the topic's rule, never merely received (M1). Acks of one connection
// leave in publish order per QoS; a partition that stalls for more than a second may be overtaken (M2). A
// retained publish is acknowledged when both its record and the retained entry are committed (M6).
//
// A publish that the log cannot take for a passing reason stays unread in its connection: reading stops, so
// the client's own window holds it, and the same bytes are tried again (M8). After AckTimeout, and where a publish that was taken is not committed
// by then (on a node that is cut off from the controller after three seconds, since others may have taken over what it leads), the connection
// ends, with 0x97 when the disk is full and 0x88 otherwise, which makes the client reconnect and send again.
// A negative ack would end the exchange for good, so it is kept for what can never succeed: 0x87 not
// authorized, 0x90 no topic for it, 0x95 larger than its topic takes, 0x99 payload refused by the route. The standard
// lists 0x95 for other packets and not for these two (MQTT-3.4.2-1, MQTT-3.5.2-1): a departure on purpose, since none that
// it lists says what is wrong; a strict client may end the connection over it. It takes a topic whose
// max.message.bytes is below mqtt.max_packet. MQTT 3.1.1 has no negative ack: its connection ends instead.
//
// A route's schema that has never been had is a passing reason too: route_schema.go says how routes hold payloads to schemas, mqtt/schema what a schema and a payload may
// be, mqtt/schema/registry how they are had.
//
// # QoS 2
//
// Inbound (M4): the first PUBLISH of an exchange commits an INTENT (packet id → topic, partition, token, log
// end) before its record, which carries the token in header mqtt.qos2. A repeat in the same run is answered
// from memory; after a restart it searches the partition from the stored log end for the token, and appends
// only if it is not there. PUBREL removes the INTENT durably, then PUBCOMP leaves. Sessions that end
// with their connection (expiry 0) store nothing, since nothing of them survives to repeat.
//
// Outbound (M9): the packet id of a PUBLISH is stored before it leaves, and PUBREC before PUBREL leaves. The design
// has the unacknowledged window computed again from the stored cursor; but with several partitions the order of
// delivery after a restart is another, ids would go to other messages, and a client that keeps the ids it holds from
// PUBLISH to PUBREL would take a message twice or drop one for a repeat of another. So after a restart each message is
// sent again with its old id and DUP, or its PUBREL is, new ids come behind those, and what the cursor has not passed of
// them is not sent as new. One that the node cannot read yet, since it has just taken over, is waited for, with what is behind it: for 30 s, then it stays
// for the client's next connection.
//
// QoS 1 takes no write per message: the session's record, at most once a second, lists the window with its ids (at most
// 1,024; the cursor goes back to the others), and after a restart these come again with DUP. What was acknowledged after
// the record repeats, what was sent after it comes from the cursor with new ids. An id of the list that an exchange of
// QoS 2 has by now stays with the exchange.
//
// Deliveries that come while the record is being written wait together and share the next one: under load a commit for
// every batch, not for every message, and the same record takes the PUBRECs. They wait in the session's output (within
// OutputBuffer), and so does what comes behind them, so that one topic's messages stay in order. A connection that
// ends before leaves the entry to the next. The cursor is not lowered for stored exchanges.
//
// A retained message is not known by a place in the log, and its topic may have another one by now: with QoS 2 it is
// stored itself, under a key of its own, before its id is (retainedout.go). Of QoS 1 the session's record says which
// subscriptions have some that are not acknowledged; after a restart their retained messages of QoS 1 are sent once more,
// as they are then.
//
// A message of a shared subscription stays with the session that has its id: the group is told so when the id is stored,
// and at a restart (deliver.Hub.HoldShared). That it was completed is remembered until the group's stored cursor has
// passed it, of at most 1,024 messages while other members hold that cursor up.
//
// What it does not cover: a message that retention took in between is ended with PUBREL; of the retained messages that a
// subscription is due, those of QoS 2 that were not begun when the node went down are not sent.
//
// # Records
//
// Value and key come from the route; headers, in this order: mqtt.topic, mqtt.client, mqtt.retain ("1"),
// content-type, mqtt.response-topic, mqtt.correlation-data, mqtt.payload-format ("1" for UTF-8),
// mqtt.expiry (Unix milliseconds at which the message expires; absolute, so that it holds on routes that take
// the timestamp from the payload), mqtt.qos2 (the token), those of a dead letter, mqtt.qos. Whatever follows
// mqtt.qos is a user property under its own name, so no client can pass one off as ours.
//
// # State (M11)
//
// Durable sessions live in the table __mqtt_sessions under the client identifier (subscriptions, expiry,
// will, cursor), in the partition that PartitionFor gives for it, with QoS 2 state under <client identifier>\x00i (inbound) and
// \x00o (outbound), and its retained messages on their way under \x00m and the packet id: U+0000 cannot stand in an identifier. The outbound record is format 3
// (outboundrecord.go: by shared subscription and partition, id, state and offset); formats 1, which had only what PUBREC had come
// for, and 2, which did not name shared subscriptions, are read. SUBACK of a durable session leaves after its record is committed.
// The cursor is written at most once a second or per 1,000 acks; after a crash QoS 1 may repeat. The record is format 3:
// beside each subscription the moment it was made, as far as the cursor has not passed it, and whether retained messages are
// due to it; where the session is behind; what retention took from it; its unacknowledged QoS 1 messages. Formats 1 and 2 are read.
//
// The record \x00floor/p of each partition of the table raises the cursors of all its sessions that were stored as absent,
// wherever they are not behind: mqtt/deliver/DESIGN.md says why it may. Every record of a session that is put while it is
// away must come through saveThen, which marks places below the floor. Earlier builds had one floor for all, \x00floor in the
// partition of the empty key: it holds for a partition until that has its own.
//
// # Several nodes (Owners)
//
// The owner of a session is the node that leads the partition of __mqtt_sessions that its client identifier falls into; the
// front is the node that has the socket. A server without Owners owns everything and asks nobody.
//
//   - A session that outlives its connection lives at its owner, alone: its record, cursor, expiry and will are touched
//     there only. It is loaded when the node begins to lead the partition, and dropped when it no longer does, with what
//     is stored left alone: behind the drop nothing of it is put. Its connections are closed then, unless they move with it (below), MQTT 5 with
//     0x8B, which clients answer by connecting again, anywhere; 0x9C would send them elsewhere without saying where. A will is not
//     published for that unless the client stays away for ten seconds.
//   - Every CONNECT that may find such a session or leave one behind (no clean start, or a session expiry) is passed on to
//     the owner if that is another node: origin.go says how the connection between the nodes begins, link.go what passes
//     over it. The front parses CONNECT and nothing else; authentication, ACL, keep alive and all limits of a client are the
//     owner's, which judges it by the address and certificate that the front saw. Passed hands such connections in: only
//     from peers that are known to be nodes.
//   - Any other session ends with its connection and lives at the front.
//   - A client identifier is served once in the cluster: claim.go. Its owner ends what it serves itself, discards the durable
//     session if the new one is not (and has that committed), and has all other nodes drop the client (0x8E). A node that does
//     not answer is left out after a moment: a client cut off with it may be served there until it is fenced. Identifiers
//     that the server draws need no claim; a session that stays gets one that its node owns.
//   - While an owner is not known, not reached or still loading, CONNECTs wait, parked, up to ConnectTimeout, then 0x88 (3.1.1: 3).
//     What waits is within MaxConnections and MemoryInFlight; gateCrew goroutines for a partition ask for all of them. A
//     client that hangs up while it waits is noticed when its time is over.
//   - A passed-on connection costs the front two descriptors, no goroutine and some 340 bytes, and counts there and at the
//     owner against MaxConnections. 64 KiB wait in each direction, then the sender is not read (M7). Either end going ends
//     the other behind what was on its way. One whose owner has lost the partition and says nothing is closed after two seconds.
//   - Every node indexes all retained messages (deliver.Followed). SUBSCRIBE puts its filters in force, then waits until the index
//     has what any leader had committed by then, up to AckTimeout (then 0x88): what was acknowledged before is sent as retained,
//     what comes after as a message, nothing falls in between.
//   - Inbound QoS 2 (M4) rests on Partition.Settle: a record that a former owner got into the log is found, committed or not. One that a
//     former owner still has on its way then is refused wherever it comes: it is appended in the name of his ownership (Partition.AppendIn).
//     So the partition's leader keeps no tokens, which the design has it do: it keeps what it has in the metadata already.
//   - A shared subscription is led by the owner of the partition that GroupKeyPrefix and its name fall into: its cursor, its turns and
//     what its members have not acknowledged are there alone, and its record is in that partition only (those that earlier builds
//     kept beside the members are read). A node with members of groups that another one leads has one stream to it for each
//     such partition (sharewire.go says what passes over it, sharelink.go and sharestream.go are the members' side, sharehost.go the leader's),
//     made when it is needed and again when it breaks or the leader changes. mqtt/deliver/DESIGN.md has the rules; in short: a
//     stream that breaks gives what its members have of QoS 1 to others and leaves QoS 2 with their sessions; a new leader
//     gives out nothing of QoS 2, nor what is behind it, before it has heard what the members that its record names have begun,
//     for up to 30 s.
//   - SUBSCRIBE to a shared subscription does not wait for the leader: the group begins where its first member subscribed. Messages
//     up to 16 MiB reach members on other nodes. A stream on which nothing is heard for 15 s is dead; 256 KiB wait in it, beyond
//     which its members are passed over (M7).
//
// # Moving with open connections (park.go, resume.go, release.go, follow.go)
//
// Clients wait for a second or so before they connect again, so an owner that is replaced in good order keeps their connections open. It is told before
// (Rest), while it can still store what its successor is to find. Each connection then goes through these states, or ends as told above:
//
//	calming   PUBLISH, SUBSCRIBE and what follows them stay unread, and nothing new is delivered; what was begun is committed, answered and acknowledged
//	sealed    nothing is read. The session leaves the hub, and its records are written with a mark that is drawn for the purpose
//	parked    the connection waits in the gate like a CONNECT, with what it needs beside the session: aliases, limits, keep alive, whose it is (originResume)
//	resumed   the owner by then, here or where the gate has passed the connection on to, gives it the session, if that still has the mark
//
// One that another node has passed on does not go on through the former owner. Its front, when it hears of another owner, takes it back:
//
//	front                                    former owner
//	── Release, by the link's name ────────► has it parked: all that is for the client goes out
//	◄──────────────────────── originResume ─
//	reads nothing more of the client, sends
//	what it has, and ends its output ──────► keeps what it has not read, and ends the connection
//	◄── the last of what is for the client ─
//	── Collect ────────────────────────────►
//	◄────────────────────── what is unread ─
//	has the client's connection wait in its own gate, with that in front of what it sends
//
// What holds of it:
//
//   - What moves by the table is everything that a session has: the window with its packet ids, exchanges of QoS 2 in both directions, subscriptions, place,
//     will. So nothing is sent again, no id is given twice, and if a node dies on the way it is as if the connection had just ended (M4, M9).
//   - The mark makes sure that nobody had the session in between: whoever begins a connection, and a connection that ends, takes it away.
//   - A connection is not calm while a publish waits for its commit, a write of its state is under way, or the client has not acknowledged a retained message
//     or one of a shared subscription, which are not stored with their ids. Those that are not calm in time (the caller's, under half a second), those whose
//     identity the successor does not know (Adopter) or that were granted more than it grants, and those of fronts that are of an earlier build, on another
//     system than Linux or not reached directly, are closed. So are they if a step to the next owner takes seconds.
//   - What a former owner has not read is in one node's memory or the other's, at most unreadMax of a connection, and counts as input that could not be used
//     yet: where there is no room for it, the connection ends.
//   - A connection that waits in vain and cannot go on where it was has ended as any other: its will is published and the session's expiry begins.
//   - While an owner rests, CONNECTs wait for its successor. If none comes within parkHold, all goes on where it was.
//   - Nodes of earlier builds take no connection without a CONNECT: what begins with a Resume has a version of its own (origin.go).
//
// # A node that stops (farewell.go)
//
// Shut has new clients refused by the system. The sessions that live here then move as above. Leave waits until they have arrived, and has the owners of what this
// node has passed on say goodbye to its clients (Part): they read nothing more, acknowledge what they have taken, and end the connections with 0x8B, as for any
// move; wills wait likewise. A front could not say it itself: it does not know where in the stream a packet ends. Owners of earlier builds know no Part: their
// clients see the connection end when the server does, as do those behind a link without a name. Sessions that end with their connection live here, and
// are told by Run, when it ends.
//
// # Who may do what (rules.go)
//
// The Authorizer is asked about each publish, with the alias resolved, about wills at CONNECT, and about each filter of a SUBSCRIBE. A subscription that is
// in force was allowed when it was made; after a change of the rules Recheck ends the connection of a client with one that is not any more,
// and a session that comes back is without it. What is on its way to it by then is still sent.
//
// # What one client cannot do to others (M7)
//
// Workers never wait for a socket, a disk or an authenticator; the committer only notes results. Memory per
// connection is bounded, and what is kept of unfinished packets and waiting QoS 2 publishes for all connections
// together (conn/input.go; beyond, 0x97). A connection has one packet of at most MaxPacket in (64 KiB before
// authentication), twice OutputBuffer out, ReceiveMaximum slots, MaxInflight window entries and, only for a client
// that takes topic aliases, AliasesOut topics of at most 1 KiB. A client that does not read stops
// being read and, if it takes nothing for 20 s, is closed. CONNECT must come within 10 s. A client that has published
// more than its quota (quota.go) is not read for as long as that takes to make up for: nothing of it waits in memory
// but what had been read by then, and nothing that was taken is dropped.
//
// # Locks
//
// client.go states the order; shareLink.mu and shareHost.mu are leaves that the hub takes under its own locks; home.mu comes after connecting and before handshake.mu and link.mu, which are leaves. Quota is asked under
// a client's mu, and takes only leaves. Who waits
// for another node holds connecting, and nothing that Drop takes. handovers.mu, handing.mu and handed.mu are leaves. The hub may call Deliver while it waits in Attach, Detach,
// Forget, Cursor, ReadAt and SendRetained: those are never called under a client's mu.
//
// What this package never does: keep messages. Offline and slow sessions are cursors in the log.
//
// # Metrics (Stats), besides those of conn
//
//	weir_mqtt_sessions               sessions now, absent ones included
//	weir_mqtt_durable_sessions       of these, those that outlive their connection
//	weir_mqtt_sessions_refused_total CONNECTs refused because MaxSessions of them exist
//	weir_mqtt_published_total        publishes handed to the log
//	weir_mqtt_delivered_total        messages written towards clients
//	weir_mqtt_refused_total          publishes and wills refused for good
//	weir_mqtt_held_total             times a publish had to wait for the log
//	weir_mqtt_throttled_total        times a client had published more than its quota, and was not read for a while
//	weir_mqtt_held_closed_total      connections closed because that took too long
//	weir_mqtt_expired_total          deliveries dropped because the message had expired
//	weir_mqtt_lost_total             unacknowledged messages that could not be read again
//	weir_mqtt_denied_total           refused CONNECTs
//	weir_mqtt_authentication_failures_total  of these, for who the client is or does not prove to be
//	weir_mqtt_authorization_failures_total   publishes, wills and subscriptions that nothing allows, and subscriptions that a rule took
//	weir_mqtt_takeovers_total        sessions taken over by a new connection
//	weir_mqtt_protocol_errors_total  connections closed because of what the client sent
//	weir_mqtt_commit_errors_total    commit results that were errors
//	weir_mqtt_store_errors_total     session records that could not be written
//	weir_mqtt_connected_total        accepted CONNECTs
//	weir_mqtt_handshake_errors_total connections that ended before a CONNECT was accepted
//	weir_mqtt_sessions_expired_total sessions that expired
//	weir_mqtt_wills_total            wills published
//	weir_mqtt_wills_lost_total       wills that could not be published
//	weir_mqtt_waiting_connects       CONNECTs that wait for the owner of their session
//	weir_mqtt_passed_on              connections passed on to the owner of their session
//	weir_mqtt_passed_on_total        those there ever were
//	weir_mqtt_moved_total            connections closed because another node owns the session now
//	weir_mqtt_resumed_total          connections that came here with their session, or stayed with it after all
//	weir_mqtt_owner_errors_total     times the owner of a session did not answer
//
// Third-party: fxamacker/cbor (MIT) for session records; see packet, conn and deliver for theirs.
package mqtt
