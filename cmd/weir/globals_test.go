package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestExitCodes(t *testing.T) {
	_, unknownFlag := kong.Must(&struct{}{}).Parse([]string{"--nope"})
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitDone},
		{fmt.Errorf("consume: %w", context.Canceled), exitDone},
		{errors.New("boom"), exitFailed},
		{failf("2 gaps"), exitFailed},
		{fail("list topics", kerr.UnknownTopicOrPartition), exitFailed},
		{usagef("--from x: bad"), exitUsage},
		{fail("consume", usagef("--from x: bad")), exitUsage},
		{unknownFlag, exitUsage},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestErrorsAreOneLineWithAWayOut(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close() // nobody listens there now
	g, _ := testGlobals(t, addr)
	_, err = g.client()
	line := errorLine(err)
	if !strings.Contains(line, addr) || !strings.Contains(line, "weir serve") || strings.Contains(line, "\n") {
		t.Errorf("refused connection says %q", line)
	}
	g.Bootstrap = "no-port"
	if _, err = g.client(); exitCode(err) != exitUsage {
		t.Errorf("--bootstrap without port: %v", err)
	}
	if got := errorLine(errors.New("a\nb")); got != "weir: a b" {
		t.Errorf("errorLine = %q", got)
	}
}

func TestPassingErrors(t *testing.T) {
	_, refused := net.Dial("tcp", "127.0.0.1:1")
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&kgo.ErrGroupSession{Err: fmt.Errorf("unable to dial: %w", refused)}, true},
		{fmt.Errorf("x: %w", kerr.NotCoordinator), true},
		{io.ErrUnexpectedEOF, true},
		{kerr.GroupAuthorizationFailed, false},
		{errors.New("boom"), false},
	} {
		if got := passing(c.err); got != c.want {
			t.Errorf("passing(%v) = %v", c.err, got)
		}
	}
}

func TestTableAligns(t *testing.T) {
	var b bytes.Buffer
	tab := newTable("TOPIC", "RECORDS", "NOTE")
	tab.add("telemetry", 12, "x")
	tab.add("a\x1b[2J", 1234567, "-")
	tab.add("b", "-", "12 MB/s")
	if err := tab.write(&b); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"TOPIC      RECORDS  NOTE\n" +
		"telemetry       12  x\n" +
		"a?[2J      1234567  -\n" +
		"b                -  12 MB/s\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// testGlobals returns Globals as main would fill them in, and the buffer that stdout goes to.
func testGlobals(t *testing.T, bootstrap string) (*Globals, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	return &Globals{Bootstrap: bootstrap, In: strings.NewReader(""), Out: &out, Err: t.Output(), Ctx: t.Context()}, &out
}
