package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log"
)

// groupBackends are what the client tests run against: weir, and kfake, which
// tells that a test asks for the right thing.
var groupBackends = map[string]func(t *testing.T) []kgo.Opt{
	"weir": func(t *testing.T) []kgo.Opt {
		_, addr := startServer(t, Config{Groups: quickGroups})
		createTopic(t, addr, "t", fakePartitions, nil)
		return []kgo.Opt{kgo.SeedBrokers(addr)}
	},
	"kfake": func(t *testing.T) []kgo.Opt {
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(fakePartitions, "t"),
			kfake.BrokerConfigs(map[string]string{"group.consumer.heartbeat.interval.ms": "100"}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(fake.Close)
		return []kgo.Opt{kgo.SeedBrokers(fake.ListenAddrs()...)}
	},
}

var quickGroups = GroupConfig{Config: group.Config{InitialRebalanceDelay: 100 * time.Millisecond, ConsumerHeartbeat: 100 * time.Millisecond}}

// reader is a consumer that commits what it read before it lets a rebalance go on.
type reader struct {
	cl    *kgo.Client
	stop  context.CancelFunc
	ended chan struct{}
	moves func() int // assignments, revocations and losses so far
}

// tally is what all readers read.
type tally struct {
	mu    sync.Mutex
	seen  map[string]int
	moved chan struct{} // signalled after each read
}

func newTally() *tally { return &tally{seen: map[string]int{}, moved: make(chan struct{}, 1)} }

func startReader(t *testing.T, tl *tally, opts []kgo.Opt, more ...kgo.Opt) *reader {
	t.Helper()
	var mu sync.Mutex
	moves := 0
	moved := func(context.Context, *kgo.Client, map[string][]int32) {
		mu.Lock()
		defer mu.Unlock()
		moves++
	}
	all := append(slices.Clone(opts),
		kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.HeartbeatInterval(50*time.Millisecond), kgo.SessionTimeout(6*time.Second), kgo.RebalanceTimeout(10*time.Second),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.OnPartitionsAssigned(moved), kgo.OnPartitionsRevoked(moved), kgo.OnPartitionsLost(moved),
	)
	cl, err := kgo.NewClient(append(all, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{cl: cl, stop: cancel, ended: make(chan struct{}), moves: func() int {
		mu.Lock()
		defer mu.Unlock()
		return moves
	}}
	go func() {
		defer close(r.ended)
		for ctx.Err() == nil {
			fs := cl.PollFetches(ctx)
			tl.mu.Lock()
			fs.EachRecord(func(rec *kgo.Record) { tl.seen[fmt.Sprintf("%d/%d %s", rec.Partition, rec.Offset, rec.Value)]++ })
			tl.mu.Unlock()
			if fs.NumRecords() > 0 {
				commit(t, cl)
			}
			cl.AllowRebalance()
			select {
			case tl.moved <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(r.close)
	return r
}

// commit retries while the node is down.
func commit(t *testing.T, cl *kgo.Client) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := cl.CommitUncommittedOffsets(context.Background())
		if err == nil {
			return
		}
		if time.Now().After(deadline) || errors.As(err, new(*kerr.Error)) {
			t.Errorf("commit: %v", err)
			return
		}
	}
}

// close leaves the group, unless the member is static.
func (r *reader) close() {
	r.stop()
	<-r.ended
	r.cl.CloseAllowingRebalance()
}

// produce writes n records and returns when they are acked.
func produce(t *testing.T, opts []kgo.Opt, first, n int) {
	t.Helper()
	cl, err := kgo.NewClient(append(slices.Clone(opts), kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := first; i < first+n; i++ {
		cl.Produce(t.Context(), kgo.StringRecord(fmt.Sprint("r", i)), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wait until n records were read, each once.
func (tl *tally) wait(t *testing.T, n int) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		tl.mu.Lock()
		got := len(tl.seen)
		for rec, times := range tl.seen {
			if times > 1 {
				t.Errorf("record %s was read %d times", rec, times)
			}
		}
		tl.mu.Unlock()
		if got >= n || t.Failed() {
			return
		}
		select {
		case <-tl.moved:
		case <-timeout:
			t.Fatalf("%d of %d records were read", got, n)
		}
	}
}

// settled waits until the group is stable with that many members, each with
// partitions and every partition with one of them.
func settled(t *testing.T, opts []kgo.Opt, members int) {
	t.Helper()
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	var last kadm.DescribedGroup
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if cs, err := adm.DescribeConsumerGroups(t.Context(), "g"); err == nil && cs["g"].Err == nil {
			if g := cs["g"]; g.State == "Stable" && len(g.Members) == members && evenly(t, g.Members) {
				return
			}
			continue
		}
		ds, err := adm.DescribeGroups(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		last = ds["g"]
		if last.State != "Stable" || len(last.Members) != members {
			continue
		}
		owned := map[int32]int{}
		idle := 0
		for _, m := range last.Members {
			a, ok := m.Assigned.AsConsumer()
			n := 0
			if ok {
				for _, at := range a.Topics {
					for _, p := range at.Partitions {
						owned[p]++
						n++
					}
				}
			}
			if n == 0 {
				idle++
			}
		}
		if len(owned) == fakePartitions && idle == 0 {
			for p, n := range owned {
				if n != 1 {
					t.Errorf("partition %d has %d owners", p, n)
				}
			}
			return
		}
	}
	t.Fatalf("group does not settle with %d members: %+v", members, last)
}

// evenly reports whether the members of a group of the consumer protocol have all partitions, each at one.
func evenly(t *testing.T, members []kadm.ConsumerGroupMember) bool {
	t.Helper()
	owned := map[int32]int{}
	for _, m := range members {
		if len(m.Assignment) == 0 {
			return false
		}
		for _, partitions := range m.Assignment { // of the one topic
			for p := range partitions {
				if owned[p]++; owned[p] > 1 {
					t.Errorf("partition %d has %d owners", p, owned[p])
				}
			}
		}
	}
	return len(owned) == fakePartitions
}

// Members come and go under each assignor of the broker (KIP-848); every record is read once.
func TestConsumerProtocolGroups(t *testing.T) {
	for backend, start := range groupBackends {
		for name, balancer := range map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "uniform": kgo.StickyBalancer()} {
			t.Run(backend+"/"+name, func(t *testing.T) {
				t.Parallel()
				opts := start(t)
				tl := newTally()
				produce(t, opts, 0, 60)
				protocol := []kgo.Opt{kgo.ServerSideBalancer(), kgo.Balancers(balancer)}
				a := startReader(t, tl, opts, protocol...)
				tl.wait(t, 60)
				b, c := startReader(t, tl, opts, protocol...), startReader(t, tl, opts, protocol...)
				settled(t, opts, 3)
				produce(t, opts, 60, 60)
				tl.wait(t, 120)
				a.close()
				settled(t, opts, 2)
				produce(t, opts, 120, 60)
				tl.wait(t, 180)
				b.close()
				c.close()
				produce(t, opts, 180, 60)
				startReader(t, tl, opts, protocol...)
				tl.wait(t, 240)
			})
		}
	}
}

// Members come and go under each assignor; every record is read once.
func TestConsumerGroups(t *testing.T) {
	balancers := map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "roundrobin": kgo.RoundRobinBalancer(),
		"sticky": kgo.StickyBalancer(), "cooperative-sticky": kgo.CooperativeStickyBalancer(),
	}
	for backend, start := range groupBackends {
		for name, balancer := range balancers {
			t.Run(backend+"/"+name, func(t *testing.T) {
				t.Parallel()
				opts := start(t)
				tl := newTally()
				produce(t, opts, 0, 60)
				a := startReader(t, tl, opts, kgo.Balancers(balancer))
				tl.wait(t, 60)
				b := startReader(t, tl, opts, kgo.Balancers(balancer))
				c := startReader(t, tl, opts, kgo.Balancers(balancer))
				settled(t, opts, 3)
				produce(t, opts, 60, 60)
				tl.wait(t, 120)
				a.close()
				settled(t, opts, 2)
				produce(t, opts, 120, 60)
				tl.wait(t, 180)
				b.close()
				c.close()
				// Nobody is there; the next one goes on where they were.
				produce(t, opts, 180, 60)
				startReader(t, tl, opts, kgo.Balancers(balancer))
				tl.wait(t, 240)
			})
		}
	}
}

// A static member restarts without moving anybody's partitions; a second one
// of its name fences it.
func TestStaticMembers(t *testing.T) {
	for backend, start := range groupBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			opts := start(t)
			tl := newTally()
			a := startReader(t, tl, opts, kgo.InstanceID("a"))
			b := startReader(t, tl, opts, kgo.InstanceID("b"))
			settled(t, opts, 2)
			produce(t, opts, 0, 60)
			tl.wait(t, 60)
			idBefore, generation := a.cl.GroupMetadata()
			moves := b.moves()
			a.close()
			a = startReader(t, tl, opts, kgo.InstanceID("a"))
			produce(t, opts, 60, 60)
			tl.wait(t, 120)
			idAfter, generationAfter := a.cl.GroupMetadata()
			// kfake compares all that a member says, which the partitions it owned are part
			// of, and may rebalance; Kafka and we do not.
			if backend != "kfake" && (generationAfter != generation || b.moves() != moves) {
				t.Errorf("generation %d became %d, the other member moved %d times", generation, generationAfter, b.moves()-moves)
			}
			if idBefore == idAfter {
				t.Errorf("the restarted member kept its id %s", idAfter)
			}
			// Closing does not remove it; an operator does.
			a.close()
			adm := kadm.NewClient(b.cl)
			if _, err := adm.LeaveGroup(t.Context(), kadm.LeaveGroup("g").Reason("gone for good").InstanceIDs("a")); err != nil {
				t.Fatal(err)
			}
			settled(t, opts, 1)
		})
	}
}

// What kadm's tools do to groups.
func TestGroupAdmin(t *testing.T) {
	for backend, start := range groupBackends {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			opts := start(t)
			tl := newTally()
			produce(t, opts, 0, 12)
			r := startReader(t, tl, opts)
			tl.wait(t, 12)
			cl, err := kgo.NewClient(opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			adm := kadm.NewClient(cl)
			for deadline := time.Now().Add(20 * time.Second); ; { // the last commit comes after the last read
				lags, err := adm.Lag(t.Context(), "g")
				if err != nil {
					t.Fatal(err)
				}
				l := lags["g"]
				if l.Error() == nil && l.Lag.Total() == 0 && len(l.Members) == 1 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("lag %d of %d members: %v", l.Lag.Total(), len(l.Members), l.Error())
				}
			}
			groups, err := adm.ListGroups(t.Context(), "Stable")
			if err != nil || len(groups) != 1 || groups["g"].ProtocolType != "consumer" {
				t.Errorf("listed %+v, %v", groups, err)
			}
			if ds, err := adm.DeleteGroups(t.Context(), "g"); err != nil || ds["g"].Err == nil {
				t.Errorf("delete of a group with members: %+v, %v", ds, err)
			}
			r.close()
			// Back to the start, as `weir groups reset` does.
			offsets := kadm.Offsets{}
			offsets.Add(kadm.Offset{Topic: "t", Partition: 0, At: 0, LeaderEpoch: -1})
			if err := adm.CommitAllOffsets(t.Context(), "g", offsets); err != nil {
				t.Errorf("reset: %v", err)
			}
			got, err := adm.FetchOffsets(t.Context(), "g")
			if o, ok := got.Lookup("t", 0); err != nil || !ok || o.At != 0 {
				t.Errorf("offset after the reset %+v, %v", o, err)
			}
			if ds, err := adm.DeleteGroups(t.Context(), "g"); err != nil || ds["g"].Err != nil {
				t.Errorf("delete: %+v, %v", ds, err)
			}
			if groups, err := adm.ListGroups(t.Context()); err != nil || len(groups) != 0 {
				t.Errorf("after the delete: %+v, %v", groups, err)
			}
		})
	}
}

