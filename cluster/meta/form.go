package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// What raft.db holds under its keys; doc.go has the table. bbolt has no checksum over its pages, so each value has its own.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	entryForm       = 1
	entryHeaderSize = 4 + 1 + 1 + 8 + 8 + 4
)

// u32 crc of index and rest | u8 form | u8 type | u64 term | i64 appended at, ns | u32 data length | data | extensions
func encodeEntry(e *raft.Log) []byte {
	b := make([]byte, 4, entryHeaderSize+len(e.Data)+len(e.Extensions))
	b = append(b, entryForm, byte(e.Type))
	b = binary.BigEndian.AppendUint64(b, e.Term)
	var at int64
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
	b = append(b, e.Data...)
	b = append(b, e.Extensions...)
	binary.BigEndian.PutUint32(b, entrySum(e.Index, b[4:]))
	return b
}

// u32 crc of index and rest | u8 form | u8 type | u64 term | i64 appended at, ns | u32 data length | data | extensions
func decodeEntry(index uint64, b []byte, e *raft.Log) error {
	if len(b) < entryHeaderSize || binary.BigEndian.Uint32(b) != entrySum(index, b[4:]) {
		return damagef("entry %d has a wrong checksum", index)
	}
	if b[4] != entryForm {
		return fmt.Errorf("entry %d has form %d: %w", index, b[4], ErrFormat)
	}
	n := binary.BigEndian.Uint32(b[22:])
	rest := b[entryHeaderSize:]
	if uint64(n) > uint64(len(rest)) {
		return damagef("entry %d has %d bytes of data, and says it has %d", index, len(rest), n)
	}
	*e = raft.Log{Index: index, Type: raft.LogType(b[5]), Term: binary.BigEndian.Uint64(b[6:]), Data: bytes.Clone(rest[:n])}
	if at := int64(binary.BigEndian.Uint64(b[14:])); at != 0 {
		e.AppendedAt = time.Unix(0, at)
	}
	if len(rest) > int(n) {
		e.Extensions = bytes.Clone(rest[n:])
	}
	return nil
}

// entrySum covers the index as well, which stands in the key.
func entrySum(index uint64, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(indexKey(index), castagnoli), castagnoli, rest)
}

// u32 CRC-32C of key and value | value. A term or vote that rotted would let this node vote twice.
func encodeStable(key, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)), value...)
}

func decodeStable(key, b []byte) ([]byte, error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b[4:]) {
		return nil, damagef("the value %q has a wrong checksum", key)
	}
	return b[4:], nil
}
