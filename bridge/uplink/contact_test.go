package uplink

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// targetAt is a target that has not been opened, and its brokers.
func targetAt(t *testing.T, opts ...kfake.Opt) (*kfake.Cluster, *kafkaTarget) {
	t.Helper()
	centre, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(centre.Close)
	all := []Config{{Name: "u", Topics: []string{"t"}, To: "kafka://" + centre.ListenAddrs()[0]}}
	if err := Check(all, ""); err != nil {
		t.Fatal(err)
	}
	target := newKafkaTarget(&all[0], "c", "", 0, &seenProgress{})
	target.carried, target.logger = func() []carriedPart { return nil }, slog.New(slog.DiscardHandler)
	return centre, target
}

// U11: what the target has not taken when the connection breaks after a commit is not sent again over the next one. At another time the client sends it again.
func TestNothingIsSentAfterALostContact(t *testing.T) {
	const produce, endTxn = 0, 26
	for _, c := range []struct {
		what         string
		breaks       kmsg.Key // of the first request of which the connection breaks, once
		after        int32    // requests of that kind that pass before
		first, again error
		produced     int32
	}{
		{"while it begins the next transaction", produce, 1, nil, errLostContact, 2},
		{"while it commits", endTxn, 0, nil, errLostContact, 1},
		{"in a transaction that follows upon none", produce, 0, nil, nil, 3},
	} {
		t.Run(c.what, func(t *testing.T) {
			centre, target := targetAt(t, kfake.NumBrokers(1))
			defer target.close()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if _, err := target.open(ctx); err != nil {
				t.Fatal(err)
			}
			var produced, seen atomic.Int32
			centre.ControlKey(produce, func(kmsg.Request) (kmsg.Response, error, bool) {
				centre.KeepControl()
				produced.Add(1)
				return nil, nil, false
			})
			centre.ControlKey(int16(c.breaks), func(kmsg.Request) (kmsg.Response, error, bool) {
				centre.KeepControl()
				if seen.Add(1) == c.after+1 {
					return nil, errors.New("the connection breaks"), true
				}
				return nil, nil, false
			})
			commit := func(next log.Offset) error {
				return target.commit(ctx, map[log.PartitionID]progress{{Topic: log.TopicID{1}}: {Topic: "t", Cursor: Cursor{Next: next}}})
			}
			if err := commit(1); !errors.Is(err, c.first) {
				t.Fatalf("the first: %v, want %v", err, c.first)
			}
			if err := commit(2); !errors.Is(err, c.again) {
				t.Errorf("the second: %v, want %v", err, c.again)
			}
			if n := produced.Load(); n != c.produced {
				t.Errorf("%d times something was sent, want %d", n, c.produced)
			}
		})
	}
}

// The client dials again by itself before it is closed: what it gets is of no use to it.
func TestALostContactIsNotTakenUpAgain(t *testing.T) {
	for lost, want := range map[bool]error{true: io.ErrClosedPipe, false: os.ErrDeadlineExceeded} {
		target := newKafkaTarget(&Config{}, "c", "", 0, &seenProgress{})
		target.contact.to(confirmed)
		if lost {
			target.OnBrokerRead(kgo.BrokerMetadata{}, 0, 0, 0, 0, io.EOF)
		}
		here, there := net.Pipe()
		target.OnBrokerConnect(kgo.BrokerMetadata{}, 0, here, nil)
		_ = here.SetDeadline(time.Now().Add(-time.Second))
		if _, err := here.Write([]byte{0}); !errors.Is(err, want) {
			t.Errorf("lost is %t: %v, want %v", lost, err, want)
		}
		_ = there.Close()
	}
}

// U11: of several brokers, the one that leads the partition of cursors breaks off after another has taken something of the next transaction, or before, or after both have: what
// matters is whether it has taken something itself.
func TestEachBrokerIsAContactOfItsOwn(t *testing.T) {
	for _, c := range []struct {
		what  string
		early bool // the cursors' broker takes something of the next transaction before it breaks off
		want  error
	}{
		{"before it has taken something", false, errLostContact},
		{"after it has taken something", true, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			centre, target := targetAt(t, kfake.NumBrokers(2), kfake.SeedTopics(1, "t"))
			defer func() { target.close() }()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if _, err := target.open(ctx); err != nil { // it makes the topic of cursors
				t.Fatal(err)
			}
			cursors, data := target.keeper.partition, int32(0)
			target.close()
			target = newKafkaTarget(target.cfg, "c", "", 0, &seenProgress{})
			target.carried, target.logger = func() []carriedPart { return nil }, slog.New(slog.DiscardHandler)
			if err := errors.Join(centre.MoveTopicPartition(ProgressTopic, cursors, 1), centre.MoveTopicPartition("t", data, 0)); err != nil {
				t.Fatal(err)
			}
			if _, err := target.open(ctx); err != nil {
				t.Fatal(err)
			}
			send := func(topic string, partition int32) {
				t.Helper()
				if err := target.begin(); err != nil {
					t.Fatal(err)
				}
				r := &kgo.Record{Topic: topic, Partition: partition, Value: []byte("x")}
				if err := target.client.ProduceSync(ctx, r).FirstErr(); err != nil {
					t.Fatal(err)
				}
				target.produced(r, nil)
			}
			commit := func(next log.Offset) error {
				return target.commit(ctx, map[log.PartitionID]progress{{Topic: log.TopicID{1}}: {Topic: "t", Cursor: Cursor{Next: next}}})
			}
			send("t", data)
			if err := commit(1); err != nil {
				t.Fatal(err)
			}
			send("t", data)
			if c.early {
				send(ProgressTopic, cursors)
			}
			var broke atomic.Bool
			centre.ControlKey(0, func(kmsg.Request) (kmsg.Response, error, bool) {
				centre.KeepControl()
				if centre.CurrentNode() == 1 && !broke.Swap(true) {
					return nil, errors.New("the connection breaks"), true
				}
				return nil, nil, false
			})
			if err := commit(2); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if !broke.Load() {
				t.Error("nothing broke")
			}
		})
	}
}

// U11: a connection that the client closes because it has not used it for a while may have been broken for long.
func TestAnUnusedConnectionIsLookedAtBeforeItIsClosed(t *testing.T) {
	for _, c := range []struct {
		what  string
		phase int
		gone  bool
		lost  bool
	}{
		{"the other side is there", confirmed, false, false},
		{"it has gone", confirmed, true, true},
		{"it has gone when that says nothing", underway, true, false},
	} {
		target := newKafkaTarget(&Config{}, "c", "", 0, &seenProgress{})
		target.contact.to(c.phase)
		here, there := net.Pipe()
		if c.gone {
			_ = there.Close()
		}
		target.OnBrokerDisconnect(kgo.BrokerMetadata{}, here)
		if lost := target.contact.check() != nil; lost != c.lost {
			t.Errorf("%s: lost is %t", c.what, lost)
		}
		_ = there.Close()
	}
}
