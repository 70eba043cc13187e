// Package log is one node's storage: a journal that all partitions share, which takes the fdatasync, and
// per-partition segments of Kafka record batches behind it, which take the reads.
//
// It never knows about replication, topics' settings beyond PartitionConfig, or clients. The high watermark
// is only carried for whoever decides it.
package log
