package meta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// inspected makes a metadata directory whose contents never change, and a snapshot in it.
func inspected(t *testing.T) (dir string, s *store) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "raft")
	s = tempStore(t, dir)
	var es []*raft.Log
	for i, cmd := range []Command{
		nil, &RegisterBroker{ClusterID: "c", UUID: UUID{1}, Nonce: UUID{2}}, &CreateTopic{Name: "telemetry"}, &AllocProducerIDs{},
	} {
		e := &raft.Log{Index: uint64(i + 7), Term: 2, Type: raft.LogNoop}
		if cmd != nil {
			data, err := EncodeCommand(cmd)
			if err != nil {
				t.Fatal(err)
			}
			e.Type, e.Data = raft.LogCommand, data
		}
		es = append(es, e)
	}
	snaps, err := raft.NewFileSnapshotStore(dir, 2, raftLog{quiet()})
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("")
	sink, err := snaps.Create(raft.SnapshotVersionMax, 6, 1, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(NewImage().Encode(sink), sink.Close(),
		os.Rename(filepath.Join(dir, "snapshots", sink.ID()), filepath.Join(dir, "snapshots", "1-6-0")), // its name has the time
		s.StoreLogs(es), s.SetUint64([]byte("CurrentTerm"), 3), s.SetUint64([]byte("LastVoteTerm"), 2), s.Set([]byte("LastVoteCand"), []byte("abc"))); err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func inspectText(t *testing.T, dir string) (*Report, string) {
	t.Helper()
	var out bytes.Buffer
	print := func(v fmt.Stringer) {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s\n%s\n", v, text)
	}
	r, err := Inspect(dir, func(e EntryInfo) error { print(e); return nil })
	if err != nil {
		t.Fatal(err)
	}
	print(r)
	return r, strings.ReplaceAll(out.String(), dir, "DIR")
}

func TestInspectGolden(t *testing.T) {
	dir, s := inspected(t)
	_, running := inspectText(t, dir) // the lock of the store that is open does not matter
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, got := inspectText(t, dir)
	if got != running {
		t.Errorf("beside a running node:\n%sand alone:\n%s", running, got)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "raft.db")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the inspection changed the file: %v", err)
	}
	golden := filepath.Join("testdata", "inspect.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestInspectNamesDamage(t *testing.T) {
	dir, s := inspected(t)
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	flip := func(name string, find string) {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.LastIndex(b, []byte(find))
		if at < 0 {
			t.Fatalf("%s: no %q", name, find)
		}
		b[at] ^= 1
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(dir, "snapshots", "1-6-0", "state.bin")
	b, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	flip(state, string(b[len(b)-1:]))
	r, _ := inspectText(t, dir)
	if len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "1-6-0") || len(r.Snapshots) != 0 || r.Entries != 4 {
		t.Errorf("a flipped bit in a snapshot: %+v", r)
	}
	flip(filepath.Join(dir, "raft.db"), "LastVoteCand")
	r, _ = inspectText(t, dir)
	if len(r.Faults) != 2 || !strings.Contains(r.Faults[0], "damaged") {
		t.Errorf("a flipped bit in a vote: %+v", r)
	}
	if _, err := Inspect(t.TempDir(), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory without metadata: %v", err)
	}
}

// A view is reported only when it was whole: beside a writer that never rests, it is that or a note.
func TestInspectBesideAWriter(t *testing.T) {
	dir, s := inspected(t)
	defer s.close()
	s.db.NoSync = true // nothing holds the writer up
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := uint64(11); ; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := errors.Join(s.StoreLog(&raft.Log{Index: i, Term: 3, Type: raft.LogNoop, Data: bytes.Repeat([]byte("x"), 3000)}), s.DeleteRange(7, max(i, 57)-50)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	whole := 0
	for range 400 {
		r, _ := inspectText(t, dir)
		if r.Damaged() {
			t.Errorf("%v", r.Faults)
			break
		}
		if len(r.Notes) == 0 {
			if whole++; r.Last-r.First+1 != uint64(r.Entries) || r.Entries < 4 || r.Entries > 53 {
				t.Errorf("entries %d to %d, %d of them", r.First, r.Last, r.Entries)
			}
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of 400 views were whole", whole)
}
