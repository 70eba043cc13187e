package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// sealedDisk makes a disk whose journal ends with acked records and a seal, as a power cut leaves it, and returns the
// promises and the name and tail of the current journal file.
func sealedDisk(t *testing.T) (disk *vfs.Mem, promises []promise, ledgers []*ledger, name string, from, to int64) {
	t.Helper()
	mem := vfs.NewMem()
	w := newCommits()
	wl := &workload{w: w, rng: newRand(7), seqs: map[[2]int64]int32{}}
	cfg := crashConfig(mem, w)
	cfg.SealAfter = time.Hour // sealed below, when everything is there
	wl.l = mustOpen(t, cfg)
	for i := range int32(2) {
		if err := wl.create(i); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, g := range wl.ledgers {
			if err := wl.append(g); err != nil {
				t.Fatal(err)
			}
			if err := wl.settle(g); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, g := range wl.ledgers {
		promises = append(promises, g.promise())
		if promises[i].acked != g.p.LogEnd() {
			t.Fatal("not everything is acked")
		}
	}
	done := make(chan error, 1)
	wl.l.c.submit(item{typ: entrySeal, durable: done})
	if err := wl.l.await(done); err != nil {
		t.Fatal(err)
	}
	disk = mem.CrashClone(0, nil)
	name, to = wl.l.j.cur.name, wl.l.j.pos
	if err := wl.l.Close(); err != nil {
		t.Fatal(err)
	}
	return disk, promises, wl.ledgers, name, journalHeaderSize, to
}

// change edits a file of a copy of the disk.
func change(t *testing.T, disk *vfs.Mem, name string, edit func(vfs.File)) *vfs.Mem {
	t.Helper()
	copied := disk.CrashClone(0, nil)
	f, err := copied.OpenFile(name, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	edit(f)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return copied
}

// keepsOrReports opens a damaged disk: either all that was acked is there, or the damage is reported.
func keepsOrReports(disk *vfs.Mem, promises []promise, ledgers []*ledger) (reported bool, err error) {
	l, err := Open(crashConfig(disk, newCommits()))
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewerFormat) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for i, g := range ledgers {
		p := l.Partition(g.p.id)
		if p != nil && p.Damaged() != "" {
			reported = true
			continue
		}
		if err := promises[i].check(p, false); err != nil {
			return false, errors.Join(err, l.Close())
		}
	}
	return reported, l.Close()
}

// TestFlipEveryByteOfTheJournal: whatever byte of a sealed journal changes, nothing acked is missing silently,
// and a change within an entry that counts is reported (J1, J2).
func TestFlipEveryByteOfTheJournal(t *testing.T) {
	disk, promises, ledgers, name, from, to := sealedDisk(t)
	reports := 0
	step := int64(1)
	if testing.Short() {
		step = 7
	}
	for at := int64(0); at < to; at += step {
		if at == 64 {
			at = from
		}
		flipped := change(t, disk, name, func(f vfs.File) {
			var b [1]byte
			if _, err := f.ReadAt(b[:], at); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 1 << (at % 8)
			if _, err := f.WriteAt(b[:], at); err != nil {
				t.Fatal(err)
			}
		})
		reported, err := keepsOrReports(flipped, promises, ledgers)
		if err != nil {
			t.Fatalf("byte %d of %d: %v", at, to, err)
		}
		if reported {
			reports++
		}
	}
	if reports < int((to-from)/step)*9/10 {
		t.Errorf("%d of %d changes were reported", reports, (to-from)/step)
	}
}

// TestCutJournal: a journal file that got shorter is damage wherever it is cut.
func TestCutJournal(t *testing.T) {
	disk, promises, ledgers, name, from, to := sealedDisk(t)
	for at := int64(0); at < to; at += 61 {
		cut := change(t, disk, name, func(f vfs.File) {
			if err := f.Truncate(at); err != nil {
				t.Fatal(err)
			}
		})
		reported, err := keepsOrReports(cut, promises, ledgers)
		if err != nil || !reported && at > from {
			t.Fatalf("cut to %d of %d: reported %v, %v", at, to, reported, err)
		}
	}
}

// TestTornTailIsNotDamage: a last commit that was cut off is dropped without fuss, and reported as uncertain.
func TestTornTailIsNotDamage(t *testing.T) {
	disk, promises, ledgers, name, _, to := sealedDisk(t)
	torn := change(t, disk, name, func(f vfs.File) {
		// The beginning of one more commit, with a byte that did not make it.
		var b []byte
		b = appendEntry(b, &entry{typ: entryData, payload: make([]byte, 100), commit: 99})
		b[70] ^= 1
		if _, err := f.WriteAt(b, to); err != nil {
			t.Fatal(err)
		}
	})
	if reported, err := keepsOrReports(torn, promises, ledgers); err != nil || reported {
		t.Errorf("torn tail: reported %v, %v", reported, err)
	}
	// What was begun of the next commit is counted, and said by recovery and by an inspection.
	var salt, seq, commit uint64
	dropped := change(t, disk, name, func(f vfs.File) {
		head := make([]byte, journalHeaderSize)
		if _, err := f.ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		h, err := decodeJournalHeader(head)
		if err != nil {
			t.Fatal(err)
		}
		sc := &journalScan{ctx: t.Context()}
		salt = h.salt
		if seq, _, err = sc.walk(&journalFile{f: f, size: h.bytes, journalHeader: h}, h.firstSeq, func(e *entry) error {
			commit = e.commit + 1
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var b []byte
		for i := range uint64(2) {
			b = appendEntry(b, &entry{typ: entryData, payload: make([]byte, 100), commit: commit, seq: seq + i, salt: salt}) // without its checksum
		}
		if _, err := f.WriteAt(b, to); err != nil {
			t.Fatal(err)
		}
	})
	r, err := (&Inspector{FS: dropped}).InspectDir(t.Context(), "/d")
	want := DroppedTail{File: name, Position: to, Bytes: int64(2 * entrySize(100)), Entries: 2, Commit: commit}
	if err != nil || len(r.Damaged) > 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], fmt.Sprintf("commit %d was cut off: a start drops 2 entries in %d bytes", commit, want.Bytes)) {
		t.Errorf("inspection: %+v, %v", r, err)
	}
	var told strings.Builder
	cfg := crashConfig(dropped, nil)
	cfg.Logger = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelWarn}))
	l := mustOpen(t, cfg)
	if tail := l.Recovery().Tail; tail == nil || *tail != want || !l.Recovery().TailUncertain {
		t.Errorf("recovery %+v, want tail %+v", l.Recovery(), want)
	}
	if !strings.Contains(told.String(), "level=WARN") || !strings.Contains(told.String(), fmt.Sprintf("bytes=%d entries=2 commit=%d", want.Bytes, commit)) {
		t.Errorf("the log says %q", told.String())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Without its seal the journal may have lost something.
	unsealed := change(t, disk, name, func(f vfs.File) {
		if _, err := f.WriteAt(make([]byte, entryHeaderSize), to-entryHeaderSize); err != nil {
			t.Fatal(err)
		}
	})
	l = mustOpen(t, crashConfig(unsealed, nil))
	defer l.Close()
	if !l.Recovery().TailUncertain {
		t.Errorf("recovery without seal: %+v", l.Recovery())
	}
}

