package cluster

import (
	"context"
	"fmt"
	"time"
)

// expectFor is how long the topics of a broker that has just registered wait for those that form the cluster together with it.
const expectFor = 10 * time.Second

// awaitExpected holds up a topic whose number of replicas follows the number of brokers, while the cluster is being formed and not all brokers have registered
// that form it (C7). Made earlier it would have fewer replicas until it grows, and what is acknowledged meanwhile would be on one disk. Who has registered once
// counts, whether it is heard or not; one that does not come at all holds nothing up for long.
func (b *Broker) awaitExpected(ctx context.Context, name string) error {
	if b.port == nil {
		return nil
	}
	expect, end, said := b.port.cfg.Expect, time.NewTimer(time.Until(b.registeredAt.Add(expectFor))), false
	defer end.Stop()
	for {
		changed := b.imageChanged()
		im := b.node.Image()
		if len(im.Brokers()) >= expect || im.Topic(name) != nil {
			return nil
		}
		if !said {
			b.cfg.Logger.Info("topics wait until all brokers have registered that form the cluster", "topic", name, "registered", len(im.Brokers()), "expected", expect)
			said = true
		}
		select {
		case <-changed:
		case <-end.C:
			b.cfg.Logger.Warn("not all brokers that were to form the cluster have registered: topics have fewer replicas until they do", "topic", name,
				"registered", len(b.node.Image().Brokers()), "expected", expect)
			return nil
		case <-b.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: brokers that were to form the cluster have not registered: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
}
