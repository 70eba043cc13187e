// Package rpc carries calls between the nodes of a cluster: control messages in CBOR, record batches as
// raw bytes behind them, over one port that the metadata quorum shares.
//
// # What it is for
//
// A Listener owns the port. It greets whoever connects, refuses strangers with a reason, and hands
// connections on by what they are for: the quorum's go to raft, calls go to a Server. A Client makes calls to
// one peer over one connection, many at a time. Messages (messages.go) are plain structs, so that a
// simulator can pass them without this package's sockets.
//
// # What it never does
//
// It decides nothing: not who leads, not whether a peer is alive. It tries no call a second time, since only the
// caller knows whether twice does harm. It never lets a peer make it hold more memory than its limits say.
//
// # Invariants
//
//   - C3: both sides of a connection name the same cluster, or one of them is in none yet.
//   - C4: a connection is to the broker (uuid) that was meant: an address that has moved to another node is noticed
//     before anything is said.
//   - Where a key is configured, each side proves that it has the key, over both greetings, before anything else is read.
//   - A version is agreed on, or the connection is refused; a message's fields are only ever added, and fields a
//     reader does not know are passed over.
//
// # On the wire
//
// All integers are big endian. A connection begins with
//
//	dialer    1  'R' = metadata quorum, 'C' = calls
//	          2  length | greeting (CBOR, see greeting)
//	listener  2  length | greeting, or refusal: code and text
//	dialer    2  length | proof: HMAC-SHA256(key, "weir dialer" | both greetings), empty without a key
//	listener  2  length | proof ("weir listener"), or refusal
//
// and then belongs to raft, or carries frames in both directions:
//
//	 0  4  length of what follows
//	 4  8  number of the call, chosen by the caller
//	12  2  method
//	14  1  kind: 0 call, 1 answer, 2 failure (its control part is [code, text])
//	15  1  0
//	16  4  length of the control part
//	20     control part (CBOR), then raw bytes up to the end
//
// A stream may be for another node than the listener (greeting, key 10). The listener then dials that one, says so with one byte 1, and passes on what either end
// sends until one is gone.
//
// Codes of failures are places in Errors: it is only ever appended to.
//
// # Goroutines
//
//	Listener   one accepts; one per connection while it greets; Run waits for them
//	           and two per stream that is passed on, MaxConnections of them at most
//	Server     per connection a reader and a writer, and one per call, about MaxCalls at most, which stay for later calls; Run waits for them
//	Client     per connection a reader and a writer; Close waits for them
//
// # Third-party modules
//
// fxamacker/cbor.
//
// # Metrics, from Stats
//
//	weir_rpc_connections                    open connections of calls, both directions
//	weir_rpc_refused_total                  connections refused in the greeting, by reason
//	weir_rpc_calls_total                    calls answered here
//	weir_rpc_received_bytes_total           bytes of frames read
//	weir_rpc_sent_bytes_total               bytes of frames written
package rpc
