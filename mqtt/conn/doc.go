// Package conn carries bytes between sockets and handlers: TCP, TLS and WebSocket listeners, parked
// connections, a worker pool, coalesced writes and one timer wheel for all deadlines.
//
// # Shape
//
// A Conn is an actor. Anything that happens to it (readable, writable, woken by a commit, a deadline) sets a
// bit; the first bit puts it on the run queue; one worker at a time takes it off and runs its Handler. So
// handler calls for one connection never overlap, and only that worker touches the socket, which makes plain
// non-blocking read and write calls on the descriptor safe against reuse.
//
//	poller ─┐
//	wheel  ─┼─ set bit → run queue → worker: timers, Wake, read → Data, Output → write
//	Wake() ─┘
//
// On Linux a plain TCP connection is a descriptor in an epoll set of our own and nothing else: no goroutine,
// no buffer, no entry in the runtime's poller. The set is edge-triggered rather than one-shot: a connection
// that stops reading (its window is full, its peer does not drain acks) just does not read, the readiness bit
// stays with the actor, and the hot path saves the re-arming system call that one-shot needs per wake. Input
// is read into the worker's own buffer; only the tail of a packet that has not arrived whole is copied aside.
// The epoll descriptor itself is watched by the Go runtime, so that waiting costs no thread.
//
// TLS, WebSocket, and everything on other systems, use the same Conn over a stream: a reading and a writing
// goroutine that do the blocking and hand bytes over under a small lock. Handlers cannot tell the difference.
//
// # Rules
//
//   - A worker never blocks: handlers that must wait (authentication, topic creation) pause their connection,
//     hand the work to Loop.Go and resume. One slow socket therefore never holds up another (M7).
//   - Memory per connection is bounded: at most one partial packet (the handler refuses larger ones), one
//     output buffer in flight and one being filled, whose size the handler bounds. Reading stops while more
//     than OutputHighWater bytes wait for a peer that does not read (M7).
//   - Memory of input that could not be used yet is bounded for all connections together: input.go.
//   - A peer that takes nothing for WriteTimeout is closed. Deadlines sit in the wheel, whose tick is a
//     quarter of a second; an idle connection arms nothing but its entry there.
//   - Beyond MaxConnections new connections get a handler that may say why, up to RefusalSlots at a time;
//     beyond that they are closed unheard. Both are counted. Above AcceptRate they wait in the kernel's backlog.
//   - Connections that were opened or accepted elsewhere come in by Join and Adopt. A *net.TCPConn leaves the runtime's
//     poller as it does so. Those that are joined are not counted as connections.
//
// What this package never does: know MQTT. It sees bytes, counts of bytes and times.
//
// # Metrics (Stats)
//
//	weir_mqtt_connections                 open now
//	weir_mqtt_connections_accepted_total  accepted since start
//	weir_mqtt_connections_refused_total   over the limit
//	weir_mqtt_received_bytes_total        read from sockets
//	weir_mqtt_sent_bytes_total            written to sockets
//	weir_mqtt_slow_closed_total           closed because the peer did not read
//	weir_mqtt_input_bytes                 input in memory that could not be used yet
//	weir_mqtt_input_closed_total          closed because of it: over the budget, or a packet not finished in time
//	weir_mqtt_accepts_delayed_total       connections that waited because too many came at once
//
// Third-party: github.com/gobwas/ws (MIT), golang.org/x/sys/unix.
package conn
