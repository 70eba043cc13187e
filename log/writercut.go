package log

// truncate cuts the partition's segments to o, which the journal says durably (T3).
func (w *segmentWriter) truncate(p *Partition, o Offset) error {
	pw := &p.w
	keep := len(pw.queue)
	for keep > 0 && pw.queue[keep-1].next > o {
		keep--
		w.unwritten.Add(-int64(len(pw.queue[keep].batch)))
		pw.bytes -= int64(len(pw.queue[keep].batch))
		pw.queue[keep].release()
		pw.queue[keep] = nil
	}
	pw.queue = pw.queue[:keep]
	if keep == 0 {
		w.unqueue(p)
	}
	pw.end = min(pw.end, o)
	pw.hw = min(pw.hw, o)
	pw.epochs = pw.epochs.truncate(o)
	pw.metaOld, pw.producersOld = true, true
	if err := w.cutSegments(p, o); err != nil {
		return err
	}
	if pw.producers.truncateTo(o) {
		return nil
	}
	if err := w.flush(p); err != nil {
		return err
	}
	return p.rebuildProducers(pw.producers, o)
}

// cutSegments removes segments that begin at or past o and cuts the one that contains it.
func (w *segmentWriter) cutSegments(p *Partition, o Offset) error {
	pw := &p.w
	var gone []*segment
	p.replaceSegments(func(segs []*segment) []*segment {
		n := len(segs)
		for n > 0 && segs[n-1].base >= o {
			n--
		}
		gone = append(gone, segs[n:]...)
		return segs[:n]
	})
	for _, s := range gone {
		if pw.active == s {
			pw.active = nil
		}
		if err := s.unlink(); err != nil {
			return err
		}
		pw.dirty = without(pw.dirty, s)
		pw.dirOld = true
	}
	segs := *p.segs.Load()
	if len(segs) == 0 {
		return nil
	}
	s := segs[len(segs)-1]
	position, err := s.position(o, p.config.Load().IndexIntervalBytes, w.l.cfg.MaxOpenFiles)
	if err != nil || position < 0 {
		return err
	}
	if err := s.cut(position, p.config.Load().IndexIntervalBytes, w.l.cfg.MaxOpenFiles); err != nil {
		return err
	}
	pw.active = s
	s.begins(w.l.cfg.Now())
	if !s.dirty {
		s.dirty = true
		pw.dirty = append(pw.dirty, s)
	}
	return nil
}

func without(list []*segment, s *segment) []*segment {
	for i := range list {
		if list[i] == s {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// forget drops a deleted partition.
func (w *segmentWriter) forget(p *Partition) {
	pw := &p.w
	for _, c := range pw.queue {
		w.unwritten.Add(-int64(len(c.batch)))
		c.release()
	}
	w.unqueue(p)
	pw.gone, pw.active, pw.dirty = true, nil, nil
}
