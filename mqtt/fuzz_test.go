package mqtt

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/weir-io/weir/mqtt/packet"
)

// FuzzConnection throws bytes at a whole server over TCP, behind a good CONNECT or instead of one. Whatever they
// are: no panic, everything that comes back is a packet, the connection ends with its peer, and another client
// is served all the while.
func FuzzConnection(f *testing.F) {
	v5 := "\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c"
	v3 := "\x10\x0d\x00\x04MQTT\x04\x00\x00\x3c\x00\x01c"
	for _, s := range []string{
		"", v5 + "\xc0\x00", v3 + "\x82\x06\x00\x05\x00\x01a\x01\x32\x05\x00\x01a\x00\x01",
		v5 + "\x34\x06\x00\x01a\x00\x01\x00\x62\x02\x00\x01\x62\x02\x00\x01",
		v5 + "\x82\x0d\x00\x01\x02\x0b\x05\x00\x05$SYS/\x00" + "\xa2\x06\x00\x01\x00\x00\x01a",
		v5 + "\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x01\x32\x09\x00\x01a\x00\x02\x03\x23\x00\x01",
		v5 + "\x31\x05\x00\x01a\x00x\x82\x07\x00\x05\x00\x00\x01a\x02\x50\x02\x00\x01\x70\x02\x00\x01\xe0\x01\x04",
	} {
		f.Add([]byte(s))
	}
	r := startRig(f, func(c *Config) { c.MaxPacket = 1 << 16; c.AckTimeout = time.Second })
	other, _ := r.v5("other", nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.Dial("tcp", r.srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write(b) // may fail: the server closes on the first bad byte
		c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatalf("the connection does not end after % x", b)
		}
		for len(got) > 0 {
			fr, err := packet.Split(got, 0)
			if err == packet.ErrShort {
				break // cut by the end
			}
			if err != nil {
				t.Fatalf("the server sent % x: %v", got, err)
			}
			got = got[fr.Size:]
		}
		other.t = t
		other.quiet()
	})
}
