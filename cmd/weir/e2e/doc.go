// Package e2e drives the real binary with the clients that users have: mosquitto's, paho, kcat, librdkafka, Apache
// Kafka's Java client and its scripts. It holds tests only. What a test needs is installed by .ci/clients-deps; what cannot be had is
// named in a skip, and with CI=true a skip is a failure. What was acknowledged is read back with kcat, never only with
// weir's own tools, so that a fault in our reading cannot hide a fault in our writing.
package e2e
