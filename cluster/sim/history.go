package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// history is what the committed records of a partition say about transactions: the slow and plain reading of them, which all that
// brokers answer is compared with.
type history struct {
	all     []record // by offset
	spans   []span   // by first offset
	visible map[log.Offset]bool
}

// span is one transaction in one partition.
type span struct {
	producer int64
	records  []log.Offset
	end      log.Offset // of its marker; -1: none yet
	commit   bool
}

// from is the first of its records at or past an offset; false: there is none.
func (s *span) from(o log.Offset) (log.Offset, bool) {
	i, _ := slices.BinarySearch(s.records, o)
	if i == len(s.records) {
		return 0, false
	}
	return s.records[i], true
}

// historyOf reads records, which are in the order of their offsets.
func historyOf(all []record) *history {
	h := &history{all: all, visible: map[log.Offset]bool{}}
	open := map[int64]int{}
	for _, r := range all {
		at, is := open[r.producer]
		switch {
		case r.kind == plain:
			h.visible[r.offset] = true
		case r.kind == transactional && !is:
			open[r.producer] = len(h.spans)
			h.spans = append(h.spans, span{r.producer, []log.Offset{r.offset}, -1, false})
		case r.kind == transactional:
			h.spans[at].records = append(h.spans[at].records, r.offset)
		case is: // a marker; one that comes again ends nothing
			h.spans[at].end, h.spans[at].commit = r.offset, r.kind == commitMarker
			for _, o := range h.spans[at].records {
				h.visible[o] = h.spans[at].commit
			}
			delete(open, r.producer)
		}
	}
	return h
}

// stable is the last stable offset at a high watermark (P2), at most. What is deleted of a transaction holds nothing up; in a compacted topic (sparse) that may be all
// of one that has ended: a replica that is filled from its leader's log finds nothing of it below the marker.
func (h *history) stable(hw, deleted log.Offset, sparse bool) log.Offset {
	stable := hw
	for _, s := range h.spans {
		if o, left := s.from(deleted); left && o < hw && (s.end < 0 || s.end >= hw && !sparse) {
			stable = min(stable, o)
		}
	}
	return stable
}

// around is what stands near an offset, for people.
func (h *history) around(o log.Offset) (out []record) {
	for _, r := range h.all {
		if r.offset >= o-4 && r.offset < o+12 {
			out = append(out, r)
		}
	}
	return out
}

// bound is the lowest high watermark that a last stable offset was shown with, and by whom.
type bound struct {
	hw log.Offset
	at time.Duration
	by *process
}

// history of what anybody has called committed. c.mu is held.
func (b *book) history() *history {
	var all []record
	for _, o := range slices.Sorted(maps.Keys(b.committed)) {
		all = append(all, b.committed[o].record)
	}
	return historyOf(all)
}

// shown notes the last stable offset that a replica shows (P2). c.mu is held.
func (c *checker) shown(p *process, b *book, last *seen, at cluster.Probe, stable, hw log.Offset) {
	if b.tainted {
		return
	}
	if stable > hw {
		c.violate("P2: the last stable offset is not above the high watermark", "%s %s: %d, %d", p, b.name, stable, hw)
	}
	if at.Leads && last.leads && at.Epoch == last.epoch && stable < last.stable {
		c.violate("P2: the last stable offset does not fall in a term", "%s %s: from %d to %d in epoch %d", p, b.name, last.stable, stable, at.Epoch)
	}
	if before, is := b.stable[stable]; !is || hw < before.hw {
		b.stable[stable] = bound{hw, c.s.now(), p}
	}
}

// transactions tests what replicas have shown and have in the end (P2) against the records themselves. c.mu is held.
func (c *checker) transactions(b *book, all []*cluster.Partition) {
	h := b.history()
	for _, stable := range slices.Sorted(maps.Keys(b.stable)) {
		shown := b.stable[stable]
		if limit := max(h.stable(shown.hw, b.deleted, b.sparse), b.deleted); stable > limit {
			c.violate("P2: the last stable offset does not pass an open transaction", "%s: %s showed %d at %v with high watermark %d, but it was %d; %v", b.name, shown.by, stable, shown.at, shown.hw,
				limit, h.around(limit))
			return
		}
	}
	for _, s := range h.spans {
		c.counts["transactions in a partition"]++
		if o, left := s.from(b.deleted); left && s.end < 0 {
			c.violate("P2: no transaction stays open for ever", "%s: that of producer %d with a record at %d has no end", b.name, s.producer, o)
			return
		}
	}
	if b.sparse {
		return // compaction forgets names, with what was aborted
	}
	for _, r := range all {
		start := max(r.LogStart(), b.deleted)
		want, got := h.aborted(start), indexed(r.Probe().Log, start)
		if !slices.Equal(want, got) {
			c.violate("P2: replicas know what was aborted", "%s: a replica has %v, its records say %v", b.name, got, want)
			return
		}
	}
}

// aborted is what was aborted and has records at or past start, as far as they are there.
func (h *history) aborted(start log.Offset) (out []log.AbortedTransaction) {
	for _, s := range h.spans {
		if first, left := s.from(start); left && s.end >= 0 && !s.commit {
			out = append(out, log.AbortedTransaction{ProducerID: s.producer, First: first, Last: s.end})
		}
	}
	return sortedAborted(out)
}

// indexed is the same as a replica answers it. Where all records of a transaction up to one are deleted, a replica knows of those behind only.
func indexed(p *log.Partition, start log.Offset) (out []log.AbortedTransaction) {
	end := p.LogEnd()
	all, _ := logged(p, start, end)
	for _, a := range p.Aborted(start, end) {
		i := slices.IndexFunc(all, func(r record) bool {
			return r.kind == transactional && r.producer == a.ProducerID && r.offset >= a.First && r.offset < a.Last
		})
		if i >= 0 {
			out = append(out, log.AbortedTransaction{ProducerID: a.ProducerID, First: all[i].offset, Last: a.Last})
		}
	}
	return sortedAborted(out)
}

func sortedAborted(all []log.AbortedTransaction) []log.AbortedTransaction {
	slices.SortFunc(all, func(x, y log.AbortedTransaction) int { return int(x.Last - y.Last) })
	return all
}

// newest keeps of some records those that a reader of committed ones sees, and of those the newest of each key: what compaction may not touch.
func (h *history) newest(all []record) (out []record) {
	last := map[string]log.Offset{}
	for _, r := range all {
		if h.visible[r.offset] {
			last[keyOf(r)] = r.offset
		}
	}
	for _, r := range all {
		if h.visible[r.offset] && last[keyOf(r)] == r.offset {
			out = append(out, r)
		}
	}
	return out
}

func keyOf(r record) string { key, _, _ := strings.Cut(r.value, "="); return key }

// compacted tests a compacted partition's newest records against all that were ever committed there (K1). c.mu is held.
func (c *checker) compacted(b *book, got []record) {
	h := b.history()
	if want := h.newest(h.all); !slices.Equal(got, want) {
		c.violate("K1: compaction leaves the newest record of each key", "%s: %s", b.name, differ(got, want))
	}
}

// differ says where two rows of records part.
func differ(got, want []record) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%v is missing", want[i])
		case i >= len(want):
			return fmt.Sprintf("%v is one too many", got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("%v, want %v", got[i], want[i])
		}
	}
	return "no difference"
}
