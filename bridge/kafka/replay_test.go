package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// tap keeps a copy of the requests that a client sends.
type tap struct {
	mu     sync.Mutex
	frames [][]byte
}

func (p *tap) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &tapped{Conn: c, tap: p}, err
}

// of are the requests with that key.
func (p *tap) of(key int16) (frames [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.frames {
		if int16(binary.BigEndian.Uint16(f)) == key {
			frames = append(frames, f)
		}
	}
	return frames
}

type tapped struct {
	net.Conn
	tap     *tap
	pending []byte
}

func (c *tapped) Write(b []byte) (int, error) {
	c.pending = append(c.pending, b...)
	for len(c.pending) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(c.pending))
		if len(c.pending) < n {
			break
		}
		c.tap.mu.Lock()
		c.tap.frames = append(c.tap.frames, slices.Clone(c.pending[4:n]))
		c.tap.mu.Unlock()
		c.pending = c.pending[n:]
	}
	return c.Conn.Write(b)
}

// TestReplayedAndReorderedRequests: all that an idempotent producer and a consumer of a group have ever sent, sent again by somebody, in the same order and in others,
// doubles no record and moves no offset, and a client beside it goes on.
func TestReplayedAndReorderedRequests(t *testing.T) {
	s, addr := startServer(t, Config{Groups: quickGroups})
	createTopic(t, addr, "t", 1, nil)
	ctx := testContext(t)
	var seen tap
	producer := newClient(t, addr, kgo.DefaultProduceTopic("t"), kgo.Dialer(seen.dial))
	const n = 20
	for i := range n {
		if err := producer.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	consumer := newClient(t, addr, kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"), kgo.DisableAutoCommit(), kgo.Dialer(seen.dial))
	if got := consumer.PollRecords(ctx, 1); got.NumRecords() != 1 { // it is a member, then
		t.Fatal(got.Err())
	}
	for _, upTo := range []int64{5, 12} { // two commits, so that the first would go back
		if err := consumer.CommitRecords(ctx, &kgo.Record{Topic: "t", Offset: upTo - 1, LeaderEpoch: -1}); err != nil {
			t.Fatal(err)
		}
	}
	consumer.LeaveGroup()
	producer.Close()
	for _, key := range []kmsg.Key{kmsg.Produce, kmsg.OffsetCommit, kmsg.JoinGroup, kmsg.LeaveGroup, kmsg.InitProducerID} {
		if len(seen.of(int16(key))) == 0 {
			t.Fatalf("the clients have sent no %s", kmsg.NameForKey(int16(key)))
		}
	}

	beside := newClient(t, addr)
	frames := slices.Clone(seen.frames)
	order := rand.New(rand.NewPCG(1, 2))
	for round := range 4 {
		for _, f := range frames {
			exchange(t, s, f)
		}
		if err := beside.Ping(ctx); err != nil {
			t.Fatalf("round %d: a client beside it: %v", round, err)
		}
		order.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	}
	admin := kadm.NewClient(beside)
	ends, err := admin.ListEndOffsets(ctx, "t")
	if o, _ := ends.Lookup("t", 0); err != nil || o.Offset != n {
		t.Errorf("the log ends at %d, %v", o.Offset, err)
	}
	committed, err := admin.FetchOffsets(ctx, "g")
	if o, _ := committed.Lookup("t", 0); err != nil || o.At != 12 {
		t.Errorf("the group is at %d, %v", o.At, err)
	}
}
