package door

import (
	"errors"
	"net"
	"testing"
)

// serve takes connections and closes them; ended gets what Serve returns.
func serve(d *Door) (ended chan error) {
	ended = make(chan error, 1)
	go func() {
		ended <- d.Serve(func(ln net.Listener) error {
			for {
				c, err := ln.Accept()
				if errors.Is(err, net.ErrClosed) {
					return nil
				}
				if err != nil {
					return err
				}
				c.Close()
			}
		})
	}()
	return ended
}

func reachable(d *Door) bool {
	c, err := net.Dial("tcp", d.Addr().String())
	if err != nil {
		return false
	}
	defer c.Close()
	_, _ = c.Read(make([]byte, 1))
	return true
}

// While it is shut the system refuses connections; open again, it has its address back.
func TestShutAndOpen(t *testing.T) {
	d, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := serve(d)
	for range 3 {
		if !reachable(d) {
			t.Fatal("an open door refuses")
		}
		d.Shut()
		d.Shut()
		if reachable(d) {
			t.Fatal("a shut door takes connections")
		}
		d.Open()
		d.Open()
		for deadline := 0; !reachable(d); deadline++ {
			if deadline > 100000 {
				t.Fatal("it does not open")
			}
		}
	}
	d.Shut()
	_ = d.Close()
	d.Open()
	_ = d.Close()
	if err := <-ended; err != nil || reachable(d) {
		t.Errorf("after Close: %v", err)
	}
}

// An address that somebody else has taken meanwhile is waited for.
func TestAddressIsTaken(t *testing.T) {
	d, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := serve(d)
	d.Shut()
	other, err := net.Listen("tcp", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d.Open()
	if d.bind() {
		t.Error("two listeners have the address")
	}
	other.Close()
	for deadline := 0; !reachable(d); deadline++ {
		if deadline > 1000000 {
			t.Fatal("it does not open")
		}
	}
	_ = d.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
