//go:build linux

package mqtt

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-io/weir/mqtt/packet"
)

// dialSmall connects with a receive buffer of a few KiB.
func dialSmall(t *testing.T, r *rig) *peer {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10) })
		return err
	}}
	c, err := d.Dial("tcp", r.srv.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t: t, c: c, version: packet.V5}
}

// awaitStill returns when both nodes have stopped reading and writing.
func awaitStill(t *testing.T, nodes ...*fakeNode) {
	t.Helper()
	last, still := int64(-1), 0
	eventually(t, "nothing moves any more", func() bool {
		now := int64(0)
		for _, n := range nodes {
			s := n.srv.Stats()
			now += s.BytesIn + s.BytesOut
		}
		if still++; now != last {
			last, still = now, 0
		}
		return still > 100 // looks, a millisecond apart
	})
}

// A passed-on client that does not read fills the link's buffers and no more; its messages wait where its session lives.
func TestSlowReaderBehindAFront(t *testing.T) { // M7
	fc := newFakeCluster(t, 2, true, nil)
	front, owner := fc.nodes[0], fc.nodes[1]
	dev := dialSmall(t, front.rig)
	dev.connect5(fc.idAt(1), lasting(1000))
	dev.subscribe("big", 1)
	const n, size = 1200, 32 << 10
	pub, _ := owner.v5("", nil)
	before, sentBefore := front.srv.Stats(), owner.srv.Stats().BytesOut
	payload := bytes.Repeat([]byte{'x'}, size)
	for i := range n {
		copy(payload, fmt.Sprintf("%06d", i))
		pub.write(packet.AppendPublish(nil, &packet.Publish{Topic: []byte("big"), Payload: payload, QoS: 1, ID: 1}, packet.V5)...)
		pub.expect(0x40, 2, 0, 1)
	}
	awaitStill(t, front, owner)
	after := front.srv.Stats()
	if inside := (after.BytesIn - before.BytesIn) - (after.BytesOut - before.BytesOut); inside > 4*linkBuffer {
		t.Errorf("%d bytes in the front's hands, want at most %d", inside, 4*linkBuffer)
	}
	if sent := owner.srv.Stats().BytesOut - sentBefore; sent > n*size*3/4 {
		t.Errorf("the owner sent %d bytes of %d to a client that does not read", sent, n*size)
	}
	for i := range n {
		m := dev.message()
		if want := fmt.Sprintf("%06d", i); string(m.Payload[:6]) != want || len(m.Payload) != size {
			t.Fatalf("message %q of %d bytes, want %s of %d", m.Payload[:6], len(m.Payload), want, size)
		}
		dev.puback(m.PacketID)
	}
	dev.quiet()
}

// What a client sends reaches its owner whole and in order, also when the owner does not take it for a while, and so does
// what it sends last.
func TestFloodThroughAFront(t *testing.T) {
	fc := newFakeCluster(t, 2, true, nil)
	front := fc.nodes[0]
	dev, _ := front.v5(fc.idAt(1), lasting(1000))
	fc.log.set(errFakeDown, false) // nothing can be appended: publishes stay unread (M8)
	const n, size = 800, 16 << 10
	done := make(chan error, 1)
	go func() {
		payload := bytes.Repeat([]byte{'y'}, size)
		for i := range n {
			copy(payload, fmt.Sprintf("%06d", i))
			b := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("up"), Payload: payload}, packet.V5)
			if _, err := dev.c.Write(b); err != nil {
				done <- err
				return
			}
		}
		_, err := dev.c.Write([]byte{0xe0, 0})
		dev.c.(*net.TCPConn).CloseWrite()
		done <- err
	}()
	awaitStill(t, front, fc.nodes[1])
	if s := front.srv.Stats(); s.BytesIn-s.BytesOut > 4*linkBuffer {
		t.Errorf("%d bytes in the front's hands", s.BytesIn-s.BytesOut)
	}
	fc.log.set(nil, false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client has gone", func() bool { return fc.nodes[1].srv.Stats().Connections == 0 && passed(front) == 0 })
	if got := fc.log.appended("telemetry"); got != n {
		t.Errorf("%d publishes of %d were appended", got, n)
	}
	eventually(t, "all is committed", func() bool { return len(fc.log.records(t, "telemetry")) == n })
	last := ""
	records := fc.log.records(t, "telemetry")
	for i := range records {
		v := string(records[i].Value[:6])
		if v <= last {
			t.Fatalf("%s behind %s", v, last)
		}
		last = v
	}
	if len(records) != n || fc.nodes[1].srv.Stats().ProtocolErrors != 0 {
		t.Errorf("%d records of %d, %d protocol errors", len(records), n, fc.nodes[1].srv.Stats().ProtocolErrors)
	}
}

