package uplink

import (
	"strconv"
	"strings"

	"github.com/weir-io/weir/log"
)

// A transaction hangs when the target's coordinator has ended it and some partition has not heard of that (U11): its marker never came. Apache Kafka's does that when it loads a
// transaction that is to be committed while a partition has no leader for a moment, as after a crash. This is how one of this uplink ends, whatever the target speaks.

// carriedPart is a partition of the shard, for a target that has to tell what is its own there.
type carriedPart struct {
	id        log.PartitionID
	topic     string
	remote    string // topic at the target; empty while the log has not told of it
	confirmed Cursor // what the target has confirmed, as far as this node knows
}

// origin is where a record began.
type origin struct {
	topic  string
	index  int32
	offset log.Offset
}

// parseOrigin reads the header of a record that cluster has sent.
func parseOrigin(header, cluster string) (o origin, ok bool) {
	rest, mine := strings.CutPrefix(header, cluster+"/")
	if f := strings.Split(rest, "/"); mine && len(f) == 3 {
		index, err := strconv.ParseInt(f[1], 10, 32)
		first, _, _ := strings.Cut(f[2], "-") // one that stands for several names the last of them too
		offset, err2 := strconv.ParseInt(first, 10, 64)
		return origin{f[0], int32(index), log.Offset(offset)}, err == nil && err2 == nil
	}
	return o, false
}

// endedTransaction is the last transaction of the uplink in a partition where none hangs.
type endedTransaction struct {
	commit bool
	later  bool   // its marker has a later epoch than what hangs: where each transaction has an epoch of its own, it is the same one's
	last   origin // of its last record; its topic is empty when that was not found
}

// hungCursors is what is known of a transaction that hangs where the cursors are.
type hungCursors struct {
	committed map[log.PartitionID]progress // before it
	within    map[log.PartitionID]progress // those that it would commit
	parts     []carriedPart
	elsewhere []endedTransaction
}

// commit says how it ends, and why. It was committed when this node knows of a confirmation that only its cursors can be, or when records of it were committed elsewhere; a record
// that was aborted elsewhere outweighs both, or it would be lost. Where nothing tells, nothing of it is visible to anybody: it is aborted, and sent again.
func (h *hungCursors) commit() (commit bool, why string) {
	for _, e := range h.elsewhere {
		if !e.commit && h.partOf(e) {
			return false, "it was aborted in another partition"
		}
	}
	for _, p := range h.parts {
		before := h.committed[p.id].clone()
		if before.Covers(p.confirmed) {
			continue
		}
		before.Merge(h.within[p.id].Cursor)
		if before.Covers(p.confirmed) {
			return true, "the target had confirmed it"
		}
	}
	for _, e := range h.elsewhere {
		if h.partOf(e) {
			return true, "it was committed in another partition"
		}
	}
	return false, "nothing of it was committed anywhere"
}

// partOf says whether what has ended elsewhere is a part of what hangs.
func (h *hungCursors) partOf(e endedTransaction) bool {
	return e.later || e.last.topic != "" && covered(h.within, h.parts, e.last) && !covered(h.committed, h.parts, e.last)
}

// covered says whether cursors have passed a record. A topic of this name that is no more counts where there is none now.
func covered(cursors map[log.PartitionID]progress, parts []carriedPart, o origin) bool {
	passed := func(p progress) bool { return p.Covers(Cursor{Ahead: []Span{{o.offset, o.offset + 1}}}) }
	for _, p := range parts {
		if p.topic == o.topic && p.id.Index == o.index {
			return passed(cursors[p.id])
		}
	}
	for _, p := range cursors {
		if p.Topic == o.topic && p.Partition == o.index && passed(p) {
			return true
		}
	}
	return false
}
