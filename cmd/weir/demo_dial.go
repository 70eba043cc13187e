package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// dialWithin bounds one attempt: on loopback a node answers at once or is in trouble.
const dialWithin = time.Second

// dial spreads the devices over the nodes: each connection begins with the next node and goes on to another when that
// does not answer. A device whose node has died comes back at one that lives.
func (s *demoSite) dial(ctx context.Context) (net.Conn, error) {
	at := s.dials.Add(1) - 1
	var first error
	d := net.Dialer{Timeout: dialWithin}
	for i := range uint64(len(s.nodes)) {
		n := s.nodes[(at+i)%uint64(len(s.nodes))]
		conn, err := d.DialContext(ctx, "tcp", n.listen.mqtt)
		if err == nil {
			n.devices.Add(1)
			return &demoConn{Conn: conn, devices: &n.devices}, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// demoConn counts a device while it is connected.
type demoConn struct {
	net.Conn
	devices *atomic.Int64
	closed  sync.Once
}

func (c *demoConn) Close() error {
	c.closed.Do(func() { c.devices.Add(-1) })
	return c.Conn.Close()
}
