package log

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The journal's bytes. The tables are in doc.go; encode and decode stand side by side here.

const (
	entryHeaderSize   = 56
	journalHeaderSize = 4096
	journalVersion    = 1
)

var journalMagic = [8]byte{'w', 'e', 'i', 'r', 'J', 'N', 'L', 0}

type entryType uint8

const (
	entryData          entryType = 1 // payload: one RecordBatch; base, count and epoch repeat its header
	entryEpoch         entryType = 2 // epoch begins at base
	entryTruncate      entryType = 3 // everything at or past base is void
	entryLogStart      entryType = 4 // log start is base
	entryCheckpoint    entryType = 5 // payload: checkpoint
	entryPartDef       entryType = 6 // payload: topic uuid, index, topic name; flagGone: the partition is deleted
	entryHighWatermark entryType = 7 // high watermark was at least base
	entrySeal          entryType = 8 // base is the last commit before an idle spell
	entryPad           entryType = 9 // ignored
)

func (t entryType) String() string {
	switch t {
	case entryData:
		return "DATA"
	case entryEpoch:
		return "EPOCH"
	case entryTruncate:
		return "TRUNCATE"
	case entryLogStart:
		return "LOGSTART"
	case entryCheckpoint:
		return "CHECKPOINT"
	case entryPartDef:
		return "PARTDEF"
	case entryHighWatermark:
		return "HW"
	case entrySeal:
		return "SEAL"
	case entryPad:
		return "PAD"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

const (
	// flagCommitEnd marks the last entry of a commit, so that recovery knows whether a bad entry
	// belongs to the commit before it or to the next one (J2).
	flagCommitEnd = 1 << 0
	flagGone      = 1 << 1
	flagAside     = 1 << 2 // with flagGone: the files are kept, under another name
)

// entry is one decoded journal entry; payload is a view.
type entry struct {
	seq     uint64
	salt    uint64
	commit  uint64
	typ     entryType
	flags   uint8
	pid     uint32
	epoch   Epoch
	count   uint32
	base    Offset
	payload []byte
}

// entrySize is what a payload of n bytes takes in the journal: header, payload, padding to 8.
func entrySize(n int) int { return (entryHeaderSize + n + 7) &^ 7 }

// appendEntry encodes e without its CRC, which sealEntry adds once the flags are final.
func appendEntry(dst []byte, e *entry) []byte {
	at := len(dst)
	var h [entryHeaderSize]byte
	le := binary.LittleEndian
	le.PutUint32(h[4:], uint32(len(e.payload)))
	le.PutUint64(h[8:], e.seq)
	le.PutUint64(h[16:], e.salt)
	le.PutUint64(h[24:], e.commit)
	h[32] = byte(e.typ)
	h[33] = e.flags
	le.PutUint32(h[36:], e.pid)
	le.PutUint32(h[40:], uint32(e.epoch))
	le.PutUint32(h[44:], e.count)
	le.PutUint64(h[48:], uint64(e.base))
	dst = append(dst, h[:]...)
	dst = append(dst, e.payload...)
	for len(dst)-at < entrySize(len(e.payload)) {
		dst = append(dst, 0)
	}
	return dst
}

// sealEntry writes the CRC of the entry that fills b exactly (payload of n bytes, padding not covered).
func sealEntry(b []byte, n int) {
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:entryHeaderSize+n], castagnoli))
}

// decodeEntry reads the entry at the start of b. ErrShort: b may hold only its beginning; need says
// how many bytes it claims. ErrCorrupt: not an entry.
func decodeEntry(b []byte) (e entry, size int, err error) {
	if len(b) < entryHeaderSize {
		return e, entryHeaderSize, ErrShort
	}
	le := binary.LittleEndian
	n := le.Uint32(b[4:])
	if n > maxJournalFileBytes {
		return e, 0, ErrCorrupt
	}
	size = entrySize(int(n))
	if len(b) < size {
		return e, size, ErrShort
	}
	if crc32.Checksum(b[4:entryHeaderSize+int(n)], castagnoli) != le.Uint32(b) {
		return e, 0, ErrCorrupt
	}
	e = entry{
		seq:     le.Uint64(b[8:]),
		salt:    le.Uint64(b[16:]),
		commit:  le.Uint64(b[24:]),
		typ:     entryType(b[32]),
		flags:   b[33],
		pid:     le.Uint32(b[36:]),
		epoch:   Epoch(le.Uint32(b[40:])),
		count:   le.Uint32(b[44:]),
		base:    Offset(le.Uint64(b[48:])),
		payload: b[entryHeaderSize : entryHeaderSize+int(n) : entryHeaderSize+int(n)],
	}
	return e, size, nil
}

// journalHeader is the first 4 KiB of a journal file.
type journalHeader struct {
	number   uint64 // rises by one with each file begun
	salt     uint64 // new with each use of the file, so that entries of an earlier use are not valid
	firstSeq uint64
	bytes    int64 // size of the file, which never shrinks
	recovery bool  // begun by recovery: until it holds an entry, it proves nothing about earlier files
}

