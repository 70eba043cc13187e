package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

// carried is what `weir bridge verify` knows of one partition of the source: which of its offsets have arrived, and sums of what arrived and of what should have. Of each
// offset it keeps one bit and of each 4,096 of them two sums of hashes, so that a thousand million records need about 140 MB; offsets whose sums differ are looked
// at again one by one. It is pure.
type carried struct {
	pages map[int64]*carriedPage
	*carriedCounts
	rules *leftOut
}

type carriedCounts struct {
	records    int64 // at the source, that are to be carried
	arrived    int64 // different ones at the target
	older      int64 // of those, what the source no longer has
	waiting    int64
	dead       int64 // put into the dead-letter topic
	duplicates ranges64
	missing    ranges64
	differing  ranges64
	strange    ranges64 // at the target, and no committed records at the source
	reordered  int64
	last       map[int32]int64 // by partition of the target: order holds only within one
}

const (
	pageOffsets  = 1 << 16
	blockOffsets = 1 << 12
	pageBlocks   = pageOffsets / blockOffsets
	// maxCarriedPages bounds the memory: about 9 KiB each. Origins are what the target says; they may be anything.
	maxCarriedPages = 1 << 15
)

// carriedPage covers 65,536 offsets.
type carriedPage struct {
	arrived     [pageOffsets / 64]uint64
	there, here [pageBlocks]uint64 // sums of hashes
}

func newCarried() *carried {
	return &carried{map[int64]*carriedPage{}, &carriedCounts{last: map[int32]int64{}}, newLeftOut()}
}

// arrive notes a record at the target that says to be of this offset.
func (c *carried) arrive(offset int64, hash uint64, partition int32) {
	p := c.pages[offset/pageOffsets]
	if p == nil {
		p = &carriedPage{}
		c.pages[offset/pageOffsets] = p
	}
	i := offset % pageOffsets
	if p.arrived[i/64]&(1<<(i%64)) != 0 {
		c.duplicates.add(offset)
		return
	}
	p.arrived[i/64] |= 1 << (i % 64)
	p.there[i/blockOffsets] += hash
	c.arrived++
	if last, known := c.last[partition]; known && offset < last {
		c.reordered++
	} else {
		c.last[partition] = offset
	}
}

// has says whether an offset has arrived.
func (c *carried) has(offset int64) bool {
	p := c.pages[offset/pageOffsets]
	i := offset % pageOffsets
	return p != nil && p.arrived[i/64]&(1<<(i%64)) != 0
}

// expect notes a record of the source. Offsets come in order, each once. confirmed says that the uplink has confirmed it, dead that it is in the dead-letter topic.
// What was left out on purpose has been told before.
func (c *carried) expect(offset int64, hash uint64, confirmed, dead bool) {
	c.records++
	switch {
	case c.has(offset):
		c.pages[offset/pageOffsets].here[offset%pageOffsets/blockOffsets] += hash
	case dead:
		c.dead++
	case c.rules.told.has(offset):
		c.rules.found++
	case confirmed:
		c.missing.add(offset)
	default:
		c.waiting++
	}
}

// suspects are the blocks in which something differs, as ranges of offsets; what the source no longer has, below start, cannot be compared. A block that start
// lies in is looked at in any case.
func (c *carried) suspects(start int64) (blocks []firmwaresim.Range) {
	for _, n := range sortedPages(c.pages) {
		p := c.pages[n]
		for b := range p.there {
			first := n*pageOffsets + int64(b)*blockOffsets
			if first+blockOffsets > start && p.there[b] != p.here[b] {
				blocks = append(blocks, firmwaresim.Range{First: max(first, start), Next: first + blockOffsets})
			}
		}
	}
	return blocks
}

// below counts what has arrived of offsets under start.
func (c *carried) below(start int64) (n int64) {
	for at, p := range c.pages {
		for w, word := range p.arrived {
			first := at*pageOffsets + int64(w)*64
			switch {
			case first+64 <= start:
				n += int64(bits.OnesCount64(word))
			case first < start:
				n += int64(bits.OnesCount64(word & (1<<(start-first) - 1)))
			}
		}
	}
	return n
}

func sortedPages(pages map[int64]*carriedPage) []int64 {
	all := make([]int64, 0, len(pages))
	for n := range pages {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// ranges64 counts offsets, and keeps the first few ranges of them to be shown.
type ranges64 struct {
	Count  int64               `json:"count"`
	Ranges []firmwaresim.Range `json:"ranges,omitempty"` // half-open; the first 1,000
}

const rangesKept = 1000

func (r *ranges64) add(offset int64) {
	r.Count++
	if n := len(r.Ranges); n > 0 && r.Ranges[n-1].Next == offset {
		r.Ranges[n-1].Next++
	} else if n < rangesKept {
		r.Ranges = append(r.Ranges, firmwaresim.Range{First: offset, Next: offset + 1})
	}
}

// text is for the table.
func (r *ranges64) text(what string) string {
	if r.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%s %s", what, ranges(r.Ranges))
}

// payloadHash is of all that an uplink has to keep: key, value, timestamp unless the target stamps records itself, and headers but the origin's.
func payloadHash(r *kgo.Record, stamped bool) uint64 {
	h := sha256.New()
	var n [8]byte
	part := func(b []byte, is bool) {
		size := int64(-1)
		if is {
			size = int64(len(b))
		}
		binary.BigEndian.PutUint64(n[:], uint64(size))
		h.Write(n[:])
		h.Write(b)
	}
	part(r.Key, r.Key != nil)
	part(r.Value, r.Value != nil)
	if stamped {
		binary.BigEndian.PutUint64(n[:], uint64(r.Timestamp.UnixMilli()))
		h.Write(n[:])
	}
	for _, x := range r.Headers {
		if x.Key != originHeader {
			part([]byte(x.Key), true)
			part(x.Value, x.Value != nil)
		}
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// origin is where a record says that it comes from.
type origin struct {
	topic     string
	partition int32
}

func sortedOrigins[V any](m map[origin]V) []origin {
	all := make([]origin, 0, len(m))
	for o := range m {
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b origin) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	return all
}
