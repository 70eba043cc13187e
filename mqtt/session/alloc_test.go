package session

import (
	"encoding/binary"
	"testing"

	"github.com/weir-io/weir/mqtt/packet"
)

// A window that fills and empties again and again takes its memory from what others gave back.
func TestBurstsLeaveNoGarbage(t *testing.T) {
	s := New(quiet{}, &Limits{MaxInflight: 1024, OutputMax: 1 << 20}, 1)
	s.Connected(&packet.Connect{Version: packet.V311, CleanStart: true}, false, "")
	frame := packet.AppendPublish(nil, &packet.Publish{Topic: []byte("t"), Payload: []byte("x"), QoS: 1, ID: 1}, packet.V311)
	d := Delivery{Frame: frame, IDAt: 5, QoS: 1}
	ids := make([]uint16, 0, 200)
	burst := func() {
		ids = ids[:0]
		s.Out = s.Out[:0]
		for range cap(ids) {
			at := len(s.Out)
			if !s.Deliver(&d) {
				t.Fatal("no room")
			}
			ids = append(ids, binary.BigEndian.Uint16(s.Out[at+d.IDAt:]))
		}
		for _, id := range ids {
			if err := s.Ack(packet.Ack{Type: packet.PUBACK, ID: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	burst()
	if n := testing.AllocsPerRun(100, burst); n >= 5 { // under the race detector pools forget at random
		t.Errorf("%.1f allocations for a burst of %d messages", n, cap(ids))
	}
}

type quiet struct{}

func (quiet) Append(uint64, *packet.Publish) Verdict { return Verdict{} }
func (quiet) Release(uint16, uint64)                 {}
func (quiet) Received(uint16, Ref)                   {}
func (quiet) Done(uint16, byte, Ref, any)            {}
func (quiet) Ready()                                 {}
