package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// counting is a stand-in broker's hook: everyone may do everything, publishes are counted.
type counting struct {
	mochi.HookBase
	published atomic.Int64
	wrongSize atomic.Int64
	size      int
	lose      string // publishes to topics that end so are acked and forgotten
}

func (h *counting) Provides(b byte) bool {
	return b == mochi.OnPublish || b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}
func (h *counting) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (h *counting) OnACLCheck(*mochi.Client, string, bool) bool              { return true }
func (h *counting) OnPublish(_ *mochi.Client, p packets.Packet) (packets.Packet, error) {
	h.published.Add(1)
	if len(p.Payload) != h.size {
		h.wrongSize.Add(1)
	}
	if h.lose != "" && strings.HasPrefix(p.TopicName, "bench/away/") && strings.HasSuffix(p.TopicName, h.lose) {
		p.TopicName = "lost"
	}
	return p, nil
}

func mqttStandin(t *testing.T, size int) (string, *counting) {
	t.Helper()
	caps := mochi.NewDefaultServerCapabilities()
	caps.ReceiveMaximum, caps.MaximumInflight, caps.MaximumClientWritesPending = 65535, 65535, 65535
	srv := mochi.New(&mochi.Options{Capabilities: caps, Logger: slog.New(slog.DiscardHandler)})
	h := &counting{size: size}
	if err := srv.AddHook(h, nil); err != nil {
		t.Fatal(err)
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := srv.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return "mqtt://" + tcp.Address(), h
}

func benched(t *testing.T, c benchMQTTCmd) (*benchMQTTResult, error) {
	t.Helper()
	if c.Topic == "" {
		c.Topic, c.Filter = "bench/%d", "bench/#"
	}
	g, out := testGlobals(t, "")
	g.JSON = true
	err := c.Run(g)
	var r benchMQTTResult
	if e := json.Unmarshal(out.Bytes(), &r); e != nil && err == nil {
		t.Fatalf("%s: %v", out, e)
	}
	return &r, err
}

func TestBenchMQTT(t *testing.T) {
	small := func(c benchMQTTCmd) benchMQTTCmd {
		c.Size, c.Duration, c.Warmup = 64, 150*time.Millisecond, 20*time.Millisecond
		return c
	}
	for name, c := range map[string]benchMQTTCmd{
		"window":      small(benchMQTTCmd{Connections: 3, Window: 10, QoS: 1}),
		"ping-pong":   small(benchMQTTCmd{Connections: 2, Window: 1, QoS: 1}),
		"v5":          small(benchMQTTCmd{Connections: 2, Window: 7, QoS: 1, MQTTVersion: "5"}),
		"qos 0":       small(benchMQTTCmd{Connections: 2, Window: 20, QoS: 0}),
		"rate":        small(benchMQTTCmd{Connections: 4, Window: 10, QoS: 1, Rate: 400}),
		"rate qos 0":  small(benchMQTTCmd{Connections: 4, Window: 10, QoS: 0, Rate: 400}),
		"subscribers": small(benchMQTTCmd{Connections: 2, Window: 4, QoS: 1, Rate: 1000, Subscribers: 3, Durable: true}),
		"sub v5":      small(benchMQTTCmd{Connections: 1, Window: 4, QoS: 1, Rate: 1000, Subscribers: 1, MQTTVersion: "5"}),
		"ahead":       small(benchMQTTCmd{Connections: 1, Window: 8, QoS: 1, Subscribers: 5, Ahead: 2}),
		"ahead qos 0": small(benchMQTTCmd{Connections: 1, Window: 8, QoS: 0, Subscribers: 5, Ahead: 4}),
		"absent":      small(benchMQTTCmd{Connections: 2, Window: 4, QoS: 1, Rate: 1000, Absent: true}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := c
			var h *counting
			c.Broker, h = mqttStandin(t, c.Size)
			c.Pid = os.Getpid()
			r, err := benched(t, c)
			if err != nil {
				t.Fatal(err)
			}
			// The figures must be the server's truth: it counted too.
			if r.Acked != h.published.Load() || h.wrongSize.Load() != 0 || r.Messages <= 0 || r.Messages > r.Acked {
				t.Errorf("acked %d, of these measured %d; the server got %d, %d of a wrong size", r.Acked, r.Messages, h.published.Load(), h.wrongSize.Load())
			}
			if r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 || r.Max > 60_000 || r.Rate <= 0 || r.ServerCPU == nil || *r.ServerPeakRSS < 1<<20 {
				t.Errorf("%+v", r)
			}
			if c.Rate > 0 && r.Rate > c.Rate*1.5 { // a busy machine may keep it below
				t.Errorf("asked for %v/s, got %v/s", c.Rate, r.Rate)
			}
			for _, d := range []*deliveries{r.Deliveries, r.AbsentReply} {
				if d != nil && (d.Received != d.Expected || d.Repeated != 0 || d.Expected == 0 || d.Rate <= 0) {
					t.Errorf("%+v", d)
				}
			}
			if (r.Deliveries != nil) != (c.Subscribers > 0) || (r.AbsentReply != nil) != c.Absent {
				t.Errorf("%+v", r)
			}
			if d := r.Deliveries; d != nil && (d.P50 <= 0 || d.P99 > 10_000) {
				t.Errorf("delivery latency %+v", d)
			}
		})
	}
}