// TestMissingFiles: files that went missing are noticed.
func TestMissingFiles(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	wl := &workload{w: w, rng: newRand(3), seqs: map[[2]int64]int32{}}
	wl.l = mustOpen(t, crashConfig(mem, w))
	if err := wl.create(0); err != nil {
		t.Fatal(err)
	}
	g := wl.ledgers[0]
	for range 60 {
		if err := wl.append(g); err != nil {
			t.Fatal(err)
		}
	}
	if err := wl.settle(g); err != nil {
		t.Fatal(err)
	}
	if err := wl.l.Close(); err != nil {
		t.Fatal(err)
	}
	promises := []promise{g.promise()}
	segs := *g.p.segs.Load()
	for _, name := range []string{
		wl.l.j.cur.name, filepath.Join(g.p.dir, "part.meta"), "/d/log.meta", segs[0].path(), segs[len(segs)-1].path(),
	} {
		disk := mem.CrashClone(1, nil)
		if err := disk.Remove(name); err != nil {
			t.Fatal(err)
		}
		reported, err := keepsOrReports(disk, promises, wl.ledgers)
		if err != nil || !reported {
			t.Errorf("without %s: reported %v, %v", name, reported, err)
		}
	}
}

// TestHoleIsReported: a segment missing in the middle is not passed over in silence.
func TestHoleIsReported(t *testing.T) {
	mem := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(mem, "/d", w))
	p, err := l.Create(testID(0), "t", PartitionConfig{SegmentBytes: 4 * kib})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, w, p, 20)
	gone := (*p.segs.Load())[2]
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mem.Remove(gone.path()); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, testConfig(mem, "/d", nil))
	defer l.Close()
	p = l.Partition(testID(0))
	if _, err := p.Read(gone.base, 20, kib, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read where the segment is missing: %v", err)
	}
	if b, err := p.Read(gone.base-1, 20, 1, nil); err != nil || len(b) == 0 {
		t.Errorf("read before: %v", err)
	}
	if b, err := p.Read(19, 20, 1, nil); err != nil || len(b) == 0 {
		t.Errorf("read after: %v", err)
	}
}

