package deliver

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/weir-io/weir/log"
)

// noted is what a Log offers when its closed segments can carry the list of their MQTT topics, so that a pass skips
// those in which nobody finds anything. Notes are hints: one that is missing, torn or of other bounds is passed over,
// and made again when the segment is next read from end to end.
type noted interface {
	SpanAt(o log.Offset) (log.Span, bool)
	Note(first log.Offset) []byte
	SetNote(first log.Offset, b []byte) error
}

// Telemetry repeats few topics. Where there are more, no note is made and the segment is read.
const (
	topicsPerSegment     = 4096
	topicBytesPerSegment = 256 << 10
	topicsCollected      = 128 << 10 // by all partitions together
)

// collector gathers the topics of the records that a scan passes, from first to pos without a gap. It belongs to the
// partition's task, which runs on one worker at a time.
type collector struct {
	id         uint64 // of all collectors of a process
	first, pos log.Offset
	topics     map[string]*sighting
	bytes      int
	full       bool // too many topics, or some unknown
}

// sighting is where a topic was seen first and last: the scan learns that a segment was closed only when it is past it.
type sighting struct{ first, last log.Offset }

func (h *Hub) newCollector(first log.Offset) *collector {
	return &collector{id: h.collectors.Add(1), first: first, pos: first, topics: map[string]*sighting{}}
}

// see notes a record's topic; res is what the worker's cache has of it.
func (c *collector) see(h *Hub, res *result, topic []byte, o log.Offset) {
	if res.seenBy == c.id {
		res.seen.last = o
		return
	}
	if c.full {
		return
	}
	s := c.topics[string(topic)]
	if s == nil {
		if len(c.topics) >= topicsPerSegment || c.bytes+len(topic) > topicBytesPerSegment || h.collected.Load() >= topicsCollected {
			c.giveUp(h)
			return
		}
		s = &sighting{first: o}
		c.topics[string(topic)] = s
		c.bytes += len(topic)
		h.collected.Add(1)
	}
	s.last = o
	res.seenBy, res.seen = c.id, s
}

// giveUp ends the collecting for what will be the present segment.
func (c *collector) giveUp(h *Hub) {
	h.collected.Add(-int64(len(c.topics)))
	c.full, c.topics, c.bytes = true, nil, 0
}

// split ends the collector at next and gives one that goes on from there, or from pos if nothing is known of what lies
// between.
func (c *collector) split(h *Hub, next log.Offset) *collector {
	if c.full {
		return h.newCollector(c.pos)
	}
	after := h.newCollector(next)
	after.pos = c.pos
	for topic, s := range c.topics {
		if s.last >= next {
			after.topics[topic] = &sighting{max(s.first, next), s.last}
			after.bytes += len(topic)
		}
	}
	h.collected.Add(int64(len(after.topics)))
	c.pos = next
	return after
}

// collectFrom is the collector of a scan that goes on at from.
func (p *partition) collectFrom(rebuilding bool, from log.Offset) *collector {
	if p.notes == nil {
		return nil
	}
	c := &p.collect[0]
	if rebuilding {
		c = &p.collect[1]
	}
	if *c == nil || (*c).pos != from {
		p.dropCollector(c)
		*c = p.h.newCollector(from)
	}
	return *c
}

func (p *partition) dropCollector(c **collector) {
	if *c != nil {
		(*c).giveUp(p.h)
		*c = nil
	}
}

// noteClosed writes the notes of segments that the scan has passed.
func (p *partition) noteClosed(rebuilding bool) {
	c := &p.collect[0]
	if rebuilding {
		c = &p.collect[1]
	}
	for {
		span, ok := p.notes.SpanAt((*c).first)
		if !ok || !span.Closed || span.Next > (*c).pos {
			return
		}
		done := *c
		*c = done.split(p.h, span.Next)
		if !done.full && !p.hasNote(span, done.first) {
			if err := p.notes.SetNote(span.First, done.note()); err != nil {
				p.h.cfg.Logger.Debug("topics of a segment not noted", "topic", p.topic, "partition", p.id.Index, "first", span.First, "err", err)
			}
		}
		done.giveUp(p.h)
	}
}

