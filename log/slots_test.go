package log

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weir-io/weir/log/vfs"
)

// TestMissingJournalFile: whichever file of the journal is gone after a power cut, nothing acked is missing in silence,
// and the error names the newest one and the way out.
func TestMissingJournalFile(t *testing.T) {
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
		if err := wl.settle(g); err != nil {
			t.Fatal(err)
		}
	}
	promises, newest := []promise{g.promise()}, wl.l.j.cur.name
	disk := mem.CrashClone(0, nil)
	if err := wl.l.Close(); err != nil {
		t.Fatal(err)
	}
	listed, err := readSlots(disk, "/d", formatVersion)
	if err != nil || len(listed) < 2 {
		t.Fatalf("journal files %v, %v: too few for the test", listed, err)
	}
	for _, slot := range listed {
		name := slotFile("/d/journal", slot)
		without := disk.CrashClone(0, nil)
		if err := without.Remove(name); err != nil {
			t.Fatal(err)
		}
		if reported, err := keepsOrReports(without, promises, wl.ledgers); err != nil || !reported {
			t.Errorf("without %s: reported %v, %v", name, reported, err)
		}
		r, err := (&Inspector{FS: without}).InspectDir(t.Context(), "/d")
		if err != nil || !strings.Contains(strings.Join(r.Damaged, "\n"), name) {
			t.Errorf("without %s: inspection %+v, %v", name, r, err)
		}
	}
	if err := disk.Remove(newest); err != nil {
		t.Fatal(err)
	}
	_, err = Open(crashConfig(disk, nil))
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), newest) || !strings.Contains(err.Error(), "weir repair /d") {
		t.Errorf("without the newest: %v", err)
	}
}

