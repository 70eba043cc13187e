package conn

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

const (
	streamReadBuffer = 4 << 10
	streamOutLimit   = 64 << 10
	streamLastWrite  = 2 * time.Second // how long bytes may still take to leave after the connection ended
)

// stream joins a blocking net.Conn to the actor: the reader shows one buffer at a time, the writer sends what
// the actor left. Both end when the net.Conn is closed.
type stream struct {
	c     *Conn
	nc    net.Conn
	setup func(net.Conn) (net.Conn, error) // handshake, run by the reader; nil for none

	mu      sync.Mutex
	in      []byte
	inErr   error
	out     []byte
	outErr  error
	closing bool

	taken chan struct{} // the actor has taken in
	kick  chan struct{} // out has bytes, or closing
}

func newStream(c *Conn, nc net.Conn, setup func(net.Conn) (net.Conn, error)) *stream {
	return &stream{c: c, nc: nc, setup: setup, taken: make(chan struct{}, 1), kick: make(chan struct{}, 1)}
}

func (s *stream) tlsState() *tls.ConnectionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := t.ConnectionState()
		return &state
	}
	return nil
}

func (s *stream) readLoop() {
	if s.setup != nil {
		nc, err := s.setup(s.nc)
		s.mu.Lock()
		if err != nil {
			s.inErr = err
			s.mu.Unlock()
			s.c.set(bitReadable)
			return
		}
		s.nc = nc
		s.mu.Unlock()
	}
	buf := make([]byte, streamReadBuffer)
	for {
		n, err := s.nc.Read(buf)
		s.mu.Lock()
		s.in, s.inErr = buf[:n], err
		closing := s.closing
		s.mu.Unlock()
		s.c.set(bitReadable)
		if err != nil || closing {
			return
		}
		if n > 0 {
			<-s.taken
		}
	}
}

func (s *stream) writeLoop() {
	var batch []byte
	for range s.kick {
		for {
			s.mu.Lock()
			batch, s.out = s.out, batch[:0]
			closing, nc := s.closing, s.nc
			s.mu.Unlock()
			if len(batch) == 0 {
				if closing {
					nc.Close()
					return
				}
				break
			}
			s.send(nc, batch)
		}
	}
}

func (s *stream) send(nc net.Conn, b []byte) {
	_, err := nc.Write(b)
	if err != nil {
		s.mu.Lock()
		s.outErr = err
		s.mu.Unlock()
	}
	s.c.set(bitWritable)
}

func (s *stream) read(buf []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.in) > 0 {
		n := copy(buf, s.in)
		if s.in = s.in[n:]; len(s.in) == 0 {
			wakeup(s.taken)
		}
		return n, nil
	}
	if s.inErr != nil {
		return 0, s.inErr
	}
	return 0, errAgain
}

func (s *stream) write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outErr != nil {
		return 0, s.outErr
	}
	n := min(len(b), streamOutLimit-len(s.out))
	s.out = append(s.out, b[:n]...)
	wakeup(s.kick)
	if n < len(b) {
		return n, errAgain
	}
	return n, nil
}

// close lets the writer send what it has and close the net.Conn. The write deadline bounds that.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.in = nil
	now := time.Now()
	s.nc.SetReadDeadline(now)                       //nolint:errcheck // Close follows in any case
	s.nc.SetWriteDeadline(now.Add(streamLastWrite)) //nolint:errcheck // likewise
	if s.inErr == nil {
		s.inErr = io.EOF
	}
	wakeup(s.taken)
	wakeup(s.kick)
}

func wakeup(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