// TestEveryFault fails the first, second, … operation that changes the disk, until a whole scenario passes
// untouched. Whatever happens on the way, nothing acked is lost, neither for a restarted process nor after a
// power cut (A6, J7).
func TestEveryFault(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 5
	}
	for n := 0; ; n += step {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		in := fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: n, Times: 1, Err: syscall.EIO})
		wl := &workload{w: newCommits(), rng: newRand(5), seqs: map[[2]int64]int32{}}
		err := wl.scenario(fault)
		if in.Hits() == 0 {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d faults", n)
			return
		}
		in.Stop()
		var promises []promise
		halves := make([]bool, len(wl.ledgers))
		for i, g := range wl.ledgers {
			promises = append(promises, g.promise())
			halves[i] = g.cut >= 0
		}
		for _, keep := range []float64{0, 1} {
			if err := reopen(mem.CrashClone(keep, nil), promises, wl.ledgers, halves); err != nil {
				t.Fatalf("fault %d (the scenario said: %v), keeping %g: %v", n, wl.err, keep, err)
			}
		}
		if err := wl.restartThenCut(mem, promises, halves); err != nil {
			t.Fatalf("fault %d (the scenario said: %v), restart, more appends, power cut: %v", n, wl.err, err)
		}
	}
}

// restartThenCut opens the log again on the same disk, whose page cache still shows what was never synced, lets it
// promise more, and cuts the power (J7).
func (wl *workload) restartThenCut(mem *vfs.Mem, promises []promise, halves []bool) error {
	w := newCommits()
	l, err := Open(crashConfig(mem, w))
	if err != nil {
		return err
	}
	defer l.Close()
	ends := map[PartitionID]Offset{}
	for i, g := range wl.ledgers {
		p := l.Partition(g.p.id)
		if err := promises[i].check(p, halves[i]); err != nil {
			return err
		}
		for range 3 {
			if _, err := p.Append(&Record{Value: []byte("after the restart")}, p.LastEpoch()+1); err != nil {
				return err
			}
		}
		for changed := w.changed(); p.Durable() < p.LogEnd(); changed = w.changed() {
			select {
			case <-changed:
			case <-l.failed:
				return l.Err()
			}
		}
		ends[p.id] = p.LogEnd()
	}
	cut, err := Open(crashConfig(mem.CrashClone(0, nil), nil))
	if err != nil {
		return err
	}
	defer cut.Close()
	for i, g := range wl.ledgers {
		p := cut.Partition(g.p.id)
		if p == nil || p.LogEnd() != ends[g.p.id] {
			return fmt.Errorf("partition %d: %v, want log end %d", i, p, ends[g.p.id])
		}
		// What was appended since is past what the ledger knows, unless nothing of it survived.
		pr := promises[i]
		pr.known = min(pr.known, pr.acked)
		if err := pr.check(p, true); err != nil {
			return err
		}
	}
	return nil
}

// scenario opens, works, and closes, up to the first error.
func (wl *workload) scenario(fs vfs.FS) (err error) {
	defer func() { wl.err = err }()
	if wl.l, err = Open(crashConfig(fs, wl.w)); err != nil {
		return err
	}
	defer func() {
		if cerr := wl.l.Close(); err == nil {
			err = cerr
		}
	}()
	for i := range int32(2) {
		if err := wl.create(i); err != nil {
			return err
		}
	}
	for range 80 {
		if err := wl.step(); err != nil {
			return err
		}
	}
	for _, g := range wl.ledgers {
		if err := wl.settle(g); err != nil {
			return err
		}
	}
	return nil
}

