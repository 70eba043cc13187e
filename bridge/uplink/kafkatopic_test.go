package uplink

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// With `partition: same` a topic that grows here grows at the target, or says there that it should; what it had goes on without a gap.
func TestSamePartitionsGrow(t *testing.T) {
	for _, create := range []bool{true, false} {
		t.Run(map[bool]string{true: "made", false: "by hand"}[create], func(t *testing.T) {
			t.Parallel()
			centre, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "telemetry"))
			if err != nil {
				t.Fatal(err)
			}
			defer centre.Close()
			s := newScene()
			s.log.put("in 0")
			cfg := []Config{{Name: "central", To: "kafka://" + centre.ListenAddrs()[0], Topics: []string{"telemetry"}, Guarantee: AtLeastOnce, Partition: partitionSame, Create: &create}}
			if err := Check(cfg, ""); err != nil {
				t.Fatal(err)
			}
			f := New(Options{Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler)})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			ended := make(chan error, 1)
			go func() { ended <- f.Run(ctx) }()
			await := func(what string, is func(Status) bool) {
				t.Helper()
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for !is(f.Status()) {
					select {
					case <-tick.C:
					case <-ctx.Done():
						t.Fatalf("%s: %+v", what, f.Status())
					}
				}
			}
			await("the first", func(s Status) bool { return s.Records == 1 && s.State == "idle" })
			grown := &fakeLog{id: log.PartitionID{Topic: s.log.id.Topic, Index: 2}, topic: "telemetry", values: map[log.Offset]string{}}
			grown.put("in 2")
			f.added(grown)
			client, err := kgo.NewClient(kgo.SeedBrokers(centre.ListenAddrs()...))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			admin := kadm.NewClient(client)
			if !create {
				await("it is named", func(s Status) bool { return strings.Contains(s.Why, "needs 3") })
				if _, err := admin.UpdatePartitions(ctx, 3, "telemetry"); err != nil {
					t.Fatal(err)
				}
				f.Pause(false) // as `weir bridge resume` does
			}
			await("the new one", func(s Status) bool { return s.LagRecords == 0 && s.State == "idle" })
			ends, err := admin.ListEndOffsets(ctx, "telemetry")
			if err != nil {
				t.Fatal(err)
			}
			for p, want := range []int64{1, 0, 1} {
				if o, is := ends.Lookup("telemetry", int32(p)); !is || o.Offset != want {
					t.Errorf("partition %d ends at %d, want %d", p, o.Offset, want)
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// What became of the connection, or of the chunk, while a topic was looked for is not the topic's fault: it does not wait for it.
func TestLookingForATopicOverABadConnection(t *testing.T) {
	centre, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	for _, c := range []struct {
		name   string
		key    kmsg.Key
		refuse bool // by an answer
	}{{"look", kmsg.Metadata, false}, {"create", kmsg.CreateTopics, false}, {"refused", kmsg.CreateTopics, true}} {
		t.Run(c.name, func(t *testing.T) {
			cfg := []Config{{Name: "central", To: "kafka://" + centre.ListenAddrs()[0], Topics: []string{"*"}, Guarantee: AtLeastOnce}}
			if err := Check(cfg, ""); err != nil {
				t.Fatal(err)
			}
			to := newKafkaTarget(&cfg[0], "edge", "", 0, &seenProgress{})
			to.carried, to.logger = func() []carriedPart { return nil }, slog.New(slog.DiscardHandler)
			defer to.close()
			if _, err := to.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			f := New(Options{Config: cfg[0], Logger: slog.New(slog.DiscardHandler)})
			l := &fakeLog{id: log.PartitionID{Topic: log.TopicID{2}}, topic: "alerts-" + c.name, values: map[log.Offset]string{}}
			f.added(l)
			p := f.parts[l.id]
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			centre.ControlKey(int16(c.key), func(r kmsg.Request) (kmsg.Response, error, bool) {
				if c.refuse {
					a := r.ResponseKind().(*kmsg.CreateTopicsResponse)
					a.Topics = []kmsg.CreateTopicsResponseTopic{{Topic: l.topic, ErrorCode: kerr.PolicyViolation.Code}}
					return a, nil, true
				}
				cancel(errOtherLink)
				return nil, errors.New("the connection breaks"), true
			})
			err := to.add(ctx, &outgoing{Record: log.Record{Value: []byte("fire")}, from: p})
			if err == nil || errors.Is(err, errOtherLink) == c.refuse || errors.Is(err, kerr.PolicyViolation) != c.refuse {
				t.Errorf("%v", err)
			}
			if err := f.culprit(t.Context(), &chunk{f: f}, err); err == nil {
				t.Error("nobody is at fault")
			}
			if f.leftOut(p) != c.refuse {
				t.Errorf("the topic waits until %s: %v", p.until, p.why)
			}
		})
	}
}
