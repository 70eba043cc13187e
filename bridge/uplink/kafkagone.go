package uplink

import (
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// answers notes whether the target still answers. Nothing is asked for it: an idle client of Kafka asks for metadata every 5 minutes, and whoever carries asks all the time.
type answers struct {
	mu   sync.Mutex
	lost time.Time // since when nothing has come of anything; zero while something has
	why  error
}

// goneAfter is how long nothing may come of anything: a broker that is started again, or one of several, is no reason to begin anew.
const goneAfter = 10 * time.Second

func (c *answers) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.lost, c.why = time.Time{}, nil
	case c.lost.IsZero():
		c.lost, c.why = time.Now(), err
	}
}

// OnBrokerE2E is kgo's hook for each request and its answer.
func (t *kafkaTarget) OnBrokerE2E(_ kgo.BrokerMetadata, _ int16, e kgo.BrokerE2E) {
	t.answers.note(e.Err())
}

// ended is why the target counts as gone, nil while it does not.
func (t *kafkaTarget) ended() error {
	c := &t.answers
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost.IsZero() || time.Since(c.lost) < goneAfter {
		return nil
	}
	return fmt.Errorf("the target does not answer any more: %w", c.why)
}

var (
	_ noticing                 = (*kafkaTarget)(nil)
	_ kgo.HookBrokerConnect    = (*kafkaTarget)(nil)
	_ kgo.HookBrokerDisconnect = (*kafkaTarget)(nil)
	_ kgo.HookBrokerE2E        = (*kafkaTarget)(nil)
)
