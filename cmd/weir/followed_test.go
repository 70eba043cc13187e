package main

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// awayReader is a partition whose leader is away.
type awayReader struct {
	cluster.Reader
	reads atomic.Int64
	each  chan struct{}
}

func (*awayReader) HighWatermark() log.Offset { return 1 }

func (r *awayReader) Read(log.Offset, int, []byte) ([]byte, error) {
	r.reads.Add(1)
	select {
	case r.each <- struct{}{}:
	default:
	}
	return nil, errors.New("the leader is away")
}

// However often something is new while a leader is away, it is asked again once a second, not once a second for each.
func TestFollowedAsksAgainAtOnePace(t *testing.T) {
	r := &awayReader{each: make(chan struct{}, 1)}
	f := &followed{wake: make(chan struct{}, 1), end: make(chan struct{}), next: make([]log.Offset, 1), moved: make(chan struct{}), readers: []*deliverLog{newDeliverLog(r)}}
	f.work.Go(f.run)
	for range 300 {
		<-r.each
		f.poke()
	}
	before := r.reads.Load()
	<-time.After(2500 * time.Millisecond)
	if n := r.reads.Load() - before; n > 5 {
		t.Errorf("asked %d times in 2.5 s", n)
	}
	close(f.end)
	f.work.Wait()
}
