package main

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lookCloser finds which records differ in the blocks whose sums do, and which there are none of here.
func (v *verification) lookCloser(topic, remote string, here, there map[int32]extent, stamped bool) error {
	compacted := v.compacts(topic)
	for _, p := range sortedKeys(here) {
		at := origin{topic, p}
		c := v.parts[at]
		for blocks := range slices.Chunk(c.suspects(here[p].start), blocksAtATime) {
			hashes := map[int64]uint64{}
			among := func(offset int64) bool {
				for _, b := range blocks {
					if offset >= b.First && offset < b.Next {
						return true
					}
				}
				return false
			}
			if err := v.read(v.atTarget, remote, there, nil, func(r *kgo.Record) error {
				from, offset, ok := v.originOf(r)
				ours(r)
				if _, known := hashes[offset]; ok && from == at && among(offset) && !known { // the first counts, as before
					hashes[offset] = payloadHash(r, stamped)
				}
				return nil
			}); err != nil {
				return err
			}
			e := here[p]
			e.at, e.end = blocks[0].First, min(e.end, blocks[len(blocks)-1].Next)
			if err := v.read(v.g.client, topic, map[int32]extent{p: e}, nil, func(r *kgo.Record) error {
				if v.cameDown(topic, r) {
					return nil
				}
				if got, ok := hashes[r.Offset]; ok && got != payloadHash(v.asCarried(at, r), stamped) {
					c.differing.add(r.Offset)
				}
				delete(hashes, r.Offset)
				return nil
			}); err != nil {
				return err
			}
			if len(hashes) == 0 || compacted {
				continue
			}
			now, err := committed(v.g, v.source, topic) // retention goes on
			if err != nil {
				return err
			}
			for _, offset := range sortedKeys(hashes) {
				if offset >= now[p].start {
					c.strange.add(offset)
				}
			}
		}
		c.pages, c.rules.told, c.rules.means, c.rules.pages = nil, nil, nil, nil // of the next topic
	}
	v.pages = 0
	return nil
}

// compacts says whether the source may have taken records out that were carried. Who may not ask takes it for granted.
func (v *verification) compacts(topic string) bool {
	found, err := v.source.DescribeTopicConfigs(v.g.Ctx, topic)
	return err != nil || len(found) != 1 || found[0].Err != nil || slices.ContainsFunc(found[0].Configs, func(c kadm.Config) bool {
		return c.Key == "cleanup.policy" && strings.Contains(c.MaybeValue(), "compact")
	})
}
