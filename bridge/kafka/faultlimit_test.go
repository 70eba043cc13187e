package kafka

import (
	"testing"
	"time"
)

// A consumer that meets a damaged batch asks for it thousands of times a second: the log gets a line and a count.
func TestReadFaultsDoNotFloodTheLog(t *testing.T) {
	var l faultLimit
	start := time.Unix(1_700_000_000, 0)
	lines, counted := 0, int64(0)
	for i := range 25_000 {
		if n, ok := l.allow(start.Add(time.Duration(i) * time.Millisecond)); ok {
			lines++
			counted += n
		}
	}
	if lines != 3 || counted != 19_998 {
		t.Errorf("%d lines, %d counted as left out; want 3 and 19998", lines, counted)
	}
}
