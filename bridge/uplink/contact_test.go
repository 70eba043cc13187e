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
			centre, err := kfake.NewCluster(kfake.NumBrokers(1))
			if err != nil {
				t.Fatal(err)
			}
			defer centre.Close()
			all := []Config{{Name: "u", Topics: []string{"t"}, To: "kafka://" + centre.ListenAddrs()[0]}}
			if err := Check(all, ""); err != nil {
				t.Fatal(err)
			}
			target := newKafkaTarget(&all[0], "c", "", 0, &seenProgress{})
			target.carried, target.logger = func() []carriedPart { return nil }, slog.New(slog.DiscardHandler)
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
