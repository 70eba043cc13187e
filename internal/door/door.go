// Package door is a TCP listener that can be shut for a while. Whoever connects meanwhile is refused by the system itself, which is what makes clients with
// several addresses try the next one: a connection that is taken and then ended keeps many of them at the first.
package door

import (
	"net"
	"sync"
	"time"
)

// again is between two tries to have the address back.
const again = time.Second

// Door is one address. All methods may be called concurrently.
type Door struct {
	addr net.Addr

	mu      sync.Mutex
	ln      net.Listener // nil while it is shut
	shut    bool
	closed  bool
	changed chan struct{} // closed and replaced when one of them changes
}

// Listen binds a TCP address.
func Listen(addr string) (*Door, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Door{addr: ln.Addr(), ln: ln, changed: make(chan struct{})}, nil
}

// Addr is the address, which stays the same.
func (d *Door) Addr() net.Addr { return d.addr }

// Serve calls accept with a listener, again with another one each time that the door was shut and is open, until Close, or accept fails. accept returns nil when
// its listener is closed. Only one Serve may run.
func (d *Door) Serve(accept func(net.Listener) error) error {
	for {
		ln := d.await()
		if ln == nil {
			return nil
		}
		if err := accept(ln); err != nil {
			return err
		}
	}
}

// await answers the listener once there is one, nil after Close.
func (d *Door) await() net.Listener {
	for {
		d.mu.Lock()
		ln, closed, shut, changed := d.ln, d.closed, d.shut, d.changed
		d.mu.Unlock()
		switch {
		case closed:
			return nil
		case ln != nil:
			return ln
		}
		var retry <-chan time.Time
		if !shut {
			if d.bind() {
				continue
			}
			retry = time.After(again) // somebody else has the address for now
		}
		select {
		case <-changed:
		case <-retry:
		}
	}
}

func (d *Door) bind() bool {
	ln, err := net.Listen(d.addr.Network(), d.addr.String())
	if err != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut || d.closed {
		ln.Close()
	} else {
		d.ln = ln
	}
	return true
}

// Shut has new connections refused until Open. Those that were taken stay.
func (d *Door) Shut() { d.set(true, false) }

// Open takes connections again, as soon as the address can be had.
func (d *Door) Open() { d.set(false, false) }

// Close ends Serve. It may be called more than once.
func (d *Door) Close() error {
	d.set(true, true)
	return nil
}

func (d *Door) set(shut, closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut, d.closed = shut, d.closed || closed
	if d.shut && d.ln != nil {
		d.ln.Close()
		d.ln = nil
	}
	close(d.changed)
	d.changed = make(chan struct{})
}
