package log

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"
)

// repairSegment is one segment file, present or to be.
type repairSegment struct {
	base   Offset
	file   string // "" = there is none yet
	size   int64
	pieces []repairPiece
	write  bool // it has to be written anew
}

// repairPiece is bytes of some file, or, with size 0, offsets that nothing is known of.
type repairPiece struct {
	base, next Offset
	file       string
	pos, size  int64
	epoch      Epoch
	mend       bool // one batch, whose header has another epoch
	guessed    bool // the index does not tell its epoch
}

// listSegments finds the segments; a .repaired file stands for the one that it is to replace.
func (r *repairer) listSegments(p *repairPart) error {
	if r.Apply {
		if _, err := recoverSwaps(r.FS, p.dir); err != nil {
			return err
		}
	}
	entries, err := r.FS.ReadDir(p.dir)
	if err != nil {
		return err
	}
	found := map[Offset]*repairSegment{}
	for _, e := range entries {
		p.sparse = p.sparse || e.Name() == cleanedName
		name, repaired := strings.CutSuffix(e.Name(), repairedExt)
		base, ok := parseSegmentFile(name)
		if !ok || filepath.Ext(name) != ".log" || found[base] != nil && !repaired {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		found[base] = &repairSegment{base: base, file: filepath.Join(p.dir, e.Name()), size: info.Size()}
	}
	for _, s := range found {
		p.segs = append(p.segs, s)
	}
	slices.SortFunc(p.segs, func(a, b *repairSegment) int { return cmp.Compare(a.base, b.base) })
	return nil
}

// scanPart reads all segments and keeps what is sound.
func (r *repairer) scanPart(p *repairPart) error {
	for i, s := range p.segs {
		limit := Offset(math.MaxInt64)
		if i+1 < len(p.segs) {
			limit = p.segs[i+1].base
		}
		if err := r.scanSegment(p, s, limit); err != nil {
			return fmt.Errorf("segment %s: %w", s.file, err)
		}
		r.done += s.size
		if r.Progress != nil {
			r.Progress(r.done, r.total)
		}
	}
	return nil
}

// scanSegment keeps runs of batches that follow each other. The checksum covers neither offset nor epoch, so a batch
// that stands out is not believed against the one behind it.
func (r *repairer) scanSegment(p *repairPart, s *repairSegment, limit Offset) error {
	f, err := r.FS.Open(s.file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &segmentWalk{in: &Inspector{}, ctx: r.ctx, f: f, r: &FileReport{}, size: s.size}
	var scan batchScanner
	scan.reset(f, 0, s.size)
	due := s.base
	covered := r.j.pairs[p.pair.pid]
	index, mended := r.indexOf(p), 0
	var held repairPiece
	accept := func(then Epoch) {
		if held.size == 0 {
			return
		}
		if held.guess(p.epochs.last(), then); held.mend {
			mended++
		}
		if n := len(s.pieces) - 1; n >= 0 && p.inRow(s.pieces[n], held) && !held.mend && !s.pieces[n].mend {
			s.pieces[n].next, s.pieces[n].size, s.pieces[n].epoch = held.next, s.pieces[n].size+held.size, held.epoch
		} else {
			s.pieces = append(s.pieces, held)
		}
		if held.epoch > p.epochs.last() {
			p.epochs = p.epochs.begin(held.epoch, held.base)
		}
		due, held = held.next, repairPiece{}
	}
	for {
		b, err := scan.next()
		if err == io.EOF {
			accept(math.MaxInt32)
			if mended > 0 {
				s.write = true
				r.report.Fixes = append(r.report.Fixes, fmt.Sprintf("%s: the leader epoch of %d batches is put right", s.file, mended))
			}
			return nil
		}
		if err == nil && b.CheckCRC() != nil {
			err = ErrCorrupt
			scan.pos = scan.position
		}
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrShort) && !errors.Is(err, ErrTooLarge) {
				return err
			}
			at, err := w.findBatch(scan.pos + 1)
			if err != nil {
				return err
			}
			scan.reset(f, at, s.size)
			continue
		}
		x := repairPiece{base: b.BaseOffset(), next: b.NextOffset(), file: s.file, pos: scan.position, size: int64(len(b)), epoch: b.LeaderEpoch()}
		x.hold(b, index, r.report.Journal != "")
		p.idle = p.idle && b.ProducerID() < 0
		if x.base < due || x.next <= x.base || x.next > limit {
			continue
		}
		if covered != nil && covered.segment == s.base && x.pos+x.size <= int64(covered.position) && x.next > covered.end {
			continue // the checkpoint knows where the log ended behind it
		}
		if held.size > 0 && x.base < held.next {
			if held.base > due || x.base != due {
				held = repairPiece{} // one of the two lies about its offset; this one follows what is known
			} else {
				continue
			}
		}
		accept(x.epoch)
		held = x
		if err := r.ctx.Err(); err != nil {
			return err
		}
	}
}

// indexOf is the epoch index as far as anybody knows it: that of part.meta, with what a sound journal has behind it.
func (r *repairer) indexOf(p *repairPart) epochList {
	index := slices.Clone(p.meta.epochs)
	if r.report.Journal != "" {
		return index
	}
	for _, e := range r.j.epochs[p.pair.pid] {
		if e.epoch > index.last() {
			index = index.begin(e.epoch, e.start)
		}
	}
	return index
}

// hold puts the piece's epoch right by the index. Where that is lost, or may lack its newest epochs because the journal does,
// the contents win (T6).
func (x *repairPiece) hold(b Batch, index epochList, behind bool) {
	e, _ := index.at(x.base)
	x.guessed = e < 0 || behind && e == index.last() && x.epoch > e
	if x.guessed {
		x.guessed = b.Count() > 0
	} else if strays(b, e) {
		x.epoch, x.mend = e, true
	}
}

// guess puts an epoch right that only its neighbours can judge: epochs never fall.
func (x *repairPiece) guess(before, then Epoch) {
	switch {
	case !x.guessed:
	case x.epoch < before:
		x.epoch, x.mend = before, true
	case x.epoch > then && then >= before:
		x.epoch, x.mend = then, true
	}
}

// inRow: b stands behind a in the segment, and no offset is missing between them.
func (p *repairPart) inRow(a, b repairPiece) bool {
	return a.pos+a.size == b.pos && (a.next == b.base || p.sparse)
}
