package log

import (
	"crypto/sha256"
	"encoding/binary"
)

// offsetMap holds for each key the offset of its newest record, in memory fixed at the start. Keys are
// kept as 128 bits of SHA-256: two keys that share them would make compaction drop a live record, and
// nobody can find such a pair.
type offsetMap struct {
	slots []offsetSlot
	used  int
	limit int // keys accepted, so that probes stay short
}

type offsetSlot struct {
	hi, lo uint64
	next   int64 // offset + 1; 0 = empty
}

const offsetSlotSize = 24

// newOffsetMap makes room for so many keys, or as many as fit maxBytes.
func newOffsetMap(keys, maxBytes int64) *offsetMap {
	n := max(4, min(keys+keys/3+1, maxBytes/offsetSlotSize))
	return &offsetMap{slots: make([]offsetSlot, n), limit: int(n * 3 / 4)}
}

// bytes is the memory that the map takes, however many keys it has.
func (m *offsetMap) bytes() int64 { return int64(len(m.slots)) * offsetSlotSize }

// find returns the slot of key, or the empty one where it belongs.
func (m *offsetMap) find(key []byte) (s *offsetSlot, hi, lo uint64) {
	sum := sha256.Sum256(key)
	hi, lo = binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])
	for i := int(hi % uint64(len(m.slots))); ; i++ {
		if i == len(m.slots) {
			i = 0
		}
		if s = &m.slots[i]; s.next == 0 || s.hi == hi && s.lo == lo {
			return s, hi, lo
		}
	}
}

// put notes the newest offset of key; false, and nothing noted, when there is no room for a new key.
func (m *offsetMap) put(key []byte, o Offset) bool {
	s, hi, lo := m.find(key)
	if s.next == 0 {
		if m.used == m.limit {
			return false
		}
		m.used++
		s.hi, s.lo = hi, lo
	}
	s.next = max(s.next, int64(o)+1)
	return true
}

// get returns the newest offset of key.
func (m *offsetMap) get(key []byte) (Offset, bool) {
	s, _, _ := m.find(key)
	return Offset(s.next - 1), s.next != 0
}
