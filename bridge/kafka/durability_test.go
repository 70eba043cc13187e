package kafka

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/log/vfs"
)

// stalledDisk is a broker whose journal syncs wait from stall on until resume is called.
func stalledDisk(t *testing.T) (b *cluster.Broker, stall func() (resume func())) {
	t.Helper()
	fault := vfs.NewFault(vfs.OS{})
	b, err := cluster.Open(context.Background(), cluster.Config{
		NodeID: "test", DataDir: t.TempDir(), FS: fault, Log: smallLog, AdvertiseHost: "127.0.0.1", Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Errorf("close broker: %v", err)
		}
	})
	return b, func() func() {
		gate := make(chan struct{})
		rule := fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Hook: func(vfs.Op, string) { <-gate }})
		resumed := false
		resume := func() {
			if !resumed {
				resumed = true
				rule.Stop()
				close(gate)
			}
		}
		t.Cleanup(resume)
		return resume
	}
}

// TestAnswerFollowsSync: A5, H6, A9, R1. Nothing is answered, and nothing read, before the
// disk has it; acks=0 is the client's choice not to know.
func TestAnswerFollowsSync(t *testing.T) {
	b, stall := stalledDisk(t)
	s, addr := startServer(t, Config{Broker: b})
	createTopic(t, addr, "t", 1, nil)
	p, err := s.broker.Partition("t", 0)
	if err != nil {
		t.Fatal(err)
	}
	resume := stall()
	all, one, reader := dialRaw(t, addr), dialRaw(t, addr), dialRaw(t, addr)
	all.sendFrame(frameOf(produceRequest(9, "t", -1, batchOf(1, "all")), 1))
	eventually(t, "first is appended", func() bool { return p.LogEnd() == 1 })
	one.sendFrame(frameOf(produceRequest(9, "t", 1, batchOf(1, "one")), 1))
	eventually(t, "second is appended", func() bool { return p.LogEnd() == 2 })
	for name, c := range map[string]*rawConn{"acks=-1": all, "acks=1": one} {
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: read %d bytes, %v, before the sync", name, n, err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	for offset := range int64(3) { // R4: waits at and between, is not out of range
		if got := fetchOne(reader, fetchRequest(12, "t", 0, offset)); got.ErrorCode != 0 || len(got.RecordBatches) != 0 || got.HighWatermark != 0 {
			t.Errorf("fetch from %d: %+v", offset, got)
		}
	}
	resume()
	for offset, c := range []*rawConn{all, one} {
		_, body := c.readFrame()
		got := parseResponse[*kmsg.ProduceResponse](c, produceRequest(9, "t", -1), body).Topics[0].Partitions[0]
		if got.ErrorCode != 0 || got.BaseOffset != int64(offset) {
			t.Errorf("answer %d: %+v", offset, got)
		}
	}
	if got := strings.Join(values(t, fetchOne(reader, fetchRequest(12, "t", 0, 0)).RecordBatches), " "); got != "0:all 1:one" {
		t.Errorf("read %q", got)
	}
}

// TestProduceTimesOut: the request's own timeout, and what it leaves behind.
func TestProduceTimesOut(t *testing.T) {
	b, stall := stalledDisk(t)
	_, addr := startServer(t, Config{Broker: b})
	createTopic(t, addr, "t", 2, nil)
	resume := stall()
	c := dialRaw(t, addr)
	req := produceRequest(9, "t", -1, batchOf(1, "a"), []byte("no batch"))
	req.TimeoutMillis = 200
	got := roundTrip[*kmsg.ProduceResponse](c, req).Topics[0].Partitions
	if got[0].ErrorCode != errRequestTimedOut || got[0].BaseOffset != -1 || got[1].ErrorCode != errInvalidRecord {
		t.Errorf("got %+v", got)
	}
	resume()
	// It was appended all the same, and the connection goes on.
	if got := produceOne(c, "t", batchOf(1, "b")); got.ErrorCode != 0 || got.BaseOffset != 1 {
		t.Errorf("after it: %+v", got)
	}
}

// TestFailedSyncIsNoAck: A6 as a client sees it.
func TestFailedSyncIsNoAck(t *testing.T) {
	fault := vfs.NewFault(vfs.OS{})
	b, err := cluster.Open(context.Background(), cluster.Config{NodeID: "test", DataDir: t.TempDir(), FS: fault, Log: smallLog, AdvertiseHost: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close(context.Background()) // says why it failed
	_, addr := startServer(t, Config{Broker: b, Logger: quiet})
	createTopic(t, addr, "t", 1, nil)
	c := dialRaw(t, addr)
	fill(t, c, "t", "good")
	fault.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Err: errors.New("the disk is gone")})
	for range 2 {
		got := produceOne(c, "t", batchOf(1, "lost"))
		switch got.ErrorCode {
		case errKafkaStorageError, errNotLeaderOrFollower: // clients try another broker
		default:
			t.Errorf("answered %+v", got)
		}
	}
}
