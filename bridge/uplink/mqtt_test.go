package uplink

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-io/weir/log"
)

// broker is an MQTT 5 broker over pipes, that does what a test says.
type broker struct {
	t       *testing.T
	connack packets.Properties
	// answer gives the reason code for a publish; hangUp ends the connection instead. Nil acknowledges everything.
	answer func(p *packets.Publish) byte
	down   []Down
	hold   int // acknowledges only when so many wait [each at once]

	mu       sync.Mutex
	connects []*packets.Connect
	got      []*packets.Publish
	most     int // publishes that were unacknowledged at once
}

const hangUp = 0xff

func (b *broker) dial(context.Context, *Config) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go b.serve(theirs)
	return ours, nil
}

func (b *broker) serve(c net.Conn) {
	defer c.Close()
	out := make(chan io.WriterTo, 1<<16) // a broker reads on while it writes
	defer close(out)
	go func() {
		for p := range out {
			if d, is := p.(*packets.Disconnect); is {
				_, _ = d.WriteTo(c)
				c.Close()
			} else if _, err := p.WriteTo(c); err != nil {
				return
			}
		}
	}()
	var waiting []*packets.Puback
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		b.mu.Lock()
		switch p := p.Content.(type) {
		case *packets.Connect:
			b.connects = append(b.connects, p)
			out <- &packets.Connack{Properties: &b.connack}
		case *packets.Publish:
			code := byte(0)
			if b.answer != nil {
				code = b.answer(p)
			}
			if code == hangUp {
				b.mu.Unlock()
				return
			}
			if code == 0 {
				b.got = append(b.got, p)
			}
			if code == 0x81 { // it does not even acknowledge
				out <- &packets.Disconnect{ReasonCode: code, Properties: &packets.Properties{}}
				b.mu.Unlock()
				continue
			}
			waiting = append(waiting, &packets.Puback{PacketID: p.PacketID, ReasonCode: code, Properties: &packets.Properties{}})
			b.most = max(b.most, len(waiting))
			answer := func() {
				for _, a := range waiting {
					out <- a
				}
				waiting = nil
			}
			switch {
			case b.hold == 0:
				answer()
			case len(waiting) == b.hold:
				time.AfterFunc(time.Second, func() { // of the bubble's clock: what comes without an answer has come by then
					b.mu.Lock()
					defer b.mu.Unlock()
					answer()
				})
			}
		}
		b.mu.Unlock()
	}
}

// origins are those of what the broker has taken, in order.
func (b *broker) origins() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.got {
		for _, u := range p.Properties.User {
			if u.Key == OriginHeader {
				all = append(all, u.Value)
			}
		}
	}
	return all
}

// pipeLog is one partition of records, a batch each.
type pipeLog struct {
	id      log.PartitionID
	topic   string
	records []log.Record
}

func (l *pipeLog) ID() log.PartitionID        { return l.id }
func (l *pipeLog) Topic() string              { return l.topic }
func (l *pipeLog) Index() int32               { return l.id.Index }
func (l *pipeLog) HighWatermark() log.Offset  { return log.Offset(len(l.records)) }
func (l *pipeLog) LogStart() log.Offset       { return 0 }
func (l *pipeLog) Watch(func()) (stop func()) { return func() {} }
func (l *pipeLog) add(value string, h ...log.Header) {
	l.records = append(l.records, log.Record{Key: []byte("d1"), Value: []byte(value), Headers: h})
}

func (l *pipeLog) Read(from log.Offset, maxBytes int, buf []byte) ([]byte, error) {
	buf = buf[:0]
	for o := from; int(o) < len(l.records) && len(buf) <= maxBytes; o++ {
		var bb log.BatchBuilder
		bb.Append(&l.records[o])
		buf = append(buf, bb.Seal(o, 1)...)
	}
	return buf, nil
}

// run carries logs to the broker for a time of the bubble's clock, and gives the cursors, what was buried and the status.
func (b *broker) run(t *testing.T, d time.Duration, logs ...*pipeLog) (cursors map[string]log.Offset, buried []string, status Status) {
	t.Helper()
	return b.runOver(t, b.dial, d, logs...)
}

