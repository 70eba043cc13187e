//go:build !linux

package cluster

import "time"

// sinceBoot is not to be had here; Go's monotonic clock may stand still while the machine sleeps.
func sinceBoot() (time.Duration, bool) { return 0, false }