// TestMissingSpareJournalFile: after a clean stop the marker shows that a file that is gone was a spare one. It is made
// again, and missed again when it is lost once it may hold something.
func TestMissingSpareJournalFile(t *testing.T) {
	disk := vfs.NewMem()
	w := newCommits()
	l := mustOpen(t, testConfig(disk, "/d", w))
	for files := 0; files < 2; runtime.Gosched() { // the keeper makes a spare one
		l.j.mu.Lock()
		files = len(l.j.slots)
		l.j.mu.Unlock()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range listNames(t, disk, "/d/journal") {
		if name != l.j.cur.name {
			if err := disk.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := (&Inspector{FS: disk}).InspectDir(t.Context(), "/d")
	if err != nil || len(r.Damaged) > 0 {
		t.Errorf("inspection without spare files: %+v, %v", r, err)
	}
	var told strings.Builder
	cfg := testConfig(disk, "/d", w)
	cfg.Logger = slog.New(slog.NewTextHandler(&told, nil))
	l = mustOpen(t, cfg)
	p := mustCreate(t, l, 0)
	if _, err := p.Append(&Record{Value: []byte("kept")}, 1); err != nil {
		t.Fatal(err)
	}
	w.wait(t, l, p, 1)
	cut, newest := disk.CrashClone(0, nil), l.j.cur.name
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(told.String(), "spare journal files are missing") {
		t.Errorf("the log says %s", &told)
	}
	if err := cut.Remove(newest); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testConfig(cut, "/d", nil)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("open without the newest: %v", err)
	}
}

// checkSlots: on every disk that a power cut can leave, each listed slot has a file (slots.go).
func checkSlots(mem *vfs.Mem, begun *journalFile) error {
	for _, keep := range []float64{0, 0.5, 1} {
		disk := mem.CrashClone(keep, newRand(1))
		listed, err := readSlots(disk, "/d", formatVersion)
		if errors.Is(err, ErrCorrupt) && begun == nil {
			continue // the first list is on its way
		}
		if err != nil {
			return err
		}
		for _, slot := range listed {
			if _, err := disk.Stat(slotFile("/d/journal", slot)); err != nil {
				return fmt.Errorf("keeping %g: slot %d is listed: %w", keep, slot, err)
			}
		}
		if begun != nil && !slices.Contains(listed, begun.slot) {
			return fmt.Errorf("keeping %g: slot %d is in use, listed are %d", keep, begun.slot, listed)
		}
	}
	return nil
}

// TestSlotsAreListedInTime makes, uses and removes journal files with one or two operations failing, and cuts the power
// before each.
func TestSlotsAreListedInTime(t *testing.T) {
	for n := 0; ; n++ {
		for second := range 7 { // so many operations after the first one; 0 = only one fails
			used, err := useSlots(t, n, second)
			if err != nil {
				t.Fatalf("faults %d and %d later: %v", n, second, err)
			}
			if !used {
				t.Logf("%d faults", n)
				return
			}
		}
	}
}

// useSlots is false when all was done before the fault.
func useSlots(t *testing.T, n, second int) (used bool, broken error) {
	mem := vfs.NewMem()
	fault := vfs.NewFault(mem)
	if err := errors.Join(mem.MkdirAll("/d/journal"), mem.SyncDir("/d"), mem.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	j := &journal{fs: fault, dir: "/d/journal", bytes: 8 * kib, files: 3, rand: rand.Reader, room: make(chan struct{}, 1)}
	check := func(where string) {
		if err := checkSlots(mem, j.cur); err != nil && broken == nil {
			broken = fmt.Errorf("%s: %w", where, err)
		}
	}
	fault.Inject(vfs.Rule{Ops: vfs.OpChange, Hook: func(op vfs.Op, name string) { check(fmt.Sprintf("before %v of %s", op, name)) }})
	in := fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: n, Times: 1, Err: syscall.EIO})
	if second > 0 {
		fault.Inject(vfs.Rule{Ops: vfs.OpChange, After: n + second, Times: 1, Err: syscall.EIO})
	}
	again := func(f func() error) {
		for try := 0; ; try++ {
			err := f()
			if err == nil {
				return
			}
			if try == 2 {
				t.Fatalf("faults %d and %d later: the third try: %v", n, second, err)
			}
		}
	}
	again(func() error {
		s, err := j.create(4*kib+256, nil)
		if err == nil {
			j.addFree(s)
		}
		return err
	})
	err := j.begin(1, false)
	for i := 0; err == nil && i < 3; i++ { // an error here takes the log offline
		again(func() error { return j.prepare(nil, true) }) // the first has another size: it is removed
		if err = j.begin(1, false); err == nil {
			j.release(j.number)
		}
	}
	check("at the end")
	used = in.Hits() > 0
	if !used && (err != nil || j.names < 3) {
		t.Errorf("%d slots were made, %v", j.names, err)
	}
	return used, errors.Join(broken, j.close())
}

// TestFormatOne: a directory without a list of journal files is opened, whatever list an interrupted upgrade or an older
// version has left, and has one from then on. The power may be cut at any point of that.
func TestFormatOne(t *testing.T) {
	disk, promises, ledgers, _, _, _ := sealedDisk(t)
	one := binary.LittleEndian.AppendUint32(append([]byte(nil), formatMagic[:]...), 1)
	one = append(one, crcOf(one)...)
	stale := slotList{0, 77}
	err := errors.Join(vfs.WriteFile(disk, "/d/log.meta", one), vfs.WriteFile(disk, filepath.Join("/d", slotsName), stale.encode()))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := (&Inspector{FS: disk}).InspectDir(t.Context(), "/d"); err != nil || len(r.Damaged) > 0 {
		t.Errorf("inspection of format 1: %+v, %v", r, err)
	}
	halves := make([]bool, len(ledgers))
	fault := vfs.NewFault(disk)
	cuts := 0
	fault.Inject(vfs.Rule{Ops: vfs.OpChange, Hook: func(op vfs.Op, name string) {
		for _, keep := range []float64{0, 1} {
			cuts++
			if err := reopen(disk.CrashClone(keep, nil), promises, ledgers, halves); err != nil {
				t.Errorf("power cut before %v of %s, keeping %g: %v", op, name, keep, err)
			}
		}
	}})
	l, err := Open(crashConfig(fault, nil))
	if err != nil {
		t.Fatal(err)
	}
	if cuts < 20 {
		t.Errorf("only %d power cuts", cuts)
	}
	b, err := vfs.ReadFile(disk, "/d/log.meta", kib)
	if err != nil {
		t.Fatal(err)
	}
	format, err := checkFormat(b)
	listed, lerr := readSlots(disk, "/d", format)
	if err != nil || lerr != nil || format != formatVersion || slices.Contains(listed, 77) {
		t.Errorf("format %d, listed %d, %v, %v", format, listed, err, lerr)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDecodeSlots(t *testing.T) {
	want := slotList{0, 3, 4}
	b := want.encode()
	if got, err := decodeSlots(b); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for i := range b {
		if _, err := decodeSlots(b[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d: %v", i, err)
		}
		if _, err := decodeSlots(flipped(b, i)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for _, n := range []byte{2, 4} { // of three
		other := append([]byte(nil), b[:len(b)-4]...)
		other[12] = n
		if _, err := decodeSlots(append(other, crcOf(other)...)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("said to have %d: %v", n, err)
		}
	}
	newer := append([]byte(nil), b[:len(b)-4]...)
	newer[8]++
	if _, err := decodeSlots(append(newer, crcOf(newer)...)); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("of the next version: %v", err)
	}
}

// With two of four files a checkpoint that takes as long as one of them lasts stops commits every time, and since it frees one,
// a spare was never missing when somebody looked.
func TestJournalThatRanOutGetsItsFiles(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/d/journal"); err != nil {
		t.Fatal(err)
	}
	j := &journal{fs: mem, dir: "/d/journal", bytes: 8 * kib, files: 4, rand: rand.Reader, room: make(chan struct{}, 1)}
	prepare := func(want int) {
		t.Helper()
		if err := j.prepare(nil, true); err != nil || len(j.slots) != want {
			t.Fatalf("%d files, want %d (%v)", len(j.slots), want, err)
		}
	}
	begin := func(want error) {
		t.Helper()
		if err := j.begin(1, false); err != want {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	prepare(1)
	begin(nil)
	prepare(2)
	for range 10 { // checkpoints are quick enough: two files will do
		begin(nil)
		j.release(j.number)
		prepare(2)
	}
	for files := 3; files <= 4; files++ {
		for range files - 2 {
			begin(nil)
		}
		begin(errJournalFull)
		j.release(j.number)
		if err := j.prepare(nil, false); err != nil || len(j.slots) != files-1 {
			t.Fatalf("%d files on a disk that has no room for more (%v)", len(j.slots), err)
		}
		prepare(files)
	}
	for range 3 {
		begin(nil)
	}
	begin(errJournalFull)
	prepare(4)
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}
