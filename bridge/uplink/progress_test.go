package uplink

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/log"
)

// fetched counts the records that clients get.
type fetched struct{ n atomic.Int64 }

func (f *fetched) OnFetchRecordBuffered(*kgo.Record) { f.n.Add(1) }

// Over its connections a forwarder reads each cursor once, but that it looks whether the last of them still stands, knows those that it has committed itself without reading them, and reads everything of a topic that was
// made anew or has lost its end, though others have written there since.
func TestCursorsAreReadOnce(t *testing.T) {
	centre, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	ctx, got := context.Background(), &fetched{}
	conn := []kgo.Opt{kgo.SeedBrokers(centre.ListenAddrs()...), kgo.WithHooks(got), kgo.MetadataMinAge(50 * time.Millisecond)}
	var client *kgo.Client
	var admin *kadm.Client
	connect := func() {
		t.Helper()
		if client, err = kgo.NewClient(append(conn, kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		admin = kadm.NewClient(client)
	}
	connect()
	k := progressTopic{cluster: "c", uplink: "u", seen: &seenProgress{}}
	id := func(i int) log.PartitionID { return log.PartitionID{Topic: log.TopicID{1}, Index: int32(i)} }
	write := func(i, next int) *kgo.Record {
		t.Helper()
		r := k.record(id(i), progress{Topic: "t", Partition: int32(i), Cursor: Cursor{Next: log.Offset(next)}, At: 1})
		if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return r
	}
	read := func(wantFetched int, want ...int) {
		t.Helper()
		if err := k.create(ctx, admin); err != nil {
			t.Fatal(err)
		}
		got.n.Store(0)
		found, err := k.read(ctx, conn, admin)
		if err != nil {
			t.Fatal(err)
		}
		const looks = 2 // the last one, and perhaps one behind it
		if n := int(got.n.Load()); n < wantFetched || n > wantFetched+looks || len(found) != len(want) {
			t.Errorf("fetched %d records, want %d; found %v, want %v", n, wantFetched, found, want)
		}
		for i, next := range want {
			if found[id(i)].Next != log.Offset(next) {
				t.Errorf("partition %d is at %d, want %d", i, found[id(i)].Next, next)
			}
		}
	}
	read(0)
	for i := range 100 {
		write(i%2, i)
	}
	read(100, 98, 99)
	read(0, 98, 99)
	write(1, 120)
	read(1, 98, 120)
	last := write(0, 130)
	k.seen.confirmed(map[log.PartitionID]progress{id(0): {Cursor: Cursor{Next: 130}}}, last)
	read(0, 130, 120)
	write(0, 140)
	read(1, 140, 120)
	if _, err := admin.DeleteTopic(ctx, ProgressTopic); err != nil {
		t.Fatal(err)
	}
	connect() // or it would go on with the old one's id
	if err := k.create(ctx, admin); err != nil {
		t.Fatal(err)
	}
	for i := range 110 { // longer than what was read of the old one
		write(0, i)
	}
	read(110, 109)
	k.seen.next = 1000 // of a log that has lost its end since
	read(110, 109)
	stale := *k.seen.last // which stood there before a copy was restored, and others have written as much since
	stale.Value = progress{Topic: "t", Cursor: Cursor{Next: 500}, At: 2}.encode()
	k.seen.last = &stale
	k.seen.found[id(0)] = progress{Topic: "t", Cursor: Cursor{Next: 500}, At: 2}
	read(110, 109)
	read(0, 109)
}

// A gateway that may not make topics at the target finds the one that somebody has made there.
func TestCursorsNeedNoLeaveToMakeTheirTopic(t *testing.T) {
	centre, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(centre.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	k := progressTopic{cluster: "c", uplink: "u", seen: &seenProgress{}}
	centre.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
		centre.KeepControl()
		resp := r.ResponseKind().(*kmsg.CreateTopicsResponse)
		topic := kmsg.NewCreateTopicsResponseTopic()
		topic.Topic, topic.ErrorCode = ProgressTopic, kerr.TopicAuthorizationFailed.Code
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	if err := k.create(t.Context(), kadm.NewClient(client)); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("%v, and there is no topic", err)
	}
	other, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, ProgressTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.ControlKey(int16(kmsg.CreateTopics), func(kmsg.Request) (kmsg.Response, error, bool) {
		other.KeepControl()
		t.Error("it tries to make the topic that is there")
		return nil, errors.New("refused"), true
	})
	second, err := kgo.NewClient(kgo.SeedBrokers(other.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := k.create(t.Context(), kadm.NewClient(second)); err != nil {
		t.Error(err)
	}
}