// hasNote says whether there is a note already that holds from first on: a scan that began in the middle of the segment
// must not replace it.
func (p *partition) hasNote(span log.Span, first log.Offset) bool {
	from, _, ok := readNote(p.notes.Note(span.First), span)
	return ok && from <= first
}

// A note is: magic and version "wtn\x01" | u64 first | u64 next | topics, each a uvarint length and its bytes | u32
// CRC-32C of all before, little endian. All records at first and later, before next, have one of the topics.
var noteMagic = [4]byte{'w', 't', 'n', 1}

const noteHeader, noteTrailer = 4 + 8 + 8, 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *collector) note() []byte {
	b := make([]byte, 0, noteHeader+c.bytes+3*len(c.topics)+noteTrailer)
	b = append(b, noteMagic[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.first))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.pos))
	for topic, s := range c.topics {
		if s.first < c.pos {
			b = binary.AppendUvarint(b, uint64(len(topic)))
			b = append(b, topic...)
		}
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readNote checks a note against its segment: it holds from first on, and topics are what nextTopic takes apart.
func readNote(b []byte, span log.Span) (first log.Offset, topics []byte, ok bool) {
	if len(b) < noteHeader+noteTrailer || [4]byte(b) != noteMagic {
		return 0, nil, false
	}
	body := b[:len(b)-noteTrailer]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(body):]) {
		return 0, nil, false
	}
	first = log.Offset(binary.LittleEndian.Uint64(b[4:]))
	next := log.Offset(binary.LittleEndian.Uint64(b[12:]))
	return first, body[noteHeader:], first >= span.First && first < next && next == span.Next
}

func nextTopic(b []byte) (topic, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	return b[size : size+int(n)], b[size+int(n):], true
}

// skip returns where to go on instead of reading at from: the end of its segment, if that is closed and has a note by
// which nobody is wanted. checked, which skip sets, is where the last segment ends that was looked at in vain.
func (p *partition) skip(w *worker, from log.Offset, checked *log.Offset, wanted func(*result) bool) log.Offset {
	if p.notes == nil || from < *checked {
		return from
	}
	span, ok := p.notes.SpanAt(from)
	if !ok || !span.Closed {
		return from
	}
	*checked = span.Next
	first, topics, ok := readNote(p.notes.Note(span.First), span)
	if !ok || first > from {
		return from
	}
	for len(topics) > 0 {
		var topic []byte
		if topic, topics, ok = nextTopic(topics); !ok || wanted(w.cache.lookup(topic)) {
			return from
		}
	}
	w.h.counters.skipped.Add(int64(span.Next - from))
	return span.Next
}

// skipRebuild moves the shared pass past a segment in which no restored session finds anything; false if it has to be
// read.
func (p *partition) skipRebuild(w *worker) bool {
	p.mu.Lock()
	r := p.rebuild
	if r == nil || r.held > 0 {
		p.mu.Unlock()
		return false
	}
	from := r.pos
	p.mu.Unlock()
	next := p.skip(w, from, &r.checked, func(res *result) bool {
		for i := range res.hits {
			// One that begins later counts too, or whose pass is over: it costs a reading, and no more.
			if res.hits[i].s.restored {
				return true
			}
		}
		return false
	})
	if next <= from {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rebuild != r || !r.standsAt(from) {
		return true
	}
	next = min(next, p.tail)
	p.rebuild.pos = next
	p.setRebuild(p.rebuild)
	p.endRebuildLocked()
	return true
}

// skipLag is the same for one session that scans.
func (w *worker) skipLag(s *session, l *lag, from, limit log.Offset) log.Offset {
	if s.kept != nil {
		return from
	}
	return min(limit, l.p.skip(w, from, &l.checked, func(r *result) bool { return r.find(s) != nil }))
}