// TestIdlePassedConnectionsAreSmall says what passing a connection on costs the front, beside what its session costs the
// owner: both ends live in this process.
func TestIdlePassedConnectionsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's shadow memory is not ours")
	}
	const n, heapLimit = 1000, 900
	fc := newFakeCluster(t, 2, true, nil)
	cost := map[int]int64{}
	goroutines := 0
	for _, via := range []int{0, 1, 0, 1} { // the first time round for pools and tables
		addr := fc.nodes[via].srv.Addrs()[0].(*net.TCPAddr)
		_, before := resident(t)
		g := runtime.NumGoroutine()
		var fds []int
		for i := range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
				t.Fatal(err)
			}
			id := fmt.Sprintf("dev%06d", i)
			if fc.leaderOf(PartitionFor([]byte(id), fakePartitions)) != fc.nodes[1] {
				continue
			}
			unix.Write(fd, append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 0, 0, 60, 0, byte(len(id))}, id...))
			var ack [4]byte
			if n, err := unix.Read(fd, ack[:]); n != 4 || err != nil || ack[3] != 0 {
				t.Fatalf("CONNACK % x, %v", ack, err)
			}
		}
		eventually(t, "those that came have gone", func() bool { return runtime.NumGoroutine() <= g+20 })
		_, after := resident(t)
		cost[via] = (after - before) / (n / 2) // about half of the names are the owner's
		goroutines = max(goroutines, runtime.NumGoroutine()-g)
		for _, fd := range fds {
			unix.Close(fd)
		}
		eventually(t, "they are gone", func() bool {
			return fc.nodes[0].srv.Stats().Connections+fc.nodes[1].srv.Stats().Connections == 0
		})
	}
	per := cost[0] - cost[1]
	t.Logf("%d bytes of heap per passed-on connection, %d more goroutines", per, goroutines)
	if per > heapLimit {
		t.Errorf("%d bytes of heap per passed-on connection, want at most %d", per, heapLimit)
	}
}

// A client behind TLS is the same client to its owner, certificate and all.
func TestTLSBehindAFront(t *testing.T) {
	seen := make(chan ClientInfo, 1)
	cert, mine := selfSigned(t), selfSigned(t)
	fc := newFakeCluster(t, 2, true, func(node int, c *Config) {
		if node == 0 {
			c.Listeners[0].TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}
			return
		}
		c.Auth = authFunc(func(info ClientInfo) (Identity, error) {
			seen <- info
			return Identity{ClientID: info.ClientID}, nil
		})
	})
	front := fc.nodes[0]
	c, err := tls.Dial("tcp", front.srv.Addrs()[0].String(), &tls.Config{
		InsecureSkipVerify: true, ServerName: "broker.example", Certificates: []tls.Certificate{mine},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dev := &peer{t: t, c: c, version: packet.V5}
	dev.connect5(fc.idAt(1), lasting(1000))
	info := <-seen
	if info.RemoteAddr != c.LocalAddr().String() {
		t.Errorf("address %q, want %q", info.RemoteAddr, c.LocalAddr())
	}
	if info.TLS == nil || info.TLS.Version != tls.VersionTLS13 || info.TLS.ServerName != "broker.example" || len(info.TLS.PeerCertificates) != 1 ||
		!bytes.Equal(info.TLS.PeerCertificates[0].Raw, mine.Certificate[0]) || info.TLS.VerifiedChains != nil {
		t.Errorf("%+v", info.TLS)
	}
	dev.subscribe("a", 1)
	fc.nodes[1].send("a", "x")
	dev.message()
}
