package sim

import (
	"math/rand/v2"
	"time"

	"github.com/weir-io/weir/cluster/control"
)

// plan is what one seed is about. A run has a few kinds of trouble, not all: one that has everything hides what only two of them together break.
type plan struct {
	nodes      int
	partitions int
	replicas   int // of the topics; 0: as many as the cluster has (C7)
	minInsync  int
	length     time.Duration // of the trouble
	pace       time.Duration // from one trouble to the next, about
	checkpoint time.Duration
	timing     control.Timing
	kinds      []kind
	harsh      int // one message in so many is lost, late or doubled
	liar       int // node whose disk lies; 0: none
	producers  int
	pause      time.Duration // between a producer's records, about
}

// themes are troubles that break something only together.
var themes = [][]kind{
	{alterMin, partition, partition, kill},
	{partition, oneWay, powerCut, moveQuorum},
	{siteCut, slowDisk, badSync, kill},
	{reassign, partition, kill, stop},
	{oldDisk, kill, partition},
	{tardyMetadata, tardyMetadata, partition, powerCut, slowDisk},
	{tardyMetadata, kill, slowDisk},
	{trim, trim, partition, powerCut, kill},
	{trim, reassign, partition, siteCut, oldDisk},
}

func newPlan(r *rand.Rand) plan {
	p := plan{
		nodes: []int{3, 3, 3, 3, 3, 3, 2, 1, 5, 3}[r.IntN(10)], partitions: 1 + r.IntN(2), length: time.Duration(8+r.IntN(20)) * time.Second,
		pace: time.Duration(150+r.IntN(2000)) * time.Millisecond, checkpoint: []time.Duration{500 * time.Millisecond, 3 * time.Second, time.Minute}[r.IntN(3)],
		producers: 2 + r.IntN(3), pause: time.Duration(5+r.IntN(100)) * time.Millisecond,
	}
	p.replicas = []int{0, 0, 0, min(2, p.nodes), min(2, p.nodes), min(3, p.nodes), min(3, p.nodes), 1}[r.IntN(8)]
	p.minInsync = 1 + r.IntN(2)
	grace := time.Minute
	if chance(r, 5) {
		grace = 5 * time.Second
	}
	p.timing = timings(grace)
	if chance(r, 2) {
		p.harsh = 20 + r.IntN(200)
	}
	all := []kind{powerCut, powerCut, siteCut, kill, stop, partition, partition, oneWay, slowDisk, badSync, moveQuorum, tardyMetadata, oldDisk, clockJump, alterMin, newTopic, reassign, bounce, trim, trim}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	p.kinds = all[:2+r.IntN(5)]
	if chance(r, 3) {
		p.kinds, p.pause = themes[r.IntN(len(themes))], time.Duration(3+r.IntN(20))*time.Millisecond
	}
	if p.nodes == 1 && chance(r, 2) || p.replicas == 1 && chance(r, 3) {
		p.kinds = []kind{rot, powerCut, kill}
	}
	if p.nodes >= 3 && chance(r, 6) { // what a disk that lies has alone is not promised
		p.liar, p.minInsync, p.replicas = 1+r.IntN(p.nodes), 2, 3
		p.timing = timings(time.Minute)
		p.kinds = []kind{lie, siteCut, powerCut, partition, lie}[:2+r.IntN(4)]
	}
	return p
}
