package conn

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller is one epoll set. Its own descriptor sits in the Go runtime's poller, so that waiting for it parks a
// goroutine and not a thread.
type poller struct {
	once    sync.Once
	openErr error

	file *os.File
	raw  syscall.RawConn
	epfd int

	mu    sync.Mutex
	conns []*Conn  // by descriptor
	gens  []uint32 // by descriptor; an event of an older generation is a closed connection's
}

func (p *poller) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	p.file, p.epfd = os.NewFile(uintptr(fd), "epoll"), fd
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return err
	}
	return nil
}

// start opens the set and runs it, once.
func (p *poller) start(l *Loop) error {
	p.once.Do(func() {
		if p.openErr = p.open(); p.openErr == nil {
			l.start(p.run)
		}
	})
	return p.openErr
}

func (p *poller) close() {
	if p.file != nil {
		p.file.Close()
	}
}

// run hands every event to its connection until the set is closed.
func (p *poller) run() {
	var events [256]unix.EpollEvent
	n := 0
	wait := func(fd uintptr) bool {
		var err error
		n, err = unix.EpollWait(int(fd), events[:], 0)
		return n > 0 || err != nil && err != unix.EINTR
	}
	var ready [256]*Conn
	var bits [256]uint32
	for {
		if err := p.raw.Read(wait); err != nil || n < 0 {
			return
		}
		p.mu.Lock()
		k := 0
		for _, ev := range events[:n] {
			if fd := int(ev.Fd); fd < len(p.conns) && p.conns[fd] != nil && p.gens[fd] == uint32(ev.Pad) {
				ready[k], bits[k] = p.conns[fd], eventBits(ev.Events)
				k++
			}
		}
		p.mu.Unlock()
		for i := range k {
			ready[i].set(bits[i])
			ready[i] = nil
		}
	}
}

func eventBits(ev uint32) (bits uint32) {
	if ev&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		bits |= bitReadable
	}
	if ev&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		bits |= bitHangup
	}
	if ev&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		bits |= bitWritable
	}
	return bits
}

func (p *poller) add(c *Conn) error {
	fd := int(c.fd)
	p.mu.Lock()
	for len(p.conns) <= fd {
		p.conns = append(p.conns, nil)
		p.gens = append(p.gens, 0)
	}
	p.gens[fd]++
	p.conns[fd] = c
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: c.fd, Pad: int32(p.gens[fd])}
	p.mu.Unlock()
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		p.drop(fd)
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

func (p *poller) drop(fd int) {
	p.mu.Lock()
	p.conns[fd] = nil
	p.mu.Unlock()
}

func (c *Conn) sockRead(b []byte) (int, error) {
	if c.stream != nil {
		return c.stream.read(b)
	}
	for {
		switch n, err := unix.Read(int(c.fd), b); {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, errAgain
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (c *Conn) sockWrite(b []byte) (int, error) {
	if c.stream != nil {
		return c.stream.write(b)
	}
	for {
		switch n, err := unix.Write(int(c.fd), b); {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, errAgain
		case err != nil:
			return 0, os.NewSyscallError("write", err)
		default:
			return n, nil
		}
	}
}

// sockClose lets what was written arrive: a close with unread input makes the kernel reset the connection,
// and the peer would lose the DISCONNECT that says why.
func (c *Conn) sockClose() {
	if c.stream != nil {
		c.stream.close()
		return
	}
	fd := int(c.fd)
	unix.Shutdown(fd, unix.SHUT_WR) //nolint:errcheck // close follows
	var sink [4096]byte
	for range 32 {
		if n, err := unix.Read(fd, sink[:]); n <= 0 || err != nil {
			break
		}
	}
	c.loop.poll.drop(fd)
	unix.Close(fd)
	c.fd = -1
}

// CanEndOutput says whether EndOutput does anything.
func (c *Conn) CanEndOutput() bool { return c.stream == nil }

// EndOutput tells the peer that nothing follows what was written; its own output still comes. From within a handler call only.
func (c *Conn) EndOutput() {
	if c.stream == nil && c.fd >= 0 {
		unix.Shutdown(int(c.fd), unix.SHUT_WR) //nolint:errcheck // a connection that is gone shows when it is read
	}
}

func fdRemoteAddr(fd int) string {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return ""
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)).String()
	}
	return ""
}

// acceptPlain takes each connection's descriptor away from the runtime's poller, which would hold memory for
// it. It returns when the listener is closed.
func (l *Loop) acceptPlain(ln *net.TCPListener, accept func(*Conn)) error {
	if err := l.poll.start(l); err != nil {
		return err
	}
	for {
		nc, err := ln.AcceptTCP()
		if err != nil {
			if err := l.acceptFailed(err, errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)); err != nil {
				return err
			}
			continue
		}
		fd, err := takeFD(nc)
		if err != nil {
			if err := l.acceptFailed(err, true); err != nil {
				return err
			}
			continue
		}
		l.addFD(fd, accept)
	}
}

func (l *Loop) addFD(fd int, accept func(*Conn)) {
	c := &Conn{loop: l, fd: int32(fd)}
	accept(c)
	if c.h == nil || !l.add(c) {
		unix.Close(fd)
		return
	}
	if err := l.poll.add(c); err != nil {
		c.Close(err)
	}
	c.Wake() // arms the deadline that the handler asked for
}

// addMade adds a connection that no listener of ours accepted.
func (l *Loop) addMade(nc net.Conn, accept func(*Conn)) error {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		l.addStream(nc, nil, accept)
		return nil
	}
	if err := l.poll.start(l); err != nil {
		nc.Close()
		return err
	}
	fd, err := takeFD(tcp)
	if err != nil {
		return err
	}
	l.addFD(fd, accept)
	return nil
}

// takeFD duplicates the descriptor, which stays non-blocking, and closes the net.Conn around the original.
func takeFD(nc *net.TCPConn) (int, error) {
	defer nc.Close()
	raw, err := nc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(orig uintptr) {
		fd, dupErr = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("fcntl", dupErr)
}
