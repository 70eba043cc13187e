package kafka

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/weir-io/weir/bridge/throttle"
	"github.com/weir-io/weir/cluster/access"
)

// deviceMeters count what MQTT clients publish, apart from what Kafka clients do. There are many more of them: a meter is kept under the hash of whose it is.
type deviceMeters struct {
	mu     sync.Mutex
	seed   maphash.Seed
	meters throttle.Table[uint64]
}

// maxDeviceMeters bounds them to about 10 MB. All have drained, and are forgotten, of devices that keep to their quota.
const maxDeviceMeters = 1 << 17

func newDeviceMeters() deviceMeters {
	return deviceMeters{seed: maphash.MakeSeed(), meters: throttle.NewTable[uint64](maxDeviceMeters)}
}

func (d *deviceMeters) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.meters.Len()
}

// DevicePublished holds an MQTT client to the producer_byte_rate of its user and client identifier: it counts bytes, which may be 0, and says how long the client is to
// keep still. A user that is empty has not logged in.
func (s *Server) DevicePublished(user, clientID string, bytes int) time.Duration {
	l := s.quotaLimits()
	if l == nil {
		return 0
	}
	if user == "" {
		user = strings.TrimPrefix(access.Anonymous, "User:")
	}
	found := l.find(quotaProduce, user, clientID)
	if found.perSecond == 0 {
		return 0
	}
	d := &s.quotas.devices
	client, rule := maphash.Comparable(d.seed, found.client), maphash.Comparable(d.seed, found.rule)
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Since(s.quotas.start)
	return d.meters.Meter(client, rule, now, found.perSecond).Take(now, found.perSecond, float64(bytes))
}
