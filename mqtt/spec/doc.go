// Package spec lists the numbered statements of MQTT 5.0 and 3.1.1, each with who has to meet it and a reminder
// in our words: mqtt5.txt, mqtt311.txt. A test that proves one says so in a comment inside or above it:
//
//	// MQTT5 [MQTT-3.1.4-2] [MQTT-4.3.3-8] to [MQTT-4.3.3-12]; MQTT3 [MQTT-3.1.4-1]
//
// The tool in coverage reads these comments and the result of the tests and fails on a server's statement
// without a test that ran and passed. gaps.txt lists the statements still without one: a new gap fails, and so
// does a gap that was closed but is still listed. deploy/docs/mqtt-conformance.md is generated from the same
// comments, and fails when it is out of date. `make conformance` runs it, `make conformance UPDATE=-update`
// rewrites both files.
//
// Whether an annotated test would notice if its rule were broken is what package mutate tries.
//
// What this package never does: decide what a statement means, or judge whether a test proves it.
package spec
