//go:build linux

package mqtt

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/session"
)

// TestIdleClientIsSmall keeps the structs of which a node holds one for each idle device in the size classes they
// are in: a field more and every device costs 32 bytes more.
func TestIdleClientIsSmall(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"client":  {unsafe.Sizeof(client{}), 288},
		"session": {unsafe.Sizeof(session.Session{}), 176},
		"conn":    {unsafe.Sizeof(conn.Conn{}), 144},
	} {
		if size[0] > size[1] {
			t.Errorf("%s has %d bytes, want at most %d", name, size[0], size[1])
		}
	}
}

// TestIdleConnectionsAreSmall holds an idle plain TCP connection, its session included, to 1.5 KiB of resident
// memory, 800 bytes of it live objects, and waves of reconnects to what the first wave took. The clients are bare
// descriptors in this process, which cost nothing here.
func TestIdleConnectionsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's shadow memory is not ours")
	}
	const n, limit, heapLimit = 4000, 1536, 800
	r := startRig(t, nil)
	addr := r.srv.Addrs()[0].(*net.TCPAddr)
	var fds []int
	closeFrom := func(first int) {
		for _, fd := range fds[first:] {
			unix.Close(fd)
		}
		fds = fds[:first]
	}
	defer func() { closeFrom(0) }()
	connect := func(i int) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
		sa := &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
		if err := unix.Connect(fd, sa); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("device-%06d", i)
		b := append([]byte{0x10, byte(12 + len(id)), 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, byte(len(id))}, id...)
		if _, err := unix.Write(fd, b); err != nil {
			t.Fatal(err)
		}
		var ack [4]byte
		if _, err := unix.Read(fd, ack[:]); err != nil || ack != [4]byte{0x20, 2, 0, 0} {
			t.Fatalf("CONNACK % x, %v", ack, err)
		}
	}
	for i := range 500 { // pools, stacks and tables of the process itself
		connect(i)
	}
	before, heapBefore := resident(t)
	goroutines := runtime.NumGoroutine()
	var first int64
	for wave := range 3 {
		for i := range n {
			connect(500 + wave*n + i)
		}
		after, heapAfter := resident(t)
		per, heapPer := (after-before)/n, (heapAfter-heapBefore)/n
		t.Logf("wave %d: %d bytes per idle connection, %d in the heap, %d goroutines", wave+1, per, heapPer, runtime.NumGoroutine())
		if per > limit || heapPer > heapLimit {
			t.Errorf("%d bytes per idle connection, %d in the heap, want at most %d and %d", per, heapPer, limit, heapLimit)
		}
		if wave == 0 {
			first = heapPer
		} else if heapPer > first*6/5 {
			t.Errorf("wave %d takes %d bytes of heap per connection, the first took %d", wave+1, heapPer, first)
		}
		if g := runtime.NumGoroutine(); g > goroutines+20 {
			t.Errorf("%d goroutines with %d more connections, had %d", g, n, goroutines)
		}
		closeFrom(500)
		eventually(t, "they are gone", func() bool { return r.srv.Stats().Connections == 500 && r.srv.Stats().Sessions == 500 })
	}
}

// resident returns the process's resident bytes and those of the heap's live objects.
func resident(t *testing.T) (rss, heap int64) {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return pages * int64(os.Getpagesize()), int64(m.HeapAlloc)
}
