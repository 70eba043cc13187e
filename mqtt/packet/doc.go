// Package packet turns MQTT 3.1.1 and 5 control packets into Go values and back.
//
// Two halves. The hot path (frame.go, publish.go, ack.go, props.go) is our own: PUBLISH, PUBACK, PUBREC,
// PUBREL, PUBCOMP and the PINGs are decoded as views into the caller's read buffer and encoded by appending
// to the caller's write buffer, so that neither direction allocates. Everything that a connection does a
// handful of times in its life (adapter.go: CONNECT, CONNACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK,
// DISCONNECT, AUTH) goes through mochi-mqtt's codec behind an adapter.
//
// The adapter exists because that codec trusts its input: a truncated SUBSCRIBE makes it panic, strings
// alias the read buffer, duplicate and out-of-range properties pass, bytes after the last field are
// ignored. So the adapter copies the packet first, walks its properties with our own scanner, recovers
// panics into errors, and checks what the specification asks of each field afterwards. No other package
// sees mochi's types.
//
// What this package never does: read from a socket, keep state between packets, or decide what a valid
// packet means. Topic aliases, packet identifiers in use and quotas belong to mqtt/session.
//
// Every decode error is an *Error carrying the MQTT 5 reason code that a DISCONNECT or CONNACK should name.
// Functions are safe for concurrent use; values are not.
//
// Third-party: github.com/mochi-mqtt/server/v2/packets (MIT). Tests compare with eclipse/paho.golang/packets.
package packet
