package uplink

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Options.Logger names the uplink: no line does so again.
func TestLogNamesTheUplinkOnce(t *testing.T) {
	s := newScene()
	s.log.grow(s.rng)
	var said bytes.Buffer
	f := New(Options{Config: Config{Name: "central", Topics: []string{"telemetry"}}, Logger: slog.New(slog.NewJSONHandler(&said, nil)).With("uplink", "central")})
	f.added(s.log)
	f.failed(errors.New("refused"))
	f.warned("two gateways")
	f.block(f.parts[s.log.id], time.Now(), errors.New("unreadable"))
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	if len(lines) != 3 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if n := strings.Count(line, `"uplink":`); n != 1 {
			t.Errorf("it is named %d times: %s", n, line)
		}
	}
}
