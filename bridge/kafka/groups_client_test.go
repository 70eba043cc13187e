package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
)

// groupBackends are what the client tests run against: our coordinator behind
// kfake's topics, and kfake alone, which tells that a test asks for the right
// thing.
var groupBackends = map[string]func(t *testing.T, topics ...string) []kgo.Opt{
	"weir": func(t *testing.T, topics ...string) []kgo.Opt {
		return startHybrid(t, topics...).opts
	},
	"kfake": func(t *testing.T, topics ...string) []kgo.Opt {
		return []kgo.Opt{kgo.SeedBrokers(startKfake(t, topics...))}
	},
}

func startKfake(t *testing.T, topics ...string) string {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(fakePartitions, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	return fake.ListenAddrs()[0]
}

// hybrid lets requests of groups go to our handlers and all others to kfake.
// Clients reach it by its dialer only.
type hybrid struct {
	t     *testing.T
	table *fakeTable
	opts  []kgo.Opt
	node  atomic.Pointer[groupNode]
}

// start starts a coordinator on what the table holds.
func (h *hybrid) start() {
	n := startGroups(h.t, h.table, GroupConfig{Config: group.Config{InitialRebalanceDelay: 100 * time.Millisecond}})
	h.node.Store(n.loaded())
}

func startHybrid(t *testing.T, topics ...string) *hybrid {
	t.Helper()
	addr := startKfake(t, topics...)
	h := &hybrid{t: t, table: newFakeTable(t, 4)}
	h.start()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	dial := func(ctx2 context.Context, _, _ string) (net.Conn, error) {
		up, err := (&net.Dialer{}).DialContext(ctx2, "tcp", addr)
		if err != nil {
			return nil, err
		}
		near, far := net.Pipe()
		context.AfterFunc(ctx, func() { far.Close(); up.Close() })
		wg.Go(func() {
			defer far.Close()
			defer up.Close()
			h.splice(far, up)
		})
		return near, nil
	}
	h.opts = []kgo.Opt{kgo.SeedBrokers(addr), kgo.Dialer(dial)}
	return h
}

// splice serves one connection, request by request, until either side ends.
func (h *hybrid) splice(client, up net.Conn) {
	apis := map[int16]api{}
	for _, a := range groupAPIs() {
		apis[a.key] = a
	}
	c := &conn{nc: client, clientID: "client", listener: boundListener{host: "127.0.0.1", port: 1}}
	for {
		frame, err := readTestFrame(client)
		if err != nil {
			return
		}
		key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
		var out []byte
		if a, ours := apis[key]; ours {
			out, err = answerHere(h.node.Load(), c, a, version, frame)
		} else if out, err = answerThere(up, frame); err == nil && key == keyApiVersions {
			out, err = listOurVersions(apis, version, out)
		}
		if err != nil {
			return
		}
		if _, err := client.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...)); err != nil {
			return
		}
	}
}

func readTestFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func answerThere(up net.Conn, frame []byte) ([]byte, error) {
	if _, err := up.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		return nil, err
	}
	return readTestFrame(up)
}

func answerHere(n *groupNode, c *conn, a api, version int16, frame []byte) ([]byte, error) {
	d := decoder{b: frame[8:]}
	d.bytes16() // client id
	if version >= a.flexible {
		d.tags()
	}
	req := kmsg.RequestForKey(a.key)
	req.SetVersion(version)
	if err := req.ReadFrom(d.b); err != nil {
		return nil, err
	}
	resp, err := a.handle(n.s, context.Background(), c, req)
	if err != nil {
		return nil, err
	}
	resp.SetVersion(version)
	out := slices.Clone(frame[4:8]) // correlation id
	if version >= a.flexible {
		out = append(out, 0)
	}
	return resp.AppendTo(out), nil
}

// listOurVersions replaces what kfake says of the keys that we answer.
func listOurVersions(apis map[int16]api, version int16, out []byte) ([]byte, error) {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version = version
	if err := resp.ReadFrom(out[4:]); err != nil {
		return nil, err
	}
	for i := range resp.ApiKeys {
		if a, ours := apis[resp.ApiKeys[i].ApiKey]; ours {
			resp.ApiKeys[i].MinVersion, resp.ApiKeys[i].MaxVersion = a.min, a.max
		}
	}
	return resp.AppendTo(slices.Clone(out[:4])), nil
}

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
				if err := cl.CommitUncommittedOffsets(context.Background()); err != nil {
					t.Errorf("commit: %v", err)
				}
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
				opts := start(t, "t")
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
			opts := start(t, "t")
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
			opts := start(t, "t")
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
			lags, err := adm.Lag(t.Context(), "g")
			if err != nil {
				t.Fatal(err)
			}
			if l := lags["g"]; l.Error() != nil || l.Lag.Total() != 0 || len(l.Members) != 1 {
				t.Errorf("lag %d of %d members: %v", l.Lag.Total(), len(l.Members), l.Error())
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

// The coordinator restarts under running consumers: they go on in the same
// generation, and nothing is read twice or left out.
func TestCoordinatorRestart(t *testing.T) {
	h := startHybrid(t, "t")
	tl := newTally()
	produce(t, h.opts, 0, 60)
	a := startReader(t, tl, h.opts)
	startReader(t, tl, h.opts)
	settled(t, h.opts, 2)
	tl.wait(t, 60)
	_, before := a.cl.GroupMetadata()
	for i := range 3 {
		old := h.node.Load()
		close(old.s.draining)
		h.start()
		old.stop()
		produce(t, h.opts, 60*(i+1), 60)
		tl.wait(t, 60*(i+2))
	}
	if _, after := a.cl.GroupMetadata(); after != before {
		t.Errorf("generation %d became %d", before, after)
	}
}
