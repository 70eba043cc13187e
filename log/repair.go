package log

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// Repair is an operator's way out of damage where there is no replica to refill from (E7). It makes a directory that
// a node starts on out of one that it does not, or that it serves in part, and says what that costs before it does
// anything. There is one mechanism for all kinds of damage:
//
//   - Every segment is read. What is sound stays where it is, at its offset.
//   - What the segments lack is taken from the journal, where that has it.
//   - What neither has is lost. Its offsets are covered by batches without records, as compaction leaves them: readers
//     step over them, and they are never given to other records, in no epoch (A7).
//   - The journal is replaced by one that holds a checkpoint of the result.
//
// Originals are moved aside as <name>.damaged-<time>, never removed. A repair that is cut off is finished by
// the next; until then the directory cannot be opened.

// RepairOptions say what to repair.
type RepairOptions struct {
	FS  vfs.FS // nil = the operating system's
	Dir string
	// Expected are the partitions that the directory should have; those that it has not are made empty.
	Expected []ExpectedPartition
	// Apply repairs. Without it nothing is changed.
	Apply    bool
	Progress func(done, total int64) // bytes of segments
	Now      time.Time               // names what is moved aside [now]
}

// ExpectedPartition is one that the metadata gives to this node alone.
type ExpectedPartition struct {
	ID    PartitionID
	Topic string
}

// RepairReport is what a repair costs, or would.
type RepairReport struct {
	Dir     string   `json:"dir"`
	Applied bool     `json:"applied"`
	Journal string   `json:"journal,omitempty"` // what is wrong with it; empty when it is sound
	Losses  []Loss   `json:"losses,omitempty"`
	Fixes   []string `json:"fixes,omitempty"` // what is put right without loss
	Moved   []string `json:"moved,omitempty"` // originals, under the names that they have now or would get
}

// Needed says whether there is anything to repair.
func (r *RepairReport) Needed() bool { return r.Journal != "" || len(r.Losses)+len(r.Fixes) > 0 }

// Loss is a range of offsets whose records are gone.
type Loss struct {
	Topic     string      `json:"topic"`
	Partition int32       `json:"partition"`
	ID        PartitionID `json:"-"`
	First     Offset      `json:"first_offset"`
	Next      Offset      `json:"next_offset"` // half-open
	Bytes     int64       `json:"bytes"`       // that are there and cannot be read; of the journal, they may be other partitions'
	// Certain: records stood there. Otherwise it is not known whether any did: the range is what may not be used again.
	Certain bool   `json:"certain"`
	Reason  string `json:"reason"`
}

// String is one line.
func (l Loss) String() string {
	if l.Certain {
		return fmt.Sprintf("%s-%d: lost: offsets %d to %d, %d bytes: %s", l.Topic, l.Partition, l.First, l.Next-1, l.Bytes, l.Reason)
	}
	size := ""
	if l.Bytes > 0 {
		size = fmt.Sprintf(", of at most %d bytes", l.Bytes)
	}
	return fmt.Sprintf("%s-%d: records from offset %d on may be lost%s: %s; new records begin at %d", l.Topic, l.Partition, l.First, size, l.Reason, l.Next)
}

const (
	repairingName = "repairing" // the mark of a repair under way
	repairedExt   = ".repaired" // a new file, whole and synced, on its way to its name
	asideMark     = ".damaged-"
)

