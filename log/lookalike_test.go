package log

import (
	"errors"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// What an earlier use of a journal file left behind is full of places that look like entries of megabytes
// (batches of small numbers do). Start took minutes when the CRC of each was computed.
func TestTailFullOfLookalikesIsSearchedQuickly(t *testing.T) {
	const size = 8 << 20
	seal := func(seq, salt, commit uint64) []byte {
		b := appendEntry(nil, &entry{seq: seq, salt: salt, commit: commit, typ: entryData})
		sealEntry(b, 0)
		return b
	}
	lookalike := appendEntry(nil, &entry{seq: 1 << 40, salt: 7, commit: 9, typ: entryData})
	lookalike[6] = 0x3f // claims 4 MiB
	var body []byte
	for len(body)+len(lookalike) < size {
		body = append(body, lookalike...)
	}
	open := func(at int, e []byte) (*journalScan, *journalFile) {
		copy(body[at:], e)
		f, err := vfs.NewMem().Create("j")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(body, 0); err != nil {
			t.Fatal(err)
		}
		s := &journalFile{name: "j", f: f, size: int64(len(body)), journalHeader: journalHeader{salt: 77}}
		return &journalScan{ctx: t.Context(), next: 100, lastCommit: 50, blank: []*journalFile{s}}, s
	}

	start := time.Now()
	sc, s := open(0, nil)
	if err := sc.checkTail(s, 0); err != nil || sc.torn {
		t.Errorf("tail of lookalikes: torn %v, %v", sc.torn, err)
	}
	if err := sc.checkBlank(); err != nil {
		t.Errorf("blank file of lookalikes: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second { // of 130,000 lookalikes, each read and summed: minutes
		t.Errorf("took %v", took)
	}

	// Among them, what counts is found all the same.
	const place = 5<<20 + 8
	sc, s = open(place, seal(101, 77, 50))
	if err := sc.checkTail(s, 0); err != nil || !sc.torn {
		t.Errorf("rest of the last commit: torn %v, %v", sc.torn, err)
	}
	sc, s = open(place, seal(120, 77, 51))
	if err := sc.checkTail(s, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("entry of a later commit: %v", err)
	}
	sc, s = open(place, seal(120, 78, 51))
	if err := sc.checkTail(s, 0); err != nil {
		t.Errorf("entry of an earlier use of the file: %v", err)
	}
	if err := sc.checkBlank(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("entry that should come next, in a file without a header: %v", err)
	}
}
