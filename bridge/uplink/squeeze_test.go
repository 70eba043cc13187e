package uplink

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestSqueezeBelievesTheWorstAtOnce(t *testing.T) {
	var s squeeze
	if got := s.share("t"); got != 1 {
		t.Errorf("%v while nobody knows", got)
	}
	for _, c := range []struct {
		before, after int
		want          float64
	}{{1000, 200, 0.2}, {1000, 1000, 1}, {1000, 200, 0.8}, {0, 10, 0.8}, {10, 0, 0.8}, {100, 1000, 1}} {
		if s.saw("t", c.before, c.after); s.share("t") != c.want {
			t.Errorf("after %d bytes that became %d: %v, want %v", c.before, c.after, s.share("t"), c.want)
		}
	}
	for range 100 {
		s.saw("u", 1<<20, 1)
	}
	if s.share("u") != mostSqueezed || s.share("t") != 1 {
		t.Errorf("%v and %v", s.share("u"), s.share("t"))
	}
}

// What is sent at once is as much as the link takes of it: of what compression makes small there is more, up to maxChunk as it is here.
func TestAChunkHasRoomForWhatGoesOverTheLink(t *testing.T) {
	target := newKafkaTarget(&Config{}, "c", "", 0, &seenProgress{})
	for _, c := range []struct {
		after int // of 1000 bytes
		want  int // records of 936 bytes
	}{{1000, 64}, {250, 4 * 64}, {40, 25 * 64}, {1, maxChunk / 1000}} {
		f := New(Options{Config: Config{Name: "u"}})
		target.squeeze = &f.squeeze
		target.OnProduceBatchWritten(kgo.BrokerMetadata{}, "there", 0, kgo.ProduceBatchMetrics{UncompressedBytes: 1000, CompressedBytes: c.after})
		chunk := chunk{f: f, room: 64 * 1000, moved: map[*part][]Span{}}
		p := &part{f: f, remote: "there", log: &emptyLog{}}
		if err := chunk.read(context.Background(), p, Span{}); err != nil {
			t.Fatal(err)
		}
		n := 0
		for ; !chunk.full(); n++ {
			chunk.reserve(1000 - perRecord)
		}
		if low, high := c.want-c.want/50, c.want+c.want/20; n < low || n > high {
			t.Errorf("where %d bytes are left of 1000: %d records, want about %d", c.after, n, c.want)
		}
	}
}

type emptyLog struct{ Log }

// A record of a thousand that hardly shrinks, behind what shrinks to nothing, is not waited for by a minute's worth of others: a link of 1 Mbit/s, by the policy alone.
func TestPaceOverAMixture(t *testing.T) {
	const link = 125_000.0 // bytes a second
	var p pace
	var s squeeze
	round := func(topic string, shrinks float64) time.Duration {
		sent := float64(p.chunk(Limits{})) / s.share(topic) // as it is here
		sent = min(sent, maxChunk)
		const trip = 20 * time.Millisecond
		took := 2*trip + time.Duration(sent*shrinks/link*float64(time.Second))
		p.took(took, trip, true)
		s.saw(topic, int(sent), int(sent*shrinks))
		return took
	}
	for range 50 {
		round("zeros", 0.02)
	}
	var most time.Duration
	for range 50 {
		most = max(most, round("noise", 1))
	}
	if most > 2*time.Second {
		t.Errorf("one commit took %s", most)
	}
	t.Logf("one commit took %s", most)
}
