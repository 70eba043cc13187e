// Package firmwaresim is simulated device firmware: up to tens of thousands of devices in one process, each a real
// MQTT 5 session of an independent client library, publishing plausible telemetry at QoS 1 and keeping a ledger of what
// was acknowledged. The ledger is the other half of `weir audit`: together they show, end to end, that nothing acked is
// missing from the log.
//
// It never shares code with the broker, so that a mistake in one cannot hide the same mistake in the other.
//
// # Rules the ledger stands on
//
//   - A sequence number is given to a reading when it enters the device's buffer, counts 0, 1, 2 … per device, and is
//     never used for another reading, not even over a reboot.
//   - The buffer is bounded. When it is full the device stops sampling (counted as skipped, no number is spent): a hole
//     in the numbers always means loss after the device.
//   - A reading leaves the buffer only by PUBACK. After a lost connection everything unacked is sent again with the same
//     number: with DUP and its packet id when the server still has the session, as a new PUBLISH when it has not.
//   - A reading's value is a function of (seed, device, sequence number) alone; the buffer keeps no payloads.
//
// # Time and randomness
//
// Devices run on package time, so that a test in a testing/synctest bubble moves the fleet through hours at once. All
// randomness derives from Config.Seed; the order of network events does not.
//
// # Goroutines
//
// One per device, and three per open connection inside the client library. Fleet.Run returns after all have ended.
//
// Third-party modules: eclipse/paho.golang (MQTT client), fxamacker/cbor (commands).
package firmwaresim