// The node restarts under running consumers: they go on where they were, and
// nothing is read twice or left out. (That members and generation survive is
// TestRestartKeepsGroups: this client joins again when it cannot connect.)
func TestRestartUnderConsumers(t *testing.T) {
	dir := t.TempDir()
	listen := "127.0.0.1:0"
	start := func() (stop func()) {
		b, err := cluster.Open(t.Context(), cluster.Config{DataDir: dir, AdvertiseHost: "127.0.0.1", Log: log.Config{JournalFileBytes: 4 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		s, end := runServer(t, Config{Broker: b, Groups: quickGroups, Listeners: []Listener{{Addr: listen}}})
		listen = s.Addrs()[0].String()
		return func() {
			end()
			if err := b.Close(context.Background()); err != nil {
				t.Errorf("close broker: %v", err)
			}
		}
	}
	stop := start()
	defer func() { stop() }()
	createTopic(t, listen, "t", fakePartitions, nil)
	opts := []kgo.Opt{kgo.SeedBrokers(listen)}
	tl := newTally()
	produce(t, opts, 0, 60)
	a, b := startReader(t, tl, opts), startReader(t, tl, opts)
	defer b.close() // before the node stops
	defer a.close()
	settled(t, opts, 2)
	tl.wait(t, 60)
	for i := range 3 {
		stop()
		stop = start()
		produce(t, opts, 60*(i+1), 60)
		tl.wait(t, 60*(i+2))
	}
}
