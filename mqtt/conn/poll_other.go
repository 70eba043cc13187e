//go:build !linux

package conn

import "net"

// poller has nothing to do where every connection is a stream.
type poller struct{}

func (*poller) close() {}

func (c *Conn) sockRead(b []byte) (int, error)  { return c.stream.read(b) }
func (c *Conn) sockWrite(b []byte) (int, error) { return c.stream.write(b) }
func (c *Conn) sockClose()                      { c.stream.close() }

// CanEndOutput says whether EndOutput does anything.
func (c *Conn) CanEndOutput() bool { return false }

// EndOutput does nothing here.
func (c *Conn) EndOutput() {}

func fdRemoteAddr(int) string { return "" }

func (l *Loop) acceptPlain(ln *net.TCPListener, accept func(*Conn)) error {
	return l.acceptStreams(ln, nil, accept)
}

func (l *Loop) addMade(nc net.Conn, accept func(*Conn)) error {
	l.addStream(nc, nil, accept)
	return nil
}