// TestFailedSyncIsFinal: the first failed sync of the journal takes the log offline, nothing is synced again,
// and OnFail hears of it once (A6).
func TestFailedSyncIsFinal(t *testing.T) {
	mem := vfs.NewMem()
	fault := vfs.NewFault(mem)
	w := newCommits()
	fails := make(chan error, 8)
	cfg := testConfig(fault, "/d", w)
	cfg.OnFail = func(err error) { fails <- err }
	l := mustOpen(t, cfg)
	p := mustCreate(t, l, 0)
	r := &Record{Value: []byte("kept")}
	if _, err := p.Append(r, 1); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 1)
	for files := 0; files < 2; runtime.Gosched() { // the keeper makes a spare one and may be at it
		l.j.mu.Lock()
		files = len(l.j.slots)
		l.j.mu.Unlock()
	}
	in := fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Times: 1, Err: syscall.EIO})
	if _, err := p.Append(r, 1); err != nil {
		t.Fatal(err)
	}
	err := <-fails
	if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) || !errors.Is(l.Err(), ErrFailed) {
		t.Errorf("OnFail %v, Err %v", err, l.Err())
	}
	syncs := fault.Inject(vfs.Rule{Ops: vfs.OpSync | vfs.OpWrite, Times: 0, Delay: 0, Hook: func(op vfs.Op, name string) {
		if !strings.Contains(name, "lock") {
			t.Errorf("%v of %s after the failure", op, name)
		}
	}})
	if _, err := p.Append(r, 1); !errors.Is(err, ErrFailed) {
		t.Errorf("append: %v", err)
	}
	if _, _, err := p.AppendBatch(benchBatch(t, CompressionNone, 2), 1); !errors.Is(err, ErrFailed) {
		t.Errorf("append batch: %v", err)
	}
	if err := p.SetLogStart(1); !errors.Is(err, ErrFailed) {
		t.Errorf("set log start: %v", err)
	}
	if _, err := l.Create(testID(9), "t", PartitionConfig{}); !errors.Is(err, ErrFailed) {
		t.Errorf("create: %v", err)
	}
	if p.Durable() != 1 {
		t.Errorf("durable %d after a failed sync", p.Durable())
	}
	_ = l.Close()
	if in.Hits() != 1 {
		t.Errorf("%d syncs failed", in.Hits())
	}
	syncs.Stop()
	select {
	case err := <-fails:
		t.Errorf("OnFail again: %v", err)
	default:
	}
	// After the power cut the second record is gone, the first is there (J7).
	l = mustOpen(t, testConfig(mem.CrashClone(1, nil), "/d", nil))
	defer l.Close()
	if got := readAllRecords(t, l.Partition(testID(0))); len(got) != 1 || string(got[0]) != "kept" {
		t.Errorf("after the restart: %q", got)
	}
}

// A log that has failed and is closed has its segments closed, and lists them still: who reads hears why, and does not look for others for ever.
func TestReadOfAFailedLogThatIsClosed(t *testing.T) {
	mem := vfs.NewMem()
	fault := vfs.NewFault(mem)
	w := newCommits()
	l := mustOpen(t, testConfig(fault, "/d", w))
	p := mustCreate(t, l, 0)
	if _, err := p.Append(&Record{Value: []byte("kept")}, 1); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	fails := make(chan error, 1)
	cfg := testConfig(fault, "/d", nil)
	cfg.OnFail = func(err error) { fails <- err }
	l = mustOpen(t, cfg)
	p = l.Partition(testID(0))
	fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Times: 1, Err: syscall.EIO})
	if _, err := p.Append(&Record{Value: []byte("lost")}, 1); err != nil {
		t.Fatal(err)
	}
	<-fails
	if got, err := p.Read(0, 1, 1<<16, nil); err != nil || len(got) == 0 {
		t.Errorf("before it is closed: %d bytes, %v", len(got), err)
	}
	_ = l.Close()
	read := make(chan error, 1)
	go func() {
		_, err := p.Read(0, 1, 1<<16, nil)
		read <- err
	}()
	select {
	case err := <-read:
		if !errors.Is(err, ErrFailed) {
			t.Errorf("read: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the read does not end")
	}
}

// Who writes segments asks whether the clock is trusted: that waits for no sync of the clock's file.
func TestClockIsReadWhileItIsStored(t *testing.T) {
	fault := vfs.NewFault(vfs.NewMem())
	l := mustOpen(t, testConfig(fault, "/d", nil))
	defer l.Close()
	asked := false
	fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: clockName + "*", Hook: func(vfs.Op, string) {
		asked = true
		answered := make(chan struct{})
		go func() { l.clockTrusted(); close(answered) }()
		select {
		case <-answered:
		case <-time.After(10 * time.Second):
			t.Error("it waits for the sync")
		}
	}})
	l.clock.store(true)
	if !asked {
		t.Error("nothing was stored")
	}
}

func TestFormatOfTheFuture(t *testing.T) {
	mem := vfs.NewMem()
	l := mustOpen(t, testConfig(mem, "/d", nil))
	mustCreate(t, l, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	disk := change(t, mem.CrashClone(1, nil), "/d/log.meta", func(f vfs.File) {
		b := []byte{formatVersion + 1, 0, 0, 0}
		if _, err := f.WriteAt(append(b, crcOf(append(append([]byte(nil), formatMagic[:]...), b...))...), 8); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := Open(testConfig(disk, "/d", nil)); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("open of a newer format: %v", err)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	mem := vfs.NewMem()
	l := mustOpen(t, testConfig(mem, "/d", nil))
	defer l.Close()
	if _, err := Open(testConfig(mem, "/d", nil)); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func crcOf(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}
