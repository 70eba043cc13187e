package log

// ProducerState is what a partition remembers of one idempotent producer (P1), for people who look for one that hangs.
type ProducerState struct {
	ID           int64
	Epoch        int16
	LastSequence int32 // of the last record appended; -1: none in this epoch
	Touched      int64 // ms, when it last appended, by this node's clock

	Transaction Offset // where its open transaction begins, -1 if none is
	Coordinator int32  // epoch of the coordinator that ended its last one, -1 if none has
}

// Producers lists the producers of appended batches, durable or not, silent for longest first, at most limit of them; more says that there are others.
func (p *Partition) Producers(limit int) (all []ProducerState, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pr := p.producers.oldest; pr != nil; pr = pr.newer {
		if len(all) == limit {
			return all, true
		}
		s := ProducerState{ID: pr.id, Epoch: pr.epoch, LastSequence: -1, Touched: pr.touched, Transaction: pr.transaction, Coordinator: pr.coordinator}
		if pr.n > 0 {
			s.LastSequence = pr.batches[pr.n-1].lastSequence()
		}
		all = append(all, s)
	}
	return all, false
}
