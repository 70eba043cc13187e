package meta

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
)

// Report is what an inspection found in raft/, of a node that runs or not.
type Report struct {
	Kind      string         `json:"kind"` // "metadata"
	Name      string         `json:"name"`
	Bytes     int64          `json:"bytes"`
	Term      uint64         `json:"term"`
	VoteTerm  uint64         `json:"vote_term,omitempty"`
	Vote      string         `json:"vote,omitempty"` // whom this node voted for in VoteTerm
	First     uint64         `json:"first_index,omitempty"`
	Last      uint64         `json:"last_index,omitempty"`
	Entries   int            `json:"entries"`
	Snapshots []SnapshotInfo `json:"snapshots,omitempty"`
	Faults    []string       `json:"faults,omitempty"`
	Notes     []string       `json:"notes,omitempty"`
}

// Damaged says whether something is not what was written.
func (r *Report) Damaged() bool { return len(r.Faults) > 0 }

// String is a line for the log, and one for each snapshot.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: metadata log, %d bytes, term %d", r.Name, r.Bytes, r.Term)
	if r.VoteTerm > 0 {
		fmt.Fprintf(&b, ", voted for %s in term %d", r.Vote, r.VoteTerm)
	}
	if r.Entries > 0 {
		fmt.Fprintf(&b, ", entries %d to %d", r.First, r.Last)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, ", %s", n)
	}
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "; DAMAGED %s", f)
	}
	if !r.Damaged() {
		b.WriteString("; ok")
	}
	for _, s := range r.Snapshots {
		fmt.Fprintf(&b, "\n%s", s)
	}
	return b.String()
}

// SnapshotInfo is one snapshot of the metadata.
type SnapshotInfo struct {
	Name    string `json:"name"`
	Index   uint64 `json:"index"` // the last entry that is in it
	Term    uint64 `json:"term"`
	Bytes   int64  `json:"bytes"`
	Version uint64 `json:"version"` // of the metadata
	Brokers int    `json:"brokers"`
	Topics  int    `json:"topics"`
}

func (s SnapshotInfo) String() string {
	return fmt.Sprintf("%s: metadata snapshot, %d bytes, to entry %d of term %d, version %d, %d brokers, %d topics; ok",
		s.Name, s.Bytes, s.Index, s.Term, s.Version, s.Brokers, s.Topics)
}

// EntryInfo is one entry of the metadata log.
type EntryInfo struct {
	Index   uint64 `json:"index"`
	Term    uint64 `json:"term"`
	Command string `json:"command"` // its name, or what raft wrote for itself
	Bytes   int    `json:"bytes"`
}

func (e EntryInfo) String() string {
	return fmt.Sprintf("  entry %d, term %d: %s, %d bytes", e.Index, e.Term, e.Command, e.Bytes)
}

// looksAtRunning is how often a file that changes under the reader is read again. Writes of metadata are rare.
const looksAtRunning = 10