func (b *broker) runOver(t *testing.T, dial dialer, d time.Duration, logs ...*pipeLog) (cursors map[string]log.Offset, buried []string, status Status) {
	t.Helper()
	cfg := []Config{{Name: "central", To: "mqtt://broker:1883", Topics: []string{"*"}, Down: b.down}}
	if err := Check(cfg, ""); err != nil {
		t.Fatal(err)
	}
	bury := func(_ context.Context, topic string, r *log.Record) error {
		buried = append(buried, topic+" "+string(r.Value)+": "+string(r.Headers[len(r.Headers)-1].Value))
		return nil
	}
	store := &pipeStore{}
	f := New(Options{Config: cfg[0], Cluster: "edge", Source: pipeSource(logs), Store: store, DeadLetter: bury, Inlet: &memInlet{}, Logger: slog.New(slog.DiscardHandler), dial: dial})
	f.Options.target = func() target {
		to := newMQTTTarget(&f.Config, "edge", "", 0, f.Logger.Warn)
		to.dial = dial
		return to
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	looked := make(chan struct{})
	time.AfterFunc(d-time.Millisecond, func() { // while it still runs
		status = f.Status()
		close(looked)
	})
	if err := f.Run(ctx); err != nil {
		t.Error(err)
	}
	<-looked
	return store.cursors, buried, status
}

type pipeSource []*pipeLog

func (s pipeSource) Watch(added func(Log), _ func(log.PartitionID)) (stop func()) {
	for _, l := range s {
		added(l)
	}
	return func() {}
}

type pipeStore struct{ cursors map[string]log.Offset }

func (s *pipeStore) Load(func(key, value []byte) error) error { return nil }

func (s *pipeStore) Put(_, value []byte, done func(error)) {
	if p, err := parseProgress(value); err == nil {
		if s.cursors == nil {
			s.cursors = map[string]log.Offset{}
		}
		s.cursors[fmt.Sprintf("%s/%d", p.Topic, p.Partition)] = p.Next
	}
	go done(nil)
}

func origins(l *pipeLog, offsets ...int) (all []string) {
	for _, o := range offsets {
		all = append(all, fmt.Sprintf("edge/%s/%d/%d", l.topic, l.id.Index, o))
	}
	return all
}

func numbers(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestMQTTKeepsToTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		three := uint16(3)
		b := &broker{t: t, connack: packets.Properties{ReceiveMaximum: &three}, hold: 3}
		l := &pipeLog{topic: "telemetry"}
		for i := range 30 {
			l.add(fmt.Sprint(i))
		}
		cursors, _, _ := b.run(t, time.Minute, l)
		if b.most != 3 {
			t.Errorf("%d publishes were unacknowledged at once, and the broker takes 3", b.most)
		}
		if got := b.origins(); !slices.Equal(got, origins(l, numbers(30)...)) {
			t.Errorf("arrived: %q", got)
		}
		if cursors["telemetry/0"] != 30 {
			t.Errorf("cursors: %v", cursors)
		}
		if c := b.connects[0]; c.ClientID != "weir-uplink-edge-central-0" || !c.CleanStart {
			t.Errorf("CONNECT: %v", c)
		}
	})
}

// U2: what is not acknowledged is sent again, and no cursor has passed it.
func TestMQTTConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := 25
		b := &broker{t: t, answer: func(*packets.Publish) byte {
			if left--; left == 0 {
				return hangUp
			}
			return 0
		}}
		l := &pipeLog{topic: "telemetry"}
		for i := range 40 {
			l.add(fmt.Sprint(i))
		}
		cursors, _, status := b.run(t, time.Minute, l)
		if want := slices.Concat(origins(l, numbers(24)...), origins(l, numbers(40)...)); !slices.Equal(b.origins(), want) {
			t.Errorf("arrived: %q", b.origins())
		}
		if cursors["telemetry/0"] != 40 || status.State != "idle" || status.Failures != 1 {
			t.Errorf("cursors %v, status %+v", cursors, status)
		}
	})
}

