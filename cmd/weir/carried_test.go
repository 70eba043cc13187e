package main

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	firmwaresim "github.com/weir-io/weir/firmware-sim"
)

// What carried finds is what a comparison record by record finds, over pages and blocks, with records lost, doubled, changed, dead, not confirmed yet, and older than
// the source's log.
func TestCarriedFindsWhatAComparisonOneByOneFinds(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		first, next := rng.Int64N(2*blockOffsets), 2*int64(pageOffsets)+rng.Int64N(pageOffsets)
		start := first + rng.Int64N(3*blockOffsets)
		confirmed := next - rng.Int64N(blockOffsets)
		c, dead := newCarried(), map[int64]bool{}
		var hashes []uint64
		var missing, twice, differing []int64
		var waiting, deadCount, older, here, arrived int64
		for o := first; o < next; o++ {
			hash := rng.Uint64()
			theirs, lost := hash, false
			switch rng.IntN(3000) {
			case 0:
				if o >= start && o < confirmed {
					missing = append(missing, o)
				}
				lost = o < confirmed
			case 1:
				dead[o] = true
				lost = true
				if o >= start {
					deadCount++
				}
			case 2:
				theirs++
				if o >= start && o < confirmed {
					differing = append(differing, o)
				}
			}
			if !lost && o < confirmed {
				c.arrive(o, theirs, 0)
				arrived++
				if o < start {
					older++
				}
				if rng.IntN(3000) == 0 {
					c.arrive(o, theirs, 0)
					twice = append(twice, o)
				}
			} else if o >= confirmed && o >= start && !dead[o] {
				waiting++
			}
			if o >= start {
				here++
			}
			hashes = append(hashes, hash)
		}
		for o := start; o < next; o++ {
			c.expect(o, hashes[o-first], o < confirmed, dead[o])
		}
		if !slices.Equal(offsetsOf(c.missing.Ranges), missing) || !slices.Equal(offsetsOf(c.duplicates.Ranges), twice) {
			t.Fatalf("seed %d: missing %v, want %v; twice %v, want %v", seed, c.missing.Ranges, missing, c.duplicates.Ranges, twice)
		}
		if c.waiting != waiting || c.dead != deadCount || c.records != here || c.arrived != arrived || c.below(start) != older || c.reordered != 0 {
			t.Fatalf("seed %d: %+v, want waiting %d, dead %d, records %d, arrived %d, older %d", seed, *c.carriedCounts, waiting, deadCount, here, arrived, older)
		}
		blocks := c.suspects(start)
		for _, o := range differing {
			if !slices.ContainsFunc(blocks, func(b firmwaresim.Range) bool { return o >= b.First && o < b.Next }) {
				t.Fatalf("seed %d: offset %d differs and is in no suspect block %v", seed, o, blocks)
			}
		}
		if limit := len(differing) + 1; len(blocks) > limit { // and the block that the log begins in
			t.Fatalf("seed %d: %d blocks are suspect, of which %d can be", seed, len(blocks), limit)
		}
	}
}

func offsetsOf(rs []firmwaresim.Range) (all []int64) {
	for _, r := range rs {
		for o := r.First; o < r.Next; o++ {
			all = append(all, o)
		}
	}
	return all
}

// Order counts within a partition of the target.
func TestCarriedCountsReorderings(t *testing.T) {
	c := newCarried()
	for _, a := range []struct {
		offset    int64
		partition int32
	}{{1, 0}, {3, 1}, {2, 0}, {0, 1}, {5, 0}, {4, 0}, {6, 0}} {
		c.arrive(a.offset, 0, a.partition)
	}
	if c.reordered != 2 {
		t.Errorf("%d reordered, want 2", c.reordered)
	}
}

// Every part of a record that an uplink has to keep changes its hash, and the origin's header does not.
func TestPayloadHash(t *testing.T) {
	r := func(change func(*kgo.Record)) uint64 {
		r := &kgo.Record{Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("b")}}}
		change(r)
		return payloadHash(r, true)
	}
	seen := map[uint64]int{}
	for i, change := range []func(*kgo.Record){
		func(*kgo.Record) {},
		func(r *kgo.Record) { r.Key = nil },
		func(r *kgo.Record) { r.Key = []byte{} },
		func(r *kgo.Record) { r.Value = nil },
		func(r *kgo.Record) { r.Value = []byte{} },
		func(r *kgo.Record) { r.Key, r.Value = []byte("kv"), []byte{} },
		func(r *kgo.Record) { r.Timestamp = r.Timestamp.Add(1e6) },
		func(r *kgo.Record) { r.Headers = nil },
		func(r *kgo.Record) { r.Headers[0].Value = nil },
		func(r *kgo.Record) { r.Headers[0].Key = "b" },
	} {
		h := r(change)
		if j, known := seen[h]; known {
			t.Errorf("changes %d and %d have the same hash", j, i)
		}
		seen[h] = i
	}
	if r(func(*kgo.Record) {}) != r(func(r *kgo.Record) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: originHeader, Value: []byte("x")})
	}) {
		t.Error("the origin's header counts")
	}
}
