package cluster

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// Changes stand in the order of their partitions whatever order they are found in, so that a simulation that is played again proposes the same.
func TestProposalsHaveAnOrder(t *testing.T) {
	var want []meta.ISRChange
	for topic := range byte(3) {
		for i := range int32(20) {
			want = append(want, meta.ISRChange{Topic: log.TopicID{topic}, Index: i})
		}
	}
	for range 20 {
		got := slices.Clone(want)
		rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, byPartition)
		if !slices.EqualFunc(got, want, func(x, y meta.ISRChange) bool { return byPartition(x, y) == 0 }) {
			t.Fatalf("order %v", got)
		}
	}
}