// refuseHalfRepaired keeps a node from a directory in which files are half exchanged.
func refuseHalfRepaired(fsys vfs.FS, dir string) error {
	if _, err := fsys.Stat(filepath.Join(dir, repairingName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return fmt.Errorf("%s: a repair was cut off; finish it with `weir repair %s --yes`: %w", filepath.Join(dir, repairingName), dir, ErrCorrupt)
}

// repairer is one repair.
type repairer struct {
	RepairOptions
	ctx         context.Context
	report      *RepairReport
	done, total int64
	format      uint32 // of the directory; 0 when log.meta does not tell
	noSlots     string // what is wrong with the list of journal files

	j        repairJournal
	parts    []*repairPart
	badMetas []string // damaged part.meta files of directories without segments
}

// Repair looks at the whole directory and, if it is to, repairs it. No node may run on it: vfs.ErrLocked.
func Repair(ctx context.Context, o RepairOptions) (*RepairReport, error) {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if _, err := o.FS.Stat(filepath.Join(o.Dir, topicsName)); err != nil {
		return nil, fmt.Errorf("repair %s: no log here: %w", o.Dir, err)
	}
	lock, err := o.FS.Lock(filepath.Join(o.Dir, "lock"))
	if err != nil {
		return nil, openError(o.Dir, err)
	}
	r := &repairer{RepairOptions: o, ctx: ctx, report: &RepairReport{Dir: o.Dir, Applied: o.Apply}}
	if err = r.run(); err != nil {
		err = fmt.Errorf("repair %s: %w", o.Dir, err)
	}
	return r.report, errors.Join(err, lock.Close())
}

func (r *repairer) run() error {
	format, err := r.checkFormat()
	if err != nil {
		return err
	}
	_, err = r.FS.Stat(filepath.Join(r.Dir, repairingName))
	halfDone := err == nil
	if halfDone {
		r.report.Fixes = append(r.report.Fixes, "an earlier repair was cut off: it is finished")
		if r.Apply {
			if err := r.finishSwaps(); err != nil {
				return err
			}
		}
	}
	if err := r.readJournal(); err != nil {
		return err
	}
	if err := r.plan(); err != nil {
		return err
	}
	if format != "" {
		r.report.Fixes = append(r.report.Fixes, format)
	}
	if !r.Apply || !r.report.Needed() {
		r.report.Applied = false
		if r.report.Needed() {
			r.foretell()
		}
		return nil
	}
	return r.apply(format != "")
}

// foretell lists what would be moved aside.
func (r *repairer) foretell() {
	for _, name := range r.badMetas {
		r.report.Moved = append(r.report.Moved, r.asideName(name))
	}
	for _, p := range r.parts {
		if name := filepath.Join(p.dir, "part.meta"); slices.Contains(r.badMetas, name) {
			continue
		}
		if _, err := readPartMeta(r.FS, p.dir); errors.Is(err, ErrCorrupt) {
			r.report.Moved = append(r.report.Moved, r.asideName(filepath.Join(p.dir, "part.meta")))
		}
		for _, s := range p.segs {
			if s.write && s.file != "" {
				r.report.Moved = append(r.report.Moved, r.asideName(segmentName(p.dir, s.base, ".log")))
			}
		}
	}
	r.report.Moved = append(r.report.Moved, r.asideName(filepath.Join(r.Dir, journalName)))
}

// checkFormat says what is wrong with log.meta, "" if nothing is.
func (r *repairer) checkFormat() (string, error) {
	name := filepath.Join(r.Dir, formatName)
	b, err := vfs.ReadFile(r.FS, name, 4*kib)
	if errors.Is(err, fs.ErrNotExist) {
		return name + " is missing: it is written again", nil
	}
	if err != nil {
		return "", err
	}
	switch r.format, err = checkFormat(b); {
	case errors.Is(err, ErrCorrupt):
		return name + " is damaged: it is written again", nil
	default:
		return "", err
	}
}

// apply does what was planned, in an order in which every step may be the last (see finishSwaps).
func (r *repairer) apply(format bool) error {
	if err := vfs.WriteFile(r.FS, filepath.Join(r.Dir, repairingName), []byte(r.stamp()+"\n")); err != nil {
		return err
	}
	for _, name := range r.badMetas {
		if err := errors.Join(r.moveAside(name), r.FS.SyncDir(filepath.Dir(name))); err != nil {
			return err
		}
	}
	for _, p := range r.parts {
		if err := r.writePart(p); err != nil {
			return fmt.Errorf("partition %s of %s: %w", p.id, p.topic, err)
		}
	}
	if err := r.finishSwaps(); err != nil {
		return err
	}
	// From here on the segments have all that there is.
	journal := filepath.Join(r.Dir, journalName)
	if _, err := r.FS.Stat(journal); err == nil {
		if err := r.moveAside(journal); err != nil {
			return err
		}
	}
	if err := r.writeJournal(journal); err != nil {
		return err
	}
	if err := removeCleanMarker(r.FS, r.Dir); err != nil {
		return err
	}
	if format {
		if _, err := r.FS.Stat(filepath.Join(r.Dir, formatName)); err == nil {
			if err := r.moveAside(filepath.Join(r.Dir, formatName)); err != nil {
				return err
			}
		}
		if err := writeFormat(r.FS, r.Dir); err != nil {
			return err
		}
	}
	if err := syncParents(r.FS, r.Dir); err != nil {
		return err
	}
	if err := r.FS.Remove(filepath.Join(r.Dir, repairingName)); err != nil {
		return err
	}
	return r.FS.SyncDir(r.Dir)
}

func (r *repairer) stamp() string { return r.Now.UTC().Format("20060102T150405Z") }

// asideName is a name that nothing has yet.
func (r *repairer) asideName(name string) string {
	to := name + asideMark + r.stamp()
	for n := 2; ; n++ {
		if _, err := r.FS.Stat(to); err != nil {
			return to
		}
		to = fmt.Sprintf("%s%s%s-%d", name, asideMark, r.stamp(), n)
	}
}

func (r *repairer) moveAside(name string) error {
	to := r.asideName(name)
	r.report.Moved = append(r.report.Moved, to)
	return r.FS.Rename(name, to)
}

// finishSwaps gives every .repaired file its name, moving what has it aside. Such a file is whole, synced and
// true by itself, so it does not matter which of them are there.
func (r *repairer) finishSwaps() error {
	return r.eachPartitionDir(func(dir string) error {
		entries, err := r.FS.ReadDir(dir)
		if err != nil {
			return err
		}
		changed := false
		for _, e := range entries {
			name, ok := strings.CutSuffix(filepath.Join(dir, e.Name()), repairedExt)
			if !ok {
				continue
			}
			changed = true
			if _, err := r.FS.Stat(name); err == nil {
				if err := r.moveAside(name); err != nil {
					return err
				}
			}
			if err := r.FS.Rename(name+repairedExt, name); err != nil {
				return err
			}
		}
		if changed {
			return errors.Join(r.FS.SyncDir(dir), syncPartitionDir(r.FS, dir))
		}
		return nil
	})
}

func (r *repairer) eachPartitionDir(fn func(dir string) error) error {
	root := filepath.Join(r.Dir, topicsName)
	topics, err := r.FS.ReadDir(root)
	if err != nil {
		return err
	}
	for _, t := range topics {
		if !t.IsDir() {
			continue
		}
		parts, err := r.FS.ReadDir(filepath.Join(root, t.Name()))
		if err != nil {
			return err
		}
		for _, d := range parts {
			if d.IsDir() && !isAside(d.Name()) {
				if err := fn(filepath.Join(root, t.Name(), d.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// writeJournal makes a journal of one file whose only entry is a checkpoint of what the partitions are now.
func (r *repairer) writeJournal(dir string) error {
	cp := checkpoint{covered: r.j.lastSeq, oldest: r.j.lastNumber + 1, nextPID: 1}
	for _, p := range r.parts {
		cp.parts = append(cp.parts, p.pair)
		cp.nextPID = max(cp.nextPID, p.pair.pid+1)
	}
	cp.nextPID = max(cp.nextPID, r.j.nextPID)
	slices.SortFunc(cp.parts, func(a, b checkpointPart) int { return int(a.pid) - int(b.pid) })
	payload := cp.encode(nil)
	if err := r.FS.MkdirAll(dir); err != nil {
		return err
	}
	j := &journal{fs: r.FS, dir: dir, number: r.j.lastNumber, rand: rand.Reader, room: make(chan struct{}, 1)}
	slot, err := j.create(max(bootJournalBytes, journalHeaderSize+4*int64(entrySize(len(payload)))), nil)
	if err != nil {
		return err
	}
	j.addFree(slot)
	e := entry{seq: r.j.lastSeq + 1, commit: r.j.lastCommit + 2, typ: entryCheckpoint, flags: flagCommitEnd, payload: payload}
	if err = j.begin(e.seq, false); err == nil {
		e.salt = j.cur.salt
		b := appendEntry(nil, &e)
		sealEntry(b, len(payload))
		err = j.commit(b)
	}
	return errors.Join(err, j.close())
}
