package packet

import (
	"bytes"
	"testing"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func seeds(f *testing.F) {
	for i := range samples[:2] {
		f.Add(AppendPublish(nil, &samples[i], V5))
	}
	f.Add(AppendPublish(nil, &samples[3], V5))
	f.Add(AppendAck(nil, PUBREC, 7, NoMatchingSubscribers, V5))
	f.Add(fullConnect())
	f.Add([]byte("\x82\x0f\x00\x01\x02\x0b\x05\x00\x03a/b\x2d\x00\x01c\x02"))
	f.Add([]byte("\xa2\x08\x00\x01\x00\x00\x03a/b"))
	f.Add([]byte("\xe0\x07\x04\x05\x11\x00\x00\x00\x09"))
	f.Add([]byte("\xf0\x0a\x18\x08\x15\x00\x01m\x16\x00\x01d"))
}

// FuzzSplit: no panic, never more consumed than there is, and the same answer byte by byte: a packet that is
// refused early is refused whole, one that is taken is taken at its last byte and not before.
func FuzzSplit(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 16
		whole, err := Split(b, limit)
		if err == nil && (whole.Size > len(b) || whole.Size < len(whole.Body)+2 || whole.Size > limit) {
			t.Fatalf("size %d, body %d, of %d", whole.Size, len(whole.Body), len(b))
		}
		for n := range min(len(b), 64) {
			switch _, e := Split(b[:n], limit); {
			case e == ErrShort:
			case e == nil && (err != nil || whole.Size > n):
				t.Fatalf("taken at %d bytes, whole says %v, size %d", n, err, whole.Size)
			case e != nil && err == nil:
				t.Fatalf("refused at %d bytes (%v), taken whole", n, e)
			}
		}
	})
}

// FuzzDecode: no decoder panics, and what PUBLISH and acks decode to encodes to something that decodes to the
// same.
func FuzzDecode(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := Split(b, 1<<20)
		if err != nil {
			return
		}
		for _, version := range []byte{V311, V5} {
			if decodeAny(fr, version) != nil {
				continue
			}
			switch fr.Type() {
			case PUBLISH:
				var first, second Publish
				if err := first.Decode(fr, version); err != nil {
					t.Fatal(err)
				}
				if err := second.Decode(mustSplit(t, AppendPublish(nil, &first, version)), version); err != nil {
					t.Fatalf("% x: %v", b, err)
				}
				if d := cmp.Diff(first, second, cmpopts.EquateEmpty()); d != "" {
					t.Fatal(d)
				}
			case PUBACK, PUBREC, PUBREL, PUBCOMP:
				a, _ := DecodeAck(fr, version)
				if again, err := DecodeAck(mustSplit(t, AppendAck(nil, a.Type, a.ID, a.Reason, version)), version); err != nil || again != a {
					t.Fatalf("%v became %v, %v", a, again, err)
				}
			}
		}
	})
}

// FuzzAgainstPaho: what we take, a second codec takes too and reads the same way. The reverse does not hold:
// paho is lenient.
func FuzzAgainstPaho(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := Split(b, 1<<16)
		if err != nil || decodeAny(fr, V5) != nil {
			return
		}
		switch fr.Type() {
		case CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE:
		default:
			return
		}
		if fr.Type() == CONNECT && fr.Body[6] != V5 {
			return
		}
		cp, err := packets.ReadPacket(bytes.NewReader(b[:fr.Size]))
		if err != nil {
			t.Fatalf("% x: we take it, paho says %v", b[:fr.Size], err)
		}
		switch c := cp.Content.(type) {
		case *packets.Publish:
			var p Publish
			if err := p.Decode(fr, V5); err != nil {
				t.Fatal(err)
			}
			if c.Topic != string(p.Topic) || !bytes.Equal(c.Payload, p.Payload) || c.PacketID != p.ID || len(c.Properties.User) != len(p.User) {
				t.Fatalf("we read %+v, paho %+v", p, c)
			}
		case *packets.Connect:
			p, _ := DecodeConnect(fr)
			if c.ClientID != p.ClientID || c.CleanStart != p.CleanStart || c.KeepAlive != p.KeepAlive || c.WillFlag != (p.Will != nil) {
				t.Fatalf("we read %+v, paho %+v", p, c)
			}
		case *packets.Subscribe:
			p, _ := DecodeSubscribe(fr, V5)
			if c.PacketID != p.PacketID || len(c.Subscriptions) != len(p.Filters) {
				t.Fatalf("we read %+v, paho %+v", p, c)
			}
		}
	})
}
