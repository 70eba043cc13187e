package mqtt

import (
	"testing"
	"time"
)

// All that wait are looked at when one of them may go on or has waited long enough, and not all the time.
func TestGateLooksSeldom(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		pause time.Time
		want  time.Duration
	}{
		{time.Time{}, gateRetry},
		{now, gateRetry},
		{now.Add(-time.Hour), gateRetry},
		{now.Add(time.Millisecond), gateSoon},
		{now.Add(100 * time.Millisecond), 100 * time.Millisecond},
		{now.Add(time.Hour), gateRetry},
	} {
		if got := (&gate{pause: c.pause}).lookIn(now); got != c.want {
			t.Errorf("pause for %v: it looks in %v, want %v", c.pause.Sub(now), got, c.want)
		}
	}
}
