package log

import (
	"math"
	"slices"
	"testing"
	"time"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// hoursOld makes a segment of 10 offsets and 100 bytes, last appended to so many hours before noon.
func hoursOld(base Offset, hours float64) segmentFacts {
	return segmentFacts{base: base, next: base + 10, size: 100, lastAppend: noon.Add(-time.Duration(hours * float64(time.Hour))), trusted: true}
}

func TestRetention(t *testing.T) {
	three := func() []segmentFacts { return []segmentFacts{hoursOld(0, 5), hoursOld(10, 3), hoursOld(20, 1)} }
	untrusted := three()
	untrusted[1].trusted = false
	unknown := three()
	unknown[0].lastAppend = time.Time{}
	clock1970 := three()
	for i := range clock1970 {
		clock1970[i].lastAppend = time.UnixMilli(0)
		clock1970[i].trusted = false
	}
	const forever = -1
	tests := []struct {
		name      string
		policy    retention
		segs      []segmentFacts
		active    int64
		logStart  Offset
		limit     Offset
		clockLies bool
		want      int
		why       retentionReason
	}{
		{name: "for ever", policy: retention{age: forever}, segs: three(), limit: 30},
		{name: "by age", policy: retention{age: 2 * time.Hour}, segs: three(), limit: 30, want: 2, why: retentionByAge},
		{name: "age of exactly the limit stays", policy: retention{age: 5 * time.Hour}, segs: three(), limit: 30},
		{name: "age zero", policy: retention{age: 0}, segs: three(), limit: 30, want: 3, why: retentionByAge},
		{name: "clock not trusted now", policy: retention{age: time.Hour}, segs: three(), limit: 30, clockLies: true},
		{name: "clock not trusted then", policy: retention{age: time.Minute}, segs: untrusted, limit: 30, want: 1, why: retentionByAge},
		{name: "stamp not known", policy: retention{age: time.Minute}, segs: unknown, limit: 30},
		{name: "fresh data of 1970", policy: retention{age: time.Minute}, segs: clock1970, limit: 30},
		{name: "below high watermark only", policy: retention{age: time.Minute}, segs: three(), limit: 19, want: 1, why: retentionByAge},
		{name: "nothing committed", policy: retention{age: time.Minute, bytes: 1}, segs: three(), limit: 0},
		{name: "by size", policy: retention{age: forever, bytes: 150}, segs: three(), active: 50, limit: 30, want: 2, why: retentionBySize},
		{name: "size is kept, not just met", policy: retention{age: forever, bytes: 151}, segs: three(), active: 50, limit: 30, want: 1, why: retentionBySize},
		{name: "active alone over size", policy: retention{age: forever, bytes: 10}, segs: three(), active: 500, limit: 30, want: 3, why: retentionBySize},
		{name: "size needs no clock", policy: retention{age: forever, bytes: 150}, segs: clock1970, limit: 30, clockLies: true, want: 1, why: retentionBySize},
		{name: "below log start", policy: retention{age: forever}, segs: three(), logStart: 20, limit: 30, want: 2, why: belowLogStart},
		{name: "log start inside a segment", policy: retention{age: forever}, segs: three(), logStart: 19, limit: 30, want: 1, why: belowLogStart},
		{name: "log start past the limit", policy: retention{age: forever}, segs: three(), logStart: 20, limit: 0, want: 2, why: belowLogStart},
		{name: "log start, then age", policy: retention{age: 2 * time.Hour}, segs: three(), logStart: 10, limit: 30, want: 2, why: retentionByAge},
		{name: "no segments", policy: retention{age: 0, bytes: 1}, limit: math.MaxInt64},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, why := tt.policy.expired(tt.segs, tt.active, tt.logStart, tt.limit, noon, !tt.clockLies)
			if n != tt.want || why != tt.why {
				t.Errorf("%d segments go (%q), want %d (%q)", n, why, tt.want, tt.why)
			}
		})
	}
}

func TestRollExpired(t *testing.T) {
	p := retention{age: 2 * time.Hour}
	if !p.rollExpired(hoursOld(0, 3), noon, true) {
		t.Error("an old active segment must be closed")
	}
	if p.rollExpired(hoursOld(0, 1), noon, true) || p.rollExpired(hoursOld(0, 3), noon, false) {
		t.Error("closed although fresh, or by a clock not trusted")
	}
	empty := hoursOld(0, 3)
	empty.size = 0
	if p.rollExpired(empty, noon, true) {
		t.Error("an empty segment needs no roll")
	}
}

func TestReclaim(t *testing.T) {
	parts := []reclaimable{
		{closed: []segmentFacts{hoursOld(0, 9), hoursOld(10, 2)}, limit: 20},
		{closed: []segmentFacts{hoursOld(0, 20)}, limit: 10, keep: true},
		{closed: []segmentFacts{hoursOld(0, 7), hoursOld(10, 6), hoursOld(20, 5)}, limit: 20},
		{closed: []segmentFacts{{next: 10, size: 1000}}, limit: 10}, // age not known
	}
	tests := []struct {
		need, freed int64
		want        []int
	}{
		{0, 0, []int{0, 0, 0, 0}},
		{1, 100, []int{1, 0, 0, 0}},
		{250, 300, []int{1, 0, 2, 0}},
		{350, 400, []int{2, 0, 2, 0}},
		{450, 1400, []int{2, 0, 2, 1}},
		{9999, 1400, []int{2, 0, 2, 1}}, // never past the limit, never what must be kept
	}
	for _, tt := range tests {
		if goes, freed := reclaim(parts, tt.need); freed != tt.freed || !slices.Equal(goes, tt.want) {
			t.Errorf("need %d: %v frees %d, want %v, %d", tt.need, goes, freed, tt.want, tt.freed)
		}
	}
}
