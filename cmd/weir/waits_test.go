package main

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A node that dies while a connection is made hangs up as one does that wants TLS: who has been connected before waits for another, who has not is told.
func TestNodeThatHangsUpIsWaitedForByWhoKnewIt(t *testing.T) {
	answers := func(context.Context) error { return nil }
	gone := func(context.Context) error { return errors.New("nobody is there") }
	for _, c := range []struct {
		been bool
		ping func(context.Context) error
		want bool
	}{{false, answers, false}, {true, answers, true}, {true, gone, false}, {true, nil, true}, {false, nil, false}} {
		var said bytes.Buffer
		w := &waits{g: &Globals{Err: &said, Ctx: t.Context()}, what: "consume t", ping: c.ping}
		if c.been && !w.over(nil) {
			t.Fatal("no error ends the command")
		}
		if got := w.over(&kgo.ErrFirstReadEOF{}); got != c.want || got && said.Len() == 0 {
			t.Errorf("connected before %v, a node answers %v: goes on %v, said %q", c.been, c.ping != nil && c.ping(t.Context()) == nil, got, &said)
		}
	}
}
