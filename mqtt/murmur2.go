package mqtt

import "encoding/binary"

// Murmur2 is the 32-bit MurmurHash2 with the seed that Kafka's Java client uses
// (org.apache.kafka.common.utils.Utils.murmur2). It must never change: the partition of a device
// follows from it, for MQTT publishes and for Kafka producers alike.
func Murmur2(key []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := uint32(seed) ^ uint32(len(key))
	for len(key) >= 4 {
		k := binary.LittleEndian.Uint32(key)
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
		key = key[4:]
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}

// PartitionFor is the partition, in [0, n), that Kafka's default partitioner gives a record with
// this key: toPositive(murmur2(key)) mod n. n must be positive.
func PartitionFor(key []byte, n int) int {
	return int((Murmur2(key) & 0x7fffffff) % uint32(n))
}
