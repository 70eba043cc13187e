// Package site breaks real clusters on purpose and compares what clients were told with what is there afterwards. It holds tests only.
//
// The tests run in namespaces of their own (network, mounts, processes), which end with the test whatever becomes of it: nodes get a network
// namespace each and a disk each (ext4 on a loop device), and nothing that they send can leave. On such a disk a power cut is real: what
// was not synced is gone.
//
// Clients are paho, mosquitto and librdkafka, which reconnect by themselves and never publish again of their own will. Each writes
// a ledger of what was acknowledged; everything is read back with kcat, and the replicas are compared byte by byte.
//
// A scenario is small in `make test`; `make soak` runs them all, longer, and writes a report.
package site