func (h *journalHeader) encode() []byte {
	b := make([]byte, journalHeaderSize)
	copy(b, journalMagic[:])
	le := binary.LittleEndian
	le.PutUint32(b[8:], journalVersion)
	if h.recovery {
		le.PutUint32(b[12:], 1)
	}
	le.PutUint64(b[16:], h.number)
	le.PutUint64(b[24:], h.salt)
	le.PutUint64(b[32:], h.firstSeq)
	le.PutUint64(b[40:], uint64(h.bytes))
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
	return b
}

// decodeJournalHeader returns ErrNewerFormat for a sound header of a later version, ErrCorrupt for no header.
func decodeJournalHeader(b []byte) (h journalHeader, err error) {
	le := binary.LittleEndian
	if len(b) < 52 || [8]byte(b[:8]) != journalMagic || crc32.Checksum(b[:48], castagnoli) != le.Uint32(b[48:]) {
		return h, ErrCorrupt
	}
	if v := le.Uint32(b[8:]); v != journalVersion {
		return h, fmt.Errorf("version %d: %w", v, ErrNewerFormat)
	}
	h = journalHeader{number: le.Uint64(b[16:]), salt: le.Uint64(b[24:]), firstSeq: le.Uint64(b[32:]), bytes: int64(le.Uint64(b[40:])), recovery: le.Uint32(b[12:]) == 1}
	if h.number == 0 || h.firstSeq == 0 {
		return h, ErrCorrupt
	}
	return h, nil
}

// checkpoint says that everything up to and including journal entry covered stands in segments and
// part.meta files that were synced before the checkpoint was written (J3).
type checkpoint struct {
	covered uint64 // last sequence covered
	oldest  uint64 // number of the oldest journal file still needed (J4)
	nextPID uint32
	parts   []checkpointPart
}

// checkpointPart is where one partition stood at entry covered.
type checkpointPart struct {
	pid      uint32
	position uint32 // bytes of the segment that are covered
	segment  Offset // base of the segment that position counts in
	end      Offset // log end
	hw       Offset // high watermark, a hint
	snapshot Offset // name of the producer snapshot; -1: no producer state below end
}

const (
	checkpointHeadSize = 24
	checkpointPartSize = 40
)

func (c *checkpoint) encode(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, c.covered)
	dst = le.AppendUint64(dst, c.oldest)
	dst = le.AppendUint32(dst, c.nextPID)
	dst = le.AppendUint32(dst, uint32(len(c.parts)))
	for i := range c.parts {
		p := &c.parts[i]
		dst = le.AppendUint32(dst, p.pid)
		dst = le.AppendUint32(dst, p.position)
		dst = le.AppendUint64(dst, uint64(p.segment))
		dst = le.AppendUint64(dst, uint64(p.end))
		dst = le.AppendUint64(dst, uint64(p.hw))
		dst = le.AppendUint64(dst, uint64(p.snapshot))
	}
	return dst
}

func decodeCheckpoint(b []byte) (*checkpoint, error) {
	le := binary.LittleEndian
	if len(b) < checkpointHeadSize {
		return nil, fmt.Errorf("checkpoint of %d bytes: %w", len(b), ErrCorrupt)
	}
	c := &checkpoint{covered: le.Uint64(b), oldest: le.Uint64(b[8:]), nextPID: le.Uint32(b[16:])}
	n := int64(le.Uint32(b[20:]))
	b = b[checkpointHeadSize:]
	if int64(len(b)) != n*checkpointPartSize {
		return nil, fmt.Errorf("checkpoint of %d partitions in %d bytes: %w", n, len(b), ErrCorrupt)
	}
	c.parts = make([]checkpointPart, n)
	for i := range c.parts {
		c.parts[i] = checkpointPart{
			pid:      le.Uint32(b),
			position: le.Uint32(b[4:]),
			segment:  Offset(le.Uint64(b[8:])),
			end:      Offset(le.Uint64(b[16:])),
			hw:       Offset(le.Uint64(b[24:])),
			snapshot: Offset(le.Uint64(b[32:])),
		}
		b = b[checkpointPartSize:]
	}
	return c, nil
}

// partDef is the payload of a PARTDEF entry.
func encodePartDef(dst []byte, id PartitionID, topic string) []byte {
	dst = append(dst, id.Topic[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(id.Index))
	return append(dst, topic...)
}

func decodePartDef(b []byte) (id PartitionID, topic string, err error) {
	if len(b) < 20 {
		return id, "", fmt.Errorf("partition definition of %d bytes: %w", len(b), ErrCorrupt)
	}
	id.Topic = TopicID(b[:16])
	id.Index = int32(binary.LittleEndian.Uint32(b[16:]))
	return id, string(b[20:]), nil
}