// A server that takes publishes, acks half of them out of order and then goes away: an error, not a figure.
func TestBenchMQTTSaysWhenTheServerFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			_, _ = c.Read(b)
			_, _ = c.Write([]byte{2 << 4, 2, 0, 0})
			_, _ = c.Read(b)
			_, _ = c.Write([]byte{mqttPuback << 4, 2, 0, 2, mqttPuback << 4, 2, 0, 1})
			c.Close()
		}
	}()
	_, err = benched(t, benchMQTTCmd{Broker: "mqtt://" + ln.Addr().String(), Connections: 1, Window: 4, QoS: 1, Size: 16, Duration: time.Minute})
	if exitCode(err) != exitFailed || !strings.Contains(err.Error(), "publisher 0") {
		t.Errorf("%v", err)
	}
	for _, c := range []benchMQTTCmd{
		{Broker: "mqtt://x", Connections: 0, Window: 1, Size: 16, Duration: 1},
		{Broker: "mqtt://x", Connections: 1, Window: 1, Size: 1, Duration: 1},
		{Broker: "mqtt://x", Connections: 1, Window: 1, Size: 16, Duration: 1, QoS: 2},
		{Broker: "http://x", Connections: 1, Window: 1, Size: 16, Duration: 1},
	} {
		if _, err := benched(t, c); exitCode(err) != exitUsage {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := procCPU(1 << 30); exitCode(err) != exitUsage {
		t.Errorf("--pid of nobody: %v", err)
	}
}

// A repeat must not make up for a message that is missing.
func TestTallyCountsEachMessageOnce(t *testing.T) {
	l := &mqttLoad{cmd: &benchMQTTCmd{Connections: 2, Window: 4, QoS: 1, Size: 16, Subscribers: 1}}
	seen := l.newTally()
	message := func(publisher, seq uint64) []byte {
		b := make([]byte, 16)
		binary.BigEndian.PutUint64(b[8:], publisher<<seqBits|seq)
		return b
	}
	for _, step := range []struct {
		payload []byte
		first   bool
	}{
		{message(0, 0), true}, {message(0, 1), true}, {message(1, 0), true}, {message(0, 1), false}, {message(0, 0), false},
		{message(0, 3), true}, {message(1, 0), false}, {message(1, 1), true},
		{message(0, 3), false}, {message(0, 5), true}, {message(0, 2), true}, {message(0, 3), false}, {message(0, 4), true},
		{message(0, 5), false}, {message(0, 6), true},
		{message(2, 0), false}, // nobody of ours
		{make([]byte, 15), false},
	} {
		if got := seen.first(step.payload); got != step.first {
			t.Errorf("% x: %v", step.payload, got)
		}
	}
}

func TestPacketSizeAgainstEncoding(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 2097151, 2097152} {
		b := frame(0x30, make([]byte, n))
		for cut := range min(len(b), 6) {
			head, size, err := packetSize(b[:cut])
			if err != nil || head != 0 && (head+size != len(b) || head > cut) {
				t.Errorf("%d bytes cut to %d: %d, %d, %v", n, cut, head, size, err)
			}
		}
		if head, size, _ := packetSize(b[:min(len(b), 5)]); head+size != len(b) {
			t.Errorf("%d bytes: %d+%d", n, head, size)
		}
	}
	if _, _, err := packetSize([]byte{0x30, 0xff, 0xff, 0xff, 0xff}); err == nil {
		t.Error("five length bytes were accepted")
	}
}

func FuzzPublishPayload(f *testing.F) {
	for _, version := range []byte{4, 5} {
		for _, qos := range []byte{0, 1} {
			b, at := publishFrame(version, "a/b", qos, 7, []byte("payload"))
			f.Add(version, b[0], b[2:])
			if id, payload, err := publishPayload(version, b[0], b[2:]); err != nil || !bytes.Equal(payload, b[at:]) || id != uint16(qos)*7 {
				f.Errorf("version %d QoS %d: id %d, %q, %v", version, qos, id, payload, err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, version, first byte, body []byte) {
		if _, payload, err := publishPayload(version, first, body); err == nil && len(payload) > len(body) {
			t.Error("more payload than packet")
		}
	})
}