// Inspect reads raft.db and the snapshots in dir, verifies every checksum, and gives each entry to line, once the file
// was read whole. It takes no lock and changes nothing, so it may be used beside a running node. fs.ErrNotExist
// says that dir holds no metadata.
func Inspect(dir string, line func(EntryInfo) error) (*Report, error) {
	r := &Report{Kind: "metadata", Name: filepath.Join(dir, "raft.db")}
	f, err := os.Open(r.Name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for look := 1; ; look++ {
		before, size, err := stateOf(f)
		if err != nil {
			return nil, err
		}
		var es []EntryInfo
		seen := Report{Kind: r.Kind, Name: r.Name, Bytes: size}
		b, err := openBolt(f, size)
		if err == nil {
			err = readContents(b, func(e *raft.Log, size int) error {
				es = append(es, seen.entry(e, size))
				return nil
			}, seen.stable)
		}
		if errors.Is(err, ErrFormat) || errors.As(err, new(damageError)) {
			seen.Faults = append(seen.Faults, err.Error())
		} else if err != nil {
			return nil, err
		}
		// bbolt writes a new state beside the one in force. While that is still the newest, none of its pages can have been written over.
		after, _, err := stateOf(f)
		switch {
		case err != nil:
			return nil, err
		case after == before:
			*r = seen
			for _, e := range es {
				if err := line(e); err != nil {
					return nil, err
				}
			}
		case look < looksAtRunning:
			continue
		default:
			r.Bytes = size
			r.Notes = append(r.Notes, fmt.Sprintf("no consistent view: a running node wrote to it during each of %d looks; try again", look))
		}
		return r, r.readSnapshots(filepath.Join(dir, "snapshots"))
	}
}

// stateOf differs between any two states of the file: it has both heads, wherever the page size puts the second.
func stateOf(f *os.File) (state string, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	state = fmt.Sprint(info.Size())
	head := make([]byte, pageHeaderSize+metaSize)
	for at := int64(0); at <= maxPageSize && at < info.Size(); at = max(minPageSize, 2*at) {
		n, err := f.ReadAt(head, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", 0, err
		}
		state += string(head[:n])
	}
	return state, info.Size(), nil
}

func (r *Report) entry(e *raft.Log, size int) EntryInfo {
	if r.Entries++; r.First == 0 {
		r.First = e.Index
	}
	r.Last = e.Index
	info := EntryInfo{Index: e.Index, Term: e.Term, Command: strings.TrimPrefix(e.Type.String(), "Log"), Bytes: size}
	if e.Type == raft.LogCommand {
		cmd, err := DecodeCommand(e.Data)
		if err != nil {
			r.Faults = append(r.Faults, fmt.Sprintf("entry %d: %v", e.Index, err))
			return info
		}
		info.Command = strings.TrimPrefix(fmt.Sprintf("%T", cmd), "*meta.")
	}
	return info
}

// stable takes raft's own values, under raft's own names.
func (r *Report) stable(key, value []byte) {
	number := func() (n uint64) {
		if len(value) == 8 {
			n = binary.BigEndian.Uint64(value)
		}
		return n
	}
	switch string(key) {
	case "CurrentTerm":
		r.Term = number()
	case "LastVoteTerm":
		r.VoteTerm = number()
	case "LastVoteCand":
		r.Vote = string(value)
	}
}

func (r *Report) readSnapshots(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, n := range names {
		name := filepath.Join(dir, n.Name())
		if !n.IsDir() || strings.HasSuffix(name, ".tmp") { // one that was never finished
			continue
		}
		s, err := readSnapshot(name)
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
				continue // a running node has a newer one
			}
		}
		if err != nil {
			r.Faults = append(r.Faults, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		r.Snapshots = append(r.Snapshots, s)
	}
	return nil
}

// readSnapshot reads what raft wrote: meta.json, with a CRC-64 over state.bin.
func readSnapshot(name string) (s SnapshotInfo, err error) {
	text, err := readSmall(filepath.Join(name, "meta.json"), 1<<20)
	if err != nil {
		return s, err
	}
	var m struct {
		raft.SnapshotMeta
		CRC []byte
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return s, fmt.Errorf("meta.json: %w", err)
	}
	state, err := readSmall(filepath.Join(name, "state.bin"), maxSnapshotBytes)
	if err != nil {
		return s, err
	}
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	_, _ = sum.Write(state)
	if !bytes.Equal(sum.Sum(nil), m.CRC) || int64(len(state)) != m.Size {
		return s, fmt.Errorf("state.bin has %d bytes and another checksum than meta.json says", len(state))
	}
	im, err := DecodeImage(bytes.NewReader(state))
	if err != nil {
		return s, err
	}
	return SnapshotInfo{Name: name, Index: m.Index, Term: m.Term, Bytes: m.Size, Version: im.Version, Brokers: len(im.brokers), Topics: len(im.topics)}, nil
}

func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", filepath.Base(name), limit)
	}
	return b, err
}
