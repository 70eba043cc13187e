package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

func TestOperate(t *testing.T) {
	_, addr := startServer(t, Config{Operate: func(_ context.Context, op string, in []byte) ([]byte, error) {
		switch op {
		case "echo":
			return in, nil
		case "offline":
			return []byte("not told"), fmt.Errorf("of a disk: %w", cluster.ErrOffline)
		}
		return nil, fmt.Errorf("operation %q: %w", op, ErrOperation)
	}})
	c := dialRaw(t, addr)
	for _, in := range []string{"", "{}", strings.Repeat("x", 1<<20)} {
		if got, err := CallOperate(c, "echo", []byte(in)); err != nil || string(got) != in {
			t.Errorf("%d bytes came back as %d: %v", len(in), len(got), err)
		}
	}
	for op, want := range map[string]OperateError{
		"offline": {errKafkaStorageError, "of a disk: partition is offline"},
		"what":    {errInvalidRequest, `operation "what": ` + ErrOperation.Error()},
	} {
		var got *OperateError
		if answer, err := CallOperate(c, op, nil); !errors.As(err, &got) || *got != want || answer != nil {
			t.Errorf("%s: %q, %v", op, answer, err)
		}
	}
	if got := roundTrip[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest()); slices.ContainsFunc(got.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool { return k.ApiKey == keyOperate }) {
		t.Error("other clients are told of it")
	}
	c.sendFrame([]byte{0x7d, 0, 0, 0, 0, 0, 0, 9, 0xff, 0xff, 0, 0x20, 'x'}) // an operation longer than the frame
	c.wantClosed()
}

// An operator proves who he is like anybody else, and a node that has nothing to operate hangs up as on any key that it does not serve.
func TestOperateIsRefused(t *testing.T) {
	called := false
	operate := func(context.Context, string, []byte) ([]byte, error) { called = true; return nil, nil }
	for name, cfg := range map[string]Config{
		"before authentication": {Auth: onePassword{"u", "p"}, Operate: operate, Logger: quiet},
		"not served":            {Logger: quiet},
	} {
		_, addr := startServer(t, cfg)
		c := dialRaw(t, addr)
		if answer, err := CallOperate(c, "echo", nil); err == nil || called {
			t.Errorf("%s: %q, %v, called %v", name, answer, err, called)
		}
	}
	_, addr := startServer(t, Config{Auth: onePassword{"u", "p"}, Operate: operate})
	c := dialRaw(t, addr)
	roundTrip[*kmsg.SASLHandshakeResponse](c, handshake(1, "PLAIN"))
	roundTrip[*kmsg.SASLAuthenticateResponse](c, authenticate(2, "\x00u\x00p"))
	if _, err := CallOperate(c, "echo", nil); err != nil || !called {
		t.Errorf("after authentication: %v, called %v", err, called)
	}
}
