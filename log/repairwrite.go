package log

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// writePart writes what the plan changes, under names that mean nothing to a node yet.
func (r *repairer) writePart(p *repairPart) error {
	if err := r.FS.MkdirAll(p.dir); err != nil {
		return err
	}
	for _, s := range p.segs {
		size := s.size
		var err error
		if !s.write {
			err = r.syncSegment(s)
		}
		if err != nil {
			return err
		}
		if s.write {
			if size, err = r.writeSegment(p, s); err != nil {
				return err
			}
		}
		p.pair.segment, p.pair.position = s.base, uint32(size)
	}
	if err := r.writeMeta(p); err != nil {
		return err
	}
	return syncPartitionDir(r.FS, p.dir)
}

// syncSegment makes durable what stays as it is; where the last checkpoint is lost, nobody knows whether it was.
func (r *repairer) syncSegment(s *repairSegment) error {
	if r.j.cp != nil {
		return nil
	}
	f, err := r.FS.OpenFile(s.file, os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeMeta brings part.meta up to date: the new journal has no entry that would.
func (r *repairer) writeMeta(p *repairPart) error {
	name := filepath.Join(p.dir, "part.meta")
	if _, err := readPartMeta(r.FS, p.dir); errors.Is(err, ErrCorrupt) {
		if err := r.moveAside(name); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.meta.start = min(p.meta.start, p.pair.end)
	p.meta.epochs = p.meta.epochs.trim(p.meta.start)
	return p.meta.write(r.FS, p.dir)
}

// writeSegment writes the segment's pieces to <name>.repaired, and its indexes, with the time of the last append that the old
// ones had: retention goes by it.
func (r *repairer) writeSegment(p *repairPart, s *repairSegment) (size int64, err error) {
	name := segmentName(p.dir, s.base, ".log")
	f, err := r.FS.Create(name + repairedExt + ".tmp")
	if err != nil {
		return 0, err
	}
	put := func(b []byte) error {
		if size+int64(len(b)) > math.MaxInt32 {
			return fmt.Errorf("segment %s would grow past 2 GiB: %w", name, ErrTooLarge)
		}
		_, err := f.WriteAt(b, size)
		size += int64(len(b))
		return err
	}
	for _, x := range s.pieces {
		if err = r.ctx.Err(); err != nil {
			break
		}
		if err = r.writePiece(p, x, put); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = r.writeIndexes(p, s, f, size)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = r.FS.Rename(name+repairedExt+".tmp", name+repairedExt)
	}
	if err == nil {
		err = r.FS.SyncDir(p.dir)
	}
	return size, err
}

func (r *repairer) writePiece(p *repairPart, x repairPiece, put func([]byte) error) error {
	if x.size > 0 {
		p.written = x.epoch
		for done := int64(0); done < x.size; {
			n := min(x.size-done, mib)
			b, err := readPart(r.FS, x.file, x.pos+done, n)
			if err != nil {
				return err
			}
			if x.mend && done == 0 {
				Batch(b).SetLeaderEpoch(x.epoch)
			}
			if err := put(b); err != nil {
				return err
			}
			done += n
		}
		return nil
	}
	for base := x.base; base < x.next; {
		epoch, next := p.meta.epochs.at(base)
		next = min(next, x.next, base+math.MaxInt32)
		p.written = max(p.written, epoch) // below all that the index knows, the epoch of what comes before
		if err := put(emptyBatch(base, next, p.written)); err != nil {
			return err
		}
		base = next
	}
	return nil
}

// emptyBatch takes the offsets [base, next) and has no record, like one of which compaction kept the header only.
func emptyBatch(base, next Offset, epoch Epoch) Batch {
	h := batchHeader{
		base: base, epoch: epoch, lastDelta: int32(next - base - 1), baseTimestamp: -1, maxTimestamp: -1,
		producerID: -1, producerEpoch: -1, baseSequence: -1,
	}
	return h.seal(make([]byte, BatchHeaderSize), nil, CompressionNone)
}

// writeIndexes replaces the indexes, which are hints.
func (r *repairer) writeIndexes(p *repairPart, s *repairSegment, f vfs.File, size int64) error {
	old := &segment{fs: r.FS, dir: p.dir, base: s.base}
	at, trusted, ok := old.appended()
	if !ok {
		at, trusted = r.Now, r.Now.After(clockFloor)
	}
	for _, ext := range []string{".idx", ".tix"} {
		if err := removeIfThere(r.FS, segmentName(p.dir, s.base, ext)); err != nil {
			return err
		}
	}
	if s == p.segs[len(p.segs)-1] {
		return nil // the node goes on writing it, and makes its index
	}
	x := &segment{fs: r.FS, dir: p.dir, base: s.base}
	x.index.lastAppend, x.index.trusted = at.Round(time.Millisecond), trusted
	return x.rebuildIndex(f, size, PartitionConfig{}.withDefaults().IndexIntervalBytes)
}
