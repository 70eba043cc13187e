// Package session is the MQTT protocol as a state machine: what a packet, a commit, a delivery or a lost
// connection does to one client's session, for MQTT 3.1.1 and 5.
//
// A Session does no I/O, knows no clock and starts no goroutine. Time comes as an argument, in milliseconds
// of any monotonic clock. What it decides leaves in three ways: bytes to send are appended to Out, requests
// to the outside go through Effects, and a returned error says that the connection must end (Fail writes the
// DISCONNECT). It is not safe for concurrent use; its owner holds one lock around every call, and Effects are
// called under that lock, so they must not call back. Answers come as later events.
//
// # Two id spaces
//
// Packet identifiers that the client chose (inbound.go) and those that we chose (outbound.go) are kept apart:
// a client's PUBLISH 1 and our PUBLISH 1 are different exchanges. Neither table ever looks at the other.
//
// # Inbound: acks follow commits
//
// A QoS 1 or 2 PUBLISH takes a slot in a reorder buffer, and its PUBACK or PUBREC leaves only when Committed
// or Stored names it (M1), in publish order per QoS (M2); a slot that waits longer than Limits.Overtake lets
// those behind it pass. A publish that the log cannot take for a passing reason is not kept here: Publish
// says so, and the owner leaves the packet unread, which is what holds the client's window (M8). Quotas are
// counted from the slots and exchanges that exist, never in a counter of their own, so they cannot leak.
//
// QoS 2: an exchange is identified to the owner by a number that no other exchange of the session has had, so
// that a late answer cannot complete a reused packet id. A repeated PUBLISH of a live exchange never makes a
// second record (M4). A refusal is a PUBREC with a reason of 0x80 or above and ends the exchange.
//
// # Outbound: an ordered window
//
// Every QoS 1 or 2 message sent takes the next packet id and a place in an ordered window; the receive
// maximum is compared with the window's live entries. After a reconnect the window is walked in order: PUBLISH
// again with DUP, or PUBREL. Entries name a record (partition, offset), not a copy of it.
//
// A message whose Delivery says Store takes its place and id at once and leaves when IDsStored names it (M9); messages
// behind it wait too. Restore makes the window again from what was stored of it, each message in the place that its id
// has. A window that holds more than the client now takes at once is sent again little by little (ResendRoom).
//
// # Topic aliases
//
// Either side's aliases live as long as the connection. A client that takes some gets its first topics under an
// alias, up to Limits.AliasOut: the first message carries topic and alias, later ones the alias alone, which on a
// radio link is most of a short message. Alias and message enter Out in one step, so that no message can overtake
// the one that explains its alias. What is sent again after a reconnect carries its topic. The size that the
// client takes is held against the message with its topic, so that an alias never decides what is delivered.
//
// What this package never does: authorise, route, match subscriptions, persist. Those are the owner's.
package session
