package uplink

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// An idle target that is gone is noticed by what its client asks anyway.
func TestIdleTargetThatIsGoneIsNoticed(t *testing.T) {
	t.Parallel()
	centre, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	cfg := []Config{{Name: "central", To: "kafka://" + centre.ListenAddrs()[0], Topics: []string{"telemetry"}, Guarantee: AtLeastOnce}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	to := newKafkaTarget(&cfg[0], "edge", "", 0, &seenProgress{})
	to.askEvery = time.Second
	defer to.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := to.open(ctx); err != nil || to.ended() != nil {
		t.Fatalf("%v, %v", err, to.ended())
	}
	centre.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for to.ended() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("nobody has noticed for a minute")
		}
	}
	if usual := newKafkaTarget(&cfg[0], "edge", "", 0, &seenProgress{}).askEvery; usual < 5*time.Minute {
		t.Errorf("it asks every %s: a metered link pays for that", usual)
	}
}

// A failure alone is none: the next may succeed, or another broker answer.
func TestTargetIsGoneWhenNothingComesOfAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := kafkaTarget{contact: newContact()}
		refused := errors.New("connection refused")
		to.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, refused)
		time.Sleep(goneAfter - time.Second)
		to.OnBrokerE2E(kgo.BrokerMetadata{}, 3, kgo.BrokerE2E{})
		time.Sleep(time.Hour)
		if err := to.ended(); err != nil {
			t.Errorf("it has answered: %v", err)
		}
		to.OnBrokerE2E(kgo.BrokerMetadata{}, 3, kgo.BrokerE2E{ReadErr: refused})
		to.OnBrokerConnect(kgo.BrokerMetadata{}, 0, nil, nil) // a host that hangs accepts connections
		time.Sleep(goneAfter)
		if err := to.ended(); !errors.Is(err, refused) {
			t.Errorf("%v, want what failed first", err)
		}
	})
}
