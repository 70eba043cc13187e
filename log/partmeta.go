package log

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"

	"github.com/weir-io/weir/log/vfs"
)

// partMeta is the part.meta file: what a partition is, and what of its state is not in segments. It is
// replaced atomically, at creation and by checkpoints when something in it changed (J4).
type partMeta struct {
	pid     uint32
	id      PartitionID
	topic   string
	start   Offset
	epochs  epochList
	damaged string // E7: why the partition is read-only; empty when it is sound
}

const (
	partMetaVersion = 1
	maxPartMeta     = 16 * mib
)

var partMetaMagic = [8]byte{'w', 'e', 'i', 'r', 'P', 'R', 'T', 0}

func (m *partMeta) encode() []byte {
	le := binary.LittleEndian
	b := append([]byte(nil), partMetaMagic[:]...)
	b = le.AppendUint32(b, partMetaVersion)
	b = le.AppendUint32(b, m.pid)
	b = append(b, m.id.Topic[:]...)
	b = le.AppendUint32(b, uint32(m.id.Index))
	b = le.AppendUint64(b, uint64(m.start))
	b = le.AppendUint32(b, uint32(len(m.epochs)))
	for _, e := range m.epochs {
		b = le.AppendUint32(b, uint32(e.epoch))
		b = le.AppendUint64(b, uint64(e.start))
	}
	b = le.AppendUint16(b, uint16(len(m.topic)))
	b = append(b, m.topic...)
	b = le.AppendUint16(b, uint16(len(m.damaged)))
	b = append(b, m.damaged...)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodePartMeta(b []byte) (*partMeta, error) {
	const fixed = 8 + 4 + 4 + 16 + 4 + 8 + 4
	le := binary.LittleEndian
	if len(b) < fixed+2+2+4 || [8]byte(b[:8]) != partMetaMagic {
		return nil, fmt.Errorf("not a part.meta file: %w", ErrCorrupt)
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != le.Uint32(b[end:]) {
		return nil, fmt.Errorf("part.meta checksum does not match: %w", ErrCorrupt)
	}
	if v := le.Uint32(b[8:]); v != partMetaVersion {
		return nil, fmt.Errorf("part.meta version %d: %w", v, ErrNewerFormat)
	}
	m := &partMeta{pid: le.Uint32(b[12:])}
	m.id.Topic = TopicID(b[16:32])
	m.id.Index = int32(le.Uint32(b[32:]))
	m.start = Offset(le.Uint64(b[36:]))
	n := int(le.Uint32(b[44:]))
	b = b[fixed:end]
	if n < 0 || n > len(b)/12 {
		return nil, fmt.Errorf("part.meta has %d epochs: %w", n, ErrCorrupt)
	}
	for range n {
		m.epochs = append(m.epochs, epochStart{Epoch(le.Uint32(b)), Offset(le.Uint64(b[4:]))})
		b = b[12:]
	}
	var ok1, ok2 bool
	m.topic, b, ok1 = cutString(b)
	m.damaged, b, ok2 = cutString(b)
	if !ok1 || !ok2 || len(b) != 0 {
		return nil, fmt.Errorf("part.meta is not as long as it says: %w", ErrCorrupt)
	}
	return m, nil
}

// cutString takes a u16 length and that many bytes.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", b, false
	}
	n := int(binary.LittleEndian.Uint16(b))
	if len(b) < 2+n {
		return "", b, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}

func readPartMeta(fs vfs.FS, dir string) (*partMeta, error) {
	b, err := vfs.ReadFile(fs, filepath.Join(dir, "part.meta"), maxPartMeta)
	if err != nil {
		return nil, err
	}
	m, err := decodePartMeta(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "part.meta"), err)
	}
	return m, nil
}

// write replaces the file; it is durable when this returns.
func (m *partMeta) write(fs vfs.FS, dir string) error {
	if err := vfs.WriteFile(fs, filepath.Join(dir, "part.meta"), m.encode()); err != nil {
		return fmt.Errorf("write part.meta of %s: %w", m.id, err)
	}
	return nil
}