// A cursor must not move on an acknowledgement that never came.
func TestMQTTNoAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{t: t, hold: 100}
		l := &pipeLog{topic: "telemetry"}
		l.add("x")
		cursors, _, status := b.run(t, deliveryTimeout+100*time.Millisecond, l)
		if cursors["telemetry/0"] != 0 || status.LagRecords != 1 || !strings.Contains(status.LastError, "acknowledged nothing for 45s") {
			t.Errorf("cursors %v, status %+v", cursors, status)
		}
	})
}

// U8: what the broker never takes is buried, with one look at it.
func TestMQTTRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := uint32(300)
		b := &broker{t: t, connack: packets.Properties{MaximumPacketSize: &most}}
		b.answer = func(p *packets.Publish) byte {
			if string(p.Payload) == "bad" {
				return 0x99
			}
			return 0
		}
		l := &pipeLog{topic: "telemetry"}
		l.add("0")
		l.add("bad")
		l.add("2")
		l.add(strings.Repeat("x", 300))
		l.add("4", log.Header{Key: []byte("mqtt.topic"), Value: []byte("a/+/b")})
		l.add("5", log.Header{Key: []byte("mqtt.topic"), Value: []byte("$SYS/b")})
		l.add("6")
		cursors, buried, status := b.run(t, time.Minute, l)
		if !slices.Equal(b.origins(), origins(l, 0, 2, 6)) || cursors["telemetry/0"] != 7 {
			t.Errorf("arrived: %q, cursors %v", b.origins(), cursors)
		}
		if status.DeadLetters != 4 || status.Records != 3 || status.Failures != 0 || len(b.connects) != 1 {
			t.Errorf("status %+v, %d connections", status, len(b.connects))
		}
		for _, want := range []string{"dlq bad: the broker refuses a message: 0x99 payload format invalid", "the broker takes 300", "wildcard", "begins with $"} {
			if !slices.ContainsFunc(buried, func(s string) bool { return strings.Contains(s, want) }) {
				t.Errorf("nothing buried for %q: %q", want, buried)
			}
		}
	})
}

// U7: a partition waits at what is not taken for now, in order; the others go on, and nothing of them is sent again.
func TestMQTTQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		b := &broker{t: t, connack: packets.Properties{ReceiveMaximum: new(uint16)}}
		*b.connack.ReceiveMaximum = 2
		b.answer = func(p *packets.Publish) byte {
			if string(p.Payload) == "much" {
				if tries++; tries < 3 {
					return 0x97
				}
			}
			return 0
		}
		much, other := &pipeLog{topic: "telemetry"}, &pipeLog{topic: "alerts", id: log.PartitionID{Topic: log.TopicID{1}}}
		for i := range 10 {
			much.add(fmt.Sprint(i))
			other.add(fmt.Sprint(i))
		}
		much.records[4].Value = []byte("much")
		cursors, buried, status := b.run(t, 5*time.Minute, much, other)
		var a, m []string
		for _, o := range b.origins() {
			if strings.Contains(o, "alerts") {
				a = append(a, o)
			} else {
				m = append(m, o)
			}
		}
		if !slices.Equal(a, origins(other, numbers(10)...)) {
			t.Errorf("of the other partition arrived: %q", a)
		}
		// With two on their way, the one behind may have arrived already when the answer comes; each time again.
		first := slices.Index(m, origins(much, 4)[0])
		if first < 4 || !slices.Equal(m[:4], origins(much, 0, 1, 2, 3)) || !slices.Equal(m[first:], origins(much, 4, 5, 6, 7, 8, 9)) {
			t.Errorf("of the partition arrived: %q", m)
		}
		for _, o := range m[4:first] {
			if o != origins(much, 5)[0] {
				t.Errorf("%s was sent before what stands before it was taken", o)
			}
		}
		if cursors["telemetry/0"] != 10 || cursors["alerts/0"] != 10 || len(buried) > 0 || status.State != "idle" || status.Records != 20 {
			t.Errorf("cursors %v, buried %q, status %+v", cursors, buried, status)
		}
	})
}

