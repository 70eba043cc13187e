package uplink

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// U11: who has the shard next knows which producers were this uplink's, at the same target.
func TestProducersOutliveTheNode(t *testing.T) {
	centre, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "telemetry"))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	s := newScene()
	s.store.steady = true
	cfg := []Config{{Name: "central", To: "kafka://" + centre.ListenAddrs()[0], Topics: []string{"telemetry"}}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	carry := func(what string) (ids []int64) {
		t.Helper()
		f := New(Options{Config: cfg[0], Cluster: "edge", Source: fakeSource{[]*fakeLog{s.log}}, Store: fakeStore{s.store, s.store.term}, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		s.log.put(what)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for st := f.Status(); st.Records == 0 || st.State != "idle"; st = f.Status() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%s: %+v", what, st)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		return f.seen.ids
	}
	key := "producers/central/0"
	ids := carry("the first")
	var stored producerIDs
	if err := json.Unmarshal(s.store.kept[key], &stored); err != nil || len(ids) != 1 || !slices.Equal(stored.IDs, ids) {
		t.Fatalf("%v: stored %+v, it has %v", err, stored, ids)
	}
	const before = 4711
	s.store.kept[key] = fmt.Appendf(nil, `{"topic":%q,"ids":[%d]}`, stored.Topic, before)
	if got := carry("the epochs were used up"); !slices.Equal(got, []int64{before, ids[0]}) {
		t.Errorf("it has %v, want %v", got, []int64{before, ids[0]})
	}
	s.store.kept[key] = fmt.Appendf(nil, `{"topic":"another","ids":[%d]}`, before)
	if got := carry("another target"); !slices.Equal(got, ids) {
		t.Errorf("at another target it has %v, want %v", got, ids)
	}
}

// U11: what is open of a producer that was stored is this uplink's only when it has written it: its id may be somebody else's by now.
func TestStoredProducersMustHaveWrittenIt(t *testing.T) {
	centre, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "there"))
	if err != nil {
		t.Fatal(err)
	}
	defer centre.Close()
	cfg := []Config{{Name: "u", To: "kafka://" + centre.ListenAddrs()[0], Topics: []string{"t"}}}
	if err := Check(cfg, "plant-7"); err != nil {
		t.Fatal(err)
	}
	target := newKafkaTarget(&cfg[0], "c", "plant-7", 0, &seenProgress{})
	target.carried, target.logger = func() []carriedPart { return nil }, slog.New(slog.DiscardHandler)
	defer target.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := target.open(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := target.connection()
	if err != nil {
		t.Fatal(err)
	}
	ours := []kgo.RecordHeader{{Key: OriginHeader, Value: []byte("c/t/0/7")}}
	for i, c := range []struct {
		what   string
		record kgo.Record
		want   bool
	}{
		{"a cursor", kgo.Record{Topic: ProgressTopic, Key: []byte("c/u/x/0")}, true},
		{"a gap", kgo.Record{Topic: ProgressTopic, Key: []byte("gap/c/t/0/0")}, true},
		{"a claim", kgo.Record{Topic: ProgressTopic, Key: []byte("site/plant-7")}, true},
		{"a record", kgo.Record{Topic: "there", Headers: ours}, true},
		{"another uplink's cursor", kgo.Record{Topic: ProgressTopic, Key: []byte("c/v/x/0")}, false},
		{"another cluster's record", kgo.Record{Topic: "there", Headers: []kgo.RecordHeader{{Key: OriginHeader, Value: []byte("d/t/0/7")}}}, false},
		{"somebody's record", kgo.Record{Topic: "there", Key: []byte("c/u/x/0")}, false},
	} {
		other, err := kgo.NewClient(append(conn[:len(conn):len(conn)], kgo.TransactionalID(fmt.Sprint("other-", i)), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		r := c.record
		if err := other.ProduceSync(ctx, &r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		at, open := spot{r.Topic, 0}, producer{ProducerID: r.ProducerID, CurrentTxnStartOffset: r.Offset}
		for _, known := range []struct {
			ids, stored []int64
			want        bool
		}{{nil, nil, false}, {[]int64{r.ProducerID}, nil, true}, {[]int64{r.ProducerID}, []int64{r.ProducerID}, c.want}} {
			target.seen.ids, target.seen.stored.IDs = known.ids, known.stored
			if is, err := target.mine(ctx, conn, at, open); err != nil || is != known.want {
				t.Errorf("%s, of %v, stored %v: %v, %v", c.what, known.ids, known.stored, is, err)
			}
		}
		other.Close()
	}
}
