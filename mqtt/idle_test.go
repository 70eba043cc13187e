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

	"golang.org/x/sys/unix"
)

// TestIdleConnectionsAreSmall holds an idle plain TCP connection, its session included, to 1.5 KiB of resident
// memory. The clients are bare descriptors in this process, which cost nothing here.
func TestIdleConnectionsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's shadow memory is not ours")
	}
	const n, limit = 4000, 1536
	r := startRig(t, nil)
	addr := r.srv.Addrs()[0].(*net.TCPAddr)
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
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
	before := resident(t)
	goroutines := runtime.NumGoroutine()
	for i := 500; i < 500+n; i++ {
		connect(i)
	}
	after := resident(t)
	per := (after - before) / n
	t.Logf("%d bytes per idle connection, %d goroutines", per, runtime.NumGoroutine())
	if per > limit {
		t.Errorf("%d bytes per idle connection, want at most %d", per, limit)
	}
	if g := runtime.NumGoroutine(); g > goroutines+20 {
		t.Errorf("%d goroutines with %d more connections, had %d", g, n, goroutines)
	}
}

func resident(t *testing.T) int64 {
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
	return pages * int64(os.Getpagesize())
}
