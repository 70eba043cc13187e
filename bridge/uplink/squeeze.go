package uplink

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// squeeze is how much smaller compression makes what goes to each topic of the target, as its last batches have shown. A chunk is sized by what goes over the link: records that become
// a fiftieth of their size must not have so many of the others sent at once that those take a minute.
type squeeze struct {
	mu sync.Mutex
	of map[string]float64
}

// mostSqueezed bounds what is believed.
const mostSqueezed = 1.0 / 64

// saw notes a batch that was confirmed. What becomes less compressible is believed at once, what becomes more so slowly.
func (s *squeeze) saw(topic string, before, after int) {
	if before <= 0 || after <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := min(max(float64(after)/float64(before), mostSqueezed), 1)
	if s.of == nil {
		s.of = map[string]float64{}
	}
	if last, is := s.of[topic]; is {
		now = max(now, (3*last+now)/4)
	}
	s.of[topic] = now
}

// failed forgets everything: a batch is seen when it is confirmed, and what was on its way may be less compressible than what was before. Sized by that it would never be there in time.
func (s *squeeze) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.of)
}

// share is what is left of a topic's records, 1 while nobody knows.
func (s *squeeze) share(topic string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if share, is := s.of[topic]; is {
		return share
	}
	return 1
}

// OnProduceBatchWritten is kgo's hook.
func (t *kafkaTarget) OnProduceBatchWritten(_ kgo.BrokerMetadata, topic string, _ int32, m kgo.ProduceBatchMetrics) {
	if t.squeeze != nil {
		t.squeeze.saw(topic, m.UncompressedBytes, m.CompressedBytes)
	}
}

var _ kgo.HookProduceBatchWritten = (*kafkaTarget)(nil)
