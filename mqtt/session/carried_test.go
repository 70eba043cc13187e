package session

import (
	"testing"

	"github.com/weir-io/weir/mqtt/packet"
)

// A client keeps to what it was granted: a node that grants less does not go on with its connection, and changes nothing.
func TestResumedWantsWhatWasGranted(t *testing.T) {
	limits := Limits{MaxPacket: 1000, ReceiveMaximum: 10, AliasMaximum: 2, AliasOut: 4, MaxInflight: 5, OutputMax: 1000}
	good := Carried{Version: packet.V5, ReceiveMaximum: 3, AliasMaximum: 9, Aliases: [][]byte{nil, []byte("t")}, Granted: limits.granted()}
	for name, c := range map[string]struct {
		change func(*Carried)
		ok     bool
	}{
		"as here":             {func(*Carried) {}, true},
		"less":                {func(c *Carried) { c.Granted = Granted{1, 1, 0} }, true},
		"larger packets":      {func(c *Carried) { c.Granted.MaxPacket++ }, false},
		"more publishes":      {func(c *Carried) { c.Granted.ReceiveMaximum++ }, false},
		"more aliases":        {func(c *Carried) { c.Granted.AliasMaximum++ }, false},
		"more aliases in use": {func(c *Carried) { c.Aliases = make([][]byte, 3) }, false},
		"no such version":     {func(c *Carried) { c.Version = 6 }, false},
	} {
		s, carried := New(nil, &limits, 1), good
		c.change(&carried)
		if got := s.Resumed(carried); got != c.ok || s.Online() != c.ok {
			t.Errorf("%s: %v, online %v", name, got, s.Online())
		}
		if !c.ok {
			continue
		}
		if back := s.Carry(); back.ReceiveMaximum != 3 || back.AliasMaximum != 4 || len(back.Aliases) != 2 || len(s.Out) > 0 || !s.Settled() {
			t.Errorf("%s: %+v, % x written", name, back, s.Out)
		}
	}
}