// A record over which the broker ends the connection is found, and the others arrive.
func TestMQTTMalformed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{t: t, answer: func(p *packets.Publish) byte {
			if string(p.Payload) == "bad" {
				return 0x81
			}
			return 0
		}}
		l := &pipeLog{topic: "telemetry"}
		for i := range 20 {
			l.add(fmt.Sprint(i))
		}
		l.records[13].Value = []byte("bad")
		cursors, buried, status := b.run(t, 10*time.Minute, l)
		got := slices.Compact(slices.Sorted(slices.Values(b.origins())))
		if len(got) != 19 || slices.Contains(got, origins(l, 13)[0]) || cursors["telemetry/0"] != 20 {
			t.Errorf("arrived: %q, cursors %v", got, cursors)
		}
		if len(buried) != 1 || status.DeadLetters != 1 || !strings.Contains(buried[0], "bad: the broker ends the connection: 0x81 malformed packet") {
			t.Errorf("buried %d: %.200q", len(buried), buried)
		}
	})
}

// A broker that goes while nothing is to be carried is missed.
func TestMQTTIdleConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{t: t}
		var conns []net.Conn
		dial := func(ctx context.Context, c *Config) (net.Conn, error) {
			if len(conns) > 0 {
				return nil, errors.New("nobody is there")
			}
			c1, err := b.dial(ctx, c)
			conns = append(conns, c1)
			return c1, err
		}
		l := &pipeLog{topic: "telemetry"}
		time.AfterFunc(30*time.Second, func() { conns[0].Close() })
		if _, _, status := b.runOver(t, dial, time.Minute, l); status.State != "failing" || status.Up || !strings.Contains(status.LastError, "nobody is there") {
			t.Errorf("status %+v", status)
		}
	})
}

func TestMQTTConnectRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zero := byte(0)
		b := &broker{t: t, connack: packets.Properties{MaximumQOS: &zero}}
		l := &pipeLog{topic: "telemetry"}
		l.add("x")
		if _, _, status := b.run(t, 5*time.Second, l); !strings.Contains(status.LastError, "QoS 0 only") {
			t.Errorf("status %+v", status)
		}
	})
}

// The other end may send anything.
func TestMQTTHostileBroker(t *testing.T) {
	for sent, want := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n\r\n": "ended inside of a packet", "\x20\xff\xff\xff\xff\xff": "is not MQTT", "\x20\xff\xff\xff\x7f": "was told to keep to", "\x20\x05\x00": "ended inside of a packet",
		"\xd0\x00": "answers CONNECT with PINGRESP", "\x20\x02\x00\x87": "is not MQTT 5", "\x20\x03\x00\x87\x00": "refuses the connection: 0x87 not authorized", "": "the connection ended",
	} {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = packets.ReadPacket(theirs)
			_, _ = io.WriteString(theirs, sent)
			theirs.Close()
		}()
		target := newMQTTTarget(&Config{Name: "central", To: "mqtt://x:1"}, "edge", "", 0, nil)
		target.dial = func(context.Context, *Config) (net.Conn, error) { return ours, nil }
		if _, err := target.open(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", sent, err, want)
		}
		target.close()
	}
}

func TestMQTTOverTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // it has a certificate for 127.0.0.1
	defer web.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: web.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := &broker{t: t}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(c)
		}
	}()
	dir := t.TempDir()
	ca, password := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "password")
	if err := errors.Join(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600), os.WriteFile(password, []byte("secret\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, trusted := range []bool{true, false} {
		cfg := []Config{{Name: "central", To: "mqtts://" + l.Addr().String(), Topics: []string{"*"}, SASL: SASLConfig{User: "gateway", PasswordFile: password}}}
		if trusted {
			cfg[0].TLS.CA = ca
		}
		if err := Check(cfg, ""); err != nil {
			t.Fatal(err)
		}
		to := newMQTTTarget(&cfg[0], "edge", "", 0, nil)
		_, err := to.open(t.Context())
		if trusted {
			if c := b.connects; err != nil || len(c) != 1 || c[0].Username != "gateway" || string(c[0].Password) != "secret" {
				t.Errorf("%v, CONNECT %v", err, c)
			}
		} else if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("a broker that nobody vouches for: %v", err)
		}
		to.close()
	}
}
